'use strict';

// A node of the package, as its author and its callers see it.

const assert = require('node:assert/strict');
const net = require('node:net');
const { once } = require('node:events');
const { test } = require('node:test');
const { CallError, Node, Reply, ServiceError, StartError, accepted, created, noContent, optional } = require('../lib');
const { PacketReader } = require('../lib/transport/packets');
const { Distributor, eventually, failure, server, start } = require('./helpers');

// Packets on a socket of a test.
async function peer(t, port) {
  const socket = net.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  t.after(() => socket.destroy());
  const packets = [];
  const reader = new PacketReader((packet) => packets.push(packet));
  socket.on('data', (chunk) => reader.push(chunk));
  const next = async () => {
    await eventually('a packet', () => packets.length > 0);
    return packets.shift();
  };
  return { socket, waiting: () => packets.length, next, send: (packet) => socket.write(`${JSON.stringify(packet)}¶`) };
}

test('what is wrong is told before the start, with what to do', async () => {
  const route = (url, handler = () => {}, options = undefined) => () => new Node('a').route(url, handler, options);
  for (const [act, words] of [
    [() => new Node('상품'), /'상품' is not a name of a node; use 1 to 128 of/],
    [() => new Node('a', { distributor: 'nowhere' }), /distributor: "nowhere" is not an address; write host:port/],
    [() => new Node('a', { distribtor: 'x:1' }), /a node has no option distribtor; it has distributor/],
    [() => new Node('a', { port: 70000 }), /port is 70000; it is a number from 0 to 65535/],
    [() => new Node('a', { weight: 1001 }), /weight is 1001; it is in hundredths/],
    [() => new Node('a', { log: 'x' }), /log is a function of a text, or false/],
    [() => new Node('a', { advertise: 'x' }), /advertise: "x" is not an address/],
    [route('get/orders'), /'get\/orders' is not a route: it does not begin with a method in capital letters. Write it like/],
    [route('PSOT/orders'), /'PSOT\/orders' is not a route: PSOT is not a method; is POST meant\?/],
    [route('GET/a', null), /the route GET\/a has no handler: give a function behind it/],
    [route('GET/a', () => {}, { limit: 1 }), /the route GET\/a has the option limit, which there is not/],
    [route('GET/a', () => {}, { public: 'yes' }), /public of GET\/a is yes; it is true or false/],
    [() => new Node('a').on('b', () => {}, { public: true }), /the event b cannot be public: events are for nodes only/],
    [() => new Node('a', { publicRoutes: 1 }), /publicRoutes is 1; it is true or false/],
    [route('GET/a', () => {}, { concurrency: 0 }), /concurrency of GET\/a is 0; it is a number of calls, 1 or more/],
    [route('GET/a', () => {}, { params: { id: 'number' } }), /the params of GET\/a: "id" is none of String/],
    [() => new Node('a').route('GET/a', () => {}).route('GET/a', () => {}), /the route GET\/a is given twice/],
    [() => new Node('a').route('GET/a/{x}', () => {}).route('GET/a/{y}', () => {}), /the routes GET\/a\/\{x\} and GET\/a\/\{y\} are one/],
    [() => new Node('a').on('EVENT/b', () => {}), /'EVENT\/b' is not an event: write it like orders.created/],
    [() => new Node('a').on('a b', () => {}), /'a b' is not an event/],
    [() => new Reply(404), /404 is not the status of a result/],
  ]) assert.throws(act, words);
  const many = new Node('a');
  for (let n = 0; n < 256; n++) many.route(`GET/${n}`, () => {});
  assert.throws(() => many.route('GET/256', () => {}), /a node has 256 routes and events at most/);
});

test('a node that has not started says so', async () => {
  const node = new Node('a', { log: false });
  for (const act of [
    () => node.call('GET/a'), () => node.stream('GET/a'), () => node.emit('a'), () => node.broadcast('a'), () => node.waitFor(['GET/a']),
  ]) {
    const { code, message } = await failure(act());
    assert.deepEqual([code, /is called before the node has started: await node.start\(\)/.test(message)], ['not_started', true]);
  }
});

test('a port that is taken is told with what to do', async (t) => {
  const other = await server(t, () => {});
  const error = await failure(new Node('a', { port: other.port, log: false }).start());
  assert.ok(error instanceof StartError);
  const where = `cannot listen on 127.0.0.1, port ${other.port}: `;
  assert.ok(error.message.startsWith(`${where}another program is using that port; give another`), error.message);
});

