'use strict';

// What a node keeps is bounded: each limit is reached here.

const assert = require('node:assert/strict');
const net = require('node:net');
const { once } = require('node:events');
const { test } = require('node:test');
const { Connection } = require('../lib/calls/connection');
const { HeldParts } = require('../lib/calls/held_parts');
const { Peers } = require('../lib/calls/peers');
const { nodeOf, targetsOf } = require('../lib/routing/targets');
const { WriteQueue } = require('../lib/calls/write_queue');
const { PacketReader } = require('../lib/transport/packets');
const { Service } = require('../lib/server/service');
const { Distributor, eventually, failure, legacyEntry, server, start } = require('./helpers');

const OWN = { instance: 'me', name: 'me' };
const hooks = () => {
  const seen = { complaints: [], lost: [], words: [], reports: [] };
  return {
    seen,
    reached() {},
    unreachable: (_, word) => seen.words.push(word),
    warn: (text) => seen.complaints.push(text),
    held() {},
    eventLost: (route) => seen.lost.push(route),
    report: (report) => seen.reports.push(report),
  };
};

// The connection to a server of the test.
function connectionTo(port, more = {}, to = hooks()) {
  const node = nodeOf({ id: 1, entry: legacyEntry(port, 'goods', [], more), isSuspect: false });
  const connection = new Connection([...targetsOf([node], 'me').values()][0], OWN, to);
  connection.seen = to.seen;
  return connection;
}

// A socket that writes when it is told to.
function slowSocket() {
  const written = [];
  const done = [];
  return {
    written,
    write: (bytes, callback) => { written.push(bytes.toString()); done.push(callback); },
    drain: () => done.splice(0).forEach((callback) => callback()),
  };
}

const packet = (text) => Buffer.from(`${text}¶`);

test('what was not handed to the socket is not written, and can be taken back', async () => {
  const lost = [];
  const queue = new WriteQueue(2, undefined, { onLost: (route) => lost.push(route), onWritten() {} });
  const socket = slowSocket();
  const [a, b, c] = [{}, {}, {}];
  queue.push(packet('a'), a);
  queue.open(socket);
  await null;
  assert.deepEqual(socket.written, ['a¶']);
  queue.push(packet('b'), b);
  queue.push(packet('c'), c);
  queue.push(packet('e'), null, 'EVENT/e');
  await null;
  assert.deepEqual(socket.written, ['a¶'], 'one write at a time');
  assert.deepEqual([a, b].map((one) => queue.mayBeWritten(one)), [true, false]);
  assert.deepEqual([queue.withdraw(a), queue.withdraw(b)], [true, false]);
  assert.ok(queue.stalledFor(performance.now() + 10) >= 10);
  socket.drain();
  assert.deepEqual(socket.written, ['a¶', 'c¶e¶'], 'the rest leaves in one');
  queue.push(packet('f'), null, 'EVENT/f');
  queue.close();
  assert.deepEqual(lost, ['EVENT/f']);
});

test('so many bytes wait for one node, and a packet has its limit', () => {
  const queue = new WriteQueue(2, undefined, { onLost() {}, onWritten() {} });
  const large = Buffer.alloc(8 * 1024 * 1024);
  assert.deepEqual([queue.push(large, {}), queue.push(large, {}), queue.push(packet('x'), {})], [null, null, 'full']);
  assert.equal(queue.push(Buffer.alloc(8 * 1024 * 1024 + 1), {}), 'too_large');
  const old = new WriteQueue(1, 65536, { onLost() {}, onWritten() {} });
  assert.deepEqual([old.push(Buffer.alloc(65536), {}), old.push(Buffer.alloc(65537), {})], [null, 'too_large']);
  const repaired = new WriteQueue(1, 100_000, { onLost() {}, onWritten() {} });
  assert.equal(repaired.push(Buffer.alloc(100_000), {}), null);
});

test('a node of version 1 gets a packet a write, and never more than it can read', async () => {
  const queue = new WriteQueue(1, 65536, { onLost() {}, onWritten() {} });
  const socket = slowSocket();
  queue.open(socket);
  const calls = [{}, {}, {}, {}];
  const large = 'x'.repeat(30_000);
  for (const one of calls) queue.push(packet(large), one);
  const settle = async () => {
    for (let n = 0; n < 5; n++) {
      await null;
      socket.drain();
    }
    return socket.written.length;
  };
  assert.equal(await settle(), 2);
  queue.wasRead(calls[0]);
  assert.equal(await settle(), 3);
  queue.wasRead(calls[2]); // it has read all before that, too
  assert.equal(await settle(), 4);
  queue.push(packet(large), null);
  assert.equal(await settle(), 5);
  queue.push(packet(large), {});
  assert.equal(await settle(), 5);
  await eventually('an event counts as read after a while', async () => {
    if (await settle() !== 5) return false;
    queue.wasRead(calls[3]);
    return await settle() === 6;
  });
  assert.ok(socket.written.every((one) => one.length === 30_001));
});

