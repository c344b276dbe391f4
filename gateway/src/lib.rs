//! The gateway: HTTP in, packets or HTTP out.
//!
//! Routes are those that nodes register, and what a file says. A request becomes one call to one of the nodes that offer its method
//! and path, with the node's answer as the response, its data unparsed; or it is passed on to one of the servers of the longest
//! prefix of its path, bodies as they come.
//!
//! `http1`'s readers, `http2`'s meter, `path`, `translate`, `limits`, `cookie` and `problem` decide and are pure. `exchange` is the
//! seam: `proxy` answers requests through it, whichever version of HTTP the client speaks. `program`, `server` and `client` are the
//! shell around them. Calling nodes, and whose turn it is, are the work of [`node_sdk`].

mod config;
mod downstream;
mod http1;
mod io;
mod message;
mod observe;
mod process;
mod proxy;
mod route;
mod upstream;

pub use config::{Balance, CertificateFiles, Check, Config, FixedServer, Route, Sticky};
pub use observe::access_log::AccessLogFormat;
pub use process::cli::main;
pub use process::serve::{Listeners, Stop, serve, serve_all};
pub use route::limits::{Rate, RateBy, RouteLimits};
