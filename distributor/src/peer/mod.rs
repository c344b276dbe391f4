//! One peer: what its frames ask for, and what it is still to be sent. Without I/O: no socket,
//! task, clock or log.

pub(crate) mod command;
pub(crate) mod outbox;
pub(crate) mod read_probe;
