//! A time-out that is set often and seldom over.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// The system's timer is touched when it is over, or has to be sooner.
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
