//! Which state of the registry a list shows, and how two of them are told apart.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A state of one Distributor's registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// One per start of a Distributor, later ones higher: milliseconds since 1970, or one more than an epoch it succeeds.
    pub epoch: u64,
    /// Counts the changes of that epoch.
    pub rev: u64,
}

impl Revision {
    /// Epochs and revisions beyond this are not taken: not every reader of JSON has larger whole numbers.
    pub const MAX: u64 = (1 << 53) - 1;

    /// Whether every reader of JSON can tell this from its neighbours.
    pub fn is_sound(self) -> bool {
        self.epoch <= Self::MAX && self.rev <= Self::MAX
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.rev)
    }
}

/// A sum over the entries of a list, in any order: equal for equal lists, and for others once in four billion.
///
/// CRC-32 (ISO-HDLC, as in zlib) of `<id>:<entry as it goes over the wire>`, added up modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub u32);

impl Digest {
    /// Adds an entry.
    pub fn add(&mut self, id: u64, entry: &str) {
        self.0 = self.0.wrapping_add(checksum(id, entry));
    }

    /// Takes an entry away that was added.
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
        // As zlib.crc32 of Node.js and Python gives it.
        assert_eq!(sum(&[(1, "{}")]), Digest(crc32fast::hash(b"1:{}")));
        assert_eq!(sum(&[(1, "{}")]), Digest(0xa250_8d22));
        assert_eq!(sum(&[(1, "{}"), (2, "{}")]), sum(&[(2, "{}"), (1, "{}")]));
        assert_ne!(sum(&[(1, "{}")]), sum(&[(2, "{}")]));
        let mut digest = sum(&[(1, "{}"), (2, "[]")]);
        digest.remove(2, "[]");
        assert_eq!(digest, sum(&[(1, "{}")]));
    }
}
