'use strict';

// node --test js/test/*.test.js

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { createHash } = require('node:crypto');
const { once } = require('node:events');
const { cp, mkdtemp, rm, writeFile } = require('node:fs/promises');
const http = require('node:http');
const net = require('node:net');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { deflateSync } = require('node:zlib');
const { registryHost, foreignServer } = require('../lib/transport/hosts');
const { offerHttp } = require('../lib/http');
const Server = require('../lib/mesh');
const { Client, PacketReader, Replica, LEGACY_READ_BYTES, crc32, cut, encode, parts, seal, shown } = Server;
const { LogSender } = require('../lib/legacy/logs');
const { Registry, newIdentity } = require('../lib/routing/registry');

const PATIENCE_MS = 120_000; // far more than anything takes beside eight busy processes

async function eventually(what, condition) {
  const end = performance.now() + PATIENCE_MS;
  while (!condition()) {
    assert.ok(performance.now() < end, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

// Raw bytes on a socket.
class Peer {
  constructor(socket) {
    Object.assign(this, { socket, packets: [], texts: [], bytes: Buffer.alloc(0), ended: false });
    const reader = new PacketReader((packet, text) => {
      this.packets.push(packet);
      this.texts.push(text);
    }, assert.fail, 64 * 1024 * 1024);
    socket.on('data', (chunk) => {
      this.bytes = Buffer.concat([this.bytes, chunk]);
      reader.push(chunk);
    });
    socket.on('close', () => { this.ended = true; });
    socket.on('error', () => {});
  }

  static async to(port) {
    const socket = net.connect(port, '127.0.0.1');
    await once(socket, 'connect');
    return new Peer(socket);
  }

  send(text) {
    this.socket.write(text);
    return this;
  }

  async next() {
    await eventually('a packet', () => this.packets.length > 0 || this.ended);
    assert.ok(this.packets.length > 0, 'the end of the stream');
    this.texts.shift();
    return this.packets.shift();
  }

  async nextText() {
    await eventually('a packet', () => this.texts.length > 0 || this.ended);
    this.packets.shift();
    return this.texts.shift();
  }
}

// A service whose `onRead` is given; what it logs is kept.
async function serve(t, onRead, options) {
  class Service extends Server {
    logged = [];

    sockets = new Set();

    onCreate(socket) {
      this.sockets.add(socket);
    }

    onClose(socket) {
      this.sockets.delete(socket);
    }

    onRead(socket, data) {
      return onRead.call(this, socket, data);
    }

    onLog(text) {
      this.logged.push(text);
    }
  }
  const service = new Service('goods', 0, ['GET/goods'], { version: 2, ...options });
  await once(service.server, 'listening');
  t.after(() => {
    service.leave();
    service.server.close();
    for (const peer of peers) peer.socket.destroy();
    for (const socket of service.sockets) socket.destroy();
  });
  const peers = [];
  service.peer = async () => {
    const peer = await Peer.to(service.context.port);
    peers.push(peer);
    return peer;
  };
  return service;
}

// What version 1 services do, in their own words.
function echo(socket, data) {
  const { key, ...results } = data.params;
  socket.write(JSON.stringify({ key, errorcode: 0, errormessage: 'success', results }) + '¶');
}

// A Distributor that says what a test wants.
async function distributor(t) {
  const links = [];
  const server = net.createServer((socket) => links.push(new Peer(socket)));
  server.listen(0);
  await once(server, 'listening');
  t.after(() => {
    server.close();
    for (const link of links) link.socket.destroy();
  });
  const next = async () => {
    await eventually('a node', () => links.length > 0);
    return links.shift();
  };
  return { port: server.address().port, next };
}

const entry = (port, more = '') => `{"port":${port},"name":"n","urls":[],"host":"::ffff:127.0.0.1"${more}}`;
const digest = (ids) => ids.reduce((sum, id) => (sum + crc32(Buffer.from(`${id}:${entry(id)}`))) >>> 0, 0);

function list(ids, $) {
  const stamp = $ ? `,"$":${JSON.stringify({ digest: digest(ids), ids, ...$ })}` : '';
  return `{"uri":"/distributes","method":"GET","key":0,"params":[${ids.map((id) => entry(id))}]${stamp}}`;
}

function change(joined, left, $) {
  const gone = JSON.stringify(left.map((id) => ({ id })));
  const params = `{"joined":[${joined.map((id) => entry(id))}],"left":${gone}}`;
  const stamp = JSON.stringify({ ids: joined, ...$ });
  return `{"uri":"/distributes","method":"PATCH","key":0,"params":${params},"$":${stamp}}`;
}

test('packets may be split anywhere', () => {
  const packet = { uri: '/굶', text: '한글 ¶ \\ " 굶', n: [1, { a: '¶¶' }] };
  const bytes = Buffer.concat([encode(packet), Buffer.from(' \r\n¶¶'), encode(packet)]);
  const read = (chunks) => {
    const packets = [];
    const reader = new PacketReader((one) => packets.push(one), assert.fail);
    for (const chunk of chunks) assert.ok(reader.push(chunk));
    assert.deepEqual(packets, [packet, packet]);
  };
  for (let at = 0; at <= bytes.length; at++) read([bytes.subarray(0, at), bytes.subarray(at)]);
  read([...bytes].map((byte) => Buffer.from([byte])));
});

test('a broken frame is dropped, and the next one read', () => {
  for (const broken of ['{]', '{"a":¶"}', '\ufeff{}', Buffer.from('{"a":"\xff"}', 'latin1'), '\u00a0']) {
    const [packets, bad] = [[], []];
    const reader = new PacketReader((packet) => packets.push(packet), (why) => bad.push(why));
    reader.push(Buffer.concat([Buffer.from(broken), Buffer.from('¶{}¶')]));
    assert.deepEqual(packets, [{}]);
    assert.ok(bad.length > 0);
  }
});

test('e4 a packet that a raw ¶ has cut is joined, and what is not a piece is not joined', () => {
  const long = (pieces) => `{"a":"${Array(pieces).fill('x').join('¶')}"}`;
  const large = 'x'.repeat(64 * 1024);
  for (const [stream, expected, isBad] of [
    ['{"a":"x¶y"}¶{"b":1}¶', ['{"a":"x¶y"}', '{"b":1}'], 0],
    ['{"a":"¶","b":"¶¶"}¶', ['{"a":"¶","b":"¶¶"}'], 0],
    ['{"¶":[{"a":"\\"¶"}]}¶', ['{"¶":[{"a":"\\"¶"}]}'], 0],
    ['{"a":"¶{}¶null¶[1]¶"}¶null¶', ['{"a":"¶{}¶null¶[1]¶"}', 'null'], 0],
    ['{"a":"x¶{"b":"y"}¶', ['{"b":"y"}'], 1],
    ['{"a":"x¶{"b":"y¶z"}¶', ['{"b":"y¶z"}'], 1],
    ['{"a":"x¶y"¶z¶{}¶', ['{}'], 3],
    [`${long(16)}¶{}¶`, [long(16), '{}'], 0],
    [`${long(17)}¶{}¶`, ['{}'], 3],
    [`{"a":"${large}¶"}¶{}¶`, ['{}'], 2],
    [`{"a":"¶${large}"}¶{}¶`, ['{}'], 2],
  ]) {
    for (const size of [1, 7, stream.length * 3]) {
      const [texts, bad] = [[], []];
      const reader = new PacketReader((packet, text) => texts.push(text), (why) => bad.push(why));
      const bytes = Buffer.from(stream);
      for (let at = 0; at < bytes.length; at += size) reader.push(bytes.subarray(at, at + size));
      assert.deepEqual(texts, expected);
      assert.equal(bad.length, isBad, stream.slice(0, 80));
      assert.equal(reader.length, 0);
    }
  }
});

test('the limit is exact, and holds before the delimiter', () => {
  for (const [length, fits] of [[99, true], [100, true], [101, false]]) {
    const frame = Buffer.from(JSON.stringify('x'.repeat(length - 2)));
    assert.equal(new PacketReader(() => {}, () => {}, 100).push(frame), fits);
    const ended = Buffer.concat([frame, Buffer.from('¶')]);
    assert.equal(new PacketReader(() => {}, () => {}, 100).push(ended), fits);
  }
});

test('what version 1 writers write is cut where they meant it', () => {
  assert.deepEqual(cut('{"a":"x¶y"}¶'), ['{"a":"x¶y"}']);
  assert.deepEqual(cut('{"a":"\\"¶"}¶{"b":"\\\\"}¶'), ['{"a":"\\"¶"}', '{"b":"\\\\"}']);
  assert.deepEqual(cut('{}'), ['{}']);
  assert.deepEqual(cut('¶'), []);
  assert.equal(seal('{"a":"x¶y"}').toString(), '{"a":"x\\u00b6y"}¶');
});

test('parts are left as they came', () => {
  assert.deepEqual(parts('{ "a" : 1.50 , "b":[1, 2],"\\u0063":{"d":"],}"} }'),
    [['a', '1.50'], ['b', '[1, 2]'], ['c', '{"d":"],}"}']]);
  assert.deepEqual(parts('[ {"a":[]} ,18446744073709551616, "x\\"," ]'),
    ['{"a":[]}', '18446744073709551616', '"x\\","']);
  for (const nothing of ['[]', ' { } ', '7', 'null', '']) assert.deepEqual(parts(nothing), []);
});

test('sums are those of zlib', () => {
  assert.equal(crc32(Buffer.from('1:{}')), 0xa2508d22);
  assert.equal(crc32(Buffer.from('')), 0);
  assert.equal(crc32(Buffer.from('123456789')), 0xcbf43926);
});

test('keys come back digit by digit, wherever they stood', async (t) => {
  const service = await serve(t, echo);
  const peer = await service.peer();
  const numbers = ['0', '7', '9007199254740993', '18446744073709551616', '-0', '1.50', '1e400'];
  for (const key of [...numbers, '""', '"7"', '"\\u00b6\\n가"']) {
    const inBoth = `"key":${key},"params":{"key":3}`;
    for (const call of [`"key":${key},"params":{}`, `"params":{"key":${key}}`, inBoth, `"key":${key}`]) {
      peer.send(`{"uri":"/goods","method":"GET",${call}}¶`);
      const old = `{"key":${key},"errorcode":0,"errormessage":"success","results":{}}`;
      assert.equal(await peer.nextText(), old);
      if (call.startsWith('"params"')) continue; // in version 2 that is an argument
      peer.send(`{"uri":"/goods","method":"GET",${call},"$":{}}¶`);
      assert.equal(await peer.nextText(), `{"key":${key},"$":{},"params":{}}`);
    }
  }
});

test('services may read the key at top level, and answer with it as text', async (t) => {
  const service = await serve(t, (socket, data) => {
    socket.write(JSON.stringify({ key: String(data.key), errorcode: 0 }) + '¶');
  });
  const peer = await service.peer();
  peer.send('{"uri":"/goods","method":"GET","params":{"key":7}}¶');
  assert.equal(await peer.nextText(), '{"key":7,"errorcode":0}');
});

test('both versions are answered in their own form', async (t) => {
  let answer;
  const service = await serve(t, (socket, data) => {
    socket.write(`${JSON.stringify(answer && { key: data.params.key, ...answer })}¶`);
  });
  const peer = await service.peer();
  for (const [written, old, fresh] of [
    [{ errorcode: 0, errormessage: 'success', results: ['¶'] }, undefined, { params: ['¶'], $: {} }],
    [{ results: null, $: { x: 1 } }, { results: null }, { params: null, $: {} }],
    [{ errorcode: '0', userid: 3 }, undefined, { params: { userid: 3 }, $: {} }],
    [{}, undefined, { params: null, $: {} }],
    [{ errorcode: 1, errormessage: 'no data' }, undefined, { $: { s: 500, r: 'errorcode_1', m: 'no data' } }],
    [{ errorcode: 404 }, undefined, { $: { s: 404, r: 'errorcode_404', m: '' } }],
    [{ errorcode: 'DB', errormessage: [1] }, undefined, { $: { s: 500, r: 'errorcode_db', m: '[1]' } }],
    [{ errorcode: -1 }, undefined, { $: { s: 500, r: 'errorcode', m: '' } }],
    [{ errorcode: 404, errormessage: 'none', $: { r: 'no_good' } }, { errorcode: 404, errormessage: 'none' },
      { $: { s: 404, r: 'no_good', m: 'none' } }],
    [null, { errorcode: 501, errormessage: 'the service does not know this method' },
      { $: { s: 501, r: 'method_not_known', m: 'the service does not know this method' } }],
  ]) {
    answer = written;
    peer.send('{"uri":"/goods","method":"GET","params":{"key":1}}¶');
    assert.deepEqual(await peer.next(), { key: 1, ...(old ?? written) });
    peer.send('{"uri":"/goods","method":"GET","key":1,"$":{"d":1000}}¶');
    assert.deepEqual(await peer.next(), { key: 1, ...fresh });
  }
  assert.equal(peer.bytes.toString().split('¶').length - 1, 20, 'no raw ¶ inside of a packet');
});

test('what stands in the path is found in params', async (t) => {
  const service = await serve(t, echo);
  service.context.urls = ['GET/goods/{id}', 'GET/goods/new', 'GET/{kind}/{id}', 'GET/goods/{id}/tags/{tag}'];
  const peer = await service.peer();
  for (const [uri, expected] of [
    ['/goods/7', { id: '7' }],
    ['/goods/new', {}],
    ['/members/a%20%ED%92%88', { kind: 'members', id: 'a 품' }],
    ['/goods/%/tags/x', { id: '%', tag: 'x' }],
    ['/goods/', {}],
    ['/goods', {}],
  ]) {
    peer.send(`{"uri":"${uri}","method":"GET","key":1,"params":{},"$":{}}¶`);
    assert.deepEqual((await peer.next()).params, expected, uri);
  }
});

test('a call that nobody waits for is not answered, and one that comes too late not begun', async (t) => {
  const held = [];
  const service = await serve(t, (socket, data) => held.push(() => echo(socket, data)));
  const peer = await service.peer();
  for (const key of [1, 2, 3]) peer.send(`{"uri":"/goods","method":"GET","key":${key},"$":{}}¶`);
  peer.send('{"uri":"$cancel","key":2,"$":{}}¶{"uri":"/goods","method":"GET","key":4,"$":{"d":0}}¶');
  const late = { s: 504, r: 'deadline', m: 'the call came too late to be begun' };
  assert.deepEqual(await peer.next(), { key: 4, $: late });
  for (const answer of held) answer();
  assert.deepEqual([(await peer.next()).key, (await peer.next()).key, held.length], [1, 3, 3]);
});

test('what is not an answer to a call does not go out', async (t) => {
  const service = await serve(t, (socket, data) => {
    const packet = JSON.stringify({ key: data.key, errorcode: 0 });
    if (data.uri === '/twice') socket.write(`${packet}¶`);
    socket.write(packet);
    socket.write('¶');
  });
  const peer = await service.peer();
  for (const silent of [
    '{"uri":"/goods","method":"GET"}',
    '{"uri":"/goods","method":"GET","params":{"a":1},"$":{}}',
    '{"uri":"/logs","method":"POST","key":0,"params":"text"}',
    '{"uri":"$cancel","key":3,"$":{}}',
    '{"uri":"$later","params":{"key":3}}',
  ]) peer.send(`${silent}¶`);
  peer.send('{"uri":"/twice","method":"GET","key":5}¶{"uri":"/goods","method":"GET","key":6}¶');
  assert.deepEqual([await peer.next(), await peer.next()].map(({ key }) => key), [5, 6]);
  assert.deepEqual(peer.packets, []);
});

test('answers without a key belong to the call that was handled', async (t) => {
  const service = await serve(t, (socket, data) => {
    if (data.method === 'GET') setTimeout(() => echo(socket, data), 20);
    else process.nextTick(() => socket.write('null¶'));
  });
  const peer = await service.peer();
  const calls = [['GET', 1], ['PUT', 2], ['GET', 3], ['PUT', 4], ['GET', 5]];
  for (const [method, key] of calls) peer.send(`{"uri":"/a","method":"${method}","params":{"key":${key}}}¶`);
  const seen = {};
  for (const _ of calls) {
    const { key, errorcode } = await peer.next();
    seen[key] = errorcode;
  }
  assert.deepEqual(seen, { 1: 0, 2: 501, 3: 0, 4: 501, 5: 0 });
});

test('a call that makes the service throw costs that call only', async (t) => {
  const service = await serve(t, function (socket, data) {
    if (data.method === 'GET') return echo(socket, data);
    if (data.method === 'PUT') return Promise.reject(new Error('on purpose'));
    return data.params.missing.member;
  });
  const peer = await service.peer();
  for (const method of ['POST', 'PUT']) {
    peer.send(`{"uri":"/goods","method":"${method}","key":1}¶`);
    assert.deepEqual(await peer.next(), { key: 1, errorcode: 500, errormessage: 'the service failed' });
  }
  peer.send('{"uri":"/goods","method":"GET","key":2}¶');
  assert.equal((await peer.next()).errorcode, 0);
  assert.equal(service.logged.filter((text) => text.includes('failed')).length, 2);
});

test('broken packets are dropped, then the connection is cut, and the next one served', async (t) => {
  const service = await serve(t, echo);
  const broken = ['{]', '[]', 'null', '{"uri":7}', '{"uri":"/a","uri":"/b"}'];
  for (const one of broken) {
    const peer = await service.peer();
    peer.send(`${one}¶${one}¶{"uri":"/goods","method":"GET","key":1,"$":{}}¶`);
    assert.equal((await peer.next()).key, 1);
    peer.send(`${one}¶`);
    await eventually('it is cut', () => peer.ended);
    // A gateway of version 1 says what its clients say.
    const gateway = await service.peer();
    for (let key = 1; key < 6; key++) {
      gateway.send(`{"uri":"/goods","method":"GET","key":${key}}¶${one}¶`);
      assert.equal((await gateway.next()).key, key);
    }
  }
  const peer = await service.peer();
  peer.send('x'.repeat(Server.FRAME_LIMIT + 1));
  await eventually('it is cut', () => peer.ended);
});

test('nothing that a stranger sends ends the process', async (t) => {
  const service = await serve(t, echo);
  let seed = 7;
  const random = (below) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >> 8) % below;
  };
  const sound = Buffer.from('{"uri":"/굶","method":"GET","key":9007199254740993,"params":{"a":[1]},"$":{}}¶');
  for (let round = 0; round < 100; round++) {
    const peer = await Peer.to(service.context.port);
    for (let n = 0; n < 20; n++) {
      const bytes = Buffer.from(sound);
      for (let changes = random(4); changes > 0; changes--) bytes[random(bytes.length)] = random(256);
      peer.send(bytes.subarray(random(3) === 0 ? random(bytes.length) : 0));
    }
    if (random(2) === 0) peer.socket.resetAndDestroy?.();
    peer.socket.destroy();
  }
  const peer = await service.peer();
  peer.send('{"uri":"/goods","method":"GET","key":1}¶');
  assert.equal((await peer.next()).key, 1);
  assert.ok(service.logged.length < 200, `${service.logged.length} lines`);
});

test('a caller that has closed its side still gets its answers', async (t) => {
  const service = await serve(t, (socket, data) => setTimeout(() => echo(socket, data), 50));
  const peer = await service.peer();
  peer.socket.end('{"uri":"/goods","method":"GET","key":1}¶{"uri":"/goods","method":"GET","key":2}¶');
  assert.deepEqual([(await peer.next()).key, (await peer.next()).key], [1, 2]);
  await eventually('the other side is closed too', () => peer.ended);
});

test('a version 1 caller gets no more than it can read', async (t) => {
  const service = await serve(t, (socket, data) => {
    const { key, length } = data.params;
    const packet = { key, errorcode: 0, errormessage: 'success', results: 'x'.repeat(length) };
    socket.write(JSON.stringify(packet) + '¶');
  });
  const around = encode({ key: 1, errorcode: 0, errormessage: 'success', results: '' }).length;
  const call = (length, more = '') => `{"uri":"/a","params":{"key":1,"length":${length}}${more}}¶`;
  for (const [length, errorcode] of [[LEGACY_READ_BYTES - around, 0], [LEGACY_READ_BYTES - around + 1, 500]]) {
    const peer = await service.peer();
    peer.send(call(length));
    assert.equal((await peer.next()).errorcode, errorcode);
  }
  const fresh = await service.peer();
  fresh.send(call(1_000_000, ',"key":1,"$":{}'));
  assert.equal((await fresh.next()).params.length, 1_000_000);

  // The second waits until the first has been read, as far as one can tell.
  const peer = await service.peer();
  const begin = performance.now();
  peer.send(call(40_000).repeat(2));
  await peer.next();
  await peer.next();
  assert.ok(performance.now() - begin > 30, `${performance.now() - begin} ms`);
});

test('a caller that asks faster than it is answered is not read from', async (t) => {
  const held = [];
  const service = await serve(t, (socket, data) => held.push(() => echo(socket, data)));
  const peer = await service.peer();
  const total = 50_000;
  const call = (key) => `{"uri":"/goods","method":"GET","key":${key},"$":{}}¶`;
  peer.send(Array.from({ length: total }, (_, key) => call(key)).join(''));
  await eventually('some have come', () => held.length > 1000);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(held.length < 5000, `${held.length} are at work`);
  const keys = new Set();
  await eventually('all are answered', () => {
    for (const answer of held.splice(0)) answer();
    for (const { key } of peer.packets.splice(0)) keys.add(key);
    return keys.size === total;
  });
});

test('a service that ends finishes what it has begun', async (t) => {
  const { port, next } = await distributor(t);
  let begun = false;
  const service = await serve(t, (socket, data) => {
    begun = true;
    setTimeout(() => echo(socket, data), 2500);
  });
  service.connectToDistributor('127.0.0.1', port);
  const link = await next();
  await link.next();
  link.send(`${list([1], { epoch: 9, rev: 1 })}¶`);
  const peer = await service.peer();
  peer.send('{"uri":"/goods","method":"GET","key":1}¶');
  const idle = await service.peer();
  await eventually('both are there', () => begun && service.sockets.size === 2 && service.logged.length > 0);
  const closed = service.close();
  assert.equal((await link.next()).method, 'DELETE');
  assert.equal((await peer.next()).key, 1);
  await closed;
  await eventually('both are closed', () => peer.ended && idle.ended);
});

test('a client has the shape that old code knows', async (t) => {
  const service = await serve(t, echo);
  const seen = [];
  const client = new Client('127.0.0.1', service.context.port, (options) => {
    seen.push(['create', options.port]);
    client.write({ uri: '/goods', method: 'GET', params: { key: 1, text: '¶' } });
  }, (options, data) => {
    seen.push(['read', data.results.text]);
    client.end();
  }, () => seen.push(['end']), (options, error) => seen.push(['error', error.code]));
  assert.equal(client.write({}), false);
  client.connect();
  client.connect();
  await eventually('it has ended', () => seen.length === 3);
  assert.deepEqual(seen, [['create', service.context.port], ['read', '¶'], ['end']]);
  const failed = (_, error) => seen.push([error.code]);
  const nobody = new Client('127.0.0.1', 1, null, null, () => seen.push(['end']), failed);
  nobody.connect();
  await eventually('it has failed', () => seen.length === 5);
  assert.deepEqual(seen.slice(3), [['ECONNREFUSED'], ['end']]);
  new Client('127.0.0.1', 70_000, null, null, () => seen.push(['end']), failed).connect();
  await eventually('it has failed', () => seen.length === 7);
  assert.deepEqual(seen.slice(5), [['ERR_SOCKET_BAD_PORT'], ['end']]);
});

// A replica, and what became of each thing it was told.
class Told {
  replica = new Replica();

  at(now, text, outcome, ports) {
    assert.equal(this.replica.take(JSON.parse(text), text, now), outcome, text);
    assert.deepEqual(this.replica.list().map(({ port }) => port), ports);
    return this;
  }
}

test('changes apply to what they follow, and to nothing else', () => {
  const told = new Told();
  told.at(0, change([1], [], { epoch: 9, rev: 2, base: 1 }), 'gap', []);
  told.at(0, list([1, 2], { epoch: 9, rev: 5 }), 'changed', [1, 2]);
  told.at(0, list([1, 2], { epoch: 9, rev: 5 }), 'same', [1, 2]);
  told.at(0, list([1], { epoch: 9, rev: 4 }), 'stale', [1, 2]);
  told.at(0, list([1], { epoch: 8, rev: 9 }), 'stale', [1, 2]);
  told.at(0, change([3], [1], { epoch: 9, rev: 6, base: 5, digest: digest([2, 3]) }), 'changed', [2, 3]);
  told.at(0, change([3], [1], { epoch: 9, rev: 6, base: 5, digest: digest([2, 3]) }), 'stale', [2, 3]);
  told.at(0, change([4], [], { epoch: 9, rev: 8, base: 7 }), 'gap', [2, 3]);
  told.at(0, change([4], [], { epoch: 9, rev: 7, base: 6, digest: 1 }), 'gap', [2, 3]);
  told.at(0, list([2, 3], { epoch: 9, rev: 7, digest: 1 }), 'gap', [2, 3]);
  told.at(0, change([], [], { epoch: 10, rev: 1, base: 6, was: 9 }), 'same', [2, 3]);
  assert.deepEqual(told.replica.state, { epoch: 10, rev: 1 });
  assert.equal(told.replica.digest, digest([2, 3]));
  for (const bad of [
    list([5], { epoch: 11, rev: 1, ids: [] }), list([5], { epoch: 11, rev: 1, ids: ['5'] }),
    change([5], [], { epoch: 10, rev: 2, base: 1, ids: [] }),
    '{"method":"GET","params":{}}',
    '{"method":"PATCH"}',
  ]) told.at(0, bad, 'bad', [2, 3]);
});

test('an entry is summed up as it came over the wire', () => {
  const text = '{"port":1,"name":"a\\u00b6","x":1.50,"urls":[],"host":"::1"}';
  const $ = JSON.stringify({ epoch: 1, rev: 1, ids: [7], digest: crc32(Buffer.from(`7:${text}`)) });
  new Told().at(0, `{"method":"GET","params":[ ${text} ],"$":${$}}`, 'changed', [1]);
});

test('a Distributor that knows less makes nobody forget', () => {
  const told = new Told();
  told.at(0, list([1, 2], { epoch: 9, rev: 5 }), 'changed', [1, 2]);
  told.replica.disconnected();
  told.replica.connected();
  told.at(0, list([3], { epoch: 10, rev: 1, warming: true }), 'changed', [3, 1, 2]);
  told.at(0, change([1], [], { epoch: 10, rev: 2, base: 1, warming: true }), 'changed', [3, 1, 2]);
  told.at(0, change([], [], { epoch: 10, rev: 3, base: 2 }), 'changed', [3, 1]);

  // One of version 1 does not say when it knows everybody.
  told.replica.disconnected();
  told.replica.connected();
  told.at(100_000, list([]), 'changed', [3, 1]);
  told.at(100_001, list([4]), 'changed', [4, 3, 1]);
  told.at(100_002, list([1, 4]), 'changed', [1, 4, 3]);
  told.at(100_003, list([4]), 'changed', [4, 3]);
  assert.equal(told.replica.expire(110_999), false);
  assert.equal(told.replica.expire(111_000), true);
  told.at(112_000, list([4]), 'same', [4]);
});

test('a new connection may lead to a Distributor whose clock is slow', () => {
  const told = new Told();
  told.at(0, list([1], { epoch: 9, rev: 5 }), 'changed', [1]);
  told.replica.connected();
  told.at(0, list([2], { epoch: 8, rev: 1 }), 'changed', [2]);
});

test('a node of version 2 follows its Distributor', async (t) => {
  const { port, next } = await distributor(t);
  const service = await serve(t, echo);
  const lists = [];
  service.connectToDistributor('127.0.0.1', port, (data) => lists.push(data));
  const link = await next();
  const { params, ...registration } = await link.next();
  const { secret } = registration.$;
  assert.deepEqual(registration, { uri: '/distributes', method: 'POST', key: 0, $: { secret, packed: true } });
  const { id } = params.$;
  const own = service.context.port;
  assert.deepEqual(params, { port: own, name: 'goods', urls: ['GET/goods'], $: { v: 2, id } });
  assert.ok(proves(secret, id) && service.isConnectedDistributor);

  link.send('{"uri":"$ping","$":{}}¶');
  assert.deepEqual(await link.next(), { uri: '$pong', $: {} });
  link.send(`${list([1, 2], { epoch: 9, rev: 5 })}¶`);
  await eventually('the list', () => lists.length === 1);
  const { params: entries, ...around } = lists[0];
  assert.deepEqual([entries.length, around], [2, { uri: '/distributes', method: 'GET', key: 0 }]);
  link.send(`${change([3], [1], { epoch: 9, rev: 6, base: 5, digest: digest([2, 3]), ack: true })}¶`);
  const known = { epoch: 9, rev: 6, digest: digest([2, 3]) };
  assert.deepEqual(await link.next(), { uri: '$pong', $: known });
  assert.deepEqual(lists[1].params.map((one) => one.port), [2, 3]);

  // What does not fit is asked for, once.
  const question = { uri: '/distributes', method: 'GET', key: 1, $: {} };
  link.send(`${change([4], [], { epoch: 9, rev: 9, base: 8 })}¶`.repeat(2));
  assert.deepEqual(await link.next(), question);
  link.send('{"uri":"/distributes","method":"GET","key":0,"$":{"copy":true}}¶');
  const copy = await link.nextText();
  assert.deepEqual(JSON.parse(copy).$, { ...known, more: false, ids: [2, 3] });
  assert.ok(copy.includes(`"params":[${entry(2)},${entry(3)}]`));

  // Turned away, it comes again; cut off, it goes on from what it knows.
  const busy = { s: 429, r: 'busy', m: 'later', ra: 60 };
  link.send(encode({ uri: '/distributes', method: 'GET', key: 0, params: [], $: busy }));
  assert.deepEqual((await link.next()).$, { secret, packed: true, have: known });
  link.socket.destroy();
  await eventually('it is lost', () => !service.isConnectedDistributor);
  const again = await next();
  const back = await again.next();
  assert.deepEqual([back.params.$.id, back.$], [params.$.id, { secret, packed: true, have: known }]);
  assert.equal(lists.length, 2, 'nothing was forgotten meanwhile');
  again.send(`{"uri":"$ping","$":${JSON.stringify({ ...known, digest: 1 })}}¶`);
  assert.equal((await again.next()).uri, '$pong');
  assert.deepEqual(await again.next(), question, 'another digest of the same state');
});

function proves(secret, id) {
  return /^[0-9a-f]{64}$/.test(secret) && id === `~${createHash('sha256').update(secret).digest('hex').slice(0, 32)}`;
}

test('an instance proves its id by a secret that only the Distributor is told', async (t) => {
  const { port, next } = await distributor(t);
  const service = await serve(t, echo);
  service.connectToDistributor('127.0.0.1', port);
  const web = http.createServer(() => {}).listen(0);
  const offer = offerHttp(web, { name: 'web', prefixes: ['/web'], port, onLog: () => {} });
  t.after(() => {
    offer.leave();
    web.close();
  });
  const seen = new Set();
  for (const link of [await next(), await next()]) {
    const { params, $ } = await link.next();
    assert.ok(proves($.secret, params.$.id));
    assert.ok(!JSON.stringify(params).includes($.secret));
    assert.ok(!require('node:util').inspect([service, offer], { depth: 9, showHidden: true }).includes($.secret));
    seen.add($.secret).add(params.$.id);
    const taken = encode({ uri: '/distributes', method: 'GET', key: 0, params: [], $: { s: 403, r: 'not_yours', m: 'no' } });
    link.send(Buffer.concat([taken, taken]));
  }
  assert.equal(seen.size, 4);
  await eventually('it says so', () => service.logged.some((text) => text.includes('belongs to another process')));
  assert.ok(service.logged.filter((text) => text.includes('belongs to another process')).length === 1);
  assert.ok(service.logged.every((text) => [...seen].every((one) => one.startsWith('~') || !text.includes(one))));
});

test('packed entries are read like others, and what is not a block is not', () => {
  const pack = (text) => deflateSync(text).toString('base64');
  const entry = (port) => `{"port":${port},"name":"n","host":"::1"}`;
  const block = (...ids) => pack(`{"ids":[${ids}],"entries":[${ids.map(entry)}]}`);
  const check = (packed, outcome, ports) => {
    const told = new Told();
    told.at(0, `{"method":"GET","params":[],"$":{"epoch":1,"rev":1,"ids":[],"packed":${JSON.stringify(packed)}}}`, outcome, ports);
    return told;
  };
  const told = check([block(1, 2), block(300)], 'changed', [1, 2, 300]);
  assert.equal(told.replica.entries.get(300).text, entry(300), 'copies are of what came');
  const left = '"left":[{"id":1,"reason":"closed"}]';
  told.at(0, `{"method":"PATCH","params":{"joined":[],${left}},"$":{"epoch":1,"rev":2,"base":1,"ids":[],"packed":["${block(7)}"]}}`,
    'changed', [2, 300, 7]);
  for (const bad of [7, null, 'x', [7], ['x'], [''], [block(1).slice(0, -8)], [pack('7')], [pack('{}')],
    [pack('{"ids":[1],"entries":[]}')], [pack('{"ids":[1],"entries":["¶"]}')], [pack('0'.repeat(16 * 1024 * 1024 + 1))]]) {
    check(bad, 'bad', []);
  }
});

test('a host of the loopback is the Distributor\'s where that is on another machine', () => {
  const [far, far6] = ['::ffff:10.0.0.9', 'fd00::9'];
  const check = (host, where, expected) => {
    const replica = new Replica();
    replica.connected(where);
    const text = JSON.stringify({ port: 1, name: 'n', urls: [], host });
    const $ = { epoch: 1, rev: 1, ids: [7], digest: crc32(Buffer.from(`7:${text}`)) };
    const packet = `{"method":"GET","params":[${text}],"$":${JSON.stringify($)}}`;
    assert.equal(replica.take(JSON.parse(packet), packet, 0), 'changed');
    assert.deepEqual(replica.list().map((one) => one.host), [expected], host);
    assert.equal([...replica.entries.values()][0].text, text, 'copies are of what came');
    const next = { ...$, rev: 2, base: 1 };
    const change = `{"method":"PATCH","params":{"joined":[${text}],"left":[]},"$":${JSON.stringify(next)}}`;
    assert.equal(replica.take(JSON.parse(change), change, 0), 'changed');
    assert.deepEqual(replica.list().map((one) => one.host), [expected], host);
    replica.connected(null);
    const again = packet.replace('"rev":1', '"rev":3');
    assert.equal(replica.take(JSON.parse(again), again, 0), where === null ? 'same' : 'changed');
    assert.deepEqual(replica.list().map((one) => one.host), [host], 'and now it is on this machine');
  };
  for (const host of ['127.0.0.1', '127.9.9.9', '::ffff:127.0.0.1', '::FFFF:7f00:1', '0:0:0:0:0:ffff:7f00:1', '::1',
    '0:0:0:0:0:0:0:1', '::', '0.0.0.0', '::ffff:0.0.0.0', '[::1]', '::1%lo', 'localhost', '127.1', '2130706433']) {
    check(host, far, far);
    check(host, far6, far6);
    check(host, null, host);
  }
  for (const host of ['10.0.0.7', '::ffff:10.0.0.7', 'fd00::7', '::ffff:169.254.1.1', 'example.org']) check(host, far, host);
});

test('a Distributor is on another machine unless its connection begins where it ends', () => {
  const check = (localAddress, remoteAddress, expected) => {
    assert.equal(registryHost({ localAddress, remoteAddress }), expected, remoteAddress);
  };
  check('127.0.0.1', '127.0.0.1', null);
  check('::1', '::1', null);
  check('::ffff:127.0.0.1', '127.0.0.53', null);
  check('10.0.0.2', '10.0.0.9', '::ffff:10.0.0.9');
  check('::ffff:10.0.0.2', '::ffff:10.0.0.9', '::ffff:10.0.0.9');
  check('::ffff:10.0.0.2', '10.0.0.2', null);
  check('fd00::2', 'fd00::9', 'fd00::9');
  check(undefined, undefined, null);
});

test('a service that nobody can call says so', () => {
  const check = (listens, [localAddress, remoteAddress], warns, loopback) => {
    const [sent, logged] = [[], []];
    const client = { options: {}, client: { localAddress, remoteAddress }, write: (packet) => sent.push(packet) };
    const service = { context: { name: 'n', port: 9040, urls: [] }, onLog: (text) => logged.push(text) };
    const registry = new Registry(service, { ...newIdentity(), version: 2, listens: () => listens }, client, () => {});
    client.onCreate();
    client.onCreate();
    assert.equal(logged.length, warns, listens);
    assert.ok(logged.every((text) => text.includes(`${listens}:9040`) && text.includes(`${localAddress}:9040`)));
    assert.equal(sent.at(-1).$.loopback, loopback);
    registry.left = true;
  };
  const [near, far] = [['127.0.0.1', '127.0.0.1'], ['10.0.0.2', '10.0.0.9']];
  check('127.0.0.1', far, 1, true);
  check('127.0.0.1', near, 0, true);
  check('127.0.0.1', ['fd00::2', 'fd00::9'], 1, true);
  check('0.0.0.0', far, 0, undefined);
  check('::', far, 0, undefined);
  check('10.0.0.2', far, 0, undefined);
  check(undefined, far, 0, undefined);
});

test('a3: a service advertises where it can be called', async (t) => {
  const { port, next } = await distributor(t);
  const service = await serve(t, echo, { advertise: '192.0.2.1:80' });
  service.connectToDistributor('127.0.0.1', port);
  const { params, $ } = await (await next()).next();
  assert.equal(params.$.advertise, '192.0.2.1:80');
  assert.equal($.loopback, undefined);
  for (const advertise of ['192.0.2.1', 'a:0', '', ':80']) {
    assert.throws(() => new Server('n', 0, [], { advertise }), /is not an address/, advertise);
  }
  for (const wrong of ['', 'x', 0, 65536, undefined]) {
    assert.throws(() => service.connectToDistributor('foo', wrong), /not the address of a Distributor/, String(wrong));
  }
});

test('a3: a service whose address is translated says where others are told that it is', () => {
  const check = (localAddress, host, advertise, expected) => {
    const logged = [];
    const client = { options: {}, client: { localAddress, remoteAddress: '10.0.0.9' }, write() {}, patience() {} };
    const service = { context: { name: 'n', port: 9040, urls: [] }, onLog: (text) => logged.push(text) };
    const identity = newIdentity();
    const registry = new Registry(service, { ...identity, version: 2, advertise }, client, () => {});
    client.onCreate();
    const entry = { port: 9040, name: 'n', urls: [], $: { id: identity.id }, host };
    const list = { uri: '/distributes', method: 'GET', key: 0, params: [entry], $: { epoch: 1, rev: 1, ids: [1] } };
    const take = () => registry.take(list, JSON.stringify(list));
    take();
    take();
    client.onCreate(); // another connection tells nothing new
    take();
    registry.left = true;
    assert.equal(logged.filter((text) => text.includes('others are told')).length, expected, host);
    assert.ok(logged.every((text) => !text.includes('others are told') || text.includes('192.0.2.1:9040')));
  };
  check('172.17.0.2', '::ffff:192.0.2.1', undefined, 1);
  check('172.17.0.2', '::ffff:172.17.0.2', undefined, 0);
  check('::ffff:172.17.0.2', '::ffff:172.17.0.2', undefined, 0);
  check('172.17.0.2', '::ffff:192.0.2.1', '192.0.2.1:9040', 0);
  check('127.0.0.1', '::ffff:127.0.0.1', undefined, 0);
});

test('gu13: a caller that looks for another instance is told, and its calls are not begun', async (t) => {
  let begun = 0;
  const service = await serve(t, (socket, packet) => {
    begun++;
    echo(socket, packet);
  });
  const call = { uri: '/x', method: 'GET', key: 7, params: {}, $: {} };
  const peer = await service.peer();
  peer.send(encode({ uri: '$hello', $: { f: 'a', to: 'another' } }));
  peer.send(encode(call));
  const hello = await peer.next();
  assert.equal(hello.uri, '$hello');
  const refused = await peer.next();
  assert.deepEqual([refused.key, refused.$.s, refused.$.r, begun], [7, 421, 'wrong_instance', 0]);
  for (const to of [hello.$.f, '*']) {
    const right = await service.peer();
    right.send(encode({ uri: '$hello', $: { f: 'a', to } }));
    right.send(encode(call));
    assert.equal((await right.next()).$.f, hello.$.f);
    assert.equal((await right.next()).key, 7);
  }
  assert.equal(begun, 2);
});

test('c11: a server that is not a Distributor is named as such, and asked less and less often', async (t) => {
  const check = (bytes, expected) => assert.equal(foreignServer(Buffer.from(bytes)), expected, bytes);
  for (const maybe of ['', '\r\n', '{', '¶', ' {"uri"']) check(maybe, null);
  check('HTTP/1.1 400 Bad Request\r\n', 'it speaks HTTP');
  check('<html>', 'it speaks HTTP');
  check('\u0015\u0003\u0001', 'it speaks TLS');
  check('SSH-2.0-x', 'it speaks SSH');
  check('+PONG', 'it sends bytes that are not packets');
  const web = net.createServer((socket) => socket.on('error', () => {}).on('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')));
  await new Promise((resolve) => { web.listen(0, '127.0.0.1', resolve); });
  t.after(() => web.close());
  const service = await serve(t, echo);
  service.connectToDistributor('127.0.0.1', web.address().port);
  await eventually('it says so', () => service.logged.some((text) => text.includes('is not a Distributor: it speaks HTTP')));
  const other = await serve(t, echo);
  const third = await serve(t, echo);
  third.connectToDistributor('127.0.0.1', other.context.port);
  await eventually('it says so', () => third.logged.some((text) => text.includes('answers like a service')));

  const waits = [];
  t.mock.method(globalThis, 'setTimeout', (_connect, ms) => waits.push(ms));
  const client = { options: {}, client: {}, leftOver: Buffer.from('HTTP/1.1'), connect() {}, write() {}, patience() {} };
  const registry = new Registry({ context: {}, onLog() {} }, { ...newIdentity(), version: 2 }, client, () => {});
  for (const seconds of [3, 6, 12, 24, 30, 30]) {
    client.onCreate();
    client.onEnd();
    const share = waits.pop() / 1000 / seconds;
    assert.ok(share >= 0.9 && share <= 1.1, `${share} of ${seconds} s`);
  }
});

