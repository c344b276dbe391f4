//! The machine that a test runs on: its programs, networks, terminals and ports.

pub(crate) mod hermetic;
mod namespace;
mod needs;
mod process;
mod terminal;

pub use hermetic::isolate;
pub use namespace::{Container, Namespace};
pub use needs::{can_run, legacy_peers_can_run, tool_is_installed};
pub use process::Process;
pub use terminal::Terminal;
