//! A running call that may be a stream: the state that its caller's connection and its handler
//! share.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::task::AtomicWaker;
use protocol::{BODY_WINDOW, Part, ResponseHeaders, STREAM_WINDOW};

use crate::error::{ServiceError, no_room};
use crate::transport::flow::{FlowViolation, ReceiveWindow, SendWindow};

/// When a caller may reopen a stream that ended because its node stops: other nodes offer it now.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// A running call that may be a stream.
#[derive(Debug)]
pub(crate) struct CallStream {
    state: Mutex<CallStreamState>,
    /// The task that runs the handler.
    task: AtomicWaker,
    /// Bytes that wait in all streams of its caller.
    held: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct CallStreamState {
    receive: ReceiveWindow,
    send: SendWindow,
    /// Whether the handler reads items, or the body of a request.
    takes_items: bool,
    /// Whether the caller sends the body of a request.
    has_body: bool,
    is_open: bool,
    /// Whether the response comes in parts.
    answers_in_parts: bool,
    /// Whether the node stops: a stream that has nothing to send ends.
    is_stopping: bool,
    /// Whether the stream ended before its last part.
    is_cut: bool,
    /// Whether parts were discarded for lack of memory.
    out_of_memory: bool,
}

/// The parts of a response, from a stream of any type.
#[doc(hidden)]
pub struct Parts(pub(crate) PartsKind);

pub(crate) enum PartsKind {
    Json(Pin<Box<dyn PartSource>>),
    Bytes(Box<ByteParts>),
}

/// A response whose body is the bytes of a stream.
pub(crate) struct ByteParts {
    pub(crate) status: u16,
    pub(crate) headers: ResponseHeaders,
    /// How many bytes there are, if that is known.
    pub(crate) length: Option<u64>,
    pub(crate) source: ByteSource,
    /// Whether the head was written.
    pub(crate) has_begun: bool,
    /// Bytes that were made and not sent.
    pub(crate) waiting: VecDeque<Bytes>,
    /// How many bytes were sent.
    pub(crate) sent: u64,
    /// How the source has ended, if it has.
    pub(crate) end: Option<Result<(), ServiceError>>,
}

/// Pieces of a body.
pub(crate) type ByteSource = Pin<Box<dyn Stream<Item = Result<Bytes, ServiceError>> + Send>>;

pub(crate) trait PartSource: Send {
    /// Writes the next part, for the stream of this key and under this number; `None` after the
    /// last. Returns the credit that it uses. After an error, `out` may have a part of it.
    fn poll_part(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        packet: (u64, u64),
        out: &mut BytesMut,
    ) -> Poll<Option<Result<usize, ServiceError>>>;
}

impl CallStream {
    /// `credit` is how many bytes the caller takes before it grants more. If it `has_body`, it
    /// sends the body of a request.
    pub(crate) fn new(credit: u32, has_body: bool, held: Arc<AtomicUsize>) -> Arc<Self> {
        let state = CallStreamState {
            receive: ReceiveWindow::new(if has_body { BODY_WINDOW } else { STREAM_WINDOW }),
            send: SendWindow::new(credit),
            takes_items: false,
            has_body,
            is_open: false,
            answers_in_parts: false,
            is_stopping: false,
            is_cut: false,
            out_of_memory: false,
        };
        Arc::new(Self { state: Mutex::new(state), task: AtomicWaker::new(), held })
    }

    /// Accepts a part from the caller.
    pub(crate) fn push_part(&self, part: Part, frame: Bytes) -> Result<(), FlowViolation> {
        let mut state = self.lock();
        // The handler may read the body of a request later, when its response has begun.
        if !state.takes_items && !state.has_body {
            return Ok(());
        }
        let before = state.receive.waiting_bytes();
        let waker = state.receive.push(part, frame)?;
        self.held.fetch_add(state.receive.waiting_bytes() - before, Ordering::Relaxed);
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
        Ok(())
    }

