'use strict';

// One thread reads the packets of all peers. Peers that send without a pause take turns, so that
// others, and above all the Distributor, do not wait for long.

const SLICE_MS = 2; // the length of a turn: enough for many packets, and too short for callers to notice
const FIRST_MS = 0.3; // the time without a turn: enough for most peers
const LARGE_BYTES = 16 * 1024; // a larger packet waits for a turn, because it costs far more than others

const waiting = []; // readings that wait for their turn, in order
let next = null;

// Hands the packets of a socket to its reader, a few at a time. While `isBusy`, no packet is
// handled, and while `isFull`, nothing is read either. `wake` checks both again. After a frame that
// is too long, the reader cannot be used any more.
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

  // Continues reading if neither `isBusy` nor `isFull` prevents it.
  wake() {
    const { socket } = this;
    if (socket.destroyed) return;
    if (!this.#waits && !this.isBusy() && this.reader.hasMore) this.#wait();
    const isFull = this.isFull(); // also asked while it waits for a turn, because it may hold too much
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

// Runs one turn, and then lets other events run before the next.
function turn() {
  next = null;
  waiting.shift().takeTurn();
  if (waiting.length > 0) next ??= setImmediate(turn);
}

module.exports = { Reading };
