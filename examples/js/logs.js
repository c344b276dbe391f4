'use strict';

// Services of version 1 send each packet that they receive to the node `logs`, if there is one.

const UNSENT_LIMIT = 1024 * 1024; // bytes that wait for a node that does not read; what is more is lost

const NAME = 'logs'; // exactly this, and the first in the list

// Sends packets to the node of that name. It is connected to when a list shows it, and again only
// when a later list does: one that drops connections has to leave and join.
class LogSender {
  constructor(own, connect) {
    Object.assign(this, { own, connect, client: null, lost: 0 });
  }

  get isConnected() {
    return this.client?.client?.destroyed === false;
  }

  // A new list of the Distributor.
  list(entries) {
    const node = entries.find(({ name }) => name === NAME);
    if (!node) this.end();
    if (!node || this.own === NAME || this.isConnected) return;
    this.client = this.connect(node.host, Number(node.port));
    this.client.connect();
    this.client.client.unref(); // a service that has ended has nothing more to send
  }

  // A packet that has come, as it came: passwords included. It is not answered.
  send(text) {
    if (!this.isConnected) return;
    if (this.client.client.writableLength > UNSENT_LIMIT) {
      this.lost++;
      return;
    }
    this.client.write({ uri: '/logs', method: 'POST', key: 0, params: text });
  }

  end() {
    this.client?.end();
    this.client = null;
  }
}

module.exports = { LogSender };
