//! The gateway: HTTP in, packets out.
//!
//! Routes are those that nodes register. A request becomes one call to one of the nodes that offer its method and path,
//! and the node's answer becomes the response, its data unparsed.
//!
//! `http1`'s readers, `path`, `translate` and `problem` decide and are pure; `server`, `connection` and `proxy` are the shell
//! around them, and calling nodes is the work of [`node_sdk::Peers`].

mod access_log;
mod admin;
mod buffers;
mod cli;
mod config;
mod file;
mod http1;
mod metrics;
mod path;
mod problem;
mod proxy;
mod server;
mod translate;
mod upstreams;

pub use access_log::AccessLogFormat;
pub use cli::main;
pub use config::{Config, Upstream};
pub use server::{serve, serve_all};
