'use strict';

// Calls by a node of the package, to nodes of both versions.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { test } = require('node:test');
const { Node, ServiceError } = require('../lib');
const { Distributor, eventually, failure, legacyEntry, server, start } = require('./helpers');

const goods = (name, more = () => {}) => (node) => {
  node.route('GET/goods/{id}', ({ params }) => ({ ...params, by: name })).route('POST/goods', ({ params }) => params);
  more(node);
};

test('a call has its arguments, and what stands in its path', async (t) => {
  const distributor = await new Distributor().start(t);
  await start(t, distributor, 'goods', goods('goods'));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/goods/7']);
  assert.deepEqual(await caller.call('GET/goods/한글', { q: 'a¶b' }), { q: 'a¶b', id: '한글', by: 'goods' });
  assert.deepEqual(await caller.call('GET/goods/a%20b'), { id: 'a b', by: 'goods' });
  assert.deepEqual(await caller.call('POST/goods', { 이름: '사과' }), { 이름: '사과' });
  const large = 'x'.repeat(1_000_000);
  assert.deepEqual(await caller.call('POST/goods', { large }), { large });
  await assert.rejects(caller.waitFor(['GET/none'], { timeout: 20 }), /after 20 ms no node offers GET\/none/);
});

test('errors say what has happened, and whether a node may have done something', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await start(t, distributor, 'goods', goods('goods', (one) => one.route('GET/slow', () => new Promise(() => {}))));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/slow']);
  const cyclic = {};
  cyclic.cyclic = cyclic;
  for (const [url, params, options, code, wasSent, words] of [
    ['goods', {}, {}, 'bad_url', false, /a url is a method in capital letters and a path/],
    ['GET/goods?id=7', {}, {}, 'bad_url', false, /do not stand behind a \?/],
    ['GET/none', {}, {}, 'no_route', false, /no node offers GET\/none$/],
    ['PUT/goods', {}, {}, 'no_route', false, /no node offers PUT\/goods; POST\/goods is offered/],
    ['GET/gods/7', {}, {}, 'no_route', false, /no node offers GET\/gods\/7; is it GET\/goods\/\{id\}\?/],
    [`GET/gods/${'7'.repeat(120)}`, {}, {}, 'no_route', false, /7$/],
    ['GET/goods/{id}', { id: 7 }, {}, 'bad_url', false, /write the value in place of \{id\}, as in GET\/orders\/7/],
    ['POST/goods', cyclic, {}, 'params', false, /have no JSON form/],
    ['POST/goods', 1n, {}, 'params', false, /have no JSON form/],
    ['POST/goods', {}, { timout: 1 }, 'params', false, /a call has no option timout; it has timeout/],
    ['POST/goods', {}, { timeout: 0 }, 'params', false, /timeout is 0/],
    ['POST/goods', 'x'.repeat(8 * 1024 * 1024), {}, 'too_large', false, /larger than its nodes accept/],
    ['GET/slow', {}, { timeout: 50 }, 'deadline', true, /no answer from GET\/slow within 50 ms/],
    ['GET/slow', {}, { signal: AbortSignal.abort() }, 'cancelled', false, /was given up/],
    ['GET/goods/1', {}, { instance: 'another' }, 'no_provider', false, /can be reached/],
  ]) {
    const error = await failure(caller.call(url, params, options));
    assert.deepEqual([error.name, error.code, error.wasSent], ['CallError', code, wasSent], `${url} ${error.stack}`);
    assert.match(error.message, words);
  }
  const given = await failure(caller.call('GET/slow', {}, { signal: AbortSignal.timeout(30) }));
  assert.deepEqual([given.code, given.wasSent], ['cancelled', true]);
  await node.stop();
  await eventually('it has left', () => caller.nodes.length === 1);
  assert.equal((await failure(caller.call('GET/goods/7'))).code, 'no_provider', 'it was offered once');
});

