'use strict';

// A node's connection to the Distributor.

const { createHash, randomBytes } = require('node:crypto');
const { foreignServer, isOwn, registryHost, unreachableListener } = require('../transport/hosts');
const { explain, isObject, numberIn, shown, textIn } = require('../transport/packets');
const { LIST_LIMIT, Replica } = require('./replica');

const COPY_PART_BYTES = 32 * 1024; // bytes of entries in a part of a copy: the packet stays below 64 KiB
const RECONNECT_MS = 3000; // pause before connecting again, in which all nodes come back one by one
const FOREIGN_SERVER_MS = 30_000; // the longest pause before a server that is not a Distributor is tried again
const SILENCE_MS = 15_000; // how long a Distributor may be silent; one of version 2 pings far more often
const MAX_WAIT_MS = 3_600_000; // the longest wait that the Distributor may ask for
const NOT_YOURS_MS = 10_000; // pause between tries to register, and between log lines, if our id is refused
const METHODS = ['GET', 'PATCH']; // of lists and changes
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
    Object.assign(this, { service, id, version, advertise, listens, client, onNoti });
    Object.assign(this, { replica: new Replica(), left: false });
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
    this.replica.connected(registryHost(socket));
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
    const unreachable = this.advertise === undefined ? unreachableListener(this.listens(), localAddress) : null;
    if (unreachable === null || this.warnedOf === remoteAddress) return;
    this.warnedOf = remoteAddress;
    const { port } = this.service.context;
    const [listens, told] = [`${this.listens()}:${port}`, `${unreachable.seen}:${port}`];
    this.service.onLog(
      `${unreachable.who} can call this service: it listens on ${listens}, and others are told ${told} by `
      + `the ${this.where}; have it listen on ${unreachable.seen} or on 0.0.0.0, or advertise the address at which it `
      + 'can be called',
      true,
    );
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
    else if (packet.uri !== '/distributes' || !METHODS.includes(packet.method)) return; // of a later version
    else if ($?.copy === true) this.copy();
    else if (typeof $?.r === 'string') this.turnedAway($);
    else this.news(packet, text);
    if (this.heard && !this.listed && this.replica.lists(this)) {
      this.listed = true;
      this.trouble = '';
      this.service.onLog(`registered as ${this.service.context.name} at ${this.where}`);
      this.service.onRegistered?.();
      this.logTranslation();
    }
  }

  // Addresses are translated on the way. Others reach this service only if the port is passed on.
  logTranslation() {
    const { localAddress } = this.client.client ?? {};
    const { host, port } = this.replica.entryOf(this) ?? {};
    const [here, told] = [localAddress, host].map((one) => textIn(one).replace(/^::ffff:(?=\d+\.)/i, ''));
    const isKnown = host !== undefined && localAddress !== undefined && !isOwn(here) && !isOwn(told);
    if (!isKnown || here === told || this.advertise !== undefined || this.translatedTo === told) return;
    this.translatedTo = told;
    this.service.onLog(`others are told ${told}:${port}: the ${this.where} sees this service come from there, and its `
      + `own address is ${here}. Unless that port leads here, advertise the address at which it can be called`);
  }

  news(packet, text) {
    const outcome = this.replica.take(packet, text, performance.now());
    if (outcome === 'gap') this.ask();
    if (outcome === 'bad' && this.trouble !== outcome) {
      this.trouble = outcome;
      this.service.onLog(`ignored a list of the ${this.where} that is none; what was known before stays in use`, true);
    }
    if (outcome === 'changed' || outcome === 'same') Object.assign(this, { heard: true, askedAt: -Infinity });
    if (outcome === 'changed') this.publish();
    if (outcome === 'same') this.service.onNodes?.(this.replica.nodes());
    if (packet.$?.ack === true) this.pong();
  }

  publish() {
    this.service.onNodes?.(this.replica.nodes());
    this.onNoti({ uri: '/distributes', method: 'GET', key: 0, params: this.replica.list() });
  }

  pinged({ every, epoch, rev, digest }) {
    const { state } = this.replica;
    this.heard = true;
    this.client.patience(Math.min(Math.max(SILENCE_MS, 3 * numberIn(every) || 0), MAX_WAIT_MS));
    this.pong();
    const sameState = state !== null && state.epoch === epoch && state.rev === rev;
    if (sameState && digest !== undefined && digest !== this.replica.digest) this.ask();
  }

  // Tells the Distributor of nodes that do not answer, and of those that cannot be connected to,
  // each with a word.
  report({ failed, unreachable }) {
    if (!this.isV2 || failed.length + unreachable.length === 0) return;
    this.client.write({ uri: '/distributes', method: 'PATCH', key: 0, params: { failed, unreachable }, $: {} });
  }

  get isListed() {
    return this.service.isConnectedDistributor && this.listed === true;
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

  turnedAway({ s: status, r, m, ra: wait }) {
    const [s, ra] = [numberIn(status), numberIn(wait)];
    if (r === 'not_yours') {
      this.notYours();
      return;
    }
    if (this.trouble !== r) this.service.onLog(`the ${this.where} says: ${shown(r)}: ${shown(m, 256)}`, true);
    this.trouble = r;
    this.service.onTurnedAway?.({ s, r, m, ra });
    if (!(s >= 400 && ra >= 0)) return;
    // The moment is random, because otherwise all refused nodes would come back together.
    const pause = Math.min(Math.max(ra, 50), MAX_WAIT_MS) * (1 + Math.random());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.register(), pause);
  }

  // The Distributor says that our id belongs to another process. Only the secret could register it.
  notYours() {
    const now = performance.now();
    if (now - this.notYoursAt >= NOT_YOURS_MS) {
      this.notYoursAt = now;
      this.service.onLog(`the ${this.where} does not list this service: it says that the instance id ${this.id} `
        + 'belongs to another process. Start this one anew, which makes a new id; if that does not help, something on '
        + 'the way to the Distributor changes packets', true);
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
    this.service.onUnconnected?.();
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
    this.service.onUnconnected?.();
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

module.exports = { Registry, Replica, newIdentity };
