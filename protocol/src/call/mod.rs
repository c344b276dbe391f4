//! The packets between caller and callee: requests, responses, and the parts of streams.
//!
//! It must not decide which node is called, or when a call is retried: the node SDK does. It must
//! not import `registry`.

mod meta;
mod request;
mod response;
mod stream;

pub use meta::CallMeta;
pub use request::{Request, write_cancel, write_hello, write_request};
pub use response::{Response, ResponsePayload, ResponseWriter, success_parts, write_response};
pub use stream::{
    CREDIT_URI, PART_URI, Part, PartWriter, STREAM_WINDOW, Side, parse_part, read_credit, write_credit, write_end,
    write_open,
};
