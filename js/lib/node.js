'use strict';

// A node of the mesh: it offers routes, and calls those of others.

const net = require('node:net');
const { Budget } = require('./server/budget');
const { Call } = require('./calls/call');
const { emit } = require('./calls/events');
const { Peers } = require('./calls/peers');
const { Client, tuned } = require('./transport/client');
const { current, within } = require('./calls/context');
const { CallError, StartError } = require('./errors');
const { FRAME_LIMIT, explain, parseAddress, shown, textIn } = require('./transport/packets');
const { Registry, newIdentity } = require('./routing/registry');
const { eventFault, routeFault } = require('./routing/routes');
const { wantedHeaders } = require('./server/http_request');
const { NodeCaller } = require('./server/node_caller');
const { typesFault } = require('./server/params');
const { Service } = require('./server/service');
const { LEGACY_READ_BYTES, plainHost, readWindows } = require('./legacy/windows');

const MAX_CALLERS = 10_000; // connections: every node and gateway of a large mesh
const MAX_COMPLAINTS = 10; // lines a second about others, so that a stranger cannot fill the log
const MAX_URLS = 256; // of a node: what the Distributor accepts
const START_MS = 5000; // how long `start` waits for the Distributor: one that works answers far sooner
const LEAVE_MS = 2000; // how long callers have to learn that we leave, and to close their connections
const FINISH_MS = 10_000; // how long calls in flight may take after that
const TIDY_MS = 1000; // how often time-outs of many seconds are checked
const MAX_WEIGHT = 1000; // hundredths of the usual share

const NAME = /^[A-Za-z0-9._-]{1,128}$/;
const NODE_OPTIONS = [
  'distributor', 'host', 'port', 'advertise', 'zone', 'weight', 'version', 'meta', 'publicRoutes', 'buffers',
  'maxLegacyResponseBytes', 'log',
];
const ROUTE_OPTIONS = ['concurrency', 'headers', 'params', 'public'];

class Node {
  #options;
  #identity = newIdentity();
  #state = 'new'; // then starting, running, stopping, stopped
  #server = null;
  #port = 0;
  #callers = new Set();
  #registry = null;
  #budget;
  #readWindows = new Map(); // by host, what its peers of version 1 say that they can read
  #detached = new Set();
  #complaints = 0;
  #onGone = () => {};
  #context = null; // what is registered
  #service = new Service(this);
  #peers;
  #lostEvents = 0;
  #timer = null;

