//! The wire of the mesh, without I/O: frames, packets, registrations, lists and calls.
//!
//! Everything here is pure: no sockets, no clock, no tasks, no logging. Bytes that came from a peer never
//! panic; they give a value or an error. `docs/PROTOCOL.md` is the law that this crate implements.

mod advert;
mod answer;
mod codec;
mod json;
mod key;
mod legacy;
mod news;
mod packet;
mod registration;
mod replica;
mod request;
mod revision;
mod route;
mod secret;
mod stream;
mod talk;
mod terms;

pub use advert::{Advert, HttpAdvert};
pub use answer::{Answer, AnswerWriter, Reply, success_of, write_answer};
pub use codec::{DELIMITER, FrameDecoder, FrameTooLarge, is_blank, seal};
pub use json::{Members, TooDeep, check_depth, is_one_value};
pub use key::Key;
pub use legacy::{LEGACY_READ_BYTES, ReadWindow, Unread};
pub use news::{
    Delta, News, NewsError, Node, REGISTRY_URI, Reason, Snapshot, Stamp, shown_host, write_delta, write_list,
    write_refusal, write_snapshot,
};
pub use packet::{Packet, PacketError, Text, Version};
pub use registration::{Registration, RegistrationError, RegistrationLimits, write_registration};
pub use replica::{HOLD, Known, Outcome, Replica};
pub use request::{CallMeta, Request, write_cancel, write_hello, write_request};
pub use revision::{Digest, Revision};
pub use route::{Route, RouteError, Segment};
pub use secret::Secret;
pub use stream::{
    CREDIT_URI, PART_URI, Part, PartWriter, STREAM_WINDOW, Side, part_of, read_credit, write_credit, write_end,
    write_open,
};
pub use talk::{
    CopyPart, Event, HISTORY_URI, PING_URI, PONG_URI, Ping, Pong, VISIBLE_URI, Visibility, asks_for_copy, read_copy,
    read_history_question, read_report, write_ask, write_copy, write_copy_question, write_history,
    write_history_question, write_leave, write_ping, write_pong, write_report, write_visibility,
};
pub use terms::{Have, Terms, Visible};
