'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { Received, STREAM_WINDOW, Sender } = require('../lib/transport/flow');

test('parts come in order, and credit is given back when half of it was read', async () => {
  const granted = [];
  const received = new Received((bytes) => granted.push(bytes));
  const next = received.next();
  assert.equal(received.push(1, false, 'a', STREAM_WINDOW / 4), null);
  assert.deepEqual(await next, { done: false, value: 'a' });
  assert.equal(received.push(2, false, 'b', STREAM_WINDOW / 4), null);
  assert.deepEqual([granted, received.bytes], [[], STREAM_WINDOW / 4]);
  assert.deepEqual(await received.next(), { done: false, value: 'b' });
  assert.deepEqual([granted, received.bytes], [[STREAM_WINDOW / 2], 0]);
  assert.equal(received.push(3, true), null);
  assert.deepEqual(await received.next(), { done: true, value: undefined });
  assert.equal(received.push(4, false, 'c', 1), 'a part is missing or was sent twice', 'after the end');
});

test('a gap, a part twice, and a part without credit are faults', () => {
  for (const [parts, fault] of [
    [[[2, 1]], 'a part is missing or was sent twice'],
    [[[1, 1], [1, 1]], 'a part is missing or was sent twice'],
    // With any credit left, one whole part may be sent.
    [[[1, STREAM_WINDOW - 1], [2, STREAM_WINDOW], [3, 1]], 'a part was sent without credit'],
  ]) {
    const received = new Received(() => {});
    const seen = parts.map(([n, bytes]) => received.push(n, false, n, bytes));
    assert.deepEqual([seen.pop(), seen.every((one) => one === null)], [fault, true]);
  }
});

test('readers that wait are told of the end', async () => {
  const received = new Received(() => {});
  const [one, two] = [received.next(), received.next()];
  received.end(new Error('lost'));
  await assert.rejects(one, /lost/);
  assert.deepEqual(await two, { done: true, value: undefined });
});

test('parts are sent in order, as credit comes', async () => {
  const written = [];
  const sender = new Sender(1, (n, part) => {
    written.push([n, part]);
    return part.length;
  });
  const all = ['abcd', 'e', 'f'].map((part) => sender.send(part));
  assert.equal(await all[0], true);
  assert.deepEqual([written, sender.credit], [[[1, 'abcd']], -3]);
  sender.grant(3);
  await new Promise(setImmediate);
  assert.deepEqual(written.length, 1, 'no credit is left');
  sender.grant(1);
  sender.grant(-5);
  sender.grant(Number.NaN);
  assert.equal(await all[1], true);
  sender.close();
  assert.equal(await all[2], false);
  assert.equal(await sender.finish(), null);
  const other = new Sender(10, () => 1);
  other.send('x');
  assert.equal(await other.finish(), 2);
  assert.equal(await other.send('y'), false);
});
