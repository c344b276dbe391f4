//! Limits on how often one cause is logged.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Allows one event per period, or several, and counts the others.
#[derive(Clone, Debug)]
pub struct LogThrottle {
    period: Duration,
    /// Events that are allowed in each period.
    burst: u32,
    /// When the period began, and how many events were allowed since.
    begin: Option<Instant>,
    allowed: u32,
    suppressed: u64,
}

impl LogThrottle {
    /// How often one cause may be logged.
    pub const LOG_PERIOD: Duration = Duration::from_secs(10);

    /// A throttle that allows one event in each period, the first at once.
    pub fn new(period: Duration) -> Self {
        Self::with_burst(1, period)
    }

    /// A throttle that allows `burst` events in each period, for events that are of interest one by
    /// one, such as joins, until there are too many. A period begins with the first event after the
    /// previous period.
    pub fn with_burst(burst: u32, period: Duration) -> Self {
        Self { period, burst, begin: None, allowed: 0, suppressed: 0 }
    }

    /// `Some(n)` when this event may be logged; n events were suppressed since the last logged one.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.is_new_period(now) {
            (self.begin, self.allowed) = (Some(now), 0);
        }
        if self.allowed >= self.burst {
            self.suppressed += 1;
            return None;
        }
        self.allowed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    fn is_new_period(&self, now: Instant) -> bool {
        self.begin.is_none_or(|begin| now >= begin + self.period)
    }
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new(Self::LOG_PERIOD)
    }
}

/// Allows one event per key and period, for events that concern one of many things: the lines about
/// one node must not suppress those about another.
#[derive(Debug)]
pub struct KeyedThrottle {
    all: LogThrottle,
    /// Hashes of the keys that were logged in this period. The burst bounds them.
    logged: Vec<u64>,
    hasher: RandomState,
}

impl KeyedThrottle {
    /// Lines of one kind in each period, over all keys: enough for a handful of things that are
    /// wrong at once, and few enough to be read.
    pub const MAX_KEYS: u32 = 16;

    /// As [`LogThrottle::allow`], for an event that concerns `key`.
    pub fn allow(&mut self, key: impl Hash, now: Instant) -> Option<u64> {
        let key = self.hasher.hash_one(key);
        if self.all.is_new_period(now) {
            self.logged.clear();
        } else if self.logged.contains(&key) {
            self.all.suppressed += 1;
            return None;
        }
        let suppressed = self.all.allow(now)?;
        self.logged.push(key);
        Some(suppressed)
    }
}

impl Default for KeyedThrottle {
    fn default() -> Self {
        let all = LogThrottle::with_burst(Self::MAX_KEYS, LogThrottle::LOG_PERIOD);
        Self { all, logged: Vec::new(), hasher: RandomState::new() }
    }
}

/// A throttle for each cause, shared by the tasks that log them.
#[derive(Debug, Default)]
pub struct LogThrottles {
    each: LogThrottle,
    by_cause: Mutex<BTreeMap<&'static str, CauseThrottle>>,
}

#[derive(Debug)]
struct CauseThrottle {
    one: LogThrottle,
    keyed: KeyedThrottle,
    tally: Tally,
}

/// How often an event has happened, and how often it was not logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All events.
    pub seen: u64,
    /// Events that were suppressed.
    pub suppressed: u64,
}

impl LogThrottles {
    /// Throttles that are all like this one.
    pub fn new(each: LogThrottle) -> Self {
        Self { each, by_cause: Mutex::default() }
    }

    /// As [`LogThrottle::allow`], for one cause.
    pub fn allow(&self, cause: &'static str, now: Instant) -> Option<u64> {
        self.count(cause, |throttle| throttle.one.allow(now))
    }

    /// As [`KeyedThrottle::allow`], for one cause.
    pub fn allow_for(&self, cause: &'static str, key: impl Hash, now: Instant) -> Option<u64> {
        self.count(cause, |throttle| throttle.keyed.allow(key, now))
    }

    fn count(&self, cause: &'static str, allow: impl FnOnce(&mut CauseThrottle) -> Option<u64>) -> Option<u64> {
        let mut by_cause = self.by_cause.lock().unwrap_or_else(PoisonError::into_inner);
        let throttle = by_cause.entry(cause).or_insert_with(|| CauseThrottle {
            one: self.each.clone(),
            keyed: KeyedThrottle::default(),
            tally: Tally::default(),
        });
        let suppressed = allow(throttle);
        throttle.tally.seen += 1;
        throttle.tally.suppressed += u64::from(suppressed.is_none());
        suppressed
    }

    /// The events so far, by cause.
    pub fn tallies(&self) -> BTreeMap<&'static str, Tally> {
        let by_cause = self.by_cause.lock().unwrap_or_else(PoisonError::into_inner);
        by_cause.iter().map(|(cause, throttle)| (*cause, throttle.tally)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn one_event_per_period_passes() {
        let start = Instant::now();
        let mut throttle = LogThrottle::new(Duration::from_secs(10));
        for (second, passed) in [(0, Some(0)), (1, None), (9, None), (10, Some(2)), (25, Some(0)), (26, None)] {
            assert_eq!(throttle.allow(start + Duration::from_secs(second)), passed, "{second}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_burst_of_events_per_period_passes() {
        let start = Instant::now();
        let mut throttle = LogThrottle::with_burst(2, Duration::from_secs(10));
        for (second, passed) in
            [(0, Some(0)), (1, Some(0)), (2, None), (9, None), (10, Some(2)), (19, Some(0)), (19, None)]
        {
            assert_eq!(throttle.allow(start + Duration::from_secs(second)), passed, "{second}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn keys_do_not_hide_one_another_and_are_few() {
        let start = Instant::now();
        let mut throttle = KeyedThrottle::default();
        for (second, key, passed) in [(0, 1, Some(0)), (1, 1, None), (2, 2, Some(1)), (9, 2, None), (10, 2, Some(1))] {
            assert_eq!(throttle.allow(key, start + Duration::from_secs(second)), passed, "{second}");
        }
        let later = start + Duration::from_secs(60);
        let passed = (0..100).filter(|key| throttle.allow(key, later).is_some()).count();
        assert_eq!(passed, KeyedThrottle::MAX_KEYS as usize);
        assert_eq!(throttle.allow(7, later + LogThrottle::LOG_PERIOD), Some(100 - u64::from(KeyedThrottle::MAX_KEYS)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn causes_do_not_hide_one_another() {
        let (throttles, start) = (LogThrottles::default(), Instant::now());
        let seen = ["a", "a", "b", "a"].map(|cause| throttles.allow(cause, start));
        assert_eq!(seen, [Some(0), None, Some(0), None]);
        assert_eq!(throttles.allow("a", start + LogThrottle::LOG_PERIOD), Some(2));
        let tallies = [("a", Tally { seen: 4, suppressed: 2 }), ("b", Tally { seen: 1, suppressed: 0 })];
        assert_eq!(throttles.tallies(), tallies.into());
    }
}
