'use strict';

// Header fields and cookies that a handler gives to the client of a gateway.

const { shown } = require('../transport/packets');

const MAX_FIELDS = 64; // of one answer; a gateway leaves out more
const MAX_BYTES = 32 * 1024; // of their names and values together

const TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;
const CONTROL = /[\u0000-\u0008\u000a-\u001f\u007f]/;
const COOKIE_VALUE = /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*$/; // RFC 6265, 4.1.1
const COOKIE_OPTIONS = ['value', 'maxAge', 'path', 'domain', 'sameSite', 'httpOnly', 'secure'];
const SAME_SITE = { strict: 'Strict', lax: 'Lax', none: 'None' };

// Why a text cannot be the name of a header field; null if it can.
function nameFault(name) {
  return typeof name === 'string' && TOKEN.test(name) ? null : `${shown(name)} is not the name of a header field`;
}

// The fields of an answer, as `finish` takes them. `headers`: values by name, several in a list.
// `cookies`: a text, an object with the options of a cookie, or null to remove it, by name. `type`:
// the media type of the body. Throws what a response cannot have, as a fault of the handler.
function fieldsOf({ headers = {}, cookies = {}, type }) {
  const fields = [];
  if (type !== undefined) fields.push({ name: 'content-type', value: type });
  for (const [name, values] of Object.entries(headers)) {
    const fault = nameFault(name);
    if (fault) throw new TypeError(fault);
    for (const value of Array.isArray(values) ? values : [values]) {
      fields.push({ name: name.toLowerCase(), value: String(value) });
    }
  }
  for (const [name, cookie] of Object.entries(cookies)) fields.push(cookieField(name, cookie));
  for (const { name, value } of fields) {
    if (CONTROL.test(value)) {
      throw new TypeError(`the header field ${name} has a line break or another control character`);
    }
  }
  const bytes = fields.reduce((sum, { name, value }) => sum + name.length + Buffer.byteLength(value), 0);
  if (fields.length > MAX_FIELDS || bytes > MAX_BYTES) {
    throw new RangeError(`an answer has ${MAX_FIELDS} header fields and ${MAX_BYTES} bytes of them at most`);
  }
  return fields;
}

// A cookie as it is set. Scripts cannot read it, other sites cannot send it along, and it is sent
// over TLS only if the client speaks TLS now, unless the options say otherwise.
function cookieField(name, cookie) {
  if (!TOKEN.test(name)) throw new TypeError(`${shown(name)} is not the name of a cookie`);
  const options = typeof cookie === 'string' ? { value: cookie } : cookie ?? { value: '', maxAge: 0 };
  for (const option of Object.keys(options)) {
    if (!COOKIE_OPTIONS.includes(option)) {
      throw new TypeError(`the cookie ${name} has no option ${option}; there are ${COOKIE_OPTIONS.join(', ')}`);
    }
  }
  const { value, maxAge, path = '/', domain, sameSite = 'lax', httpOnly = true } = options;
  if (typeof value !== 'string' || !COOKIE_VALUE.test(value)) {
    throw new TypeError(`the value of the cookie ${name} has a character that a cookie cannot have: encode it, `
      + 'such as by encodeURIComponent');
  }
  if (maxAge !== undefined && !(Number.isInteger(maxAge) && maxAge >= 0)) {
    throw new TypeError(`maxAge of the cookie ${name} is in whole seconds`);
  }
  if (!Object.hasOwn(SAME_SITE, sameSite)) throw new TypeError(`sameSite of the cookie ${name} is strict, lax or none`);
  if (/;/.test(path) || /;/.test(domain ?? '')) throw new TypeError(`path and domain of the cookie ${name} have no ;`);
  const text = [
    `${name}=${value}`, `Path=${path}`, domain !== undefined && `Domain=${domain}`,
    maxAge !== undefined && `Max-Age=${maxAge}`, `SameSite=${SAME_SITE[sameSite]}`, httpOnly && 'HttpOnly',
  ];
  // Browsers require it with `none`.
  const secure = sameSite === 'none' ? true : options.secure ?? 'if_https';
  return { name: 'set-cookie', value: text.filter(Boolean).join('; '), secure };
}

// The pairs that go over the wire, for a client that speaks TLS or does not.
function finish(fields, isHttps) {
  return fields.map(({ name, value, secure }) => {
    const isSecure = secure === true || (secure === 'if_https' && isHttps);
    return [name, isSecure ? `${value}; Secure` : value];
  });
}

module.exports = { fieldsOf, finish, nameFault };
