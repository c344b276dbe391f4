//! Why an event could not be stored.

use thiserror::Error;

use crate::error::CallError;

/// Why a log of events could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// The disk is full. Nothing was stored; make room, or let the log keep less.
    #[error("the disk of the event log is full")]
    Full,
    /// Another process has opened the file.
    #[error("another process uses the file of the event log; each process needs a file of its own")]
    InUse,
    /// The file could not be read or written. Nothing was stored.
    #[error("the file of the event log cannot be used: {0}")]
    Storage(String),
    /// Too many names of subscriptions have been used.
    #[error("the event log has {max} subscriptions already")]
    TooManySubscriptions {
        /// How many there may be.
        max: u64,
    },
    /// The log has ended, with its node or after a fault.
    #[error("the event log has ended")]
    Ended,
}

/// Why an event was not [published](crate::Peers::publish).
#[derive(Debug, Error)]
pub enum PublishError {
    /// The node has no log: give it one with `.event_log(…)`.
    #[error("the node has no event log; give it one with .event_log(…)")]
    NoLog,
    /// The event has a name or a payload that no event can have.
    #[error("the event was not published")]
    Event(#[source] CallError),
    /// It could not be stored.
    #[error("the event was not published")]
    Log(#[from] LogError),
}
