//! The parts that messages of both versions of HTTP share. Pure: no socket and no clock, and it
//! imports no other folder.

pub(crate) mod body;
pub(crate) mod fields;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod hop_by_hop;
pub(crate) mod location;
pub(crate) mod problem;
pub(crate) mod response_head;
