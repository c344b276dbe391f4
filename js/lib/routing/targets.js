'use strict';

// Where the nodes of a list are, and how they are called.

const { isObject, numberIn, parseAddress, textIn } = require('../transport/packets');
const { plainHost, readWindow } = require('../legacy/windows');
const { score } = require('../balance/rendezvous');

const USUAL_WEIGHT = 100; // hundredths
const MAX_WEIGHT = 1000;
const MAX_PORT = 65535;

// The address of a node as all callers spell it: sticky keys are hashed with it.
const addressOf = (host, port) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);

// What a node advertises: {host, port, isName}, or null.
function advertisedBy(entry) {
  if (typeof entry.$?.advertise !== 'string') return null;
  try {
    const { host, port } = parseAddress(entry.$.advertise);
    return { host, port, isName: !/^[\d.]+$|:/.test(host) };
  } catch {
    return null;
  }
}

// What a node of the list is to its callers; null when it cannot be called. Entries come from
// strangers, and may hold anything.
function nodeOf({ id, entry, isSuspect }) {
  const port = numberIn(entry.port);
  if (typeof entry.host !== 'string' || !(Number.isInteger(port) && port >= 1 && port <= MAX_PORT)) return null;
  const $ = isObject(entry.$) ? entry.$ : null;
  const host = plainHost(entry.host);
  const given = $?.weight;
  const weight = Number.isInteger(given) && given >= 0 && given <= MAX_WEIGHT ? given : USUAL_WEIGHT;
  return {
    id,
    entry,
    isSuspect,
    host,
    port,
    address: addressOf(host, port),
    name: textIn(entry.name),
    version: $ === null ? 1 : 2,
    window: readWindow(entry),
    instance: typeof $?.id === 'string' ? $.id : undefined,
    advertised: $ === null ? null : advertisedBy(entry),
    zone: typeof $?.zone === 'string' ? $.zone : undefined,
    weight,
    // Nodes that are draining, or have weight 0, are listed and not called; neither are ports that
    // speak HTTP.
    takesCalls: $?.draining !== true && weight > 0 && !isObject($?.http),
    urls: Array.isArray(entry.urls) ? entry.urls.filter((url) => typeof url === 'string') : [],
  };
}

// The targets of connections, by their addresses. Where a node without `advertise` has an address,
// those with it are ignored: anybody can advertise it.
function targetsOf(nodes, ownInstance) {
  const byAddress = new Map();
  for (const node of nodes) {
    const others = byAddress.get(node.address) ?? [];
    others.push(node);
    byAddress.set(node.address, others);
  }
  const targets = new Map();
  for (const [address, all] of byAddress) {
    const seen = all.filter(({ advertised }) => advertised === null);
    const there = seen.length > 0 ? seen : all;
    const [{ host, port, name, version, window, instance, advertised }] = there;
    const isShared = new Set(there.map((node) => node.instance)).size > 1;
    targets.set(address, {
      address, host, port, name, version, window, instance, advertised, isShared, nodes: there,
      rendezvous: score(ownInstance, address),
    });
  }
  return targets;
}

// Whether a connection to one target is one to the other.
function isSameTarget(one, other) {
  const identity = ({ address, version, window, instance, isShared, advertised }) => (
    JSON.stringify([address, version, window, instance, isShared, advertised])
  );
  return identity(one) === identity(other);
}

module.exports = { isSameTarget, nodeOf, targetsOf };
