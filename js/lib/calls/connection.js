'use strict';

// A connection to another node, made when it is first needed: calls wait in it, and answers go to
// the calls that wait for them. It does not decide which call goes to which node, or try a call
// again.

const { Client } = require('../transport/client');
const { Load } = require('../balance/load');
const { COOLING_DOWN, CONNECTING, EJECTED, READY, RECONNECT } = require('../balance/pool');
const { FRAME_LIMIT, isObject, numberIn, seal } = require('../transport/packets');
const { guardedLookup, unreachableWord } = require('./reach');
const { CalledStream } = require('./stream');
const { WriteQueue } = require('./write_queue');

const MAX_CALLS = 10_000; // calls that wait for one node: more than it can answer within a deadline
const KEYS = 2 ** 31; // keys stay below this: version 1 services keep them in 31 bits
const GREETING_MS = 1000; // how long a node at an advertised address may take to say who it is
const WRONG_INSTANCE_MS = 3000; // until another instance's address is tried again: by then the list says more
const UNPROVEN_MS = 1000; // a connection without any answer for so long may lead to a process that is gone
const WRITE_MS = 10_000; // how long a node may read nothing of what is written to it
const FIRST_BACKOFF_MS = 100; // a node that restarts is back after about this time
const MAX_BACKOFF_MS = 3000; // a node that is gone for longer leaves the list sooner or later
const USELESS_PER_SECOND = 200; // packets that no call waits for, such as late answers
const USELESS_AT_ONCE = 2000; // the same at once: calls that were given up together
const MAX_REST_MS = 30_000; // the longest pause before a node that sends such packets is called again

class Connection {
  #state = 'idle'; // then connecting, up, down
  #downUntil = 0;
  #backoff = FIRST_BACKOFF_MS;
  #client = null;
  #pending = new Map(); // by key
  #nextKey = 1;
  #isProven = false; // the node has answered something over this connection
  #isMisdirected = false; // another instance listens there
  #hasAbandoned = false; // a call was given up that may still be answered
  #useless = USELESS_AT_ONCE;
  #uselessAt = 0;
  #rest = UNPROVEN_MS;
  #helloAt = 0;
  #triesFallback = false;
  isRetired = false;
  load = new Load();

  // `target`: see Targets. `own`: {instance, name} of this node. `hooks`: reached(),
  // unreachable(word), warn(text), held(bytes), eventLost(route).
  constructor(target, own, hooks) {
    Object.assign(this, { target, own, hooks });
    this.queue = new WriteQueue(target.version, target.window, {
      onLost: (route) => hooks.eventLost(route, target),
      onWritten: () => this.#settleRetired(),
    });
  }

  get address() {
    return this.target.address;
  }

  get isUp() {
    return this.#state === 'up';
  }

  get isProven() {
    return this.#isProven;
  }

  readiness(now) {
    if (this.#state === 'up') {
      if (this.load.isEjected(now)) return EJECTED;
      // It carries one call first, so that others are not lost with it.
      return !this.#isProven && this.load.inFlight > 0 ? CONNECTING : READY;
    }
    if (this.#state === 'connecting') return CONNECTING;
    return this.#state === 'idle' || now >= this.#downUntil ? RECONNECT : COOLING_DOWN;
  }

  // Begins to connect, unless that is under way or done.
  connect() {
    if (this.#state === 'connecting' || this.#state === 'up' || this.isRetired) return;
    this.#state = 'connecting';
    this.#triesFallback = false;
    this.#open(this.target.advertised ?? this.target);
  }

  #open({ host, port, isName }) {
    let cause = null;
    const client = new Client(host, port,
      () => this.#opened(client),
      (_, packet, text) => this.#take(packet, text),
      () => this.#ended(client, cause),
      (_, error) => { cause ??= error; });
    if (isName) client.options.lookup = guardedLookup(this.target.host);
    client.limit = FRAME_LIMIT;
    this.#client = client;
    client.connect();
  }

  #opened(client) {
    this.#isProven = false;
    this.#isMisdirected = false;
    if (this.target.version === 1) {
      this.#up();
      return;
    }
    this.#helloAt = performance.now();
    const { instance: f, name: n } = this.own;
    const { instance, isShared } = this.target;
    client.write({ uri: '$hello', $: { f, n, to: isShared || instance === undefined ? '*' : instance } });
    if (!this.target.advertised) this.#up();
    else client.patience(GREETING_MS); // anything may listen there, and gets no call before it has said who it is
  }

