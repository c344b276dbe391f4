//! How long one connection may work before others have their turn.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// Counts how long a task has worked since it last waited, so that a peer that always has something to read, or to take, leaves
/// its thread to others after a bounded time. Counting packets alone does not bound it: a packet may cost a microsecond or ten
/// milliseconds, and a socket that is always ready never makes its task wait.
#[derive(Debug)]
pub struct TimeSlice {
    begin: Instant,
}

impl TimeSlice {
    /// How long a task may work. Long beside a packet's cost, and short beside what callers notice, even with a hundred such
    /// tasks on one thread.
    pub const LENGTH: Duration = Duration::from_millis(1);

    /// A time slice that begins now.
    #[expect(clippy::new_without_default, reason = "it begins at a moment")]
    pub fn new() -> Self {
        Self { begin: Instant::now() }
    }

    /// Whether the task has worked for [`LENGTH`](Self::LENGTH) since it last waited.
    pub fn is_over(&self) -> bool {
        self.begin.elapsed() >= Self::LENGTH
    }

    /// Lets other tasks run if the slice is over, and begins the next one. Cancel safe.
    pub async fn give_way_if_over(&mut self) {
        if self.is_over() {
            self.give_way().await;
        }
    }

    /// Lets other tasks run, and begins the next slice. Cancel safe.
    pub async fn give_way(&mut self) {
        tokio::task::yield_now().await;
        self.begin = Instant::now();
    }

    /// Waits for a future. If it was not ready at once, the task has waited, and the next slice begins when it is. As cancel
    /// safe as the future.
    pub async fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut has_waited = false;
        std::future::poll_fn(|task| {
            let polled = future.as_mut().poll(task);
            match polled {
                Poll::Pending => has_waited = true,
                Poll::Ready(_) if has_waited => self.begin = Instant::now(),
                Poll::Ready(_) => {}
            }
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const SHORT: Duration = Duration::from_micros(400);

    #[tokio::test(start_paused = true)]
    async fn work_counts_and_waiting_does_not() {
        let mut slice = TimeSlice::new();
        advance(SHORT).await;
        assert!(!slice.is_over());
        slice.wait(std::future::ready(())).await;
        advance(2 * SHORT).await;
        assert!(slice.is_over(), "what was ready at once was no wait");
        slice.wait(sleep(SHORT)).await;
        assert!(!slice.is_over(), "it has waited");
    }

    #[tokio::test(start_paused = true)]
    async fn others_run_when_a_slice_is_over() {
        let mut slice = TimeSlice::new();
        let early = tokio::spawn(async {});
        slice.give_way_if_over().await;
        assert!(!early.is_finished(), "the slice is not over yet");
        advance(TimeSlice::LENGTH).await;
        let others = tokio::spawn(async {});
        slice.give_way_if_over().await;
        assert!(others.is_finished() && !slice.is_over());
    }
}
