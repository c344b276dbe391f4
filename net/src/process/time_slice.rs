//! How long one connection may work before others run.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Measures how long a task has worked since it last waited, so that a connection that always has
/// work leaves its thread to others after a bounded time. Counting packets does not bound it: a
/// packet may take a microsecond or ten milliseconds, and a socket that is always ready never makes
/// its task wait.
#[derive(Debug)]
pub struct TimeSlice {
    begin: Instant,
    steps: ClockSteps,
    queue: Option<SliceQueue>,
    permit: Option<OwnedSemaphorePermit>,
    is_paused: bool,
}

/// The queue of those tasks of one runtime that use up their slices. As many of them as the runtime
/// has threads are scheduled at a time; the others wait in the queue, and work only for a short
/// time without being scheduled. A task that has just been woken and has little to do therefore
/// waits for a few slices, and not for one of every busy task.
#[derive(Clone, Debug)]
pub struct SliceQueue(Arc<Semaphore>);

impl SliceQueue {
    /// After this time a task continues without being scheduled, because a scheduled task may block
    /// its thread, which the runtime can replace.
    const MAX_WAIT: Duration = Duration::from_millis(250);

    /// A queue for tasks of the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new() -> Self {
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        Self(Arc::new(Semaphore::new(threads.max(1))))
    }
}

impl Default for SliceQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// Decides when to read the clock, in a loop whose steps may cost almost nothing or a lot.
#[derive(Debug)]
struct ClockSteps {
    /// Steps and bytes since the clock was last read.
    steps: u32,
    bytes: usize,
    /// Steps until it is read again.
    until_look: u32,
}

impl ClockSteps {
    /// Steps between two readings double each time, up to this.
    const MAX: u32 = 16;
    /// The bytes after which the clock is read: handling them costs far more.
    const BYTES: usize = 4 * 1024;

    const FIRST: Self = Self { steps: 0, bytes: 0, until_look: 1 };

    /// Counts a step over `bytes`. Returns whether to read the clock.
    fn add(&mut self, bytes: usize) -> bool {
        self.steps += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let looks = self.steps >= self.until_look || self.bytes >= Self::BYTES;
        if looks {
            *self = Self { steps: 0, bytes: 0, until_look: (self.until_look * 2).min(Self::MAX) };
        }
        looks
    }
}

impl TimeSlice {
    /// How long a task may work: long compared with a packet, and short compared with what callers
    /// notice, even with a hundred such tasks on one thread.
    pub const LENGTH: Duration = Duration::from_millis(1);

    /// A time slice that begins now.
    #[expect(clippy::new_without_default, reason = "it begins at a moment")]
    pub fn new() -> Self {
        Self { begin: Instant::now(), steps: ClockSteps::FIRST, queue: None, permit: None, is_paused: false }
    }

    /// A time slice of one of the tasks that share `queue`.
    pub fn with_queue(queue: &SliceQueue) -> Self {
        Self { queue: Some(queue.clone()), ..Self::new() }
    }

    /// How long a task of a queue may work without being scheduled: enough for the usual work, such
    /// as a few dozen calls.
    pub const UNSCHEDULED_LENGTH: Duration = Duration::from_micros(200);

    /// Whether the task has worked for [`LENGTH`](Self::LENGTH) since it last waited.
    pub fn is_over(&self) -> bool {
        let has_all = self.queue.is_none() || self.is_scheduled();
        self.begin.elapsed() >= if has_all { Self::LENGTH } else { Self::UNSCHEDULED_LENGTH }
    }

