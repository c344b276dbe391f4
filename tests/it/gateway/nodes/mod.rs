//! The gateway in front of nodes: calls, streams, WebSockets, and the routes that clients have.

mod binary;
mod calls;
mod client_requests;
mod exposure;
mod failures;
mod sockets;
mod streams;
