//! What the Distributor sends to nodes: whole lists, deltas and refusals.
//!
//! It must not know what a receiver has: a delta is written for the state that it is given.

mod node;
mod packed;
mod update;
mod writer;

pub use self::node::{Node, RegistryEntry, host_text};
pub use self::packed::{MAX_BLOCKS, MAX_UNPACKED_BYTES, UnpackError, UnpackedBlocks, pack, write_block};
pub use self::update::{Delta, LeaveReason, ListUpdate, ListUpdateError, UpdateHeader, WholeList};
pub use self::writer::{
    SuspicionChange, write_delta, write_legacy_list, write_list, write_packed_delta, write_packed_list, write_refusal,
};

/// The uri of most packets between a node and the Distributor.
pub const REGISTRY_URI: &str = "/distributes";
