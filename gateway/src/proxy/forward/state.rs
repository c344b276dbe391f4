//! The state that the two directions of a request share.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

/// How far a request and its response are. Both directions belong to one task, which polls each
/// after the other, so a change needs no waker.
#[derive(Debug)]
pub(super) struct ForwardState {
    /// Whether the client is being given the response.
    is_response_begun: AtomicBool,
    /// Whether the server has been given the whole request.
    is_request_sent: AtomicBool,
    /// Whether the client waits for leave to send its body.
    awaits_continue: AtomicBool,
    /// Whether the client sends no more, and must be written to.
    wants_test_byte: AtomicBool,
}

impl ForwardState {
    pub(super) fn new(awaits_continue: bool) -> Self {
        let unset = || AtomicBool::new(false);
        let awaits_continue = AtomicBool::new(awaits_continue);
        Self { is_response_begun: unset(), is_request_sent: unset(), awaits_continue, wants_test_byte: unset() }
    }

    pub(super) fn is_response_begun(&self) -> bool {
        self.is_response_begun.load(Ordering::Relaxed)
    }

    pub(super) fn set_response_begun(&self) {
        self.is_response_begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_request_sent(&self) -> bool {
        self.is_request_sent.load(Ordering::Relaxed)
    }

    pub(super) fn set_request_sent(&self) {
        self.is_request_sent.store(true, Ordering::Relaxed);
    }

    pub(super) fn awaits_continue(&self) -> bool {
        self.awaits_continue.load(Ordering::Relaxed)
    }

    pub(super) fn set_continued(&self) {
        self.awaits_continue.store(false, Ordering::Relaxed);
    }

    /// Completes when the client has leave to send its body. Only the direction that is polled last
    /// may await this.
    pub(super) async fn continued(&self) {
        poll_fn(|_| if self.awaits_continue() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// Asks the direction of the response to write to the client. That direction is polled first,
    /// so the task is woken to poll it once more.
    pub(super) async fn request_test_byte(&self) {
        self.wants_test_byte.store(true, Ordering::Relaxed);
        poll_fn(|task| {
            task.waker().wake_by_ref();
            Poll::Ready(())
        })
        .await;
    }

    /// Completes when the client must be written to.
    pub(super) async fn test_byte_requested(&self) {
        poll_fn(|_| if self.wants_test_byte.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
        self.wants_test_byte.store(false, Ordering::Relaxed);
    }
}
