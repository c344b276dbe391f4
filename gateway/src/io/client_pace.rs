//! How fast a client takes what it is sent, while we wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::time::{Duration, Instant};

/// How long a client is waited for before its pace is judged.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes a second that a client takes at the least, while connections are short: as at a server
/// that others wait for.
const MIN_RATE: u64 = 16 * 1024;

/// Counts for how long a client was waited for, and what it took. The client's task writes, and the
/// search for connections to evict reads; a judgement that comes a moment late does no harm, so no
/// order is kept between the counters.
#[derive(Debug)]
pub(crate) struct ClientPace {
    since: Instant,
    /// Responses that wait for the client.
    waiting: AtomicUsize,
    /// Since when, in milliseconds after `since`, from 1.
    waits_from: AtomicU64,
    /// Milliseconds that it was waited for before that.
    waited: AtomicU64,
    bytes: AtomicU64,
}

/// A response that waits for its client, until this is dropped.
pub(crate) struct ClientWait<'a>(&'a ClientPace);

impl ClientPace {
    pub(crate) fn new(since: Instant) -> Self {
        let zero = || AtomicU64::new(0);
        Self { since, waiting: AtomicUsize::new(0), waits_from: zero(), waited: zero(), bytes: zero() }
    }

    /// A response can go on only when the client has taken more.
    pub(crate) fn wait(&self) -> ClientWait<'_> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.waits_from.store(self.now(), Ordering::Relaxed);
        }
        ClientWait(self)
    }

    /// The client has taken `bytes`.
    pub(crate) fn record_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// For how many milliseconds the client has been waited for while it took less than it must;
    /// `None` if it is not waited for, not for long enough, or fast enough: then counting begins
    /// anew. `now`: in milliseconds after the instant given to [`new`](Self::new), from 1.
    pub(crate) fn slow_for(&self, now: u64) -> Option<u64> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let before = self.waited.load(Ordering::Relaxed);
        let waited = before + now.saturating_sub(self.waits_from.load(Ordering::Relaxed));
        if Duration::from_millis(waited) < PATIENCE {
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
