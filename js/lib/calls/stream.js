'use strict';

// A stream that a call has opened, at the caller: what the node sends, and what is sent to it.

const { CallError } = require('../errors');
const { Received, STREAM_WINDOW, Sender } = require('../transport/flow');
const { FRAME_LIMIT, numberIn, textIn } = require('../transport/packets');

const MAX_WAITING = 1024; // parts that wait to be sent: a sender that awaits each has one
const MAX_ITEM_BYTES = FRAME_LIMIT - 4096; // with its envelope it makes a packet that every node can read

class CalledStream {
  #url;
  #pending;
  #connection;
  #received;
  #sender;
  #waiting = 0;

  constructor(connection, pending, url, onHeld) {
    this.#url = url;
    this.#pending = pending;
    this.#connection = connection;
    const { key } = pending;
    const credit = (bytes) => connection.push(`{"uri":"$credit","key":${key},"$":{"c":${bytes}}}`);
    this.#received = new Received(credit, onHeld);
    const write = (n, text) => connection.push(`{"uri":"$part","key":${key},"$":{"n":${n}},"params":${text}}`);
    this.#sender = new Sender(STREAM_WINDOW, write, (onRoom) => connection.queue.hasRoom(onRoom));
  }

  // Sends an item to the node, as soon as it takes it.
  async send(item) {
    if (this.#waiting >= MAX_WAITING) {
      const why = `${MAX_WAITING} items of ${this.#url} wait to be sent; await each send`;
      throw new CallError('overloaded', this.#url, why, { sent: false });
    }
    const text = JSON.stringify(item) ?? 'null';
    if (Buffer.byteLength(text) > MAX_ITEM_BYTES) {
      const why = `an item of ${this.#url} has more than ${MAX_ITEM_BYTES} bytes; send it in several`;
      throw new CallError('too_large', this.#url, why, { sent: false });
    }
    this.#waiting++;
    try {
      if (!await this.#sender.send(text)) {
        throw new CallError('ended', this.#url, `the stream ${this.#url} has ended`);
      }
    } finally {
      this.#waiting--;
    }
  }

  // Says that no item follows. What the node sends still comes.
  async end() {
    const n = await this.#sender.finish();
    if (n !== null && !this.#received.isOver) {
      this.#connection.push(`{"uri":"$part","key":${this.#pending.key},"$":{"n":${n},"end":true}}`);
    }
  }

  // Takes no more parts.
  cancel() {
    if (!this.#received.isOver) this.#connection.cancel(this.#pending);
    this.close();
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  // The next part.
  next() {
    return this.#received.next();
  }

  // `for await` is left before the end.
  async return() {
    this.cancel();
    return { done: true, value: undefined };
  }

  // What follows is for the connection.

  // Bytes of parts that were not read.
  get heldBytes() {
    return this.#received.bytes;
  }

  // Takes a packet under the key of the stream. Returns whether the stream goes on.
  take({ $, params }, text) {
    if (Number.isInteger($?.n)) {
      const fault = this.#received.push($.n, $.end === true, params ?? null, Buffer.byteLength(text));
      if (fault !== null) {
        this.#connection.cancel(this.#pending);
        this.close(new CallError('lost', this.#url, `the node broke the rules of streams in ${this.#url}: ${fault}`));
      }
      if (this.#received.isOver) this.#sender.close();
      return !this.#received.isOver;
    }
    const { error, value } = readAnswer({ $, params }, this.#url);
    if (error) this.#received.end(error);
    else this.#received.finishWith(value, Buffer.byteLength(text));
    this.#sender.close();
    return false;
  }

  // Ends the stream for want of room, and drops what it holds.
  endWith(error) {
    this.#connection.cancel(this.#pending);
    this.#received.clear();
    this.close(error);
  }

  grant(bytes) {
    this.#sender.grant(bytes);
  }

  // The stream is over, because of `error` if there is one.
  close(error) {
    this.#received.end(error);
    if (!error) this.#received.clear();
    this.#sender.close();
  }
}

// Reads an answer of either version: {value, status}, or {error}.
function readAnswer(packet, url, node) {
  if (packet === null) {
    const message = 'the node does not know the method';
    return { error: refused(url, { status: 501, reason: 'old_error', message, node }) };
  }
  const $ = packet.$ ?? null;
  if ($ !== null) {
    // A status that cannot be read does not count as success.
    const status = $.s === undefined || $.s === null ? 200 : (Number.isInteger($.s) ? $.s : 502);
    if (status < 400) return { status, value: packet.params ?? null };
    const text = (value, other) => (typeof value === 'string' ? value : other);
    const retryAfter = Number.isFinite($.ra) && $.ra >= 0 ? $.ra : undefined;
    const [reason, message] = [text($.r, 'old_error'), text($.m, '')];
    return { error: refused(url, { status, reason, message, retryAfter, node }) };
  }
  const code = [packet.errorcode, packet.errorCode].find((one) => ![undefined, null, 0, '0', '', false].includes(one));
  if (code === undefined) return { status: 200, value: dataOf(packet) };
  const status = httpErrorOf(numberIn(code));
  const reason = /^\w+$/.test(textIn(code)) ? `errorcode_${code}`.toLowerCase() : 'errorcode';
  const said = packet.errormessage ?? packet.errorMessage ?? '';
  const message = typeof said === 'string' ? said : JSON.stringify(said);
  return { error: refused(url, { status, reason, message, node }) };
}

const httpErrorOf = (code) => (Number.isInteger(code) && code >= 400 && code < 600 ? code : 500);

// The content of an answer of version 1: see "Calls" in docs/PROTOCOL.md.
function dataOf(packet) {
  const isText = (value) => value === null || typeof value === 'string';
  const data = Object.entries(packet).filter(([name, value]) => {
    if (/^error[mM]essage$/.test(name)) return !isText(value);
    return !['key', 'errorcode', 'errorCode', '$'].includes(name);
  });
  if (data.length === 0) return null;
  const isAlone = data.length === 1 && /^(results|error[mM]essage)$/.test(data[0][0]);
  return isAlone ? data[0][1] : Object.fromEntries(data);
}

function refused(url, { status, reason, message, retryAfter, node }) {
  return new CallError('refused', url, `${status} ${reason}: ${message}`, { status, reason, retryAfter, node });
}

module.exports = { CalledStream, readAnswer };
