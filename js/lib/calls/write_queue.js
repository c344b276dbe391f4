'use strict';

// Packets of one connection on their way to the socket. What is not handed to the socket yet is not
// written for certain, so that a call may be made elsewhere, whatever its method.

const { FRAME_LIMIT } = require('../transport/packets');
const { LEGACY_READ_BYTES } = require('../legacy/windows');

const MAX_QUEUED_BYTES = 16 * 1024 * 1024; // that wait for one node: more than it can answer within a deadline
const MAX_PART_BYTES = 1024 * 1024; // beyond this no part of a stream is added: four times the credit of a usual node
const MAX_BATCH_BYTES = 256 * 1024; // of one write: what follows can still be taken back
const LEGACY_READ_MS = 500; // a node of version 1 that works has read what it does not answer by then

const NOTHING = Buffer.alloc(0);

class WriteQueue {
  #socket = null;
  #queue = []; // {bytes, pending, route, isHanded, isGone}
  #queuedBytes = 0;
  #batch = []; // what the socket has been handed, and not yet said to have written
  #batchAt = 0;
  #isScheduled = false;
  #unread = []; // of a version 1 node: {pending, bytes, at} that it may not have read
  #unreadBytes = 0;
  #timer = null;
  #onRoom = new Set(); // called when less waits: parts of streams wait for it

  // `onLost`: an event was not written; `onWritten`: the socket has taken what it was handed.
  constructor(version, window, { onLost, onWritten }) {
    Object.assign(this, { isLegacy: version === 1, window: window ?? LEGACY_READ_BYTES, onLost, onWritten });
  }

  get isEmpty() {
    return this.#queue.length === 0 && this.#batch.length === 0;
  }

  // Adds a packet. Returns why it has no room, or null.
  push(bytes, pending, route) {
    if (bytes.length > (this.isLegacy ? this.window : FRAME_LIMIT)) return 'too_large';
    if (this.#queuedBytes > 0 && this.#queuedBytes + bytes.length > MAX_QUEUED_BYTES) return 'full';
    this.#add(bytes, pending, route);
    return null;
  }

  // Adds a small packet, however much waits; only for nodes of version 2.
  pushAlways(bytes) {
    if (!this.isLegacy) this.#add(bytes, null, undefined);
  }

  #add(bytes, pending, route) {
    const one = { bytes, pending, route, isHanded: false, isGone: false };
    this.#queue.push(one);
    this.#queuedBytes += bytes.length;
    if (pending) pending.packet = one;
    this.#schedule();
  }

  // Whether a part of a stream may be added. If not, calls `onRoom` once that may have changed. A
  // node may grant any credit and read nothing.
  hasRoom(onRoom) {
    if (this.#queuedBytes <= MAX_PART_BYTES) return true;
    this.#onRoom.add(onRoom);
    return false;
  }

  #tellOfRoom() {
    const all = this.#onRoom;
    this.#onRoom = new Set();
    for (const onRoom of all) onRoom();
  }

  // There is a connection.
  open(socket) {
    this.#socket = socket;
    this.#schedule();
  }

  // The connection has ended: events are lost.
  close() {
    this.#socket = null;
    clearTimeout(this.#timer);
    for (const { route, isGone } of this.#queue) if (route !== undefined && !isGone) this.onLost(route);
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#batch = [];
    this.#unread = [];
    this.#unreadBytes = 0;
    this.#tellOfRoom();
  }

  // Whether the packet of a call was handed to the socket.
  mayBeWritten({ packet }) {
    return packet.isHanded;
  }

  // Takes back the packet of a call. Returns whether it was handed to the socket already.
  withdraw({ packet }) {
    if (packet.isHanded) return true;
    this.#queuedBytes -= packet.bytes.length;
    Object.assign(packet, { bytes: NOTHING, isGone: true });
    return false;
  }

  // A node of version 1 that has answered a call has read it, and all that was sent before it.
  wasRead(pending) {
    const at = this.#unread.findIndex((one) => one.pending === pending);
    if (at < 0) return;
    for (const { bytes } of this.#unread.splice(0, at + 1)) this.#unreadBytes -= bytes;
    this.#schedule();
  }

  // How long the socket has not taken what it was handed.
  stalledFor(now) {
    return this.#batch.length > 0 ? now - this.#batchAt : 0;
  }

  // Packets of one turn of the event loop leave in one write.
  #schedule() {
    if (this.#isScheduled || this.#socket === null || this.#batch.length > 0 || this.#queue.length === 0) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      this.#write();
    });
  }

  #write() {
    if (this.#socket === null || this.#batch.length > 0) return;
    const batch = this.isLegacy ? this.#takeLegacy() : this.#takeBatch();
    if (batch.length === 0) return;
    this.#batch = batch;
    this.#batchAt = performance.now();
    const socket = this.#socket;
    const bytes = batch.length === 1 ? batch[0].bytes : Buffer.concat(batch.map((one) => one.bytes));
    socket.write(bytes, (error) => {
      if (error || socket !== this.#socket) return; // it ends
      this.#batch = [];
      if (this.#queuedBytes <= MAX_PART_BYTES) this.#tellOfRoom();
      if (this.#queue.length > 0) this.#write();
      else this.onWritten();
    });
  }

  // The next packet to write.
  #next() {
    while (this.#queue.length > 0 && this.#queue[0].isGone) this.#queue.shift();
    return this.#queue[0];
  }

  // Takes the next packet out of the queue.
  #hand() {
    const one = this.#queue.shift();
    one.isHanded = true;
    this.#queuedBytes -= one.bytes.length;
    return one;
  }

  #takeBatch() {
    const batch = [];
    for (let bytes = 0, next = this.#next(); next; next = this.#next()) {
      if (batch.length > 0 && bytes + next.bytes.length > MAX_BATCH_BYTES) break;
      bytes += next.bytes.length;
      batch.push(this.#hand());
    }
    return batch;
  }

  // One packet, if the node may have that much unread.
  #takeLegacy() {
    const now = performance.now();
    while (this.#unread.length > 0 && this.#unread[0].pending === null && now - this.#unread[0].at >= LEGACY_READ_MS) {
      this.#unreadBytes -= this.#unread.shift().bytes;
    }
    const next = this.#next();
    if (!next) return [];
    const bytes = next.bytes.length;
    if (this.#unreadBytes > 0 && this.#unreadBytes + bytes > this.window) {
      clearTimeout(this.#timer);
      if (this.#unread[0].pending === null) this.#timer = setTimeout(() => this.#schedule(), LEGACY_READ_MS);
      return [];
    }
    this.#unread.push({ pending: next.pending, bytes, at: now });
    this.#unreadBytes += bytes;
    return [this.#hand()];
  }
}

module.exports = { WriteQueue };
