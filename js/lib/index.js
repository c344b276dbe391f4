'use strict';

// The package, for `require`; ../index.mjs is for `import`.

const { CallError, ServiceError, StartError } = require('./errors');
const { offerHttp } = require('./http');
const { Node } = require('./node');
const { optional } = require('./server/params');
const replies = require('./server/reply');
const stopOnSignals = require('./stop');

module.exports = {
  CallError, Node, ServiceError, StartError, offerHttp, optional, stopOnSignals, ...replies,
};
