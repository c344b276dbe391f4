//! The side of clients: accepting them, TLS, the PROXY protocol, and their connections in either
//! version of HTTP.
//!
//! It does not know where a request goes: the `RequestHandler` that it is given decides that.

mod accept;
pub(crate) mod clients;
pub(crate) mod connection;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod proxy_protocol;
pub(crate) mod tls;
pub(crate) mod worker;
