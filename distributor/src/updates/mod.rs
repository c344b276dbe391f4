//! The packets that peers are sent, encoded once for all peers that know the same state, and the
//! bytes that they take. Without I/O: no socket, task, clock or log.
//!
//! It must not decide which nodes are listed, or when a peer is sent something. Of the other
//! folders it must import only `entries`.

pub(crate) mod budget;
pub(crate) mod encode;
pub(crate) mod learned;
pub(crate) mod lists;
mod packed_list;
pub(crate) mod packing;
mod partial_lists;
mod published_index;
mod shared_delta;
pub(crate) mod transfers;
