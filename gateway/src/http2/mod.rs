//! HTTP/2: frames, flow control and header compression are the `h2` crate's; who may cost how much is decided here.

pub(crate) mod connection;
mod exchange;
mod frames;
mod meter;
