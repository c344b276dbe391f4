//! Addresses: of servers, over TCP or a Unix socket, and what counts as one address of peers.
//!
//! It must not decide who is limited, or which server is called.

mod address_group;
mod server_address;
mod unix_path;

pub use address_group::address_group;
pub use server_address::ServerAddress;
pub use unix_path::{MAX_UNIX_PATH_BYTES, UnixPath, UnixPathError};
