'use strict';

// A node's side of the registry: what it knows, and its connection to the Distributor.

const { createHash, randomBytes } = require('node:crypto');
const { inflateSync } = require('node:zlib');
const { farEnd, inVain, isOwn, resolved, foreignServer } = require('./hosts');
const { crc32, explain, isObject, parts, shown } = require('./packets');

const LIST_LIMIT = 16 * 1024 * 1024; // bytes of a list: twice the limit of our Distributor
const COPY_PART_BYTES = 32 * 1024; // bytes of entries in a part of a copy: the packet stays below 64 KiB
const RECONNECT_MS = 3000; // pause before connecting again, in which all nodes come back one by one
const FOREIGN_SERVER_MS = 30_000; // the longest pause before a server that is not a Distributor is tried again
const SILENCE_MS = 15_000; // how long a Distributor may be silent; one of version 2 pings far more often
const MAX_WAIT_MS = 3_600_000; // the longest wait that the Distributor may ask for
const HOLD_MS = 11_000; // how long nodes are kept that a restarted version 1 Distributor does not list yet
const NOT_YOURS_MS = 10_000; // pause between tries to register, and between log lines, if our id is refused
const ASK_AGAIN_MS = 3000; // how long a requested list may be on its way before it is requested again

// A secret that only the Distributor is told, and the instance id that it proves. Each process
// makes its own: a service that was started again is another instance.
function newIdentity() {
  const secret = randomBytes(32).toString('hex');
  return { id: `~${createHash('sha256').update(secret).digest('hex').slice(0, 32)}`, secret };
}

// Registers a service, applies lists and changes, and connects again when the connection is lost.
// `onNoti` gets every change in the old form: as a whole list.
class Registry {
  #secret;

  constructor(service, { id, secret, version, advertise, listens = () => undefined }, client, onNoti) {
    this.#secret = secret;
    Object.assign(this, { service, id, version, advertise, listens, client, onNoti, replica: new Replica(), left: false });
    Object.assign(this, { notYoursAt: -Infinity, warnedOf: null, foreignServerMs: RECONNECT_MS / 2 });
    this.where = `distributor ${client.options.host}:${client.options.port}`;
    this.trouble = ''; // the last trouble that was logged, so that it is not logged at each try
    this.cause = '';
    client.limit = LIST_LIMIT;
    client.onCreate = () => this.opened();
    client.onRead = (_, packet, text) => this.take(packet, text);
    client.onEnd = () => this.closed();
    client.onError = (_, error) => { this.cause = explain(error); };
  }

  connect() {
    this.cause = 'it closed the connection';
    this.client.connect();
  }

  opened() {
    // isV2: the Distributor has sent `$`; heard: it has sent a packet; listed: its list shows this
    // service.
    Object.assign(this, { isV2: false, heard: false, listed: false, askedAt: -Infinity, told: false, strange: null });
    this.service.isConnectedDistributor = true;
    const socket = this.client.client;
    this.client.patience?.(SILENCE_MS); // a silent server may not be a Distributor
    this.replica.connected(farEnd(socket));
    this.warnOfReach(socket);
    this.register();
  }

  // Whether the service listens for this machine only, and advertises no other address.
  isLoopback() {
    const host = this.listens();
    return this.advertise === undefined && host !== undefined && isOwn(host) && !/^(::|0\.0\.0\.0)$/.test(host);
  }

  // Warns if the Distributor tells others to call an address at which the service does not listen.
  warnOfReach({ localAddress, remoteAddress }) {
    const vain = this.advertise === undefined ? inVain(this.listens(), localAddress) : null;
    if (vain === null || this.warnedOf === remoteAddress) return;
    this.warnedOf = remoteAddress;
    const { port } = this.service.context;
    const [listens, told] = [`${this.listens()}:${port}`, `${vain.seen}:${port}`];
    this.service.onLog(`${vain.who} can call this service: it listens on ${listens}, and others are told ${told} by the `
      + `${this.where}; have it listen on ${vain.seen} or on 0.0.0.0, or advertise the address at which it can be called`, true);
  }

