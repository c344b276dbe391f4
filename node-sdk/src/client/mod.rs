//! Calls, streams and events to other nodes, from arguments to results.
//!
//! It must not change which nodes are listed: it reports which of them answer. It must not answer
//! callers, or import `server` or `handler`.

pub(crate) mod call;
pub(crate) mod events;
pub(crate) mod local_call;
pub(crate) mod mesh;
pub(crate) mod raw_stream;
pub(crate) mod stream;
pub(crate) mod unknown_route;

pub(crate) use self::call::arguments::CallArguments;

/// The method and the path of a url, such as `GET/members`.
pub(crate) fn split_url(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').unwrap_or(url.len()))
}
