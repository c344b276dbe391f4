#!/usr/bin/env node
'use strict';

// A service in plain Node.js.

const { parseArgs } = require('node:util');
const { Server, parseAddress } = require('./mesh');
const stopOnSignals = require('../../js/lib/stop');

const HELP = `A service that greets: GET/hello and POST/hello.

Usage: node service.js [options]

  --port N                 port to listen on (default 9040; 0 picks a free one)
  --host ADDRESS           address to listen on (default 127.0.0.1: this machine only; 0.0.0.0 for all)
  --distributor HOST:PORT  where to register (default 127.0.0.1:9000)
  --name NAME              name to register under (default hello)
  --help                   show this text

GET/hello   {}               greets, and tells the names it remembers
GET/hello   {"name": "..."}  greets by name
POST/hello  {"name": "..."}  greets by name and remembers it
`;

const MAX_NAMES = 20; // together with MAX_NAME, keeps packets below the 64 KiB that a version 1 peer accepts
const MAX_NAME = 100;

const names = [];

const handlers = {
  'GET/hello': (params) => ({ results: greet(nameIn(params)) }),
  'POST/hello': (params) => {
    const who = nameIn(params);
    if (!who) return refusal(400, 'bad_name', `name must be a text of 1 to ${MAX_NAME} characters`);
    if (!names.includes(who)) names.push(who);
    if (names.length > MAX_NAMES) names.shift();
    return { results: greet(who) };
  },
};

class Hello extends Server {
  onRead(socket, { uri, method, key, params }) {
    const url = `${method}${uri}`;
    const known = Object.hasOwn(handlers, url);
    const answer = known ? handlers[url](params) : refusal(404, 'no_route', `no ${url} here`);
    socket.write(JSON.stringify({ key, errorcode: 0, errormessage: 'success', ...answer }));
  }

  onError(error) {
    super.onError(error);
    process.exit();
  }
}

function greet(who) {
  return { greeting: `Hello, ${who || 'world'}!`, names };
}

// Callers of version 2 get the word, and those of version 1 the code.
function refusal(errorcode, r, errormessage) {
  return { errorcode, errormessage, $: { r } };
}

function nameIn({ name }) {
  return typeof name === 'string' && name.length <= MAX_NAME ? name.trim() : '';
}

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        port: { type: 'string', default: '9040' },
        host: { type: 'string', default: '127.0.0.1' },
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
    return process.exit(2);
  }
}

const { port, host, distributor, name } = readArguments();
const service = new Hello(name, port, Object.keys(handlers), { version: 2, host });
service.connectToDistributor(distributor.host, distributor.port);

stopOnSignals(() => service.close());
