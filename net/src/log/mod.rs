//! Lines of log that may fail, and take nothing with them; how often they are written, by whom, and foreign text in them.
//!
//! It must not wait for the disk, the terminal or the pipe that a log goes to, and imports nothing of this crate.

mod escape;
mod throttle;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use escape::{Escaped, MAX_ESCAPED_BYTES, escaped, escaped_json};
pub use throttle::{LogThrottle, LogThrottles, Tally};
#[doc(hidden)]
pub use tracing;
pub use writer::LineWriter;

/// Has a line written by whatever subscriber there is. One that panics, as those of many programs do when nobody reads their standard output
/// and error any more, loses the line: the task that had something to say goes on. Without that, a node that goes on serving would not
/// be registered any more, or not be told of changes, because the connection to the Distributor has a log. What `line` computes is
/// only read, so nothing is left half done.
#[inline]
pub fn log_safely(line: impl FnOnce()) {
    // The panic hook has said what there was to say.
    let _lost = catch_unwind(AssertUnwindSafe(line));
}

/// As `tracing::error!`, for tasks that have to live on: see [`say`](crate::log_safely).
#[macro_export]
macro_rules! error {
    ($($line:tt)*) => { $crate::log_safely(|| $crate::tracing::error!($($line)*)) };
}

/// As `tracing::warn!`, for tasks that have to live on: see [`say`](crate::log_safely).
#[macro_export]
macro_rules! warn {
    ($($line:tt)*) => { $crate::log_safely(|| $crate::tracing::warn!($($line)*)) };
}

/// As `tracing::info!`, for tasks that have to live on: see [`say`](crate::log_safely).
#[macro_export]
macro_rules! info {
    ($($line:tt)*) => { $crate::log_safely(|| $crate::tracing::info!($($line)*)) };
}

/// As `tracing::debug!`, for tasks that have to live on: see [`say`](crate::log_safely).
#[macro_export]
macro_rules! debug {
    ($($line:tt)*) => { $crate::log_safely(|| $crate::tracing::debug!($($line)*)) };
}
