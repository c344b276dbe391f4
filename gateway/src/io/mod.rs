//! Bytes, time-outs, fair shares of clients, and how long one connection may work.
//!
//! It must not read or write messages, and it must not import other folders.

pub(crate) mod budget;
pub(crate) mod client_pace;
pub(crate) mod fair_queue;
pub(crate) mod heavy_queue;
pub(crate) mod held_sockets;
pub(crate) mod poll_slice;
pub(crate) mod recent_table;
pub(crate) mod response_room;
pub(crate) mod stream;
pub(crate) mod timer;
pub(crate) mod worker_time;
