'use strict';

// Rendezvous hashing: which member a key belongs to. All nodes agree, in every language.

const { crc32 } = require('../transport/packets');

const MASK = (1n << 64n) - 1n;

// The score of an address for a key.
function score(key, address) {
  const [high, low] = [key, address].map((text) => BigInt(crc32(Buffer.from(text))));
  // The finalizer of SplitMix64: checksums of similar texts are similar, and its results are not.
  let mixed = ((high << 32n | low) + 0x9e3779b97f4a7c15n) & MASK;
  mixed = ((mixed ^ mixed >> 30n) * 0xbf58476d1ce4e5b9n) & MASK;
  mixed = ((mixed ^ mixed >> 27n) * 0x94d049bb133111ebn) & MASK;
  return mixed ^ mixed >> 31n;
}

module.exports = { score };
