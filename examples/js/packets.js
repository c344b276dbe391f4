'use strict';

// Framing: a packet is one JSON value in UTF-8, followed by `¶` (bytes C2 B6).

const DELIMITER = Buffer.from('¶');
const FRAME_LIMIT = 8 * 1024 * 1024;
const utf8 = new TextDecoder('utf-8', { fatal: true });

// JSON can hold a `¶` only inside a string, where `\u00b6` means the same, so
// the delimiter never stands inside a packet.
function encode(packet) {
  return Buffer.from(JSON.stringify(packet).replaceAll('¶', '\\u00b6') + '¶');
}

// Cuts a stream of bytes into packets. Bytes stay bytes until a packet is
// whole: a read may end in the middle of a character or of the delimiter.
// onBad(reason) is told of each frame that was dropped; reading goes on.
class PacketReader {
  constructor(onPacket, onBad = () => {}, limit = FRAME_LIMIT) {
    this.onPacket = onPacket;
    this.onBad = onBad;
    this.limit = limit;
    this.buffer = Buffer.alloc(0); // may be larger than what it holds
    this.length = 0; // bytes held
    this.searched = 0; // bytes known to hold no delimiter
    this.skipping = false; // inside a frame that is too long already
  }

  push(chunk) {
    this.append(chunk);
    const held = this.buffer.subarray(0, this.length);
    let start = 0;
    let end;
    while ((end = held.indexOf(DELIMITER, Math.max(start, this.searched))) >= 0) {
      this.frame(held.subarray(start, end));
      start = end + DELIMITER.length;
    }
    this.keep(start);

    // The last byte may be the first half of the delimiter: look at it again.
    const half = this.length > 0 && this.buffer[this.length - 1] === DELIMITER[0] ? 1 : 0;
    this.searched = this.length - half;

    // The limit holds before the delimiter is there, or it would be no limit.
    if (this.skipping || this.searched > this.limit) {
      if (!this.skipping) this.onBad(`a frame is longer than ${this.limit} bytes`);
      this.skipping = true;
      this.keep(this.searched);
      this.searched = 0;
    }
  }

  frame(bytes) {
    if (this.skipping) { // the end of what was refused above
      this.skipping = false;
      return;
    }
    if (bytes.length > this.limit) {
      this.onBad(`a frame is longer than ${this.limit} bytes`);
      return;
    }
    let packet;
    try {
      const text = utf8.decode(bytes);
      if (text.trim() === '') return;
      packet = JSON.parse(text);
    } catch {
      // Without the error's own words: they would copy a stranger's bytes to the log.
      this.onBad('a frame is not JSON in UTF-8');
      return;
    }
    this.onPacket(packet); // outside the try: a fault of the caller is not a bad frame
  }

  append(chunk) {
    const needed = this.length + chunk.length;
    if (needed > this.buffer.length) {
      // Doubling: the cost of copying stays in proportion to the bytes read.
      const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.buffer.length));
      this.buffer.copy(larger, 0, 0, this.length);
      this.buffer = larger;
    }
    chunk.copy(this.buffer, this.length);
    this.length = needed;
  }

  // Drops the bytes before `start`.
  keep(start) {
    if (start === this.length) this.buffer = Buffer.alloc(0); // an idle link holds no memory
    else if (start > 0) this.buffer.copyWithin(0, start, this.length);
    this.length -= start;
    this.searched = 0;
  }
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

// `host:port`, `[::1]:port`
function parseAddress(text) {
  const [, host, port] = /^\[?(.+?)\]?:(\d{1,5})$/.exec(text) || [];
  if (!host || Number(port) < 1 || Number(port) > 65535) {
    throw new Error(`"${text}" is not an address; write host:port, for example 127.0.0.1:9000`);
  }
  return { host, port: Number(port) };
}

// Says what a failed connection means to someone who does not know the codes.
function explain(error) {
  const words = {
    ECONNREFUSED: 'nothing is listening there',
    ECONNRESET: 'the connection was cut by the other side',
    EPIPE: 'the connection was cut by the other side',
    ENOTFOUND: 'there is no host of that name',
    EAI_AGAIN: 'the name of the host could not be looked up',
    EHOSTUNREACH: 'there is no way to that host',
    ENETUNREACH: 'there is no way to that network',
    ETIMEDOUT: 'the host does not answer',
    EADDRINUSE: 'another program is using that port',
    EACCES: 'the system does not permit it',
  };
  return words[error.code] || error.message;
}

module.exports = { encode, PacketReader, isObject, parseAddress, explain, FRAME_LIMIT };
