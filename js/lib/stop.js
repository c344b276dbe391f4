'use strict';

// Ends a service in order: `stopOnSignals(() => service.close())`.

const { readFileSync } = require('node:fs');

// Has SIGTERM, Ctrl-C and the end of the terminal (SIGHUP) close a service. Asked twice, it ends at
// once; a terminal that is closed asks twice by itself, so a second SIGHUP does nothing.
function stopOnSignals(close) {
  // A terminal or a pipe that is gone is not a reason to end before the service has left.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  let isAsked = false;
  const stop = (signal) => {
    if (isAsked && signal !== 'SIGHUP') process.exit(130);
    if (isAsked) return;
    isAsked = true;
    Promise.resolve(close()).finally(() => end(signal));
  };
  for (const signal of ['SIGINT', 'SIGTERM', ...(ignoresHangUps() ? [] : ['SIGHUP'])]) process.on(signal, stop);
}

function end(signal) {
  if (signal !== 'SIGHUP') process.exit(0);
  // Node.js crashes when it ends by itself and its terminal is gone; the signal's own effect is
  // left.
  process.removeAllListeners('SIGHUP');
  process.kill(process.pid, 'SIGHUP');
}

// Whether it was started with `nohup`, as far as the system tells.
function ignoresHangUps() {
  try {
    const [, ignored] = /^SigIgn:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'));
    return (BigInt(`0x${ignored}`) & 1n) === 1n;
  } catch {
    return false;
  }
}

module.exports = stopOnSignals;
