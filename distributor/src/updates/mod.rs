//! The packets that peers are sent, encoded once for all peers that know the same state, and the
//! bytes that they take. Without I/O: no socket, task, clock or log, and no decision about nodes.

pub(crate) mod budget;
pub(crate) mod encode;
pub(crate) mod lists;
