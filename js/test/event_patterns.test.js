'use strict';

const assert = require('node:assert/strict');
const { connect } = require('node:net');
const { test } = require('node:test');

const { ServiceError } = require('../lib');
const { KeyTurns, MAX_WAITING_OF_KEY } = require('../lib/server/key_turns');
const { Distributor, eventually, start } = require('./helpers');
const { bySpecificity, matchesPattern, patternFault } = require('../lib/routing/event_patterns');
const { Router } = require('../lib/routing/routes');

test('a name with a wildcard is a pattern or has a fault', () => {
  const check = (name, expected) => assert.match(String(patternFault(name)), expected, name);
  for (const name of ['orders.created', '*', '>', 'orders.*', 'orders.>', 'a.*.b.*.>']) check(name, /^null$/);
  for (const name of ['orders*', 'orders.**', 'a>']) check(name, /whole word/);
  check('orders.>.a', /last word/);
  check('orders..*', /empty/);
  check(`${'a.'.repeat(16)}*`, /16 words/);
  check('*.*.*.>', /3 wildcards/);
});

test('an event belongs to all patterns that match it, the most specific first', () => {
  const patterns = ['>', '*', '*.created', 'orders.>', 'orders.*', 'orders.*.eu', '*.*', 'orders.*.>'];
  const check = (name, expected) => {
    const found = patterns.filter((pattern) => matchesPattern(pattern, name)).sort(bySpecificity);
    assert.deepEqual(found, expected, name);
  };
  check('orders.created', ['orders.*', 'orders.>', '*.created', '*.*', '>']);
  check('orders', ['*', '>']);
  check('orders.created.eu', ['orders.*.eu', 'orders.*.>', 'orders.>', '>']);
  check('', []);
});

test('a handler of the very name is preferred, and then the most specific pattern', () => {
  const router = new Router();
  for (const url of ['EVENT/>', 'EVENT/orders.*', 'EVENT/orders.created', 'GET/a']) router.at(url, () => url);
  const check = (path, expected) => assert.equal(router.find('EVENT', path)?.value, expected, path);
  check('/orders.created', 'EVENT/orders.created');
  check('/orders.paid', 'EVENT/orders.*');
  check('/members', 'EVENT/>');
  assert.equal(router.find('GET', '/b'), undefined);
});

test('an event that says which one it is is acknowledged, and those of a key are handled in turn', async (t) => {
  const distributor = await new Distributor().start(t);
  const seen = [];
  let atWork = 0;
  const node = await start(t, distributor, 'mails', (one) => one.on('sold.*', async (payload, { event }) => {
    assert.equal(++atWork, 1, 'one event of the key is at work');
    await new Promise(setImmediate);
    atWork--;
    seen.push([payload, event]);
    if (payload === 'bad') throw new ServiceError(409, 'no', 'not this one');
  }));
  assert.deepEqual(distributor.registered.at(-1).params.$.routes, [{ at: [0], acks: true }]);
  const answers = [];
  const socket = connect(node.port, '127.0.0.1');
  t.after(() => socket.destroy());
  socket.on('data', (bytes) => answers.push(...bytes.toString().split('¶').filter(Boolean).map((one) => JSON.parse(one))));
  const send = (key, $, params) => socket.write(`${JSON.stringify({ uri: '/sold.shoes', method: 'EVENT', key, $, params })}¶`);
  send(1, {}, 'unanswered');
  await eventually('it has come', () => seen.length === 1);
  for (const [key, payload] of [[2, 'good'], [3, 'bad'], [4, 'last']]) send(key, { e: `e${key}`, k: '7', at: 1 }, payload);
  await eventually('all are answered', () => answers.length === 3);
  assert.deepEqual(answers.map(({ key, $ }) => [key, $.s]), [[2, undefined], [3, 409], [4, undefined]]);
  assert.deepEqual(seen[0], ['unanswered', { name: 'sold.shoes', id: undefined, key: undefined, attempt: 0 }]);
  assert.deepEqual(seen[1], ['good', { name: 'sold.shoes', id: 'e2', key: '7', attempt: 1 }]);
  assert.deepEqual(seen.map(([payload]) => payload), ['unanswered', 'good', 'bad', 'last']);
});

test('only so many events of a key wait', async () => {
  const turns = new KeyTurns();
  let end;
  const done = new Promise((resolve) => { end = resolve; });
  const order = [];
  const run = (key, n) => turns.run(key, async () => { order.push(n); await done; });
  const all = Array.from({ length: MAX_WAITING_OF_KEY + 1 }, (_, n) => run('a', n));
  await assert.rejects(run('a', -1), { reason: 'overloaded' });
  all.push(run('b', 'b'));
  end();
  await Promise.all(all);
  assert.deepEqual(order.slice(0, 4), [0, 'b', 1, 2]);
  assert.equal(order.length, MAX_WAITING_OF_KEY + 2);
});
