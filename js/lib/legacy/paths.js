'use strict';

// Parameters of paths for services that look at `params` only.

const { isObject } = require('../transport/packets');

// Adds to `params` the parts of the path for which a registered url has `{name}`. If several urls
// fit, the first part that is plain text in only one of them decides for that one.
function withPath(packet, urls) {
  if (!urls.some((url) => String(url).includes('{')) || !isObject(packet.params)) return packet;
  const given = `${packet.method}${packet.uri}`.split('/');
  const isName = (part) => /^{.+}$/.test(part);
  const fits = (route) => route.length === given.length
    && route.every((part, n) => (isName(part) ? given[n] !== '' : part === given[n]));
  const names = (route) => route.map((part) => (isName(part) ? 1 : 0)).join('');
  const routes = urls.map((url) => String(url).split('/')).filter(fits);
  const [best = []] = routes.sort((a, b) => (names(a) < names(b) ? -1 : 1));
  best.forEach((part, n) => {
    if (isName(part)) packet.params[part.slice(1, -1)] = decoded(given[n]);
  });
  return packet;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // it cannot be decoded
  }
}

module.exports = { withPath };
