//! The side of clients: accepting them, TLS, the PROXY protocol, and their connections in either
//! version of HTTP.
//!
//! It must not decide where a request goes: the `RequestHandler` that it is given does. It must not
//! import `route`.

mod accept;
pub(crate) mod clients;
pub(crate) mod connection;
mod date;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod proxy_protocol;
pub(crate) mod tls;
pub(crate) mod tracked_client;
pub(crate) mod worker;
