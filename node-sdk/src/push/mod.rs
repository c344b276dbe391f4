//! Pushes: commands about the sockets that gateways hold, on the streams that gateways open.
//!
//! It must not call nodes, and it must not know handlers: `peers` has the functions, and `handler`
//! the route.

mod error;
mod links;

pub use self::error::PushError;
pub(crate) use self::links::{LinkEnd, MAX_MESSAGE_BYTES, PushLinks, SentCommand};
