//! Held sockets as data: the sessions of this gateway, their users and groups, and the messages
//! that wait for each. Pure.
//!
//! It must not know sockets, nodes or tasks. It must not read a clock.

pub(crate) mod envelope;
pub(crate) mod message_pace;
pub(crate) mod outbox;
pub(crate) mod session_id;
pub(crate) mod table;
