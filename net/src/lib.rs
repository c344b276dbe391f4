//! What every process of the mesh needs from the operating system: sockets, logs, signals, limits.
//!
//! The two daemons and the node SDK share it. It decides nothing: it does not know what a packet
//! means, which node is called, or when a program stops.
//!
//! | to | start with |
//! |---|---|
//! | listen and accept | [`bind`] and [`Acceptor`] |
//! | connect | [`Network`], or [`ServerAddress`] for TCP and Unix sockets |
//! | read packets | [`FrameReader`] |
//! | send many small messages | [`SendQueue`] |
//! | log without blocking, and not too often | `init_log` (feature `log`) and [`LogThrottle`] |
//! | read settings | `settings!` and `Setting` (feature `cli`) |
//! | answer operators | [`serve_admin`] |
//! | stop in order | [`stop_on_signals`] |
//! | let other tasks run | [`TimeSlice`] |
//!
//! ```
//! use std::time::Duration;
//!
//! use net::{Acceptor, FrameReader, Network, bind};
//! use protocol::Packet;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = bind("127.0.0.1:0".parse()?)?;
//! let address = listener.local_addr()?;
//! let caller = Network::default().connect_to(address).await?;
//! let (socket, _peer) = Acceptor::new(listener).accept().await;
//!
//! caller.try_write("{\"uri\":\"/hello\"}¶".as_bytes())?;
//! let mut reader = FrameReader::new(64 * 1024);
//! let frame = loop {
//!     socket.readable().await?;
//!     assert!(reader.fill(&socket)?, "the caller has not closed its side");
//!     if let Some(frame) = reader.next_frame()? {
//!         break frame;
//!     }
//! };
//! assert_eq!(Packet::parse(&frame)?.uri(), "/hello");
//! assert!(reader.deadline(Duration::from_secs(10)).is_none(), "no frame is unfinished");
//! # Ok(())
//! # }
//! ```

mod address;
mod admin;
pub mod buffers;
mod log;
mod process;
mod send_queue;
mod socket;
mod tcp;

pub use address::{MAX_UNIX_PATH_BYTES, ServerAddress, UnixPath, UnixPathError, address_group};
pub use admin::{AdminPage, serve_admin};
#[cfg(feature = "cli")]
pub(crate) use log::flush_log;
pub use log::{
    Escaped, KeyedThrottle, LineWriter, LogThrottle, LogThrottles, MAX_ESCAPED_BYTES, Tally, escaped, escaped_json,
    hint_without_subscriber, log_or_hint, log_or_print, log_safely, print_without_subscriber, tracing,
};
#[cfg(feature = "log")]
pub use log::{LogFormat, LogGuard, LogLevel, init_log, log_lines_lost};
#[cfg(feature = "cli")]
pub use process::{
    GivenValue, Setting, SettingPlace, SettingValue, Settings, TextRule, ValueError, ValueKind, apply_arguments,
    duration, exit_code, exit_now, listen_address, most_alike, port_owner, settings_table, unknown_variables,
};
pub use process::{
    HangUp, NOTIFY_SOCKET, SliceQueue, TimeSlice, ignores_hang_ups, log_last_line, notify_systemd, raise_open_files,
    sleep_until_opt, stop_on_signals, stop_on_signals_unless, time_of_day, unique_id,
};
pub use send_queue::{MAX_QUEUED_BYTES, QueuedSocket, SendQueue};
pub use socket::{
    Acceptor, BacklogPoller, FrameReader, Listener, Network, PeerBacklog, ReadNow, Socket, set_socket_options,
};
#[cfg(feature = "virtual-net")]
pub use socket::{Host, Pipe, PipeListener, VirtualNet};
pub use tcp::{
    BindError, bind, bind_all, bind_shared, connect_any, look_up, look_up_blocking, set_tcp_options,
    set_tcp_options_with_timeout,
};
