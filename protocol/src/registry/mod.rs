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
    CopyPart, Event, HISTORY_URI, PING_URI, PONG_URI, Ping, Pong, VISIBLE_URI, Visibility, asks_for_copy, read_copy,
    read_history_question, read_report, write_ask, write_copy, write_copy_question, write_history,
    write_history_question, write_leave, write_ping, write_pong, write_report, write_visibility,
};
pub use list::{
    Delta, News, NewsError, Node, REGISTRY_URI, Reason, Snapshot, Stamp, shown_host, write_delta, write_list,
    write_refusal, write_snapshot,
};
pub use options::{Have, Terms, Visible};
pub use registration::{Registration, RegistrationError, RegistrationLimits, write_registration};
pub use replica::{HOLD, Known, Outcome, Replica};
pub use revision::{Digest, Revision};
