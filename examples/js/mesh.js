'use strict';

// What version 1 services require: see ../../js/lib/mesh.js.

module.exports = require('../../js/lib/mesh');
