//! Connections to other nodes, without any knowledge of routes: who is called is decided above.

pub(crate) mod backoff;
pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod flow;
pub(crate) mod in_flight;
pub(crate) mod limits;
pub(crate) mod unexpected;
pub(crate) mod write_queue;
