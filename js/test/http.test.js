'use strict';

// HTTP in calls: what a handler reads of a client's request, and what it gives to the client.

const assert = require('node:assert/strict');
const net = require('node:net');
const { once } = require('node:events');
const { test } = require('node:test');
const { Node, ServiceError, created, html, noContent, redirect, reply, text } = require('../lib');
const { PacketReader } = require('../lib/transport/packets');
const { Distributor, eventually, failure, start } = require('./helpers');

// Calls a node as a gateway does, or, without `q`, as a node does. Resolves to the answer.
async function gateway(t, node) {
  const socket = net.connect(node.port, '127.0.0.1');
  await once(socket, 'connect');
  t.after(() => socket.destroy());
  const packets = [];
  const reader = new PacketReader((packet) => packets.push(packet));
  socket.on('data', (chunk) => reader.push(chunk));
  return async (path, q, more = {}) => {
    socket.write(`${JSON.stringify({ uri: path, method: 'GET', key: 1, $: { q }, ...more })}¶`);
    await eventually('an answer', () => packets.length === 1);
    const { $, params } = packets.pop();
    return { $, params };
  };
}

const ASKED = {
  a: '192.0.2.1', o: 'shop.test', id: '4bf9', m: 'HEAD', t: '/me?a=%20', s: true,
  h: [['cookie', 'sid=1; a="x y"'], ['cookie', 'sid=2; b='], ['x-a', '1'], ['x-a', '2¶']],
};

test('a handler reads the request of a client, as far as its route registers it', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/all', ({ request }) => ({ ...request, cookies: [...request.cookies], a: request.header('X-A') ?? null }), {
      headers: ['X-A', 'cookie', 'x-a'], public: true,
    })
    .route('GET/none', ({ request, hasRequest }) => [hasRequest, request.path], { headers: [] })
    .route('GET/perhaps', ({ hasRequest }) => hasRequest, { headers: [] })
    .route('GET/unstated', ({ request }) => request.header('x-b'), { headers: [] })
    .route('GET/usual', ({ request }) => request.id));
  assert.deepEqual(distributor.registered[0].params.$.routes, [
    { at: [0], public: true, headers: ['cookie', 'x-a'] }, { at: [1, 2, 3], headers: [] },
  ]);
  const call = await gateway(t, node);
  assert.deepEqual((await call('/all', ASKED)).params, {
    method: 'HEAD', target: '/me?a=%20', path: '/me', query: 'a=%20', host: 'shop.test', isHttps: true,
    clientAddress: '192.0.2.1', id: '4bf9', headers: ASKED.h, cookies: [['sid', '1'], ['a', 'x y'], ['b', '']], a: '1',
  });
  // Members of wrong types count as absent.
  for (const h of [7, [['a']], [['a', 7]], { a: 'b' }, ['ab']]) {
    const { params } = await call('/all', { a: 7, o: [], s: 'true', t: null, h });
    assert.deepEqual([params.clientAddress, params.host, params.isHttps, params.path, params.headers], ['', '', false, '', []]);
  }
  assert.deepEqual((await call('/none', ASKED)).params, [true, '/me']);
  for (const q of [undefined, null, [], 'x']) {
    assert.deepEqual((await call('/none', q)).$, {
      s: 400, r: 'not_http', m: 'this route answers HTTP requests that come through a gateway',
    });
    assert.equal((await call('/perhaps', q)).params, false);
  }
  for (const [path, remedy] of [['/unstated', "give { headers: ['x-b'] }"], ['/usual', 'give { headers: [] }']]) {
    assert.equal((await call(path, ASKED)).$.r, 'internal');
    assert.ok(node.logged.at(-1).includes(remedy), node.logged.at(-1));
  }
  assert.equal((await failure(node.call('GET/none'))).reason, 'not_http', 'it calls itself');
});

