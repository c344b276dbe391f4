'use strict';

// What strangers send, and what handlers throw, ends no process and takes no memory without end.

const assert = require('node:assert/strict');
const net = require('node:net');
const { once } = require('node:events');
const { test } = require('node:test');
const { setTimeout: pause } = require('node:timers/promises');
const { deflateSync } = require('node:zlib');
const { Connection } = require('../lib/calls/connection');
const { Peers } = require('../lib/calls/peers');
const { readAnswer } = require('../lib/calls/stream');
const { nodeOf, targetsOf } = require('../lib/routing/targets');
const { PacketReader, shown } = require('../lib/transport/packets');
const { Replica } = require('../lib/routing/replica');
const { Distributor, eventually, legacyEntry, server, start } = require('./helpers');

// JavaScript cannot convert it to a number or to a text.
const ODD = JSON.parse('{"valueOf":1,"toString":1}');

async function callerOf(t, node) {
  const socket = net.connect(node.port, '127.0.0.1');
  await once(socket, 'connect');
  t.after(() => socket.destroy());
  const packets = [];
  const reader = new PacketReader((packet) => packets.push(packet));
  socket.on('data', (chunk) => reader.push(chunk));
  return { socket, packets, send: (packet) => socket.write(`${JSON.stringify(packet)}¶`) };
}

test('a call whose members cannot be converted harms nothing', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await start(t, distributor, 'a', (one) => one.route('GET/a', () => 1));
  const { packets, send } = await callerOf(t, node);
  const names = ['d', 't', 'c', 'h', 'i', 'f', 'n', 'tp', 'at'];
  names.forEach((name, key) => send({ uri: '/a', method: 'GET', key, $: { [name]: ODD } }));
  await eventually('all are answered', () => packets.length === names.length);
  assert.ok(packets.every(({ params }) => params === 1), JSON.stringify(packets));
});

test('a list or an answer whose members cannot be converted harms nothing', async (t) => {
  const peers = new Peers({ instance: 'me', name: 'me' }, {});
  const entries = [{ port: ODD, host: '::1' }, { port: 1, host: ODD }, { port: 1, host: '::1', name: ODD, urls: ['GET/a'] }];
  peers.update(entries.map((entry, id) => ({ id, entry, isSuspect: false })));
  assert.equal(peers.find('GET', '/a').value.members.length, 1);
  const replica = new Replica();
  replica.connected('10.0.0.9');
  for (const rev of [1, 2]) {
    const packet = { method: 'GET', params: entries, $: { epoch: 1, rev, ids: [0, 1, 2], warming: true } };
    assert.equal(replica.take(packet, JSON.stringify(packet), 0), rev === 1 ? 'changed' : 'same');
  }
  assert.equal(readAnswer({ errorcode: ODD }, 'GET/a').error.status, 500);
  const other = await server(t, () => {});
  const target = [...targetsOf([nodeOf({ id: 1, entry: legacyEntry(other.port, 'a', []), isSuspect: false })], 'me').values()][0];
  const connection = new Connection(target, { instance: 'me', name: 'me' }, { reached() {}, warn() {}, unreachable() {} });
  connection.connect();
  t.after(() => connection.destroy());
  await eventually('it is connected', () => connection.isUp && other.sockets.length === 1);
  other.sockets[0].write(`${JSON.stringify({ key: ODD })}¶{"uri":"$hello","$":{}}¶`);
  await eventually('both are read', () => connection.isProven);
  assert.equal(shown(ODD), '[object Object]');
});

test('a Distributor whose words cannot be converted harms nothing', async (t) => {
  const distributor = await new Distributor().start(t);
  const said = [
    { uri: '$ping', $: { every: ODD, epoch: ODD, rev: ODD, digest: ODD } },
    { uri: '/distributes', method: 'GET', key: 0, params: {}, $: { s: ODD, r: 'odd', m: ODD, ra: ODD } },
  ];
  distributor.onRegistration = (socket) => { for (const one of said) socket.write(`${JSON.stringify(one)}¶`); };
  const node = await start(t, distributor, 'a');
  await eventually('it is listed', () => node.isRegistered);
  assert.ok(node.logged.some((line) => line.includes('says: odd: [object Object]')), node.logged.join('\n'));
});

test('so many packed blocks are unpacked, and so many suspects kept', () => {
  const block = deflateSync('{"ids":[],"entries":[]}').toString('base64');
  const take = (replica, rev, $, method = 'GET', params = []) => {
    const packet = { method, params, $: { epoch: 1, rev, ids: [], ...$ } };
    return replica.take(packet, JSON.stringify(packet), 0);
  };
  assert.equal(take(new Replica(), 1, { packed: Array(4096).fill(block) }), 'same');
  assert.equal(take(new Replica(), 1, { packed: Array(4097).fill(block) }), 'bad');
  const replica = new Replica();
  take(replica, 1, {});
  take(replica, 2, { base: 1, suspect: [7, 8, ODD] }, 'PATCH', { joined: [], left: [] });
  assert.equal(replica.suspects.size, 0);
});

test('what a caller calls is told to it, cut and without characters that a terminal acts on', async (t) => {
  const distributor = await new Distributor().start(t);
  const { packets, send } = await callerOf(t, await start(t, distributor, 'a'));
  for (const [uri, shows] of [
    ['/\u001b[2J', 'GET/\\u{1b}[2J'],
    [`/${'x'.repeat(200_000)}`, `GET/${'x'.repeat(124)}…`],
  ]) {
    send({ uri, method: 'GET', key: 1, $: {} });
    await eventually('it is answered', () => packets.length === 1);
    assert.deepEqual(packets.pop().$, { s: 404, r: 'no_route', m: `this node does not offer ${shows}` });
  }
});

test('whatever a handler throws, its caller is answered', async (t) => {
  const distributor = await new Distributor().start(t);
  const thrown = [Symbol('a'), Object.create(null), undefined, { get stack() { throw new Error('no'); } }, ODD];
  const node = await start(t, distributor, 'a', (one) => {
    thrown.forEach((what, n) => one.route(`GET/${n}`, () => { throw what; }));
    one.on('odd', () => { throw Symbol('b'); });
  });
  const { packets, send } = await callerOf(t, node);
  thrown.forEach((_, key) => send({ uri: `/${key}`, method: 'GET', key, $: {} }));
  send({ uri: '/odd', method: 'EVENT', $: {} });
  await eventually('all are answered', () => packets.length === thrown.length && node.lostEvents === 1);
  assert.ok(packets.every(({ $ }) => $.s === 500 && $.r === 'internal'), JSON.stringify(packets));
  await assert.rejects(node.detach(() => { throw Symbol('c'); }));
});

test('credit without end fills no memory, and keeps no other caller waiting', async (t) => {
  const distributor = await new Distributor().start(t);
  let parts = 0;
  const node = await start(t, distributor, 'a', (one) => {
    one.route('GET/parts', async function* endless() { for (;; parts++) yield 'x'.repeat(1000); });
    one.route('GET/a', () => 1);
  });
  const { socket, packets, send } = await callerOf(t, node);
  socket.pause();
  send({ uri: '/parts', method: 'GET', key: 1, $: { c: Number.MAX_SAFE_INTEGER } });
  await eventually('it is full', async () => {
    const before = parts;
    await pause(100);
    return parts > 1000 && parts === before;
  });
  const other = await callerOf(t, node);
  other.send({ uri: '/a', method: 'GET', key: 1, $: {} });
  await eventually('the other is answered', () => other.packets.length === 1);
  const before = parts;
  socket.resume();
  await eventually('it goes on', () => parts > 2 * before && packets.length > before);
});
