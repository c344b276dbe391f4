'use strict';

// What a call hands down to the work that is done for it: deadline, trace, hops, and whether its
// caller still waits. The rules stand in docs/PROTOCOL.md, under "What a call hands down".

const { AsyncLocalStorage } = require('node:async_hooks');
const { randomBytes } = require('node:crypto');

const MARGIN_DIVISOR = 10; // inner calls end before their outer one by this part of the time that is left
const MAX_MARGIN_MS = 100; // and never earlier than this: enough for an answer, or one more call

const TRACE = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

const storage = new AsyncLocalStorage();

class Context {
  #aborter = null; // made when a handler asks for the signal: few do
  #listeners = null;
  isAborted = false; // no caller waits any more

  // `deadline`: until when the caller waits, as performance.now() tells time; null for ever.
  // `mayStream`: the caller takes a stream.
  constructor({ deadline = null, trace = null, hops = 0, mayStream = false } = {}) {
    Object.assign(this, { deadline, trace, hops, mayStream });
  }

  // Aborts when no caller waits any more.
  get signal() {
    if (this.#aborter === null) {
      this.#aborter = new AbortController();
      if (this.isAborted) this.#aborter.abort();
    }
    return this.#aborter.signal;
  }

  abort() {
    if (this.isAborted) return;
    this.isAborted = true;
    this.#aborter?.abort();
    for (const listener of this.#listeners ?? []) listener();
    this.#listeners = null;
  }

  // Has `listener` called at the abort. Returns what takes that back.
  onAbort(listener) {
    if (this === NONE || this.isAborted) return () => {};
    this.#listeners ??= new Set();
    this.#listeners.add(listener);
    return () => this.#listeners?.delete(listener);
  }

  // The deadline of a call that is made now for this one; null when it has none.
  innerDeadline(now) {
    if (this.deadline === null) return null;
    return this.deadline - Math.min(Math.max(this.deadline - now, 0) / MARGIN_DIVISOR, MAX_MARGIN_MS);
  }

  // The trace of the call; begins one when it has none.
  beginTrace() {
    this.trace ??= `00-${randomBytes(16).toString('hex')}-${spanId()}-01`;
    return this.trace;
  }

  // For work that outlasts the call: it has the call's trace, and no deadline.
  outlasting() {
    return new Context({ trace: this.trace, hops: this.hops, mayStream: this.mayStream });
  }
}

const NONE = new Context();

// The context of the call that is being handled; an empty one outside of calls.
const current = () => storage.getStore() ?? NONE;

const within = (context, act) => storage.run(context, act);

// A `traceparent` of version 00 (W3C Trace Context, 3.2), or null.
const readTrace = (text) => (typeof text === 'string' && TRACE.test(text) ? text : null);

// The trace of a call made in this one: the same id, and a parent of its own.
const childTrace = (trace) => `${trace.slice(0, 36)}${spanId()}${trace.slice(52)}`;

// The id of a span must not be 0.
const spanId = () => randomBytes(8).toString('hex').replace(/^0{16}$/, '0000000000000001');

module.exports = { Context, childTrace, current, readTrace, within };