    /// How long the task has worked since it last waited.
    pub fn worked(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Whether its [`SliceQueue`] has scheduled the task. That ends when the task waits.
    pub fn is_scheduled(&self) -> bool {
        self.permit.is_some()
    }

    /// Waits until the task is scheduled, for work that takes long, such as a large packet. Returns
    /// at once if a permit is free. Cancel safe.
    pub async fn acquire(&mut self) {
        let Some(SliceQueue(turns)) = &self.queue else { return };
        if self.permit.is_none() {
            self.permit = Arc::clone(turns).try_acquire_owned().ok();
        }
        if self.permit.is_none() {
            self.yield_now().await;
        }
    }

    /// As [`is_over`](Self::is_over), after each step of a loop, such as a packet of `bytes`. It
    /// reads the clock only now and then, so that a slice lasts at most about twice its length, or
    /// as long as one step, while all steps cost about the same. See
    /// [`expect_other_steps`](Self::expect_other_steps) if they do not.
    pub fn is_over_after(&mut self, bytes: usize) -> bool {
        self.steps.add(bytes) && self.is_over()
    }

    /// Forgets how cheap the last steps were, because the next ones are of another kind.
    pub fn expect_other_steps(&mut self) {
        self.steps = ClockSteps::FIRST;
    }

    /// Lets other tasks run if the slice is over, and begins the next. Cancel safe.
    pub async fn yield_if_over(&mut self) {
        if self.is_over() {
            self.yield_now().await;
        }
    }

    /// Lets other tasks run, and begins the next slice. Cancel safe.
    pub async fn yield_now(&mut self) {
        // Goes to the end of the queue.
        self.permit = None;
        if let Some(SliceQueue(turns)) = &self.queue {
            // The semaphore is never closed.
            let permit = timeout(SliceQueue::MAX_WAIT, Arc::clone(turns).acquire_owned()).await;
            self.permit = permit.ok().and_then(Result::ok);
        }
        tokio::task::yield_now().await;
        self.restart();
    }

    /// Records that the task waits, for code that does not wait by
    /// [`idle_while`](Self::idle_while), such as the last branch of a biased `select!`. Call
    /// [`resume`](Self::resume) afterwards.
    pub fn pause(&mut self) {
        self.permit = None;
        self.is_paused = true;
    }

    /// Begins the next slice if the task has [paused](Self::pause).
    pub fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.begin = Instant::now();
        self.steps = ClockSteps::FIRST;
    }

    /// Awaits a future without counting the time as work. If the future was not ready at once, the
    /// next slice begins when it is. As cancel safe as the future.
    pub async fn idle_while<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|task| {
            let polled = future.as_mut().poll(task);
            match polled {
                Poll::Pending => self.pause(),
                Poll::Ready(_) => self.resume(),
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
        slice.idle_while(std::future::ready(())).await;
        advance(2 * SHORT).await;
        assert!(slice.is_over(), "a future that is ready at once does not count as a wait");
        slice.idle_while(sleep(SHORT)).await;
        assert!(!slice.is_over(), "it has waited");
    }

    #[tokio::test(start_paused = true)]
    async fn others_run_when_a_slice_is_over() {
        let mut slice = TimeSlice::new();
        let early = tokio::spawn(async {});
        slice.yield_if_over().await;
        assert!(!early.is_finished(), "the slice is not over yet");
        advance(TimeSlice::LENGTH).await;
        let others = tokio::spawn(async {});
        slice.yield_if_over().await;
        assert!(others.is_finished() && !slice.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_is_read_now_and_then() {
        let mut slice = TimeSlice::new();
        advance(TimeSlice::LENGTH).await;
        let looks: Vec<_> = (1..=64).filter(|_| slice.is_over_after(10)).collect();
        assert_eq!(looks.len(), 7, "after 1, 2, 4, 8, and then every 16 steps");
        assert!(slice.is_over_after(ClockSteps::BYTES), "and after many bytes");
        slice.yield_now().await;
        assert!(!slice.is_over_after(ClockSteps::BYTES));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_tasks_as_threads_are_scheduled_and_others_wait() {
        let queue = SliceQueue::new();
        let (mut first, mut second) = (TimeSlice::with_queue(&queue), TimeSlice::with_queue(&queue));
        first.acquire().await;
        advance(TimeSlice::UNSCHEDULED_LENGTH).await;
        assert!(!first.is_over() && second.is_over());
        {
            let mut waits = pin!(second.acquire());
            assert!(is_pending(waits.as_mut()).await, "one thread schedules one task");
            // A task that waits gives up its permit.
            first.idle_while(sleep(SHORT)).await;
            waits.await;
        }
        assert!(second.is_scheduled() && !first.is_scheduled());
        {
            let mut waits = pin!(first.yield_now());
            assert!(is_pending(waits.as_mut()).await);
            advance(SliceQueue::MAX_WAIT).await;
            waits.await;
        }
        assert!(!first.is_scheduled(), "it goes on without being scheduled");
        drop(second);
        first.acquire().await;
        assert!(first.is_scheduled());
    }

    /// Whether it is still pending after other tasks have run many times.
    async fn is_pending(mut future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        for _ in 0..10 {
            let polled = std::future::poll_fn(|task| Poll::Ready(future.as_mut().poll(task))).await;
            if polled.is_ready() {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }
}
