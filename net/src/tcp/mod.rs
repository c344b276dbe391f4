//! TCP sockets of the system: listeners, options, reads and writes. The reads and writes are those
//! of Unix sockets, too.
//!
//! It must not know frames or packets. Of this crate it must import only `log`.

mod close;
mod connect;
mod listen;
mod options;
mod syscalls;

pub(crate) use close::close;
pub use connect::{connect_any, look_up, look_up_blocking};
pub use listen::{BindError, bind, bind_all, bind_shared};
pub use options::{set_tcp_options, set_tcp_options_with_timeout};
pub(crate) use syscalls::{poll_writable, recv_buf_now, recv_now, send_now, send_pieces_now};
