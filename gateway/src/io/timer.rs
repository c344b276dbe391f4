//! A time-out that is set often and rarely expires.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// The runtime's timer is changed only when it fires, or has to fire earlier.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    due: Instant,
}

impl Timer {
    pub(crate) fn at(due: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(due)), due }
    }

    pub(crate) fn set(&mut self, due: Instant) {
        self.due = due;
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
    }

    pub(crate) async fn expired(&mut self) {
        poll_fn(|task| self.poll_expired(task)).await;
    }

    pub(crate) fn poll_expired(&mut self, task: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(task));
            if Instant::now() >= self.due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.due);
        }
    }
}
