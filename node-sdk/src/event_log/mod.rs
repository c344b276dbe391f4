//! Events that a node keeps on disk until they are handled: the log, and who has read how far.
//!
//! It must not know handlers, connections or other nodes: `node` offers the log to them.

mod deliveries;
mod shared;
mod store;
mod writer;

pub(crate) use self::deliveries::{Consumer, FailureOutcome, StoredEvent};
pub(crate) use self::shared::{EventLog, ReaderStep, Subscription};
pub(crate) use self::store::{LogLimits, NewEvent, StartPosition};
