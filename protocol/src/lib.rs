//! The wire of the mesh, without I/O: frames, packets, registrations, lists and calls.
//!
//! Everything here is pure: no sockets, no clock, no tasks, no logging. Bytes that came from a peer never
//! panic; they give a value or an error. `docs/PROTOCOL.md` is the law that this crate implements.

mod call;
mod codec;
mod json;
mod key;
mod legacy;
mod packet;
mod registry;
mod route;
mod secret;

pub use call::{
    CREDIT_URI, CallMeta, PART_URI, Part, PartWriter, Request, Response, ResponsePayload, ResponseWriter,
    STREAM_WINDOW, Side, parse_part, read_credit, success_parts, write_cancel, write_credit, write_end, write_hello,
    write_open, write_request, write_response,
};
pub use codec::{DELIMITER, FrameDecoder, FrameTooLarge, is_blank, seal};
pub use json::{Members, TooDeep, check_depth, is_one_value};
pub use key::Key;
pub use legacy::{LEGACY_READ_BYTES, ReadWindow, WindowFull};
pub use packet::{Packet, PacketError, Text, Version};
pub use registry::{
    Advert, CopyPart, Delta, Digest, HISTORY_URI, HistoryEvent, HttpAdvert, KnownNode, LeaveReason, ListUpdate,
    ListUpdateError, Node, PING_URI, PONG_URI, Ping, Pong, REGISTRY_URI, RETENTION, RegisterOptions, Registration,
    RegistrationError, RegistrationLimits, RegistryEntry, Replica, ResumePoint, Revision, Snapshot, UpdateHeader,
    UpdateOutcome, VISIBLE_URI, Visibility, VisibilityTarget, host_text, is_copy_request, read_copy,
    read_history_request, read_report, write_copy, write_copy_request, write_delta, write_history,
    write_history_request, write_leave, write_list, write_list_request, write_ping, write_pong, write_refusal,
    write_registration, write_report, write_snapshot, write_visibility,
};
pub use route::{Route, RouteError, Segment};
pub use secret::Secret;
