//! The Distributor: the middle of the star.
//!
//! Every node keeps one TCP connection to it. The set of live registered connections is the registry: whoever
//! connects is told the list of nodes, and every registered node is told the new list at each join and leave.
//!
//! `registry`, `lists`, `intake` and `outbox` decide and are pure; `server`, `connection` and `membership` are the shell
//! around them.

mod cli;
mod config;
mod connection;
mod intake;
mod lists;
mod membership;
mod outbox;
mod registry;
mod server;

pub use cli::main;
pub use config::{Config, OversizedList};
pub use server::serve;
