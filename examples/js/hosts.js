'use strict';

// Whose machine a host is on.

const { BlockList, isIP } = require('node:net');

const OWN = new BlockList(); // IPv4 as such or inside of IPv6, in all spellings
OWN.addSubnet('127.0.0.0', 8, 'ipv4');
OWN.addAddress('0.0.0.0', 'ipv4'); // a connection to it ends here
OWN.addAddress('::1', 'ipv6');
OWN.addAddress('::', 'ipv6');

// No Distributor writes these, and the system reads them as addresses of this machine, or as numbers that may be.
const OWN_NAME = /^((.+\.)?localhost\.?|(0x[\da-f]*|\d+)(\.(0x[\da-f]*|\d+)){0,3}\.?)$/i;

// Whether a connection to this host ends at the machine that makes it.
function isOwn(host) {
  const bare = String(host).replace(/^\[|\]$|%.*$/g, '');
  const family = isIP(bare);
  if (family === 0) return OWN_NAME.test(bare);
  return OWN.check(bare, family === 6 ? 'ipv6' : 'ipv4');
}

// Where the other end of a connection is, spelled as in lists, if it is on another machine; else null.
function farEnd({ localAddress, remoteAddress }) {
  const [here, there] = [localAddress, remoteAddress].map((one) => String(one).replace(/^::ffff:(?=\d+\.)/i, ''));
  if (isIP(there) === 0 || isOwn(there) || here === there) return null;
  return isIP(there) === 4 ? `::ffff:${there}` : there;
}

// An entry as it is to be called. A Distributor on another machine shows nodes of its own loopback as such: ours
// is another.
function resolved(entry, far) {
  return far !== null && isOwn(entry?.host) ? { ...entry, host: far } : entry;
}

module.exports = { farEnd, isOwn, resolved };
