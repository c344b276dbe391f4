'use strict';

// The other nodes: who offers what, and the connections to them.

const { CrashingRoutes } = require('../balance/crashing_routes');
const { EJECTED, Pool, RECONNECT } = require('../balance/pool');
const { RetryBudget } = require('../balance/retry_budget');
const { CallError } = require('../errors');
const { bySpecificity, isPattern, matchesPattern } = require('../routing/event_patterns');
const { Router, isNear, routeFault, shapeOf, splitUrl } = require('../routing/routes');
const { Connection } = require('./connection');
const { HeldParts } = require('./held_parts');
const { isSameTarget, nodeOf, targetsOf } = require('../routing/targets');

const MAX_KNOWN = 65_536; // urls that were offered once: a call of them may be tried again later
const MAX_NEAR_URLS = 16_384; // offered urls that one is compared with: that takes some milliseconds
const MAX_NEAR_CHARS = 128; // of a url that others are compared with
const MAX_REPORTED = 64; // nodes of one report: what the Distributor takes
const REPORT_MS = 10_000; // between two reports of one node: what the Distributor takes notice of
const CONFIRM_MS = 1000; // how long a node must be unreachable to be reported: one that dies is off the list sooner
const EVENTS = 'EVENT';

class Peers {
  #nodes = [];
  #connections = new Map(); // by address
  #pools = new Router(); // of routes
  #known = new Router(); // routes that were offered once, beside those that are
  #knownCount = 0;
  #groups = new Map(); // event path -> Map of name -> Pool
  #patterns = []; // the event paths that are patterns, the most specific first
  #waiting = new Set(); // for a change of the list
  #held = new HeldParts((stream) => this.#endLargest(stream));
  #failed = new Map(); // address -> when it was last reported
  #unreachable = new Map(); // address -> {since, word, isReported}
  crashing = new CrashingRoutes();
  retries = new RetryBudget(performance.now());
  hasList = false;

  // `own`: {instance, name, zone} of this node. `hooks`: warn(text), report({failed,
  // unreachable}), eventLost(route, why).
  constructor(own, hooks) {
    Object.assign(this, { own, hooks });
  }

  get nodes() {
    return this.#nodes.map(({ entry }) => ({ ...entry }));
  }

  // Takes the nodes that are listed now.
  update(listed) {
    const nodes = listed.map(nodeOf).filter((node) => node !== null);
    this.#nodes = nodes;
    this.hasList = true;
    const callable = nodes.filter(({ takesCalls }) => takesCalls);
    const targets = targetsOf(callable, this.own.instance);
    for (const [address, connection] of this.#connections) {
      const target = targets.get(address);
      if (target && isSameTarget(target, connection.target)) continue;
      connection.retire();
      this.#connections.delete(address);
      this.#unreachable.delete(address);
    }
    this.#route(nodes, targets);
    for (const wake of [...this.#waiting]) wake();
  }

  #route(nodes, targets) {
    const offers = new Map(); // route's shape -> members
    const groups = new Map(); // event path -> name -> members
    for (const target of targets.values()) {
      const connection = this.#connectionTo(target);
      for (const node of target.nodes) this.#offer(node, connection, offers, groups);
    }
    const before = this.#pools;
    this.#pools = new Router();
    for (const [shape, members] of offers) this.#pools.at(shape, () => filled(before.at(shape), members));
    for (const { urls } of nodes) urls.forEach((url) => this.#remember(url));
    const groupsBefore = this.#groups;
    this.#groups = new Map();
    const names = [...groups.keys()].map((path) => path.slice(1));
    this.#patterns = names.filter(isPattern).sort(bySpecificity);
    for (const [path, byName] of groups) {
      const known = groupsBefore.get(path);
      this.#groups.set(path, new Map([...byName].map(([name, members]) => [name, filled(known?.get(name), members)])));
    }
  }

  #connectionTo(target) {
    let connection = this.#connections.get(target.address);
    if (!connection) {
      connection = new Connection(target, this.own, {
        reached: () => this.#unreachable.delete(target.address),
        unreachable: (one, word) => this.#wasUnreachable(one, word),
        warn: this.hooks.warn,
        held: (bytes, stream) => this.#held.changed(stream, bytes),
        eventLost: (route, { name, address }) => {
          this.hooks.eventLost(route, `the connection to ${name} at ${address} ended before it was sent`);
        },
      });
      this.#connections.set(target.address, connection);
    }
    connection.target.nodes = target.nodes;
    return connection;
  }

  #offer(node, connection, offers, groups) {
    for (const url of new Set(node.urls)) {
      if (routeFault(url) !== null) continue;
      const member = new Provider(this, node, connection.address, url);
      const [method, path] = splitUrl(url);
      if (method !== EVENTS) {
        add(offers, shapeOf(url), member);
        continue;
      }
      if (!groups.has(path)) groups.set(path, new Map());
      add(groups.get(path), node.name, member);
    }
  }

  #remember(url) {
    if (this.#knownCount >= MAX_KNOWN || routeFault(url) !== null) return;
    this.#known.at(url, () => ++this.#knownCount);
  }

  // The present connection to an address.
  connection(address) {
    return this.#connections.get(address);
  }

  // The providers of a call: {value: Pool, captured}; 'unavailable' if nodes have offered it;
  // undefined if none ever has.
  find(method, path) {
    const found = this.#pools.find(method, path);
    if (found) return found;
    return this.#known.find(method, path) ? 'unavailable' : undefined;
  }

  // The subscribers of an event, by their names. Of several subscriptions of one name, the most
  // specific one counts.
  groups(path) {
    const all = new Map();
    for (const groups of this.#matching(path)) {
      for (const [name, pool] of groups) if (!all.has(name)) all.set(name, pool);
    }
    return all;
  }

