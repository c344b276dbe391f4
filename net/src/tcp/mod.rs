//! TCP sockets of the system: how they listen, their options, and reads and writes of them.
//!
//! It must not know frames or what is on the wire, and imports nothing of this crate but `log`.

mod listen;
mod options;
mod syscalls;

pub use listen::{BindError, bind, bind_all, bind_shared};
pub use options::{set_tcp_options, set_tcp_options_with_timeout};
pub use syscalls::{MAX_RECV_BYTES, recv_into, recv_now, send_now};
