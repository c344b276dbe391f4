//! The codec of HTTP/1.1, which accepts only messages with a single meaning. Pure: no socket, no
//! clock.
//!
//! It must not decide what a message is for. Of the other folders it must import only `message`.

pub(crate) mod body;
pub(crate) mod head_reader;
pub(crate) mod line_ends;
pub(crate) mod request_writer;
pub(crate) mod response_reader;
pub(crate) mod response_writer;
