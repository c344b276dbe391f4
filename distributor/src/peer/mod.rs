//! One peer: the requests in its frames, and the packets that it is still to be sent. Without I/O:
//! no socket, task, clock or log.
//!
//! It must not decide which nodes are listed: the registry does. It must not import `shell`.

pub(crate) mod command;
pub(crate) mod notices;
pub(crate) mod outbox;
pub(crate) mod read_probe;
