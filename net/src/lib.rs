//! What every process of the mesh needs from the operating system: to listen, to accept for ever, to log, to stop.

mod accept;
mod address_group;
mod frames;
mod log;
mod peer_backlog;
mod process;
mod socket;
mod tcp;
mod virtual_net;

pub use accept::Acceptor;
pub use address_group::network_of;
pub use frames::FrameReader;
pub use log::{Escaped, LineWriter, LogThrottle, LogThrottles, SHOWN_BYTES, Tally, say, shown, shown_json, tracing};
pub use peer_backlog::{BacklogPoller, PeerBacklog};
#[cfg(feature = "cli")]
pub use process::{
    LogFormat, LogGuard, LogLevel, duration, end_at_once, exit_code, init_log, listen_address, log_lines_lost,
    port_owner,
};
pub use process::{
    SliceQueue, TimeSlice, at, log_at_the_end, raise_open_files, stop_on_signals, time_of_day, unique_id,
};
pub use socket::{Listener, Network, Socket, tune};
pub use tcp::{
    BindError, MAX_RECV_BYTES, bind, bind_all, bind_shared, recv_into, recv_now, send_now, tune_patiently, tune_tcp,
};
pub use virtual_net::{Host, Pipe, PipeListener, VirtualNet};