test('what strangers write is shown as it is, and does nothing', () => {
  assert.equal(shown('GET/상품'), 'GET/상품');
  assert.equal(shown('a\u001b[2J\u009b\u202e\nb'), 'a\\u{1b}[2J\\u{9b}\\u{202e}\\u{a}b');
  assert.equal(shown('x'.repeat(200)).length, 129);
});

// A process that writes `bytes` to `port` without a pause over so many connections, and reads
// nothing.
function flood(t, port, connections, bytes) {
  const program = `
    const { connect } = require('node:net');
    let bytes = Buffer.alloc(0);
    process.stdin.on('data', (chunk) => { bytes = Buffer.concat([bytes, chunk]); });
    process.stdin.on('end', () => {
      for (let n = 0; n < ${connections}; n++) {
        const socket = connect(${port}, '127.0.0.1');
        const write = () => { while (socket.write(bytes)); };
        socket.on('connect', write).on('drain', write).on('error', () => {});
      }
    });`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'ignore', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  child.stdin.end(bytes);
  return child;
}

test('a peer that always has something to say keeps nobody waiting', async (t) => {
  const small = Buffer.concat(Array(1000).fill(encode({ uri: '/nothing', method: 'GET', $: {}, params: {} })));
  const large = encode({ uri: '/nothing', method: 'GET', $: {}, params: Array(200_000).fill(1) });
  for (const [connections, bytes] of [[4, small], [100, small], [4, large], [30, large], [20, Buffer.from('¶'.repeat(5000))]]) {
    const service = await serve(t, (socket, data) => {
      if (data.key !== undefined) echo(socket, data);
    });
    const { port, next } = await distributor(t);
    service.connectToDistributor('127.0.0.1', port);
    const link = await next();
    await link.next();
    const peer = await service.peer();
    const child = flood(t, service.context.port, connections, bytes);
    const read = () => [...service.sockets].reduce((sum, socket) => sum + socket.bytesRead, 0);
    await eventually('it is flooded', () => read() > 2 * bytes.length);
    for (let n = 0; n < 5; n++) {
      // On a busy machine the time of this process says more than the clock.
      const begin = process.cpuUsage();
      peer.send(`{"uri":"/goods","method":"GET","key":${n},"$":{}}¶`);
      assert.equal((await peer.next()).key, n);
      link.send('{"uri":"$ping","$":{}}¶');
      assert.equal((await link.next()).uri, '$pong');
      const { user, system } = process.cpuUsage(begin);
      const took = (user + system) / 1000;
      assert.ok(took < 1000, `${took} ms, ${connections} connections of ${bytes.length} bytes`);
    }
    child.kill('SIGKILL');
    for (const socket of service.sockets) socket.destroy();
  }
});

