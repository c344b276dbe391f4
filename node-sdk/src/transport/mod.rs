//! Connections to other nodes, and the parts that both directions of calls share.
//!
//! It must not look up routes, which it carries for logs, or know the registry. Of the other
//! folders it must import only `balance` and `error`.

pub(crate) mod blocked;
pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod flow;
pub(crate) mod in_flight;
pub(crate) mod limits;
pub(crate) mod response_frame;
pub(crate) mod target;
pub(crate) mod write_queue;
