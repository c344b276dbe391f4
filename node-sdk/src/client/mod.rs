//! Calls, streams and events to other nodes, from arguments to results.
//!
//! It must not change which nodes are listed: it reports which of them answer. It must not answer
//! callers, or import `server` or `handler`.

mod arguments;
mod asking;
mod attempt;
pub(crate) mod call;
mod deferred_events;
pub(crate) mod events;
mod hedge;
pub(crate) mod local_call;
pub(crate) mod mesh;
mod progress;
pub(crate) mod raw_call;
pub(crate) mod response;
pub(crate) mod stream;
pub(crate) mod unknown_route;

pub(crate) use self::arguments::CallArguments;

/// The method and the path of a url, such as `GET/members`.
pub(crate) fn split_url(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').unwrap_or(url.len()))
}
