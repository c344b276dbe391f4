'use strict';

// Why a node cannot be reached, in the words of docs/PROTOCOL.md, and where its name may lead.

const dns = require('node:dns');
const { isOwn } = require('../transport/hosts');

const WORDS = {
  ECONNREFUSED: 'refused',
  ETIMEDOUT: 'timeout',
  EHOSTUNREACH: 'no_way',
  ENETUNREACH: 'no_way',
  ENETDOWN: 'no_way',
  EADDRNOTAVAIL: 'no_way',
  ENOTFOUND: 'unknown_name',
  EAI_AGAIN: 'unknown_name',
  EACCES: 'forbidden',
  EPERM: 'forbidden',
};

function unreachableWord(cause, { advertised }) {
  if (!cause) return 'no_node'; // it closed the connection at once
  if (cause.message === 'it gives no sign of life') return advertised ? 'no_node' : 'timeout';
  return WORDS[cause.code] ?? 'other';
}

// Looks up an advertised name. It must not lead to this machine, unless the list does.
function guardedLookup(listed) {
  return (host, options, done) => {
    dns.lookup(host, { ...options, all: true }, (error, found = []) => {
      const allowed = isOwn(listed) ? found : found.filter(({ address }) => !isOwn(address));
      if (error || allowed.length === 0) {
        done(error ?? Object.assign(new Error('the name leads to this machine'), { code: 'ENOTFOUND' }));
      } else if (options.all) {
        done(null, allowed);
      } else {
        done(null, allowed[0].address, allowed[0].family);
      }
    });
  };
}

module.exports = { guardedLookup, unreachableWord };
