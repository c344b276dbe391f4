'use strict';

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { test } = require('node:test');
const { CrashingRoutes } = require('../lib/balance/crashing_routes');
const { Latency } = require('../lib/balance/latency');
const { Load } = require('../lib/balance/load');
const { COOLING_DOWN, CONNECTING, EJECTED, Pool, READY, RECONNECT, schedule } = require('../lib/balance/pool');
const { score } = require('../lib/balance/rendezvous');
const { RetryBudget } = require('../lib/balance/retry_budget');

const LATER = 1_000_000; // slow start is over

// Always the same random numbers (a generator of Lehmer).
function seeded(seed = 7) {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

function member(n, more = {}) {
  const one = {
    address: `10.0.0.1:${n}`, load: new Load(), weight: 100, sameZone: false, isLocal: false, state: READY, connects: 0, ...more,
  };
  one.readiness = (now) => (one.state === READY && one.load.isEjected(now) ? EJECTED : one.state);
  one.connect = () => { one.connects++; };
  return one;
}

function pool(...members) {
  const one = new Pool({ random: seeded(), turn: 0 });
  one.set(members);
  return one;
}

// How often each is picked.
function shares(of, calls, options = {}, handle = () => {}) {
  const counts = new Map(of.members.map(({ address }) => [address, 0]));
  for (let n = 0; n < calls; n++) {
    const picked = of.pick(LATER + n, options);
    handle(picked, LATER + n);
    counts.set(picked.address, counts.get(picked.address) + 1);
  }
  return [...counts.values()];
}

test('scores are those of all languages', () => {
  assert.equal(score('member 7', '10.0.0.1:1'), 18238533787092928065n);
  const vectors = JSON.parse(readFileSync(path.join(__dirname, '../../protocol/tests/vectors/rendezvous.json')));
  assert.ok(vectors.length > 20);
  for (const one of vectors) assert.equal(score(one.key, one.address), BigInt(one.score), JSON.stringify(one));
});

test('the schedule is spread by weight', () => {
  for (const [weights, expected] of [
    [[], []], [[100, 100, 100], [0, 1, 2]], [[100, 200], [1, 0, 1]], [[50, 100, 150], [2, 1, 0, 2, 1, 2]],
  ]) assert.deepEqual(schedule(weights), expected);
  const count = (at) => schedule([1, 999, 1000]).filter((one) => one === at).length;
  assert.deepEqual([0, 1, 2].map(count), [1, 16, 16]);
});

test('a member is slow after four periods in which nothing was quick', () => {
  const check = (answers, at, inFlight, expected) => {
    const latency = new Latency();
    for (const [ms, us] of answers) latency.record(ms, us / 1000);
    assert.deepEqual([latency.usual, latency.quickest(at, inFlight)], expected);
  };
  check([], 0, 0, [0, 0]);
  check([[0, 900], [10, 900], [20, 900]], 20, 0, [900, 0]);
  const four = [[0, 900], [10, 900], [20, 900], [30, 900]];
  check(four, 30, 0, [900, 900]);
  check([...four, [35, 100], [36, 900]], 36, 0, [813, 100]);
  check([...four, [40, 90_000]], 40, 0, [900 + 338, 900]);
  for (const [ms, inFlight, quickest] of [[1053, 0, 900], [1054, 0, 450], [2078, 0, 225], [2078, 1, 900]]) {
    check(four, ms, inFlight, [900, quickest]);
  }
});

test('equal members have equal shares, and others by their weight', () => {
  assert.deepEqual(shares(pool(member(1), member(2), member(3)), 300), [100, 100, 100]);
  assert.deepEqual(shares(pool(member(1), member(2, { weight: 200 })), 300), [100, 200]);
});

test('one with many calls in flight, and one that is slow, have fewer', () => {
  const [quick, slow, busy] = [member(1), member(2), member(3)];
  for (let n = 0; n < 8; n++) {
    for (const [one, ms] of [[quick, 1], [slow, 30], [busy, 1]]) one.load.recordAnswer(LATER - 100 + n * 12, ms);
  }
  for (let n = 0; n < 10; n++) busy.load.begin(LATER);
  const [one, two, three] = shares(pool(quick, slow, busy), 300);
  // The busy one still takes calls in place of the slow one.
  assert.ok(one > 180 && two < 20 && three < 120, [one, two, three].join());
});

test('a member that fails five calls in a row is left out for a while, and then tested', () => {
  const [bad, good] = [member(1), member(2)];
  const both = pool(bad, good);
  for (let n = 0; n < 4; n++) assert.equal(bad.load.recordFailure(LATER), false);
  assert.equal(bad.load.isEjected(LATER), false);
  assert.equal(bad.load.recordFailure(LATER), true);
  assert.deepEqual([LATER + 999, LATER + 1000].map((now) => bad.load.isEjected(now)), [true, false]);
  assert.deepEqual(shares(both, 20), [0, 20]);
  bad.load.begin(LATER + 1000); // this call tests it, and others go elsewhere
  assert.equal(bad.load.isEjected(LATER + 1999), true);
  for (let n = 0; n < 5; n++) bad.load.recordFailure(LATER + 2000);
  assert.deepEqual([LATER + 3999, LATER + 4000].map((now) => bad.load.isEjected(now)), [true, false], 'twice as long');
  bad.load.recordAnswer(LATER + 4000, 1);
  assert.equal(bad.load.isEjected(LATER + 4000), false);
  bad.load.recordTimeout(LATER + 5000);
  assert.equal(bad.load.isEjected(LATER + 5500), true, 'one call without an answer is enough');
  // When most are ejected, they are hardly at fault.
  const all = [member(1), member(2), member(3)];
  for (const one of all) one.load.recordTimeout(LATER);
  assert.ok(pool(...all).pick(LATER + 1));
});

test('a member that has just been connected has a growing share', () => {
  const [fresh, old] = [member(1), member(2)];
  for (const one of [fresh, old]) for (let n = 0; n < 8; n++) one.load.recordAnswer(LATER - 100 + n * 12, 1);
  fresh.load.connected(LATER);
  fresh.load.begin(LATER); // one that has nothing to do takes its turn
  const [share] = shares(pool(fresh, old), 200);
  assert.ok(share >= 2 && share < 60, `${share} of 200`);
});

test('members of our zone are preferred until they overflow', () => {
  const [near, far] = [member(1, { sameZone: true }), member(2)];
  assert.deepEqual(shares(pool(near, far), 20), [20, 0]);
  for (let n = 0; n < 32; n++) near.load.begin(LATER);
  const [, overflow] = shares(pool(near, far), 100);
  assert.ok(overflow > 20, `${overflow} of 100`);
});

test('one without a connection is picked only when no other has one, and is connected', () => {
  const states = [READY, RECONNECT, COOLING_DOWN, CONNECTING];
  const [up, idle, cooling, connecting] = states.map((state, n) => member(n + 1, { state }));
  assert.deepEqual(shares(pool(up, idle, cooling, connecting), 40), [40, 0, 0, 0]);
  assert.ok(idle.connects > 0 && cooling.connects === 0);
  assert.equal(pool(idle, cooling, connecting).pick(LATER), connecting);
  assert.equal(pool(idle, cooling).pick(LATER), idle);
  assert.equal(pool(cooling).pick(LATER), cooling);
  assert.equal(cooling.connects, 1, 'nothing better is left');
  assert.equal(pool(up, idle).pick(LATER, { tried: [up.address, idle.address] }), undefined);
  assert.equal(pool(up).pick(LATER, { tried: [up.address] }), undefined);
});

test('turns of one that is left out are shared', () => {
  assert.deepEqual(shares(pool(member(1), member(2), member(3)), 100, { excluded: '10.0.0.1:1' }), [0, 50, 50]);
});

test('a key stays with its member, and moves when that is full or gone', () => {
  const members = [member(1), member(2), member(3), member(4)];
  const all = pool(...members);
  const owners = new Set();
  for (let key = 0; key < 50; key++) {
    const sticky = `key ${key}`;
    const owner = all.pick(LATER, { sticky });
    owners.add(owner);
    const best = members.reduce((one, other) => (score(sticky, one.address) > score(sticky, other.address) ? one : other));
    assert.equal(owner, best);
    owner.state = RECONNECT;
    assert.equal(all.pick(LATER, { sticky }), owner, 'it is being connected');
    owner.state = COOLING_DOWN;
    assert.notEqual(all.pick(LATER, { sticky }), owner, 'it cannot be reached');
    owner.state = READY;
    for (let n = 0; n < 8; n++) owner.load.begin(LATER);
    assert.notEqual(all.pick(LATER, { sticky }), owner, 'it is full');
    for (let n = 0; n < 8; n++) owner.load.end();
  }
  assert.equal(owners.size, 4);
});

test('of many members a node calls a hundred', () => {
  const subset = (caller) => {
    const members = Array.from({ length: 300 }, (_, n) => member(n));
    for (const one of members) one.rendezvous = score(caller, one.address);
    return pool(...members).subset.map(({ address }) => address);
  };
  const [a, b] = [subset('a'), subset('b')];
  assert.equal(a.length, 100);
  assert.deepEqual(a, subset('a'));
  const shared = a.filter((one) => b.includes(one)).length;
  assert.ok(shared > 15 && shared < 55, `${shared} in common`);
});

test('retries are a fifth of all calls, and ten a second', () => {
  const budget = new RetryBudget(0);
  const taken = (now) => {
    let count = 0;
    while (budget.withdraw(now)) count++;
    return count;
  };
  assert.equal(taken(0), 10);
  for (let n = 0; n < 50; n++) budget.deposit();
  assert.equal(taken(0), 10);
  assert.equal(taken(500), 5);
  assert.equal(taken(400), 0, 'a clock that goes back adds nothing');
  assert.equal(taken(1_000_000), 100);
});

test('a route counts as crashing when nodes end of it one after the other', () => {
  const routes = new CrashingRoutes();
  for (const [ms, route, node, mayRetry] of [
    [0, 'GET/a', 1, true],
    [10, 'GET/a', 1, true],
    [20, 'GET/b', 2, true],
    [30, 'GET/a', 2, false],
    [40, 'GET/a', 3, false],
    [60_039, 'GET/a', 3, false],
    [130_000, 'GET/a', 4, true],
    [140_000, 'GET/a', 4, false],
    [30_020, 'GET/b', 3, true],
    [40_000, 'GET/b', 1, false],
  ]) assert.equal(routes.recordLoss(ms, route, node), mayRetry, `${ms} ${route}`);
  assert.equal(routes.recordLoss(0, 'GET/c', 1), true);
  routes.recordAnswer('GET/c');
  assert.equal(routes.recordLoss(0, 'GET/c', 2), true, 'another node has answered it');
  const many = new CrashingRoutes();
  for (let n = 0; n < 2000; n++) many.recordLoss(0, `GET/${n}`, 1);
  assert.equal(many.recordLoss(1, 'GET/1999', 2), true, 'so many are remembered, and no more');
  assert.equal(many.recordLoss(1, 'GET/1000', 2), false);
});
