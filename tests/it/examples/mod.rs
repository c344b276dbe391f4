//! The examples work: the shop, the store, the services in JavaScript, the packages in JavaScript
//! and Python, meshes of all three languages, and the checks of `nodeconform`.

mod chat;
mod conformance;
mod js;
mod js_package;
mod mixed;
mod python;
mod shop;
mod store;