test('so many calls wait for one node', async (t) => {
  const silent = await server(t, () => {});
  const connection = connectionTo(silent.port, { $: { v: 2, id: 'x' } });
  t.after(() => connection.destroy());
  connection.connect();
  const submit = () => connection.submit({ url: 'GET/a', deadline: performance.now() + 60_000, streams: false }, (key) => `{"key":${key}}`);
  const accepted = Array.from({ length: 10_000 }, submit);
  assert.ok(accepted.every(({ pending }) => pending.key < 2 ** 31));
  assert.deepEqual(submit(), { refusal: 'full' });
  connection.cancel(accepted[0].pending);
  assert.deepEqual(await accepted[0].pending.outcome, { kind: 'cancelled' });
  assert.ok(submit().pending);
  connection.destroy();
  assert.equal((await accepted[1].pending.outcome).kind, 'lost');
});

test('a node that sends what no call waits for is left alone for a while', async (t) => {
  const noisy = await server(t, (_, send) => {
    for (let n = 0; n < 30; n++) send('{"key":99999,"$":{}}¶'.repeat(100).slice(0, -1));
  });
  const connection = connectionTo(noisy.port, { $: { v: 2, id: 'x' } });
  t.after(() => connection.destroy());
  connection.connect();
  await eventually('it is cut', () => connection.seen.complaints.length > 0);
  assert.match(connection.seen.complaints[0], /goods at 127.0.0.1:\d+: connection closed: it keeps sending packets that no call waits for/);
  await eventually('the connection has ended', () => !connection.isUp);
  assert.equal(connection.readiness(performance.now()), 4, 'cooling down');
});

test('a node at an advertised address gets no call before it has said who it is', async (t) => {
  const seen = [];
  const service = await server(t, (one, send) => {
    seen.push(one.uri);
    if (one.uri !== '$hello') send(`{"key":${one.key},"$":{},"params":1}`);
  });
  const silent = connectionTo(service.port, { $: { v: 2, id: 'x', advertise: `127.0.0.1:${service.port}` } });
  t.after(() => silent.destroy());
  silent.connect();
  const call = { url: 'POST/a', deadline: performance.now() + 60_000, streams: false };
  const { pending } = silent.submit(call, (key) => `{"uri":"/a","key":${key}}`);
  assert.deepEqual(await pending.outcome, { kind: 'lost', written: false });
  assert.deepEqual([seen, silent.seen.words], [['$hello'], ['no_node']]);
});

test('parts that are not read have a limit, and the largest stream ends', () => {
  const ended = [];
  const held = new HeldParts((stream) => ended.push(stream.name), 100);
  const [one, two] = [{ name: 'one', heldBytes: 60 }, { name: 'two', heldBytes: 40 }];
  held.changed(one, 60);
  held.changed(two, 40);
  assert.deepEqual(ended, []);
  two.heldBytes = 41;
  held.changed(two, 1);
  assert.deepEqual(ended, ['one']);
  one.heldBytes = 0;
  held.changed(one, -60);
  assert.equal(held.bytes, 41);
});

test('so many items of a stream wait to be sent', async (t) => {
  const distributor = await new Distributor().start(t);
  await start(t, distributor, 'a', (one) => one.route('POST/never', async ({ items }) => { void items; await new Promise(() => {}); }));
  const caller = await start(t, distributor, 'b');
  await caller.waitFor(['POST/never']);
  const stream = await caller.stream('POST/never');
  const item = 'x'.repeat(1000);
  const sends = Array.from({ length: 1024 }, () => stream.send(item));
  const error = await failure(stream.send(item));
  assert.deepEqual([error.code, error.wasSent], ['overloaded', false]);
  stream.cancel();
  const outcomes = await Promise.allSettled(sends);
  assert.ok(outcomes.some(({ status }) => status === 'fulfilled') && outcomes.some(({ status }) => status === 'rejected'));
});

