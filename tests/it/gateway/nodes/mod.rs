//! The gateway in front of nodes: calls, streams, WebSockets, held sockets and pushes, and the
//! routes that clients have.

mod binary;
mod calls;
mod client_requests;
mod exposure;
mod failures;
mod files;
mod push;
mod sockets;
mod streams;
