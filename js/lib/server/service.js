'use strict';

// The routes of a node, and how a call of one is carried out.

const { Context, within } = require('../calls/context');
const { CallError, ServiceError } = require('../errors');
const { isObject, shown, textIn } = require('../transport/packets');
const { Router, parameterNames } = require('../routing/routes');
const { requestOf } = require('./http_request');
const { Concurrency } = require('./concurrency');
const { finish } = require('./fields');
const { IncomingCall } = require('./incoming');
const { KeyTurns } = require('./key_turns');
const params = require('./params');
const { Reply } = require('./reply');

const MAX_HOPS = 32; // calls in a row, each made for the one before: no correct service comes near
const MAX_LEFT = 1024; // calls that are finished without a caller: more than nodes that are well leave
const FINISH_MS = 30_000; // how long a call is finished whose caller has gone, if it is not idempotent

// The event, if a call is one: its name and, of one that is acknowledged, its id, its key, and how
// many attempts there were before.
function eventOf(method, uri, $) {
  if (method !== 'EVENT') return undefined;
  const { e: id, k: key, at: attempt = 0 } = $ ?? {};
  return { name: uri.slice(1), id, key, attempt };
}

class Service {
  #router = new Router();
  #left = new Set(); // calls that are finished without a caller
  offers = [];
  turns = new KeyTurns();

  constructor(node) {
    this.node = node;
  }

  // Adds a route. Returns the route that stands in its way, if there is one.
  add(url, handler, { concurrency, types, isPublic, wanted }, takesPayload) {
    const known = this.#router.at(url);
    if (known) return known.url;
    const limit = concurrency === undefined ? null : new Concurrency(concurrency);
    const offer = { url, handler, limit, types, isPublic, wanted, takesPayload, names: parameterNames(url) };
    this.#router.at(url, () => offer);
    this.offers.push(offer);
    return null;
  }

  find(method, path) {
    return this.#router.find(method, path);
  }

  // Calls at work whose callers have gone.
  get leftCalls() {
    return this.#left.size;
  }

  // Runs a call. Resolves to {status, text, fields} of its result, or {error, fields}; undefined if
  // a stream has said all. `stream`: the call may become one. `$`: what the call says of itself.
  async run({ method, uri, params: given, $, version, isAnswered, context, caller, stream }) {
    const found = this.#router.find(method, uri);
    if (!found) {
      return { error: ServiceError.notFound('no_route', `this node does not offer ${shown(`${method}${uri}`)}`) };
    }
    const { value: offer, captured } = found;
    const request = requestOf($, offer.wanted);
    try {
      if (context.hops > MAX_HOPS) {
        throw new ServiceError(508, 'loop', `this call is the end of a chain of ${MAX_HOPS} calls, each made for the `
          + 'one before; services may be calling each other in a loop');
      }
      let args = params.ofCall({ params: given, version, names: offer.names, captured });
      if (offer.types) args = params.read(args, offer.types);
      await offer.limit?.enter(isAnswered);
      try {
        const openItems = () => {
          if (!stream) throw needsStream();
          return stream.items();
        };
        const { handler, takesPayload, url } = offer;
        const event = eventOf(method, uri, $);
        const about = { method, uri, url, params: args, caller, request, wanted: offer.wanted, event };
        const call = new IncomingCall({ node: this.node, context, openItems }, about);
        const act = async () => {
          const result = await (takesPayload ? handler(args, call) : handler(call));
          return this.#outcome(result, { offer, request, stream });
        };
        return await within(context, act);
      } finally {
        offer.limit?.leave();
      }
    } catch (error) {
      const told = this.#errorOf(error, `${method}${uri}`);
      return { error: told, fields: this.#fieldsFor(told.fields, { offer, request }) };
    }
  }

  // The header fields that go to a client. A call without its request is answered without them.
  #fieldsFor(fields = [], { offer, request }) {
    if (request !== null) return finish(fields, request.isHttps);
    if (fields.length > 0 && offer.wanted === undefined && !offer.hasWarned) {
      offer.hasWarned = true;
      this.node.warn(`${offer.url} answers with header fields, which no client gets: give { headers: [] } behind `
        + 'the handler, or the names of those that it reads');
    }
    return [];
  }

  async #outcome(result, { offer, request, stream }) {
    if (isObject(result) && typeof result[Symbol.asyncIterator] === 'function') {
      const iterator = result[Symbol.asyncIterator]();
      if (!stream) {
        Promise.resolve(iterator.return?.()).catch(() => {});
        throw needsStream();
      }
      await stream.sendAll(iterator);
      return undefined;
    }
    const { status, value, fields } = result instanceof Reply ? result : { status: 200, value: result, fields: [] };
    const text = JSON.stringify(value) ?? 'null';
    if (!stream?.isOpen) return { status, text, fields: this.#fieldsFor(fields, { offer, request }) };
    // A usual answer is one more part and the end.
    if (value !== undefined) await stream.sender.send(text);
    await stream.finish();
    return undefined;
  }

  // What the caller is told of an error. Texts of errors that are not meant for callers stay in the
  // log.
  #errorOf(error, url) {
    if (error instanceof ServiceError) return error;
    this.node.warn(`${shown(url)} failed: ${stackOf(error)}`);
    if (error instanceof CallError) return error.toServiceError();
    return new ServiceError(500, 'internal', 'the handler failed');
  }

  // Carries out a call that this node makes to itself. Arguments and result are copies, as they
  // would be if they came over a connection.
  callSelf({ method, path, text, deadline, context, isIdempotent }) {
    const inner = new Context({ deadline, trace: context.trace, hops: context.hops + 1 });
    const forget = isIdempotent ? context.onAbort(() => inner.abort()) : () => {};
    return this.#runSelf({ method, path, text, context: inner, isAnswered: true }).finally(forget);
  }

  // Takes an event that this node emits. Returns whether there is room for it.
  notifySelf({ method, path, text, context }) {
    const inner = new Context({ trace: context.trace, hops: context.hops + 1 });
    this.node.detach(async () => {
      const { error } = await this.#runSelf({ method, path, text, context: inner, isAnswered: false });
      if (error) this.node.lost(`${method}${path}`, error);
    });
    return true;
  }

  async #runSelf({ method, path, text, context, isAnswered }) {
    await null; // as a call that goes away and comes back
    const { id: instance, name } = this.node;
    const caller = { instance, name, address: `127.0.0.1:${this.node.port}` };
    const copy = JSON.parse(text);
    return this.run({ method, uri: path, params: copy, version: 2, isAnswered, context, caller, stream: null });
  }

  // Lets a call whose caller has gone be finished, for a while.
  keep(call) {
    if (this.#left.size >= MAX_LEFT) {
      call.abort();
      return;
    }
    this.#left.add(call);
    const timer = setTimeout(() => call.abort(), FINISH_MS);
    timer.unref();
    call.onDone = () => {
      clearTimeout(timer);
      this.#left.delete(call);
      this.node.onIdle();
    };
  }
}

// What a handler has thrown, for the log. It can be anything.
function stackOf(error) {
  try {
    return textIn(error?.stack ?? error);
  } catch {
    return 'an error that cannot be read';
  }
}

const needsStream = () => (
  new ServiceError(406, 'stream', 'the answer is a stream, and this call takes none: open it with stream')
);

module.exports = { Service };
