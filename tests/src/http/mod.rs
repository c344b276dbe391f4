//! HTTP as tests speak it: clients in clear and over TLS, and servers behind a gateway.

mod client;
mod event_source;
pub mod http2;
mod servers;
mod tls;
pub mod web_socket;

pub use client::{HttpClient, HttpResponse, request, spawn_request};
pub use event_source::EventSource;
pub use servers::{CountingServer, RawStream, Server, echo_server, gateway_before, serve_prefixes, try_request};
pub use tls::{GatewayFiles, ask_tls, connect_tls};
