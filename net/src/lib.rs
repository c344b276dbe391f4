//! What every process of the mesh needs from the operating system: to listen, to accept for ever, to log, to stop.

mod accept;
mod address_group;
mod frames;
mod log;
mod peer_backlog;
mod process;
mod socket;
mod tcp;
#[cfg(feature = "virtual-net")]
mod virtual_net;

pub use accept::Acceptor;
pub use address_group::address_group;
pub use frames::FrameReader;
pub use log::{
    Escaped, LineWriter, LogThrottle, LogThrottles, MAX_ESCAPED_BYTES, Tally, escaped, escaped_json, log_safely,
    tracing,
};
pub use peer_backlog::{BacklogPoller, PeerBacklog};
#[cfg(feature = "cli")]
pub use process::{
    LogFormat, LogGuard, LogLevel, duration, exit_code, exit_now, init_log, listen_address, log_lines_lost, port_owner,
};
pub use process::{
    SliceQueue, TimeSlice, log_last_line, raise_open_files, sleep_until_opt, stop_on_signals, time_of_day, unique_id,
};
pub use socket::{Listener, Network, Socket, set_options};
pub use tcp::{
    BindError, MAX_RECV_BYTES, bind, bind_all, bind_shared, recv_into, recv_now, send_now, set_tcp_options,
    set_tcp_options_with_timeout,
};
#[cfg(feature = "virtual-net")]
pub use virtual_net::{Host, Pipe, PipeListener, VirtualNet};
