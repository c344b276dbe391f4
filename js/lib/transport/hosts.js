'use strict';

// Tells hosts of this machine from hosts of others.

const { BlockList, isIP } = require('node:net');
const { textIn } = require('./packets');

const OWN = new BlockList(); // IPv4 as such or inside of IPv6, in all spellings
OWN.addSubnet('127.0.0.0', 8, 'ipv4');
OWN.addAddress('0.0.0.0', 'ipv4'); // a connection to it ends here
OWN.addAddress('::1', 'ipv6');
OWN.addAddress('::', 'ipv6');

// Hosts that no Distributor writes. The system would take them for this machine, or for numbers
// that may stand for it.
const OWN_NAME = /^((.+\.)?localhost\.?|(0x[\da-f]*|\d+)(\.(0x[\da-f]*|\d+)){0,3}\.?)$/i;

// Whether a connection to this host ends at the machine that makes it.
function isOwn(host) {
  const bare = textIn(host).replace(/^\[|\]$|%.*$/g, '');
  const family = isIP(bare);
  if (family === 0) return OWN_NAME.test(bare);
  return OWN.check(bare, family === 6 ? 'ipv6' : 'ipv4');
}

// The address of the other end of a connection, spelled as in lists, if it is on another machine;
// otherwise null.
function registryHost({ localAddress, remoteAddress }) {
  const [here, there] = [localAddress, remoteAddress].map((one) => String(one).replace(/^::ffff:(?=\d+\.)/i, ''));
  if (isIP(there) === 0 || isOwn(there) || here === there) return null;
  return isIP(there) === 4 ? `::ffff:${there}` : there;
}

// An entry with the host at which it can be called. A Distributor on another machine lists nodes
// of its own machine with a loopback host, which would lead to ours.
function resolved(entry, far) {
  return far !== null && isOwn(entry?.host) ? { ...entry, host: far } : entry;
}

// A service listens on `listens`, and the Distributor tells others to call it at `told`. Returns
// who cannot call it there, and that host; null when all can, or when it is not known where it
// listens.
function unreachableListener(listens, told) {
  if (listens === undefined || told === undefined) return null;
  const [at, seen] = [listens, told].map((one) => String(one).replace(/^::ffff:(?=\d+\.)/i, ''));
  if (at === '::' || at === seen || (at === '0.0.0.0' && isIP(seen) === 4)) return null;
  return { who: isOwn(at) && !isOwn(seen) ? 'no other machine' : 'no other node', seen };
}

// What kind of server sends these first bytes, if it is not a Distributor; null while it may be
// one.
function foreignServer(bytes) {
  const text = bytes.subarray(0, 16).toString('latin1').trimStart();
  if (text === '' || /^[{\u00c2]/.test(text)) return null;
  if (/^(HTTP|<)/.test(text)) return 'it speaks HTTP';
  if (/^\u0015\u0003/.test(text)) return 'it speaks TLS';
  if (text.startsWith('SSH-')) return 'it speaks SSH';
  return 'it sends bytes that are not packets';
}

module.exports = { registryHost, unreachableListener, isOwn, resolved, foreignServer };