test('a handler gives a client status, header fields, cookies and bodies', async (t) => {
  const distributor = await new Distributor().start(t);
  const http = { headers: [] };
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/tag', () => reply({ a: 1 }, { headers: { ETag: '"1"', 'x-n': ['1', 2] } }), http)
    .route('GET/known', () => reply(null, { status: 304 }), http)
    .route('GET/text', () => text('안녕 ¶'), http)
    .route('GET/csv', () => text('a,b', { type: 'text/csv', status: 203 }), http)
    .route('GET/page', () => html('<p>'), http)
    .route('GET/lost', () => html('<p>', { status: 404 }), http)
    .route('GET/elsewhere', () => redirect('/상품?a=1\ud800'), http)
    .route('GET/moved', () => redirect('/a', 308), http)
    .route('GET/new', () => created(7, { headers: { location: '/7' } }), http)
    .route('GET/cookies', () => noContent({
      cookies: {
        a: '1', old: null, b: { value: 'x', maxAge: 60, path: '/b', domain: 'a.test', sameSite: 'strict', httpOnly: false, secure: false },
        c: { value: '', sameSite: 'none' },
      },
    }), http)
    .route('GET/refuses', () => {
      throw new ServiceError(401, 'sign_in', 'sign in', { headers: { 'www-authenticate': 'Bearer' }, cookies: { a: null } });
    }, http)
    .route('GET/plain', () => text('a'), { public: true }));
  const call = await gateway(t, node);
  const lax = 'SameSite=Lax; HttpOnly';
  const cookies = (secure) => [
    ['set-cookie', `a=1; Path=/; ${lax}${secure}`],
    ['set-cookie', `old=; Path=/; Max-Age=0; ${lax}${secure}`],
    ['set-cookie', 'b=x; Path=/b; Domain=a.test; Max-Age=60; SameSite=Strict'],
    ['set-cookie', 'c=; Path=/; SameSite=None; HttpOnly; Secure'],
  ];
  const type = (name) => [['content-type', name]];
  for (const [path, $, params] of [
    ['/tag', { h: [['etag', '"1"'], ['x-n', '1'], ['x-n', '2']] }, { a: 1 }],
    ['/known', { s: 304 }, null],
    ['/text', { h: type('text/plain; charset=utf-8') }, '안녕 ¶'],
    ['/csv', { s: 203, h: type('text/csv') }, 'a,b'],
    ['/lost', { s: 404, h: type('text/html; charset=utf-8') }, '<p>'],
    ['/page', { h: type('text/html; charset=utf-8') }, '<p>'],
    ['/elsewhere', { s: 303, h: [['location', '/%EC%83%81%ED%92%88?a=1']] }, null],
    ['/moved', { s: 308, h: [['location', '/a']] }, null],
    ['/new', { s: 201, h: [['location', '/7']] }, 7],
    ['/cookies', { s: 204, h: cookies('; Secure') }, null],
    ['/refuses', { s: 401, r: 'sign_in', m: 'sign in',
      h: [['www-authenticate', 'Bearer'], ['set-cookie', `a=; Path=/; Max-Age=0; ${lax}; Secure`]] }, undefined],
  ]) {
    assert.deepEqual(await call(path, { a: '::1', s: true }), { $, params }, path);
    // A node gets the status and the value.
    delete $.h;
    assert.deepEqual(await call(path, undefined), { $, params }, path);
  }
  assert.deepEqual((await call('/cookies', {})).$.h, cookies(''), 'a client without TLS');
  await call('/plain', {});
  await call('/plain', {});
  const warned = node.logged.filter((line) => /GET\/plain answers with header fields, which no client gets: give/.test(line));
  assert.equal(warned.length, 1, node.logged.join());
});

test('what no response can have is an error that says what to do', () => {
  const many = Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`x-${n}`, '']));
  for (const [act, words] of [
    [() => reply(1, { status: 404 }), /404 is not the status of a result: that is 200 to 399; throw a ServiceError/],
    [() => reply(1, { header: {} }), /a reply has no option header; it has status, headers, cookies, type/],
    [() => reply(1, { type: 'text/csv' }), /the body of a reply of type text\/csv is a text/],
    [() => reply(1, { headers: { 'a b': '' } }), /a b is not the name of a header field/],
    [() => reply(1, { headers: { a: 'b\r\nc: d' } }), /the header field a has a line break/],
    [() => reply(1, { headers: many }), /an answer has 64 header fields and 32768 bytes of them at most/],
    [() => reply(1, { headers: { a: 'x'.repeat(32 * 1024) } }), /an answer has 64 header fields/],
    [() => redirect('/a\n'), /the header field location has a line break/],
    [() => redirect('/a', 200), /200 is none of 301, 302/],
    [() => reply(1, { cookies: { 'a;': '' } }), /a; is not the name of a cookie/],
    [() => reply(1, { cookies: { a: 'x;y' } }), /the value of the cookie a has a character that a cookie cannot have: encode/],
    [() => reply(1, { cookies: { a: { value: '', expires: 1 } } }), /the cookie a has no option expires; there are value/],
    [() => reply(1, { cookies: { a: { value: '', maxAge: 1.5 } } }), /maxAge of the cookie a is in whole seconds/],
    [() => reply(1, { cookies: { a: { value: '', sameSite: 'Lax' } } }), /sameSite of the cookie a is strict, lax or none/],
    [() => reply(1, { cookies: { a: { value: '', path: '/;' } } }), /path and domain of the cookie a have no ;/],
    [() => new Node('a').route('GET/a', () => {}, { headers: 'cookie' }), /headers of GET\/a: a list of names is due/],
    [() => new Node('a').route('GET/a', () => {}, { headers: ['a:'] }), /headers of GET\/a: a: is not the name of a header/],
    [() => new Node('a').route('GET/a', () => {}, { headers: ['x'.repeat(65)] }), /has more than 64 characters/],
    [() => new Node('a').route('GET/a', () => {}, { headers: Object.keys(many).slice(0, 33) }), /there are 33; a route reads 32/],
    [() => new Node('a').on('a', () => {}, { headers: [] }), /the event a has no headers: no client emits it/],
  ]) assert.throws(act, words);
});
