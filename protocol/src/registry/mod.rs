//! The packets between nodes and the Distributor: registrations, lists, deltas and control packets;
//! and the replica that a node makes of them.
//!
//! It must not decide which nodes are registered or told of changes: the Distributor does. It must
//! not import `call`.

mod control;
mod list;
mod need;
mod registration;
mod replica;
mod revision;
mod unreachable;

pub use control::{
    CopyPart, HISTORY_URI, HistoryEvent, PING_URI, PONG_URI, Ping, Pong, Report, VISIBLE_URI, Visibility,
    is_copy_request, read_copy, read_history_request, read_report, write_copy, write_copy_request, write_history,
    write_history_request, write_leave, write_list_request, write_ping, write_pong, write_report, write_visibility,
};
pub use list::{
    Delta, LeaveReason, ListUpdate, ListUpdateError, MAX_BLOCKS, MAX_UNPACKED_BYTES, Node, REGISTRY_URI, RegistryEntry,
    SuspicionChange, UnpackError, UnpackedBlocks, UpdateHeader, WholeList, host_text, pack, write_block, write_delta,
    write_legacy_list, write_list, write_packed_delta, write_packed_list, write_refusal,
};
pub use need::{
    MAX_NEED_BYTES, MAX_NEED_ROUTES, NEED_URI, NEEDED_URI, read_need, read_needed, write_need, write_needed,
};
pub use registration::{
    Advert, HttpAdvert, IgnoredParts, ListedHost, RegisterOptions, Registration, RegistrationError, RegistrationLimits,
    ResumePoint, RouteAdvert, RouteAdverts, SocketAdvert, VisibilityTarget, WantedHeaders, is_field_name,
    write_registration,
};
pub use replica::{KnownNode, RETENTION, Replica, UpdateOutcome};
pub use revision::{Digest, Revision};
pub use unreachable::Unreachable;
