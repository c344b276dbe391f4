'use strict';

// One caller of a node: the calls that it has running, and the answers that it has not read yet.
// What a call means is left to classes that extend this one.

const { CALL_BYTES, CALL_WEIGHT, MIN_BYTES } = require('./budget');
const {
  FRAME_LIMIT, PacketReader, isObject, join, keyOf, numberIn, parts, seal, shownKey,
} = require('../transport/packets');
const { Reading } = require('../transport/turns');

const WAITING_LIMIT = 8 * 1024 * 1024; // bytes that a caller has not read; beyond this, it is not read from
const LEGACY_READ_MS = 50; // how long a version 1 caller takes to read an answer that it waits for: a guess
const MAX_CALLS = 1024; // running calls of one caller; with more, it is not read from
const MAX_STRIKES = 3; // broken packets of a caller before it is cut off
const ROOM_MS = 200; // how often a caller that holds too much is checked again: it depends on other callers
const FRAME_MS = 10_000; // how long a call may take to arrive, from its first byte to its last
const LINE_END_BYTES = 16; // people type line ends between packets; fewer bytes than this begin no call
const CALL_MS = 60_000; // how long a call that the service does not answer is kept: longer than callers wait
const CROWDED_MS = 5000; // the same while such calls keep others from being read
const STALLED_MS = 10_000; // a caller that reads none of its answers for this long is cut off
const MAX_WAIT_MS = 3_600_000; // the longest time that a caller may give a call to keep it

const WRONG_INSTANCE = 421; // HTTP's status for a misdirected request

class Caller {
  // `id`: the instance that is called. `budget`: the bytes that all callers share. `mayRead`: how
  // many bytes a caller of version 1 can read at once. `warn`: logs what is wrong.
  constructor(socket, { id, budget, mayRead, warn }) {
    Object.assign(this, { socket, id, budget, mayRead, warn, calls: new Set(), misdirected: false });
    // The bytes that it is charged for, those of its running calls, and the timer of the next check
    // whether it may hold more.
    Object.assign(this, { charged: 0, atWork: 0, again: null });
    // isLegacy: its last sound packet was of version 1. openStreams: calls that have become
    // streams, which may last long and do not keep others from being begun.
    Object.assign(this, { strikes: 0, isLegacy: false, closing: false, cuts: false, openStreams: 0 });
    // Answers in version 1 form that wait until the caller has read those before.
    Object.assign(this, { waiting: [], waitingBytes: 0, unread: 0, wroteAt: 0, timer: null });
    // The number of frames that have arrived, the number when the unfinished one began, and the
    // time of that.
    Object.assign(this, { frames: 0, framesBefore: 0, begunAt: performance.now() });
    this.write = socket.write.bind(socket);
    this.end = socket.end.bind(socket);
    this.reader = new PacketReader((packet, text) => {
      this.frames++;
      if (!socket.destroyed && !this.take(packet, text)) this.strike('a frame is not a packet');
    }, (why) => this.strike(why));
    this.reader.onCut = (pieces) => {
      warn(`${socket.remoteAddress}: a call was cut by a raw ¶ in a text; its ${pieces} pieces were joined`);
    };
    const isBusy = () => this.isBusy();
    this.reading = new Reading(socket, this.reader, { isBusy, isFull: () => this.isFull() });
    socket.on('close', () => {
      clearTimeout(this.again);
      this.settle();
      for (const call of this.calls) this.gone(call);
    });
    socket.on('drain', () => this.pace());
    socket.on('end', () => this.finish());
    socket.on('error', () => {}); // 'close' follows, and answers would not arrive
    socket.setTimeout(STALLED_MS, () => {
      if (socket.writableLength > 0) socket.destroy();
    });
  }

  // Handles a call; `text` is its packet.
  begin(_call, _packet, _text) {}

  // Handles a packet that is not a call and has this key.
  control(_packet, _key, _text) {}

  // The caller waits for a call no more.
  gone(_call) {}

  // Hands a packet on. False when it is none.
  take(packet, text) {
    if (!isObject(packet)) return false;
    const list = parts(text);
    const members = new Map(list);
    if (members.size !== list.length) return false; // two readers must not understand it in two ways
    const { uri, method } = packet;
    if ([uri, method].some((one) => typeof (one ?? '') !== 'string')) return false;
    if (uri === '$cancel') this.forget(members.get('key'));
    else if (uri === '$hello') this.greet(packet.$);
    else if (uri?.startsWith('$')) this.control(packet, members.get('key'), text); // or of a later version
    else this.takeCall(packet, text, members);
    return true;
  }

