'use strict';

// A caller of a service that writes its answers to the socket itself, as version 1 services do: it
// does not escape `¶`, and knows one form of answer.

const { AsyncLocalStorage } = require('node:async_hooks');
const { Caller } = require('../server/caller');
const { failure, currentAnswer, legacyAnswer } = require('./answers');
const { cut, isObject, parts, seal, shown, shownKey, textIn } = require('../transport/packets');

const handling = new AsyncLocalStorage(); // the call for which the service's code runs

class LegacyCaller extends Caller {
  constructor(socket, options, onRead, onPacket) {
    super(socket, options);
    Object.assign(this, { onRead, onPacket });
    socket.write = (chunk, ...rest) => {
      for (const packet of cut(String(chunk))) this.answer(packet);
      const done = rest.find((one) => typeof one === 'function');
      if (done) process.nextTick(done);
      return !socket.writableNeedDrain;
    };
    socket.end = (chunk) => {
      if (typeof chunk === 'string' || Buffer.isBuffer(chunk)) socket.write(chunk);
      this.calls.clear();
      this.atWork = 0;
      this.finish();
      return socket;
    };
  }

  // Hands a call to the service.
  begin(call, packet, text) {
    const { uri, method } = packet;
    packet.params ??= {}; // version 1 services crash without params
    if (call.key !== undefined) {
      packet.key = call.name;
      // Some families of services look here. What a node registers is shown to others as it is.
      if (isObject(packet.params) && uri !== '/distributes') packet.params.key = packet.key;
    }
    this.onPacket(text);
    // Whatever a stranger sends, an error of the service costs at most this call.
    handling.run(call, async () => this.onRead(packet)).catch((error) => {
      this.warn(`${shown(`${method}${uri}`)} failed: ${textIn(error?.stack ?? error)}`);
      this.fail(call, 500, 'internal', 'the service failed');
    });
  }

  // Sends what the service wrote as the answer to a call. It is dropped if no caller waits for it.
  answer(text) {
    let said = failure(502, 'bad_answer', 'the service answered with something that is not a packet');
    let name;
    try {
      const packet = JSON.parse(text);
      if (packet === null) said = failure(501, 'method_not_known', 'the service does not know this method');
      if (typeof packet?.uri === 'string') {
        this.pass(text.trim());
        return;
      }
      if (isObject(packet)) said = new Map(parts(text));
      if (said.has('key')) name = String(shownKey(said.get('key')));
    } catch { /* the caller is told that this is not a packet */ }
    const call = this.callOf(name);
    if (call) this.reply(call, call.version === 1 ? legacyAnswer(call.key, said) : currentAnswer(call.key, said));
  }

  // Sends a packet that is not an answer, such as a list, because a version 1 Distributor may be
  // built on this file, too. If it is written while a call is handled, the call gets no other
  // answer.
  pass(text) {
    const handled = handling.getStore();
    if (handled?.caller === this) this.drop(handled);
    const bytes = seal(text);
    if (!this.budget.fits(this.charged, this.held() + bytes.length)) {
      this.budget.refused++;
      this.warn(`${this.socket.remoteAddress}: no room to keep a packet of ${bytes.length} bytes until it is read`);
      return;
    }
    this.queue(bytes);
    this.settle();
    this.pace();
  }

  // An answer may have no key, and a caller may use one twice: then it belongs to the call being
  // handled.
  callOf(name) {
    const handled = handling.getStore();
    if (handled?.caller === this && (name === undefined || name === String(handled.name))) {
      if (handled.key === undefined || this.calls.has(handled)) return handled;
    }
    for (const call of this.calls) {
      if (String(call.name) === name || (name === undefined && this.calls.size === 1)) return call;
    }
    return undefined;
  }
}

module.exports = { LegacyCaller };
