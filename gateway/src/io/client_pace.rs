//! How fast a client reads its responses, while we wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long we wait for a client before its pace is judged.
pub(crate) const JUDGED_AFTER: Duration = Duration::from_secs(1);
/// The least bytes a second that a client must read while connections are short; the same as while
/// permits of a server are short.
const MIN_RATE: u64 = 16 * 1024;

/// Counts for how long we waited for a client, and the bytes that it read. The client's task writes
/// the counters, and the search for connections to evict reads them. A judgement that comes
/// slightly late does no harm, so the counters are not ordered.
#[derive(Debug)]
pub(crate) struct ClientPace {
    since: Instant,
    /// Responses that wait for the client.
    waiting: AtomicUsize,
    /// Since when, in milliseconds after `since`, from 1.
    waits_from: AtomicU64,
    /// Milliseconds of waiting before that.
    waited: AtomicU64,
    bytes: AtomicU64,
}

/// Marks a response as waiting for its client, until it is dropped.
pub(crate) struct ClientWait<'a>(&'a ClientPace);

impl ClientPace {
    pub(crate) fn new(since: Instant) -> Self {
        let zero = || AtomicU64::new(0);
        Self { since, waiting: AtomicUsize::new(0), waits_from: zero(), waited: zero(), bytes: zero() }
    }

    /// Records that a response can continue only when the client has read more.
    pub(crate) fn wait(&self) -> ClientWait<'_> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.waits_from.store(self.now(), Ordering::Relaxed);
        }
        ClientWait(self)
    }

    /// Whether a response can continue only when the client has read more.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Records that the client has read `bytes`.
    pub(crate) fn record_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// For how many milliseconds we have waited for the client while it read less than it must.
    /// `None` if we do not wait, have not waited long enough, or the client is fast enough;
    /// counting then begins again. `now`: in milliseconds after the instant given to
    /// [`new`](Self::new), from 1.
    pub(crate) fn slow_for(&self, now: u64) -> Option<u64> {
        if !self.is_waiting() {
            return None;
        }
        let before = self.waited.load(Ordering::Relaxed);
        let waited = before + now.saturating_sub(self.waits_from.load(Ordering::Relaxed));
        if Duration::from_millis(waited) < JUDGED_AFTER {
            return None;
        }
        if self.bytes.load(Ordering::Relaxed) * 1000 < MIN_RATE * waited {
            return Some(waited);
        }
        self.bytes.store(0, Ordering::Relaxed);
        self.waited.store(0, Ordering::Relaxed);
        self.waits_from.store(now, Ordering::Relaxed);
        None
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX / 4) + 1
    }
}

impl Drop for ClientWait<'_> {
    fn drop(&mut self) {
        let Self(pace) = self;
        if pace.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            let waited = pace.now().saturating_sub(pace.waits_from.load(Ordering::Relaxed));
            pace.waited.fetch_add(waited, Ordering::Relaxed);
        }
    }
}
