//! What the repository shows to its readers works: the shop, the services in JavaScript, and the
//! checks of `nodeconform`.

mod conformance;
mod js;
mod shop;
