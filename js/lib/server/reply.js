'use strict';

// Results with a status, header fields or a media type of their own. Anything that has a JSON form
// is a result with status 200.

const { fieldsOf } = require('./fields');

const OPTIONS = ['status', 'headers', 'cookies', 'type'];
const REDIRECTIONS = [301, 302, 303, 307, 308];

class Reply {
  // `status`: 200 to 399; to 599 with a `type`, for pages about errors. `headers`, `cookies` and
  // `type` are for the client of a gateway; a node that calls gets the status and the value.
  constructor(status, value, options = {}) {
    const most = options.type === undefined ? 399 : 599;
    if (!(Number.isInteger(status) && status >= 200 && status <= most)) {
      throw new RangeError(`${status} is not the status of a result: that is 200 to ${most}; `
        + 'throw a ServiceError for errors');
    }
    for (const name of Object.keys(options)) {
      if (!OPTIONS.includes(name)) throw new TypeError(`a reply has no option ${name}; it has ${OPTIONS.join(', ')}`);
    }
    const { type } = options;
    if (type !== undefined && typeof value !== 'string' && !/^application\/([\w.+-]+\+)?json\b/i.test(type)) {
      throw new TypeError(`the body of a reply of type ${type} is a text`);
    }
    Object.assign(this, { status, value, fields: fieldsOf(options) });
  }
}

// A result with what the options say: `status`, `headers`, `cookies`, `type`.
const reply = (value, options = {}) => new Reply(options.status ?? 200, value, options);

// A plain text as the body.
const text = (value, options = {}) => reply(String(value), { type: 'text/plain; charset=utf-8', ...options });

// A page as the body. Texts of others that stand in it have to be escaped.
const html = (value, options = {}) => reply(String(value), { type: 'text/html; charset=utf-8', ...options });

// Sends the client elsewhere. 303: it gets that page with GET, as after a form was sent; 307, 308:
// it repeats this very request there. Check a place that comes from the client.
function redirect(location, status = 303, options = {}) {
  if (!REDIRECTIONS.includes(status)) throw new RangeError(`${status} is none of ${REDIRECTIONS.join(', ')}`);
  const place = String(location).replace(/[^\x00-\x7f]/gu, escaped);
  return new Reply(status, null, { ...options, headers: { ...options.headers, location: place } });
}

// A character as browsers write it in a place.
function escaped(char) {
  return char.length === 1 && /[\ud800-\udfff]/.test(char) ? '' : encodeURIComponent(char);
}

// 201: something has been created.
const created = (value, options = {}) => reply(value, { ...options, status: 201 });

// 202: the request is accepted and will be carried out.
const accepted = (value, options = {}) => reply(value, { ...options, status: 202 });

// 204: the request is carried out, and there is no result.
const noContent = (options = {}) => reply(null, { ...options, status: 204 });

module.exports = { Reply, accepted, created, html, noContent, redirect, reply, text };