test('a node that grants credit without end and reads nothing fills no memory', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await server(t, ({ uri, key }, send, socket) => {
    if (uri !== '/sum') return;
    send(`{"key":${key},"$":{"n":0}}`);
    send(`{"uri":"$credit","key":${key},"$":{"c":${Number.MAX_SAFE_INTEGER}}}`);
    socket.pause();
  });
  const caller = await start(t, distributor, 'b');
  distributor.list(legacyEntry(node.port, 'a', ['POST/sum'], { $: { v: 2 } }));
  await caller.waitFor(['POST/sum']);
  const stream = await caller.stream('POST/sum');
  let sent = 0;
  const sending = (async () => {
    for (;; sent++) await stream.send('x'.repeat(10_000));
  })();
  const isStill = async () => {
    const before = sent;
    await new Promise((resolve) => setTimeout(resolve, 100));
    return sent > 100 && sent === before;
  };
  await eventually('it is full', isStill);
  const before = sent;
  node.sockets.at(-1).resume();
  await eventually('it goes on', () => sent > 2 * before);
  node.sockets.at(-1).pause();
  await eventually('it is full again', isStill);
  stream.cancel();
  assert.equal((await failure(sending)).code, 'ended', 'it waits no longer than the stream lasts');
  node.sockets.at(-1).resume();
  const large = await caller.stream('POST/sum');
  assert.equal((await failure(large.send('x'.repeat(8 * 1024 * 1024)))).code, 'too_large');
});

test('so many streams of one caller are open', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/forever', async function* forever() { await new Promise(() => {}); yield 1; })
    .route('GET/a', () => 1));
  const socket = net.connect(node.port, '127.0.0.1');
  await once(socket, 'connect');
  t.after(() => socket.destroy());
  const packets = [];
  const reader = new PacketReader((one) => packets.push(one));
  socket.on('data', (chunk) => reader.push(chunk));
  for (let key = 1; key <= 4096; key++) socket.write(`{"uri":"/forever","method":"GET","key":${key},"$":{"c":1000}}¶`);
  await eventually('all are open', () => packets.length === 4096);
  socket.write('{"uri":"/forever","method":"GET","key":5000,"$":{"c":1000}}¶{"uri":"/a","method":"GET","key":5001,"$":{}}¶');
  await eventually('both are answered', () => packets.length === 4098);
  const [refused, answered] = packets.slice(-2).sort((a, b) => a.key - b.key);
  assert.deepEqual([refused.$.s, refused.$.r, answered.params], [503, 'overloaded', 1]);
});

test('so many calls are finished without a caller', () => {
  const service = new Service({ onIdle() {} });
  let aborted = 0;
  const calls = Array.from({ length: 1025 }, () => ({ abort: () => { aborted++; } }));
  for (const call of calls) service.keep(call);
  assert.deepEqual([service.leftCalls, aborted], [1024, 1]);
  for (const call of calls.slice(0, 1024)) call.onDone();
  assert.equal(service.leftCalls, 0);
});

test('so many urls are remembered that were offered once', () => {
  const peers = new Peers(OWN, hooks());
  const entries = Array.from({ length: 260 }, (_, n) => ({
    id: n, entry: legacyEntry(n + 1, `n${n}`, Array.from({ length: 256 }, (__, m) => `GET/${n}/${m}`)), isSuspect: false,
  }));
  peers.update(entries);
  assert.ok(peers.find('GET', '/259/255').value);
  peers.update([]);
  assert.deepEqual([peers.find('GET', '/0/0'), peers.find('GET', '/259/255')], ['unavailable', undefined]);
});

test('so many urls are compared with one that no node offers', () => {
  const peers = new Peers(OWN, hooks());
  peers.update(Array.from({ length: 65 }, (_, n) => ({
    id: n, entry: legacyEntry(n + 1, `n${n}`, Array.from({ length: 256 }, (__, m) => `GET/${n}/${m}/x`)), isSuspect: false,
  })));
  assert.equal(peers.offeredNear('GET/63/255/y'), 'GET/63/255/x');
  assert.equal(peers.offeredNear('GET/64/255/y'), undefined);
});

test('one node is reported once in ten seconds', () => {
  const to = hooks();
  const peers = new Peers(OWN, to);
  peers.update([{ id: 7, entry: legacyEntry(9010, 'a', ['GET/a']), isSuspect: false }]);
  for (let n = 0; n < 5; n++) peers.recordFailed('127.0.0.1:9010');
  assert.deepEqual(to.seen.reports, [{ failed: [7], unreachable: [] }]);
});

test('entries of strangers harm nothing', () => {
  const peers = new Peers(OWN, hooks());
  const odd = [
    {}, { host: 7, port: 1 }, { host: 'a', port: 0 }, { host: 'a', port: 70_000 }, { host: 'a', port: '9010', urls: 'GET/a' },
    { host: '::1', port: 1, name: null, urls: [7, null, '', 'GET', '{}/{}', 'GET/ok'], $: { weight: 'x', advertise: '::', zone: 3 } },
  ];
  peers.update(odd.map((entry, id) => ({ id, entry, isSuspect: false })));
  assert.equal(peers.find('GET', '/ok').value.members[0].address, '[::1]:1');
  assert.equal(peers.find('GET', '/a'), undefined);
});
