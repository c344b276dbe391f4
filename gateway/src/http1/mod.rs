//! HTTP/1.1 as clients and servers write it: what is understood in one way only, and nothing else.

pub(crate) mod body;
pub(crate) mod connection;
#[cfg(test)]
mod connection_tests;
pub(crate) mod head;
pub(crate) mod headers;
pub(crate) mod response;
pub(crate) mod write;
