//! A packet that is arriving at a node of the swarm.

use memchr::memmem;

/// A packet of which a part has arrived. Memory has no room for a list in each of ten thousand
/// nodes. So the entries of a large packet are counted as they arrive, and only its head, and the
/// revision and digest at its end, are kept.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    pub(super) bytes: Vec<u8>,
    joined: usize,
    left: usize,
    /// Whether the revision has begun to arrive. All bytes from there on are kept.
    has_revision: bool,
    is_counted: bool,
    /// Where the kept part of the packet ends, if its entries are packed.
    packed_at: Option<usize>,
}

/// The entries of larger packets are counted as they arrive.
const COUNTED_BYTES: usize = 64 * 1024;
/// The bytes at the beginning of a large packet that are kept. No entry begins there.
const HEAD_BYTES: usize = 48;
/// The bytes at the end that are searched again, because a text may have arrived only in part.
const OVERLAP_BYTES: usize = 24;
/// The bytes after which packed entries begin.
const PACKED: &[u8] = br#","packed":["#;

impl Arriving {
    /// Where in `rest` the packet ends, with its delimiter.
    pub(super) fn end(&self, rest: &[u8]) -> Option<usize> {
        match (self.bytes.last(), rest.first()) {
            (Some(0xC2), Some(0xB6)) => Some(1),
            _ => memmem::find(rest, "¶".as_bytes()).map(|at| at + 2),
        }
    }

    /// Adds bytes. With `may_count`, a large packet is only counted.
    pub(super) fn add(&mut self, bytes: &[u8], may_count: bool) {
        if bytes.is_empty() {
            return;
        }
        if let Some(at) = self.packed_at {
            // Only the last byte is needed, which may be half a delimiter.
            self.bytes.truncate(at);
            self.bytes.extend(bytes.last());
            return;
        }
        self.bytes.extend_from_slice(bytes);
        if may_count && let Some(at) = memmem::find(&self.bytes, PACKED) {
            self.packed_at = Some(at + PACKED.len());
            self.bytes.truncate(at + PACKED.len());
            self.bytes.extend(bytes.last());
            return;
        }
        if !may_count || self.has_revision || (self.bytes.len() < COUNTED_BYTES && !self.is_counted) {
            return;
        }
        // A text that begins in the overlap is counted when the rest has arrived.
        let upto = self.bytes.len() - OVERLAP_BYTES;
        let revision_at = memmem::find(&self.bytes[HEAD_BYTES..], br#","$":{"epoch":"#).map(|at| HEAD_BYTES + at);
        let upto = revision_at.unwrap_or(upto).max(HEAD_BYTES);
        let count = |what: &[u8]| {
            memmem::find_iter(&self.bytes[HEAD_BYTES..], what).filter(|at| HEAD_BYTES + at < upto).count()
        };
        self.joined += count(br#""port":"#);
        self.left += count(br#""reason":"#);
        self.has_revision = revision_at.is_some();
        self.is_counted = true;
        self.bytes.drain(HEAD_BYTES..upto);
    }

    /// Whether its entries are packed, so that they are not counted.
    pub(super) fn is_packed(&self) -> bool {
        self.packed_at.is_some()
    }

    /// The number of entries that it adds, and of those that it removes.
    pub(super) fn counts(&self) -> (usize, usize) {
        let count = |what: &[u8]| memmem::find_iter(&self.bytes, what).count();
        (self.joined + count(br#""port":"#), self.left + count(br#""reason":"#))
    }
}
