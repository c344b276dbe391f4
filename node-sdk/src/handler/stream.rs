//! Streams as handlers see them.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::task::AtomicWaker;
use pin_project_lite::pin_project;
use protocol::{Part, STREAM_WINDOW, Side};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::stream::read_part;
use crate::error::{ServiceError, no_room};
use crate::handler::respond::{self, Respond};
use crate::handler::{FromCall, IncomingCall};
use crate::transport::flow::{FlowViolation, ReceiveWindow, SendWindow};

/// When it is worth opening a stream again that ended because its node leaves: others offer it now.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// What the caller sends after the call itself, in its order: an argument of a handler. It ends when the caller says so, and
/// with one error when the caller, or the connection, goes before that. Callers open a
/// [`stream`](crate::Peers::stream); other calls are refused.
///
/// ```
/// use futures::TryStreamExt;
/// use node_sdk::{Items, ServiceError};
///
/// async fn sum(mut items: Items<u64>) -> Result<u64, ServiceError> {
///     let mut sum = 0;
///     while let Some(item) = items.try_next().await? {
///         sum += item;
///     }
///     Ok(sum)
/// }
/// ```
#[derive(Debug)]
pub struct Items<T> {
    call_stream: Arc<CallStream>,
    is_over: bool,
    item: PhantomData<fn() -> T>,
}

/// An answer in parts, made of a [`Stream`] of results: what a handler returns. It is asked for the next part when the caller has
/// taken the earlier ones, and dropped when the caller goes. An error ends it, and is told. When the node leaves, it ends where
/// it has nothing to send.
///
/// ```
/// use futures::{Stream, stream};
/// use node_sdk::{Params, ServiceError, Streaming};
///
/// async fn count(Params(to): Params<u64>) -> Result<Streaming<impl Stream<Item = Result<u64, ServiceError>>>, ServiceError> {
///     Ok(Streaming(stream::iter((0..to).map(Ok))))
/// }
/// ```
#[derive(Debug)]
pub struct Streaming<S>(pub S);

/// A call at work that may be a stream.
#[derive(Debug)]
pub(crate) struct CallStream {
    state: Mutex<CallStreamState>,
    /// Whoever works on the call.
    task: AtomicWaker,
    /// Bytes that wait in all streams of its caller.
    held: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct CallStreamState {
    receive: ReceiveWindow,
    send: SendWindow,
    /// The handler takes items.
    takes_items: bool,
    is_open: bool,
    /// The node leaves: what has nothing to send ends.
    leaving: bool,
    /// The call is over, or the caller is gone.
    cut: bool,
    /// There was no room for what came.
    out_of_memory: bool,
}

/// Parts of an answer, whatever they are made of.
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
    /// The caller takes so many bytes before it grants more.
    pub(crate) fn new(credit: u32, held: Arc<AtomicUsize>) -> Arc<Self> {
        let state = CallStreamState {
            receive: ReceiveWindow::new(STREAM_WINDOW),
            send: SendWindow::new(credit),
            takes_items: false,
            is_open: false,
            leaving: false,
            cut: false,
            out_of_memory: false,
        };
        Arc::new(Self { state: Mutex::new(state), task: AtomicWaker::new(), held })
    }

    /// A part has come from the caller.
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

    /// The caller takes so many bytes more.
    pub(crate) fn grant(&self, bytes: u32) {
        let waker = self.lock().send.grant(bytes);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    /// The node leaves.
    pub(crate) fn stop(&self) {
        self.lock().leaving = true;
        self.task.wake();
    }

    pub(crate) fn register_waker(&self, task: &Context<'_>) {
        self.task.register(task.waker());
    }

    /// Whether the packet that opens the answer is to be sent now: items are wanted, or there are `parts`.
    pub(crate) fn set_open(&self, parts: bool) -> bool {
        let mut state = self.lock();
        (parts || state.takes_items) && !std::mem::replace(&mut state.is_open, true)
    }

    /// Credit for the caller that is worth sending now.
    pub(crate) fn next_credit(&self) -> Option<u32> {
        self.lock().receive.next_credit()
    }

    /// The number of the next part, as soon as it may be sent.
    pub(crate) fn poll_ready(&self, task: &mut Context<'_>) -> Poll<u64> {
        let mut state = self.lock();
        ready!(state.send.poll_ready(task));
        Poll::Ready(state.send.next_number())
    }

    /// A part of so many bytes is sent.
    pub(crate) fn sent(&self, bytes: usize) {
        self.lock().send.sent(bytes);
    }

    /// Why a stream that has nothing to send ends now, if it does.
    pub(crate) fn stop_error(&self) -> Option<ServiceError> {
        let leaves = self.lock().leaving;
        leaves.then(|| ServiceError::new(503, "leaving", "this node leaves").retry_after(REOPEN_AFTER))
    }

    /// Bytes that have come and are not taken.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.lock().receive.waiting_bytes()
    }

