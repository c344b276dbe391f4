'use strict';

// A call over all its attempts: where each goes, which failures lead to another one, and the result
// for the caller.

const { childTrace, current } = require('./context');
const { CallError } = require('../errors');
const { STREAM_WINDOW } = require('../transport/flow');
const { callFault, isIdempotent, splitUrl } = require('../routing/routes');
const { currentCall, legacyCall } = require('./packet');
const { readAnswer } = require('./stream');

const DEFAULT_MS = 5000; // half of what the gateway gives a request
const MAX_MS = 2 ** 31 - 1; // what a timer can be set to: 24 days

const OPTIONS = ['timeout', 'idempotent', 'stickyKey', 'instance', 'signal'];

class Call {
  #tried = [];
  #lostAt = null; // the lost node that may have carried out the call
  #declined = null; // an answer which says that the call was not carried out
  #declinedHere = false; // one by this node itself
  #refusals = new Set();
  #renewed = false;
  #streamIsOver = false;
  #isSent = false; // a node may have carried it out
  #onStreamEnd = () => {};
  #cancel = null; // gives up what the call waits for

  // `service`: that of this node, which may answer itself. `stream`: the call opens one.
  constructor(peers, service, url, params, options = {}, stream = false) {
    for (const name of Object.keys(options)) {
      if (!OPTIONS.includes(name)) {
        throw new CallError('params', url, `a call has no option ${name}; it has ${OPTIONS.join(', ')}`);
      }
    }
    const fault = callFault(url);
    if (fault) throw new CallError('bad_url', url, `no node offers ${url}: ${fault}`);
    const [method, path] = splitUrl(url);
    Object.assign(this, { peers, service, url, method, path, params, options, streams: stream });
    try {
      this.text = JSON.stringify(params) ?? 'null';
    } catch (cause) {
      throw new CallError('params', url, `the arguments of ${url} have no JSON form: ${cause.message}`, { cause });
    }
    this.isIdempotent = options.idempotent ?? isIdempotent(method);
    this.context = current();
    this.started = performance.now();
    const timeout = options.timeout ?? DEFAULT_MS;
    if (!(timeout > 0)) throw new CallError('params', url, `timeout is ${timeout}; it is a number of milliseconds`);
    const outer = this.context.innerDeadline(this.started) ?? Infinity;
    this.deadline = Math.min(this.started + Math.min(timeout, MAX_MS), outer);
  }

  // Makes the call. Resolves to its value, or to a stream.
  async run() {
    const { context, options: { signal } } = this;
    const isGivenUp = () => context.isAborted || signal?.aborted === true;
    if (isGivenUp()) throw this.#cancelled();
    this.peers.retries.deposit();
    const giveUp = () => this.#cancel?.();
    const forget = context.onAbort(giveUp);
    signal?.addEventListener('abort', giveUp);
    let stream;
    try {
      for (;;) {
        const result = await this.#attempt();
        if (isGivenUp()) {
          result?.stream?.cancel();
          throw this.#cancelled();
        }
        if (result?.stream) stream = result.stream;
        if (result !== undefined) return stream ?? result.value;
      }
    } finally {
      // A stream is given up with the work that has opened it.
      const drop = () => {
        forget();
        signal?.removeEventListener('abort', giveUp);
      };
      if (stream && !this.#streamIsOver) {
        this.#cancel = () => stream.cancel();
        this.#onStreamEnd = drop;
      } else {
        drop();
      }
    }
  }

