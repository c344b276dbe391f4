'use strict';

// How long a member takes to answer, in a way that noise does not disturb. Without a clock.
//
// On a busy machine a process sometimes waits for some milliseconds, and all answers that it owes
// at that moment are late together. So a member is slow only if even the quickest answer of each
// recent period is slow.

const PERIODS = 4; // periods in a row in which the quickest answer has to be slow
const PERIOD_MS = 10; // four of them are longer than the system usually lets a process wait
const HALF_LIFE_MS = 1024; // the quickest answer halves in this time without a call, so that it is tried again
const EWMA_DIVISOR = 8; // the weight of an answer in the average: one part in this many
const MAX_EWMA_RATIO = 4; // an answer counts as at most this many times the average: chance is not usual

class Latency {
  usual = 0; // the average in microseconds; 0 before the first answer
  #quickest = new Array(PERIODS).fill(0); // of the last periods, in microseconds
  #periods = 0;
  #began = 0;
  #answered = 0;

  record(now, tookMs) {
    const sample = Math.max(Math.floor(tookMs * 1000), 1);
    const known = this.usual;
    if (known === 0) this.usual = sample;
    else if (sample >= known) {
      this.usual = known + Math.ceil((Math.min(sample, known * MAX_EWMA_RATIO) - known) / EWMA_DIVISOR);
    } else {
      this.usual = known - Math.floor((known - sample) / EWMA_DIVISOR);
    }
    this.#answered = now;
    const begins = this.#periods === 0 || now - this.#began >= PERIOD_MS;
    if (begins) {
      this.#periods++;
      this.#began = now;
    }
    const at = this.#periods % PERIODS;
    this.#quickest[at] = begins ? sample : Math.min(this.#quickest[at], sample);
  }

  // The quickest answer of the last periods, in microseconds. It is 0 before there were enough, and
  // falls while no call is in flight.
  quickest(now, inFlight) {
    const fades = inFlight === 0 ? Math.floor(this.quietMs(now) / HALF_LIFE_MS) : 0;
    return Math.floor(Math.min(...this.#quickest) / 2 ** fades);
  }

  // How long ago the last answer came.
  quietMs(now) {
    return Math.max(now - this.#answered, 0);
  }
}

module.exports = { Latency };
