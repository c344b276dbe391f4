'use strict';

// Why a handler has no result, why a call has none, and why a node does not start.

// The answer of a handler that has no result: an HTTP status, a stable word, and a text for people,
// which callers can read.
class ServiceError extends Error {
  constructor(status, reason, message, { retryAfter, cause } = {}) {
    super(message, { cause });
    this.name = 'ServiceError';
    // What is not an error of HTTP is a fault of the service.
    this.status = Number.isInteger(status) && status >= 400 && status <= 599 ? status : 500;
    this.reason = String(reason);
    this.retryAfter = retryAfter; // milliseconds
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

// What a handler answers when a call that it made has failed and it does not say otherwise. Texts
// of inner nodes are not for the caller: they name urls and addresses.
const PASSED_ON = {
  no_route: [503, 'no_provider', 'a service that this one needs is not there'],
  no_list: [503, 'no_provider', 'a service that this one needs is not there'],
  no_provider: [503, 'no_provider', 'a service that this one needs is not there'],
  overloaded: [503, 'overloaded', 'a service that this one needs has too much to do'],
  deadline: [504, 'deadline', 'a service that this one needs gave no answer in time'],
  cancelled: [504, 'deadline', 'the call was given up'],
};
const FAILED = [502, 'inner_call', 'a service that this one needs has failed'];

// Codes of calls that a node may have carried out.
const SENT = ['deadline', 'lost', 'refused', 'ended'];

// Why a call has no result. `code` is one of these:
// bad_url, no_route, no_list, no_provider, overloaded, too_large, params: nothing was sent;
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
    const { code, status, reason, retryAfter } = this;
    const isBusy = code === 'refused' && (status === 503 || status === 429 || status === 504);
    if (isBusy) {
      const [, , message] = PASSED_ON[status === 504 ? 'deadline' : 'overloaded'];
      return new ServiceError(status, reason, message, { retryAfter, cause: this });
    }
    const [outer, word, message] = PASSED_ON[code] ?? FAILED;
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
