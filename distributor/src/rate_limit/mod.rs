//! How often something may happen, and when a peer that comes too early is to come back. Without a
//! clock.
//!
//! It must not know what it limits. It must import no other folder.

pub(crate) mod spread;
pub(crate) mod token_bucket;
