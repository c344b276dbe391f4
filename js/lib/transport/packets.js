'use strict';

// The wire format, without sockets: frames, JSON that keeps its spelling, keys and digests.

const DELIMITER = Buffer.from('¶'); // C2 B6 ends every packet
const FRAME_LIMIT = 8 * 1024 * 1024; // bytes of a call or answer that every node accepts
const USUAL_BYTES = 64 * 1024; // a buffer that has become larger is given back
const MAX_PIECES = 16; // pieces into which a version 1 writer may cut one packet by a `¶` in a text
const MAX_JOINED_BYTES = 64 * 1024; // bytes of such pieces together: version 1 readers accept no more
const BLANK = /^[ \t\r\n]*$/; // people type line ends between packets
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// JSON can hold a `¶` only inside a string, where `\u00b6` means the same.
function seal(text) {
  return Buffer.from(`${text.replaceAll('¶', '\\u00b6')}¶`);
}

function encode(packet) {
  return seal(JSON.stringify(packet));
}

// Cuts the text of a version 1 writer into packets. A `¶` inside of a string is text that the
// writer did not escape.
function cut(text) {
  const first = text.indexOf('¶');
  if (first === text.length - 1 && first > 0) return [text.slice(0, first)]; // as nearly all are
  const packets = [];
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '"') at = endOfString(text, at);
    else if (text[at] === '¶') {
      packets.push(text.slice(start, at));
      start = at + 1;
    }
  }
  return [...packets, text.slice(start)].filter((packet) => !BLANK.test(packet));
}

// Cuts a stream of bytes into packets. Bytes stay bytes until a packet is whole: a read may end in
// the middle of a character or of the delimiter. onPacket is called with each packet and its text,
// and onBad for each frame that is dropped. Version 1 writers do not escape a `¶` in a text and so
// cut their own packets: such pieces wait for the next ones, with which they are joined. onCut is
// called with the number of pieces of a packet.
class PacketReader {
  constructor(onPacket, onBad = () => {}, limit = FRAME_LIMIT) {
    Object.assign(this, { onPacket, onBad, onCut: () => {}, limit, pieces: [], pieceBytes: 0 });
    this.buffer = Buffer.alloc(0); // may be larger than what it holds
    this.start = 0; // where the first frame begins that was not handed on
    this.end = 0; // of what it holds
    this.searched = 0; // up to here no delimiter begins
    this.frameEnd = -1; // where the delimiter of the first frame is, once that is known
  }

  // The number of bytes that were not handed on yet.
  get length() {
    return this.end - this.start + this.pieceBytes;
  }

  // Hands on all whole frames. False once a frame is too long: the rest of the stream cannot be
  // read then.
  push(chunk) {
    this.append(chunk);
    let more = true;
    while (more) more = this.next();
    return more !== null;
  }

  append(chunk) {
    if (this.start > 0) {
      // Room is made once for many packets that were handed on. A buffer that was enlarged for a
      // large packet is given back.
      const rest = this.buffer.subarray(this.start, this.end);
      const isLarge = this.buffer.length > USUAL_BYTES && rest.length <= USUAL_BYTES;
      if (isLarge) this.buffer = Buffer.from(rest);
      else this.buffer.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.searched = Math.max(this.searched - this.start, 0);
      this.frameEnd = Math.max(this.frameEnd - this.start, -1);
      this.start = 0;
    }
    const needed = this.end + chunk.length;
    if (needed > this.buffer.length) {
      // The buffer doubles, so that the cost of copying stays in proportion to the bytes read.
      const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.buffer.length));
      this.buffer.copy(larger, 0, 0, this.end);
      this.buffer = larger;
    }
    chunk.copy(this.buffer, this.end);
    this.end = needed;
  }

  // Whether there is a whole frame, or one that is too long.
  get hasMore() {
    return this.#find() >= 0 || this.searched - this.start > this.limit;
  }

  // Bytes of the next frame, as far as they have come.
  get nextBytes() {
    return (this.#find() >= 0 ? this.frameEnd : this.end) - this.start;
  }

  // Hands on the next frame. Returns whether there was one; null when the stream cannot be read any
  // more.
  next() {
    const end = this.#find();
    // The limit counts before the delimiter has arrived, because it may never arrive.
    if ((end >= 0 ? end : this.searched) - this.start > this.limit) {
      this.onBad(`a frame is longer than ${this.limit} bytes`);
      return null;
    }
    if (end < 0) {
      if (this.start === this.end) this.clear(); // an idle connection holds no memory
      return false;
    }
    const frame = this.buffer.subarray(this.start, end);
    this.start = end + DELIMITER.length;
    this.frameEnd = -1;
    this.frame(frame);
    return true;
  }

  // Drops all bytes.
  clear() {
    Object.assign(this, { buffer: Buffer.alloc(0), start: 0, end: 0, searched: 0, frameEnd: -1 });
  }

  #find() {
    if (this.frameEnd >= 0) return this.frameEnd;
    const from = Math.max(this.start, this.searched);
    this.frameEnd = this.buffer.subarray(0, this.end).indexOf(DELIMITER, from);
    // The last byte may be the first half of the delimiter: look at it again.
    const half = this.end > this.start && this.buffer[this.end - 1] === DELIMITER[0] ? 1 : 0;
    this.searched = this.frameEnd >= 0 ? this.frameEnd : this.end - half;
    return this.frameEnd;
  }

  frame(bytes) {
    const text = textOf(bytes);
    if (this.pieces.length > 0 && this.#join(text, bytes.length)) return;
    if (text !== undefined && BLANK.test(text)) return;
    const packet = text === undefined ? undefined : parsed(text);
    if (packet !== undefined) {
      this.onPacket(packet, text); // outside the try: a fault of the receiver is not a bad frame
    } else if (text?.trimStart().startsWith('{') && endsInText(text) && bytes.length < MAX_JOINED_BYTES) {
      this.pieces = [text];
      this.pieceBytes = bytes.length;
    } else {
      // The error's own text is left out, because it would copy a stranger's bytes to the log.
      this.onBad('a frame is not JSON in UTF-8');
    }
  }

  // Gives up waiting for the rest of a packet that was cut. Returns whether there was a piece of
  // one.
  dropPieces() {
    if (this.pieces.length === 0) return false;
    this.pieces = [];
    this.pieceBytes = 0;
    this.onBad('the rest of a packet that was cut has not come');
    return true;
  }

  // Takes a frame as the next piece of a packet that was cut. False when it is a frame by itself.
  #join(text, bytes) {
    const joinedBytes = this.pieceBytes + DELIMITER.length + bytes;
    if (text !== undefined && joinedBytes <= MAX_JOINED_BYTES && !isSound(text)) {
      const pieces = [...this.pieces, text];
      const joined = pieces.join('¶');
      const packet = parsed(joined);
      if (packet !== undefined) {
        this.pieces = [];
        this.pieceBytes = 0;
        this.onCut(pieces.length);
        this.onPacket(packet, joined);
        return true;
      }
      if (endsInText(joined) && pieces.length < MAX_PIECES) {
        this.pieces = pieces;
        this.pieceBytes = joinedBytes;
        return true;
      }
    }
    this.dropPieces();
    return false;
  }
}

