'use strict';

// Results with a status of their own. Anything that has a JSON form is a result with status 200.

class Reply {
  constructor(status, value) {
    if (!(Number.isInteger(status) && status >= 200 && status <= 299)) {
      throw new RangeError(`${status} is not the status of a result: that is 200 to 299; `
        + 'throw a ServiceError for errors');
    }
    Object.assign(this, { status, value });
  }
}

// 201: something has been created.
const created = (value) => new Reply(201, value);

// 202: the request is accepted and will be carried out.
const accepted = (value) => new Reply(202, value);

// 204: the request is carried out, and there is no result.
const noContent = () => new Reply(204, null);

module.exports = { Reply, accepted, created, noContent };
