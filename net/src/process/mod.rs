//! The process as a whole: command line, signals, limits, ids, and how long a task may work.
//!
//! It must not read or write connections, nor decide when a program stops: it says that it was
//! asked to.

#[cfg(feature = "cli")]
mod cli;
mod ids;
mod notify;
mod open_files;
#[cfg(feature = "cli")]
mod setting;
#[cfg(feature = "cli")]
mod setting_value;
mod signal;
mod terminal;
mod time;
mod time_slice;

#[cfg(feature = "cli")]
pub use cli::{duration, exit_code, exit_now, listen_address, port_owner};
pub use ids::unique_id;
pub use notify::{NOTIFY_SOCKET, notify_systemd};
pub use open_files::raise_open_files;
#[cfg(feature = "cli")]
pub use setting::{
    GivenValue, Setting, SettingPlace, Settings, apply_arguments, most_alike, settings_table, unknown_variables,
};
#[cfg(feature = "cli")]
pub use setting_value::{SettingValue, TextRule, ValueError, ValueKind};
pub use signal::{log_last_line, stop_on_signals, stop_on_signals_unless};
pub use terminal::{HangUp, ignores_hang_ups};
pub use time::{sleep_until_opt, time_of_day};
pub use time_slice::{SliceQueue, TimeSlice};
