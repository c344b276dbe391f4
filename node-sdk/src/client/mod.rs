//! Calls, streams and events to other nodes, from arguments to results.

pub(crate) mod call;
pub(crate) mod events;
pub(crate) mod response;
pub(crate) mod stream;
