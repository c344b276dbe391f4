//! The gateway: HTTP in, packets or HTTP out.
//!
//! Its routes are those that nodes register, and those of a configuration file. A request becomes
//! one call to one of the nodes that offer its method and path, and the node's answer becomes the
//! response. Otherwise it is passed on to one of the servers of the longest prefix of its path, and
//! bodies are streamed. [`node_sdk`] calls nodes and picks one of several.
//!
//! ```no_run
//! use std::net::{Ipv4Addr, SocketAddr};
//!
//! use gateway::{Balance, Config, FixedServer, RouteConfig};
//! use tokio::net::TcpListener;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> std::io::Result<()> {
//! let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)).into();
//! let servers = vec![FixedServer { address, weight: 100 }];
//! let balance = Some(Balance::LeastInFlight);
//! let route = RouteConfig { servers, balance, ..RouteConfig::new(vec!["/".to_owned()]) };
//! let config = Config { routes: vec![route], ..Config::default() };
//! let listener = TcpListener::bind("127.0.0.1:8000").await?;
//! gateway::serve(listener, config, CancellationToken::new()).await
//! # }
//! ```
//!
//! # Embedding
//!
//! | to | start with |
//! |---|---|
//! | serve one listener with one configuration | [`serve`], in the task that calls it |
//! | serve many listeners, with reloads | [`serve_all`], each listener in a thread of its own |
//! | stop | cancel the token of [`serve`], or those of [`Stop`] |
//! | route to HTTP servers | [`RouteConfig`] |
//! | run the whole program, with its command line | [`main`] |
//!
//! [`serve_all`] takes the configuration from a [`watch`](tokio::sync::watch) channel: a new value
//! applies to later connections and requests. Both functions return when their token has been
//! cancelled and all requests are answered, or `drain_timeout` is over. To stop the threads of
//! `serve_all`, cancel the token: dropping the future does not.
//!
//! # Inside
//!
//! A request goes down through the folders: `downstream` is the side of clients, `proxy` decides
//! what answers, and `upstream` is the side of servers. `route` and `config` have the rules for a
//! path. `message` has the types that both versions of HTTP share, and `http1` is the codec of one
//! version: both are pure. `io` and `observe` import no other folder. `process` starts everything,
//! and no other folder imports it.

// The fuzz targets say `gateway`, and are compiled as modules of the tests too.
#[cfg(test)]
extern crate self as gateway;

mod config;
mod downstream;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http1;
mod io;
mod message;
mod observe;
mod process;
mod proxy;
mod route;
mod sessions;
mod upstream;

pub use config::{
    Balance, CertificateFiles, Check, Config, FixedAddress, FixedServer, OldNodesPublic, RouteConfig, Sticky,
};
pub use observe::access_log::AccessLogFormat;
pub use process::cli::main;
pub use process::serve::{Listeners, Stop, serve, serve_all};
pub use route::access::{RequestPattern, RouteAccess};
pub use route::cors::Cors;
pub use route::limits::{Rate, RateBy, RouteLimits};
pub use route::params::{ParamSource, ParamsTemplate};
