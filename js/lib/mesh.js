'use strict';

// The protocol of the mesh for services in plain Node.js (18 or newer), without dependencies. It
// has the constructors that old services know. They change one `require`, go on writing version 1
// answers that end in `¶`, and from then on frame right and keep long keys. HTTP clients behind a
// gateway see the same as before. With `{ version: 2 }` a service is told of changes instead of
// lists, is pinged, and HTTP clients see its results alone. Every caller is answered in its own
// version. See examples/js/goods.js.

// Needs the package.json above it: otherwise a package of ECMAScript modules takes this file for
// such a module.
if (typeof require === 'undefined') {
  throw new Error('mesh.js is CommonJS: copy package.json with it, and all other files, into a folder of their own');
}

const { AsyncLocalStorage } = require('node:async_hooks');
const net = require('node:net');
const { Budget, CALL_BYTES, CALL_WEIGHT, MIN_BYTES } = require('./budget');
const packets = require('./packets');
const {
  FRAME_LIMIT, PacketReader, cut, explain, isObject, join, keyOf, parseAddress, parts, seal, shown, shownKey,
} = packets;
const { LogSender } = require('./logs');
const { Registry, Replica, newIdentity } = require('./registry');
const { Reading } = require('./turns');

const WAITING_LIMIT = 8 * 1024 * 1024; // bytes that a caller has not read; beyond this, it is not read from
const UNSENT_LIMIT = 32 * 1024 * 1024; // bytes that wait for a server that we call: a copy of a list, and more
const OLD_READ_BYTES = 65536; // an old caller reads at most this at once, and crashes on a packet in two reads
const OLD_READ_MS = 50; // how long an old caller takes to read an answer that it waits for: a guess
const MAX_CALLS = 1024; // running calls of one caller; with more, it is not read from
const MAX_CALLERS = 10_000; // connections: every node and gateway of a large mesh
const MAX_STRIKES = 3; // broken packets of a caller before it is cut off
const ROOM_MS = 200; // how often a caller that holds too much is checked again: it depends on other callers
const MAX_COMPLAINTS = 10; // lines a second about callers, so that a stranger cannot fill the log
const FRAME_MS = 10_000; // how long a call may take to arrive, from its first byte to its last
const LINE_END_BYTES = 16; // people type line ends between packets; fewer bytes than this begin no call
const CALL_MS = 60_000; // how long a call that the service does not answer is kept: longer than callers wait
const CROWDED_MS = 5000; // the same while such calls keep others from being read
const STALLED_MS = 10_000; // a caller that reads none of its answers for this long is cut off
const KEEP_ALIVE_MS = 60_000; // an idle connection is tested after this time: the other machine may be gone
const FIRST_BYTES = 64; // bytes that are kept of an answer that is not a packet, to tell what the server is
const CONNECT_MS = 1000; // how long connecting may take; in one network it takes far less
const LEAVE_MS = 2000; // how long callers have to learn that we leave, and to close their connections
const FINISH_MS = 10_000; // how long calls in flight may take after that
const TIDY_MS = 1000; // how often time-outs of many seconds are checked

const WRONG_INSTANCE = 421; // HTTP's status for a misdirected request

const PLAIN_NAME = /^[A-Za-z0-9._-]{1,128}$/; // the names that version 2 allows
const handling = new AsyncLocalStorage(); // the call for which the service's code runs

// A service: extend it and override `onRead`.
class Server {
  #identity = newIdentity();
  #callers = new Set();
  #registry = null;
  #onGone = () => {};
  #complaints = 0;
  #version;
  #budget;
  #advertise;
  #oldReadBytes;
  #readWindows = new Map(); // by host, what its peers of version 1 say that they can read
  #logs;

