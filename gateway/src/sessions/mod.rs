//! The sessions that this gateway holds, for all of its workers: what nodes command goes to the
//! queue of each session, from which its socket takes it.
//!
//! It must not know sockets or nodes: `proxy` has them. What it decides, it decides in `core`.

pub(crate) mod core;
mod held_session;
mod held_sessions;

pub(crate) use self::held_session::{HeldSession, NextOfSession, SessionEnding};
pub(crate) use self::held_sessions::{Attached, HeldSessions, SessionTotals};
