'use strict';

// The answers that version 1 services write, in the form of either version.

const { join } = require('../transport/packets');

// An answer is a map of members to their JSON text, so that numbers keep every digit.

// The `$` is for version 2 callers; a service may write one beside its `errorcode` too, for a
// better `r`.
function failure(code, reason, message) {
  return new Map(Object.entries({
    errorcode: String(code), errormessage: JSON.stringify(message), $: JSON.stringify({ r: reason }),
  }));
}

function legacyAnswer(key, answer) {
  return join([['key', key], ...[...answer].filter(([name]) => name !== 'key' && name !== '$')]);
}

function currentAnswer(key, answer) {
  const codes = ['errorcode', 'errorCode'].map((name) => JSON.parse(answer.get(name) ?? '0'));
  const code = codes.find((one) => ![null, 0, '0', '', false].includes(one));
  // Our nodes read the members fastest in this order.
  if (code === undefined) return join([['key', key], ['$', '{}'], ['params', dataOf(answer)]]);
  // The codes of version 1 services have no common meaning, unless they are HTTP's.
  const status = Number.isInteger(Number(code)) && code >= 400 && code < 600 ? Number(code) : 500;
  const reason = /^\w+$/.test(code) ? `errorcode_${code}`.toLowerCase() : 'errorcode';
  const said = JSON.parse(answer.get('errormessage') ?? answer.get('errorMessage') ?? '""');
  const message = typeof said === 'string' ? said : JSON.stringify(said);
  const own = JSON.parse(answer.get('$') ?? '{}');
  return join([['key', key], ['$', JSON.stringify({ s: status, r: reason, m: message, ...own })]]);
}

// The content of an answer: `results` if there is nothing else, and otherwise an object of all
// members that are not the answer's own. Some services put what they found beside `errorcode`, or
// into `errormessage`, where a text is for people.
function dataOf(answer) {
  const data = [...answer].filter(([name, value]) => {
    if (/^error[mM]essage$/.test(name)) return !/^("|null$)/.test(value);
    return !['key', 'errorcode', 'errorCode', '$'].includes(name);
  });
  if (data.length === 0) return 'null';
  const isAlone = data.length === 1 && /^(results|error[mM]essage)$/.test(data[0][0]);
  return isAlone ? data[0][1] : join(data);
}

module.exports = { failure, currentAnswer, legacyAnswer };
