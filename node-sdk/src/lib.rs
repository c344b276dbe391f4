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
//! A node keeps serving, and calling, from what it knows when the Distributor is gone. Callers of
//! version 1 are answered in their own form.

mod balance;
mod client;
mod context;
mod discovery;
mod error;
pub mod gateway;
mod handler;
mod node;
mod peers;
mod routing;
mod server;
mod transport;

pub use balance::{Balance, Balancer, Candidate};
pub use client::call::{Call, Calling};
pub use client::stream::{Duplex, Opening, PartSender, StreamCall};
pub use context::{Trace, spawn};
pub use discovery::RECONNECT_PERIOD;
pub use error::{CallError, ServiceError, StartError};
#[doc(hidden)]
pub use handler::HandlerWork;
#[doc(hidden)]
pub use handler::call_stream::Parts;
pub use handler::respond::{Accepted, Created, NoContent, Outcome, Respond};
pub use handler::stream::{Items, Streaming};
pub use handler::{
    Caller, Deadline, FromCall, Handler, IncomingCall, Next, Params, Path, RawParams, State, StateTypes,
};
#[cfg(feature = "testing")]
pub use node::testing;
pub use node::{Node, NodeBuilder};
pub use peers::{Changes, Peers};
pub use protocol::{Advert, HttpAdvert, Route, Visibility};
pub use transport::budget::BufferUsage;
pub use transport::limits::DEFAULT_DEADLINE;

/// What [`service!`] expands to.
#[doc(hidden)]
pub mod private {
    pub use serde::{self, Deserialize, Serialize};

    pub use crate::handler::service_macro::fill;
}
