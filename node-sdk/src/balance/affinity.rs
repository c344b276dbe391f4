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

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores that every language comes to. A score is text, because JavaScript rounds such
    /// numbers.
    const VECTORS: &str = include_str!("../../../protocol/tests/vectors/rendezvous.json");

    #[derive(serde::Deserialize)]
    struct Vector {
        key: String,
        address: std::net::SocketAddr,
        score: String,
    }

    #[test]
    fn scores_are_those_of_other_languages() {
        let vectors: Vec<Vector> = serde_json::from_str(VECTORS).unwrap();
        assert!(vectors.len() >= 25, "{}", vectors.len());
        for Vector { key, address, score: expected } in vectors {
            assert_eq!(score(&key, &address).to_string(), expected, "{key:?} {address}");
        }
    }
}
