//! How long one connection may work before others of its worker run, measured with clock readings
//! that are made anyway.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::task::yield_now;
use tokio::time::{Duration, Instant};

/// How long that is: a few dozen requests, and short enough that fifty clients that always have
/// something to do keep the others waiting for a hundredth of a second only.
pub(crate) const SLICE: Duration = Duration::from_micros(250);

/// How often a task has been polled: a task that has been polled again has waited.
#[derive(Debug, Default)]
pub(crate) struct PollCounter(AtomicU64);

/// What a task has worked since it last waited.
#[derive(Debug)]
pub(crate) struct PollSlice<'a> {
    polls: &'a PollCounter,
    seen: u64,
    begin: Option<Instant>,
}

impl PollCounter {
    /// Counts how often `future` is polled. As cancel safe as it is.
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

    /// The task is polled again.
    pub(crate) fn count(&self) {
        // Written by one task alone.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl<'a> PollSlice<'a> {
    pub(crate) fn new(polls: &'a PollCounter) -> Self {
        Self { polls, seen: 0, begin: None }
    }

    /// Whether the task has worked for [`SLICE`] at `now`. Counts from the first question after it
    /// has waited.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        let polls = self.polls.0.load(Ordering::Relaxed);
        match self.begin {
            Some(begin) if polls == self.seen => now.saturating_duration_since(begin) >= SLICE,
            _ => {
                (self.seen, self.begin) = (polls, Some(now));
                false
            }
        }
    }

    /// Lets others run if the slice is over. Gives whether it was. Cancel safe.
    pub(crate) async fn yield_if_over(&mut self, now: Instant) -> bool {
        let is_over = self.is_over(now);
        if is_over {
            yield_now().await;
        }
        is_over
    }
}

/// Has a task polled again when others have run, and what the system has to tell has been heard.
pub(crate) fn wake_later(task: &mut Context<'_>) {
    let polled: Poll<()> = pin!(yield_now()).poll(task);
    debug_assert!(polled.is_pending());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_counts_from_the_last_wait() {
        let polls = PollCounter::default();
        let work = async {
            let mut slice = PollSlice::new(&polls);
            let begin = Instant::now();
            assert!(!slice.is_over(begin));
            assert!(!slice.is_over(begin + SLICE / 2));
            assert!(slice.is_over(begin + SLICE));
            yield_now().await;
            assert!(!slice.is_over(begin + 9 * SLICE), "it has waited");
            assert!(slice.yield_if_over(begin + 10 * SLICE).await);
            assert!(!slice.is_over(begin + 20 * SLICE));
        };
        polls.count_polls(work).await;
    }
}
