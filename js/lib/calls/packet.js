'use strict';

// The packets of a caller, as text.

const { isObject } = require('../transport/packets');
const { decoded, parameterNames } = require('../routing/routes');

// The call of a version 1 node, with its key in both places that its family may look at, and with
// what stands in the path among its arguments. Without a key it is one-way.
function legacyCall({ method, path, text }, key, route, captured) {
  const head = `{"uri":${JSON.stringify(path)},"method":"${method}"`;
  const params = JSON.parse(text) ?? {};
  if (!isObject(params)) return `${head}${key === null ? '' : `,"key":${key}`},"params":${text}}`;
  const { key: _, ...rest } = params;
  parameterNames(route).forEach((name, n) => { rest[name] = decoded(captured[n]); });
  if (key === null) return `${head},"params":${JSON.stringify(rest)}}`;
  return `${head},"key":${key},"params":${JSON.stringify({ ...rest, key })}}`;
}

// The call of a version 2 node. Our nodes write the members in this order, which can be read
// without parsing. `text`: the arguments as JSON.
function currentCall({ method, path, text }, key, meta) {
  const members = Object.entries(meta).filter(([, value]) => value !== undefined && value !== 0 && value !== false);
  const $ = JSON.stringify(Object.fromEntries(members));
  const keyed = key === null ? '' : `,"key":${key}`;
  return `{"uri":${JSON.stringify(path)},"method":"${method}"${keyed},"$":${$},"params":${text}}`;
}

module.exports = { currentCall, legacyCall };
