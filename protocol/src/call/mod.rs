//! The packets between caller and callee: requests, responses, and the parts of streams.
//!
//! It must not decide which node is called, or when a call is retried: the node SDK does. It must
//! not import `registry`.

mod event_fields;
mod event_log;
mod hello;
mod http;
mod legacy_response;
mod meta;
mod push;
mod raw_part;
mod request;
mod response;
mod socket;
mod stream;

pub use event_fields::EventFields;
pub use event_log::{EVENT_LOG_URL, LogPart, LogReport, LogRequest, LoggedEvent};
pub use hello::{ANY_INSTANCE, HELLO_URI, Hello, WRONG_INSTANCE, WRONG_INSTANCE_STATUS, write_hello};
pub use http::{ClientRequest, ResponseHeaders, read_pairs};
pub use legacy_response::LegacyResponse;
pub use meta::{CallMeta, JsonText};
pub use push::{
    PUSH_URL, PresentSession, PushAction, PushClose, PushCommand, PushHello, PushMiss, PushReport, PushTarget,
};
pub use raw_part::{
    BODY_WINDOW, MAX_RAW_PART_BYTES, StreamHead, parse_raw_part, read_raw_part, write_raw_part, write_stream_head,
};
pub use request::{CallUrl, Request, write_cancel, write_request};
pub use response::{
    Response, ResponseParts, ResponsePayload, ResponseWriter, response_parts, success_parts, write_response,
};
pub use socket::{SocketCall, SocketClosed, SocketEvent, SocketWelcome};
pub use stream::{
    CREDIT_URI, PART_URI, Part, PartWriter, STREAM_WINDOW, Side, parse_part, read_credit, write_credit, write_end,
    write_open,
};
