'use strict';

// The protocol of the mesh for services in plain Node.js (18 or newer), without dependencies. It
// has the constructors that version 1 services know. They change one `require`, go on writing
// version 1 answers that end in `¶`, and from then on frame right and keep long keys. HTTP clients
// behind a gateway see the same as before. With `{ version: 2 }` a service is told of changes
// instead of lists, is pinged, and HTTP clients see its results alone. Every caller is answered in
// its own version. See examples/js/goods.js.

// Needs the package.json above it: otherwise a package of ECMAScript modules takes this file for
// such a module.
if (typeof require === 'undefined') {
  throw new Error('mesh.js is CommonJS: copy package.json with it, and all other files, into a folder of their own');
}

const net = require('node:net');
const { Budget } = require('./server/budget');
const { Client, tuned } = require('./transport/client');
const { LogSender } = require('./legacy/logs');
const { LegacyCaller } = require('./legacy/caller');
const { withPath } = require('./legacy/paths');
const packets = require('./transport/packets');
const { Registry, Replica, newIdentity } = require('./routing/registry');
const { LEGACY_READ_BYTES, plainHost, readWindows } = require('./legacy/windows');

const { FRAME_LIMIT, explain, parseAddress } = packets;

const MAX_CALLERS = 10_000; // connections: every node and gateway of a large mesh
const MAX_COMPLAINTS = 10; // lines a second about callers, so that a stranger cannot fill the log
const LEAVE_MS = 2000; // how long callers have to learn that we leave, and to close their connections
const FINISH_MS = 10_000; // how long calls in flight may take after that
const TIDY_MS = 1000; // how often time-outs of many seconds are checked

const PLAIN_NAME = /^[A-Za-z0-9._-]{1,128}$/; // the names that version 2 allows

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
  #maxLegacyResponseBytes;
  #readWindows = new Map(); // by host, what its peers of version 1 say that they can read
  #logs;

  // `version: 1` registers as before; answers are then asked for, and shown by the gateway, in the
  // old form. `buffers`: bytes that are kept for all callers together. `host`: the address to
  // listen on; without it, all addresses of the machine, as version 1 services do. `advertise`: the
  // address `host:port` at which others can call it, if they cannot use the address that the
  // Distributor sees and the port that it listens on; for version 2 only. `maxLegacyResponseBytes`:
  // what callers of version 1 can read at once, unless they register that they can read more.
  // `readWindow`: registers, as a service of version 1, that it can itself. `logs: false`: packets
  // are not sent to the node `logs`.
  constructor(name, port, urls = [], {
    version = 1, buffers, host, advertise = process.env.NODE_ADVERTISE, logs = true,
    maxLegacyResponseBytes = LEGACY_READ_BYTES,
    readWindow,
  } = {}) {
    // It is registered as it stands, with what a service adds.
    this.context = { port, name, urls, ...(readWindow === undefined ? {} : { readWindow }) };
    this.#version = PLAIN_NAME.test(name) ? version : 1;
    if (advertise !== undefined) parseAddress(advertise);
    this.#advertise = advertise;
    this.isConnectedDistributor = false;
    this.#budget = new Budget(buffers);
    this.#maxLegacyResponseBytes = Math.min(maxLegacyResponseBytes, FRAME_LIMIT);
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
    const readable = () => Math.max(this.#maxLegacyResponseBytes, this.#readWindows.get(host) ?? 0);
    const mayRead = () => Math.min(FRAME_LIMIT, readable());
    const options = { id, budget: this.#budget, mayRead, warn: (text) => this.#warn(text) };
    const caller = new LegacyCaller(tuned(socket), options, read, (text) => this.#logs?.send(text));
    this.#callers.add(caller);
    socket.on('close', () => {
      this.#callers.delete(caller);
      this.onClose(socket);
      if (this.#callers.size === 0) this.#onGone();
    });
    this.onCreate(socket);
  }

  // Logs what is wrong with a caller or its call, unless there were many such lines in this second.
  #warn(text) {
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

module.exports = Server;
Object.assign(Server, packets, { Server, Client, Replica, LEGACY_READ_BYTES });
