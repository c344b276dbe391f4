#!/usr/bin/env node
'use strict';

// A client in plain Node.js: asks the Distributor who offers a url, then calls that service
// directly.

const { parseArgs } = require('node:util');
const { registryHost, resolved } = require('../../js/lib/transport/hosts');
const { Client, LEGACY_READ_BYTES, encode, explain, isObject, parseAddress } = require('./mesh');

const HELP = `Calls a service and prints its answer.

Usage: node client.js [options] METHOD/path [params as JSON]

  --distributor HOST:PORT  whom to ask for services (default 127.0.0.1:9000)
  --timeout MS             time for everything together (default 5000)
  --help                   show this text

Example: node client.js GET/hello '{"name":"홍길동"}'

It does not register. A Distributor of version 1 may end when such a peer leaves: use it with a newer one.

Exit code: 0 answered; 1 failed, or the service answered with an error; 2 wrong use.
`;

const KEY = 1; // one call on a connection of our own

const { url, method, uri, params, distributor, timeout } = readArguments();

setTimeout(() => fail(`no answer within ${timeout} ms (${stage})`), timeout);
let stage = 'connecting to the distributor';
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => fail('stopped', 130));
main().catch((error) => fail(error.message));

async function main() {
  const nodes = (await fetchList()).filter((node) => isObject(node) && Array.isArray(node.urls));
  const providers = nodes.filter((node) => node.urls.includes(url));
  if (providers.length === 0) {
    const offered = new Set(nodes.flatMap((node) => node.urls));
    const list = [...offered].sort().join(', ') || 'no urls at all';
    throw new Error(`no service offers ${url}; offered are: ${list}`);
  }
  // A random start shares the work among the providers.
  const first = Math.floor(Math.random() * providers.length);
  for (const node of [...providers.slice(first), ...providers.slice(0, first)]) {
    const answer = await call(node);
    if (answer === undefined) continue; // not reached: nothing was sent, the next one is safe to try
    if (answer === null) throw new Error(`${node.name} does not know the method ${method}`);
    const text = `${JSON.stringify(answer, null, 2)}\n`;
    process.stdout.write(text, () => process.exit(answer.errorcode ? 1 : 0));
    return;
  }
  throw new Error(`${url} is offered by ${providers.length}, but none of them can be reached`);
}

// The list comes on connect, without asking.
function fetchList() {
  const where = `distributor ${distributor.host}:${distributor.port}`;
  return new Promise((resolve, reject) => {
    const link = new Client(
      distributor.host,
      distributor.port,
      () => { stage = 'waiting for the list of the distributor'; },
      (_, packet) => {
        if (packet?.uri !== '/distributes' || !Array.isArray(packet.params)) return;
        const far = registryHost(link.client);
        resolve(packet.params.map((entry) => resolved(entry, far)));
        link.end();
      },
      () => reject(new Error(`the ${where} closed the connection without a list`)),
      (_, error) => reject(new Error(`no connection to ${where}: ${explain(error)}`)),
    );
    link.connect();
  });
}

// The answer, or undefined if the call could not be sent.
function call(node) {
  // IPv4 peers of a dual-stack listener are spelled ::ffff:a.b.c.d; the short form also works
  // without IPv6.
  const host = String(node.host).replace(/^::ffff:(?=\d+\.)/i, '');
  const port = Number(node.port); // some nodes register it as a string
  const where = `${node.name} at ${host}:${port}`;
  const skip = (why) => console.error(`skipped ${where}: ${why}`);
  if (!(port >= 1 && port <= 65535)) return skip('not a port');

  // The key stands in both places, because families of services differ in where they look.
  const request = { uri, method, key: KEY, params: { ...params, key: KEY } };
  const { length } = encode(request);
  const isLegacy = !isObject(node.$);
  const instance = node.$?.id;
  const window = Number.isInteger(node.readWindow) ? Math.max(node.readWindow, LEGACY_READ_BYTES) : LEGACY_READ_BYTES;
  if (isLegacy && length > window) return skip(`${length} bytes are too much for a version 1 service`);

  return new Promise((resolve, reject) => {
    let sent = false;
    let cause = 'it closed the connection';
    stage = `connecting to ${where}`;
    const link = new Client(
      host,
      port,
      () => {
        sent = true;
        stage = `waiting for ${where}`;
        // Another instance does not begin the call.
        if (typeof instance === 'string') link.write({ uri: '$hello', $: { to: instance } });
        link.write(request);
      },
      (_, packet) => {
        if (packet?.uri === '$hello') {
          if (packet.$?.f === instance) return;
          resolve(skip('another process listens there'));
          link.end();
          return;
        }
        // A bare null is how version 1 services say that they do not know the method.
        if (packet !== null && String(packet.key) !== String(KEY)) return;
        resolve(packet);
        link.end();
      },
      () => {
        // Once sent, a second try could do the work twice.
        if (sent) reject(new Error(`${where} gave no answer: ${cause}`));
        else resolve(skip(cause));
      },
      (_, error) => { cause = explain(error); },
    );
    link.connect();
  });
}

function fail(message, code = 1) {
  console.error(message);
  process.exit(code);
}

function readArguments() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        distributor: { type: 'string', default: '127.0.0.1:9000' },
        timeout: { type: 'string', default: '5000' },
        help: { type: 'boolean' },
      },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    const [target, json = '{}', ...more] = positionals;
    const [, verb, path] = /^([A-Za-z]+)(\/.*)$/.exec(target || '') || [];
    if (!verb || more.length > 0) throw new Error('give one url like GET/hello, and params as one JSON text');
    if (!/^\d{1,9}$/.test(values.timeout) || Number(values.timeout) === 0) {
      throw new Error('--timeout must be a number of milliseconds');
    }
    let given;
    try {
      given = JSON.parse(json);
    } catch (error) {
      throw new Error(`params are not JSON: ${error.message}`);
    }
    if (!isObject(given)) throw new Error('params must be a JSON object, such as {"name":"..."}');
    if (Object.hasOwn(given, 'key')) throw new Error('params must not have a member "key": it would be lost');
    return {
      url: verb.toUpperCase() + path,
      method: verb.toUpperCase(),
      uri: path,
      params: given,
      distributor: parseAddress(values.distributor),
      timeout: Number(values.timeout),
    };
  } catch (error) {
    return fail(`${error.message}\nTry: node client.js --help`, 2);
  }
}
