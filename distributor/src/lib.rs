//! The Distributor: the middle of the star.
//!
//! Every node keeps one TCP connection to it. The set of live registered connections is the registry: whoever
//! connects is told the list of nodes, and every registered node is told the new list at each join and leave.
//!
//! `roster` decides, with what it is made of: `registry` (who is there, and what has changed), `lists` (as encoded once),
//! `view`, `needs`, `memory`, `damping`, `losses`, `liveness`, `warmup`, `barriers`, `history`, `bucket`; `intake` tells what a frame means and `outbox`
//! what a peer is owed. All of these are pure. `server`, `connection`, `membership` and `admin`, which tells `metrics`, are the shell around them.

mod admin;
mod barriers;
mod bucket;
mod cli;
mod config;
mod connection;
mod damping;
mod history;
mod intake;
mod lists;
mod liveness;
mod losses;
mod membership;
mod memory;
mod metrics;
mod needs;
mod outbox;
mod registry;
mod roster;
mod server;
#[cfg(test)]
mod simulation;
mod turns;
mod view;
mod warmup;
mod why;

pub use cli::main;
pub use config::{Config, OversizedList};
pub use server::{serve, serve_with_admin};