test('callers together have no more than a budget of bytes', async (t) => {
  const buffers = 4 * 1024 * 1024;
  const service = await serve(t, (socket, data) => {
    const results = 'x'.repeat(data.params.length ?? 0);
    socket.write(JSON.stringify({ key: data.key, errorcode: 0, errormessage: 'success', results }));
  }, { buffers });
  const held = () => [...service.sockets].reduce((sum, socket) => sum + socket.bytesRead, 0);
  const call = (length) => `{"uri":"/goods","method":"GET","key":1,"$":{},"params":{"length":${length}}}¶`;
  const good = await service.peer();
  const others = await Promise.all(Array.from({ length: 50 }, () => service.peer()));
  for (const peer of others) peer.send(`{"uri":"${'x'.repeat(1024 * 1024)}`);
  await eventually('it is full', () => held() > buffers / 2);
  good.send(call(100));
  assert.equal((await good.next()).params.length, 100, 'what is small gets through');
  const most = buffers + others.length * 3 * 65536;
  assert.ok(held() < most, `${held()} bytes were read`);
  await eventually('packets that do not end are given up', () => others.every((peer) => peer.ended));
  good.send(call(buffers));
  assert.deepEqual(await good.next(), {
    key: 1, $: { s: 503, r: 'no_room', m: 'there is no room to keep this answer until it is read' },
  });
  good.send(call(buffers / 2));
  assert.equal((await good.next()).params.length, buffers / 2, 'there is room again');

  // Nobody reads, and everybody asks.
  const lazy = await Promise.all(Array.from({ length: 20 }, () => service.peer()));
  for (const peer of lazy) {
    peer.socket.pause();
    peer.send(call(500_000).repeat(100));
  }
  const unread = () => [...service.sockets].reduce((sum, socket) => sum + socket.writableLength, 0);
  await eventually('they are answered', () => unread() > buffers / 2);
  for (let n = 0; n < 20; n++) {
    good.send(call(100));
    assert.equal((await good.next()).params.length, 100, 'others are answered');
    assert.ok(unread() <= buffers + lazy.length * 16 * 1024, `${unread()} bytes are not read`);
  }
});

