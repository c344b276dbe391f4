//! What concerns the process as a whole: its command line, its signals, its time and its limits.
//!
//! It must not read or write connections.

#[cfg(feature = "cli")]
mod cli;
mod ids;
mod open_files;
mod signal;
mod time;
mod time_slice;

#[cfg(feature = "cli")]
pub use cli::{
    LogFormat, LogGuard, LogLevel, duration, end_at_once, exit_code, init_log, listen_address, log_lines_lost,
    port_owner,
};
pub use ids::unique_id;
pub use open_files::raise_open_files;
pub use signal::{log_at_the_end, stop_on_signals};
pub use time::{at, time_of_day};
pub use time_slice::{SliceQueue, TimeSlice};