test('what a handler lets pass names no url, no address and no inner text', async (t) => {
  const distributor = await new Distributor().start(t);
  await start(t, distributor, 'inner', (one) => one
    .route('GET/slow', () => new Promise(() => {}))
    .route('GET/overloaded', () => { throw new ServiceError(503, 'overloaded', 'x'); })
    .route('GET/refuses', () => { throw new ServiceError(404, 'no_inner', 'at 10.0.0.1'); })
    .route('GET/busy', () => { throw new ServiceError(503, 'full', 'at 10.0.0.1', { retryAfter: 700 }); }));
  await start(t, distributor, 'outer', (one) => one.route('GET/outer', ({ params, call }) => call(params.url, {}, { timeout: 50 })));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/outer', 'GET/slow']);
  for (const [url, expected] of [
    ['GET/none', [503, 'no_provider', undefined]],
    ['GET/slow', [504, 'deadline', undefined]],
    ['GET/refuses', [502, 'inner_call', undefined]],
    ['GET/busy', [503, 'unavailable', 700]],
    ['GET/overloaded', [503, 'unavailable', undefined]],
    ['bad', [500, 'internal', undefined]],
  ]) {
    const { status, reason, retryAfter, message } = await failure(caller.call('GET/outer', { url }));
    assert.deepEqual([status, reason, retryAfter], expected, url);
    assert.doesNotMatch(message, /GET|10\.0|127\.0/);
  }
});

test('trace, hops and deadline go down to inner calls, and cancellation too', async (t) => {
  const distributor = await new Distributor().start(t);
  const seen = [];
  await start(t, distributor, 'inner', (one) => one
    .route('GET/inner', ({ trace, timeLeft }) => { seen.push({ trace, timeLeft }); return trace; })
    .route('GET/wait', ({ signal }) => new Promise((resolve) => {
      signal.addEventListener('abort', () => { seen.push('aborted'); resolve(); });
      seen.push('waits');
    }))
    .route('GET/circle', ({ call }) => call('GET/round')));
  const outer = await start(t, distributor, 'outer', (one) => one
    .route('GET/outer', async ({ trace, timeLeft, call, detach }) => {
      const inner = await call('GET/inner');
      await detach(() => call('GET/inner'));
      return { trace, timeLeft, inner };
    })
    .route('GET/given-up', ({ call }) => call('GET/wait'))
    .route('GET/round', ({ call }) => call('GET/circle')));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/outer', 'GET/inner', 'GET/circle']);
  await outer.waitFor(['GET/inner', 'GET/circle']);
  const { trace, timeLeft, inner } = await caller.call('GET/outer', {}, { timeout: 500 });
  assert.equal(trace.slice(0, 36), inner.slice(0, 36));
  assert.notEqual(trace, inner, 'with a parent of its own');
  assert.ok(timeLeft <= 500 && seen[0].timeLeft <= timeLeft * 0.91, `${timeLeft} ${seen[0].timeLeft}`);
  assert.equal(seen[1].trace.slice(0, 36), trace.slice(0, 36), 'detached work has the trace');
  assert.ok(seen[1].timeLeft > 1000, 'and no deadline');
  seen.length = 0;
  const aborter = new AbortController();
  const given = failure(caller.call('GET/given-up', {}, { signal: aborter.signal, timeout: 1_000_000 }));
  await eventually('it waits', () => seen.length === 1);
  aborter.abort();
  assert.equal((await given).code, 'cancelled');
  await eventually('the inner call is given up', () => seen[1] === 'aborted');
  const circle = await failure(caller.call('GET/circle', {}, { timeout: 20_000 }));
  assert.equal(circle.code, 'refused');
});

test('one of three is killed: no idempotent call fails', async (t) => {
  const distributor = await new Distributor().start(t);
  const hosts = [];
  for (const name of ['a', 'b', 'c']) {
    hosts.push(await server(t, (packet, send) => {
      if (packet.uri === '$hello') send(`{"uri":"$hello","$":{"f":"${name}"}}`);
      else if (packet.key !== undefined) setTimeout(() => send(`{"key":${packet.key},"$":{},"params":"${name}"}`), 5);
    }));
  }
  distributor.list(...hosts.map(({ port }, n) => legacyEntry(port, 'who', ['GET/who'], { $: { v: 2, id: 'abc'[n] } })));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/who']);
  const counts = { a: 0, b: 0, c: 0 };
  let isOver = false;
  const callers = Array.from({ length: 20 }, async () => {
    while (!isOver) counts[await caller.call('GET/who')]++;
  });
  await eventually('all are called', () => Object.values(counts).every((count) => count > 20));
  hosts[1].close();
  for (const socket of hosts[1].sockets) socket.destroy();
  const before = { ...counts };
  await eventually('the others go on', () => counts.a > before.a + 200 && counts.c > before.c + 200);
  isOver = true;
  await Promise.all(callers);
});

