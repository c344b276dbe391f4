// The package, for `import`.

import pilcrow from './lib/index.js';

export const {
  CallError, Node, Reply, ServiceError, StartError, accepted, created, noContent, offerHttp, optional, stopOnSignals,
} = pilcrow;
