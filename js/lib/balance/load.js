'use strict';

// The load and health of one member, by which balancing decides. Times are milliseconds of one
// clock, given as arguments.

const { Latency } = require('./latency');

const FAILURES = 5; // calls that fail in a row before a member is ejected
const FIRST_EJECTION_MS = 1000; // how long the first ejection lasts; each lasts twice as long as the one before
const MAX_EJECTION_MS = 30_000; // the longest: then one call tests the member
const SLOW_START_MS = 3000; // a process that has just started is slow
const MIN_SLOW_START_SHARE = 0.1; // from which the share grows meanwhile
const IDLE_TURN_MS = 100; // a member in slow start without a call for so long takes its turn
const CLEARLY_SLOWER = 2; // times as long as the other one's usual answers: less is noise
const MIN_DIFFERENCE_US = 500; // and more than this: less is noise, and callers do not notice it

class Load {
  inFlight = 0;
  latency = new Latency();
  #failures = 0; // in a row
  #ejectedUntil = -Infinity; // -Infinity: not ejected since its last sign of life
  #connected = -Infinity;
  #ejection = FIRST_EJECTION_MS; // how long the next one lasts

  // A call begins. After an ejection this call tests the member, and others go elsewhere meanwhile.
  begin(now) {
    this.inFlight++;
    if (this.#ejectedUntil > -Infinity) this.#eject(now, FIRST_EJECTION_MS);
  }

  end() {
    this.inFlight--;
  }

  recordAnswer(now, tookMs) {
    this.latency.record(now, tookMs);
    this.reset();
  }

  // A call was lost: several in a row eject the member. Returns whether it was ejected for it.
  recordFailure(now) {
    if (++this.#failures < FAILURES) return false;
    const time = this.#ejection;
    this.#ejection = Math.min(time * 2, MAX_EJECTION_MS);
    this.#failures = 0;
    this.#eject(now, time);
    return true;
  }

  // A call timed out: one is enough to eject the member for a moment.
  recordTimeout(now) {
    if (!this.recordFailure(now)) this.#eject(now, FIRST_EJECTION_MS);
  }

  // A new connection: slow start begins.
  connected(now) {
    this.#connected = now;
    this.reset();
  }

  // A sign of life: earlier failures no longer count.
  reset() {
    this.#failures = 0;
    this.#ejectedUntil = -Infinity;
    this.#ejection = FIRST_EJECTION_MS;
  }

  isEjected(now) {
    return this.#ejectedUntil > now;
  }

  // Whether the member gets fewer calls than others.
  isStarting(now) {
    return this.#slowStartShare(now) < 1;
  }

  // Whether a member in slow start takes a call, rather than `other`. `sample`: from 0 to 1.
  winsSlowStart(other, now, sample) {
    const isIdle = this.inFlight === 0 && this.latency.quietMs(now) >= IDLE_TURN_MS;
    return isIdle || sample < this.#slowStartShare(now) / other.#slowStartShare(now);
  }

  #slowStartShare(now) {
    const age = Math.max(now - this.#connected, 0);
    return age >= SLOW_START_MS ? 1 : Math.max(age / SLOW_START_MS, MIN_SLOW_START_SHARE);
  }

  #eject(now, time) {
    this.#ejectedUntil = Math.max(this.#ejectedUntil, now + time);
  }

  // Whether one more call costs clearly less here than at `other`: the square of the latency times
  // the calls in flight and one more, by weight. A latency counts only if one is clearly slower.
  isClearlyCheaper(weight, other, otherWeight, now) {
    const [ours, theirs] = [this.latency.usual, other.latency.usual];
    // One that has answered nothing may never answer.
    if (ours === 0 || theirs === 0) return this.inFlight < other.inFlight;
    const differs = this.#isClearlySlower(other, now) || other.#isClearlySlower(this, now);
    const most = Math.max(weight, otherWeight);
    const cost = (latency, inFlight, own) => latency ** 2 * (1 + (inFlight * most) / Math.max(own, 1));
    const [one, two] = differs ? [ours, theirs] : [1, 1];
    return cost(one, this.inFlight, weight) < cost(two, other.inFlight, otherWeight) / 2;
  }

  // Whether even its quickest recent answer took clearly longer than is usual for `other`.
  #isClearlySlower(other, now) {
    const [quickest, usual] = [this.latency.quickest(now, this.inFlight), other.latency.usual];
    return usual > 0 && quickest > usual * CLEARLY_SLOWER && quickest - usual > MIN_DIFFERENCE_US;
  }
}

module.exports = { Load };