    /// Adds credit that the caller has granted.
    pub(crate) fn grant(&self, bytes: u32) {
        let waker = self.lock().send.grant(bytes);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    /// Tells the call that the node stops.
    pub(crate) fn stop(&self) {
        self.lock().is_stopping = true;
        self.task.wake();
    }

    pub(crate) fn register_waker(&self, task: &Context<'_>) {
        self.task.register(task.waker());
    }

    /// Marks the stream as open, if the handler reads items or returns `parts`. Returns whether the
    /// packet that opens it must be sent now.
    pub(crate) fn set_open(&self, parts: bool) -> bool {
        let mut state = self.lock();
        state.answers_in_parts |= parts;
        (parts || state.takes_items) && !std::mem::replace(&mut state.is_open, true)
    }

    /// Whether the work for the caller ends when it goes, whatever the method: the stream is open.
    /// Once the body of a request is whole, the call is like any other until the response begins.
    pub(crate) fn ends_with_caller(&self) -> bool {
        let state = self.lock();
        let is_whole = state.has_body && state.receive.is_over() && !state.is_cut && !state.out_of_memory;
        state.is_open && (state.answers_in_parts || !is_whole)
    }

    /// Credit to grant to the caller, once there is enough for a packet.
    pub(crate) fn next_credit(&self) -> Option<u32> {
        self.lock().receive.next_credit()
    }

    /// The number of the next part, as soon as it may be sent, and the credit for it.
    pub(crate) fn poll_ready(&self, task: &mut Context<'_>) -> Poll<(u64, i64)> {
        let mut state = self.lock();
        ready!(state.send.poll_ready(task));
        Poll::Ready((state.send.next_number(), state.send.credit()))
    }

    /// Records that a part of this size was sent.
    pub(crate) fn record_sent(&self, bytes: usize) {
        self.lock().send.record_sent(bytes);
    }

    /// The error that ends a stream with nothing to send, if the node stops.
    pub(crate) fn stop_error(&self) -> Option<ServiceError> {
        let is_stopping = self.lock().is_stopping;
        is_stopping.then(|| ServiceError::new(503, "leaving", "this node is stopping").retry_after(REOPEN_AFTER))
    }

    /// Bytes of parts that the handler has not read.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.lock().receive.waiting_bytes()
    }

    /// Discards the parts that wait. The handler gets an error when it reads on.
    pub(crate) fn discard_parts(&self) {
        let mut state = self.lock();
        self.held.fetch_sub(state.receive.waiting_bytes(), Ordering::Relaxed);
        state.receive.clear();
        state.out_of_memory = true;
        state.takes_items = false;
        let waker = state.receive.end();
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    /// Records that the call is over.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_cut = !state.receive.is_over();
        let waker = state.receive.end();
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    /// Records that the handler reads the caller's parts. The stream is opened after the next poll
    /// of the handler.
    pub(crate) fn expect_items(&self) {
        let is_new = !std::mem::replace(&mut self.lock().takes_items, true);
        if is_new {
            self.task.wake();
        }
    }

    /// The next part that the caller has sent; `None` after the last.
    ///
    /// # Errors
    /// The stream ended before its last part.
    pub(crate) fn poll_part(&self, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, ServiceError>>> {
        let mut state = self.lock();
        let before = state.receive.waiting_bytes();
        let taken = ready!(state.receive.poll_part(task));
        self.held.fetch_sub(before - state.receive.waiting_bytes(), Ordering::Relaxed);
        let (has_credit_due, is_cut, out_of_memory) =
            (state.receive.has_credit_due(), state.is_cut, state.out_of_memory);
        drop(state);
        if has_credit_due {
            self.task.wake();
        }
        Poll::Ready(match taken {
            Some(frame) => Some(Ok(frame)),
            None if out_of_memory => Some(Err(no_room("the parts of this stream, which are not read"))),
            None if is_cut => Some(Err(ServiceError::new(499, "cut", "the caller has gone before the last part"))),
            None => None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, CallStreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unread parts no longer count.
impl Drop for CallStream {
    fn drop(&mut self) {
        self.held.fetch_sub(self.lock().receive.waiting_bytes(), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_waits_is_counted_until_it_is_read() {
        let held = Arc::<AtomicUsize>::default();
        let call_stream = CallStream::new(1, true, Arc::clone(&held));
        call_stream.expect_items();
        let part = |number| Part { number, is_end: false };
        (1..=3).for_each(|number| call_stream.push_part(part(number), Bytes::from_static(b"abc")).unwrap());
        assert!(held.load(Ordering::Relaxed) > 9);
        let mut task = Context::from_waker(Waker::noop());
        assert!(call_stream.poll_part(&mut task).is_ready());
        assert!(call_stream.poll_part(&mut task).is_ready());
        drop(call_stream);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_call_with_a_whole_body_does_not_end_with_its_caller() {
        let check = |has_body, ends: bool, answers: bool, expected: bool| {
            let call_stream = CallStream::new(1, has_body, Arc::default());
            assert!(!call_stream.ends_with_caller());
            call_stream.expect_items();
            assert!(call_stream.set_open(false) && call_stream.ends_with_caller());
            if ends {
                call_stream.push_part(Part { number: 1, is_end: true }, Bytes::new()).unwrap();
            }
            call_stream.set_open(answers);
            assert_eq!(call_stream.ends_with_caller(), expected, "{has_body} {ends} {answers}");
        };
        check(true, true, false, false);
        check(true, true, true, true);
        check(true, false, false, true);
        check(false, true, false, true);
    }
}
