//! The examples work: the shop, the services in JavaScript, the packages in JavaScript and Python,
//! and the checks of `nodeconform`.

mod conformance;
mod js;
mod js_package;
mod python;
mod shop;
