'use strict';

// How many calls of a route run at a time.

const { ServiceError } = require('../errors');

const MAX_WAITING = 256; // events that wait for their turn: more than a route that keeps up ever has
const RETRY_AFTER_MS = 100; // when a caller may try again a route that has too many running calls

const overloaded = (message) => new ServiceError(503, 'overloaded', message, { retryAfter: RETRY_AFTER_MS });

class Concurrency {
  #running = 0;
  #waiting = [];

  constructor(most) {
    this.most = most;
  }

  // Resolves when a call may run. One that is answered does not wait: its caller can ask another
  // node. For an event there is no other.
  async enter(isAnswered) {
    if (this.#running < this.most) {
      this.#running++;
      return;
    }
    if (isAnswered) throw overloaded('too many calls of this route are running');
    if (this.#waiting.length >= MAX_WAITING) {
      throw overloaded(`${MAX_WAITING} wait for their turn already; `
        + 'allow more at a time with concurrency, or start another node');
    }
    await new Promise((resolve) => { this.#waiting.push(resolve); });
  }

  // A call has ended: the next one takes its place.
  leave() {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#running--;
  }
}

module.exports = { Concurrency, MAX_WAITING, overloaded };
