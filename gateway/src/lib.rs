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
mod checks;
mod cli;
mod client;
mod config;
mod cookie;
mod exchange;
mod file;
mod forward;
mod http1;
mod http2;
mod limits;
mod metrics;
mod path;
mod problem;
mod program;
mod proxy;
mod proxy_protocol;
mod seats;
mod server;
mod shedding;
mod stream;
mod takeover;
mod timer;
mod tls;
mod translate;
mod upstream;
mod upstreams;

pub use access_log::AccessLogFormat;
pub use cli::main;
pub use config::{Balance, CertificateFiles, Check, Config, FixedServer, Route};
pub use limits::{Rate, RateBy, RouteLimits};
pub use server::{Listeners, Stop, serve, serve_all};
