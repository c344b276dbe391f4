'use strict';

// Bytes of parts that nodes have sent and that are not read, of all streams together.

const MAX_BYTES = 256 * 1024 * 1024; // beyond this, the largest stream ends

class HeldParts {
  #streams = new Set();
  bytes = 0;

  // `onFull` is called with the stream that has the most.
  constructor(onFull, most = MAX_BYTES) {
    Object.assign(this, { onFull, most });
  }

  // The bytes that a stream holds have changed by this number.
  changed(stream, bytes) {
    this.bytes += bytes;
    if (stream.heldBytes > 0) this.#streams.add(stream);
    else this.#streams.delete(stream);
    if (bytes <= 0 || this.bytes <= this.most) return;
    this.onFull([...this.#streams].reduce((one, other) => (one.heldBytes >= other.heldBytes ? one : other)));
  }
}

module.exports = { HeldParts };
