//! What nodes and the Distributor say to each other: registrations, lists, changes and control packets.
//!
//! Nothing here decides who is registered or who is told: that is the Distributor's. It does not import `call`.

mod advert;
mod control;
mod list;
mod options;
mod registration;
mod replica;
mod revision;

pub use advert::{Advert, HttpAdvert};
pub use control::{
    CopyPart, HISTORY_URI, HistoryEvent, PING_URI, PONG_URI, Ping, Pong, VISIBLE_URI, Visibility, asks_for_copy,
    read_copy, read_history_question, read_report, write_ask, write_copy, write_copy_question, write_history,
    write_history_question, write_leave, write_ping, write_pong, write_report, write_visibility,
};
pub use list::{
    Delta, LeaveReason, ListUpdate, ListUpdateError, Node, REGISTRY_URI, Snapshot, UpdateHeader, shown_host,
    write_delta, write_list, write_refusal, write_snapshot,
};
pub use options::{RegisterOptions, ResumePoint, VisibilityTarget};
pub use registration::{Registration, RegistrationError, RegistrationLimits, write_registration};
pub use replica::{KnownNode, RETENTION, Replica, UpdateOutcome};
pub use revision::{Digest, Revision};
