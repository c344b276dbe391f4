//! What a microservice embeds: it listens, registers, knows its peers, and calls them.
//!
//! ```no_run
//! use node_sdk::{Node, Params, ServiceError};
//!
//! #[derive(serde::Deserialize)]
//! struct Who {
//!     name: String,
//! }
//!
//! async fn hello(Params(who): Params<Who>) -> Result<String, ServiceError> {
//!     Ok(format!("Hello, {}!", who.name))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), node_sdk::StartError> {
//!     Node::builder("hello").listen("127.0.0.1:9010").route("GET/hello", hello).serve().await
//! }
//! ```
//!
//! A node keeps serving, and calling, from what it knows when the Distributor is gone. Callers of version 1 are answered in
//! their own form.

mod backoff;
mod cache;
mod callee;
mod discovery;
mod error;
mod handler;
mod in_flight;
mod link;
mod node;
mod outgoing;
mod params;
mod peers;
mod router;
mod server;

pub use discovery::{Identity, RECONNECT_PERIOD};
pub use error::{CallError, ServiceError, StartError};
pub use handler::{FromCall, Handler, Incoming, Params, State, StateTypes};
pub use node::{Node, NodeBuilder};
pub use peers::{Call, DEFAULT_DEADLINE, Peers, RawAnswer};
pub use protocol::{Advert, Visibility};
