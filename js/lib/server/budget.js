'use strict';

// How many bytes a service may hold for its callers: a share for each, and a budget for all.

const DEFAULT_BYTES = 256 * 1024 * 1024; // for all callers: unfinished packets, running calls, unread answers
const MAX_BYTES = 64 * 1024 * 1024; // for one caller: one of the largest calls while it runs
const MIN_BYTES = 16 * 1024; // for each caller, whatever others hold, so that small calls get through
// The system hands over 64 kB at a time, even if the budget is used up. When the budget is exceeded
// by one part in this many, callers that hold more than their least are cut off.
const PART_OF_LIMIT = 4;
const PART_OF_FREE = 2; // a caller may hold half of what is free, so that some is left for the next one
const CALL_WEIGHT = 8; // memory for each byte of a call once it is parsed: text, parts and objects
const CALL_BYTES = 1024; // memory for each call beside that: its packet and its context

class Budget {
  used = 0;
  refused = 0; // answers for which there was no room

  constructor(limit = DEFAULT_BYTES) {
    this.limit = limit;
  }

  // Records that a caller now holds `held` bytes. Returns how many of them are charged to the
  // budget.
  settle(charged, held) {
    const next = Math.max(held - MIN_BYTES, 0);
    this.used += next - charged;
    return next;
  }

  // The bytes that one caller may hold now.
  mayHave() {
    const share = Math.floor((this.limit - this.used) / PART_OF_FREE);
    return Math.min(Math.max(share, MIN_BYTES), MAX_BYTES);
  }

  // Whether the budget is exceeded by far.
  get isOverdrawn() {
    return this.used > this.limit + this.limit / PART_OF_LIMIT;
  }

  // Whether a caller that is charged for some bytes may hold `held` bytes.
  fits(charged, held) {
    return held <= MIN_BYTES || held <= this.limit - this.used + charged;
  }
}

module.exports = { Budget, CALL_BYTES, CALL_WEIGHT, MIN_BYTES };
