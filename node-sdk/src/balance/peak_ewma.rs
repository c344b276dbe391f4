//! Peak EWMA: a latency as a moving average that rises at once and falls slowly, and a cost made of
//! it. Without I/O, locks or a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The average halves after this time without a sample, so that a node that was slow once is tried
/// again.
const HALF_LIFE_MS: u64 = 1024;
/// The weight of a sample below the average, as 1 in this many. A higher sample becomes the
/// average.
const EWMA_SHARE: u64 = 8;

/// The average latency of one member. Times are milliseconds of one clock, given as arguments.
#[derive(Debug, Default)]
pub(crate) struct PeakEwma {
    /// In microseconds; 0 before the first sample.
    latency: AtomicU64,
    /// When the last sample came.
    measured: AtomicU64,
}

impl PeakEwma {
    /// Adds a sample. Of two samples at the same moment, one counts.
    pub(crate) fn record(&self, now_ms: u64, took: Duration) {
        let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let known = self.latency_at(now_ms);
        let mean = if sample >= known { sample } else { known - (known - sample) / EWMA_SHARE };
        self.latency.store(mean, Ordering::Relaxed);
        self.measured.store(now_ms, Ordering::Relaxed);
    }

    /// The average after the last sample, in microseconds; 0 before the first.
    pub(crate) fn latency(&self) -> u64 {
        self.latency.load(Ordering::Relaxed)
    }

    /// The square of the latency, times the calls in flight plus one. Latency counts twice: a slow
    /// node is slow even when it has little to do, while a node with much to do becomes slow, which
    /// its latency then shows.
    pub(crate) fn cost(&self, now_ms: u64, in_flight: u32) -> u64 {
        // The average decays only for a node without calls in flight: one call then measures it
        // again.
        let latency = if in_flight == 0 { self.latency_at(now_ms) } else { self.latency() };
        // A node without a sample costs little, but not nothing when many calls wait for it.
        (latency + 1).saturating_pow(2).saturating_mul(u64::from(in_flight) + 1)
    }

    fn latency_at(&self, now_ms: u64) -> u64 {
        let age = now_ms.saturating_sub(self.measured.load(Ordering::Relaxed));
        self.latency().checked_shr(u32::try_from(age / HALF_LIFE_MS).unwrap_or(u32::MAX)).unwrap_or(0)
    }
}
