//! What the attributes `#[handler]`, `#[service]` and `#[derive(Refusal)]` are made of.
//!
//! It must not route, balance or send a call: a typed call is one of [`Peers`](crate::Peers).

pub(crate) mod call;
pub(crate) mod checks;
pub(crate) mod client;
pub(crate) mod refusal;
#[cfg(feature = "schema")]
pub(crate) mod schema;
pub(crate) mod stream;
pub(crate) mod url;