test('many who send more than there is room for are cut, and others are served', async (t) => {
  const buffers = 1024 * 1024;
  const service = await serve(t, echo, { buffers });
  const good = await service.peer();
  const others = await Promise.all(Array.from({ length: 200 }, () => service.peer()));
  for (const peer of others) peer.send(`{"uri":"${'x'.repeat(256 * 1024)}`);
  const cut = () => others.filter((peer) => peer.ended).length;
  let most = 0;
  await eventually('there is no room for most of them', () => {
    most = Math.max(most, service.buffers.bytes);
    return cut() > others.length / 2;
  });
  good.send('{"uri":"/goods","method":"GET","key":1,"$":{},"params":{"x":1}}¶');
  assert.deepEqual((await good.next()).params, { x: 1 });
  assert.ok(most <= 1.25 * buffers + 2 * 128 * 1024, `${most} bytes were kept`);
});

test('a copy is cut into packets that pass', async (t) => {
  const { port, next } = await distributor(t);
  const service = await serve(t, echo);
  service.connectToDistributor('127.0.0.1', port);
  const link = await next();
  await link.next();
  const ids = Array.from({ length: 100 }, (_, id) => id);
  const big = ids.map((id) => entry(id, `,"x":"${'y'.repeat(1000)}"`));
  const $ = JSON.stringify({ epoch: 9, rev: 1, ids });
  link.send(`{"uri":"/distributes","method":"GET","key":0,"params":[${big}],"$":${$}}¶`);
  link.send('{"uri":"/distributes","method":"GET","key":0,"$":{"copy":true}}¶');
  const seen = [];
  for (let more = true; more;) {
    const text = await link.nextText();
    assert.ok(Buffer.byteLength(text) < 60_000);
    const part = JSON.parse(text);
    assert.equal(part.params.length, part.$.ids.length);
    seen.push(...part.$.ids);
    more = part.$.more;
  }
  assert.deepEqual(seen, ids);
});

