//! Sockets, tasks, clocks and logs.
//!
//! It must not decide about nodes: it asks the registry, and does what the registry says. It limits
//! connections, and the memory that they hold.

mod admin;
mod connection;
mod incoming_budget;
mod logs;
mod metrics;
mod name_lookup;
mod publisher;
mod server;
mod session;
mod shared;
mod timers;

pub use server::{serve, serve_with_admin};