test('a call that was not sent goes elsewhere, and one that was lost only if it may', async (t) => {
  const distributor = await new Distributor().start(t);
  let lost = 0;
  const bad = await server(t, (packet, send, socket) => {
    if (packet.uri === '$hello') return send('{"uri":"$hello","$":{"f":"bad"}}');
    lost++;
    return socket.destroy();
  });
  const worse = await server(t, (packet, send, socket) => {
    if (packet.uri === '$hello') return send('{"uri":"$hello","$":{"f":"worse"}}');
    lost++;
    return socket.destroy();
  });
  const gone = await server(t, () => {});
  gone.close();
  distributor.list(legacyEntry(bad.port, 'goods', ['POST/lost', 'GET/lost'], { $: { v: 2, id: 'bad' } }),
    legacyEntry(worse.port, 'goods', ['POST/lost'], { $: { v: 2, id: 'worse' } }),
    legacyEntry(gone.port, 'goods', ['POST/sent'], { $: { v: 2, id: 'gone' } }));
  await start(t, distributor, 'goods', (one) => one.route('POST/sent', () => 'sent').route('GET/lost', () => 'here'));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['POST/lost', 'POST/sent', 'GET/lost']);
  for (let n = 0; n < 10; n++) assert.equal(await caller.call('POST/sent'), 'sent');
  const error = await failure(caller.call('POST/lost'));
  assert.deepEqual([error.code, error.wasSent], ['lost', true]);
  assert.match(error.node, /^127\.0\.0\.1:\d+$/);
  assert.equal(lost, 1, 'it is not made twice');
  for (let n = 0; n < 10; n++) assert.equal(await caller.call('GET/lost'), 'here');
  await eventually('it is reported', () => distributor.reports?.some(({ failed }) => failed.length > 0));
  await eventually('the other, too', () => distributor.reports.some(({ unreachable }) => unreachable[0]?.[1] === 'refused'));
});

test('a node that is another instance begins no call, and one that is busy is left for another', async (t) => {
  const distributor = await new Distributor().start(t);
  const other = await server(t, (packet, send) => {
    if (packet.uri === '$hello') send('{"uri":"$hello","$":{"f":"another"}}');
  });
  let begun = 0;
  const busy = await server(t, (packet, send) => {
    if (packet.uri === '$hello') send('{"uri":"$hello","$":{"f":"busy"}}');
    else {
      begun++;
      send(`{"key":${packet.key},"$":{"s":503,"r":"overloaded","m":"x"}}`);
    }
  });
  distributor.list(legacyEntry(other.port, 'goods', ['POST/a'], { $: { v: 2, id: 'expected' } }),
    legacyEntry(busy.port, 'goods', ['POST/a', 'POST/b'], { $: { v: 2, id: 'busy' } }));
  await start(t, distributor, 'goods', (one) => one.route('POST/a', () => 'here'));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['POST/a', 'POST/b']);
  for (let n = 0; n < 9; n++) assert.equal(await caller.call('POST/a'), 'here');
  assert.ok(begun > 0);
  const error = await failure(caller.call('POST/b'));
  assert.deepEqual([error.code, error.status, error.reason], ['refused', 503, 'overloaded']);
  await eventually('it is reported', () => distributor.reports?.some(({ unreachable }) => unreachable[0]?.[1] === 'wrong_instance'));
});

test('the first packet says who calls, and whom; calls have their members in order', async (t) => {
  const distributor = await new Distributor().start(t);
  const fake = await server(t, (packet, send) => {
    if (packet.uri === '$hello') send('{"uri":"$hello","$":{"f":"x"}}');
    else if (packet.uri === '/a') send(`{"key":${packet.key},"$":{},"params":${packet.key}}`);
  });
  distributor.list(legacyEntry(fake.port, 'fake', ['POST/a'], { $: { v: 2, id: 'x' } }));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['POST/a']);
  await caller.call('POST/a', { b: 1 });
  await caller.call('POST/a', {}, { idempotent: true });
  await failure(caller.call('POST/a?', {}));
  const [hello, one, two] = fake.seen.map(({ text }) => text);
  assert.equal(hello, `{"uri":"$hello","$":{"f":"${caller.id}","n":"caller","to":"x"}}`);
  assert.match(one, /^\{"uri":"\/a","method":"POST","key":\d+,"\$":\{"d":\d+(,"t":\d+)?\},"params":\{"b":1\}\}$/);
  assert.match(two, /^\{"uri":"\/a","method":"POST","key":\d+,"\$":\{"d":\d+(,"t":\d+)?,"i":true\},"params":\{\}\}$/);
});