  #up() {
    this.#state = 'up';
    this.#backoff = FIRST_BACKOFF_MS;
    this.#client.patience(0);
    this.load.connected(performance.now());
    this.hooks.reached(this);
    this.queue.open(this.#client.client);
  }

  #ended(client, cause) {
    if (client !== this.#client) return;
    const wasUp = this.#state === 'up';
    if (!wasUp && this.target.advertised?.isName && !this.#triesFallback) {
      // The address that the Distributor has found may be right where our look-up finds none.
      this.#triesFallback = true;
      this.#open(this.target);
      return;
    }
    const now = performance.now();
    this.#state = 'down';
    this.#downUntil = Math.max(this.#downUntil, now + this.#backoff * (0.5 + Math.random() / 2));
    this.#backoff = Math.min(this.#backoff * 2, MAX_BACKOFF_MS);
    if (this.#isMisdirected) this.hooks.unreachable(this, 'wrong_instance');
    else if (!wasUp) this.hooks.unreachable(this, unreachableWord(cause, this.target));
    // Another instance begins no call: each can be made elsewhere.
    const isWritten = (pending) => wasUp && !this.#isMisdirected && this.queue.mayBeWritten(pending);
    const all = [...this.#pending.values()].map((pending) => ({ pending, written: isWritten(pending) }));
    this.#pending.clear();
    this.queue.close();
    for (const { pending, written } of all) this.#end(pending, { kind: 'lost', written });
  }

  // Accepts a call, whose packet `write` makes of its key and of the milliseconds since $hello.
  // `deadline`: when it is given up. `streams`: it may become a stream. Returns {refusal}, or
  // {pending} whose `outcome` says what became of it.
  submit({ url, deadline, streams, lasting = null }, write) {
    if (this.isRetired) return { refusal: 'gone' };
    if (this.#pending.size >= MAX_CALLS) return { refusal: 'full' };
    const now = performance.now();
    const key = this.#takeKey();
    const pending = { key, url, at: now, streams, lasting, stream: null, done: false, end: null };
    pending.onStreamEnd = (outcome) => { pending.end = outcome; };
    pending.outcome = new Promise((resolve) => { pending.resolve = resolve; });
    pending.doubt = new Promise((resolve) => { pending.onDoubt = resolve; });
    const sent = this.#state === 'up' ? now - this.#helloAt : 0;
    const bytes = seal(write(key, Math.floor(sent)));
    const refusal = this.queue.push(bytes, pending);
    if (refusal) return { refusal };
    this.#pending.set(key, pending);
    this.load.begin(now);
    this.#endAt(pending, deadline);
    if (!this.#isProven) pending.doubtTimer = setTimeout(() => this.#doubt(pending), UNPROVEN_MS);
    return { pending };
  }

  #takeKey() {
    while (this.#pending.has(this.#nextKey)) this.#nextKey = (this.#nextKey % (KEYS - 1)) + 1;
    const key = this.#nextKey;
    this.#nextKey = (key % (KEYS - 1)) + 1;
    return key;
  }

  // Gives a call up at this time.
  #endAt(pending, deadline) {
    const end = () => this.#end(this.#abandon(pending), { kind: 'deadline' });
    pending.timer = setTimeout(end, Math.max(deadline - performance.now(), 0));
  }

  // Nothing has been answered over this connection: the process that accepted it may not be the one
  // that answers.
  #doubt(pending) {
    if (pending.done || this.#isProven) return;
    if (this.#state === 'up') pending.onDoubt('doubt');
    else pending.doubtTimer = setTimeout(() => this.#doubt(pending), UNPROVEN_MS);
  }

  // Sends a packet that nobody answers. Returns false when there is no room for it, or no
  // connection.
  sendEvent(text, route) {
    if (this.#state === 'idle' || this.#state === 'down') return false;
    return this.queue.push(seal(text), null, route) === null;
  }

  // Sends a small packet, however much waits. Returns its bytes without the delimiter.
  push(text) {
    const bytes = seal(text);
    if (this.#state === 'up') this.queue.pushAlways(bytes);
    return bytes.length - 2;
  }

  // Gives a call or a stream up, and tells the node.
  cancel(pending) {
    if (!pending.done) this.#end(this.#abandon(pending), { kind: 'cancelled' });
  }

  // The node is told, unless the call has not been written.
  #abandon(pending) {
    this.#hasAbandoned = true;
    this.#pending.delete(pending.key);
    const isWritten = this.queue.withdraw(pending);
    if (isWritten && this.target.version === 2) this.push(`{"uri":"$cancel","key":${pending.key},"$":{}}`);
    return pending;
  }

  #end(pending, outcome) {
    if (pending.done) return;
    pending.done = true;
    this.#pending.delete(pending.key);
    clearTimeout(pending.timer);
    clearTimeout(pending.doubtTimer);
    if (pending.stream === null) this.load.end();
    else pending.onStreamEnd(outcome);
    pending.resolve(outcome);
    this.#settleRetired();
  }

  #take(packet, text) {
    if (packet?.uri === '$hello') {
      this.#greeted(packet.$);
      return;
    }
    const key = packet === null ? this.#onlyKey() : numberIn(packet?.key);
    const pending = this.#pending.get(key);
    if (!pending || !(packet === null || isObject(packet))) {
      this.#tookUseless(text.length);
      return;
    }
    this.#isProven = true;
    this.#rest = UNPROVEN_MS;
    this.queue.wasRead(pending);
    if (packet?.uri === '$credit') pending.stream?.grant(packet.$?.c);
    else if (pending.stream !== null) this.#takePart(pending, packet, text);
    else if (packet?.$?.n === 0 && pending.streams) this.#becomesStream(pending);
    else {
      this.#recordAnswer(pending);
      this.#end(pending, { kind: 'answer', packet });
    }
  }

  #recordAnswer(pending) {
    const now = performance.now();
    this.load.recordAnswer(now, now - pending.at);
  }

  #becomesStream(pending) {
    this.#recordAnswer(pending);
    this.load.end();
    clearTimeout(pending.timer);
    clearTimeout(pending.doubtTimer);
    const stream = new CalledStream(this, pending, pending.url, (bytes) => this.hooks.held(bytes, stream));
    pending.stream = stream;
    if (pending.lasting !== null) {
      this.#endAt(pending, pending.lasting);
    }
    pending.resolve({ kind: 'open', stream });
  }

  #takePart(pending, packet, text) {
    if (pending.stream.take(packet, text)) return;
    this.#pending.delete(pending.key);
    this.#end(pending, { kind: 'over' });
  }

  // The only call in flight: a version 1 service's `null` has no key. After a call without an
  // answer it might belong to that.
  #onlyKey() {
    const isSure = this.target.version === 1 && this.#pending.size === 1 && !this.#hasAbandoned;
    return isSure ? [...this.#pending.keys()][0] : NaN;
  }

  // The node says who it is.
  #greeted($) {
    const { instance, isShared } = this.target;
    if (instance !== undefined && !isShared && $?.f !== instance) {
      this.#isMisdirected = true;
      this.#downUntil = performance.now() + WRONG_INSTANCE_MS;
      this.#client.client.destroy();
      return;
    }
    this.#isProven = true;
    if (this.#state === 'connecting') this.#up();
  }

  // A packet that no call waits for. With too many of them the connection ends, and none is made
  // for a while.
  #tookUseless(length) {
    const now = performance.now();
    this.#useless = Math.min(this.#useless + ((now - this.#uselessAt) / 1000) * USELESS_PER_SECOND, USELESS_AT_ONCE);
    this.#uselessAt = now;
    this.#useless -= 1 + Math.floor(length / 8192);
    if (this.#useless >= 0 || this.#state !== 'up') return;
    this.#downUntil = now + this.#rest;
    this.#rest = Math.min(this.#rest * 2, MAX_REST_MS);
    this.#cut('it keeps sending packets that no call waits for');
  }

  // Takes no more calls: it ends when those in flight are done.
  retire() {
    this.isRetired = true;
    this.#settleRetired();
  }

  #settleRetired() {
    if (this.isRetired && this.#pending.size === 0 && this.queue.isEmpty) this.#client?.end();
  }

  // Ends it at once.
  destroy() {
    this.isRetired = true;
    this.#client?.client?.destroy();
  }

  #cut(why) {
    this.hooks.warn(`${this.target.name} at ${this.address}: connection closed: ${why}`);
    this.#client.client.destroy();
  }

  tidy(now) {
    if (this.#state === 'up' && this.queue.stalledFor(now) > WRITE_MS) {
      this.#cut(`it has not read anything for ${WRITE_MS / 1000} s`);
    }
  }
}

module.exports = { Connection };
