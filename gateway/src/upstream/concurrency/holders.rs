//! Requests and tunnels that hold a permit while they wait for their client, and which of them are
//! evicted when permits are short. There is no I/O, and the time is an argument.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::HashMap;
use futures::task::AtomicWaker;
use tokio::time::Instant;

/// While requests wait for a permit, a client that reads or sends fewer bytes a second than this is
/// evicted. Even slow lines are faster. With a lower rate, a few attackers could hold all permits
/// of a server at almost no cost.
pub(crate) const MIN_RATE: u64 = 16 * 1024;
/// How long the rate is measured: a system reports the bytes that a client has read in pieces of 32
/// KiB.
const WINDOW: Duration = Duration::from_secs(2);
/// Number of evicted holders that end at a time; with each sweep, as many more may. The next ends
/// when one has ended. Each end lets in a request that waited, which costs its worker a connection
/// to the server. If all came at once, other requests would wait until all are done.
const ENDING_AT_ONCE: usize = 4;
/// A tunnel that has carried bytes within this time is not evicted.
const MIN_SILENT_TIME: Duration = Duration::from_secs(1);

/// The purpose of a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermitKind {
    /// Requests, of which slow ones are evicted.
    Requests,
    /// Tunnels, of which those that have been silent for longest are evicted.
    Tunnels,
}

/// The holder of a permit that waits for its client, now or from time to time.
#[derive(Debug)]
pub(crate) struct Holder {
    client: IpAddr,
    /// Bytes that have moved; written by one task.
    bytes: AtomicU64,
    /// Whether the holder waits for the client, and not for the server.
    is_waiting: AtomicBool,
    /// Whether the holder is evicted: it ends when it is notified.
    is_evicted: AtomicBool,
    /// Whether the holder has been notified: it ends now.
    is_notified: AtomicBool,
    waker: AtomicWaker,
    /// The index of the holder in the list; [`GONE`] when it has been removed.
    index: AtomicUsize,
}

/// The index of a holder that has been removed.
const GONE: usize = usize::MAX;

/// All holders of one server.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    watched: Vec<WatchedHolder>,
    /// Holders that are evicted and still there.
    evicting: usize,
    /// Evicted holders that are not notified yet, and some that have ended by themselves meanwhile.
    unnotified: VecDeque<Arc<Holder>>,
}

#[derive(Debug)]
struct WatchedHolder {
    holder: Arc<Holder>,
    since: Instant,
    /// The bytes that had moved at the last measurement, and its time.
    seen: u64,
    seen_at: Instant,
    /// Whether it has been fast once.
    is_proven: bool,
}

impl Holder {
    pub(crate) fn set_waiting(&self, waits: bool) {
        self.is_waiting.store(waits, Ordering::Relaxed);
    }

