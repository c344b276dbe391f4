'use strict';

// The package, for `require`; ../index.mjs is for `import`.

const { CallError, ServiceError, StartError } = require('./errors');
const { offerHttp } = require('./http');
const { Node } = require('./node');
const { optional } = require('./server/params');
const { Reply, accepted, created, noContent } = require('./server/reply');
const stopOnSignals = require('./stop');

module.exports = {
  CallError, Node, Reply, ServiceError, StartError, accepted, created, noContent, offerHttp, optional, stopOnSignals,
};
