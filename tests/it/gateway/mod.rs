//! The gateway inside this process: what its clients see, in front of nodes and of HTTP servers.
//! What needs a process of its own is in `process`.

mod crowds;
mod http2;
mod nodes;
mod routes;
mod servers;
mod streams;
