'use strict';

// Services of version 1 send each packet that they receive to the node `logs`, if there is one.

const { numberIn } = require('../transport/packets');

const UNSENT_LIMIT = 1024 * 1024; // bytes that wait for a node that does not read; more packets are lost

const LOG_PERIOD_MS = 10_000; // one line about lost packets in this time

const NAME = 'logs'; // packets are sent to the first node in the list with exactly this name

// Sends packets to the node of that name. Connects when a list shows the node, and again only when
// a later list does: a node that drops connections has to leave and join.
class LogSender {
  constructor(own, connect, onLog = () => {}) {
    Object.assign(this, { own, connect, onLog, client: null, cause: null, lost: 0, loggedAt: -Infinity });
  }

  get isConnected() {
    return this.client?.client?.destroyed === false;
  }

  // A new list of the Distributor.
  list(entries) {
    const node = entries.find(({ name }) => name === NAME);
    if (!node) this.end();
    if (!node || this.own === NAME || this.isConnected) return;
    this.cause = 'it closed the connection';
    const client = this.connect(node.host, numberIn(node.port), () => this.ended(client, node), (_, error) => {
      this.cause = error.message;
    });
    this.client = client;
    this.client.connect();
    this.client.client.unref(); // a service that has ended has nothing more to send
  }

  // Sends a packet unchanged, passwords included. There is no answer.
  send(text) {
    if (!this.isConnected) return;
    if (this.client.client.writableLength > UNSENT_LIMIT) {
      this.lost++;
      this.warnOfLoss();
      return;
    }
    this.client.write({ uri: '/logs', method: 'POST', key: 0, params: text });
  }

  warnOfLoss() {
    const now = performance.now();
    if (now - this.loggedAt < LOG_PERIOD_MS) return;
    this.loggedAt = now;
    this.onLog(`the node ${NAME} reads too slowly: ${this.lost} packets were not sent to it so far`);
  }

  // The connection is lost; this service has not closed it.
  ended(client, { host, port }) {
    if (this.client !== client) return;
    this.onLog(`no packets are sent to the node ${NAME} at ${host}:${port} any more, `
      + `until a later list has it: ${this.cause}`);
  }

  end() {
    const { client } = this;
    this.client = null;
    client?.end();
  }
}

module.exports = { LogSender };