  takeCall(packet, text, members) {
    const version = (packet.$ ?? null) === null ? 1 : 2;
    this.isLegacy = version === 1;
    const isLog = version === 1 && typeof packet.params === 'string'; // a log line of a version 1 node: no answer
    // An emitter that wants an event to be acknowledged says which one it is.
    const isSilent = version === 2 && packet.method === 'EVENT' && typeof packet.$.e !== 'string';
    const key = isLog || isSilent ? undefined : keyOf(members, version);
    const bytes = CALL_BYTES + text.length * CALL_WEIGHT;
    const name = key === undefined ? undefined : shownKey(key);
    const keep = Math.min(Math.max(numberIn(packet.$?.d) || 0, CALL_MS), MAX_WAIT_MS);
    const call = { caller: this, key, name, version, at: performance.now(), keep, bytes, isOpen: false };
    if (key !== undefined) {
      this.calls.add(call);
      this.atWork += bytes;
      this.settle();
    }
    if (this.misdirected) {
      const why = 'this is another instance, or another service, than the call is for';
      this.fail(call, WRONG_INSTANCE, 'wrong_instance', why);
    } else if (numberIn(packet.$?.d) <= 0) {
      this.fail(call, 504, 'deadline', 'the call came too late to be begun');
    } else {
      this.begin(call, packet, text);
    }
  }

  // A caller that wants a certain instance is told which one this is. Calls for another are
  // refused.
  greet($) {
    if (typeof $?.to !== 'string') return;
    this.misdirected = $.to !== this.id && $.to !== '*';
    this.write(seal(JSON.stringify({ uri: '$hello', $: { f: this.id } })));
  }

  // The caller has cancelled the calls with this key.
  forget(key) {
    for (const call of this.calls) {
      if (call.key !== key || call.version !== 2) continue;
      this.drop(call);
      this.gone(call);
    }
  }

  // Forgets a call. Returns whether it was running.
  drop(call) {
    const was = this.calls.delete(call);
    if (was) {
      this.atWork -= call.bytes;
      if (call.isOpen) this.openStreams--;
    }
    return was;
  }

  // Answers a call with an error, in its own form.
  fail(call, status, reason, message, retryAfter) {
    this.reply(call, failureText(call, { status, reason, message, retryAfter }));
  }

  // Answers a call once, with a packet in the call's own form. A call without a key gets no answer.
  reply(call, text) {
    if (!this.drop(call) || this.socket.destroyed) return;
    const isLegacy = call.version === 1;
    const limit = isLegacy ? this.mayRead() : FRAME_LIMIT;
    let bytes = seal(text);
    const failed = (status, reason, message) => seal(failureText(call, { status, reason, message }));
    if (bytes.length > limit) {
      bytes = failed(500, 'answer_too_large', `the answer has ${bytes.length} bytes; this caller can read ${limit}`);
    }
    if (!this.budget.fits(this.charged, this.held() + bytes.length)) {
      this.budget.refused++;
      const what = `an answer of ${bytes.length} bytes`;
      this.warn(`${this.socket.remoteAddress}: no room to keep ${what} until it is read`);
      bytes = failed(503, 'no_room', 'there is no room to keep this answer until it is read');
    }
    if (isLegacy) this.queue(bytes);
    else this.write(bytes);
    this.settle();
    this.pace();
  }

  // Sends a packet that ends no call, such as a part of a stream. Returns its bytes without the
  // delimiter.
  send(text) {
    const bytes = seal(text);
    if (!this.socket.destroyed) this.write(bytes);
    this.settle();
    this.pace();
    return bytes.length - 2;
  }

  // Adds an answer for a caller of version 1.
  queue(bytes) {
    this.waiting.push(bytes);
    this.waitingBytes += bytes.length;
    this.flush();
  }

  // One write per packet, and never more than a version 1 caller can read at once.
  flush() {
    const now = performance.now();
    if (now - this.wroteAt >= LEGACY_READ_MS) this.unread = 0;
    while (this.waiting.length > 0) {
      const { length } = this.waiting[0];
      if (this.unread > 0 && this.unread + length > this.mayRead()) {
        this.timer ??= setTimeout(() => {
          this.timer = null;
          this.flush();
          this.pace();
        }, LEGACY_READ_MS);
        return;
      }
      this.write(this.waiting.shift());
      this.waitingBytes -= length;
      this.unread += length;
      this.wroteAt = now;
    }
  }

