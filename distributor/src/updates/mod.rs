//! What peers are sent, encoded once for all that know the same, and the bytes that it takes.
//! Without I/O: no socket, task, clock or log, and no decision about nodes.

pub(crate) mod budget;
pub(crate) mod encode;
pub(crate) mod lists;
