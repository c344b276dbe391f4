//! The Distributor: the middle of the star.
//!
//! Every node keeps one TCP connection to it. The set of live registered connections is the registry: whoever
//! connects is told the list of nodes, and every registered node is told the new list at each join and leave.
//!
//! `registry` decides, over the table of `entries` and the encoded `updates`; `peer` is what frames mean, and what one
//! peer is owed. All of these are pure. `shell` is around them.

mod cli;
mod config;
mod entries;
mod peer;
mod registry;
mod shell;
#[cfg(test)]
mod simulation;
mod token_bucket;
mod updates;
mod why;

pub use cli::main;
pub use config::{Config, OversizedList};
pub use shell::{serve, serve_with_admin};
