'use strict';

// A running call that may be a stream, at the node that is called.

const { ServiceError } = require('../errors');
const { Received, Sender } = require('../transport/flow');

const REOPEN_MS = 100; // when a caller may open a stream again that ended because its node stops

class ServedStream {
  #interrupt = null;
  isOpen = false;
  isStopping = false;
  isGone = false;

  // `credit`: bytes of parts that the caller takes before it grants more. `onOpen` is called when
  // the call becomes a stream.
  constructor(call, credit, onOpen) {
    Object.assign(this, { call, onOpen, received: null });
    const write = (n, text) => this.#write(`{"key":${call.key},"$":{"n":${n}},"params":${text}}`);
    this.sender = new Sender(credit, write, (onRoom) => call.caller.hasRoom(onRoom));
  }

  open() {
    if (this.isOpen || this.isGone) return;
    this.isOpen = true;
    const { caller, key } = this.call;
    if (caller.calls.has(this.call)) {
      this.call.isOpen = true;
      caller.openStreams++;
    }
    this.onOpen();
    this.#write(`{"key":${key},"$":{"n":0}}`);
  }

  // What the caller sends.
  items() {
    if (this.received === null) {
      this.received = new Received((bytes) => {
        this.#write(`{"uri":"$credit","key":${this.call.key},"$":{"c":${bytes}}}`);
      });
      if (this.isGone) this.received.end(cut());
      this.open();
    }
    const { received } = this;
    return { [Symbol.asyncIterator]() { return this; }, next: () => received.next() };
  }

  // Sends all parts, and the end.
  async sendAll(iterator) {
    this.open();
    for (;;) {
      const next = await this.#nextOf(iterator);
      if (next === null) throw stopping();
      if (this.isGone || next.done) break;
      const text = JSON.stringify(next.value);
      if (!await this.sender.send(text === undefined ? 'null' : text)) break;
    }
    if (this.isGone) {
      Promise.resolve(iterator.return?.()).catch(() => {}); // its `finally` runs
      return;
    }
    await this.finish();
  }

  async finish() {
    const n = await this.sender.finish();
    if (n !== null) this.call.caller.reply(this.call, `{"key":${this.call.key},"$":{"n":${n},"end":true}}`);
  }

  // The next part; null when there is none and the node stops; the end when the caller has gone.
  async #nextOf(iterator) {
    const next = Promise.resolve(iterator.next());
    next.catch(() => {}); // if it is left alone
    const isOver = () => this.isStopping || this.isGone;
    const interrupted = new Promise((resolve) => {
      this.#interrupt = () => resolve('interrupted');
      if (isOver()) setImmediate(this.#interrupt); // what is ready is sent first
    });
    const first = await Promise.race([next, interrupted]);
    if (first !== 'interrupted') return first;
    Promise.resolve(iterator.return?.()).catch(() => {});
    return this.isGone ? { done: true, value: undefined } : null;
  }

  // The node stops: the stream ends as soon as it has nothing to send.
  stop() {
    this.isStopping = true;
    this.#interrupt?.();
  }

  // The caller has gone, or takes no more.
  gone() {
    this.isGone = true;
    this.sender.close();
    this.received?.end(cut());
    this.#interrupt?.();
  }

  #write(text) {
    return this.isGone ? 0 : this.call.caller.send(text);
  }
}

const cut = () => new ServiceError(499, 'cut', 'the caller has gone before the last part');
const stopping = () => new ServiceError(503, 'leaving', 'this node is stopping', { retryAfter: REOPEN_MS });

module.exports = { ServedStream };
