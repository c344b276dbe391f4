//! How long a member takes to answer, in a way that noise does not disturb. Without I/O, locks or a
//! clock.
//!
//! On a busy machine a process sometimes waits for some milliseconds, and all answers that it owes
//! at that moment are late together. So a member is not slow because one answer was late, or
//! several of one moment. It is slow if even the quickest answer of each recent period is slow.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A member is slow if its quickest answer is slow in this many periods in a row.
const PERIODS: usize = 4;
/// How long a period lasts at least: four are longer than the system usually lets a process wait.
/// When a member answers less often, each answer is a period.
const PERIOD_MS: u64 = 10;
/// The quickest latency of a slow member halves in this time without a call, so that it is tried
/// again.
const HALF_LIFE_MS: u64 = 1024;
/// The weight of an answer in the average: an eighth (1 / this).
const EWMA_DIVISOR: u64 = 8;
/// An answer counts in the average as at most this many times the average: one that is late by
/// chance does not say what is usual.
const MAX_EWMA_RATIO: u64 = 4;

/// How long one member takes to answer. Times are milliseconds of one clock, given as arguments.
#[derive(Debug)]
pub(crate) struct Latency {
    /// The average in microseconds; 0 before the first answer.
    usual: AtomicU64,
    /// The quickest answers of the last periods, in microseconds. All are set by the first answers.
    quickest: [AtomicU32; PERIODS],
    /// How many periods have begun, and when the last one did.
    periods: AtomicU64,
    began: AtomicU64,
    /// When the last answer came.
    answered: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        let unknown = std::array::from_fn(|_| AtomicU32::new(0));
        let zero = || AtomicU64::new(0);
        Self { usual: zero(), quickest: unknown, periods: zero(), began: zero(), answered: zero() }
    }
}

impl Latency {
    /// Adds an answer. If two are added at the same moment, one of them may be lost.
    pub(crate) fn record(&self, now_ms: u64, took: Duration) {
        // 0 stands for no answer.
        let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let known = self.usual();
        let usual = if known == 0 {
            sample
        } else if sample >= known {
            let sample = sample.min(known.saturating_mul(MAX_EWMA_RATIO));
            known + (sample - known).div_ceil(EWMA_DIVISOR)
        } else {
            known - (known - sample) / EWMA_DIVISOR
        };
        self.usual.store(usual, Ordering::Relaxed);
        self.answered.store(now_ms, Ordering::Relaxed);
        let sample = u32::try_from(sample).unwrap_or(u32::MAX);
        let mut periods = self.periods.load(Ordering::Relaxed);
        let begins = periods == 0 || now_ms.saturating_sub(self.began.load(Ordering::Relaxed)) >= PERIOD_MS;
        if begins {
            periods += 1;
            self.periods.store(periods, Ordering::Relaxed);
            self.began.store(now_ms, Ordering::Relaxed);
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is less than the number of periods")]
        let quickest = &self.quickest[(periods % PERIODS as u64) as usize];
        if begins {
            quickest.store(sample, Ordering::Relaxed);
        } else {
            quickest.fetch_min(sample, Ordering::Relaxed);
        }
    }

    /// How long an answer usually takes, in microseconds; 0 before the first.
    pub(crate) fn usual(&self) -> u64 {
        self.usual.load(Ordering::Relaxed)
    }

    /// The quickest answer of the last periods, in microseconds. It is 0 before there were
    /// [`PERIODS`], and falls while no call is in flight.
    pub(crate) fn quickest(&self, now_ms: u64, in_flight: u32) -> u64 {
        let quickest = self.quickest.iter().map(|quickest| quickest.load(Ordering::Relaxed)).min().unwrap_or(0);
        let fades = if in_flight == 0 { self.quiet_ms(now_ms) } else { 0 };
        u64::from(quickest).checked_shr(u32::try_from(fades / HALF_LIFE_MS).unwrap_or(u32::MAX)).unwrap_or(0)
    }

    /// How long ago the last answer came.
    pub(crate) fn quiet_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.answered.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The usual and the quickest answer in microseconds, after answers at these times.
    #[track_caller]
    fn check(answers: &[(u64, u64)], asked_at: u64, in_flight: u32, expected: (u64, u64)) {
        let latency = Latency::default();
        answers.iter().for_each(|(ms, us)| latency.record(*ms, Duration::from_micros(*us)));
        assert_eq!((latency.usual(), latency.quickest(asked_at, in_flight)), expected, "{answers:?} {asked_at}");
    }

    #[test]
    fn a_member_is_slow_after_four_periods_in_which_nothing_was_quick() {
        check(&[], 0, 0, (0, 0));
        check(&[(0, 900), (10, 900), (20, 900)], 20, 0, (900, 0));
        let four = [(0, 900), (10, 900), (20, 900), (30, 900)];
        check(&four, 30, 0, (900, 900));
        // Answers of one moment are one period, however many they are.
        check(&[[(0, 900); 9], [(9, 900); 9]].concat(), 9, 0, (900, 0));
        check(&[&four[..], &[(35, 100), (36, 900)]].concat(), 36, 0, (813, 100));
        // A chance answer counts in the average as four times that.
        check(&[&four[..], &[(40, 90_000)]].concat(), 40, 0, (900 + 2700_u64.div_ceil(8), 900));
        // It is called again after a while without a call.
        for (ms, in_flight, quickest) in [(1053, 0, 900), (1054, 0, 450), (2078, 0, 225), (2078, 1, 900)] {
            check(&four, ms, in_flight, (900, quickest));
        }
    }
}