test('whoever asks for it, or has a name that version 2 does not take, stays with version 1', async (t) => {
  const { port, next } = await distributor(t);
  const old = await serve(t, echo, { version: 1 });
  old.connectToDistributor('127.0.0.1', port);
  const packet = await (await next()).next();
  assert.deepEqual([packet.$, packet.params.$], [undefined, undefined]);
  class Named extends Server {
    onLog() {}
  }
  const named = new Named('상품', 0);
  t.after(() => {
    named.leave();
    named.server.close();
  });
  named.connectToDistributor('127.0.0.1', port);
  const { params, $ } = await (await next()).next();
  assert.deepEqual([params.name, params.$, $], ['상품', undefined, undefined]);
});

test('e7 a service that changes one line stays with version 1, and so do its public answers', async (t) => {
  const { port, next } = await distributor(t);
  class Old extends Server {
    onLog() {}

    onRead(socket, data) {
      echo(socket, data);
    }
  }
  const old = new Old('goods', 0, ['GET/goods']);
  t.after(() => {
    old.leave();
    old.server.close();
  });
  old.connectToDistributor('127.0.0.1', port);
  const packet = await (await next()).next();
  assert.deepEqual(packet, {
    uri: '/distributes', method: 'POST', key: 0, params: { port: old.context.port, name: 'goods', urls: ['GET/goods'] },
  });
});

