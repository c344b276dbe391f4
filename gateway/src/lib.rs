//! The gateway: HTTP in, packets or HTTP out.
//!
//! Routes are those that nodes register, and what a file says. A request becomes one call to one of the nodes that offer its method
//! and path, with the node's answer as the response, its data unparsed; or it is passed on to one of the servers of the longest
//! prefix of its path, bodies as they come.
//!
//! `http1`'s readers, `http2`'s meter, `path`, `translate`, `limits`, `cookie` and `problem` decide and are pure. `exchange` is the
//! seam: `proxy` answers requests through it, whichever version of HTTP the client speaks. `program`, `server` and `client` are the
//! shell around them. Calling nodes, and whose turn it is, are the work of [`node_sdk`].

mod access_log;
mod admin;
mod budget;
mod buffers;
mod checks;
mod cli;
mod client;
mod config;
mod cookie;
mod exchange;
mod file;
mod forward;
mod holders;
mod http1;
mod http2;
mod limits;
mod metrics;
mod node_checks;
mod parts;
mod path;
mod places;
mod problem;
mod program;
mod proxy;
mod proxy_protocol;
mod rules;
mod seats;
mod server;
mod shares;
mod shedding;
mod stream;
mod takeover;
mod timer;
mod tls;
mod translate;
mod tunnel;
mod turn;
mod upstream;
mod upstreams;

pub use access_log::AccessLogFormat;
pub use cli::main;
pub use config::{Balance, CertificateFiles, Check, Config, FixedServer, Route};
pub use limits::{Rate, RateBy, RouteLimits};
pub use server::{Listeners, Stop, serve, serve_all};
