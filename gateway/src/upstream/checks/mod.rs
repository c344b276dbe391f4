//! Checks whether servers are alive and nodes answer, between the requests of clients.
//!
//! It must not pick a server or a node: it says which of them work.

pub(crate) mod node_checks;
pub(crate) mod server_checks;