test('a node that the Distributor does not accept does not start', async (t) => {
  const distributor = await new Distributor().start(t);
  distributor.onRegistration = (socket) => {
    socket.write('{"uri":"/distributes","method":"GET","key":0,"params":[],"$":{"s":400,"r":"bad_advertise","m":"no such place"}}¶');
  };
  const error = await failure(new Node('a', { distributor: distributor.address, log: false }).start());
  assert.match(error.message, /the distributor 127.0.0.1:\d+ does not accept this node: bad_advertise: no such place/);
});

test('a Distributor that says nothing is not waited for', async (t) => {
  const silent = await server(t, () => {});
  const node = await start(t, { address: `127.0.0.1:${silent.port}` }, 'a', (one) => one.route('GET/a', () => 1));
  assert.match(node.logged.at(-1), /the distributor 127.0.0.1:\d+ has not answered yet; serving without it/);
  assert.equal(await node.call('GET/a'), 1);
});

test('without a Distributor a node serves, and registers when there is one', async (t) => {
  const free = await server(t, () => {});
  free.close();
  const address = { address: `127.0.0.1:${free.port}` };
  const node = await start(t, address, 'a', (one) => one.route('GET/a', () => 1));
  assert.equal(node.isRegistered, false);
  const isSaid = (text) => /no connection to distributor .*nothing is listening there; trying again every 3 s/.test(text);
  assert.ok(node.logged.some(isSaid), node.logged.join());
  assert.equal(await node.call('GET/a'), 1);
  const early = await failure(node.call('GET/b', {}, { timeout: 50 }));
  assert.equal(early.code, 'no_list');
  assert.equal((await failure(node.emit('b'))).code, 'no_list');
  const distributor = await new Distributor().start(t, free.port);
  await eventually('it is registered', () => node.isRegistered);
  const { params } = distributor.registered[0];
  assert.deepEqual([params.name, params.port, params.urls, params.$.v, params.$.id], ['a', node.port, ['GET/a'], 2, node.id]);
  assert.equal((await failure(node.call('GET/b'))).code, 'no_route');
  await assert.rejects(node.start(), /start\(\) was called before/);
  assert.throws(() => node.route('GET/c', () => {}), /the route GET\/c comes too late/);
});

test('a route is internal unless its author says that it is public', async (t) => {
  const distributor = await new Distributor().start(t);
  const offer = (one) => one
    .route('GET/open', () => 1, { public: true })
    .route('GET/usual', () => 1)
    .on('e', () => {})
    .route('GET/closed', () => 1, { public: false });
  for (const [options, expected] of [
    [{}, [{ at: [0], public: true }]],
    [{ publicRoutes: undefined }, [{ at: [0], public: true }]],
    [{ publicRoutes: true }, [{ at: [0, 1], public: true }]],
  ]) {
    await start(t, distributor, 'a', offer, options);
    const { urls, $ } = distributor.registered.at(-1).params;
    const all = [...expected, { at: [2], acks: true }];
    assert.deepEqual([urls, $.routes], [['GET/open', 'GET/usual', 'EVENT/e', 'GET/closed'], all]);
  }
  await start(t, distributor, 'b', (one) => one.route('GET/b', () => 1));
  assert.deepEqual(distributor.registered.at(-1).params.$.routes, [], 'a node that says nothing would be public');
});