    pub(crate) fn record_bytes(&self, bytes: u64) {
        // Written by one task alone.
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// Bytes that have moved so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Completes when the holder is evicted. One task may wait.
    pub(crate) fn poll_evicted(&self, task: &Context<'_>) -> Poll<()> {
        self.waker.register(task.waker());
        if self.is_notified.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn notify(&self) {
        self.is_notified.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Holders {
    pub(crate) fn add(&mut self, client: IpAddr, now: Instant) -> Arc<Holder> {
        let holder = Arc::new(Holder {
            client,
            bytes: AtomicU64::new(0),
            is_waiting: AtomicBool::new(true),
            is_evicted: AtomicBool::new(false),
            is_notified: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            index: AtomicUsize::new(self.watched.len()),
        });
        let holds = Arc::clone(&holder);
        self.watched.push(WatchedHolder { holder: holds, since: now, seen: 0, seen_at: now, is_proven: false });
        holder
    }

    pub(crate) fn remove(&mut self, holder: &Holder) {
        let index = holder.index.swap(GONE, Ordering::Relaxed);
        self.watched.swap_remove(index);
        if let Some(moved) = self.watched.get(index) {
            moved.holder.index.store(index, Ordering::Relaxed);
        }
        self.evicting -= usize::from(holder.is_evicted.load(Ordering::Relaxed));
        if holder.is_notified.load(Ordering::Relaxed) {
            self.notify_next();
        }
    }

    /// Notifies the next evicted holder that is still there. Returns whether there was one.
    fn notify_next(&mut self) -> bool {
        while let Some(next) = self.unnotified.pop_front() {
            if next.index.load(Ordering::Relaxed) != GONE {
                next.notify();
                return true;
            }
        }
        false
    }

    /// Holders that are being evicted and have not ended yet.
    pub(crate) fn evicting(&self) -> usize {
        self.evicting
    }

    /// Evicts `wanted` holders, or as many as are slow. While at most `usual` wait for their
    /// clients, only slow ones are evicted. Returns how many are evicted.
    pub(crate) fn evict_slow(&mut self, kind: PermitKind, now: Instant, wanted: usize, usual: usize) -> usize {
        let mut holders_of: HashMap<IpAddr, usize> = HashMap::default();
        for watched in self.watched.iter().filter(|watched| !watched.is_evicted()) {
            *holders_of.entry(watched.holder.client).or_default() += 1;
        }
        let count = |watched: &WatchedHolder| holders_of.get(&watched.holder.client).copied().unwrap_or(0);
        // Holders of the clients with the most holders come first, and of each client the slowest,
        // or the longest silent.
        let (mut slow, mut unproven) = (Vec::new(), Vec::new());
        for (at, watched) in self.watched.iter_mut().enumerate() {
            let moved = watched.holder.bytes();
            let (bytes, elapsed) = (moved - watched.seen, now.saturating_duration_since(watched.seen_at));
            let waits = watched.holder.is_waiting.load(Ordering::Relaxed) && !watched.is_evicted();
            match kind {
                PermitKind::Tunnels if bytes > 0 => (watched.seen, watched.seen_at) = (moved, now),
                PermitKind::Tunnels if elapsed >= MIN_SILENT_TIME && !watched.is_evicted() => {
                    slow.push((count(watched), elapsed, at))
                }
                PermitKind::Tunnels => {}
                PermitKind::Requests => {
                    let rate = bytes as f64 / elapsed.as_secs_f64().max(WINDOW.as_secs_f64());
                    let is_quick = rate >= MIN_RATE as f64;
                    watched.is_proven |= is_quick;
                    if elapsed < WINDOW {
                        if waits && !watched.is_proven {
                            let age = now.saturating_duration_since(watched.since);
                            unproven.push((count(watched), std::cmp::Reverse(age), at));
                        }
                    } else if waits && !is_quick {
                        slow.push((count(watched), elapsed.div_f64(rate.max(1.0)), at));
                    } else {
                        (watched.seen, watched.seen_at) = (moved, now);
                    }
                }
            }
        }
        slow.sort_unstable_by(|one, other| other.cmp(one));
        unproven.sort_unstable_by(|one, other| other.cmp(one));
        let waiting_for_clients = self.watched.len() - self.evicting;
        let slow = slow.into_iter().map(|(.., at)| at).take(wanted);
        let before = self.evicting;
        slow.for_each(|at| self.evict(at));
        let evicted = self.evicting - before;
        let beyond = (waiting_for_clients - evicted).saturating_sub(usual).min(wanted - evicted);
        unproven.into_iter().take(beyond).for_each(|(.., at)| self.evict(at));
        let evicted = self.evicting - before;
        for _ in 0..ENDING_AT_ONCE {
            if !self.notify_next() {
                break;
            }
        }
        evicted
    }

    fn evict(&mut self, at: usize) {
        let holder = &self.watched[at].holder;
        holder.is_evicted.store(true, Ordering::Relaxed);
        self.unnotified.push_back(Arc::clone(holder));
        self.evicting += 1;
    }
}

impl WatchedHolder {
    fn is_evicted(&self) -> bool {
        self.holder.is_evicted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct HoldersScene {
        holders: Holders,
        all: Vec<Arc<Holder>>,
        kind: PermitKind,
        now: Instant,
    }

    impl HoldersScene {
        /// A scene with one holder of each of these clients.
        fn new(kind: PermitKind, clients: &[u8]) -> Self {
            let mut scene = Self { holders: Holders::default(), all: Vec::new(), kind, now: Instant::now() };
            clients.iter().for_each(|client| scene.come(*client));
            scene
        }

        fn come(&mut self, client: u8) {
            self.all.push(self.holders.add([10, 0, 0, client].into(), self.now));
        }

        /// The holders that are evicted after this time.
        fn evict_slow(&mut self, after: Duration, wanted: usize, usual: usize) -> Vec<usize> {
            self.now += after;
            let before: Vec<_> = self.all.iter().map(|holder| holder.is_evicted.load(Ordering::Relaxed)).collect();
            let evicted = self.holders.evict_slow(self.kind, self.now, wanted, usual);
            let evicted_now = |at: &usize| self.all[*at].is_evicted.load(Ordering::Relaxed) && !before[*at];
            let gone: Vec<_> = (0..self.all.len()).filter(evicted_now).collect();
            assert_eq!(evicted, gone.len());
            gone
        }
    }

    #[test]
    fn only_holders_below_the_least_rate_are_evicted() {
        let mut scene = HoldersScene::new(PermitKind::Requests, &[0, 1, 2, 3]);
        for (at, bytes) in [(0, 3_000), (1, MIN_RATE * 2), (2, 0), (3, 0)] {
            scene.all[at].record_bytes(bytes);
        }
        scene.all[3].set_waiting(false);
        assert_eq!(scene.evict_slow(SECOND, 9, 9), [0; 0], "no holder is judged that early");
        assert_eq!(scene.evict_slow(SECOND, 1, 9), [2], "the slowest is evicted first");
        assert_eq!(scene.evict_slow(Duration::ZERO, 9, 9), [0]);
        assert_eq!(scene.evict_slow(Duration::ZERO, 9, 9), [0; 0], "one waits for its server");
        assert_eq!(scene.holders.evicting(), 2);
        assert_eq!(scene.evict_slow(2 * SECOND, 9, 9), [1], "it was fast once");
        for at in [1, 0, 2, 3] {
            let holder = Arc::clone(&scene.all[at]);
            scene.holders.remove(&holder);
        }
        assert!(scene.holders.watched.is_empty() && scene.holders.evicting() == 0);
    }

    #[test]
    fn when_nearly_all_wait_for_clients_new_holders_are_evicted() {
        let mut scene = HoldersScene::new(PermitKind::Requests, &[1, 2, 2, 2, 3]);
        scene.all[4].record_bytes(MIN_RATE * 2);
        assert_eq!(scene.evict_slow(SECOND / 10, 9, 5), [0; 0], "this many are usual");
        scene.come(2);
        assert_eq!(scene.evict_slow(SECOND / 10, 9, 5), [5], "the last one of the client with the most");
        assert_eq!(scene.evict_slow(SECOND / 10, 9, 1), [0, 1, 2, 3], "not the fast one");
    }

    #[test]
    fn evicted_holders_end_one_after_the_other() {
        let clients = [1; ENDING_AT_ONCE + 3];
        let mut scene = HoldersScene::new(PermitKind::Requests, &clients);
        assert_eq!(scene.evict_slow(2 * SECOND, 99, 99).len(), clients.len());
        let notified = |scene: &HoldersScene| {
            let is_notified = |holder: &&Arc<Holder>| holder.is_notified.load(Ordering::Relaxed);
            scene.all.iter().filter(is_notified).count()
        };
        assert_eq!(notified(&scene), ENDING_AT_ONCE);
        // One that was not notified ends by itself: it makes no other end.
        let [unnotified, notified_one] = [0, clients.len() - 1].map(|at| Arc::clone(&scene.all[at]));
        scene.holders.remove(&unnotified);
        assert_eq!(notified(&scene), ENDING_AT_ONCE);
        scene.holders.remove(&notified_one);
        assert_eq!(notified(&scene), ENDING_AT_ONCE + 1);
        assert_eq!(scene.evict_slow(Duration::ZERO, 0, 99), [0; 0]);
        assert_eq!(notified(&scene), ENDING_AT_ONCE + 2, "the next sweep notifies the rest");
        assert!(scene.holders.unnotified.is_empty());
    }

    #[test]
    fn the_tunnel_silent_for_longest_is_evicted() {
        let mut scene = HoldersScene::new(PermitKind::Tunnels, &[1, 2, 3]);
        assert_eq!(scene.evict_slow(SECOND / 2, 9, 0), [0; 0]);
        scene.all[0].record_bytes(1);
        assert_eq!(scene.evict_slow(SECOND, 0, 0), [0; 0]);
        scene.come(2);
        assert_eq!(scene.evict_slow(SECOND * 2, 2, 0), [1, 3], "of the client with the most");
        assert_eq!(scene.evict_slow(SECOND, 1, 0), [2]);
        assert_eq!(scene.evict_slow(SECOND, 9, 0), [0]);
    }
}
