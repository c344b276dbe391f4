//! A time-out that moves while it is awaited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::io::timer::Timer;

/// A deadline that can be moved while it is awaited.
pub(super) struct MovingDeadline {
    pub(super) base: Instant,
    pub(super) after_ms: AtomicU64,
}

impl MovingDeadline {
    pub(super) fn after(timeout: Duration, now: Instant) -> Self {
        let deadline = Self { base: now, after_ms: AtomicU64::new(0) };
        deadline.set(now + timeout);
        deadline
    }

    pub(super) fn set(&self, deadline: Instant) {
        let after = deadline.saturating_duration_since(self.base).as_millis();
        self.after_ms.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Stops the clock while the task waits for something else.
    pub(super) fn disarm(&self) {
        self.after_ms.store(u64::from(u32::MAX), Ordering::Relaxed);
    }

    /// Completes when the deadline is over. The task that moves it must poll this, so that the new
    /// one is noticed.
    pub(super) fn poll_expired(&self, timer: &mut Timer, task: &mut Context<'_>) -> Poll<()> {
        timer.set(self.base + Duration::from_millis(self.after_ms.load(Ordering::Relaxed)));
        timer.poll_expired(task)
    }
}
