//! States of the registry: their revision, and the digest of their entries.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A state of the registry of one Distributor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// A number for each start of a Distributor, and higher at each: milliseconds since 1970, or
    /// one more than the epoch that it continues.
    pub epoch: u64,
    /// Counts the changes in that epoch.
    pub rev: u64,
}

impl Revision {
    /// The largest epoch or revision. Not every JSON reader keeps larger integers exact.
    pub const MAX: u64 = (1 << 53) - 1;

    /// Whether every JSON reader keeps both numbers exact.
    pub fn is_sound(self) -> bool {
        self.epoch <= Self::MAX && self.rev <= Self::MAX
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.rev)
    }
}

/// A checksum over the entries of a list, in any order. Equal lists have equal digests. Two
/// different lists have the same digest once in four billion cases.
///
/// CRC-32 (ISO-HDLC, as in zlib) of `<id>:<entry as it goes over the wire>`, added up modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub u32);

impl Digest {
    /// Adds an entry.
    pub fn add(&mut self, id: u64, entry: &str) {
        self.0 = self.0.wrapping_add(checksum(id, entry));
    }

    /// Removes an entry that was added.
    pub fn remove(&mut self, id: u64, entry: &str) {
        self.0 = self.0.wrapping_sub(checksum(id, entry));
    }
}

fn checksum(id: u64, entry: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(id.to_string().as_bytes());
    hasher.update(b":");
    hasher.update(entry.as_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_epochs_are_higher_whatever_their_revision() {
        let revision = |epoch, rev| Revision { epoch, rev };
        assert!(revision(1, 900) < revision(2, 0) && revision(2, 0) < revision(2, 1));
        assert!(revision(Revision::MAX, 0).is_sound() && !revision(Revision::MAX + 1, 0).is_sound());
    }

    #[test]
    fn digests_do_not_depend_on_order_and_tell_entries_apart() {
        let sum = |entries: &[(u64, &str)]| {
            let mut digest = Digest::default();
            entries.iter().for_each(|(id, entry)| digest.add(*id, entry));
            digest
        };
        // The value of zlib.crc32 in Node.js and Python.
        assert_eq!(sum(&[(1, "{}")]), Digest(crc32fast::hash(b"1:{}")));
        assert_eq!(sum(&[(1, "{}")]), Digest(0xa250_8d22));
        assert_eq!(sum(&[(1, "{}"), (2, "{}")]), sum(&[(2, "{}"), (1, "{}")]));
        assert_ne!(sum(&[(1, "{}")]), sum(&[(2, "{}")]));
        let mut digest = sum(&[(1, "{}"), (2, "[]")]);
        digest.remove(2, "[]");
        assert_eq!(digest, sum(&[(1, "{}")]));
    }
}
