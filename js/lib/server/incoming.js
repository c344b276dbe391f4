'use strict';

// A call as its handler sees it.

const { ServiceError } = require('../errors');

class IncomingCall {
  #node;
  #context;
  #openItems;
  #request;
  #wanted;

  constructor({ node, context, openItems }, { method, uri, url, params, caller, request, wanted, event }) {
    this.#node = node;
    this.#context = context;
    this.#openItems = openItems;
    this.#request = request;
    this.#wanted = wanted;
    // `url`: the route as it was registered. `params`: the arguments, with what stands in the path.
    // `caller`: {instance, name, address} of the node that calls, as far as it says.
    // `event`: {name, id, key, attempt}, if it is one.
    Object.assign(this, { method, uri, url, params, caller, event });
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

  // Whether the call is made for the client of a gateway.
  get hasRequest() {
    return this.#request !== null;
  }

  // The request of a gateway's client. A call that a node makes itself is refused if the handler
  // reads it.
  get request() {
    if (this.#wanted === undefined) {
      throw new Error(`${this.url} reads the request of a client, and does not register that: give { headers: [] } `
        + 'behind the handler, or the names of the header fields that it reads');
    }
    if (this.#request === null) {
      throw new ServiceError(400, 'not_http', 'this route answers HTTP requests that come through a gateway');
    }
    return this.#request;
  }

  // Aborts when no caller waits for the answer: it has gone, or has given up, and the call is
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
