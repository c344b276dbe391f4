'use strict';

// What old services require: see ../../js/lib/mesh.js.

module.exports = require('../../js/lib/mesh');
