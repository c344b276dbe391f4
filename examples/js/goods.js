#!/usr/bin/env node
'use strict';

// A goods service in the style of version 1 services. One line brings it up to date:
//
//   - const Server = require('./server.js');
//   + const Server = require('./mesh.js');
//
// It still writes its answers as it always has. Yet packets may be split anywhere, keys may be
// longer than JavaScript's numbers, and a `¶` in a name does no harm. With `--version 2` it is not
// missed when a Distributor restarts, and HTTP clients see its results alone.

const Server = require('./mesh.js');

const HELP = `A goods service in the old style: POST/goods, GET/goods and DELETE/goods.

Usage: node goods.js [options]

  --port N                 port to listen on (default 9010; 0 picks a free one)
  --host ADDRESS           address to listen on (default 127.0.0.1: this machine only; 0.0.0.0 for all)
  --distributor HOST:PORT  where to register (default 127.0.0.1:9000)
  --version N              1 registers as version 1 services do (default 1), 2 as new ones
  --help                   show this text
`;

const MAX_GOODS = 1000;

class Goods extends Server {
  constructor({ port, host, distributor, version }) {
    super('goods', port, ['POST/goods', 'GET/goods', 'DELETE/goods'], { version, host });
    this.stored = []; // a real one has a database
    this.connectToDistributor(distributor.host, distributor.port, (data) => {
      console.log(`list ${data.params.length}`);
    });
  }

  onRead(socket, data) {
    const packet = { key: data.params.key, errorcode: 0, errormessage: 'success' };
    switch (data.uri === '/goods' ? data.method : undefined) {
      case 'POST': {
        const { key: _, ...good } = data.params;
        this.stored.push(good);
        if (this.stored.length > MAX_GOODS) this.stored.shift();
        packet.results = [good];
        break;
      }
      case 'GET':
        if (this.stored.length > 0) packet.results = this.stored;
        else Object.assign(packet, { errorcode: 1, errormessage: 'no data' });
        break;
      case 'DELETE':
        this.stored.length = 0;
        packet.results = [];
        break;
      default:
        socket.write('null¶'); // the answer of version 1 services to a method that they do not know
        return;
    }
    socket.write(JSON.stringify(packet) + '¶');
  }
}

const goods = new Goods(readArguments());

// Optional: at a signal, leaves the list, finishes the calls in flight, and then ends.
require('../../js/lib/stop.js')(() => goods.close());

function readArguments() {
  try {
    const { values } = require('node:util').parseArgs({
      options: {
        port: { type: 'string', default: '9010' },
        host: { type: 'string', default: '127.0.0.1' },
        distributor: { type: 'string', default: '127.0.0.1:9000' },
        version: { type: 'string', default: '1' },
        help: { type: 'boolean' },
      },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    if (!/^\d{1,5}$/.test(values.port)) throw new Error('--port must be a number from 0 to 65535');
    if (!/^[12]$/.test(values.version)) throw new Error('--version must be 1 or 2');
    return {
      port: Number(values.port),
      host: values.host,
      distributor: Server.parseAddress(values.distributor),
      version: Number(values.version),
    };
  } catch (error) {
    console.error(`${error.message}\nTry: node goods.js --help`);
    return process.exit(2);
  }
}
