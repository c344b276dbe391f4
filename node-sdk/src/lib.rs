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

mod answer;
mod backoff;
pub mod balance;
mod barred;
mod budget;
mod cache;
mod call;
mod callee;
mod context;
mod discovery;
mod error;
mod events;
mod flow;
mod handler;
mod in_flight;
mod items;
mod layer;
mod link;
mod load;
mod node;
mod outgoing;
mod params;
mod peers;
mod remembered;
mod respond;
mod retry;
mod router;
mod scratch;
mod server;
mod service;
mod strays;
mod stream;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod transit;
mod typed;

pub use answer::RawAnswer;
pub use balance::{Balance, Balancer, Candidate};
pub use budget::Buffers;
pub use call::{Call, Calling, DEFAULT_DEADLINE, RawCall};
pub use context::{Trace, spawn};
pub use discovery::{Identity, RECONNECT_PERIOD};
pub use error::{CallError, ServiceError, StartError};
#[doc(hidden)]
pub use handler::Work;
pub use handler::{Caller, Deadline, FromCall, Handler, Incoming, Params, Path, RawParams, State, StateTypes};
#[doc(hidden)]
pub use items::Parts;
pub use items::{Items, Streaming};
pub use layer::{Next, Outcome};
pub use node::{Node, NodeBuilder};
pub use peers::{Changes, Peers};
pub use protocol::{Advert, HttpAdvert, Route, Visibility};
pub use respond::{Accepted, Created, NoContent, Respond};
pub use stream::{Duplex, Opening, PartSender, RawReply, StreamCall};

/// What [`service!`] expands to.
#[doc(hidden)]
pub mod private {
    pub use serde::{self, Deserialize, Serialize};

    pub use crate::typed::fill;
}
