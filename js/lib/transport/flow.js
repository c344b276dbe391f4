'use strict';

// The two directions of a stream, without sockets: received parts that were not read, and the
// credit to send.

const STREAM_WINDOW = 262_144; // bytes of parts that we take before we grant more; also what a caller begins with

// The receiving side. `onCredit` is called with bytes that were read, so that as many more may
// come, and `onHeld` with the change of the bytes that wait to be read.
class Received {
  #waiting = []; // {value, bytes}, or {error}
  #readers = [];
  #last = 0;
  #credit = STREAM_WINDOW;
  #consumed = 0;
  #isOver = false;
  bytes = 0; // of parts that were not read

  constructor(onCredit, onHeld = () => {}) {
    Object.assign(this, { onCredit, onHeld });
  }

  get isOver() {
    return this.#isOver;
  }

  // Takes a part. Returns what is wrong with it, or null.
  push(number, isEnd, value, bytes) {
    if (this.#isOver || number !== this.#last + 1) return 'a part is missing or was sent twice';
    this.#last = number;
    if (isEnd) {
      this.end();
      return null;
    }
    if (this.#credit <= 0) return 'a part was sent without credit';
    this.#credit -= bytes;
    this.#hold(bytes);
    const reader = this.#readers.shift();
    if (reader) reader.resolve(this.#read({ value, bytes }));
    else this.#waiting.push({ value, bytes });
    return null;
  }

  // A usual answer in an open stream is one more part and the end.
  finishWith(value, bytes) {
    if (this.#isOver) return;
    this.#credit = Math.max(this.#credit, 1);
    this.push(this.#last + 1, false, value, bytes);
    this.end();
  }

  // No more parts follow; `error` says why, if that is not the usual end.
  end(error) {
    if (this.#isOver) return;
    this.#isOver = true;
    if (error) this.#waiting.push({ error });
    for (const reader of this.#readers.splice(0)) this.next().then(reader.resolve, reader.reject);
  }

  // Drops the parts that wait.
  clear() {
    this.#waiting = this.#waiting.filter(({ error }) => error);
    this.#hold(-this.bytes);
  }

  // The next part as an iterator gives it.
  next() {
    const one = this.#waiting.shift();
    if (one?.error) return Promise.reject(one.error);
    if (one) return Promise.resolve(this.#read(one));
    if (this.#isOver) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => { this.#readers.push({ resolve, reject }); });
  }

  #hold(bytes) {
    this.bytes += bytes;
    this.onHeld(bytes);
  }

  #read({ value, bytes }) {
    this.#hold(-bytes);
    this.#consumed += bytes;
    if (this.#consumed >= STREAM_WINDOW / 2 && !this.#isOver) {
      this.#credit += this.#consumed;
      this.onCredit(this.#consumed);
      this.#consumed = 0;
    }
    return { done: false, value };
  }
}

// The sending side. `write` sends a packet with a number, and returns its bytes without the
// delimiter. `hasRoom` says whether a part may be written now, and calls its argument when that
// changes: the other side may grant any credit and read nothing.
class Sender {
  #sent = 0;
  #isOver = false;
  #tail = Promise.resolve();
  #granted = null;
  #onRoom = () => this.#wake(); // always the same, so that it waits once

  constructor(credit, write, hasRoom = () => true) {
    Object.assign(this, { credit, write, hasRoom });
  }

  get isOver() {
    return this.#isOver;
  }

  grant(bytes) {
    if (Number.isFinite(bytes) && bytes > 0) this.credit += bytes;
    if (this.credit > 0) this.#wake();
  }

  // Sends one part as soon as there is credit, in the order of calls. Resolves to whether it was
  // sent: not after the end.
  send(part) {
    const sent = this.#tail.then(() => this.#sendNext(part));
    this.#tail = sent.catch(() => {});
    return sent;
  }

  async #sendNext(part) {
    while (!this.#isOver && !(this.credit > 0 && this.hasRoom(this.#onRoom))) {
      await new Promise((resolve) => { this.#granted = resolve; });
    }
    if (this.#isOver) return false;
    this.credit -= this.write(++this.#sent, part);
    return true;
  }

  // The number of the packet that ends this direction, after all parts; null when it is over
  // already.
  async finish() {
    await this.#tail;
    if (this.#isOver) return null;
    this.#isOver = true;
    return this.#sent + 1;
  }

  // Nothing more can be sent: code that waits to send is told.
  close() {
    this.#isOver = true;
    this.#wake();
  }

  #wake() {
    const granted = this.#granted;
    this.#granted = null;
    granted?.();
  }
}

module.exports = { Received, STREAM_WINDOW, Sender };
