//! The load and health of one member, by which balancing decides. Without I/O or locks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::latency::Latency;

/// Calls that fail in a row before a member is ejected.
const FAILURES: u32 = 5;
/// How long the first ejection lasts, and the longest. Each ejection lasts twice as long as the one
/// before. After it, one call tests the member.
const FIRST_EJECTION_TIME: Duration = Duration::from_secs(1);
const MAX_EJECTION_TIME: Duration = Duration::from_secs(30);
/// How long slow start lasts: a process that has just started is slow. The share grows from a
/// tenth.
const SLOW_START_TIME: Duration = Duration::from_secs(3);
const MIN_SLOW_START_SHARE: f64 = 0.1;
/// A member in slow start that has had no call for this long takes its turn: ten calls a second are
/// not too many for it, and people who make one a second see that the turns are even.
const IDLE_TURN_AFTER: Duration = Duration::from_millis(100);
/// A member is clearly slower than another if even its quickest recent answer took more than this
/// many times as long as the other one's usually take.
const CLEARLY_SLOWER: u64 = 2;
/// And if the difference is more than this: less is noise, and callers do not notice it.
const MIN_LATENCY_DIFFERENCE: Duration = Duration::from_micros(500);

/// The load and health of one member. All times are in milliseconds since the member became known.
#[derive(Debug)]
pub struct Load {
    since: Instant,
    in_flight: AtomicU32,
    latency: Latency,
    /// Calls that failed in a row.
    failures: AtomicU32,
    ejected_until: AtomicU64,
    /// When the last connection was made.
    connected: AtomicU64,
    /// How long the next ejection lasts.
    ejection: AtomicU64,
}

