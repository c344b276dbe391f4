//! Calls, streams and events to other nodes, from arguments to results. Nothing here feeds the
//! registry view or answers callers.

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