  // The same, each node once.
  subscribers(path) {
    const all = new Map();
    for (const groups of this.#matching(path)) {
      for (const pool of groups.values()) {
        for (const member of pool.members) if (!all.has(member.address)) all.set(member.address, member);
      }
    }
    return all.values();
  }

  // The groups of an event's name, and of the patterns to which it belongs.
  #matching(path) {
    const patterns = this.#patterns.filter((pattern) => matchesPattern(pattern, path.slice(1)));
    const all = [path, ...patterns.map((pattern) => `/${pattern}`)].map((one) => this.#groups.get(one));
    return all.filter((groups) => groups !== undefined);
  }

  // A url that nodes offer under another method, if there is one: a hint for a mistake.
  offeredLike(path) {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
      const found = this.#pools.find(method, path);
      if (found) return found.value.members[0]?.url;
    }
    return undefined;
  }

  // An offered url that differs from this one in one letter.
  offeredNear(url) {
    if (url.length > MAX_NEAR_CHARS) return undefined;
    let left = MAX_NEAR_URLS;
    for (const { entry } of this.#nodes) {
      for (const offered of Array.isArray(entry.urls) ? entry.urls : []) {
        if (left-- === 0) return undefined;
        if (typeof offered === 'string' && isNear(url, offered)) return offered;
      }
    }
    return undefined;
  }

  // Resolves when the list changes, or at once when `isDone` says so; rejects at `deadline`.
  async changed(isDone, ms, signal) {
    if (isDone()) return true;
    return new Promise((resolve) => {
      const end = (done) => {
        this.#waiting.delete(wake);
        clearTimeout(timer);
        signal?.removeEventListener('abort', giveUp);
        resolve(done);
      };
      const giveUp = () => end(false);
      const wake = () => { if (isDone()) end(true); };
      const timer = setTimeout(giveUp, Math.min(Math.max(ms, 0), 2 ** 31 - 1));
      this.#waiting.add(wake);
      signal?.addEventListener('abort', giveUp);
    });
  }

  // Replaces a connection over which nothing was answered: its process may be gone.
  renew(connection) {
    const { address } = connection;
    if (this.#connections.get(address) !== connection) return;
    this.#connections.delete(address);
    connection.retire();
    this.#connectionTo(connection.target);
  }

  // Calls to this node fail.
  recordFailed(address) {
    const now = performance.now();
    if (now - (this.#failed.get(address) ?? -Infinity) < REPORT_MS) return;
    this.#failed.set(address, now);
    this.hooks.report({ failed: this.#idsAt(address), unreachable: [] });
  }

  #wasUnreachable(connection, word) {
    const { address } = connection;
    if (this.#connections.get(address) !== connection) return;
    const known = this.#unreachable.get(address);
    if (known) known.word = word;
    else this.#unreachable.set(address, { since: performance.now(), word, isReported: false });
  }

  #idsAt(address) {
    const all = this.#nodes.filter((node) => node.address === address && node.id !== undefined);
    return all.map(({ id }) => id).slice(0, MAX_REPORTED);
  }

  #endLargest(stream) {
    const why = 'there is no room for parts that are not read';
    this.hooks.warn(`a stream was ended: ${why}`);
    stream.endWith(new CallError('lost', '', `the stream was ended: ${why}`));
  }

  tidy(now) {
    for (const connection of this.#connections.values()) connection.tidy(now);
    for (const [address, at] of this.#failed) if (now - at >= REPORT_MS) this.#failed.delete(address);
    const unreachable = [];
    for (const [address, one] of this.#unreachable) {
      if (one.isReported || now - one.since < CONFIRM_MS) continue;
      one.isReported = true;
      const { name } = this.#connections.get(address)?.target ?? {};
      this.hooks.warn(`${name} at ${address} cannot be reached (${one.word}) and is listed`);
      unreachable.push(...this.#idsAt(address).map((id) => [id, one.word]));
    }
    if (unreachable.length > 0) this.hooks.report({ failed: [], unreachable: unreachable.slice(0, MAX_REPORTED) });
  }

  // Ends all connections: at once, or when their calls are done.
  close(atOnce) {
    for (const connection of this.#connections.values()) {
      if (atOnce) connection.destroy();
      else connection.retire();
    }
  }
}

// A node as a provider of one route, as balancing sees it.
class Provider {
  constructor(peers, node, address, url) {
    Object.assign(this, { peers, node, address, url, weight: node.weight, instance: node.instance });
    const { zone, instance } = peers.own;
    this.sameZone = zone !== undefined && node.zone === zone;
    this.isLocal = node.instance !== undefined && node.instance === instance;
  }

  // The connection may have been renewed.
  get connection() {
    return this.peers.connection(this.address);
  }

  get load() {
    return this.connection.load;
  }

  get rendezvous() {
    return this.connection.target.rendezvous;
  }

  readiness(now) {
    const readiness = this.connection.readiness(now);
    return this.node.isSuspect ? Math.max(readiness, EJECTED) : readiness;
  }

  connect() {
    this.connection.connect();
  }
}

function add(map, key, member) {
  const members = map.get(key) ?? [];
  members.push(member);
  map.set(key, members);
}

// A pool with these members, which goes on where the one before was.
function filled(before, members) {
  const pool = new Pool(before ? { turn: before.turn } : {});
  pool.set(members);
  pool.isUsed = before?.isUsed ?? false;
  if (pool.isUsed) {
    const now = performance.now();
    // Newcomers are connected before their first turn.
    for (const member of pool.subset) if (!member.isLocal && member.readiness(now) === RECONNECT) member.connect();
  }
  return pool;
}

module.exports = { Peers };