test('e8 nothing of an answer is lost', async (t) => {
  const answers = {
    1: '"errorcode":0,"errormessage":[{"id":1}]',
    2: '"errorcode":0,"errormessage":"","results":[1],"pageInfo":{"n":2}',
    3: '"errorCode":1,"errorMessage":"no data"',
    4: '"errorcode":0,"errormessage":"success","results":[1]',
    5: '"errorcode":0,"errormessage":"success"',
    6: '"errorcode":0,"errorCode":"404"',
  };
  const service = await serve(t, (socket, { key }) => socket.write(`{"key":${key},${answers[key]}}`));
  const peer = await service.peer();
  const expected = {
    1: { $: {}, params: [{ id: 1 }] },
    2: { $: {}, params: { results: [1], pageInfo: { n: 2 } } },
    3: { $: { s: 500, r: 'errorcode_1', m: 'no data' } },
    4: { $: {}, params: [1] },
    5: { $: {}, params: null },
    6: { $: { s: 404, r: 'errorcode_404', m: '' } },
  };
  for (const key of Object.keys(answers).map(Number)) {
    peer.send(`{"uri":"/goods","method":"GET","key":${key},"$":{}}¶{"uri":"/goods","method":"GET","key":${key}}¶`);
    assert.deepEqual(await peer.next(), { key, ...expected[key] });
    assert.deepEqual(await peer.next(), JSON.parse(`{"key":${key},${answers[key]}}`));
  }
});

