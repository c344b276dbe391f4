//! The examples work: the shop, the services in JavaScript, and the checks of `nodeconform`.

mod conformance;
mod js;
mod shop;