test('nodes of version 1 get one packet a write, within what they can read, and keys in both places', async (t) => {
  const distributor = await new Distributor().start(t);
  const reads = [];
  const old = await server(t, (packet, send) => {
    const { key, ...results } = packet.params;
    const answers = {
      '/echo/7': () => ({ key, errorcode: 0, errormessage: 'success', results }),
      '/error': () => ({ key, errorcode: 3, errormessage: 'no data' }),
      '/status': () => ({ key, errorcode: '404', errormessage: 'none' }),
      '/beside': () => ({ key, errorcode: 0, errormessage: '', results: [1], pageInfo: { n: 2 } }),
      '/message': () => ({ key, errorcode: 0, errormessage: [{ id: 1 }] }),
      '/null': () => null,
    };
    send(JSON.stringify(answers[packet.uri]()));
  });
  const urls = ['GET/echo/{id}', 'GET/error', 'GET/status', 'GET/beside', 'GET/message', 'GET/null'];
  distributor.list(legacyEntry(old.port, 'old', urls));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/error']);
  assert.deepEqual(await caller.call('GET/echo/7', { a: 1, key: 'x' }), { a: 1, id: '7' });
  const { packet } = old.seen[0];
  assert.deepEqual(Object.keys(packet), ['uri', 'method', 'key', 'params'], 'no $');
  assert.ok(packet.key === packet.params.key && packet.key < 2 ** 31);
  assert.deepEqual(await caller.call('GET/beside'), { results: [1], pageInfo: { n: 2 } });
  assert.deepEqual(await caller.call('GET/message'), [{ id: 1 }]);
  for (const [url, expected] of [
    ['GET/error', [500, 'errorcode_3']], ['GET/status', [404, 'errorcode_404']], ['GET/null', [501, 'old_error']],
  ]) {
    const { status, reason } = await failure(caller.call(url));
    assert.deepEqual([status, reason], expected);
  }
  const large = 'x'.repeat(30_000);
  old.sockets[0].on('data', (chunk) => reads.push(chunk.length));
  await Promise.all(Array.from({ length: 20 }, () => caller.call('GET/echo/7', { large })));
  assert.equal((await failure(caller.call('GET/echo/7', { large: 'x'.repeat(70_000) }))).code, 'too_large');
  distributor.unlist('old');
  distributor.list(legacyEntry(old.port, 'old', urls, { readWindow: 100_000 }));
  await eventually('it says that it can read more', () => caller.nodes.some(({ readWindow }) => readWindow === 100_000));
  const answer = await caller.call('GET/echo/7', { large: 'x'.repeat(70_000) });
  assert.equal(answer.large.length, 70_000);
});

test('a connection over which nothing is answered is not trusted', async (t) => {
  const distributor = await new Distributor().start(t);
  let connections = 0;
  // The first connection leads to a process that is gone.
  const old = await server(t, (packet, send, socket) => {
    socket.number ??= ++connections;
    if (socket.number > 1) send(`{"key":${packet.key},"errorcode":0,"results":"alive"}`);
  });
  distributor.list(legacyEntry(old.port, 'old', ['GET/a']));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/a']);
  assert.equal(await caller.call('GET/a'), 'alive');
  assert.equal(connections, 2);
});

test('suspects, draining nodes, ports of HTTP and weights are heeded', async (t) => {
  const distributor = await new Distributor().start(t);
  const names = ['good', 'suspect', 'draining', 'light', 'http'];
  const fakes = [];
  for (const name of names) {
    fakes.push(await server(t, (packet, send) => {
      if (packet.uri === '$hello') send(`{"uri":"$hello","$":{"f":"${name}"}}`);
      else send(`{"key":${packet.key},"$":{},"params":"${name}"}`);
    }));
  }
  const more = { draining: { draining: true }, light: { weight: 0 }, http: { http: { prefixes: ['/a'] } } };
  distributor.list(...names.map((name, n) => legacyEntry(fakes[n].port, name, ['GET/a'], { $: { v: 2, id: name, ...more[name] } })));
  distributor.suspect('suspect');
  const caller = await start(t, distributor, 'caller');
  distributor.suspect('suspect');
  await caller.waitFor(['GET/a']);
  await eventually('it is connected', async () => await caller.call('GET/a') === 'good');
  for (let n = 0; n < 30; n++) assert.equal(await caller.call('GET/a'), 'good');
});