function textOf(bytes) {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// Whether a text has begun and not ended.
function endsInText(json) {
  let isOpen = false;
  for (let at = 0; at < json.length; at++) {
    if (json[at] === '\\') at++;
    else if (json[at] === '"') isOpen = !isOpen;
  }
  return isOpen;
}

// Whether a frame is a packet by itself and no piece of a text, in which all quotes would be
// escaped.
function isSound(text) {
  const packet = text.includes('"') ? parsed(text) : undefined;
  return isObject(packet);
}

// The direct parts of sound JSON as text, because JSON.parse rounds long numbers and loses the
// spelling. Gives the texts of an array, [name, text] pairs of an object, and nothing for other
// values.
function parts(text) {
  const found = [];
  let depth = 0;
  let start = 0;
  let name;
  const end = (at) => {
    const part = text.slice(start, at).trim();
    if (part !== '') found.push(name === undefined ? part : [name, part]);
    start = at + 1;
  };
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '"') at = endOfString(text, at);
    else if (char === '{' || char === '[') {
      if (++depth === 1) start = at + 1;
    } else if (char === '}' || char === ']') {
      if (--depth === 0) end(at);
    } else if (depth === 1 && char === ',') end(at);
    else if (depth === 1 && char === ':') {
      name = JSON.parse(text.slice(start, at));
      start = at + 1;
    }
  }
  return found;
}

function endOfString(text, begin) {
  let at = begin + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
  return at;
}

// JSON text of an object from [name, text] pairs.
function join(members) {
  return `{${members.map(([name, text]) => `${JSON.stringify(name)}:${text}`).join()}}`;
}

// The text of a call's key, at top level or else inside params; undefined when it has none.
function keyOf(members, version) {
  // In version 2 a key among the arguments is an argument.
  const params = version === 1 ? (members.get('params') ?? '') : '';
  const inside = params.startsWith('{') ? new Map(parts(params)).get('key') : undefined;
  return [members.get('key'), inside].find((key) => /^["\d-]/.test(key ?? ''));
}

// A key as old code can hold it: a number that JavaScript would change is shown as its digits.
function shownKey(text) {
  const key = JSON.parse(text);
  return typeof key === 'number' && String(key) !== text ? text : key;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = (byte >>> 1) ^ (byte & 1 ? 0xedb88320 : 0);
  return byte;
});

// The same function as in zlib, which older versions of Node.js lack.
function crc32(bytes) {
  let crc = -1;
  for (let at = 0; at < bytes.length; at++) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ bytes[at]) & 0xff];
  return ~crc >>> 0;
}

// A stranger's value as a number; NaN when it is none. JSON can hold objects whose `valueOf` and
// `toString` are not functions: JavaScript throws when it converts them.
function numberIn(value) {
  return typeof value === 'number' || typeof value === 'string' ? Number(value) : NaN;
}

// The same as a text, and for what a handler throws.
function textIn(value) {
  try {
    return String(value);
  } catch {
    return Object.prototype.toString.call(value);
  }
}

// Foreign text for a log: cut to a length, and without characters that a terminal acts on.
function shown(text, most = 128) {
  const whole = textIn(text);
  const unsafe = /[\p{Cc}\p{Cf}\u2028\u2029\ud800-\udfff]/gu;
  const begin = whole.slice(0, most).replace(unsafe, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
  return whole.length > most ? `${begin}…` : begin;
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

// Explains the error code of a failed connection.
function explain(error) {
  const words = {
    ECONNREFUSED: 'nothing is listening there',
    ECONNRESET: 'the connection was cut by the other side',
    EPIPE: 'the connection was cut by the other side',
    ENOTFOUND: 'there is no host of that name',
    EAI_AGAIN: 'the name of the host could not be looked up',
    EHOSTUNREACH: 'the network does not reach that host',
    ENETUNREACH: 'that network cannot be reached',
    ETIMEDOUT: 'the host does not answer',
    EADDRINUSE: 'another program is using that port',
    EACCES: 'the system does not permit it',
  };
  return words[error.code] || error.message;
}

module.exports = {
  FRAME_LIMIT, PacketReader, crc32, cut, encode, explain, isObject, join, keyOf, numberIn, parseAddress, parts, seal,
  shown, shownKey, textIn,
};
