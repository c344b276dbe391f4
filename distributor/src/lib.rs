//! The Distributor keeps the list of live nodes and tells every node of each join and leave.
//!
//! Every node keeps one TCP connection to it. The set of registered nodes is the registry. A node
//! is sent the list when it registers. A version 1 peer that has said nothing is sent it, too, 100
//! ms after it has connected.
//!
//! | to | start with |
//! |---|---|
//! | listen for nodes | [`serve`] |
//! | answer operators, too | [`serve_with_admin`] |
//! | set limits | [`Config`] |
//! | run the whole program, with its command line | [`main`] |
//!
//! ```no_run
//! use tokio::net::TcpListener;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> std::io::Result<()> {
//! let listener = TcpListener::bind("127.0.0.1:9000").await?;
//! let stop = CancellationToken::new();
//! distributor::serve(vec![listener], distributor::Config::default(), stop).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//!
//! `registry` decides, with the table of `entries` and the encoded `updates`. `peer` knows what
//! frames mean and what one peer must still be sent. All of these are pure: time is an argument.
//! `shell` surrounds them with sockets, tasks and clocks.

mod cli;
mod config;
mod entries;
mod peer;
mod rate_limit;
mod registry;
mod shell;
#[cfg(test)]
mod simulation;
mod updates;

pub use cli::main;
pub use config::{Config, OversizedList, ToldToOldPeers};
pub use shell::{serve, serve_with_admin};
