'use strict';

// A Distributor for tests, and nodes that end with their test.

const { once } = require('node:events');
const net = require('node:net');
const { PacketReader, encode } = require('../lib/transport/packets');
const { Node } = require('../lib');

const PATIENCE_MS = 120_000; // far more than anything takes beside eight busy processes

async function eventually(what, condition) {
  const end = performance.now() + PATIENCE_MS;
  while (!await condition()) {
    if (performance.now() >= end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

// Tells all nodes of each registration and of each end. `registered`: the packets of registrations.
class Distributor {
  #links = new Map(); // socket -> {id, entry}
  #rev = 0;
  #nextId = 1;
  registered = [];
  nodes = [];

  async start(t, port = 0) {
    this.server = net.createServer((socket) => this.#serve(socket));
    this.server.listen(port, '127.0.0.1');
    await once(this.server, 'listening');
    this.address = `127.0.0.1:${this.server.address().port}`;
    t.after(async () => {
      await Promise.all(this.nodes.map((node) => node.stop())); // together, while they are told of each other
      this.stop();
    });
    return this;
  }

  stop() {
    this.server.close();
    for (const socket of this.#links.keys()) socket.destroy();
  }

  // Tells all nodes of further entries, such as those of nodes of version 1.
  list(...entries) {
    for (const entry of entries) this.#links.set({ write() {}, destroy() {} }, { id: this.#nextId++, entry });
    this.#tell();
  }

  // Forgets the entries of `list`.
  unlist(name) {
    for (const [link, { entry }] of this.#links) if (entry?.name === name) this.#links.delete(link);
    this.#tell();
  }

  // Has all nodes see those of this name as suspect.
  suspect(name) {
    const ids = [...this.#links.values()].filter(({ entry }) => entry?.name === name).map(({ id }) => id);
    this.#tell({ suspect: ids });
  }

  #serve(socket) {
    this.#links.set(socket, {});
    const reader = new PacketReader((packet) => {
      if (packet.method === 'POST' && packet.uri === '/distributes') {
        this.registered.push(packet);
        const known = this.#links.get(socket);
        this.#links.set(socket, { id: known.id ?? this.#nextId++, entry: { ...packet.params, host: '::ffff:127.0.0.1' } });
        this.onRegistration?.(socket, packet);
        this.#tell();
      }
      if (packet.method === 'PATCH') this.reports = [...(this.reports ?? []), packet.params];
      if (packet.method === 'DELETE') this.#gone(socket);
    });
    socket.on('data', (chunk) => reader.push(chunk));
    socket.on('close', () => this.#gone(socket));
    socket.on('error', () => {});
  }

  #gone(socket) {
    if (this.#links.delete(socket)) this.#tell();
  }

  #tell(more) {
    const all = [...this.#links.values()].filter(({ entry }) => entry !== undefined);
    const $ = { epoch: 1, rev: ++this.#rev, ids: all.map(({ id }) => id), ...more };
    const list = encode({ uri: '/distributes', method: 'GET', key: 0, params: all.map(({ entry }) => entry), $ });
    for (const link of this.#links.keys()) link.write(list);
  }
}

// A node that is started, and what it logs.
async function start(t, distributor, name, set = () => {}, options = {}) {
  const logged = [];
  const node = new Node(name, { distributor: distributor.address, log: (text) => logged.push(text), ...options });
  node.logged = logged;
  set(node);
  await node.start();
  if (distributor.nodes) distributor.nodes.push(node);
  else t.after(() => node.stop());
  return node;
}

// A server that answers packets as a test says. `answer(packet, send, socket)`.
async function server(t, answer) {
  const sockets = [];
  const seen = [];
  const listening = net.createServer((socket) => {
    sockets.push(socket);
    const send = (text) => socket.write(`${text}¶`);
    const reader = new PacketReader((packet, text) => {
      seen.push({ packet, text });
      answer(packet, send, socket);
    });
    socket.on('data', (chunk) => reader.push(chunk));
    socket.on('error', () => {});
  });
  listening.listen(0, '127.0.0.1');
  await once(listening, 'listening');
  t.after(() => {
    listening.close();
    for (const socket of sockets) socket.destroy();
  });
  return { port: listening.address().port, sockets, seen, close: () => listening.close() };
}

// The entry of a node of version 1.
const legacyEntry = (port, name, urls, more = {}) => ({ port, name, urls, host: '::ffff:127.0.0.1', ...more });

// The error of a call.
async function failure(call) {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error('it has not failed');
}

module.exports = { Distributor, eventually, failure, legacyEntry, server, start };
