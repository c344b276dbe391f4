//! Peers that send whatever a test wants, sound or not.

mod flood;
pub(crate) mod peer;

pub use flood::Flood;
pub use peer::{Listener, Peer};
