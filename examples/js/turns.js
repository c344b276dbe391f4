'use strict';

// One thread reads what all peers send. A peer that always has something to say waits for its turn
// among all that do, so that others, and above all the Distributor, do not wait for long.

const SLICE_MS = 2; // of a turn: long beside what a packet costs, short beside what callers notice
const FIRST_MS = 0.3; // without a turn: enough for what most have to say
const LARGE_BYTES = 16 * 1024; // a packet that costs far more than others waits for a turn

const waiting = []; // readings with packets that have come, in the order of their turns
let next = null;

// Hands the packets of a socket to its reader, a few at a time. While `isBusy`, none are begun, and
// while `isFull`, nothing is read either; `wake` says that this may be over. The reader is of no
// use after a frame that is too long.
class Reading {
  #waits = false;

  constructor(socket, reader, { isBusy = () => false, isFull = () => false } = {}) {
    Object.assign(this, { socket, reader, isBusy, isFull });
    socket.on('data', (chunk) => {
      reader.append(chunk);
      if (!this.#waits) this.#work(FIRST_MS, LARGE_BYTES);
      else this.wake();
    });
  }

  // Goes on if it may.
  wake() {
    const { socket } = this;
    if (socket.destroyed) return;
    if (!this.#waits && !this.isBusy() && this.reader.hasMore) this.#wait();
    const isFull = this.isFull(); // whoever waits may have too much all the same
    const stops = isFull || this.#waits || this.isBusy();
    if (stops && !socket.isPaused()) socket.pause();
    if (!stops && socket.isPaused()) socket.resume();
  }

  #work(ms, mostBytes) {
    const { socket, reader } = this;
    const end = performance.now() + ms;
    let more = true;
    while (more && !socket.destroyed && !this.isBusy() && reader.nextBytes <= mostBytes) {
      more = reader.next();
      if (performance.now() >= end) break;
    }
    if (more === null) socket.destroy();
    this.wake();
  }

  #wait() {
    this.#waits = true;
    waiting.push(this);
    next ??= setImmediate(turn);
  }

  takeTurn() {
    this.#waits = false;
    if (!this.socket.destroyed) this.#work(SLICE_MS, Infinity);
  }
}

// One turn, and then whatever else there is to do.
function turn() {
  next = null;
  waiting.shift().takeTurn();
  if (waiting.length > 0) next ??= setImmediate(turn);
}

module.exports = { Reading };
