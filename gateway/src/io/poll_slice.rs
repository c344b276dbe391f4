//! How long one connection may work before others of its worker run, measured with clock readings
//! that are needed in any case.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

/// The length of a slice: a few dozen requests, and so short that fifty clients that never pause
/// delay the others only by a hundredth of a second.
pub(crate) const SLICE_TIME: Duration = Duration::from_micros(250);

/// Counts the polls of a task. A task that has been polled again has waited.
#[derive(Debug, Default)]
pub(crate) struct PollCounter(AtomicU64);

/// How long a task has worked since it last waited.
#[derive(Debug)]
pub(crate) struct PollSlice<'a> {
    polls: &'a PollCounter,
    seen: u64,
    begin: Option<Instant>,
}

impl PollCounter {
    /// Counts how often `future` is polled. As cancel safe as `future`.
    pub(crate) async fn count_polls<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|task| {
            self.count();
            future.as_mut().poll(task)
        })
        .await
    }

    #[cfg(test)]
    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more poll of the task.
    pub(crate) fn count(&self) {
        // Written by one task alone.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl<'a> PollSlice<'a> {
    pub(crate) fn new(polls: &'a PollCounter) -> Self {
        Self { polls, seen: 0, begin: None }
    }

    /// Whether the task has worked for [`SLICE_TIME`] at `now`. Counting begins with the first call
    /// after a wait.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        let polls = self.polls.0.load(Ordering::Relaxed);
        match self.begin {
            Some(begin) if polls == self.seen => now.saturating_duration_since(begin) >= SLICE_TIME,
            _ => {
                (self.seen, self.begin) = (polls, Some(now));
                false
            }
        }
    }

    /// Lets others run if the slice is over, and returns whether it was. Cancel safe.
    pub(crate) async fn yield_if_over(&mut self, now: Instant) -> bool {
        let is_over = self.is_over(now);
        if is_over {
            yield_now().await;
        }
        is_over
    }
}

/// Wakes the task after others have run and events of the system have been read.
pub(crate) fn wake_later(task: &mut Context<'_>) {
    let polled: Poll<()> = pin!(yield_now()).poll(task);
    debug_assert!(polled.is_pending());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slice_counts_from_the_last_wait() {
        let polls = PollCounter::default();
        let work = async {
            let mut slice = PollSlice::new(&polls);
            let begin = Instant::now();
            assert!(!slice.is_over(begin));
            assert!(!slice.is_over(begin + SLICE_TIME / 2));
            assert!(slice.is_over(begin + SLICE_TIME));
            yield_now().await;
            assert!(!slice.is_over(begin + 9 * SLICE_TIME), "it has waited");
            assert!(slice.yield_if_over(begin + 10 * SLICE_TIME).await);
            assert!(!slice.is_over(begin + 20 * SLICE_TIME));
        };
        polls.count_polls(work).await;
    }
}
