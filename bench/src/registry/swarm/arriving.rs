//! A packet that a node of the swarm is being sent.

use memchr::memmem;

/// A packet that is coming in. Ten thousand nodes have no room for ten thousand lists: of a large
/// one that is not parsed, entries are counted as they come, and its head and the stamp at its end
/// are kept.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    pub(super) bytes: Vec<u8>,
    joined: usize,
    left: usize,
    /// The stamp has begun, and everything from it on is kept.
    stamped: bool,
    is_counted: bool,
}

/// Larger ones are counted as they come.
const LARGE: usize = 64 * 1024;
/// Of a large packet, what is kept of its beginning, and what may be the beginning of something at
/// its end. The head has no entry yet.
const HEAD: usize = 48;
const OVERLAP: usize = 24;

impl Arriving {
    /// Where in `rest` it ends, delimiter included.
    pub(super) fn end(&self, rest: &[u8]) -> Option<usize> {
        match (self.bytes.last(), rest.first()) {
            (Some(0xC2), Some(0xB6)) => Some(1),
            _ => memmem::find(rest, "¶".as_bytes()).map(|at| at + 2),
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8], may_count: bool) {
        self.bytes.extend_from_slice(bytes);
        if !may_count || self.stamped || (self.bytes.len() < LARGE && !self.is_counted) {
            return;
        }
        // What begins in the overlap is searched again with what follows.
        let upto = self.bytes.len() - OVERLAP;
        let stamp = memmem::find(&self.bytes[HEAD..], br#","$":{"epoch":"#).map(|at| HEAD + at);
        let upto = stamp.unwrap_or(upto).max(HEAD);
        let count = |what: &[u8]| memmem::find_iter(&self.bytes[HEAD..], what).filter(|at| HEAD + at < upto).count();
        self.joined += count(br#""port":"#);
        self.left += count(br#""reason":"#);
        self.stamped = stamp.is_some();
        self.is_counted = true;
        self.bytes.drain(HEAD..upto);
    }

    /// Entries that it brings, and ids that it takes away.
    pub(super) fn counts(&self) -> (usize, usize) {
        let count = |what: &[u8]| memmem::find_iter(&self.bytes, what).count();
        (self.joined + count(br#""port":"#), self.left + count(br#""reason":"#))
    }
}
