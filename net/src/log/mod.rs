//! Logging that cannot harm the task that logs: lines that may fail, a thread that writes them,
//! limits on how often one cause is logged, and escaped text from peers.
//!
//! The lines of a program without a tracing subscriber can be printed.
//!
//! It must not wait for the disk, terminal or pipe that a log goes to. It must not import other
//! parts of this crate.

mod escape;
mod plain;
#[cfg(feature = "log")]
mod subscriber;
mod throttle;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use escape::{Escaped, MAX_ESCAPED_BYTES, escaped, escaped_json};
pub(crate) use plain::flush_printed;
pub use plain::{hint_without_subscriber, print_without_subscriber};
#[cfg(feature = "cli")]
pub(crate) use subscriber::flush_log;
#[cfg(feature = "log")]
pub use subscriber::{LogFormat, LogGuard, LogLevel, init_log, log_lines_lost};
pub use throttle::{KeyedThrottle, LogThrottle, LogThrottles, Tally};
#[doc(hidden)]
pub use tracing;
pub use writer::LineWriter;

/// Runs a log call that may panic, as the subscribers of many programs do when their standard error
/// has been closed. The line is lost then, and the task continues. Without this, a node that still
/// serves could lose its registration, because the task that keeps it logs. The arguments of `line`
/// are only read, so nothing is left half done.
#[inline]
pub fn log_safely(line: impl FnOnce()) {
    // The panic hook has reported it.
    let _lost = catch_unwind(AssertUnwindSafe(line));
}

/// As [`log_safely`], for lines that are printed if the program has no subscriber: see
/// [`print_without_subscriber`].
pub fn log_or_print(line: impl FnOnce()) {
    log_safely(|| plain::with_subscriber(line));
}

/// As [`log_or_print`], for lines about a loss. The first of them that goes nowhere is printed: see
/// [`hint_without_subscriber`].
pub fn log_or_hint(line: impl FnOnce()) {
    log_safely(|| plain::with_subscriber_or_hint(line));
}

/// As `tracing::error!`, for tasks that must go on: see [`net::log_safely`](crate::log_safely).
#[macro_export]
macro_rules! error {
    ($($line:tt)*) => { $crate::log_or_hint(|| $crate::tracing::error!($($line)*)) };
}

/// As `tracing::warn!`, for tasks that must go on: see [`net::log_safely`](crate::log_safely).
#[macro_export]
macro_rules! warn {
    ($($line:tt)*) => { $crate::log_or_hint(|| $crate::tracing::warn!($($line)*)) };
}

/// As `tracing::info!`, for tasks that must go on: see [`net::log_safely`](crate::log_safely).
#[macro_export]
macro_rules! info {
    ($($line:tt)*) => { $crate::log_or_print(|| $crate::tracing::info!($($line)*)) };
}

/// As `tracing::debug!`, for tasks that must go on: see [`net::log_safely`](crate::log_safely).
#[macro_export]
macro_rules! debug {
    ($($line:tt)*) => { $crate::log_safely(|| $crate::tracing::debug!($($line)*)) };
}
