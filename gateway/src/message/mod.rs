//! The parts that messages of both versions of HTTP share. Pure: no socket, no clock.
//!
//! It must not import other folders.

pub(crate) mod answer_fields;
pub(crate) mod body;
pub(crate) mod fields;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod hop_by_hop;
pub(crate) mod location;
pub(crate) mod problem;
pub(crate) mod problem_kind;
pub(crate) mod request_id;
pub(crate) mod response_head;
