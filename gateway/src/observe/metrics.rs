//! Counters of a worker: one thread counts, another one reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histogram of request times, in microseconds. No request takes longer than a
/// hundred seconds.
pub(super) const BOUNDS_US: [u64; 10] = [250, 500, 1000, 2500, 5000, 10_000, 50_000, 250_000, 1_000_000, 10_000_000];

/// Counters of one worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// The number of responses by status, from 100 to 599.
    pub(super) responses: [AtomicU64; 500],
    /// Requests that ended without a response, mostly because the client closed.
    pub(super) unanswered: AtomicU64,
    /// Connected clients.
    pub(super) connections: AtomicU64,
    /// Maximum uncounted bytes of all clients.
    pub(super) uncounted: AtomicU64,
    /// Requests by the lowest bound above their time; the last counts all others.
    pub(super) times: [AtomicU64; BOUNDS_US.len() + 1],
    pub(super) time_us: AtomicU64,
    /// Responses of servers that were malformed, or cut.
    pub(super) malformed_responses: AtomicU64,
    /// Fields of requests that servers were not given, because of a `_` in their names.
    pub(super) fields_left_out: AtomicU64,
    /// How often a heavy connection waited for its turn.
    pub(super) turn_waits: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            responses: [const { AtomicU64::new(0) }; 500],
            unanswered: AtomicU64::default(),
            connections: AtomicU64::default(),
            uncounted: AtomicU64::default(),
            times: Default::default(),
            time_us: AtomicU64::default(),
            malformed_responses: AtomicU64::default(),
            fields_left_out: AtomicU64::default(),
            turn_waits: AtomicU64::default(),
        }
    }
}

impl Metrics {
    /// Counts a request that was answered, or given up if there is no status.
    pub(crate) fn record_request(&self, status: Option<u16>, took: Duration) {
        let counter = status.and_then(|status| self.responses.get(usize::from(status).checked_sub(100)?));
        counter.unwrap_or(&self.unanswered).fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.times[at].fetch_add(1, Ordering::Relaxed);
        self.time_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Records that a server has sent a malformed response, or a part of one.
    pub(crate) fn record_malformed_response(&self) {
        self.malformed_responses.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that this many fields of a request were left out for its server.
    pub(crate) fn record_fields_left_out(&self, count: u64) {
        self.fields_left_out.fetch_add(count, Ordering::Relaxed);
    }

    /// Records that a heavy connection has to wait for its turn.
    pub(crate) fn record_turn_wait(&self) {
        self.turn_waits.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connected client until the returned value is dropped.
    pub(crate) fn count_connection(self: &Arc<Self>) -> ConnectionCount {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(self))
    }

    /// Counts bytes that a client may take beside the counted ones, until the returned value is
    /// dropped.
    pub(crate) fn count_uncounted(&self, bytes: usize) -> UncountedBytes<'_> {
        self.uncounted.fetch_add(bytes as u64, Ordering::Relaxed);
        UncountedBytes(self, bytes)
    }
}

/// A client that is connected.
#[derive(Debug)]
pub(crate) struct ConnectionCount(Arc<Metrics>);

/// Maximum uncounted bytes of a client.
#[derive(Debug)]
pub(crate) struct UncountedBytes<'a>(&'a Metrics, usize);

impl Drop for UncountedBytes<'_> {
    fn drop(&mut self) {
        self.0.uncounted.fetch_sub(self.1 as u64, Ordering::Relaxed);
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
