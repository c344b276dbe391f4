'use strict';

// Urls as nodes register them, method and path together, and which of them a call belongs to.

const { bySpecificity, isPattern, isWildcard, matchesPattern, patternFault } = require('./event_patterns');
const { shown } = require('../transport/packets');

const MAX_URL_BYTES = 512; // of a registered url: what the Distributor accepts
const MAX_METHOD_LETTERS = 17; // HTTP's registered methods have no more (UPDATEREDIRECTREF)
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'EVENT'];
const EVENTS = 'EVENT';
const IDEMPOTENT = ['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS']; // calls that may be carried out twice

const isParameter = (segment) => segment.length > 2 && segment.startsWith('{') && segment.endsWith('}');

const isIdempotent = (method) => IDEMPOTENT.includes(method);

// The method and the path of a url.
function splitUrl(url) {
  const at = url.indexOf('/');
  return at < 0 ? [url, ''] : [url.slice(0, at), url.slice(at)];
}

// Why a text is not a route that a service may offer; null when it is one.
function routeFault(text) {
  const [, method, path] = /^([A-Z]*)(.*)$/s.exec(text);
  if (method === '' || method.length > MAX_METHOD_LETTERS) return 'it does not begin with a method in capital letters';
  if (!path.startsWith('/')) return 'no path follows the method';
  if (Buffer.byteLength(text) > MAX_URL_BYTES) return `it is longer than ${MAX_URL_BYTES} bytes`;
  if (/[\s\p{Cc}?#\\]/u.test(path)) return 'the path has a character that is not allowed in paths';
  const meant = METHODS.find((one) => one !== method && distance(one, method) === 1);
  if (meant && !METHODS.includes(method)) return `${method} is not a method; is ${meant} meant?`;
  const fault = segmentsFault(path.split('/').slice(1));
  return fault ?? (method === EVENTS ? patternFault(path.slice(1)) : wildcardFault(path));
}

function segmentsFault(segments) {
  const names = new Set();
  for (const segment of segments) {
    if (segment === '.' || segment === '..') return 'the path has a dot segment';
    if (segment === '{}') return 'a parameter has no name';
    if (!isParameter(segment)) {
      if (/[{}]/.test(segment)) return 'a parameter must be a whole segment';
      if (segment.startsWith(':')) return 'a parameter is written {name}, not :name';
      continue;
    }
    const name = segment.slice(1, -1);
    if (/[{}]/.test(name)) return 'a parameter has no name';
    if (/[*:]/.test(name)) return 'a parameter matches any one segment: there are no wildcards, and no expressions';
    if (names.has(name)) return 'two parameters have the same name';
    names.add(name);
  }
  return null;
}

function wildcardFault(path) {
  return path.includes('*') ? 'there are no wildcards, and a * matches only itself' : null;
}

// How many letters differ between two words; a swap of two neighbours counts as one. Only small
// numbers matter: 2 stands for more.
function distance(one, other) {
  if (Math.abs(one.length - other.length) > 1) return 2;
  const [long, short] = one.length >= other.length ? [one, other] : [other, one];
  let at = 0;
  while (at < short.length && long[at] === short[at]) at++;
  if (long.length > short.length) return long.slice(at + 1) === short.slice(at) ? 1 : 2;
  if (at === long.length) return 0;
  if (long.slice(at + 1) === short.slice(at + 1)) return 1;
  const swapped = long[at] === short[at + 1] && long[at + 1] === short[at];
  return swapped && long.slice(at + 2) === short.slice(at + 2) ? 1 : 2;
}

// Whether a url differs from an offered one in one letter.
function isNear(url, offered) {
  const [mine, others] = [url, offered].map((one) => one.split('/'));
  if (mine.length !== others.length) return false;
  let sum = 0;
  for (let n = 0; n < mine.length && sum < 2; n++) sum += isParameter(others[n]) ? 0 : distance(mine[n], others[n]);
  return sum === 1;
}

// Why a text is not a url that can be called; null when it is.
function callFault(url) {
  if (typeof url !== 'string') return 'it is a text, such as GET/hello';
  if (url.includes('?')) return 'arguments are the parameters of the call, and do not stand behind a ?';
  if (url.startsWith('/')) return 'the method stands before the path, as in GET/hello';
  const [, parameter] = /\/(\{[^/]+\})(?:\/|$)/.exec(url) ?? [];
  if (parameter) return `write the value in place of ${shown(parameter)}, as in GET/orders/7`;
  const isUrl = /^[A-Z]+\/./s.test(url) || /^[A-Z]+\/$/.test(url);
  return isUrl ? null : 'a url is a method in capital letters and a path, as in GET/hello';
}

// The url with its parameters unnamed: two routes of one shape are one.
const shapeOf = (url) => url.split('/').map((segment) => (isParameter(segment) ? '{}' : segment)).join('/');

// The names of a route's parameters, in order.
const parameterNames = (url) => url.split('/').filter(isParameter).map((segment) => segment.slice(1, -1));

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // it cannot be decoded
  }
}

