//! Calls, streams and events to other nodes, from arguments to results.
//!
//! It must not change what is known of the registry, or answer callers. It must not import `server`
//! or `handler`.

mod arguments;
mod attempt;
pub(crate) mod call;
pub(crate) mod events;
mod hedge;
pub(crate) mod local_call;
pub(crate) mod mesh;
mod progress;
pub(crate) mod raw_call;
pub(crate) mod response;
pub(crate) mod stream;

pub(crate) use self::arguments::CallArguments;