test('results and errors have their form for each version', async (t) => {
  const distributor = await new Distributor().start(t);
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/value', () => ({ a: 1 }))
    .route('GET/nothing', () => {})
    .route('POST/created', () => created({ id: 7 }))
    .route('POST/accepted', async () => accepted())
    .route('DELETE/it', () => noContent())
    .route('GET/refused', () => { throw new ServiceError(409, 'sold_out', 'nothing is left', { retryAfter: 1500 }); })
    .route('GET/odd', () => { throw new ServiceError(302, 'moved', 'x'); })
    .route('GET/broken', () => { throw new Error('a secret'); })
    .route('GET/cyclic', () => { const a = {}; a.a = a; return a; })
    .route('GET/typed/{id}', ({ params }) => params, { params: { id: Number, all: optional(Boolean) } }));
  const one = await peer(t, node.port);
  for (const [method, uri, expected, old] of [
    ['GET', '/value', { $: {}, params: { a: 1 } }, { errorcode: 0, errormessage: 'success', results: { a: 1 } }],
    ['GET', '/nothing', { $: {}, params: null }, { errorcode: 0, errormessage: 'success', results: null }],
    ['POST', '/created', { $: { s: 201 }, params: { id: 7 } }],
    ['POST', '/accepted', { $: { s: 202 }, params: null }],
    ['DELETE', '/it', { $: { s: 204 }, params: null }],
    ['GET', '/refused', { $: { s: 409, r: 'sold_out', m: 'nothing is left', ra: 1500 } },
      { errorcode: 409, errormessage: 'nothing is left' }],
    ['GET', '/odd', { $: { s: 500, r: 'moved', m: 'x' } }],
    ['GET', '/broken', { $: { s: 500, r: 'internal', m: 'the handler failed' } }],
    ['GET', '/cyclic', { $: { s: 500, r: 'internal', m: 'the handler failed' } }],
    ['GET', '/none', { $: { s: 404, r: 'no_route', m: 'this node does not offer GET/none' } }],
    ['GET', '/typed/7', { $: {}, params: { id: 7 } }],
    ['GET', '/typed/x', { $: { s: 400, r: 'bad_params', m: '"id" must be a number' } }],
  ]) {
    one.send({ uri, method, key: 1, $: {} });
    assert.deepEqual(await one.next(), { key: 1, ...expected }, uri);
    if (!old) continue;
    one.send({ uri, method, params: { key: 1 } });
    assert.deepEqual(await one.next(), { key: 1, ...old }, uri);
  }
  assert.ok(node.logged.some((text) => text.includes('GET/broken failed: Error: a secret')), 'the log has the details');
});

test('calls that come too late, or go round in circles, are not begun', async (t) => {
  const distributor = await new Distributor().start(t);
  let begun = 0;
  const node = await start(t, distributor, 'a', (one) => one.route('GET/a', () => ++begun));
  const one = await peer(t, node.port);
  const check = async ($, expected) => {
    one.send({ uri: '/a', method: 'GET', key: 1, $ });
    const { $: said } = await one.next();
    assert.deepEqual([said.s, said.r], expected, JSON.stringify($));
  };
  await check({ h: 31 }, [undefined, undefined]);
  await check({ h: 32 }, [508, 'loop']);
  await check({ d: 0 }, [504, 'deadline']);
  await check({ t: 1000 }, [undefined, undefined]); // the fastest so far
  await check({ t: 500, d: 800 }, [503, 'overloaded']);
  await check({ t: 500, d: 400 }, [504, 'deadline']);
  await check({ t: 1000, d: 10_000 }, [undefined, undefined]);
  assert.equal(begun, 3);
});

test('so many calls of a route run at a time, and events wait', async (t) => {
  const distributor = await new Distributor().start(t);
  const release = [];
  let events = 0;
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/a', () => new Promise((resolve) => { release.push(resolve); }), { concurrency: 2 })
    .on('e', () => new Promise((resolve) => { events++; release.push(resolve); }), { concurrency: 1 }));
  const one = await peer(t, node.port);
  for (const key of [1, 2, 3]) one.send({ uri: '/a', method: 'GET', key, $: {} });
  const { key, $ } = await one.next();
  assert.deepEqual([key, $.s, $.r, $.ra], [3, 503, 'overloaded', 100]);
  for (const done of release.splice(0)) done();
  await one.next();
  await one.next();
  for (let n = 0; n < 258; n++) one.send({ uri: '/e', method: 'EVENT', $: {}, params: n });
  await eventually('one is lost', () => node.lostEvents === 1);
  assert.match(node.logged.at(-1), /EVENT\/e was lost: 256 wait for their turn already; allow more at a time with concurrency/);
  while (events < 257) {
    await eventually('the next runs', () => release.length > 0);
    release.shift()();
  }
  release.shift()?.();
});

