'use strict';

// A caller of a node whose handlers return their answers.

const { Caller, failureText, successText } = require('./caller');
const { Context, readTrace } = require('../calls/context');
const { isObject, parts } = require('../transport/packets');
const { isIdempotent } = require('../routing/routes');
const { overloaded } = require('./concurrency');
const { ServedStream } = require('./stream');

const MAX_PART_BYTES = 1024 * 1024; // bytes of parts that wait to be written: four times the credit of a usual caller
const MAX_STREAMS = 4096; // open streams of one caller; its reading paces them

class NodeCaller extends Caller {
  #base = Infinity; // of the fastest call so far: when it arrived, less its time since $hello
  #stated = { instance: undefined, name: undefined };
  #open = new Map(); // streams by their keys
  #onRoom = new Set(); // called when the caller has read: parts wait for it

  constructor(socket, options, service) {
    super(socket, options);
    this.service = service;
    socket.on('drain', () => this.#tellOfRoom());
    socket.on('close', () => this.#tellOfRoom());
  }

  greet($) {
    super.greet($);
    if (typeof $?.f === 'string') this.#stated.instance = $.f;
    if (typeof $?.n === 'string') this.#stated.name = $.n;
  }

  // How long a call has waited on its way, beside what the fastest one took.
  #waited($, now) {
    if (!Number.isFinite($.t)) return 0;
    this.#base = Math.min(this.#base, now - $.t);
    return now - $.t - this.#base;
  }

  begin(call, packet) {
    const $ = isObject(packet.$) ? packet.$ : {};
    const now = performance.now();
    const { method = '', uri = '' } = packet;
    const waited = this.#waited($, now);
    if (Number.isFinite($.d) && waited > $.d / 2) {
      if (waited >= $.d) this.fail(call, 504, 'deadline', 'the deadline was over before the call began');
      else this.#answer(call, { error: overloaded('the call waited for half of its time before it could be begun') });
      return;
    }
    const isAnswered = call.key !== undefined;
    const streams = call.version === 2 && isAnswered && Number.isFinite($.c);
    const context = new Context({
      deadline: Number.isFinite($.d) ? now + $.d - waited : null,
      trace: readTrace($.tp),
      hops: (Number.isInteger($.h) && $.h > 0 ? $.h : 0) + 1,
      mayStream: streams,
    });
    const stream = streams ? new ServedStream(call, $.c, () => {
      context.deadline = null;
      this.#open.set(call.key, call);
    }) : null;
    if (stream && this.openStreams >= MAX_STREAMS) {
      this.#answer(call, { error: overloaded('this caller has too many open streams') });
      return;
    }
    const finishes = !isAnswered || !(isIdempotent(method) || $.i === true);
    Object.assign(call, { stream, finishes, abort: () => context.abort(), onDone: () => {} });
    const { remoteAddress: host, remotePort: port } = this.socket;
    const stated = typeof $.f === 'string' ? { instance: $.f } : {};
    const caller = { ...this.#stated, ...stated, address: `${host}:${port}` };
    if (!isAnswered) this.service.keep(call); // an event is finished, even if its caller goes
    const what = { method, uri, params: packet.params, $, version: call.version };
    const run = () => this.service.run({ ...what, isAnswered, context, caller, stream });
    const isInTurn = method === 'EVENT' && isAnswered && typeof $.k === 'string';
    (isInTurn ? this.service.turns.run($.k, run).catch((error) => ({ error })) : run())
      .then((outcome) => {
        if (outcome !== undefined) this.#answer(call, outcome);
        if (!isAnswered && outcome?.error) this.service.node.lost(`${method}${uri}`, outcome.error);
        call.onDone();
      });
  }

  #answer(call, { status, text, error, fields }) {
    this.reply(call, error ? failureText(call, error, fields) : successText(call, status, text, fields));
  }

  control({ uri, $ }, key, text) {
    const call = this.#open.get(key);
    if (!call || !isObject($)) return;
    if (uri === '$credit') call.stream.sender.grant($.c);
    if (uri === '$part' && call.stream.received !== null) {
      const value = JSON.parse(new Map(parts(text)).get('params') ?? 'null');
      const fault = call.stream.received.push($.n, $.end === true, value, Buffer.byteLength(text));
      if (fault) {
        this.warn(`${this.socket.remoteAddress}: dropped: ${fault}`);
        this.socket.destroy();
      }
    }
  }

  // Whether a part may be added to what the caller has to read. If not, calls `onRoom` once that
  // may have changed.
  hasRoom(onRoom) {
    if (this.socket.destroyed || this.socket.writableLength <= MAX_PART_BYTES) return true;
    this.#onRoom.add(onRoom);
    return false;
  }

  #tellOfRoom() {
    const all = this.#onRoom;
    this.#onRoom = new Set();
    for (const onRoom of all) onRoom();
  }

  drop(call) {
    if (this.#open.get(call.key) === call) this.#open.delete(call.key);
    return super.drop(call);
  }

  gone(call) {
    call.stream?.gone();
    if (!call.abort) return;
    if (call.finishes && !call.stream?.isOpen) this.service.keep(call);
    else call.abort();
  }

  // The node stops: streams end as soon as they have nothing to send.
  stopStreams() {
    for (const call of this.calls) call.stream?.stop();
  }
}

module.exports = { NodeCaller };
