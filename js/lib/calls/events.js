'use strict';

// Events: messages to every group that has subscribed. An event has no answer.

const { childTrace, current } = require('./context');
const { CallError } = require('../errors');
const { FRAME_LIMIT } = require('../transport/packets');
const { CONNECTING, READY, RECONNECT } = require('../balance/pool');
const { eventNameFault } = require('../routing/routes');
const { currentCall, legacyCall } = require('./packet');

const MAX_PAYLOAD_BYTES = FRAME_LIMIT - 4096; // with its envelope it makes a packet that every node can read
const METHOD = 'EVENT';

// Sends an event to one node of each name, or with `toAll` to all nodes. Returns how many it was
// sent to.
function emit({ peers, service, name, lost }, event, payload, toAll) {
  const url = `${METHOD}/${event}`;
  const fault = eventNameFault(event);
  if (fault) throw new CallError('bad_url', url, fault);
  let text;
  try {
    text = JSON.stringify(payload) ?? 'null';
  } catch (cause) {
    throw new CallError('params', url, `the payload of ${event} has no JSON form: ${cause.message}`, { cause });
  }
  if (Buffer.byteLength(text) > MAX_PAYLOAD_BYTES) {
    throw new CallError('too_large', url, `the payload of ${event} is larger than nodes accept (8 MiB)`);
  }
  const path = `/${event}`;
  const context = current().outlasting();
  const emission = { peers, service, path, params: payload, text, method: METHOD, url, context };
  const groups = peers.groups(path);
  const takes = service.find(METHOD, path) !== undefined;
  let reached = 0;
  const count = (group, isTaken) => {
    if (isTaken) reached++;
    else lost(url, `no node ${group} takes it now: each has too much to do, or cannot be reached`);
  };
  if (toAll) {
    for (const member of peers.subscribers(path)) {
      if (!(takes && member.isLocal)) count(member.node.name, send(emission, member));
    }
    if (takes) count(name, service.notifySelf(emission));
  } else {
    for (const [group, pool] of groups) count(group, sendToOne(emission, pool, takes));
    if (takes && !groups.has(name)) count(name, service.notifySelf(emission)); // it may not be listed yet
  }
  if (reached === 0 && groups.size === 0 && !peers.hasList) {
    throw new CallError('no_list', url, `it is not known who subscribes to ${event}: no Distributor has sent a list`);
  }
  return reached;
}

function sendToOne(emission, pool, takes) {
  const now = performance.now();
  const here = takes ? pool.members.find(({ isLocal }) => isLocal) : undefined;
  if (here && isTurnOf(here, pool, now)) return emission.service.notifySelf(emission);
  const tried = [];
  for (;;) {
    const member = pool.pick(now, { tried, excluded: here?.address });
    if (!member) return here !== undefined && emission.service.notifySelf(emission);
    if (send(emission, member)) return true;
    tried.push(member.address);
  }
}

function send(emission, member) {
  member.connect();
  const { context, url } = emission;
  const { connection } = member;
  const tp = context.trace === null ? undefined : childTrace(context.trace);
  const text = connection.target.version === 1
    ? legacyCall(emission, null, member.url, [])
    : currentCall(emission, null, { tp, h: context.hops });
  return connection.sendEvent(text, url);
}

// Whether this node takes an event itself: as often as its weight says, among the members of its
// zone, and always when no other can be reached.
function isTurnOf(here, pool, now) {
  const reachable = pool.members.filter((member) => !member.isLocal && member.sameZone === here.sameZone
    && [READY, CONNECTING, RECONNECT].includes(member.readiness(now)));
  const others = reachable.reduce((sum, { weight }) => sum + weight, 0);
  return Math.random() * (here.weight + others) < here.weight;
}

module.exports = { emit };
