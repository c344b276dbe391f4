'use strict';

// The members that can take the same calls, and which of them takes the next one: power of two
// choices over a schedule by weight, or rendezvous hashing for calls with a key.

const { score } = require('./rendezvous');

const MAX_SUBSET = 100; // providers of a route that one node calls: with many callers, each has others
const MAX_SCHEDULE_SHARE = 16; // positions of one member in a schedule; finer weights are rounded
const ZONE_OVERFLOW = 32; // calls in flight in our own zone at which calls go to another one

// Whether a member can be called, the best first.
const READY = 0; // it has a live connection
const CONNECTING = 1;
const EJECTED = 2; // it fails calls, or is suspect
const RECONNECT = 3; // not connected, and worth an attempt
const COOLING_DOWN = 4; // connecting to it has just failed

// A member has `address`, `load`, `weight` (hundredths), `sameZone`, `isLocal`, `instance`,
// `rendezvous` (its score for this node), `readiness(now)` and `connect()`.
class Pool {
  #members = [];
  #subset = []; // those that are called
  #schedule = []; // the order in which they are called, each as often as its weight says
  #random;
  isUsed = false; // a call has picked from it

  constructor({ random = Math.random, turn = Math.floor(random() * 2 ** 31) } = {}) {
    this.#random = random;
    this.turn = turn; // many processes start together: each begins somewhere else
  }

  get members() {
    return this.#members;
  }

  // The members that are called.
  get subset() {
    return this.#subset;
  }

  set(members) {
    this.#members = members;
    let subset = [...members];
    if (subset.length > MAX_SUBSET) {
      subset.sort((a, b) => (a.rendezvous > b.rendezvous ? -1 : 1));
      subset = subset.slice(0, MAX_SUBSET);
    }
    subset.sort((a, b) => (a.address < b.address ? -1 : 1));
    const near = subset.filter((member) => member.sameZone);
    const usual = near.length === 0 ? subset : near;
    this.#subset = subset;
    this.#schedule = schedule(usual.map(({ weight }) => weight)).map((at) => usual[at]);
  }

  // The member to call; undefined when all were tried. One without a live connection is picked only
  // when no other has one. `tried`: members that are not picked; `excluded`: one that is not
  // picked, and whose turns the others share.
  pick(now, { sticky, instance, tried = [], excluded } = {}) {
    this.isUsed = true;
    const allows = (member) => !tried.includes(member.address) && member.address !== excluded;
    if (instance !== undefined) {
      const member = this.#members.find((one) => one.instance === instance);
      member?.connect();
      return member && allows(member) ? member : undefined;
    }
    if (this.#members.length === 1) {
      const [only] = this.#members;
      if (!allows(only)) return undefined;
      if (only.readiness(now) >= RECONNECT) only.connect();
      return only;
    }
    if (sticky !== undefined) return this.#pickSticky(now, sticky, allows);
    return this.#pickNext(now, allows, tried, excluded);
  }

