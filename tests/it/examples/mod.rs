//! The examples work: the shop, the services in JavaScript, the package in Python, and the checks
//! of `nodeconform`.

mod conformance;
mod js;
mod python;
mod shop;
