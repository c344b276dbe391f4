'use strict';

// How many bytes a service keeps for those who call it: a share for each, and a budget for all.

const DEFAULT_BYTES = 256 * 1024 * 1024; // half packets, calls at work and answers that are not taken, of all
const MAX_BYTES = 64 * 1024 * 1024; // of one caller: one of the largest calls at work
const MIN_BYTES = 16 * 1024; // of each caller whatever others have, so that small calls get through
const PART_OF_LIMIT = 4; // the system hands us 64 kB at a time, wanted or not: with so much too much, who has more than its least is cut
const PART_OF_FREE = 2; // beyond that a caller has half of what is free, so some is left for the next one
const CALL_WEIGHT = 8; // bytes that a byte of a call takes once it is parsed: text, its parts, and objects
const CALL_BYTES = 1024; // what a call costs beside that: its packet, its context, its place among the others

class Budget {
  used = 0;
  refused = 0; // answers that there was no room for

  constructor(limit = DEFAULT_BYTES) {
    this.limit = limit;
  }

  // What one caller has changes. Returns what it has beyond what everybody may.
  settle(charged, held) {
    const next = Math.max(held - MIN_BYTES, 0);
    this.used += next - charged;
    return next;
  }

  // What a caller may have now.
  mayHave() {
    const share = Math.floor((this.limit - this.used) / PART_OF_FREE);
    return Math.min(Math.max(share, MIN_BYTES), MAX_BYTES);
  }

  // Whether far more is kept than may be.
  get isOverdrawn() {
    return this.used > this.limit + this.limit / PART_OF_LIMIT;
  }

  // Whether there is room for so many bytes, of a caller that is charged for some.
  fits(charged, held) {
    return held <= MIN_BYTES || held <= this.limit - this.used + charged;
  }
}

module.exports = { Budget, CALL_BYTES, CALL_WEIGHT, MIN_BYTES };
