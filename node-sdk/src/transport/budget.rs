//! How many bytes a node holds for its callers and for the nodes that it calls: a share for each
//! peer, and a budget for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The default for all callers together: partly received packets, running calls, and parts and
/// responses that were not read. Ten thousand callers have 160 MiB of [`MIN_BYTES`] besides, and
/// the allocator holds 50 % more. So a node that hostile callers fill stays below 1 GB (`drill
/// hostile --only node-memory`). With 384 MiB it had just 1 GB.
pub(crate) const DEFAULT_BYTES: usize = 256 << 20;
/// The default for all called nodes together: partly received packets, and parts of streams that
/// were not read.
pub(crate) const CALLED_BYTES: usize = 256 << 20;
/// Maximum bytes for one caller: several of the largest packets, in either direction.
const MAX_CALLER_BYTES: usize = 64 << 20;
/// Bytes that each peer may always have, so that small calls always get through.
pub(crate) const MIN_BYTES: usize = 16 * 1024;
/// Beyond that, a peer has at most half (1 / this) of the free bytes. So something is always left
/// for the next peer, and many greedy peers end with equal shares.
const FREE_DIVISOR: usize = 2;
/// The budget is charged in portions, so that small changes do not touch the shared counter.
const PORTION: usize = 16 * 1024;

/// The budget that all callers of a node share, or that all nodes share which it calls.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    /// Maximum bytes of one peer.
    max_share: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

/// How many bytes are held for peers, and how often memory was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferUsage {
    /// Bytes of packets, parts and responses that wait. The 16 KiB that each peer may always have
    /// are not counted.
    pub bytes: usize,
    /// The limit: see [`NodeBuilder::max_buffer_bytes`](crate::NodeBuilder::max_buffer_bytes).
    pub limit: usize,
    /// Responses and streams without memory since the start of the node.
    pub refused: u64,
}

impl Budget {
    /// A budget for callers.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Self::with_max_share(limit, MAX_CALLER_BYTES)
    }

    /// A budget for called nodes: one connection may carry all responses that a gateway has asked
    /// for.
    pub(crate) fn for_connections() -> Arc<Self> {
        Self::with_max_share(CALLED_BYTES, CALLED_BYTES)
    }

    pub(crate) fn with_max_share(limit: usize, max_share: usize) -> Arc<Self> {
        Arc::new(Self { limit, max_share, used: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    pub(crate) fn usage(&self) -> BufferUsage {
        let (bytes, refused) = (self.used.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        BufferUsage { bytes, limit: self.limit, refused }
    }

    fn free(&self) -> usize {
        self.limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

/// The share of one peer. Dropping it returns everything.
#[derive(Debug)]
pub(crate) struct PeerShare {
    budget: Arc<Budget>,
    /// The bytes charged to the budget: whole portions.
    charged: usize,
}

impl PeerShare {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), charged: 0 }
    }

    /// Charges the bytes that are held for the peer. Returns how many may be held.
    pub(crate) fn charge(&mut self, held: usize) -> usize {
        let charged = held.saturating_sub(MIN_BYTES).next_multiple_of(PORTION);
        // Two peers at once may exceed the limit by a portion each; no peer is read from then.
        if charged > self.charged {
            self.budget.used.fetch_add(charged - self.charged, Ordering::Relaxed);
        } else if charged < self.charged {
            self.budget.used.fetch_sub(self.charged - charged, Ordering::Relaxed);
        }
        self.charged = charged;
        (self.budget.free() / FREE_DIVISOR).clamp(MIN_BYTES, self.budget.max_share)
    }

    /// Whether anything is charged.
    pub(crate) fn is_charged(&self) -> bool {
        self.charged > 0
    }

    /// Whether this many bytes together may be held.
    pub(crate) fn fits(&self, held: usize) -> bool {
        held <= MIN_BYTES || held <= self.budget.free() + self.charged
    }

    /// Counts one refusal of memory.
    pub(crate) fn count_refusal(&self) {
        self.budget.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for PeerShare {
    fn drop(&mut self) {
        self.charge(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_greedy_peers_have_equal_shares_and_leave_some() {
        #[track_caller]
        fn check(callers: usize, least: usize) {
            let budget = Budget::new(DEFAULT_BYTES);
            let mut shares: Vec<_> = (0..callers).map(|_| (PeerShare::new(&budget), 0)).collect();
            // Each holds as much as it may, a read at a time, until none may hold more.
            while shares.iter_mut().fold(false, |takes, (share, held)| {
                let more = share.charge(*held).saturating_sub(*held).min(PORTION);
                *held += more;
                share.charge(*held);
                takes | (more > 0)
            }) {}
            let most = shares.iter().map(|(_, held)| *held).max().unwrap();
            let fewest = shares.iter().map(|(_, held)| *held).min().unwrap();
            assert!(most - fewest <= 2 * PORTION, "{fewest} to {most}");
            assert!(fewest >= least, "{callers}: {fewest} to {most}");
            let used = budget.usage().bytes;
            assert!(used <= DEFAULT_BYTES + PORTION, "{callers}: {used}");
            assert!(PeerShare::new(&budget).charge(0) >= fewest.min(most) / 2, "the next peer gets some");
            drop(shares);
            assert_eq!(budget.usage().bytes, 0, "all is given back");
        }
        check(1, MAX_CALLER_BYTES);
        check(10, 20 << 20);
        check(1000, 250 << 10);
        check(10_000, 32 << 10);
    }

    #[test]
    fn small_amounts_always_fit() {
        let budget = Budget::new(1 << 20);
        let (mut large, small) = (PeerShare::new(&budget), PeerShare::new(&budget));
        assert!(large.fits(1 << 20) && !large.fits((1 << 20) + 1));
        large.charge(1 << 20);
        assert!(small.fits(MIN_BYTES) && !small.fits(MIN_BYTES + PORTION + 1));
        assert!(large.fits(1 << 20), "bytes that it already holds");
    }
}