  #pickNext(now, allows, tried, excluded) {
    const count = this.#schedule.length;
    if (count === 0) return undefined;
    // A second attempt does not move the turn, or a member whose calls fail would always be first.
    const step = tried.length === 0 ? 1 : 0;
    let cursor = this.#take(step);
    let next = this.#schedule[cursor % count];
    for (let n = 0; n < count && excluded !== undefined && next.address === excluded; n++) {
      cursor = step > 0 ? this.#take(step) : cursor + 1;
      next = this.#schedule[cursor % count];
    }
    if (!allows(next) || next.readiness(now) !== READY) {
      // It is connected for its next turn, which otherwise came a whole round later.
      if (step > 0 && next.readiness(now) === RECONNECT) this.turn--;
      return this.#pickBest(now, cursor, allows);
    }
    return this.#pickOfTwo(now, cursor, next, allows);
  }

  #take(step) {
    const turn = this.turn;
    this.turn = (turn + step) % 2 ** 31;
    return turn;
  }

  // The next of the schedule, which is ready, unless a random other one is clearly cheaper.
  #pickOfTwo(now, cursor, next, allows) {
    const count = this.#schedule.length;
    const overflows = next.sameZone && next.load.inFlight >= ZONE_OVERFLOW;
    if (!overflows && count === 1) return next;
    const below = (most) => Math.floor(this.#random() * most);
    // Never the same member: among few members it would often be drawn.
    const other = overflows
      ? this.#subset[below(this.#subset.length)]
      : this.#schedule[((cursor % count) + 1 + below(count - 1)) % count];
    const wins = (one, two) => !one.load.isStarting(now) || one.load.winsSlowStart(two.load, now, this.#random());
    const yields = !overflows && next.load.isStarting(now) && !wins(next, other);
    const picksOther = yields || (isCheaper(other, next, now) && wins(other, next));
    return picksOther && allows(other) && other.readiness(now) === READY ? other : next;
  }

  // The best of all members, when the next of the schedule is not ready.
  #pickBest(now, cursor, allows) {
    const count = this.#subset.length;
    const rankOf = this.#ranks(now);
    let best;
    let bestRank = Infinity;
    for (let step = 0; step < count; step++) {
      const member = this.#subset[(cursor + step) % count];
      if (!allows(member)) continue;
      const rank = rankOf(member);
      if (rank === RECONNECT) member.connect();
      if (rank < bestRank || (rank === bestRank && isCheaper(member, best, now))) [best, bestRank] = [member, rank];
    }
    // No better member is left. A refused connect costs less than a refused call.
    if (bestRank === COOLING_DOWN) best.connect();
    return best;
  }

  // Rendezvous hashing with bounded load: the member with the best score for the key, unless it has
  // a quarter more calls in flight than the mean.
  #pickSticky(now, key, allows) {
    const allowed = this.#members.filter(allows);
    const inFlight = allowed.reduce((sum, { load }) => sum + load.inFlight, 0);
    const most = Math.floor((Math.ceil((inFlight + 1) / Math.max(allowed.length, 1)) * 5) / 4) + 1;
    const rankOf = this.#ranks(now);
    let best;
    for (const member of allowed) {
      const rank = rankOf(member);
      if (rank === RECONNECT) member.connect();
      // A key stays with its provider while the connection is made: other nodes, which are
      // connected, would call that provider.
      const staysAt = member.isLocal || rank === CONNECTING || rank === RECONNECT;
      const isFull = member.load.inFlight >= most;
      const one = { rank: staysAt ? READY : rank, isFull, score: score(key, member.address), member };
      const isBetter = !best || one.rank < best.rank || (one.rank === best.rank
        && (one.isFull !== best.isFull ? best.isFull : one.score > best.score));
      if (isBetter) best = one;
    }
    if (best?.rank === COOLING_DOWN) best.member.connect();
    return best?.member;
  }

  // The readiness of members when all are compared. When most are ejected, they are hardly at fault
  // and the others could not bear the load, so none counts as ejected.
  #ranks(now) {
    const ejected = this.#subset.filter((member) => member.readiness(now) === EJECTED).length;
    const isPanic = ejected * 2 > this.#subset.length;
    return (member) => {
      const rank = member.readiness(now);
      return rank === EJECTED && isPanic ? READY : rank;
    };
  }
}

// Whether one member is clearly cheaper than another, or in our zone when the other is not.
function isCheaper(one, other, now) {
  const [ours, theirs] = [one.load.inFlight, other.load.inFlight];
  if (one.sameZone && !other.sameZone) return ours < ZONE_OVERFLOW;
  if (!one.sameZone && other.sameZone) return theirs >= ZONE_OVERFLOW && ours < theirs / 2;
  return one.load.isClearlyCheaper(one.weight, other.load, other.weight, now);
}

// Positions in the order of calls: each as often as its weight says, and spread out.
function schedule(weights) {
  const most = Math.max(0, ...weights);
  if (most === 0 || weights.every((weight) => weight === most)) return weights.map((_, at) => at);
  const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b));
  const divisor = weights.reduce(gcd, 0);
  // As few positions as possible: weights of 100 and 200 give one and two.
  const fits = most / divisor <= MAX_SCHEDULE_SHARE;
  const slotsOf = (weight) => (fits ? weight / divisor : Math.ceil((weight * MAX_SCHEDULE_SHARE) / most));
  const slots = weights.flatMap((weight, position) => {
    const count = slotsOf(weight);
    return Array.from({ length: count }, (_, at) => [(at + 0.5) / count, position]);
  });
  return slots.sort((a, b) => a[0] - b[0]).map(([, position]) => position);
}

module.exports = { COOLING_DOWN, CONNECTING, EJECTED, Pool, READY, RECONNECT, schedule };