test('a key goes to one node, whichever node calls', async (t) => {
  const distributor = await new Distributor().start(t);
  const callers = [];
  for (const name of ['a', 'b', 'c']) callers.push(await start(t, distributor, name, goods(name)));
  for (const caller of callers) await eventually('it knows all', () => caller.nodes.length === 3);
  for (let key = 0; key < 20; key++) {
    const answers = await Promise.all(callers.map((caller) => caller.call('GET/goods/1', {}, { stickyKey: `key ${key}` })));
    assert.equal(new Set(answers.map(({ by }) => by)).size, 1, JSON.stringify(answers));
  }
});

test('streams go both ways, and end for each reason', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/count', async function* count({ params }) {
      for (let n = 0; n < params.to; n++) yield { n, text: 'x'.repeat(params.size ?? 0) };
    })
    .route('GET/breaks', async function* breaks() { yield 1; throw new Error('secret'); })
    .route('GET/forever', async function* forever() { for (;;) yield 'x'.repeat(10_000); })
    .route('POST/upper', async function* upper({ items }) { for await (const item of items) yield item.toUpperCase(); })
    .route('POST/sum', async ({ items }) => { let sum = 0; for await (const item of items) sum += item; return sum; })
    .route('GET/one', () => 7));
  const caller = await start(t, distributor, 'b');
  await caller.waitFor(['GET/one']);
  const all = async (stream) => {
    const parts = [];
    for await (const part of stream) parts.push(part);
    return parts;
  };
  assert.deepEqual((await all(await caller.stream('GET/count', { to: 300, size: 10_000 }))).length, 300, 'with credit');
  assert.deepEqual(await all(await caller.stream('GET/count', { to: 0 })), []);
  assert.deepEqual(await all(await caller.stream('GET/one')), [7]);
  const upper = await caller.stream('POST/upper');
  for (const item of ['가a', 'b']) await upper.send(item);
  await upper.end();
  assert.deepEqual(await all(upper), ['가A', 'B']);
  await assert.rejects(upper.send('c'), /the stream POST\/upper has ended/);
  const sum = await caller.stream('POST/sum');
  for (let n = 0; n < 2000; n++) await sum.send(n);
  await sum.end();
  assert.deepEqual(await all(sum), [1999000]);
  const breaks = await caller.stream('GET/breaks');
  assert.equal((await breaks.next()).value, 1);
  const error = await failure(breaks.next());
  assert.deepEqual([error.code, error.status, error.message.includes('secret')], ['refused', 500, false]);
  const forever = await caller.stream('GET/forever');
  for await (const part of caller.stream('GET/forever')) {
    assert.equal(part.length, 10_000, 'a promise of a stream is one');
    break;
  }
  assert.match((await failure(caller.emit('EVENT/a'))).message, /'EVENT\/a' is not an event: write it like orders.created/);
  await assert.rejects(async () => { for await (const part of caller.stream('GET/none')) assert.fail(part); }, /no node offers/);
  for await (const part of forever) {
    assert.equal(part.length, 10_000);
    break;
  }
  const refused = await failure(caller.call('GET/forever'));
  assert.deepEqual([refused.status, refused.reason], [406, 'stream']);
  const aborter = new AbortController();
  const given = await caller.stream('GET/forever', {}, { signal: aborter.signal });
  await given.next();
  aborter.abort();
  await eventually('it ends', async () => (await given.next()).done);
  const own = await node.stream('GET/count', { to: 2 });
  assert.equal((await all(own)).length, 2, 'a node opens a stream with itself over a connection');
});

