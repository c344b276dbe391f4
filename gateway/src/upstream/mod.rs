//! The side of servers: who answers which prefix, how each of them does, and how much each may be given at a time.
//!
//! It reads no request and writes no response.

pub(crate) mod concurrency;
pub(crate) mod endpoint;
pub(crate) mod fair_queue;
pub(crate) mod holders;
pub(crate) mod node_checks;
pub(crate) mod server_checks;
pub(crate) mod table;