impl Load {
    /// The load of a member that has just become known.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            in_flight: AtomicU32::new(0),
            latency: Latency::default(),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            ejection: AtomicU64::new(millis(FIRST_EJECTION_TIME)),
        }
    }

    /// Records that a call begins. After an ejection this call tests the member, and other calls go
    /// elsewhere until it has ended.
    pub fn begin(&self, now: Instant) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.ejected_until.load(Ordering::Relaxed) > 0 {
            self.eject(now, millis(FIRST_EJECTION_TIME));
        }
    }

    /// Records that a call has ended, with a response or without.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records a response that took this time.
    pub fn record_response(&self, now: Instant, took: Duration) {
        self.latency.record(self.millis_at(now), took);
        if self.failures.load(Ordering::Relaxed) > 0 || self.ejected_until.load(Ordering::Relaxed) > 0 {
            self.reset();
        }
    }

    /// Records a call that was lost. Several in a row eject the member.
    pub fn record_failure(&self, now: Instant) {
        self.count_failure(now);
    }

    /// Records a call that timed out. One is enough to eject the member for a moment.
    pub fn record_timeout(&self, now: Instant) {
        if !self.count_failure(now) {
            self.eject(now, millis(FIRST_EJECTION_TIME));
        }
    }

    /// Counts a failed call, and returns whether the member was ejected for it.
    fn count_failure(&self, now: Instant) -> bool {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES {
            return false;
        }
        let longest = millis(MAX_EJECTION_TIME);
        let time =
            self.ejection.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |time| Some((time * 2).min(longest)));
        self.failures.store(0, Ordering::Relaxed);
        self.eject(now, time.unwrap_or(longest));
        true
    }

    /// Records a new connection: slow start begins.
    pub fn record_connect(&self, now: Instant) {
        self.connected.store(self.millis_at(now), Ordering::Relaxed);
        self.reset();
    }

    /// Whether the member is in slow start, and gets fewer calls than others.
    pub fn is_starting(&self, now: Instant) -> bool {
        self.slow_start_share(now) < 1.0
    }

    /// Whether a member in slow start takes a call, rather than `other`. `sample` is a random
    /// number from 0 to 1.
    pub fn wins_slow_start(&self, other: &Self, now: Instant, sample: f64) -> bool {
        let is_idle = self.in_flight() == 0 && self.latency.quiet_ms(self.millis_at(now)) >= millis(IDLE_TURN_AFTER);
        // If all members have just been connected, each gets its usual share.
        is_idle || sample < self.slow_start_share(now) / other.slow_start_share(now)
    }

    /// The part of its usual calls that the member gets, from 0 to 1.
    fn slow_start_share(&self, now: Instant) -> f64 {
        let age = self.millis_at(now).saturating_sub(self.connected.load(Ordering::Relaxed));
        let slow_start = millis(SLOW_START_TIME);
        if age >= slow_start { 1.0 } else { (age as f64 / slow_start as f64).max(MIN_SLOW_START_SHARE) }
    }

    /// Records a sign of life: earlier failures no longer count.
    pub fn reset(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.store(0, Ordering::Relaxed);
        self.ejection.store(millis(FIRST_EJECTION_TIME), Ordering::Relaxed);
    }

    fn eject(&self, now: Instant, time: u64) {
        self.ejected_until.fetch_max(self.millis_at(now) + time, Ordering::Relaxed);
    }

    /// Whether other members are preferred.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > self.millis_at(now)
    }

    /// How long ago the last response came; since the member became known if none did.
    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        Duration::from_millis(self.latency.quiet_ms(self.millis_at(now)))
    }

    /// Calls without an outcome.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The calls in flight of the member and one more, divided by its weight.
    pub fn load_per_weight(&self, weight: u16) -> u64 {
        (u64::from(self.in_flight()) + 1) * 1_000_000 / u64::from(weight.max(1))
    }

    /// How long an answer of it usually takes.
    pub fn latency(&self) -> Option<Duration> {
        let latency = self.latency.usual();
        (latency > 0).then(|| Duration::from_micros(latency))
    }

    /// Whether one more call costs clearly less here than at `other`. The cost is the square of the
    /// latency times the calls in flight and one more, by weight. A latency counts only if one of
    /// the two is clearly slower: a slow node is slow even when it has little to do, while a node
    /// with much to do becomes slow.
    pub fn is_clearly_cheaper(&self, weight: u16, other: &Self, other_weight: u16, now: Instant) -> bool {
        if self.latency.usual() == 0 || other.latency.usual() == 0 {
            // One that has answered nothing may never answer.
            return self.in_flight() < other.in_flight();
        }
        let differs = self.is_clearly_slower(other, now) || other.is_clearly_slower(self, now);
        let (ours, theirs) = if differs { (self.latency.usual(), other.latency.usual()) } else { (1, 1) };
        let heaviest = f64::from(weight.max(other_weight));
        let cost = |latency: u64, in_flight: u32, weight: u16| {
            (latency as f64).powi(2) * (1.0 + f64::from(in_flight) * heaviest / f64::from(weight.max(1)))
        };
        cost(ours, self.in_flight(), weight) < cost(theirs, other.in_flight(), other_weight) / 2.0
    }

    /// Whether even the quickest of its recent answers took clearly longer than is usual for
    /// `other`.
    fn is_clearly_slower(&self, other: &Self, now: Instant) -> bool {
        let (quickest, usual) = (self.quickest(now), other.latency.usual());
        usual > 0
            && quickest > usual * CLEARLY_SLOWER
            && u128::from(quickest - usual) > MIN_LATENCY_DIFFERENCE.as_micros()
    }

    fn quickest(&self, now: Instant) -> u64 {
        self.latency.quickest(self.millis_at(now), self.in_flight())
    }

    /// Times begin at 1: 0 stands for never.
    fn millis_at(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.since)) + 1
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn load() -> (Load, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Load::new(start), move |ms| start + Duration::from_millis(ms))
    }

    #[test]
    fn a_node_that_lets_a_call_time_out_is_ejected_for_a_second() {
        let (load, at) = load();
        load.record_timeout(at(1000));
        assert!(load.is_ejected(at(1999)) && !load.is_ejected(at(2001)));
        load.begin(at(2001));
        assert!(load.is_ejected(at(2500)), "one call tests it");
        load.record_response(at(2600), Duration::from_millis(1));
        assert!(!load.is_ejected(at(2600)));
    }

    #[test]
    fn each_ejection_lasts_longer_than_the_last() {
        let (load, at) = load();
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            (0..4).for_each(|_| load.record_failure(at(now)));
            assert!(!load.is_ejected(at(now)), "four are not enough");
            load.record_failure(at(now));
            assert!(load.is_ejected(at(now + seconds * 1000 - 1)) && !load.is_ejected(at(now + seconds * 1000 + 1)));
            now += seconds * 1000 + 1;
        }
        load.record_response(at(now), Duration::from_millis(1));
        (0..5).for_each(|_| load.record_failure(at(now)));
        assert!(!load.is_ejected(at(now + 1001)), "a response resets the count");
    }
}