// Values by the shape of their route. A literal segment is preferred to a parameter, segment by
// segment from the left.
class Router {
  #exact = new Map(); // routes without parameters, as nearly all are
  #root = branch();
  #patterns = []; // of events: the most specific first

  // The value of this very route; made by `make` when there is none.
  at(url, make) {
    const shape = shapeOf(url);
    if (!shape.includes('{}')) {
      if (!this.#exact.has(shape) && make) {
        this.#exact.set(shape, make(shape));
        const [method, path] = splitUrl(shape);
        if (method === EVENTS && isPattern(path.slice(1))) {
          this.#patterns.push(path.slice(1));
          this.#patterns.sort(bySpecificity);
        }
      }
      return this.#exact.get(shape);
    }
    let node = this.#root;
    for (const segment of shape.split('/')) {
      const next = segment === '{}' ? node.parameter : node.literals.get(segment);
      if (!next && !make) return undefined;
      if (next) node = next;
      else if (segment === '{}') node = node.parameter = branch();
      else node = put(node.literals, segment, branch());
    }
    if (node.value === undefined && make) node.value = make(shape);
    return node.value;
  }

  // The value that a call belongs to, with the captured segments: {value, captured}, or undefined.
  find(method, path) {
    const url = `${method}${path}`;
    const value = this.#exact.get(url);
    if (value !== undefined) return { value, captured: [] };
    if (method === EVENTS) {
      const pattern = this.#patterns.find((one) => matchesPattern(one, path.slice(1)));
      return pattern === undefined ? undefined : { value: this.#exact.get(`${EVENTS}/${pattern}`), captured: [] };
    }
    const captured = [];
    const found = search(this.#root, url.split('/'), 0, captured);
    return found === undefined ? undefined : { value: found, captured };
  }
}

const branch = () => ({ literals: new Map(), parameter: null, value: undefined });

function put(map, key, value) {
  map.set(key, value);
  return value;
}

function search(node, segments, at, captured) {
  if (at === segments.length) return node.value;
  const literal = node.literals.get(segments[at]);
  const found = literal && search(literal, segments, at + 1, captured);
  if (found !== undefined || !node.parameter || segments[at] === '') return found;
  captured.push(segments[at]);
  const behind = search(node.parameter, segments, at + 1, captured);
  if (behind === undefined) captured.pop();
  return behind;
}

// Why a text is not the name of an event, or a pattern of names, to which a node can subscribe;
// null if it is.
function eventFault(event) {
  const isText = typeof event === 'string' && event !== '' && !/^EVENT\/|[{}]/.test(event);
  if (isText && routeFault(`${EVENTS}/${event}`) === null) return null;
  const why = isText ? patternFault(event) : null;
  return `'${shown(event)}' is not an event: ${why ?? 'write it like orders.created'}`;
}

// Why a text is not the name of an event that a node can emit; null if it is.
function eventNameFault(event) {
  const fault = eventFault(event);
  if (fault || !event.split('.').some(isWildcard)) return fault;
  return `'${shown(event)}' is a pattern: an event is emitted by its whole name`;
}

module.exports = {
  Router, callFault, eventFault, eventNameFault, isNear, decoded, isIdempotent, parameterNames, routeFault,
  shapeOf, splitUrl,
};
