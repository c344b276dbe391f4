// The package, for `import`.

import pilcrow from './lib/index.js';

export const {
  CallError, Node, Reply, ServiceError, StartError, accepted, created, html, noContent, offerHttp, optional, redirect,
  reply, stopOnSignals, text,
} = pilcrow;
