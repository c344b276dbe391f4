'use strict';

// A connection to a server, which cuts what it reads into packets.

const net = require('node:net');
const { FRAME_LIMIT, PacketReader, parts, seal, shownKey } = require('./packets');
const { Reading } = require('./turns');

const UNSENT_LIMIT = 32 * 1024 * 1024; // bytes that wait for a server that we call: a copy of a list, and more
const KEEP_ALIVE_MS = 60_000; // an idle connection is tested after this time: the other machine may be gone
const FIRST_BYTES = 64; // bytes that are kept of an answer that is not a packet, to tell what the server is
const CONNECT_MS = 1000; // how long connecting may take; in one network it takes far less

// A connection to a server: `write` takes packets, `onRead` gets them.
class Client {
  constructor(host, port, onCreate, onRead, onEnd, onError) {
    Object.assign(this, { options: { host, port }, onCreate, onRead, onEnd, onError, limit: FRAME_LIMIT });
  }

  connect() {
    if (this.client && !this.client.destroyed) return;
    // Every address of a name is tried, of both families.
    const options = { autoSelectFamily: true, ...this.options };
    const socket = tuned(new net.Socket());
    this.client = socket;
    this.leftOver = null; // the bytes that had arrived when it ended, and are not a whole packet
    this.patience(CONNECT_MS);
    const reader = new PacketReader((packet, text) => {
      if (socket.destroyed) return; // the rest of a read
      if (typeof packet?.key === 'number' && !Number.isSafeInteger(packet.key)) {
        packet.key = shownKey(new Map(parts(text)).get('key'));
      }
      this.onRead?.(options, packet, text);
    }, (why) => this.onError?.(options, new Error(why)), this.limit);
    socket.on('connect', () => {
      this.patience(0);
      this.onCreate?.(options);
    });
    new Reading(socket, reader);
    socket.on('timeout', () => socket.destroy(new Error('it gives no sign of life')));
    socket.on('error', (error) => this.onError?.(options, error));
    socket.on('close', () => {
      const { buffer, start, end } = reader;
      this.leftOver = Buffer.from(buffer.subarray(start, Math.min(end, start + FIRST_BYTES)));
      this.onEnd?.(options);
    });
    try {
      socket.connect(options);
    } catch (error) {
      socket.destroy(error); // a list may name a port that there cannot be
    }
  }

  // Sends a packet. False when it has to wait, or is lost because there is no connection.
  write(packet) {
    return this.send(JSON.stringify(packet));
  }

  // As `write`, for a packet that is JSON text already.
  send(text) {
    const socket = this.client;
    if (socket?.writableLength > UNSENT_LIMIT) socket.destroy(new Error('it does not read'));
    return socket?.writable === true && socket.write(seal(text));
  }

  // Gives up when no byte is sent or received for `ms` milliseconds; 0: never.
  patience(ms) {
    this.client.setTimeout(ms);
  }

  end() {
    if (!this.client || this.client.connecting) {
      this.client?.destroy();
      return;
    }
    this.client.end();
    this.patience(CONNECT_MS); // the other side need not close its own
  }
}

function tuned(socket) {
  return socket.setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_MS);
}

module.exports = { Client, tuned };
