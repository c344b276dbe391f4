'use strict';

// The request of a client, for which a gateway makes a call: see "HTTP in calls" in
// docs/PROTOCOL.md.

const { isObject, shown } = require('../transport/packets');
const { nameFault } = require('./fields');

const MAX_NAMES = 32; // header fields that one route reads
const MAX_NAME_CHARS = 64; // of such a field

class HttpRequest {
  #wanted;
  #cookies = null;

  // `q`: what the gateway sends. `wanted`: the header fields that the route reads. A member of a
  // wrong type counts as absent.
  constructor(q, wanted) {
    this.#wanted = wanted;
    const text = (name) => (typeof q[name] === 'string' ? q[name] : '');
    const target = text('t');
    const [, path, query] = /^([^?]*)(?:\?(.*))?$/s.exec(target);
    // `target`: path and query as the client has sent them; both again, apart.
    Object.assign(this, { method: text('m'), target, path, query });
    // `id`: that of the request, which is also in the gateway's log.
    Object.assign(this, { host: text('o'), isHttps: q.s === true, clientAddress: text('a'), id: text('id') });
    this.headers = isPairs(q.h) ? q.h : []; // names, in small letters, and values, in their order
  }

  // The first value of a header field, in any case of letters; undefined if there is none.
  header(name) {
    const small = name.toLowerCase();
    if (!this.#wanted.includes(small)) {
      throw new Error(`the route reads the header field ${small}, which it does not register: `
        + `give { headers: ['${small}'] } behind the handler`);
    }
    return this.headers.find(([other]) => other.toLowerCase() === small)?.[1];
  }

  // The cookies of the client, by name. They are what the client says.
  get cookies() {
    if (this.#cookies === null) {
      this.header('cookie'); // it has to be registered
      // HTTP/2 may divide the field.
      const fields = this.headers.filter(([name]) => name.toLowerCase() === 'cookie').map(([, value]) => value);
      this.#cookies = readCookies(fields.join(';'));
    }
    return this.#cookies;
  }
}

const isPairs = (list) => Array.isArray(list) && list.every((pair) => (
  Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === 'string')
));

// Reads a `Cookie` field (RFC 6265, 5.4). Of several of one name the first counts, which browsers
// send for the longest path.
function readCookies(field) {
  const cookies = new Map();
  for (const pair of field.split(';')) {
    const at = pair.indexOf('=');
    const name = pair.slice(0, Math.max(at, 0)).trim();
    const value = pair.slice(at + 1).trim();
    if (name !== '' && !cookies.has(name)) cookies.set(name, /^"(.*)"$/s.exec(value)?.[1] ?? value);
  }
  return cookies;
}

// The request that a call has in its `$`, for a route that reads these header fields; null if it
// has none.
function requestOf($, wanted) {
  return wanted !== undefined && isObject($?.q) ? new HttpRequest($.q, wanted) : null;
}

// The names that a route gives for `headers`, in small letters, each once; or {fault}.
function wantedHeaders(headers) {
  if (!Array.isArray(headers)) return { fault: "a list of names is due, such as ['cookie']; [] for none of them" };
  for (const name of headers) {
    const fault = nameFault(name);
    if (fault) return { fault };
    if (name.length > MAX_NAME_CHARS) return { fault: `${shown(name)} has more than ${MAX_NAME_CHARS} characters` };
  }
  const names = [...new Set(headers.map((name) => name.toLowerCase()))].sort();
  if (names.length > MAX_NAMES) return { fault: `there are ${names.length}; a route reads ${MAX_NAMES} at most` };
  return { names };
}

module.exports = { requestOf, wantedHeaders };
