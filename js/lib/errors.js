'use strict';

// Why a handler has no result, why a call has none, and why a node does not start.

const { fieldsOf } = require('./server/fields');

// The answer of a handler that has no result: an HTTP status, a stable word, and a text for people,
// which callers can read.
class ServiceError extends Error {
  // `headers` and `cookies`: for the client of a gateway, as those of a reply.
  constructor(status, reason, message, { retryAfter, cause, headers, cookies } = {}) {
    super(message, { cause });
    this.name = 'ServiceError';
    // What is not an error of HTTP is a fault of the service.
    this.status = Number.isInteger(status) && status >= 400 && status <= 599 ? status : 500;
    this.reason = String(reason);
    this.retryAfter = retryAfter; // milliseconds
    if (headers !== undefined || cookies !== undefined) this.fields = fieldsOf({ headers, cookies });
  }

  static badRequest(reason, message) {
    return new ServiceError(400, reason, message);
  }

  static notFound(reason, message) {
    return new ServiceError(404, reason, message);
  }

  static conflict(reason, message) {
    return new ServiceError(409, reason, message);
  }
}

// What a handler answers when a call that it made has failed and it does not say otherwise: as
// nodes in Rust do. Texts of inner nodes are not for the caller, because they name urls and
// addresses. The word `overloaded` is not among these: it says that nothing was done, and the
// handler may have done something before it made the call.
const NO_PROVIDER = [503, 'no_provider', 'a service that this one needs cannot be reached'];
const UNAVAILABLE = [503, 'unavailable', 'a service that this one needs cannot answer now; try again later'];
const DEADLINE = [504, 'deadline', 'a service that this one needs has not answered in time'];
const NO_CALL = [500, 'internal', 'this service has made a call that is none'];
const FAILED = [502, 'inner_call', 'a service that this one needs has failed'];
const PASSED_ON = {
  no_route: NO_PROVIDER,
  no_list: NO_PROVIDER,
  no_provider: NO_PROVIDER,
  overloaded: UNAVAILABLE,
  deadline: DEADLINE,
  cancelled: DEADLINE,
  params: NO_CALL,
  bad_url: NO_CALL,
};
const PASSED_REFUSALS = {
  429: [429, 'too_many_requests', 'a service that this one needs is called too often; try again later'],
  503: UNAVAILABLE,
  504: DEADLINE,
  508: [508, 'loop', 'services call each other in a loop'],
};

// Codes of calls that a node may have carried out.
const SENT = ['deadline', 'lost', 'refused', 'ended'];

// Why a call has no result. `code` is one of these:
// not_started, bad_url, no_route, no_list, no_provider, overloaded, too_large, params: nothing was
// sent;
// deadline, lost: the call may have been carried out;
// refused: the node answered with an error, whose `status`, `reason` and `retryAfter` stand here;
// ended: the stream has ended; cancelled: the caller gave the call up.
class CallError extends Error {
  constructor(code, url, message, more = {}) {
    super(message, { cause: more.cause });
    this.name = 'CallError';
    const { status, reason, retryAfter, node, sent } = more;
    Object.assign(this, { code, url, status, reason, retryAfter, node });
    // Whether a node may have carried the call out.
    this.wasSent = sent ?? SENT.includes(code);
  }

  // The error that a handler answers with when it lets this one pass.
  toServiceError() {
    const { code, status, retryAfter } = this;
    const passed = code === 'refused' ? PASSED_REFUSALS[status] : PASSED_ON[code];
    const [outer, word, message] = passed ?? FAILED;
    return new ServiceError(outer, word, message, { retryAfter, cause: this });
  }
}

// Why a node does not start, with what to do about it.
class StartError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = 'StartError';
  }
}

module.exports = { CallError, ServiceError, StartError };
