'use strict';

// Whose machine a host is on.

const { BlockList, isIP } = require('node:net');

const OWN = new BlockList(); // IPv4 as such or inside of IPv6, in all spellings
OWN.addSubnet('127.0.0.0', 8, 'ipv4');
OWN.addAddress('0.0.0.0', 'ipv4'); // a connection to it ends here
OWN.addAddress('::1', 'ipv6');
OWN.addAddress('::', 'ipv6');

// No Distributor writes these, and the system reads them as addresses of this machine, or as
// numbers that may be.
const OWN_NAME = /^((.+\.)?localhost\.?|(0x[\da-f]*|\d+)(\.(0x[\da-f]*|\d+)){0,3}\.?)$/i;

// Whether a connection to this host ends at the machine that makes it.
function isOwn(host) {
  const bare = String(host).replace(/^\[|\]$|%.*$/g, '');
  const family = isIP(bare);
  if (family === 0) return OWN_NAME.test(bare);
  return OWN.check(bare, family === 6 ? 'ipv6' : 'ipv4');
}

// Where the other end of a connection is, spelled as in lists, if it is on another machine; else
// null.
function farEnd({ localAddress, remoteAddress }) {
  const [here, there] = [localAddress, remoteAddress].map((one) => String(one).replace(/^::ffff:(?=\d+\.)/i, ''));
  if (isIP(there) === 0 || isOwn(there) || here === there) return null;
  return isIP(there) === 4 ? `::ffff:${there}` : there;
}

// An entry as it is to be called. A Distributor on another machine shows nodes of its own loopback
// as such: ours is another.
function resolved(entry, far) {
  return far !== null && isOwn(entry?.host) ? { ...entry, host: far } : entry;
}

// Where a service is told to others that listens on `listens` and is seen at `told`; null when they
// can call it there, or when it is not known where it listens.
function inVain(listens, told) {
  if (listens === undefined || told === undefined) return null;
  const [at, seen] = [listens, told].map((one) => String(one).replace(/^::ffff:(?=\d+\.)/i, ''));
  if (at === '::' || at === seen || (at === '0.0.0.0' && isIP(seen) === 4)) return null;
  return { who: isOwn(at) && !isOwn(seen) ? 'no other machine' : 'no other node', seen };
}

// What the first bytes of an answer show that is not a Distributor's; null while it may be one.
function foreignServer(bytes) {
  const text = bytes.subarray(0, 16).toString('latin1').trimStart();
  if (text === '' || /^[{\u00c2]/.test(text)) return null;
  if (/^(HTTP|<)/.test(text)) return 'it speaks HTTP';
  if (/^\u0015\u0003/.test(text)) return 'it speaks TLS';
  if (text.startsWith('SSH-')) return 'it speaks SSH';
  return 'what it sends is no packet';
}

module.exports = { farEnd, inVain, isOwn, resolved, foreignServer };
