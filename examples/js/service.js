#!/usr/bin/env node
'use strict';

// A service in plain Node.js: the protocol is all it takes.

const net = require('node:net');
const { parseArgs } = require('node:util');
const { encode, PacketReader, isObject, parseAddress, explain } = require('./packets');

const HELP = `A service that greets: GET/hello and POST/hello.

Usage: node service.js [options]

  --port N                 port to listen on (default 9040; 0 picks a free one)
  --distributor HOST:PORT  where to register (default 127.0.0.1:9000)
  --name NAME              name to register under (default hello)
  --help                   show this text

GET/hello   {}               greets, and tells the names it remembers
GET/hello   {"name": "..."}  greets by name
POST/hello  {"name": "..."}  greets by name and remembers it
`;

const RECONNECT_MS = 3000;
const MAX_BAD_FRAMES = 10; // then the peer is not speaking this protocol
const MAX_NAMES = 20; // with MAX_NAME: an old peer takes at most 64 KiB in one packet
const MAX_NAME = 100;

const { port, distributor, name } = readArguments();
const names = [];
const connections = new Set();
let registry = null;
let registryTrouble = ''; // told once per outage, not at each try
let stopping = false;

// What the service is for.

function greet(who) {
  return { greeting: `Hello, ${who || 'world'}!`, names };
}

const handlers = {
  'GET/hello': (params) => ({ results: greet(nameIn(params)) }),
  'POST/hello': (params) => {
    const who = nameIn(params);
    if (!who) return { error: 400, message: `name must be a text of 1 to ${MAX_NAME} characters` };
    if (!names.includes(who)) names.push(who);
    if (names.length > MAX_NAMES) names.shift();
    return { results: greet(who) };
  },
};

function nameIn(params) {
  const who = params.name;
  return typeof who === 'string' && who.length <= MAX_NAME ? who.trim() : '';
}

// Calls.

const server = net.createServer((socket) => {
  connections.add(socket);
  socket.setKeepAlive(true, 60_000);
  let bad = 0;
  const reader = new PacketReader(
    (packet) => { if (!socket.destroyed) onRequest(socket, packet); },
    (reason) => {
      if (socket.destroyed) return; // the rest of a read after the last strike
      console.error(`${socket.remoteAddress}: dropped: ${reason}`);
      if (++bad >= MAX_BAD_FRAMES) socket.destroy();
    },
  );
  socket.on('data', (chunk) => reader.push(chunk));
  socket.on('drain', () => socket.resume());
  socket.on('error', () => {}); // 'close' follows, and there is nobody left to answer
  socket.on('close', () => connections.delete(socket));
});

function onRequest(socket, packet) {
  if (!isObject(packet)) return;
  const params = isObject(packet.params) ? packet.params : {};
  // Some callers put the key on top, some into params; it goes back as it came.
  const key = [packet.key, params.key].find((k) => typeof k === 'number' || typeof k === 'string');
  const url = `${packet.method}${packet.uri}`;
  const answer = Object.hasOwn(handlers, url)
    ? handlers[url](params)
    : { error: 404, message: `no ${url} here` };
  if (key === undefined) return; // without a key nobody waits for an answer

  const response = answer.error
    ? { key, errorcode: answer.error, errormessage: answer.message }
    : { key, errorcode: 0, errormessage: 'success', results: answer.results };
  // A peer that does not read its answers is not asked for more questions.
  if (!socket.write(encode(response))) socket.pause();
}

// Registration: a record lives as long as its connection to the Distributor.

function register() {
  const { port: ownPort } = server.address();
  const link = net.connect(distributor);
  const where = `distributor ${distributor.host}:${distributor.port}`;
  let told = false;
  registry = link;
  link.setKeepAlive(true, 60_000);
  link.on('connect', () => {
    const params = { port: ownPort, name, urls: Object.keys(handlers) };
    link.write(encode({ uri: '/distributes', method: 'POST', key: 0, params }));
  });
  const reader = new PacketReader((packet) => {
    if (told || !isObject(packet) || !Array.isArray(packet.params)) return;
    // The first list may be older than the registration.
    if (!packet.params.some((node) => node && node.name === name && Number(node.port) === ownPort)) return;
    told = true;
    registryTrouble = '';
    console.log(`registered as ${name} at ${where}`);
  });
  link.on('data', (chunk) => reader.push(chunk)); // lists must be read even if not needed
  let cause = 'it closed the connection';
  link.on('error', (error) => { cause = explain(error); });
  link.on('close', () => {
    if (stopping) return;
    if (cause !== registryTrouble) {
      console.error(`no connection to ${where}: ${cause}; trying again every ${RECONNECT_MS / 1000} s`);
    }
    registryTrouble = cause;
    // A little jitter, so that a restarted Distributor is not met by all nodes at once.
    setTimeout(() => { if (!stopping) register(); }, RECONNECT_MS * (0.9 + 0.2 * Math.random()));
  });
}

// Start and stop.

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        port: { type: 'string', default: '9040' },
        distributor: { type: 'string', default: '127.0.0.1:9000' },
        name: { type: 'string', default: 'hello' },
        help: { type: 'boolean' },
      },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    if (!/^\d+$/.test(values.port) || Number(values.port) > 65535) {
      throw new Error('--port must be a number from 0 to 65535');
    }
    if (!/^[A-Za-z0-9._-]{1,128}$/.test(values.name)) {
      throw new Error('--name may have 1 to 128 letters, digits, dots, underscores and hyphens');
    }
    return { ...values, port: Number(values.port), distributor: parseAddress(values.distributor) };
  } catch (error) {
    console.error(`${error.message}\nTry: node service.js --help`);
    process.exit(2);
  }
}

function stop() {
  if (stopping) process.exit(130); // asked twice: at once
  stopping = true;
  // First leave the list, then give callers a moment to hear of it.
  if (registry) registry.end();
  setTimeout(() => {
    server.close(() => process.exit(0));
    for (const socket of connections) socket.end();
    setTimeout(() => process.exit(0), 1000).unref(); // somebody keeps an end open
  }, 200);
}

process.on('SIGINT', stop);
process.on('SIGTERM', stop);

server.on('error', (error) => {
  console.error(`cannot listen on port ${port}: ${explain(error)}`);
  process.exit(1);
});
server.listen(port, () => {
  console.log(`listening on port ${server.address().port}`);
  register();
});