  register() {
    const { service: { context }, id, version, replica } = this;
    const packet = { uri: '/distributes', method: 'POST', key: 0, params: { ...context } };
    if (version === 2) {
      packet.params.$ = { ...context.$, v: 2, id };
      if (this.advertise !== undefined) packet.params.$.advertise = this.advertise;
      packet.$ = { secret: this.#secret, packed: true };
      if (replica.state) packet.$.have = { ...replica.state, digest: replica.digest };
      if (this.isLoopback()) packet.$.loopback = true;
    }
    this.client.write(packet);
  }

  take(packet, text) {
    if (!isObject(packet)) return;
    const $ = isObject(packet.$) ? packet.$ : null;
    if (!this.told && packet.key !== undefined && packet.uri !== '/distributes') {
      this.strange = 'it answers like a service';
      this.client.end();
      return;
    }
    if (!this.told && !$) this.client.patience?.(0); // of version 1, which is silent for long
    this.told = true;
    if ($ && !this.isV2) {
      this.isV2 = true;
      this.client.patience(SILENCE_MS);
    }
    if (packet.uri === '$ping') this.pinged($ ?? {});
    else if (packet.uri !== '/distributes') return; // of a later version
    else if ($?.copy === true) this.copy();
    else if (typeof $?.r === 'string') this.turnedAway($);
    else this.news(packet, text);
    if (this.heard && !this.listed && this.replica.lists(this)) {
      this.listed = true;
      this.trouble = '';
      this.service.onLog(`registered as ${this.service.context.name} at ${this.where}`);
      this.logTranslation();
    }
  }

  // Addresses are translated on the way. Others reach this service only if the port is passed on.
  logTranslation() {
    const { localAddress } = this.client.client ?? {};
    const { host, port } = this.replica.entryOf(this) ?? {};
    const [here, told] = [localAddress, host].map((one) => String(one).replace(/^::ffff:(?=\d+\.)/i, ''));
    const isKnown = host !== undefined && localAddress !== undefined && !isOwn(here) && !isOwn(told);
    if (!isKnown || here === told || this.advertise !== undefined || this.translatedTo === told) return;
    this.translatedTo = told;
    this.service.onLog(`others are told ${told}:${port}: the ${this.where} sees this service come from there, and its own `
      + `address is ${here}. Unless that port leads here, advertise the address at which it can be called`);
  }

  news(packet, text) {
    const outcome = this.replica.take(packet, text, performance.now());
    if (outcome === 'gap') this.ask();
    if (outcome === 'bad' && this.trouble !== outcome) {
      this.trouble = outcome;
      this.service.onLog(`ignored a list of the ${this.where} that is none; what was known before stays in use`, true);
    }
    if (outcome === 'changed' || outcome === 'same') this.heard = true;
    if (outcome === 'changed') this.publish();
    if (packet.$?.ack === true) this.pong();
  }

  publish() {
    this.onNoti({ uri: '/distributes', method: 'GET', key: 0, params: this.replica.list() });
  }

  pinged({ every, epoch, rev, digest }) {
    const { state } = this.replica;
    this.heard = true;
    this.client.patience(Math.min(Math.max(SILENCE_MS, 3 * every || 0), MAX_WAIT_MS));
    this.pong();
    const sameState = state !== null && state.epoch === epoch && state.rev === rev;
    if (sameState && digest !== undefined && digest !== this.replica.digest) this.ask();
  }

  pong() {
    const { state, digest } = this.replica;
    this.client.write({ uri: '$pong', $: state ? { ...state, digest } : {} });
  }

  // Requests the list, unless it has just been requested.
  ask() {
    if (performance.now() - this.askedAt < ASK_AGAIN_MS) return;
    this.askedAt = performance.now();
    this.client.write({ uri: '/distributes', method: 'GET', key: 1, $: {} });
  }

  // Sends a copy of the list to a Distributor that has just started.
  copy() {
    const { state, digest, entries } = this.replica;
    if (state === null) return;
    const all = [...entries];
    let at = 0;
    do {
      const ids = [];
      const texts = [];
      for (let sent = 0; at < all.length; at++) {
        const [id, { text, bytes }] = all[at];
        if (sent > 0 && sent + bytes > COPY_PART_BYTES) break;
        sent += bytes;
        ids.push(id);
        texts.push(text);
      }
      const $ = JSON.stringify({ ...state, digest, more: at < all.length, ids });
      this.client.send(`{"uri":"/distributes","method":"PUT","key":0,"params":[${texts.join()}],"$":${$}}`);
    } while (at < all.length);
  }

  turnedAway({ s, r, m, ra }) {
    if (r === 'not_yours') {
      this.notYours();
      return;
    }
    if (this.trouble !== r) this.service.onLog(`the ${this.where} says: ${shown(r)}: ${shown(m, 256)}`, true);
    this.trouble = r;
    if (!(s >= 400 && ra >= 0)) return;
    // The moment is random, because otherwise all refused nodes would come back together.
    const wait = Math.min(Math.max(ra, 50), MAX_WAIT_MS) * (1 + Math.random());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.register(), wait);
  }