  // One attempt. Resolves to {value} or {stream}; undefined when another one is due.
  async #attempt() {
    const now = performance.now();
    if (now >= this.deadline) throw this.#late();
    const own = this.#ownOffer();
    if (own && this.options.stickyKey === undefined && this.#tried.length === 0) return this.#askSelf();
    const found = this.peers.find(this.method, this.path);
    if (found === undefined || found === 'unavailable') {
      if (own) return this.#askSelf();
      if (found === undefined && this.#declined === null) return this.#unknown();
      throw this.#noProvider();
    }
    const { value: pool, captured } = found;
    const here = this.#declinedHere ? pool.members.find(({ isLocal }) => isLocal)?.address : undefined;
    for (;;) {
      const { stickyKey: sticky, instance } = this.options;
      const provider = pool.pick(now, { sticky, instance, tried: this.#tried, excluded: here });
      if (!provider) throw this.#noProvider();
      if (own && provider.isLocal) return this.#askSelf();
      provider.connect();
      const { connection } = provider;
      const { pending, refusal } = this.#submit(connection, provider.url, captured);
      if (pending) {
        this.#isSent = true;
        return this.#await(connection, pending, provider);
      }
      this.#refusals.add(refusal);
      this.#tried.push(provider.address);
    }
  }

  // The offer of this node, if it may answer the call itself. A stream needs a connection, even to
  // this node.
  #ownOffer() {
    if (this.streams || this.options.instance !== undefined || this.#declinedHere) return undefined;
    return this.service.find(this.method, this.path);
  }

  async #askSelf() {
    this.#isSent = true;
    const waits = new Promise((resolve) => { this.#cancel = () => resolve('cancelled'); });
    const timer = setTimeout(this.#cancel, this.deadline - performance.now());
    const outcome = await Promise.race([this.service.callSelf(this), waits]);
    clearTimeout(timer);
    if (outcome === 'cancelled') {
      if (performance.now() >= this.deadline) throw this.#late();
      throw this.#cancelled();
    }
    const { error, status, text } = outcome;
    if (error?.status === 503 && error.reason === 'overloaded') {
      this.#declinedHere = true;
      this.#declined = this.#refused(error);
      return undefined;
    }
    if (error) throw this.#refused(error);
    return { value: JSON.parse(text), status };
  }

  #refused({ status, reason, message, retryAfter }) {
    return new CallError('refused', this.url, `${status} ${reason}: ${message}`, { status, reason, retryAfter });
  }

  #submit(connection, route, captured) {
    const { context, deadline } = this;
    const now = performance.now();
    const trace = context.trace === null ? undefined : childTrace(context.trace);
    const lasting = this.streams && !context.mayStream ? context.innerDeadline(now) : null;
    const isLegacy = connection.target.version === 1;
    const write = (key, sent) => (isLegacy ? legacyCall(this, key, route, captured) : currentCall(this, key, {
      d: Math.max(Math.ceil(deadline - now), 1),
      t: sent === 0 ? undefined : sent,
      tp: trace,
      i: this.isIdempotent && !isIdempotent(this.method),
      at: Math.min(this.#tried.length, 255),
      c: this.streams ? STREAM_WINDOW : undefined,
      h: context.hops,
    }));
    return connection.submit({ url: this.url, deadline, streams: this.streams && !isLegacy, lasting }, write);
  }

  // Waits for what becomes of an attempt, and decides what follows.
  async #await(connection, pending, provider) {
    this.#cancel = () => connection.cancel(pending);
    const outcome = await Promise.race([pending.outcome, pending.doubt]);
    if (outcome === 'doubt') return this.#awaitBoth(connection, pending, provider);
    return this.#resolve(outcome, connection, pending);
  }

  // Nothing was answered over the connection: the call goes over a new one, too, if it may.
  async #awaitBoth(connection, pending, provider) {
    this.peers.renew(connection);
    const again = this.peers.connection(provider.address);
    const mayTry = this.isIdempotent && !this.#renewed && again && again !== connection
      && this.peers.retries.withdraw(performance.now());
    if (!mayTry) return this.#resolve(await pending.outcome, connection, pending);
    this.#renewed = true;
    again.connect();
    const { value: pool, captured } = this.peers.find(this.method, this.path) ?? {};
    const second = pool && this.#submit(again, provider.url, captured);
    if (!second?.pending) return this.#resolve(await pending.outcome, connection, pending);
    this.#cancel = () => {
      connection.cancel(pending);
      again.cancel(second.pending);
    };
    const of = (one, two) => one.outcome.then((outcome) => (isAnswer(outcome) ? outcome : two.outcome));
    const outcome = await Promise.race([of(pending, second.pending), of(second.pending, pending)]);
    const isSecond = second.pending.done && !pending.done;
    if (isSecond) connection.cancel(pending);
    else again.cancel(second.pending);
    return isSecond ? this.#resolve(outcome, again, second.pending) : this.#resolve(outcome, connection, pending);
  }

  #resolve(outcome, connection, pending) {
    const { address, load } = connection;
    const now = performance.now();
    switch (outcome.kind) {
      case 'answer':
        return this.#answered(outcome.packet, address);
      case 'open':
        this.#recordAnswer();
        this.#endsStream(outcome.stream, pending);
        return { stream: outcome.stream };
      case 'cancelled':
        throw this.#cancelled();
      case 'deadline':
        load.recordTimeout(now);
        // A node that has answered another call meanwhile is alive: only this call took too long.
        if (load.latency.quietMs(now) >= this.deadline - this.started) this.peers.recordFailed(address);
        throw this.#late();
      default:
        return this.#lost(outcome, connection, now);
    }
  }

