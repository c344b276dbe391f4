//! What every process of the mesh needs from the operating system: to listen, to accept for ever, to log, to stop.

mod accept;
#[cfg(feature = "cli")]
mod cli;
mod direct;
mod frames;
mod lines;
mod listen;
mod local_queues;
mod log;
mod network;
mod nofile;
mod shown;
mod signal;
mod socket;
mod throttle;
mod time;
mod time_slice;
mod tune;
mod unique;
mod virtual_net;

pub use accept::Acceptor;
#[cfg(feature = "cli")]
pub use cli::{
    LogFormat, LogGuard, LogLevel, duration, end_at_once, exit_code, init_log, listen_address, log_lines_lost,
    port_owner,
};
pub use direct::{MAX_RECV_BYTES, recv_into, recv_now, send_now};
pub use frames::FrameReader;
pub use lines::LineWriter;
pub use listen::{BindError, bind, bind_all, bind_shared};
pub use local_queues::{LocalQueues, Look};
pub use log::{say, tracing};
pub use network::network_of;
pub use nofile::raise_open_files;
pub use shown::{SHOWN_BYTES, Shown, shown, shown_json};
pub use signal::{log_at_the_end, stop_on_signals};
pub use socket::{Listener, Network, Socket};
pub use throttle::{Tally, Throttle, Throttles};
pub use time::{at, time_of_day};
pub use time_slice::{Busy, TimeSlice};
pub use tune::{tune, tune_patiently, tune_tcp};
pub use unique::unique_id;
pub use virtual_net::{Host, Pipe, PipeListener, VirtualNet};
