//! A running call that may be a stream: the state that its caller's connection and its handler
//! share.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::task::AtomicWaker;
use protocol::{Part, STREAM_WINDOW};

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
    /// Whether the handler reads items.
    takes_items: bool,
    is_open: bool,
    /// Whether the node stops: a stream that has nothing to send ends.
    is_stopping: bool,
    /// Whether the stream ended before its last part.
    is_cut: bool,
    /// Whether parts were discarded for lack of memory.
    out_of_memory: bool,
}

/// The parts of a response, from a stream of any type.
#[doc(hidden)]
pub struct Parts(pub(crate) Pin<Box<dyn PartSource>>);

pub(crate) trait PartSource: Send {
    /// Writes the next part's data as JSON text; `None` after the last.
    fn poll_part(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        out: &mut BytesMut,
    ) -> Poll<Option<Result<(), ServiceError>>>;
}

impl CallStream {
    /// `credit` is how many bytes the caller takes before it grants more.
    pub(crate) fn new(credit: u32, held: Arc<AtomicUsize>) -> Arc<Self> {
        let state = CallStreamState {
            receive: ReceiveWindow::new(STREAM_WINDOW),
            send: SendWindow::new(credit),
            takes_items: false,
            is_open: false,
            is_stopping: false,
            is_cut: false,
            out_of_memory: false,
        };
        Arc::new(Self { state: Mutex::new(state), task: AtomicWaker::new(), held })
    }

    /// Accepts a part from the caller.
    pub(crate) fn push_part(&self, part: Part, frame: Bytes) -> Result<(), FlowViolation> {
        let mut state = self.lock();
        if !state.takes_items {
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
        (parts || state.takes_items) && !std::mem::replace(&mut state.is_open, true)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_open
    }

    /// Credit to grant to the caller, once there is enough for a packet.
    pub(crate) fn next_credit(&self) -> Option<u32> {
        self.lock().receive.next_credit()
    }

    /// The number of the next part, as soon as it may be sent.
    pub(crate) fn poll_ready(&self, task: &mut Context<'_>) -> Poll<u64> {
        let mut state = self.lock();
        ready!(state.send.poll_ready(task));
        Poll::Ready(state.send.next_number())
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

    /// Records that the handler reads the caller's parts.
    pub(crate) fn expect_items(&self) {
        self.lock().takes_items = true;
    }

    /// The next part that the caller has sent; `None` after the last.
    ///
    /// # Errors
    /// The stream ended before its last part.
    pub(crate) fn poll_part(&self, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, ServiceError>>> {
        let mut state = self.lock();
        let taken = ready!(state.receive.poll_part(task));
        self.held.fetch_sub(taken.as_ref().map_or(0, Bytes::len), Ordering::Relaxed);
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
