//! The connection to the Distributor: it registers this node and is told of the others.

pub(crate) mod cache;
pub(crate) mod session;
