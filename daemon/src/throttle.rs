//! One log line per cause and period, however often it happens.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one event per period through and counts the others.
#[derive(Clone, Debug)]
pub struct Throttle {
    period: Duration,
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// How often one cause may show in the log.
    pub const LOG_PERIOD: Duration = Duration::from_secs(10);

    /// A throttle that lets the first event through at once.
    pub fn new(period: Duration) -> Self {
        Self { period, last: None, held_back: 0 }
    }

    /// `Some(n)` when this event may show, n being how many were held back since the last that did.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + self.period) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new(Self::LOG_PERIOD)
    }
}

/// A [`Throttle`] for each of some causes, shared by all whom they happen to.
#[derive(Debug, Default)]
pub struct Throttles {
    by_cause: Mutex<BTreeMap<&'static str, Throttle>>,
}

impl Throttles {
    /// As [`Throttle::pass`], for one cause.
    pub fn pass(&self, cause: &'static str, now: Instant) -> Option<u64> {
        let mut by_cause = self.by_cause.lock().unwrap_or_else(PoisonError::into_inner);
        by_cause.entry(cause).or_default().pass(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn one_event_per_period_passes() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(10));
        for (second, passed) in [(0, Some(0)), (1, None), (9, None), (10, Some(2)), (25, Some(0)), (26, None)] {
            assert_eq!(throttle.pass(start + Duration::from_secs(second)), passed, "{second}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn causes_do_not_hide_one_another() {
        let (throttles, start) = (Throttles::default(), Instant::now());
        let seen = ["a", "a", "b", "a"].map(|cause| throttles.pass(cause, start));
        assert_eq!(seen, [Some(0), None, Some(0), None]);
        assert_eq!(throttles.pass("a", start + Throttle::LOG_PERIOD), Some(2));
    }
}