  // The Distributor says that our id belongs to another process. Only the secret could register it.
  notYours() {
    const now = performance.now();
    if (now - this.notYoursAt >= NOT_YOURS_MS) {
      this.notYoursAt = now;
      this.service.onLog(`the ${this.where} does not list this service: it says that the instance id ${this.id} belongs `
        + 'to another process. Start this one anew, which makes a new id; if that does not help, something on the way to '
        + 'the Distributor changes packets', true);
    }
    this.listed = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.register(), NOT_YOURS_MS);
  }

  closed() {
    this.service.isConnectedDistributor = false;
    this.replica.disconnected();
    clearTimeout(this.timer);
    if (this.left) return;
    this.strange ??= this.told === false ? foreignServer(this.client.leftOver ?? Buffer.alloc(0)) : null;
    if (this.strange !== null) {
      this.isNone(this.strange);
      return;
    }
    if (this.told) this.foreignServerMs = RECONNECT_MS / 2;
    if (this.trouble !== this.cause) {
      this.service.onLog(`no connection to ${this.where}: ${this.cause}; trying again every 3 s`, true);
    }
    this.trouble = this.cause;
    // All nodes have lost it at this moment, so they come back one after the other. A Distributor
    // that has sent nothing may not work.
    const share = this.heard ? this.replica.rank(this.id) ?? Math.random() : 0.9 + 0.2 * Math.random();
    this.heard = false;
    this.timer = setTimeout(() => this.connect(), RECONNECT_MS * share);
  }

  // The server is not a Distributor, so the pause before the next try grows.
  isNone(what) {
    this.strange = null;
    this.foreignServerMs = Math.min(this.foreignServerMs * 2, FOREIGN_SERVER_MS);
    const text = `${this.where} is not a Distributor: ${what}; check the address`;
    if (this.trouble !== text) this.service.onLog(text, true);
    this.trouble = text;
    this.timer = setTimeout(() => this.connect(), this.foreignServerMs * (0.9 + 0.2 * Math.random()));
  }

  leave() {
    this.left = true;
    clearTimeout(this.timer);
    if (this.isV2) this.client.write({ uri: '/distributes', method: 'DELETE', key: 0, params: {}, $: {} });
    this.client.end();
  }

  tidy(now) {
    if (this.replica.expire(now)) this.publish();
  }
}

// What a node knows of the registry. Changes are applied in order and without gaps, and a restarted
// Distributor that knows less makes it forget nothing.
class Replica {
  state = null; // {epoch, rev}; null before the first list, and with a Distributor of version 1
  entries = new Map(); // id -> {entry, its JSON text, the text's length and checksum}
  digest = 0;
  kept = new Map(); // address -> {entry, until}: not listed any more, but not reported to have left either
  fresh = false; // no list has arrived over this connection yet
  far = null; // the Distributor's address, if it is on another machine
  readFar = null; // the same at the time when the entries were read

  connected(far = null) {
    this.fresh = true;
    this.far = far;
  }

  disconnected() {
    this.fresh = false;
    for (const one of this.kept.values()) one.until = Infinity; // without a Distributor nothing says that they left
  }

  // Applies a list or a change. Returns 'changed', 'same', 'stale' (older than what is known),
  // 'gap' (changes are missing before it) or 'bad' (it is neither).
  take({ method, params, $ }, text, now) {
    const stamp = isObject($) && [$.epoch, $.rev].every(Number.isSafeInteger) ? $ : null;
    const raw = new Map(parts(text)).get('params') ?? '';
    const packed = unpacked(stamp?.packed);
    if (packed === null) return 'bad';
    if (method === 'PATCH') {
      if (!stamp || !Array.isArray(params?.joined) || !Array.isArray(params.left)) return 'bad';
      const joined = numbered(stamp.ids, params.joined, parts(new Map(parts(raw)).get('joined')), packed, this.far);
      return joined ? this.change(stamp, joined, params.left.map((one) => one?.id)) : 'bad';
    }
    if (!Array.isArray(params)) return 'bad';
    const next = numbered(stamp ? stamp.ids : [...params.keys()], params, parts(raw), packed, this.far);
    return next ? this.replace(stamp, next, now) : 'bad';
  }

