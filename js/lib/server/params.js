'use strict';

// The arguments of a call. Those of a query string are texts: a route may say which type each
// member has, and texts are then read as that.

const { ServiceError } = require('../errors');
const { isObject } = require('../transport/packets');
const { decoded } = require('../routing/routes');

const NAMES = new Map([[String, 'a text'], [Number, 'a number'], [Boolean, 'true or false']]);

// The types that `optional` has made.
const optionals = new WeakSet();

// A member that may be missing.
function optional(type) {
  const one = { type };
  optionals.add(one);
  return one;
}

// The arguments as their handler sees them: with the parameters of the path, which win over members
// of the same name, and without the `key` that version 1 callers add.
function ofCall({ params, version, names, captured }) {
  if (names.length === 0 && !(version === 1 && isObject(params) && Object.hasOwn(params, 'key'))) {
    return params ?? {};
  }
  if (!isObject(params ?? {})) return params;
  const all = { ...params };
  if (version === 1) delete all.key;
  names.forEach((name, n) => { setOwn(all, name, decoded(captured[n])); });
  return all;
}

// As an own member, even if its name is `__proto__`.
function setOwn(object, name, value) {
  Object.defineProperty(object, name, { value, writable: true, enumerable: true, configurable: true });
}

// Why a route cannot have these types; null when it can.
function typesFault(types) {
  if (!isObject(types)) return 'they are an object, such as { id: Number }';
  for (const [name, given] of Object.entries(types)) {
    const type = optionals.has(given) ? given.type : given;
    const isKnown = NAMES.has(type) || (Array.isArray(type) && type.length === 1 && NAMES.has(type[0]));
    if (!isKnown) {
      return `"${name}" is none of String, Number, Boolean, [String], [Number], [Boolean], and optional(…) of these`;
    }
  }
  return null;
}

// Reads the arguments by the types of a route. Members without a type stay as they are.
function read(params, types) {
  if (!isObject(params)) throw ServiceError.badRequest('bad_params', 'the arguments must be a JSON object');
  const all = { ...params };
  for (const [name, given] of Object.entries(types)) {
    const isOptional = optionals.has(given);
    const type = isOptional ? given.type : given;
    const value = Object.hasOwn(params, name) ? params[name] : undefined;
    // An empty text is how a form says that there is nothing.
    const isAbsent = value === undefined || value === null || (value === '' && type !== String);
    if (isAbsent && isOptional) {
      setOwn(all, name, undefined);
      continue;
    }
    if (isAbsent && !Array.isArray(type)) throw ServiceError.badRequest('bad_params', `"${name}" is missing`);
    const list = () => readList(name, isAbsent ? [] : value, type[0]);
    setOwn(all, name, Array.isArray(type) ? list() : readOne(name, value, type));
  }
  return all;
}

// One value stands for a list of one: a query string cannot say the difference.
function readList(name, value, type) {
  return (Array.isArray(value) ? value : [value]).map((one) => readOne(name, one, type));
}

function readOne(name, value, type) {
  if (type === String && typeof value === 'string') return value;
  if (type === Number) {
    const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
    if (typeof number === 'number' && Number.isFinite(number)) return number;
  }
  if (type === Boolean) {
    if (typeof value === 'boolean') return value;
    if (value === 'true' || value === 'false') return value === 'true';
  }
  throw ServiceError.badRequest('bad_params', `"${name}" must be ${NAMES.get(type)}`);
}

module.exports = { ofCall, optional, read, typesFault };