  #lost({ written }, { address, load }, now) {
    this.#tried.push(address);
    if (!written) return undefined; // it may be made elsewhere, whatever its method
    load.recordFailure(now);
    this.peers.recordFailed(address);
    const mayRetry = this.peers.crashing.recordLoss(now, this.#route(), address);
    if (mayRetry && this.isIdempotent && this.#lostAt === null && this.peers.retries.withdraw(now)) {
      this.#lostAt = address;
      return undefined;
    }
    throw this.#lostError(address);
  }

  #answered(packet, address) {
    const { error, value, status } = readAnswer(packet, this.url, address);
    const isV2 = (packet?.$ ?? null) !== null;
    const hasDeclined = isV2 && error && ((error.status === 503 && error.reason === 'overloaded')
      || (error.status === 421 && error.reason === 'wrong_instance'));
    // The node has not begun the call, so another one may carry it out.
    if (hasDeclined && this.options.instance === undefined && this.peers.retries.withdraw(performance.now())) {
      this.#declined = error;
      this.#tried.push(address);
      return undefined;
    }
    this.#recordAnswer();
    if (error) throw error;
    // An answer in one piece gives a stream of one part.
    if (this.streams) {
      this.#streamIsOver = true;
      return { stream: single(value) };
    }
    return { value, status };
  }

  #recordAnswer() {
    if (this.#lostAt !== null) this.peers.crashing.recordAnswer(this.#route());
  }

  // What ends the stream from outside.
  #endsStream(stream, pending) {
    pending.onStreamEnd = ({ kind }) => {
      this.#streamIsOver = true;
      this.#onStreamEnd();
      if (kind === 'lost') {
        stream.close(new CallError('lost', this.url, `the node was lost in the middle of the stream ${this.url}`));
      }
      if (kind === 'deadline') stream.close(this.#late());
    };
    if (pending.end !== null) pending.onStreamEnd(pending.end); // it was over at once
  }

  // No node is known that offers the url. Waits for the first list if that is to come.
  async #unknown() {
    const { peers, url } = this;
    if (!peers.hasList) {
      const { signal } = this.options;
      if (await peers.changed(() => peers.hasList, this.deadline - performance.now(), signal)) return undefined;
      if (signal?.aborted) throw this.#cancelled();
      throw new CallError('no_list', url, `it is not known who offers ${url}: no Distributor has sent a list`);
    }
    const like = peers.offeredLike(this.path);
    const near = like ? undefined : peers.offeredNear(url);
    const hint = like ? `; ${like} is offered` : near ? `; is it ${near}?` : '';
    throw new CallError('no_route', url, `no node offers ${url}${hint}`);
  }

  // The route that is called, as nodes register it.
  #route() {
    const found = this.peers.find(this.method, this.path);
    return found?.value?.members[0]?.url ?? this.url;
  }

  #noProvider() {
    const { url } = this;
    if (this.#declined) return this.#declined;
    if (this.#lostAt !== null) return this.#lostError(this.#lostAt);
    if (this.#refusals.has('full')) return new CallError('overloaded', url, `too many calls wait for ${url}`);
    if (this.#refusals.has('too_large')) {
      return new CallError('too_large', url, `the arguments of ${url} are larger than its nodes accept `
        + '(64 KiB in version 1, 8 MiB in version 2)');
    }
    return new CallError('no_provider', url, `no node that offers ${url} can be reached`);
  }

  #lostError(node) {
    return new CallError('lost', this.url, `${node} was lost before it answered ${this.url}`, { node });
  }

  #late() {
    const within = Math.round(this.deadline - this.started);
    return new CallError('deadline', this.url, `no answer from ${this.url} within ${within} ms`);
  }

  #cancelled() {
    return new CallError('cancelled', this.url, `the call of ${this.url} was given up`, { sent: this.#isSent });
  }
}

const isAnswer = ({ kind }) => kind === 'answer' || kind === 'open';

// A stream of one part.
function single(value) {
  let isDone = false;
  const stream = {
    [Symbol.asyncIterator]: () => stream,
    next: async () => {
      const next = isDone ? { done: true, value: undefined } : { done: false, value };
      isDone = true;
      return next;
    },
    return: async () => {
      isDone = true;
      return { done: true, value: undefined };
    },
    send: async () => { throw new CallError('ended', '', 'the stream has ended: it was answered in one piece'); },
    end: async () => {},
    cancel: () => { isDone = true; },
  };
  return stream;
}

module.exports = { Call };