test('a node that is lost ends its streams with an error, and what breaks the rules is given up', async (t) => {
  const distributor = await new Distributor().start(t);
  const fake = await server(t, (packet, send, socket) => {
    if (packet.uri === '$hello') send('{"uri":"$hello","$":{"f":"x"}}');
    if (packet.uri === '/lost') {
      send(`{"key":${packet.key},"$":{"n":0}}`);
      setTimeout(() => socket.destroy(), 20);
    }
    if (packet.uri === '/usual') {
      const parts = ['"$":{"n":0}', '"$":{"n":1},"params":1', '"$":{},"params":2'];
      for (const part of parts) send(`{"key":${packet.key},${part}}`);
    }
    if (packet.uri === '/gap') send(`{"key":${packet.key},"$":{"n":0}}¶{"key":${packet.key},"$":{"n":2},"params":1}`);
  });
  distributor.list(legacyEntry(fake.port, 'fake', ['GET/lost', 'GET/gap', 'GET/usual'], { $: { v: 2, id: 'x' } }));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/gap']);
  const gap = await failure((await caller.stream('GET/gap')).next());
  assert.match(gap.message, /broke the rules of streams in GET\/gap: a part is missing/);
  const usual = await caller.stream('GET/usual');
  await new Promise((resolve) => setTimeout(resolve, 50)); // it is over before it is read
  assert.deepEqual([await usual.next(), await usual.next(), await usual.next()].map(({ value }) => value), [1, 2, undefined]);
  await eventually('it is cancelled', () => fake.seen.some(({ packet }) => packet.uri === '$cancel'));
  assert.equal((await failure((await caller.stream('GET/lost')).next())).code, 'lost');
});

test('events go to one of each name, or to all', async (t) => {
  const distributor = await new Distributor().start(t);
  const seen = [];
  const subscribe = (name) => (one) => one.on('goods.sold', (event, { caller }) => { seen.push(`${name} ${event.n} ${caller.name}`); });
  const a = await start(t, distributor, 'a', subscribe('a1'));
  await start(t, distributor, 'a', subscribe('a2'));
  const b = await start(t, distributor, 'b', (one) => one.on('goods.sold', () => { throw new Error('broken'); }));
  const caller = await start(t, distributor, 'caller');
  const old = await server(t, () => {});
  distributor.list(legacyEntry(old.port, 'old', ['EVENT/goods.sold']));
  await eventually('all are known', () => [a, caller].every((one) => one.nodes.length === 5));
  for (let n = 0; n < 20; n++) assert.equal(await caller.emit('goods.sold', { n }), 3);
  await eventually('each has one', () => seen.length === 20);
  assert.ok(seen.some((one) => one.startsWith('a1')) && seen.some((one) => one.startsWith('a2')), seen.join());
  await eventually('and the others', () => b.lostEvents === 20 && old.seen.length === 20);
  assert.deepEqual(old.seen[0].packet, { uri: '/goods.sold', method: 'EVENT', params: { n: 0 } });
  seen.length = 0;
  assert.equal(await caller.broadcast('goods.sold', { n: 'all' }), 4);
  await eventually('all have it', () => seen.length === 2);
  assert.deepEqual(seen.sort(), ['a1 all caller', 'a2 all caller']);
  seen.length = 0;
  for (let n = 0; n < 30; n++) assert.equal(await a.emit('goods.sold', { n }), 3);
  await eventually('it is one of its group', () => seen.length === 30);
  assert.ok(seen.some((one) => one.startsWith('a1')) && seen.some((one) => one.startsWith('a2')), seen.join());
  assert.equal(await caller.emit('nobody.listens'), 0);
});

test('a Distributor that is gone is not needed, and is found again', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await start(t, distributor, 'goods', goods('goods'));
  const caller = await start(t, distributor, 'caller');
  await caller.waitFor(['GET/goods/7']);
  distributor.stop();
  await eventually('it is gone', () => !node.isRegistered && !caller.isRegistered);
  for (let n = 0; n < 20; n++) assert.equal((await caller.call('GET/goods/7')).id, '7');
  const again = await new Distributor().start(t, Number(distributor.address.split(':')[1]));
  await eventually('both are back', () => again.registered.length === 2);
  assert.equal((await caller.call('GET/goods/7')).id, '7');
});

test('a program that stops its node ends', async (t) => {
  const { spawn } = require('node:child_process');
  const distributor = await new Distributor().start(t);
  await start(t, distributor, 'goods', goods('goods'));
  const program = `const { Node } = require(${JSON.stringify(require.resolve('../lib'))});
    (async () => {
      const node = new Node('caller', { distributor: '${distributor.address}', log: false });
      await node.start();
      console.log((await node.call('GET/goods/7')).by);
      await node.stop();
    })();`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.on('data', (text) => { said += text; });
  const [code] = await once(child, 'exit');
  assert.deepEqual([code, said], [0, 'goods\n']);
  assert.equal(typeof Node, 'function');
});