  // `version: 1` registers as before; answers are then asked for, and shown by the gateway, in the
  // old form. `buffers`: bytes that are kept for all callers together. `host`: the address to
  // listen on; without it, all addresses of the machine, as old services do. `advertise`: the
  // address `host:port` at which others can call it, if they cannot use the address that the
  // Distributor sees and the port that it listens on; for version 2 only. `oldReadBytes`: what
  // callers of version 1 can read at once, unless they register that they can read more.
  // `readWindow`: registers, as a service of version 1, that it can itself. `logs: false`: packets
  // are not sent to the node `logs`.
  constructor(name, port, urls = [], {
    version = 1, buffers, host, advertise = process.env.NODE_ADVERTISE, oldReadBytes = OLD_READ_BYTES, logs = true,
    readWindow,
  } = {}) {
    this.context = { port, name, urls, ...(readWindow === undefined ? {} : { readWindow }) }; // registered as it stands, with what a service adds
    this.#version = PLAIN_NAME.test(name) ? version : 1;
    if (advertise !== undefined) parseAddress(advertise);
    this.#advertise = advertise;
    this.isConnectedDistributor = false;
    this.#budget = new Budget(buffers);
    this.#oldReadBytes = Math.min(oldReadBytes, FRAME_LIMIT);
    if (logs) {
      const connect = (host, to, onEnd, onError) => new Client(host, to, undefined, undefined, onEnd, onError);
      this.#logs = new LogSender(name, connect, (text) => this.onLog(text, true));
    }
    // A caller that closes its side may still read its answers.
    this.server = net.createServer({ allowHalfOpen: true }, (socket) => this.#serve(socket));
    this.server.maxConnections = MAX_CALLERS;
    this.server.on('error', (error) => this.onError(error));
    this.server.listen({ port, host }, () => {
      this.context.port = this.server.address().port; // for port 0 the system has picked one
      this.onLog(`listening on ${host === undefined ? '' : `${host}, `}port ${this.context.port}`);
      this.#registry?.connect();
    });
    setInterval(() => this.#tidy(), TIDY_MS).unref();
  }

  // What a service may override.
  onCreate(_socket) {}

  onClose(_socket) {}

  onRead(_socket, _json) {}

  onLog(text, isTrouble = false) {
    (isTrouble ? console.error : console.log)(text);
  }

  onError(error) {
    console.error(`cannot listen on port ${this.context.port}: ${explain(error)}`);
    process.exitCode = 1; // nothing is left that would keep the process running
  }

  // Registers once the port is open, and stays registered. `onNoti` gets the whole list whenever it
  // changes.
  connectToDistributor(host, port, onNoti = () => {}) {
    if (!(Number(port) >= 1 && Number(port) <= 65535)) {
      throw new RangeError(`"${host}:${port}" is not the address of a Distributor: the port must be from 1 to 65535`);
    }
    const listens = () => this.server.address()?.address;
    const identity = { ...this.#identity, version: this.#version, advertise: this.#advertise, listens };
    const told = (list) => {
      this.#logs?.list(list.params);
      this.#readWindows = readWindows(list.params);
      onNoti(list);
    };
    this.#registry = new Registry(this, identity, new Client(host, Number(port)), told);
    if (this.server.listening) this.#registry.connect();
  }

  // The bytes that are held for all callers now, the limit, and how many answers had no room.
  get buffers() {
    const { used, limit, refused } = this.#budget;
    return { bytes: used, limit, refused };
  }

  // Leaves the list. Calls are still served.
  leave() {
    this.#registry?.leave();
  }

  // Leaves the list, and ends when the calls in flight are answered.
  async close() {
    this.leave();
    this.#logs?.end();
    await this.#gone(LEAVE_MS);
    this.server.close();
    for (const caller of this.#callers) caller.finish(true);
    await this.#gone(FINISH_MS);
    for (const caller of this.#callers) caller.socket.destroy();
  }

  #serve(socket) {
    const read = (packet) => this.onRead(socket, withPath(packet, this.context.urls));
    const { id } = this.#identity;
    const host = plainHost(socket.remoteAddress);
    const mayRead = () => Math.min(FRAME_LIMIT, Math.max(this.#oldReadBytes, this.#readWindows.get(host) ?? 0));
    const options = { mayRead, onPacket: (text) => this.#logs?.send(text) };
    const caller = new Caller(tuned(socket), id, read, (text) => this.#complain(text), this.#budget, options);
    this.#callers.add(caller);
    socket.on('close', () => {
      this.#callers.delete(caller);
      this.onClose(socket);
      if (this.#callers.size === 0) this.#onGone();
    });
    this.onCreate(socket);
  }

  // Logs what is wrong with a caller or its call, unless there were many such lines in this second.
  #complain(text) {
    this.#complaints++;
    if (this.#complaints <= MAX_COMPLAINTS) this.onLog(text, true);
  }

  #gone(ms) {
    if (this.#callers.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#onGone = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #tidy() {
    const now = performance.now();
    const heldBack = this.#complaints - MAX_COMPLAINTS;
    if (heldBack > 0) this.onLog(`${heldBack} more lines like these`, true);
    this.#complaints = 0;
    for (const caller of this.#callers) caller.tidy(now);
    this.#registry?.tidy(now);
  }
}

// A connection to a server: `write` takes packets, `onRead` gets them.
class Client {
  constructor(host, port, onCreate, onRead, onEnd, onError) {
    Object.assign(this, { options: { host, port }, onCreate, onRead, onEnd, onError, limit: FRAME_LIMIT });
  }

  connect() {
    if (this.client && !this.client.destroyed) return;
    // Every address of a name is tried, of both families.
    const options = { autoSelectFamily: true, ...this.options };
    const socket = tuned(new net.Socket());
    this.client = socket;
    this.leftOver = null; // the bytes that had arrived when it ended, and are no whole packet
    this.patience(CONNECT_MS);
    const reader = new PacketReader((packet, text) => {
      if (socket.destroyed) return; // the rest of a read
      if (typeof packet?.key === 'number' && !Number.isSafeInteger(packet.key)) {
        packet.key = shownKey(new Map(parts(text)).get('key'));
      }
      this.onRead?.(options, packet, text);
    }, (why) => this.onError?.(options, new Error(why)), this.limit);
    socket.on('connect', () => {
      this.patience(0);
      this.onCreate?.(options);
    });
    new Reading(socket, reader);
    socket.on('timeout', () => socket.destroy(new Error('it gives no sign of life')));
    socket.on('error', (error) => this.onError?.(options, error));
    socket.on('close', () => {
      const { buffer, start, end } = reader;
      this.leftOver = Buffer.from(buffer.subarray(start, Math.min(end, start + FIRST_BYTES)));
      this.onEnd?.(options);
    });
    try {
      socket.connect(options);
    } catch (error) {
      socket.destroy(error); // a list may name a port that there cannot be
    }
  }

  // Sends a packet. False when it has to wait, or is lost because there is no connection.
  write(packet) {
    return this.send(JSON.stringify(packet));
  }

  // As `write`, for a packet that is JSON text already.
  send(text) {
    const socket = this.client;
    if (socket?.writableLength > UNSENT_LIMIT) socket.destroy(new Error('it does not read'));
    return socket?.writable === true && socket.write(seal(text));
  }

  // Gives up when no byte is sent or received for `ms` milliseconds; 0: never.
  patience(ms) {
    this.client.setTimeout(ms);
  }

  end() {
    if (!this.client || this.client.connecting) {
      this.client?.destroy();
      return;
    }
    this.client.end();
    this.patience(CONNECT_MS); // the other side need not close its own
  }
}

// IPv4 peers of a dual-stack listener are spelled ::ffff:a.b.c.d.
const plainHost = (host) => String(host).replace(/^::ffff:(?=\d+\.)/i, '');

// How many bytes the version 1 peers of each host can read at once. It is not known which of them
// calls, so the smallest number counts.
function readWindows(list) {
  const windows = new Map();
  for (const { host, readWindow } of list.filter((entry) => isObject(entry) && !isObject(entry.$))) {
    const bytes = Number.isInteger(readWindow) && readWindow > OLD_READ_BYTES ? readWindow : OLD_READ_BYTES;
    windows.set(plainHost(host), Math.min(bytes, windows.get(plainHost(host)) ?? Infinity));
  }
  return windows;
}

// One caller of a service: its running calls, and the answers that it has not read yet.
class Caller {
  constructor(socket, id, onRead, complain, budget, options) {
    Object.assign(this, { socket, id, onRead, complain, budget, ...options, calls: new Set(), misdirected: false });
    // The bytes that it is charged for, those of its running calls, and the timer of the next check
    // whether it may hold more.
    Object.assign(this, { charged: 0, atWork: 0, again: null });
    // isOld: its last sound packet was of version 1.
    Object.assign(this, { strikes: 0, isOld: false, closing: false, cuts: false });
    // Answers in version 1 form that wait until the caller has read those before.
    Object.assign(this, { waiting: [], waitingBytes: 0, unread: 0, wroteAt: 0, timer: null });
    // The number of frames that have arrived, the number when the unfinished one began, and the
    // time of that.
    Object.assign(this, { frames: 0, framesBefore: 0, begunAt: performance.now() });
    this.send = socket.write.bind(socket);
    this.end = socket.end.bind(socket);
    // Old services write to the socket themselves, do not escape `¶`, and know one form of answer.
    socket.write = (chunk, ...rest) => {
      for (const packet of cut(String(chunk))) this.answer(packet);
      const done = rest.find((one) => typeof one === 'function');
      if (done) process.nextTick(done);
      return !socket.writableNeedDrain;
    };
    socket.end = (chunk) => {
      if (typeof chunk === 'string' || Buffer.isBuffer(chunk)) socket.write(chunk);
      this.calls.clear();
      this.atWork = 0;
      this.finish();
      return socket;
    };
    this.reader = new PacketReader((packet, text) => {
      this.frames++;
      if (!socket.destroyed && !this.take(packet, text)) this.strike('a frame is not a packet');
    }, (why) => this.strike(why));
    this.reader.onCut = (pieces) => {
      complain(`${socket.remoteAddress}: a call was cut by a raw ¶ in a text; its ${pieces} pieces were joined`);
    };
    const isBusy = () => this.isBusy();
    this.reading = new Reading(socket, this.reader, { isBusy, isFull: () => this.isFull() });
    socket.on('close', () => {
      clearTimeout(this.again);
      this.settle();
    });
    socket.on('drain', () => this.pace());
    socket.on('end', () => this.finish());
    socket.on('error', () => {}); // 'close' follows, and answers would not arrive
    socket.setTimeout(STALLED_MS, () => {
      if (socket.writableLength > 0) socket.destroy();
    });
  }

  // Hands a call to the service. False when the packet is no call.
  take(packet, text) {
    if (!isObject(packet)) return false;
    const list = parts(text);
    const members = new Map(list);
    if (members.size !== list.length) return false; // two readers must not understand it in two ways
    const { uri, method } = packet;
    const isOfRegistry = uri === '/distributes';
    if ([uri, method].some((one) => typeof (one ?? '') !== 'string')) return false;
    if (uri === '$cancel') this.forget(members.get('key'));
    if (uri === '$hello') this.greet(packet.$);
    if (uri?.startsWith('$')) return true; // others are of later versions

    const version = (packet.$ ?? null) === null ? 1 : 2;
    this.isOld = version === 1;
    const isLog = version === 1 && typeof packet.params === 'string'; // a log line of an old node: no answer
    const key = isLog ? undefined : keyOf(members, version);
    packet.params ??= {}; // old services crash without params
    if (key !== undefined) {
      packet.key = shownKey(key);
      // Some families of services look here. What a node registers is shown to others as it is.
      if (isObject(packet.params) && !isOfRegistry) packet.params.key = packet.key;
    }
    const bytes = CALL_BYTES + text.length * CALL_WEIGHT;
    const call = { caller: this, key, name: String(packet.key), version, at: performance.now(), bytes };
    if (key !== undefined) {
      this.calls.add(call);
      this.atWork += bytes;
      this.settle();
    }
    if (this.misdirected) {
      const message = 'this is another instance, or another service, than the call is for';
      this.reply(call, failure(WRONG_INSTANCE, 'wrong_instance', message));
      return true;
    }
    if (packet.$?.d <= 0) {
      this.reply(call, failure(504, 'deadline', 'the call came too late to be begun'));
      return true;
    }
    this.onPacket(text);
    // Whatever a stranger sends, an error of the service costs at most this call.
    handling.run(call, async () => this.onRead(packet)).catch((error) => {
      this.complain(`${shown(`${method}${uri}`)} failed: ${error?.stack ?? error}`);
      this.reply(call, failure(500, 'internal', 'the service failed'));
    });
    return true;
  }

  // A caller that wants a certain instance is told which one this is. Calls for another are
  // refused.
  greet($) {
    if (typeof $?.to !== 'string') return;
    this.misdirected = $.to !== this.id && $.to !== '*';
    this.send(seal(JSON.stringify({ uri: '$hello', $: { f: this.id } })));
  }

  // The caller has cancelled the calls with this key.
  forget(key) {
    for (const call of this.calls) if (call.key === key && call.version === 2) this.drop(call);
  }

  // Forgets a call. Returns whether it was running.
  drop(call) {
    const was = this.calls.delete(call);
    if (was) this.atWork -= call.bytes;
    return was;
  }

  // Sends what the service wrote as the answer to a call. It is dropped if no caller waits for it.
  answer(text) {
    let said = failure(502, 'bad_answer', 'the service answered with something that is not a packet');
    let name;
    try {
      const packet = JSON.parse(text);
      if (packet === null) said = failure(501, 'method_not_known', 'the service does not know this method');
      if (typeof packet?.uri === 'string') {
        this.pass(text.trim());
        return;
      }
      if (isObject(packet)) said = new Map(parts(text));
      if (said.has('key')) name = String(shownKey(said.get('key')));
    } catch { /* the caller is told that this is not a packet */ }
    const call = this.callOf(name);
    if (call) this.reply(call, said);
  }

  // Sends a packet that is no answer, such as a list, because an old Distributor may be built on
  // this file, too. If it is written while a call is handled, the call gets no other answer.
  pass(text) {
    const handled = handling.getStore();
    if (handled?.caller === this) this.drop(handled);
    const bytes = seal(text);
    if (!this.budget.fits(this.charged, this.held() + bytes.length)) {
      this.budget.refused++;
      this.complain(`${this.socket.remoteAddress}: no room to keep a packet of ${bytes.length} bytes until it is read`);
      return;
    }
    this.waiting.push(bytes);
    this.waitingBytes += bytes.length;
    this.flush();
    this.settle();
    this.pace();
  }

  // An answer may have no key, and a caller may use one twice: then it belongs to the call being
  // handled.
  callOf(name) {
    const handled = handling.getStore();
    if (handled?.caller === this && (name === undefined || name === handled.name)) {
      if (handled.key === undefined || this.calls.has(handled)) return handled;
    }
    for (const call of this.calls) {
      if (call.name === name || (name === undefined && this.calls.size === 1)) return call;
    }
    return undefined;
  }

  // Answers a call once, in its own form. A call without a key gets no answer.
  reply(call, answer) {
    if (!this.drop(call) || this.socket.destroyed) return;
    const isOld = call.version === 1;
    const limit = isOld ? this.mayRead() : FRAME_LIMIT;
    const write = isOld ? oldAnswer : newAnswer;
    let bytes = seal(write(call.key, answer));
    if (bytes.length > limit) {
      const message = `the answer has ${bytes.length} bytes; this caller can read ${limit}`;
      bytes = seal(write(call.key, failure(500, 'answer_too_large', message)));
    }
    if (!this.budget.fits(this.charged, this.held() + bytes.length)) {
      this.budget.refused++;
      this.complain(`${this.socket.remoteAddress}: no room to keep an answer of ${bytes.length} bytes until it is read`);
      bytes = seal(write(call.key, failure(503, 'no_room', 'there is no room to keep this answer until it is read')));
    }
    if (isOld) {
      this.waiting.push(bytes);
      this.waitingBytes += bytes.length;
      this.flush();
    } else {
      this.send(bytes);
    }
    this.settle();
    this.pace();
  }

  // One write per packet, and never more than an old caller can read at once.
  flush() {
    const now = performance.now();
    if (now - this.wroteAt >= OLD_READ_MS) this.unread = 0;
    while (this.waiting.length > 0) {
      const { length } = this.waiting[0];
      if (this.unread > 0 && this.unread + length > this.mayRead()) {
        this.timer ??= setTimeout(() => {
          this.timer = null;
          this.flush();
          this.pace();
        }, OLD_READ_MS);
        return;
      }
      this.send(this.waiting.shift());
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
    return this.calls.size >= MAX_CALLS || unread > WAITING_LIMIT || this.atWork + unread >= this.budget.mayHave();
  }

  // Whether this caller holds as much as it may, so that nothing is read from it. It depends on
  // other callers when it may hold more.
  isFull() {
    this.settle();
    if (this.budget.isOverdrawn && this.come() > MIN_BYTES) {
      this.complain(`${this.socket.remoteAddress}: dropped: there is no room for what it sends`);
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
    this.complain(`${this.socket.remoteAddress}: dropped: ${why}`);
    // An old gateway passes on what its clients send. It must not lose its connection, and with
    // that all routes of this service, for what one of them says.
    if (this.isOld) return;
    if (++this.strikes >= MAX_STRIKES) this.socket.destroy();
  }

  // Gives up calls that the service does not answer: version 2 callers are told, old callers never
  // were. Cuts off a caller whose call does not end.
  tidy(now) {
    const patience = this.calls.size >= MAX_CALLS ? CROWDED_MS : CALL_MS;
    for (const call of this.calls) {
      if (now - call.at < patience) break;
      if (call.version === 2) this.reply(call, failure(504, 'deadline', 'the service gave no answer'));
      this.drop(call);
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

// Adds to `params` the parts of the path for which a registered url has `{name}`. If several urls
// fit, the first part that is plain text in only one of them decides for that one.
function withPath(packet, urls) {
  if (!urls.some((url) => String(url).includes('{')) || !isObject(packet.params)) return packet;
  const given = `${packet.method}${packet.uri}`.split('/');
  const isName = (part) => /^{.+}$/.test(part);
  const fits = (route) => route.length === given.length
    && route.every((part, n) => (isName(part) ? given[n] !== '' : part === given[n]));
  const names = (route) => route.map((part) => (isName(part) ? 1 : 0)).join('');
  const routes = urls.map((url) => String(url).split('/')).filter(fits);
  const [best = []] = routes.sort((a, b) => (names(a) < names(b) ? -1 : 1));
  best.forEach((part, n) => {
    if (isName(part)) packet.params[part.slice(1, -1)] = decoded(given[n]);
  });
  return packet;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // it cannot be decoded
  }
}

function tuned(socket) {
  return socket.setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_MS);
}

// An answer is a map of members to their JSON text, so that numbers keep every digit.

// The `$` is for version 2 callers; a service may write one beside its `errorcode` too, for a
// better `r`.
function failure(code, reason, message) {
  return new Map(Object.entries({
    errorcode: String(code), errormessage: JSON.stringify(message), $: JSON.stringify({ r: reason }),
  }));
}

function oldAnswer(key, answer) {
  return join([['key', key], ...[...answer].filter(([name]) => name !== 'key' && name !== '$')]);
}

function newAnswer(key, answer) {
  const codes = ['errorcode', 'errorCode'].map((name) => JSON.parse(answer.get(name) ?? '0'));
  const code = codes.find((one) => ![null, 0, '0', '', false].includes(one));
  // Our nodes read the members fastest in this order.
  if (code === undefined) return join([['key', key], ['$', '{}'], ['params', dataOf(answer)]]);
  // The codes of old services have no common meaning, unless they are HTTP's.
  const status = Number.isInteger(Number(code)) && code >= 400 && code < 600 ? Number(code) : 500;
  const reason = /^\w+$/.test(code) ? `errorcode_${code}`.toLowerCase() : 'errorcode';
  const said = JSON.parse(answer.get('errormessage') ?? answer.get('errorMessage') ?? '""');
  const message = typeof said === 'string' ? said : JSON.stringify(said);
  const own = JSON.parse(answer.get('$') ?? '{}');
  return join([['key', key], ['$', JSON.stringify({ s: status, r: reason, m: message, ...own })]]);
}

// The content of an answer: `results` if there is nothing else, and otherwise an object of all
// members that are not the answer's own. Some services put what they found beside `errorcode`, or
// into `errormessage`, where a text is for people.
function dataOf(answer) {
  const data = [...answer].filter(([name, value]) => {
    if (/^error[mM]essage$/.test(name)) return !/^("|null$)/.test(value);
    return !['key', 'errorcode', 'errorCode', '$'].includes(name);
  });
  if (data.length === 0) return 'null';
  const isAlone = data.length === 1 && /^(results|error[mM]essage)$/.test(data[0][0]);
  return isAlone ? data[0][1] : join(data);
}

module.exports = Server;
Object.assign(Server, packets, { Server, Client, Replica, OLD_READ_BYTES });
