//! The codec of HTTP/1.1: what can be understood in one way only, and nothing else. Pure: no
//! socket, no clock, and nothing of the other folders but `message`.

pub(crate) mod body;
pub(crate) mod head_reader;
pub(crate) mod request_writer;
pub(crate) mod response_reader;
pub(crate) mod response_writer;
