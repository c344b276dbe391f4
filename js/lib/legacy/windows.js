'use strict';

// How much peers of version 1 can read at once.

const { FRAME_LIMIT, isObject, textIn } = require('../transport/packets');

const LEGACY_READ_BYTES = 65536; // a version 1 peer reads at most this at once, and crashes on a packet in two reads

// IPv4 peers of a dual-stack listener are spelled ::ffff:a.b.c.d.
const plainHost = (host) => textIn(host).replace(/^::ffff:(?=\d+\.)/i, '');

// How many bytes the version 1 node of this entry may have unread.
function readWindow({ readWindow: window }) {
  return Number.isInteger(window) && window > LEGACY_READ_BYTES ? Math.min(window, FRAME_LIMIT) : LEGACY_READ_BYTES;
}

// How many bytes the version 1 peers of each host can read at once. It is not known which of them
// calls, so the smallest number counts.
function readWindows(list) {
  const windows = new Map();
  for (const entry of list.filter((one) => isObject(one) && !isObject(one.$))) {
    const host = plainHost(entry.host);
    windows.set(host, Math.min(readWindow(entry), windows.get(host) ?? Infinity));
  }
  return windows;
}

module.exports = { LEGACY_READ_BYTES, plainHost, readWindow, readWindows };
