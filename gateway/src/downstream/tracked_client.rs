//! One client and its activity, as the search for clients to evict sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::io::client_pace::ClientPace;

/// A client as the list of clients sees it.
#[derive(Debug)]
pub(crate) struct TrackedClient {
    /// Cancelled when the client should be closed after its present requests.
    pub(crate) stop: CancellationToken,
    since: Instant,
    /// A [`ClientActivity`], as its bits.
    activity: AtomicU64,
    /// Whether the client must be closed now.
    pub(super) is_evicted: AtomicBool,
    waker: AtomicWaker,
    /// Whether the client is being evicted, in either way.
    pub(super) is_notified: AtomicBool,
    /// The position of the client in the list.
    pub(super) index: AtomicUsize,
    /// Whether the tracker was crowded when it came.
    is_crowded: bool,
    /// How fast it reads its responses.
    pub(crate) pace: Arc<ClientPace>,
}

/// The activity of a client. Times are in milliseconds after the start of the tracker, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientActivity {
    /// The client has a request under way.
    Busy,
    /// The client has nothing under way.
    Idle { since: u64 },
    /// The client has begun a head, a handshake or a body, and not finished it.
    Started { since: u64 },
}

impl ClientActivity {
    const IS_STARTED: u64 = 1;

    const fn to_bits(self) -> u64 {
        match self {
            Self::Busy => 0,
            Self::Idle { since } => since << 1,
            Self::Started { since } => since << 1 | Self::IS_STARTED,
        }
    }

    const fn from_bits(bits: u64) -> Self {
        match bits {
            0 => Self::Busy,
            _ if bits & Self::IS_STARTED == 0 => Self::Idle { since: bits >> 1 },
            _ => Self::Started { since: bits >> 1 },
        }
    }
}

impl TrackedClient {
    pub(super) fn new(stop: CancellationToken, since: Instant, is_crowded: bool) -> Self {
        Self {
            stop,
            since,
            activity: AtomicU64::new(ClientActivity::Busy.to_bits()),
            is_evicted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            is_notified: AtomicBool::new(false),
            index: AtomicUsize::new(0),
            is_crowded,
            pace: Arc::new(ClientPace::new(since)),
        }
    }

    /// Whether the tracker was crowded when the client came. Such a client may have fewer requests
    /// at a time.
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// A client that is never evicted.
    pub(crate) fn untracked(stop: CancellationToken) -> Self {
        Self::new(stop, Instant::now(), false)
    }

    pub(super) fn activity(&self) -> ClientActivity {
        ClientActivity::from_bits(self.activity.load(Ordering::Relaxed))
    }

    fn set_activity(&self, activity: ClientActivity) {
        self.activity.store(activity.to_bits(), Ordering::Relaxed);
    }

    /// Records that the client has nothing under way.
    pub(crate) fn mark_idle(&self, now: Instant) {
        self.set_activity(ClientActivity::Idle { since: millis_after(self.since, now) });
    }

    /// Records that the client has begun a message, and that nothing can be done before more of it
    /// arrives.
    pub(crate) fn mark_started(&self, now: Instant) {
        self.set_activity(ClientActivity::Started { since: millis_after(self.since, now) });
    }

    /// Records that the client has a request under way.
    pub(crate) fn mark_busy(&self) {
        self.set_activity(ClientActivity::Busy);
    }

    /// Completes when the client has to be closed at once. One task may wait.
    pub(crate) fn poll_evicted(&self, task: &Context<'_>) -> Poll<()> {
        self.waker.register(task.waker());
        if self.is_evicted.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Evicts the client. Between two requests it may be about to send one, so it is told to close
    /// first. A client that has begun a message and does not continue is closed at once.
    pub(super) fn evict(&self) {
        self.is_notified.store(true, Ordering::Relaxed);
        match self.activity() {
            ClientActivity::Idle { .. } => self.stop.cancel(),
            ClientActivity::Started { .. } | ClientActivity::Busy => {
                self.is_evicted.store(true, Ordering::Release);
                self.waker.wake();
            }
        }
    }
}

/// Milliseconds from `since` to `at`, plus one.
pub(super) fn millis_after(since: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX / 4) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activities_are_read_back() {
        let check = |activity: ClientActivity| {
            assert_eq!(ClientActivity::from_bits(activity.to_bits()), activity);
        };
        check(ClientActivity::Busy);
        check(ClientActivity::Idle { since: 1 });
        check(ClientActivity::Started { since: 1 });
        check(ClientActivity::Idle { since: u64::MAX / 4 + 1 });
        check(ClientActivity::Started { since: u64::MAX / 4 + 1 });
    }
}
