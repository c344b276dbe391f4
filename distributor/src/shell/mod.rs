//! Sockets, tasks, clocks and logs. It decides nothing: it asks the registry, and does what that says.

mod admin;
mod connection;
mod metrics;
mod server;
mod shared;
mod update_queue;

pub use server::{serve, serve_with_admin};
