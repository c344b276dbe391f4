//! Rendezvous hashing: which member a key belongs to.

use std::fmt::Display;

/// The score of an address for a key: the same on every node and in every version, so that all
/// callers agree.
pub fn score(key: &str, address: &impl Display) -> u64 {
    let (key, address) = (crc32fast::hash(key.as_bytes()), crc32fast::hash(address.to_string().as_bytes()));
    // The finalizer of SplitMix64: checksums of similar texts are similar, and its results are not.
    let mixed = (u64::from(key) << 32 | u64::from(address)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