  replace(stamp, next, now) {
    const known = this.state;
    if (stamp && known) {
      const sameEpoch = stamp.epoch === known.epoch;
      const older = sameEpoch ? stamp.rev < known.rev : stamp.epoch < known.epoch;
      // A new connection may lead to another Distributor. One connection always leads to the same.
      if (older && (sameEpoch || !this.fresh)) return 'stale';
    }
    const digest = sum(next);
    if (stamp?.digest !== undefined && stamp.digest !== digest) return 'gap';

    // A Distributor that warms up may not know all nodes yet. One of version 1 does not say when it
    // does.
    let until = null;
    if (stamp?.warming === true) until = Infinity;
    if (!stamp && this.fresh) until = now + HOLD_MS;
    const kept = new Map();
    for (const { entry, until: own } of [...this.kept.values(), ...this.entries.values()]) {
      const goes = !stamp && Number.isFinite(own) ? own : until;
      if (goes !== null) kept.set(addressOf(entry), { entry, until: goes });
    }
    for (const { entry } of next.values()) kept.delete(addressOf(entry));

    const same = digest === this.digest && next.size === this.entries.size && kept.size === this.kept.size
      && this.far === this.readFar;
    this.state = stamp && { epoch: stamp.epoch, rev: stamp.rev };
    Object.assign(this, { entries: next, digest, kept, fresh: false, readFar: this.far });
    return same ? 'same' : 'changed';
  }

  change(stamp, joined, left) {
    const known = this.state;
    if (!known || known.epoch !== (stamp.was ?? stamp.epoch) || known.rev !== stamp.base) {
      return known?.epoch === stamp.epoch && stamp.rev <= known.rev ? 'stale' : 'gap';
    }
    const next = new Map(this.entries);
    for (const id of left) next.delete(id);
    for (const [id, one] of joined) next.set(id, one);
    const digest = sum(next);
    if (stamp.digest !== undefined && stamp.digest !== digest) return 'gap';
    const isWarm = stamp.warming !== true;
    const same = joined.size + left.length === 0 && !(isWarm && this.kept.size > 0);
    for (const { entry } of joined.values()) this.kept.delete(addressOf(entry));
    if (isWarm) this.kept.clear();
    this.state = { epoch: stamp.epoch, rev: stamp.rev };
    Object.assign(this, { entries: next, digest, fresh: false });
    return same ? 'same' : 'changed';
  }

  // Removes kept entries whose time is over. Returns whether there were any.
  expire(now) {
    const before = this.kept.size;
    for (const [where, { until }] of this.kept) if (until <= now) this.kept.delete(where);
    return this.kept.size !== before;
  }

  // Gives copies, because old code changes the lists that it gets.
  list() {
    const all = [...this.entries.values(), ...this.kept.values()].filter(({ entry }) => isObject(entry));
    return all.map(({ entry }) => ({ ...entry }));
  }

  // Whether a list shows this service; without an instance id it is known by its name and port.
  lists(registry) {
    return this.entryOf(registry) !== undefined;
  }

  // The entry of this service, with the host at which it is to be called.
  entryOf({ service: { context }, version, id }) {
    const isIt = version === 2
      ? ({ entry }) => entry?.$?.id === id
      : ({ entry }) => entry?.name === context.name && Number(entry.port) === context.port;
    return [...this.entries.values()].find(isIt)?.entry;
  }

  // The position of an instance among all, from 0 to less than 1; null when it is not listed.
  rank(id) {
    const at = [...this.entries.values()].findIndex(({ entry }) => entry?.$?.id === id);
    return at < 0 ? null : at / this.entries.size;
  }
}

// Entries that came packed, with their ids and texts; null when a block is none, or more than a
// list may have.
function unpacked(blocks = []) {
  const all = { ids: [], entries: [], texts: [] };
  let room = LIST_LIMIT;
  try {
    for (const block of blocks) {
      const bytes = inflateSync(Buffer.from(block, 'base64'), { maxOutputLength: room });
      const text = bytes.toString();
      if (text.includes('¶')) return null; // in a copy it would end the packet
      const { ids, entries } = JSON.parse(text);
      room -= bytes.length;
      all.ids = all.ids.concat(ids);
      all.entries = all.entries.concat(entries);
      all.texts = all.texts.concat(parts(new Map(parts(text)).get('entries')));
    }
  } catch {
    return null;
  }
  return all;
}

// Entries by id, with those that came packed; null when there is not one id for each.
function numbered(first, known, raw, packed, far) {
  if (!Array.isArray(first)) return null;
  const [ids, entries, texts] = [first.concat(packed.ids), known.concat(packed.entries), raw.concat(packed.texts)];
  if (ids.length !== texts.length || !ids.every(Number.isSafeInteger)) return null;
  return new Map(ids.map((id, n) => {
    const [entry, text, bytes] = [resolved(entries[n], far), texts[n], Buffer.from(`${id}:${texts[n]}`)];
    return [id, { entry, text, bytes: bytes.length, sum: crc32(bytes) }];
  }));
}

// The digest: the same for the same entries in any order.
function sum(entries) {
  let digest = 0;
  for (const one of entries.values()) digest = (digest + one.sum) >>> 0;
  return digest;
}

function addressOf(entry) {
  return `${entry?.host} ${entry?.port}`;
}

module.exports = { Registry, Replica, HOLD_MS, newIdentity };