test('e6 a service may say what its version 1 callers can read', async (t) => {
  const large = 'x'.repeat(184_000);
  const write = (socket, { key }) => socket.write(JSON.stringify({ key, errorcode: 0, results: large }));
  for (const [options, fits] of [[{}, false], [{ maxLegacyResponseBytes: 200_000 }, true]]) {
    const service = await serve(t, write, options);
    const peer = await service.peer();
    peer.send('{"uri":"/goods","method":"GET","key":1}¶');
    const answer = await peer.next();
    assert.deepEqual([answer.errorcode, answer.results === large], fits ? [0, true] : [500, false]);
  }
});

test('e6 version 1 peers say what they can read, and what all of a host say counts', async (t) => {
  const { port, next } = await distributor(t);
  const large = 'x'.repeat(184_000);
  const write = (socket, { key }) => socket.write(JSON.stringify({ key, errorcode: 0, results: large }));
  const service = await serve(t, write, { readWindow: 1 << 20 });
  service.connectToDistributor('127.0.0.1', port);
  const link = await next();
  assert.equal((await link.next()).params.readWindow, 1 << 20);
  const peer = await service.peer();
  const gate = (more) => ({ port: 1, name: 'gate', urls: [], host: '::ffff:127.0.0.1', ...more });
  const lists = [
    [[], 500],
    [[gate({ readWindow: 200_000 })], 0],
    [[gate({ readWindow: 200_000 }), gate({})], 500],
    [[gate({ readWindow: 200_000 }), gate({ readWindow: 'x' })], 500],
    [[gate({ readWindow: 200_000, host: '::ffff:10.0.0.1' })], 500],
    [[gate({ readWindow: 1 << 30 }), gate({ $: { v: 2 } })], 0],
  ];
  let key = 0;
  for (const [list, errorcode] of lists) {
    link.send(`${JSON.stringify({ uri: '/distributes', method: 'GET', key: 0, params: list })}¶`);
    let answer;
    for (let tries = 0; tries < 100 && answer?.errorcode !== errorcode; tries++) {
      peer.send(`{"uri":"/goods","method":"GET","key":${++key}}¶`);
      answer = await peer.next();
    }
    assert.equal(answer.errorcode, errorcode, JSON.stringify(list));
  }
});

