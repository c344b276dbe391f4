'use strict';

// A call as its handler sees it.

class IncomingCall {
  #node;
  #context;
  #openItems;

  constructor({ node, context, method, uri, url, params, caller, openItems }) {
    this.#node = node;
    this.#context = context;
    this.#openItems = openItems;
    // `url`: the route as it was registered. `params`: the arguments, with what stands in the path.
    // `caller`: {instance, name, address} of the node that calls, as far as it says.
    Object.assign(this, { method, uri, url, params, caller });
  }

  // As those of the node. Handlers take a call apart: async ({ params, call }) => …
  get call() {
    return this.#node.bound.call;
  }

  get stream() {
    return this.#node.bound.stream;
  }

  get emit() {
    return this.#node.bound.emit;
  }

  get broadcast() {
    return this.#node.bound.broadcast;
  }

  // Aborts when nobody waits for the answer: the caller has gone, or has given up, and the call is
  // idempotent; or the stream has ended.
  get signal() {
    return this.#context.signal;
  }

  // The W3C `traceparent` of the call; begins a trace when it has none.
  get trace() {
    return this.#context.beginTrace();
  }

  // Milliseconds that the caller still waits; Infinity when it does not say.
  get timeLeft() {
    const { deadline } = this.#context;
    return deadline === null ? Infinity : Math.max(deadline - performance.now(), 0);
  }

  // What the caller sends after the call, for `for await`. The call becomes a stream.
  get items() {
    return this.#openItems();
  }

  // Runs work that may outlast the call: it has the call's trace and no deadline, and `stop` waits
  // for it.
  get detach() {
    return this.#node.bound.detach;
  }
}

module.exports = { IncomingCall };
