//! The memory that packets take until all their receivers have read them, for all connections
//! together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};

/// Counts bytes that are held for peers, up to a limit. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct UpdateBudget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl UpdateBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: Arc::default(), limit }
    }

    /// Bytes that may be held.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether this many more bytes fit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.limit
    }

    /// Whether more than half of the limit is used. Peers that hold bytes for long are then cut.
    pub(crate) fn is_short(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Reserves bytes, even beyond the limit.
    pub(crate) fn reserve(&self, bytes: usize) -> Reservation {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Reservation { used: Arc::clone(&self.used), bytes }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A packet on its way to one peer: bytes of its own, and bytes that many peers are sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutPacket {
    own: Bytes,
    shared: Bytes,
    grant: Option<Arc<Reservation>>,
}

impl OutPacket {
    /// Packets up to this size are not counted: each connection has at most one.
    pub(crate) const UNRESERVED_BYTES: usize = 4 * 1024;

    /// A packet whose bytes are counted until its last receiver has read them.
    pub(crate) fn reserved(packet: Bytes, memory: &UpdateBudget) -> Self {
        let is_large = packet.len() > Self::UNRESERVED_BYTES;
        let grant = is_large.then(|| Arc::new(memory.reserve(packet.len())));
        Self { own: Bytes::new(), shared: packet, grant }
    }

    /// A copy of the packet whose first `replaced` bytes are `own` instead.
    pub(crate) fn with_own_head(&self, own: Bytes, replaced: usize) -> Self {
        Self { own, shared: self.shared.slice(replaced..), grant: self.grant.clone() }
    }

    pub(crate) fn len(&self) -> usize {
        self.own.len() + self.shared.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.shared.is_empty()
    }

    /// Whether the packet is large enough to be counted.
    pub(crate) fn is_reserved(&self) -> bool {
        self.grant.is_some()
    }

    /// The bytes that go out next.
    pub(crate) fn next(&self) -> Bytes {
        if self.own.is_empty() { self.shared.clone() } else { self.own.clone() }
    }

    /// The packet's bytes in one piece.
    pub(crate) fn in_one_piece(self) -> Self {
        if self.own.is_empty() {
            return self;
        }
        let shared = [&self.own[..], &self.shared[..]].concat().into();
        Self { own: Bytes::new(), shared, grant: self.grant }
    }

    /// Records that this many bytes were written.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let own = bytes.min(self.own.len());
        self.own.advance(own);
        self.shared.advance(bytes - own);
        if self.is_empty() {
            // A peer that has read a large packet holds no memory for it.
            *self = Self::default();
        }
    }

    /// All bytes, for tests.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Bytes {
        self.clone().in_one_piece().shared
    }
}

impl From<Bytes> for OutPacket {
    /// A small packet of the peer's own.
    fn from(packet: Bytes) -> Self {
        Self { own: Bytes::new(), shared: packet, grant: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_the_last_peer_has_taken_them() {
        let memory = UpdateBudget::new(100_000);
        let packet = OutPacket::reserved(vec![7; 60_000].into(), &memory);
        assert!(memory.is_short() && !memory.has_room(50_000) && memory.has_room(40_000));
        let mut other = packet.with_own_head(Bytes::from_static(b"abc"), 2);
        assert_eq!((other.len(), memory.used()), (60_001, 60_000), "shared bytes count once");
        drop(packet);
        other.advance(60_000);
        assert_eq!((other.len(), memory.used()), (1, 60_000));
        other.advance(1);
        assert_eq!((other.len(), memory.used()), (0, 0));
        drop(OutPacket::reserved(vec![0; OutPacket::UNRESERVED_BYTES].into(), &memory));
        let grant = memory.reserve(10);
        assert_eq!(memory.used(), 10);
        drop(grant);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_packet_goes_out_in_order() {
        let shared = OutPacket::from(Bytes::from_static(b"0,rest"));
        let mut packet = shared.with_own_head(Bytes::from_static(b"key"), 1);
        assert_eq!(&packet.bytes()[..], b"key,rest");
        let mut seen = Vec::new();
        while !packet.is_empty() {
            let next = packet.next();
            let taken = next.len().min(2);
            seen.extend_from_slice(&next[..taken]);
            packet.advance(taken);
        }
        assert_eq!(seen, b"key,rest");
    }
}