  // See index.d.ts for the options.
  constructor(name, options = {}) {
    const { distributor = '127.0.0.1:9000', advertise = process.env.NODE_ADVERTISE, buffers } = options;
    checkName(name);
    checkOptions(options);
    this.name = name;
    this.#options = {
      host: '127.0.0.1', port: 0, maxLegacyResponseBytes: LEGACY_READ_BYTES, ...options, advertise,
      distributor: checkAddress('distributor', distributor),
    };
    if (advertise !== undefined) checkAddress('advertise', advertise);
    this.#budget = new Budget(buffers);
    const { id: instance } = this.#identity;
    const { zone } = options;
    this.#peers = new Peers({ instance, name, zone }, {
      warn: (text) => this.warn(text),
      report: (report) => this.#registry?.report(report),
      eventLost: (route, why) => this.lost(route, why),
    });
    this.bound = {
      call: this.call.bind(this), stream: this.stream.bind(this), detach: this.detach.bind(this),
      emit: this.emit.bind(this), broadcast: this.broadcast.bind(this),
    };
  }

  // The id of this instance: each process makes its own.
  get id() {
    return this.#identity.id;
  }

  // The port that it listens on; 0 before it does.
  get port() {
    return this.#port;
  }

  // Whether the Distributor lists this node at this moment.
  get isRegistered() {
    return this.#registry?.isListed ?? false;
  }

  // Events, and other calls without an answer, that were lost: for want of room, or because their
  // handler failed.
  get lostEvents() {
    return this.#lostEvents;
  }

  // The entries of all nodes that are listed.
  get nodes() {
    return this.#peers.nodes;
  }

  // Offers a route, such as `GET/orders/{id}`. The handler returns the result, or throws. Nodes can
  // call it; clients of a gateway can if it is public.
  route(url, handler, options = {}) {
    this.#offer(url, handler, options, false);
    return this;
  }

  // Subscribes to an event, such as `orders.created`, or to all that belong to a pattern, such as
  // `orders.*` or `orders.>`. One node of each name gets an event.
  on(event, handler, options = {}) {
    const fault = eventFault(event);
    if (fault) throw new StartError(fault);
    this.#offer(`EVENT/${event}`, handler, options, true);
    return this;
  }

  #offer(url, handler, options, takesPayload) {
    const remedy = 'Write it like GET/goods or GET/goods/{id}';
    const bad = (why) => new StartError(`'${shown(url, 60)}' is not a route: ${why}. ${remedy}`);
    if (typeof url !== 'string') throw bad('it is not a text');
    const fault = routeFault(url);
    if (fault) throw bad(fault);
    if (this.#state !== 'new') throw new StartError(`the route ${url} comes too late: give all routes before start()`);
    if (typeof handler !== 'function') {
      throw new StartError(`the route ${url} has no handler: give a function behind it`);
    }
    for (const name of Object.keys(options)) {
      if (!ROUTE_OPTIONS.includes(name)) {
        const known = ROUTE_OPTIONS.join(', ');
        throw new StartError(`the route ${url} has the option ${name}, which there is not; there are ${known}`);
      }
    }
    const isUsuallyPublic = this.#options.publicRoutes === true && !takesPayload;
    const { concurrency, params: types, public: isPublic = isUsuallyPublic } = options;
    if (concurrency !== undefined && !(Number.isInteger(concurrency) && concurrency >= 1)) {
      throw new StartError(`concurrency of ${url} is ${concurrency}; it is a number of calls, 1 or more`);
    }
    if (typeof isPublic !== 'boolean') {
      throw new StartError(`public of ${url} is ${shown(isPublic)}; it is true or false`);
    }
    if (isPublic && takesPayload) {
      throw new StartError(`the event ${url.slice(6)} cannot be public: events are for nodes only`);
    }
    const { names: wanted, fault: wrongHeaders } = options.headers === undefined ? {} : wantedHeaders(options.headers);
    if (wrongHeaders) throw new StartError(`headers of ${url}: ${wrongHeaders}`);
    if (wanted && takesPayload) throw new StartError(`the event ${url.slice(6)} has no headers: no client emits it`);
    const wrong = types === undefined ? null : typesFault(types);
    if (wrong) throw new StartError(`the params of ${url}: ${wrong}`);
    if (this.#service.offers.length >= MAX_URLS) {
      throw new StartError(`a node has ${MAX_URLS} routes and events at most; ${url} is one more`);
    }
    const other = this.#service.add(url, handler, { concurrency, types, isPublic, wanted }, takesPayload);
    if (other === url) throw new StartError(`the route ${url} is given twice; each route has one handler`);
    if (other) {
      throw new StartError(`the routes ${other} and ${url} are one, as names of parameters make no difference; `
        + 'each route has one handler');
    }
  }

  // Listens and registers. Resolves when the node is listed; or when there is no Distributor, which
  // the log tells: the node serves without it and tries again every 3 s.
  async start() {
    if (this.#state !== 'new') throw new StartError('start() was called before; make a new Node to start again');
    this.#state = 'starting';
    await this.#listen();
    const { host, port } = this.#options.distributor;
    const urls = this.#service.offers.map(({ url }) => url);
    this.#context = { port: this.port, name: this.name, urls, $: this.#advert() };
    const { advertise } = this.#options;
    const listens = () => this.#server.address()?.address;
    const refused = (why) => new StartError(`the distributor ${host}:${port} does not accept this node: ${why}`);
    let timer;
    await new Promise((resolve, reject) => {
      const service = {
        context: this.#context,
        onLog: (text, isTrouble) => this.log(text, isTrouble),
        onNodes: (nodes) => this.#update(nodes),
        onRegistered: resolve,
        onUnconnected: resolve,
        onTurnedAway: ({ s, r, m, ra }) => {
          if (!(s >= 400) || ra >= 0) resolve(); // it is listed later
          else reject(refused(`${shown(r)}: ${shown(m, 256)}`));
        },
      };
      const identity = { ...this.#identity, version: 2, advertise, listens };
      this.#registry = new Registry(service, identity, new Client(host, port), () => {});
      this.#registry.connect();
      timer = setTimeout(() => {
        this.log(`the distributor ${host}:${port} has not answered yet; serving without it`, true);
        resolve();
      }, START_MS);
    }).catch((error) => {
      this.#end();
      throw error;
    }).finally(() => clearTimeout(timer));
    if (this.#state === 'starting') this.#state = 'running';
    this.#timer = setInterval(() => this.#tidy(), TIDY_MS).unref();
    return this;
  }

  // What others see of this node, beside its urls. `routes` is there even if it is empty: all
  // routes of a node without it are public.
  #advert() {
    const { zone, weight, version, meta } = this.#options;
    const routes = new Map(); // by what they state
    this.#service.offers.forEach(({ isPublic, wanted: headers, takesPayload: isEvent }, at) => {
      const stated = { public: isPublic || undefined, headers, acks: isEvent || undefined };
      const known = JSON.stringify(stated);
      if (known !== '{}') routes.set(known, { at: [...(routes.get(known)?.at ?? []), at], ...stated });
    });
    return { zone, weight, version, meta, routes: [...routes.values()] };
  }

  #listen() {
    const { host, port } = this.#options;
    // A caller that closes its side may still read its answers.
    this.#server = net.createServer({ allowHalfOpen: true }, (socket) => this.#serve(socket));
    this.#server.maxConnections = MAX_CALLERS;
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error) => {
        this.#state = 'stopped';
        const hint = error.code === 'EADDRINUSE' ? '; give another with { port }, or 0 for any that is free' : '';
        reject(new StartError(`cannot listen on ${host}, port ${port}: ${explain(error)}${hint}`, { cause: error }));
      });
      this.#server.listen({ host, port }, () => {
        this.#port = this.#server.address().port;
        this.log(`listening on ${host}:${this.#port} as ${this.name}`);
        this.#server.on('error', (error) => this.log(`cannot accept callers: ${explain(error)}`, true));
        resolve();
      });
    });
  }

  #serve(socket) {
    const host = plainHost(socket.remoteAddress);
    const readable = () => Math.max(this.#options.maxLegacyResponseBytes, this.#readWindows.get(host) ?? 0);
    const mayRead = () => Math.min(FRAME_LIMIT, readable());
    const options = { id: this.id, budget: this.#budget, mayRead, warn: (text) => this.warn(text) };
    const caller = new NodeCaller(tuned(socket), options, this.#service);
    this.#callers.add(caller);
    socket.on('close', () => {
      this.#callers.delete(caller);
      this.onIdle();
    });
  }

  #update(nodes) {
    this.#readWindows = readWindows(nodes.map(({ entry }) => entry));
    this.#peers.update(nodes);
  }

  // Calls a url, such as `GET/orders/7`. Resolves to the result; rejects with a CallError.
  async call(url, params, options) {
    this.#checkRunning(url);
    return new Call(this.#peers, this.#service, url, params, options).run();
  }

  // As `call`, for answers that come in parts. Resolves to a stream. `for await` takes the promise,
  // too.
  stream(url, params, options) {
    const opened = this.#open(url, params, options);
    const iterate = async function* iterate() {
      yield* await opened;
    };
    return Object.assign(opened, { [Symbol.asyncIterator]: iterate });
  }

  async #open(url, params, options) {
    this.#checkRunning(url);
    return new Call(this.#peers, this.#service, url, params, options, true).run();
  }

  #checkRunning(url) {
    if (this.#state === 'new') {
      const why = `${shown(url)} is called before the node has started: await node.start()`;
      throw new CallError('not_started', url, why);
    }
  }

  // Tells one node of each name that has subscribed. Resolves to how many it was sent to.
  async emit(event, payload) {
    this.#checkRunning(event);
    return emit(this.#emitter(), event, payload, false);
  }

  // Tells all nodes that have subscribed. Resolves to how many it was sent to.
  async broadcast(event, payload) {
    this.#checkRunning(event);
    return emit(this.#emitter(), event, payload, true);
  }

  #emitter() {
    const lost = (route, why) => this.lost(route, why);
    return { peers: this.#peers, service: this.#service, name: this.name, lost };
  }

  // Resolves when all these urls are offered by nodes that take calls; rejects after `timeout`.
  async waitFor(urls, { timeout = 10_000 } = {}) {
    for (const url of urls) this.#checkRunning(url);
    const missing = () => urls.filter((url) => {
      const at = url.indexOf('/');
      const found = this.#peers.find(url.slice(0, at), url.slice(at));
      return found === undefined || found === 'unavailable';
    });
    if (!await this.#peers.changed(() => missing().length === 0, timeout)) {
      throw new Error(`after ${timeout} ms no node offers ${missing().join(', ')}`);
    }
  }

  // Runs work that may outlast the call that is handled: it has the call's trace and no deadline,
  // and `stop` waits for it. Returns what `work` returns.
  detach(work) {
    const running = within(current().outlasting(), async () => work());
    this.#detached.add(running);
    const done = () => {
      this.#detached.delete(running);
      this.onIdle();
    };
    running.then(done, (error) => {
      this.warn(`detached work failed: ${textIn(error?.stack ?? error)}`);
      done();
    });
    return running;
  }

  // Leaves the list, finishes the calls in flight and detached work, and ends.
  async stop() {
    if (this.#state === 'new' || this.#state === 'stopped') return;
    this.#state = 'stopping';
    this.#registry?.leave();
    await this.#idle(LEAVE_MS);
    this.#server.close();
    for (const caller of this.#callers) {
      caller.stopStreams();
      caller.finish(true);
    }
    await this.#idle(FINISH_MS);
    this.#end();
  }

  #end() {
    this.#state = 'stopped';
    clearInterval(this.#timer);
    this.#registry?.leave();
    this.#server.close();
    for (const { socket } of this.#callers) socket.destroy();
    this.#peers.close(true);
  }

  // Resolves when nothing is at work any more, after `ms` at the latest.
  #idle(ms) {
    const isIdle = () => this.#callers.size + this.#detached.size + this.#service.leftCalls === 0;
    if (isIdle()) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#onGone = () => {
        if (!isIdle()) return;
        clearTimeout(timer);
        resolve();
      };
    });
  }

  onIdle() {
    this.#onGone();
  }

  // An event, or another call without an answer, was lost.
  lost(route, why) {
    this.#lostEvents++;
    this.warn(`${shown(route)} was lost: ${textIn(why?.message ?? why)}`);
  }

  log(text, isTrouble = false) {
    const { log = (line) => console.error(line) } = this.#options;
    if (log) log(text, isTrouble);
  }

  // Logs what is wrong with others or their calls, unless there were many such lines in this
  // second.
  warn(text) {
    this.#complaints++;
    if (this.#complaints <= MAX_COMPLAINTS) this.log(text, true);
  }

  #tidy() {
    const now = performance.now();
    const suppressed = this.#complaints - MAX_COMPLAINTS;
    if (suppressed > 0) this.log(`${suppressed} more lines like these`, true);
    this.#complaints = 0;
    for (const caller of this.#callers) caller.tidy(now);
    this.#registry?.tidy(now);
    this.#peers.tidy(now);
  }
}

function checkName(name) {
  if (typeof name !== 'string' || !NAME.test(name)) {
    throw new StartError(`'${shown(name)}' is not a name of a node; use 1 to 128 of A-Z a-z 0-9 . _ -`);
  }
}

function checkAddress(what, text) {
  try {
    return parseAddress(text);
  } catch (cause) {
    throw new StartError(`${what}: ${cause.message}`, { cause });
  }
}

function checkOptions(options) {
  for (const name of Object.keys(options)) {
    if (!NODE_OPTIONS.includes(name)) {
      throw new StartError(`a node has no option ${name}; it has ${NODE_OPTIONS.join(', ')}`);
    }
  }
  const { port = 0, weight = 0, publicRoutes = false, log = () => {} } = options;
  if (!(Number.isInteger(port) && port >= 0 && port <= 65535)) {
    throw new StartError(`port is ${port}; it is a number from 0 to 65535`);
  }
  if (!(Number.isInteger(weight) && weight >= 0 && weight <= MAX_WEIGHT)) {
    throw new StartError(`weight is ${weight}; it is in hundredths of the usual share, from 0 to ${MAX_WEIGHT}`);
  }
  if (typeof publicRoutes !== 'boolean') {
    throw new StartError(`publicRoutes is ${shown(publicRoutes)}; it is true or false`);
  }
  if (log !== false && typeof log !== 'function') throw new StartError('log is a function of a text, or false');
}

module.exports = { Node };
