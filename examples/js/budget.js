'use strict';

// How many bytes a service holds for its callers: a share for each, and a budget for all.

const DEFAULT_BYTES = 256 * 1024 * 1024; // partly received packets, running calls and unread answers, of all callers
const MOST_BYTES = 64 * 1024 * 1024; // of one caller: one of the largest calls
const LEAST_BYTES = 16 * 1024; // that each caller may always have, so that small calls get through
// The system delivers 64 kB at a time, wanted or not. One part in this many above the limit, a
// caller with more than the least is cut.
const PART_OF_LIMIT = 4;
const PART_OF_FREE = 2; // beyond that a caller has half of the free bytes, so some are left for the next one
const CALL_WEIGHT = 8; // bytes that a byte of a call takes once it is parsed: text, its parts, and objects
const CALL_BYTES = 1024; // what a call costs beside that: its packet, its context, its entry among the running calls

class Budget {
  used = 0;
  refused = 0; // answers without room

  constructor(limit = DEFAULT_BYTES) {
    this.limit = limit;
  }

  // Changes the bytes charged to one caller. Returns its bytes beyond those that each caller may
  // always have.
  settle(charged, held) {
    const next = Math.max(held - LEAST_BYTES, 0);
    this.used += next - charged;
    return next;
  }

  // How many bytes a caller may have now.
  mayHave() {
    const share = Math.floor((this.limit - this.used) / PART_OF_FREE);
    return Math.min(Math.max(share, LEAST_BYTES), MOST_BYTES);
  }

  // Whether the limit is far exceeded.
  get isOverdrawn() {
    return this.used > this.limit + this.limit / PART_OF_LIMIT;
  }

  // Whether a caller that is charged for `charged` bytes may hold this many.
  fits(charged, held) {
    return held <= LEAST_BYTES || held <= this.limit - this.used + charged;
  }
}

module.exports = { Budget, CALL_BYTES, CALL_WEIGHT, LEAST_BYTES };