test('an idempotent call is given up with its caller, and others are finished', async (t) => {
  const distributor = await new Distributor().start(t);
  const seen = [];
  const release = [];
  const handle = ({ method, signal }) => new Promise((resolve) => {
    signal.addEventListener('abort', () => { seen.push(`${method} aborted`); resolve(); });
    release.push(() => { seen.push(`${method} done`); resolve(); });
  });
  const node = await start(t, distributor, 'a', (one) => one.route('GET/a', handle).route('POST/a', handle));
  const one = await peer(t, node.port);
  one.send({ uri: '/a', method: 'GET', key: 1, $: {} });
  one.send({ uri: '/a', method: 'POST', key: 2, $: {} });
  one.send({ uri: '/a', method: 'POST', key: 3, $: { i: true } });
  await eventually('they run', () => release.length === 3);
  for (const key of [1, 2, 3]) one.send({ uri: '$cancel', key, $: {} });
  await eventually('two are given up', () => seen.length === 2);
  assert.deepEqual(seen, ['GET aborted', 'POST aborted']);
  const stopped = node.stop();
  one.socket.destroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  release[1]();
  await stopped;
  assert.equal(seen.at(-1), 'POST done');
});

test('what a caller sends after the end of a stream, or against its rules, harms nothing else', async (t) => {
  const distributor = await new Distributor().start(t);
  let ended = 0;
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/count', async function* count({ params }) {
      try {
        for (let n = 0; n < (params.to ?? Infinity); n++) yield n;
      } finally {
        ended++;
      }
    })
    .route('POST/sum', async ({ items }) => {
      let sum = 0;
      for await (const item of items) sum += item;
      return sum;
    }));
  const one = await peer(t, node.port);
  one.send({ uri: '/count', method: 'GET', key: 1, $: { c: 60 }, params: {} });
  const parts = [await one.next(), await one.next(), await one.next()];
  assert.deepEqual(parts, [{ key: 1, $: { n: 0 } }, { key: 1, $: { n: 1 }, params: 0 }, { key: 1, $: { n: 2 }, params: 1 }]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(one.waiting(), 0, 'no credit is left');
  one.send({ uri: '$credit', key: 1, $: { c: 1000 } });
  assert.equal((await one.next()).params, 2);
  one.send({ uri: '$cancel', key: 1, $: {} });
  await eventually('the generator ends', () => ended === 1);
  one.send({ uri: '/count', method: 'GET', key: 2, $: {}, params: { to: 1 } });
  let refused = await one.next();
  while (refused.key !== 2) refused = await one.next(); // parts that were on their way
  assert.deepEqual(refused.$, { s: 406, r: 'stream', m: 'the answer is a stream, and this call takes none: open it with stream' });
  one.send({ uri: '/sum', method: 'POST', key: 3, $: { c: 1000 }, params: {} });
  assert.deepEqual(await one.next(), { key: 3, $: { n: 0 } });
  one.send({ uri: '$part', key: 3, $: { n: 1 }, params: 4 });
  one.send({ uri: '$part', key: 3, $: { n: 2 }, params: 5 });
  one.send({ uri: '$part', key: 3, $: { n: 3, end: true } });
  assert.deepEqual([await one.next(), await one.next()], [{ key: 3, $: { n: 1 }, params: 9 }, { key: 3, $: { n: 2, end: true } }]);
  one.send({ uri: '$part', key: 3, $: { n: 4 }, params: 5 });
  one.send({ uri: '/sum', method: 'POST', key: 4, $: { c: 1000 }, params: {} });
  await one.next();
  const closed = once(one.socket, 'close');
  one.send({ uri: '$part', key: 4, $: { n: 2 }, params: 4 }); // a gap
  await closed;
});

test('a node that stops ends its streams, finishes its calls, and waits for detached work', async (t) => {
  const distributor = await new Distributor().start(t);
  const done = [];
  const node = await start(t, distributor, 'a', (one) => one
    .route('GET/forever', async function* forever() {
      yield 1;
      await new Promise(() => {});
    })
    .route('POST/slow', async ({ detach }) => {
      detach(async () => {
        await new Promise((resolve) => setTimeout(resolve, 300));
        done.push('detached');
      });
      await new Promise((resolve) => setTimeout(resolve, 100));
      done.push('call');
      return 'slow';
    }));
  const caller = await start(t, distributor, 'b');
  await caller.waitFor(['GET/forever', 'POST/slow']);
  const stream = await caller.stream('GET/forever');
  assert.equal((await stream.next()).value, 1);
  const slow = caller.call('POST/slow');
  await eventually('it runs', () => done.length === 0 && node.nodes.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const stopped = node.stop();
  const error = await failure(stream.next());
  assert.ok(error instanceof CallError);
  assert.deepEqual([error.code, error.status, error.reason], ['refused', 503, 'leaving']);
  assert.equal(await slow, 'slow');
  await stopped;
  assert.deepEqual(done, ['call', 'detached']);
});