test('e9 packets are sent to the node logs before they are handled, and nothing it says matters', async (t) => {
  const { port, next } = await distributor(t);
  const logs = await distributor(t); // a server
  const order = [];
  const service = await serve(t, (socket, data) => {
    order.push('handled');
    echo(socket, data);
  });
  service.connectToDistributor('127.0.0.1', port);
  const link = await next();
  await link.next();
  const node = (name, at) => `{"port":${at},"name":"${name}","urls":["POST/logs"],"host":"::ffff:127.0.0.1"}`;
  const tell = (nodes) => link.send(`{"uri":"/distributes","method":"GET","key":0,"params":[${nodes}]}¶`);
  const peer = await service.peer();
  const call = (key, more = '') => `{"uri":"/goods","method":"GET","key":${key},"params":{"password":"¶"}${more}}`;
  peer.send(`${call(1).replace('¶', '\\u00b6')}¶`);
  await peer.next(); // nobody is there to be told
  tell([node('log', 1), node('logs', logs.port), node('logs', 1)]);
  const log = await logs.next();
  for (const text of [call(2), call(3, ',"$":{}')]) {
    peer.send(`${text.replace('¶', '\\u00b6')}¶`);
    assert.equal((await peer.next()).key, JSON.parse(text).key);
    const packet = await log.next();
    assert.deepEqual(packet, { uri: '/logs', method: 'POST', key: 0, params: text.replace('¶', '\\u00b6') });
  }
  log.send('{"key":0}¶garbage¶');
  // One that drops its connection is connected to again at a later list.
  log.socket.destroy();
  await eventually('it is noticed', () => log.ended);
  const says = (part) => eventually(part, () => service.logged.some((text) => text.includes(part)));
  await says(`no packets are sent to the node logs at ::ffff:127.0.0.1:${logs.port} any more`);
  peer.send('{"uri":"/goods","method":"GET","key":4}¶');
  await peer.next();
  tell([node('logs', logs.port), node('other', 2)]);
  const again = await logs.next();
  peer.send('{"uri":"/goods","method":"GET","key":5}¶');
  assert.equal(JSON.parse((await again.next()).params).key, 5);
  again.socket.destroy();
  // What the Distributor says and is not a list is ignored, and the log says so.
  link.send('{"uri":"/distributes","method":"GET","key":0,"params":7}¶');
  await says('ignored a list of the distributor 127.0.0.1');
});

test('lost packets for the node logs are told of once', () => {
  const said = [];
  const socket = { destroyed: false, writableLength: 2 * 1024 * 1024, unref() {} };
  const client = { client: socket, connect() {}, write() { assert.fail('it reads too slowly'); } };
  const sender = new LogSender('goods', () => client, (text) => said.push(text));
  sender.list([{ name: 'logs', host: '::1', port: 9040 }]);
  for (let n = 0; n < 3; n++) sender.send('{}');
  assert.equal(sender.lost, 3);
  assert.deepEqual(said, ['the node logs reads too slowly: 1 packets were not sent to it so far']);
});

test('e12 a version 1 Distributor may be built on it', async (t) => {
  const nodes = new Map();
  const list = () => `${JSON.stringify({ uri: '/distributes', method: 'GET', key: 0, params: [...nodes.values()] })}¶`;
  class Distributor extends Server {
    onLog() {}

    onCreate(socket) {
      socket.write(list());
    }

    onRead(socket, { uri, method, params }) {
      if (`${method}${uri}` !== 'POST/distributes') return;
      nodes.set(socket, { ...params, host: socket.remoteAddress });
      for (const other of nodes.keys()) other.write(list());
    }

    onClose(socket) {
      if (nodes.delete(socket)) for (const other of nodes.keys()) other.write(list());
    }
  }
  const old = new Distributor('distributor', 0);
  await once(old.server, 'listening');
  const services = [await serve(t, echo, { version: 1 }), await serve(t, echo)];
  t.after(() => {
    old.server.close();
    for (const socket of nodes.keys()) socket.destroy();
  });
  const lists = [[], []];
  for (const [n, service] of services.entries()) {
    service.connectToDistributor('127.0.0.1', old.context.port, (data) => { lists[n] = data.params; });
    await eventually('it is listed', () => service.logged.some((text) => text.startsWith('registered')));
  }
  await eventually('both are told', () => lists.every((params) => params.length === 2));
  const { port, name, urls } = services[0].context;
  assert.deepEqual(lists[1][0], { port, name, urls, host: '::ffff:127.0.0.1' });
  services[0].leave();
  await eventually('one is told', () => lists[1].length === 1);
});

test('a version 1 Distributor is as good', async (t) => {
  const program = path.join(__dirname, '../../tests/fixtures/v1/distributor.js');
  for (const family of ['buffering', 'strict']) {
    const child = spawn(process.execPath, [program, '--port', '0', '--family', family, '--exit-with-parent']);
    t.after(() => child.kill());
    const [line] = await once(child.stdout, 'data');
    const port = Number(String(line).split(' ')[1]);
    const lists = [[], []];
    const services = [await serve(t, echo), await serve(t, echo)];
    for (const [n, service] of services.entries()) {
      service.connectToDistributor('127.0.0.1', port, (data) => { lists[n] = data.params; });
      await eventually('it is listed', () => service.logged.some((text) => text.startsWith('registered')));
    }
    await eventually('both know both', () => lists.every((known) => known.length === 2));
    services[1].leave();
    await eventually('it has left', () => lists[0].length === 1);
    assert.equal(child.exitCode, null, 'it has died of something');
    child.kill('SIGKILL');
    await eventually('it is gone', () => !services[0].isConnectedDistributor);
    assert.equal(lists[0].length, 1, 'what is known stays');
    services[0].leave();
  }
});

test('b9 it loads in a package of ECMAScript modules', async (t) => {
  const home = await mkdtemp(path.join(tmpdir(), 'mesh-'));
  t.after(() => rm(home, { recursive: true }));
  const isOurs = (file) => !file.includes('node_modules');
  await cp(path.join(__dirname, '..'), path.join(home, 'mesh'), { recursive: true, filter: isOurs });
  await writeFile(path.join(home, 'package.json'), '{"type":"module"}');
  await writeFile(path.join(home, 'main.js'), `import Server from './mesh/lib/mesh.js';
    import { offerHttp } from './mesh/lib/http.js';
    console.log(typeof Server, typeof Server.Client, typeof offerHttp, Server.Server === Server);
  `);
  const child = spawn(process.execPath, [path.join(home, 'main.js')], { stdio: ['ignore', 'pipe', 'pipe'] });
  const said = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => said.push(String(chunk)));
  const [code] = await once(child, 'close');
  assert.deepEqual([code, said.join('')], [0, 'function function function true\n']);
});

test('b9 it says what is missing there without its package.json', async (t) => {
  const home = await mkdtemp(path.join(tmpdir(), 'mesh-'));
  t.after(() => rm(home, { recursive: true }));
  await cp(path.join(__dirname, '../lib'), home, { recursive: true });
  await writeFile(path.join(home, 'package.json'), '{"type":"module"}');
  await writeFile(path.join(home, 'main.js'), "await import('./mesh.js');");
  const child = spawn(process.execPath, [path.join(home, 'main.js')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (text) => { said += text; });
  const [code] = await once(child, 'close');
  assert.equal(code, 1);
  assert.match(said, /mesh\.js is CommonJS: copy package\.json with it/);
});
