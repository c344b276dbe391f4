#!/usr/bin/env node
'use strict';

// A plain HTTP server that joins the mesh with four lines.

const http = require('node:http');
const { parseArgs } = require('node:util');
const { offerHttp } = require('../../js/lib/http');
const { parseAddress } = require('./mesh');
const stopOnSignals = require('../../js/lib/stop');

const HELP = `An HTTP server that tells what it was asked for.

Usage: node web.js [options]

  --port N                 port to listen on (default 9050; 0 picks a free one)
  --host ADDRESS           address to listen on (default 127.0.0.1: this machine only; 0.0.0.0 for all)
  --distributor HOST:PORT  where to register (default 127.0.0.1:9000)
  --prefix PATH            what it answers, with all that is below it (default /web)
  --name NAME              name to register under (default web)
  --help                   show this text
`;

const { port, host, distributor, prefix, name } = readArguments();

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'application/json');
  const { method, url, headers } = request;
  const client = headers['x-forwarded-for'];
  response.end(JSON.stringify({ method, url, host: headers.host, client, pid: process.pid }));
});
server.on('error', (error) => {
  console.error(`cannot listen on port ${port}: ${error.message}`);
  process.exit(1);
});
server.listen(port, host, () => console.log(`listening on ${host}, port ${server.address().port}`));

const offer = offerHttp(server, { name, prefixes: [prefix], ...distributor });
stopOnSignals(() => offer.close());

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        port: { type: 'string', default: '9050' },
        host: { type: 'string', default: '127.0.0.1' },
        distributor: { type: 'string', default: '127.0.0.1:9000' },
        prefix: { type: 'string', default: '/web' },
        name: { type: 'string', default: 'web' },
        help: { type: 'boolean' },
      },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    if (!/^\d{1,5}$/.test(values.port)) throw new Error('--port must be a number from 0 to 65535');
    if (!values.prefix.startsWith('/')) throw new Error('--prefix must be a path, such as /web');
    return { ...values, port: Number(values.port), distributor: parseAddress(values.distributor) };
  } catch (error) {
    console.error(`${error.message}\nTry: node web.js --help`);
    return process.exit(2);
  }
}
