'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { Router, callFault, routeFault } = require('../lib/routing/routes');
const { ofCall, optional, read, typesFault } = require('../lib/server/params');

test('a route is a method and a path of whole segments', () => {
  for (const [text, expected] of [
    ['GET/goods', null],
    ['GET/', null],
    ['DELETE/goods/{id}/tags/{tag}', null],
    ['GET/상품', null],
    ['EVENT/goods.sold', null],
    ['QUERY/goods', null],
    ['/goods', 'it does not begin with a method in capital letters'],
    ['get/goods', 'it does not begin with a method in capital letters'],
    ['GET', 'no path follows the method'],
    ['M-SEARCH/x', 'no path follows the method'],
    ['GET/a b', 'the path has a character that is not allowed in paths'],
    ['GET/a?b', 'the path has a character that is not allowed in paths'],
    ['GET/../etc', 'the path has a dot segment'],
    ['GET/goods/{}', 'a parameter has no name'],
    ['GET/goods/x{id}', 'a parameter must be a whole segment'],
    ['GET/{a}/{a}', 'two parameters have the same name'],
    ['GET/goods/:id', 'a parameter is written {name}, not :name'],
    ['EVENT/orders*', 'a * or a > is a whole word, as in orders.* or orders.>'],
    ['EVENT/orders.>.a', 'a > is the last word; in other places, write a *'],
    ['EVENT/*.*.*.*', 'a name has at most 3 wildcards'],
    ['EVENT/orders.*', null],
    ['GET/files/*', 'there are no wildcards, and a * matches only itself'],
    ['GET/{*rest}', 'a parameter matches any one segment: there are no wildcards, and no expressions'],
    ['GTE/goods', 'GTE is not a method; is GET meant?'],
    ['POS/goods', 'POS is not a method; is POST meant?'],
    ['DELET/goods', 'DELET is not a method; is DELETE meant?'],
    ['GEET/goods', 'GEET is not a method; is GET meant?'],
    [`GET/${'x'.repeat(509)}`, 'it is longer than 512 bytes'],
    [`GET/${'x'.repeat(508)}`, null],
  ]) assert.equal(routeFault(text), expected, text);
});

test('a call is a method and a path', () => {
  for (const [url, isSound] of [
    ['GET/goods/7', true], ['GET/', true], ['GET/a b', true], ['/goods', false], ['GET/a?b=1', false], ['goods', false], [7, false],
  ]) assert.equal(callFault(url) === null, isSound, String(url));
});

test('literals are preferred to parameters, segment by segment from the left', () => {
  const router = new Router();
  for (const url of ['GET/goods/{id}', 'GET/goods/new', 'GET/{kind}/{id}', 'GET/goods/{id}/tags/{tag}', 'GET/{a}/new/{b}']) {
    router.at(url, () => url);
  }
  for (const [path, expected, captured] of [
    ['/goods/new', 'GET/goods/new', []],
    ['/goods/7', 'GET/goods/{id}', ['7']],
    ['/members/7', 'GET/{kind}/{id}', ['members', '7']],
    ['/goods/7/tags/x', 'GET/goods/{id}/tags/{tag}', ['7', 'x']],
    ['/goods/new/x', 'GET/{a}/new/{b}', ['goods', 'x']],
    ['/goods/', undefined, undefined],
    ['/goods', undefined, undefined],
  ]) {
    const found = router.find('GET', path);
    assert.deepEqual([found?.value, found?.captured], [expected, captured], path);
  }
  assert.equal(router.find('POST', '/goods/7'), undefined);
  assert.equal(router.at('GET/goods/{other}'), 'GET/goods/{id}', 'names of parameters make no difference');
});

test('a handler sees the path but no key of version 1 callers', () => {
  for (const [given, expected] of [
    [{ params: { key: 1, a: 2 }, version: 1, names: [] }, { a: 2 }],
    [{ params: { key: 1, a: 2 }, version: 2, names: [] }, { key: 1, a: 2 }],
    [{ params: { id: '8', a: 1 }, version: 2, names: ['id'], captured: ['7'] }, { a: 1, id: '7' }],
    [{ params: null, version: 2, names: ['id'], captured: ['%ED%95%9C%22'] }, { id: '한"' }],
    [{ params: undefined, version: 2, names: [] }, {}],
    [{ params: 'key', version: 2, names: ['id'], captured: ['7'] }, 'key'],
    [{ params: {}, version: 2, names: ['id'], captured: ['%'] }, { id: '%' }],
  ]) assert.deepEqual(ofCall(given), expected);
  const hidden = ofCall({ params: {}, version: 2, names: ['__proto__'], captured: ['x'] });
  assert.equal(Object.hasOwn(hidden, '__proto__'), true, 'it changes no prototype');
});

test('texts are read as what a route wants', () => {
  const types = { id: Number, name: optional(String), all: optional(Boolean), tags: [String], sizes: [Number] };
  const check = (params, expected) => {
    let seen;
    try {
      seen = read(params, types);
    } catch (error) {
      seen = error.message;
      assert.deepEqual([error.status, error.reason], [400, 'bad_params']);
    }
    assert.deepEqual(seen, expected);
  };
  const rest = { name: undefined, all: undefined, tags: [], sizes: [] };
  check({ id: '7' }, { ...rest, id: 7 });
  check({ id: 7, all: 'true', tags: 'a', sizes: ['1', 2], other: '3' },
    { ...rest, id: 7, all: true, tags: ['a'], sizes: [1, 2], other: '3' });
  check({ id: '7', name: '', all: '' }, { ...rest, id: 7, name: '' });
  check({ id: '-1.5e3' }, { ...rest, id: -1500 });
  check({}, '"id" is missing');
  check({ id: 'x' }, '"id" must be a number');
  check({ id: ' ' }, '"id" must be a number');
  check({ id: 1, all: '1' }, '"all" must be true or false');
  check({ id: 1, name: 3 }, '"name" must be a text');
  check({ id: 1, sizes: 'x' }, '"sizes" must be a number');
  check([1], 'the arguments must be a JSON object');
  assert.match(typesFault({ a: Date }), /^"a" is none of String/);
  assert.match(typesFault([]), /^they are an object/);
  assert.equal(typesFault(types), null);
});