  // Bytes that have arrived and belong to no running call yet.
  come() {
    return this.reader.buffer.length + this.reader.pieceBytes + this.socket.readableLength;
  }

  // All bytes that are held for it.
  held() {
    return this.come() + this.atWork + this.socket.writableLength + this.waitingBytes;
  }

  settle() {
    this.charged = this.budget.settle(this.charged, this.socket.destroyed ? 0 : this.held());
  }

  // Whether the next call of this caller has to wait: it has too many running calls, or too many
  // answers that it has not read.
  isBusy() {
    const unread = this.socket.writableLength + this.waitingBytes;
    const running = this.calls.size - this.openStreams;
    return running >= MAX_CALLS || unread > WAITING_LIMIT || this.atWork + unread >= this.budget.mayHave();
  }

  // Whether this caller holds as much as it may, so that nothing is read from it. It depends on
  // other callers when it may hold more.
  isFull() {
    this.settle();
    if (this.budget.isOverdrawn && this.come() > MIN_BYTES) {
      this.warn(`${this.socket.remoteAddress}: dropped: there is no room for what it sends`);
      this.socket.destroy();
    }
    const full = this.held() >= this.budget.mayHave();
    if (full && this.again === null) {
      this.again = setTimeout(() => {
        this.again = null;
        this.pace();
      }, ROOM_MS).unref();
    }
    return full;
  }

  // Reads, or begins the next call, if that may go on now.
  pace() {
    const { socket } = this;
    this.reading.wake();
    if (!this.closing || this.calls.size > 0 || this.waiting.length > 0) return;
    this.end(() => {
      if (this.cuts) socket.destroy();
    });
  }

  // Ends the connection when its calls are answered. With `cuts`, does not wait until the caller
  // ends it too.
  finish(cuts = false) {
    this.closing = true;
    this.cuts ||= cuts;
    this.pace();
  }

  strike(why) {
    if (this.socket.destroyed) return; // the rest of a read
    this.warn(`${this.socket.remoteAddress}: dropped: ${why}`);
    // A version 1 gateway passes on what its clients send. It must not lose its connection, and
    // with that all routes of this service, for what one of them says.
    if (this.isLegacy) return;
    if (++this.strikes >= MAX_STRIKES) this.socket.destroy();
  }

  // Gives up calls that the service does not answer: version 2 callers are told, version 1 callers
  // never were. Cuts off a caller whose call does not end.
  tidy(now) {
    const isCrowded = this.calls.size - this.openStreams >= MAX_CALLS;
    for (const call of this.calls) {
      if (call.isOpen || now - call.at < (isCrowded ? CROWDED_MS : call.keep)) continue;
      if (call.version === 2) this.fail(call, 504, 'deadline', 'the service gave no answer');
      this.drop(call);
      this.gone(call);
    }
    const { reader } = this;
    const isMidway = reader.length > LINE_END_BYTES && !reader.hasMore && this.frames === this.framesBefore;
    // While a caller is not read from, its packet cannot arrive, so its time begins again; except
    // if this packet itself is the reason.
    const waits = this.socket.isPaused() && this.come() <= this.held() / 2;
    if (!isMidway || waits) this.begunAt = now;
    this.framesBefore = this.frames;
    if (now - this.begunAt > FRAME_MS) {
      if (this.reader.dropPieces()) this.begunAt = now;
      else this.socket.destroy();
    }
    this.pace();
  }
}

// The packet of a result, which is JSON text. `fields`: pairs of header fields, for a gateway.
function successText({ key, version }, status, result, fields = []) {
  if (version === 1) return `{"key":${key},"errorcode":0,"errormessage":"success","results":${result}}`;
  // Our nodes read the members fastest in this order.
  const $ = { s: status === 200 ? undefined : status, h: fields.length > 0 ? fields : undefined };
  return `{"key":${key},"$":${JSON.stringify($)},"params":${result}}`;
}

// The packet of an error. `retryAfter` is in milliseconds.
function failureText({ key, version }, { status, reason, message, retryAfter }, fields = []) {
  if (version === 1) {
    return join([['key', key], ['errorcode', String(status)], ['errormessage', JSON.stringify(message)]]);
  }
  const ra = retryAfter === undefined ? {} : { ra: Math.round(retryAfter) };
  const h = fields.length > 0 ? { h: fields } : {};
  return join([['key', key], ['$', JSON.stringify({ s: status, r: reason, m: message, ...ra, ...h })]]);
}

module.exports = { Caller, failureText, successText };
