'use strict';

// Registers a plain HTTP server (Node.js's own, Express, Koa or another) with the Distributor, so
// that the gateway passes it every request whose path begins with one of its prefixes. No
// dependencies. See examples/js/web.js.

const { Client } = require('./transport/client');
const { parseAddress } = require('./transport/packets');
const { Registry, newIdentity } = require('./routing/registry');

const HEARD_MS = 500; // after this time all gateways know that we left; they are told in milliseconds
const TIDY_MS = 1000;

// Keeps `server` registered once it listens. With `strip` it is asked for `/x` instead of
// `/prefix/x`. `advertise`: where others can call it, `host:port`, if that is not where the
// Distributor sees it. Returns `leave()`, and `close()`, which leaves, lets requests in flight
// finish, and closes the server.
function offerHttp(server, options) {
  const { name, prefixes, strip = false, host = '127.0.0.1', port = 9000, onLog = log } = options;
  const { advertise = process.env.NODE_ADVERTISE } = options;
  if (advertise !== undefined) parseAddress(advertise);
  const context = { name, port: 0, urls: [], $: { http: { prefixes, strip } } };
  const identity = { ...newIdentity(), version: 2, advertise, listens: () => server.address()?.address };
  const registry = new Registry({ context, onLog }, identity, new Client(host, Number(port)), () => {});
  const join = () => {
    context.port = server.address().port;
    registry.connect();
  };
  if (server.listening) join();
  else server.once('listening', join);
  const timer = setInterval(() => registry.tidy(performance.now()), TIDY_MS).unref();
  const leave = () => {
    clearInterval(timer);
    registry.leave();
  };
  const close = async () => {
    leave();
    await new Promise((resolve) => setTimeout(resolve, HEARD_MS));
    await new Promise((resolve) => server.close(resolve));
  };
  return { leave, close };
}

function log(text, isTrouble = false) {
  (isTrouble ? console.error : console.log)(text);
}

module.exports = { offerHttp };