    /// There is no room for what has come: whoever takes it finds out.
    pub(crate) fn crowd_out(&self) {
        let mut state = self.lock();
        self.held.fetch_sub(state.receive.waiting_bytes(), Ordering::Relaxed);
        state.receive.clear();
        state.out_of_memory = true;
        state.takes_items = false;
        let waker = state.receive.end();
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    /// The call is over.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.cut = !state.receive.is_over();
        let waker = state.receive.end();
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, CallStreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What nobody has taken is gone with it.
impl Drop for CallStream {
    fn drop(&mut self) {
        self.held.fetch_sub(self.lock().receive.waiting_bytes(), Ordering::Relaxed);
    }
}

impl<T> FromCall for Items<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let Some(call_stream) = call.call_stream else {
            return Err(ServiceError::bad_request("no_stream", "this route takes a stream; open one"));
        };
        call_stream.lock().takes_items = true;
        Ok(Self { call_stream: Arc::clone(call_stream), is_over: false, item: PhantomData })
    }
}

impl<T> Unpin for Items<T> {}

impl<T: DeserializeOwned> Stream for Items<T> {
    type Item = Result<T, ServiceError>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut state = self.call_stream.lock();
        let before = state.receive.waiting_bytes();
        let taken = ready!(state.receive.poll_part(task));
        self.call_stream.held.fetch_sub(before - state.receive.waiting_bytes(), Ordering::Relaxed);
        let (has_credit_due, cut, out_of_memory) = (state.receive.has_credit_due(), state.cut, state.out_of_memory);
        drop(state);
        if has_credit_due {
            self.call_stream.task.wake();
        }
        let item = match taken {
            Some(frame) => read_part(&frame, Side::Caller)
                .map_err(|error| ServiceError::bad_request("bad_part", error.to_string())),
            None if out_of_memory => Err(no_room("the parts of this stream, which are not taken")),
            None if cut => Err(ServiceError::new(499, "cut", "the caller went before the last part")),
            None => {
                self.is_over = true;
                return Poll::Ready(None);
            }
        };
        self.is_over = item.is_err();
        Poll::Ready(Some(item))
    }
}

impl<S, T, E> Respond for Streaming<S>
where
    S: Stream<Item = Result<T, E>> + Send + 'static,
    T: Serialize,
    E: Into<ServiceError>,
{
    fn write(&self, _out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        Err(serde::ser::Error::custom("it is a stream"))
    }

    fn into_parts(self) -> Result<Parts, Self> {
        Ok(Parts(Box::pin(StreamSource { stream: self.0 })))
    }
}

pin_project! {
    struct StreamSource<S> {
        #[pin]
        stream: S,
    }
}

impl<S, T, E> PartSource for StreamSource<S>
where
    S: Stream<Item = Result<T, E>> + Send,
    T: Serialize,
    E: Into<ServiceError>,
{
    fn poll_part(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        out: &mut BytesMut,
    ) -> Poll<Option<Result<(), ServiceError>>> {
        let item = ready!(self.project().stream.poll_next(task));
        Poll::Ready(item.map(|item| {
            let item = item.map_err(Into::into)?;
            respond::append_json(&item, out)
                .map_err(|error| ServiceError::internal(format!("a part has no JSON form: {error}")))
        }))
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}
