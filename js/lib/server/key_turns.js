'use strict';

// Runs acknowledged events of one key one after the other, in the order in which they come.

const { overloaded } = require('./concurrency');

const MAX_WAITING_OF_KEY = 256; // those of a key that come faster than they are handled wait for ever longer
const MAX_WAITING = 4096; // of all keys: each holds its payload

class KeyTurns {
  #queues = new Map(); // key -> those that wait behind the one at work
  #waiting = 0;

  // Runs `work` when nothing of the same key is at work. Rejects when too many wait.
  async run(key, work) {
    const queue = this.#queues.get(key);
    if (queue && (queue.length >= MAX_WAITING_OF_KEY || this.#waiting >= MAX_WAITING)) {
      throw overloaded(`${queue.length} events of one key wait for their turn already, and ${this.#waiting} in all`);
    }
    if (queue) {
      this.#waiting++;
      await new Promise((resolve) => { queue.push(resolve); });
      this.#waiting--;
    } else {
      this.#queues.set(key, []);
    }
    try {
      return await work();
    } finally {
      const next = this.#queues.get(key).shift();
      if (next) next();
      else this.#queues.delete(key);
    }
  }
}

module.exports = { KeyTurns, MAX_WAITING_OF_KEY };
