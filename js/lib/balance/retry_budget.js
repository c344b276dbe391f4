'use strict';

// How many retries all calls of a node together may make. Without a clock.

const PER_CALL = 0.2; // retries for each call: when everything fails, the load grows by no more
const PER_SECOND = 10; // further retries, for nodes that call rarely
const MAX_SAVED = 100; // unused retries that are kept

class RetryBudget {
  #left = PER_SECOND;
  #calls = 0; // since retries were last added
  #at;

  constructor(now) {
    this.#at = now;
  }

  // A call adds to the budget.
  deposit() {
    this.#calls++;
  }

  // Takes one retry; false when there is none.
  withdraw(now) {
    const time = Math.max(now - this.#at, 0) / 1000;
    this.#left = Math.min(this.#left + this.#calls * PER_CALL + time * PER_SECOND, MAX_SAVED);
    this.#calls = 0;
    this.#at = Math.max(now, this.#at);
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}

module.exports = { RetryBudget };
