'use strict';

// What a node knows of the registry.

const { inflateSync } = require('node:zlib');
const { resolved } = require('../transport/hosts');
const { crc32, isObject, numberIn, parts, textIn } = require('../transport/packets');

const LIST_LIMIT = 16 * 1024 * 1024; // bytes of a list: twice the limit of our Distributor
const MAX_BLOCKS = 4096; // packed blocks of one packet: a Distributor makes blocks of 4 KiB and more
const HOLD_MS = 11_000; // how long nodes are kept that a restarted version 1 Distributor does not list yet

// Changes are applied in order and without gaps, and a restarted Distributor that knows less makes
// it forget nothing.
class Replica {
  state = null; // {epoch, rev}; null before the first list, and with a Distributor of version 1
  entries = new Map(); // id -> {entry, its JSON text, the text's length and checksum}
  digest = 0;
  suspects = new Set(); // ids of nodes without a sign of life for a moment
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
    this.suspects = new Set(idsIn(stamp?.suspect));
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
    // A change that begins at a state of another epoch names all suspects.
    if (stamp.was !== undefined) this.suspects = new Set();
    for (const id of idsIn(stamp.suspect)) this.suspects.add(id);
    for (const id of [...idsIn(stamp.trusted), ...left]) this.suspects.delete(id);
    for (const id of this.suspects) if (!next.has(id)) this.suspects.delete(id);
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

  // All nodes with their ids; one that is only kept has none.
  nodes() {
    const listed = [...this.entries].map(([id, { entry }]) => ({ id, entry, isSuspect: this.suspects.has(id) }));
    const kept = [...this.kept.values()].map(({ entry }) => ({ id: undefined, entry, isSuspect: false }));
    return [...listed, ...kept].filter(({ entry }) => isObject(entry));
  }

  // Whether a list shows this service; without an instance id it is known by its name and port.
  lists(registry) {
    return this.entryOf(registry) !== undefined;
  }

  // The entry of this service, with the host at which it can be called.
  entryOf({ service: { context }, version, id }) {
    const isIt = version === 2
      ? ({ entry }) => entry?.$?.id === id
      : ({ entry }) => entry?.name === context.name && numberIn(entry.port) === context.port;
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
  if (blocks?.length > MAX_BLOCKS) return null;
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

const idsIn = (ids) => (Array.isArray(ids) ? ids : []);

// The digest: the same for the same entries in any order.
function sum(entries) {
  let digest = 0;
  for (const one of entries.values()) digest = (digest + one.sum) >>> 0;
  return digest;
}

function addressOf(entry) {
  return `${textIn(entry?.host)} ${textIn(entry?.port)}`;
}

module.exports = { HOLD_MS, LIST_LIMIT, Replica };
