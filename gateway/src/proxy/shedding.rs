//! When a worker cannot keep up, some requests are rejected, so that the others are served in time
//! and nothing piles up.
//!
//! The lag of a worker is the time that a task which is ready to run waits for the tasks before it.
//! That time grows with the number of requests, and rejections shorten it. The lateness of a timer
//! is another measure: it includes the pauses in which the system ran other processes, which
//! rejections do not shorten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// How often a worker measures its lag.
const TICK: Duration = Duration::from_millis(50);
/// Above the first lag some requests are rejected, and above the second one this share of them. A
/// full set of clients with one request each delays a worker by one or two tenths of a second,
/// which is normal.
const MIN_REJECT_LAG: Duration = Duration::from_millis(300);
const MAX_REJECT_LAG: Duration = Duration::from_millis(1000);
const MAX_REJECTED: f64 = 0.9;
/// A client that is rejected at once and retries at once costs nearly as much as one that is
/// served. So the rejection is delayed, by at most this many measurements that still show a lag.
const DELAY_STEP: Duration = Duration::from_secs(1);
const MAX_DELAY_STEPS: u32 = 3;
/// The weight of one measurement in the mean, a quarter (1 / this): a single stall, such as one of
/// the machine, says little.
const EWMA_DIVISOR: u64 = 4;

/// The lag of a worker.
#[derive(Debug, Default)]
pub(crate) struct Shedding {
    lag_us: AtomicU64,
}

impl Shedding {
    /// Measures the lag of the worker while it is polled.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let ready = Instant::now();
            // Goes to the end of the queue.
            yield_now().await;
            self.record_lag(ready.elapsed());
        }
    }

    fn record_lag(&self, lag: Duration) {
        let lag = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
        let mean = self.lag_us.load(Ordering::Relaxed);
        self.lag_us.store(mean - mean / EWMA_DIVISOR + lag / EWMA_DIVISOR, Ordering::Relaxed);
    }

    /// Whether rejections are delayed, which they are not while the worker keeps up.
    pub(crate) fn is_delaying(&self) -> bool {
        self.lag() > MIN_REJECT_LAG
    }

    /// Waits as long as a rejection should be delayed. Cancel safe.
    pub(crate) async fn delay(&self) {
        for _ in 0..MAX_DELAY_STEPS {
            sleep(DELAY_STEP).await;
            if !self.is_delaying() {
                return;
            }
        }
    }

    fn lag(&self) -> Duration {
        Duration::from_micros(self.lag_us.load(Ordering::Relaxed))
    }

    /// Whether to reject a request; `sample` returns a number from 0 to 1, and is called only if it
    /// matters.
    pub(crate) fn should_reject(&self, sample: impl FnOnce() -> f64) -> bool {
        let lag = self.lag();
        if lag <= MIN_REJECT_LAG {
            return false;
        }
        let part = (lag - MIN_REJECT_LAG).as_secs_f64() / (MAX_REJECT_LAG - MIN_REJECT_LAG).as_secs_f64();
        sample() < part.min(1.0) * MAX_REJECTED
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;

    #[test]
    fn ov1_ov2_a_lagging_worker_rejects_some_and_recovers() {
        let shedding = Shedding::default();
        let declined = || (0..100).filter(|sample| shedding.should_reject(|| f64::from(*sample) / 100.0)).count();
        let record_lag = |ms, times| (0..times).for_each(|_| shedding.record_lag(Duration::from_millis(ms)));
        record_lag(1000, 1);
        assert_eq!(declined(), 0, "a single stall");
        assert!(!shedding.is_delaying());
        record_lag(200, 100);
        assert_eq!(declined(), 0, "all connections are in use");
        record_lag(650, 100);
        assert_eq!(declined(), 45);
        record_lag(5000, 100);
        assert_eq!(declined(), 90, "some always get through, and show the lag");
        assert!(shedding.is_delaying());
        record_lag(0, 12);
        assert!(!shedding.is_delaying());
        assert_eq!(declined(), 0, "within a second after the overload");
    }
    /// The lag that is measured while `tasks` tasks always have work, each for this long.
    async fn lag_beside(tasks: u32, work: Duration) -> Duration {
        let shedding = Arc::new(Shedding::default());
        let measures = Arc::clone(&shedding);
        let mut running = tokio::task::JoinSet::new();
        running.spawn(async move { measures.run().await });
        for _ in 0..tasks {
            running.spawn(async move {
                loop {
                    // It moves the clock and yields.
                    advance(work).await;
                }
            });
        }
        sleep(Duration::from_secs(60)).await;
        shedding.lag()
    }

    #[tokio::test(start_paused = true)]
    async fn ov1_ov2_a_queue_is_a_lag_and_a_pause_of_the_process_is_none() {
        let lag = lag_beside(100, Duration::from_millis(10)).await;
        assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&lag), "one or two rounds: {lag:?}");
        let lag = lag_beside(100, Duration::from_micros(100)).await;
        assert!(lag < MIN_REJECT_LAG, "many tasks with little work: {lag:?}");
        // A process that does not run for a second, again and again, and has nothing to do then.
        let shedding = Arc::new(Shedding::default());
        let measures = Arc::clone(&shedding);
        let _measures = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { measures.run().await }));
        for _ in 0..60 {
            advance(Duration::from_secs(1)).await;
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(shedding.lag(), Duration::ZERO);
    }
}
