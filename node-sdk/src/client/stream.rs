//! Streams as their callers see them.

use std::collections::VecDeque;
use std::future::{IntoFuture, poll_fn};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use protocol::{PartWriter, STREAM_WINDOW, Side};
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use tokio::time::Instant;

use crate::balance::Balance;
use crate::client::call::raw_call::RawCall;
use crate::client::call::response::{RawResponse, read_result};
use crate::client::call::{noting_timeout, read_response};
use crate::error::CallError;
use crate::transport::connection::OpenStream;
use crate::transport::flow::{FlowViolation, read_part};
use crate::transport::in_flight::{CallFailure, StreamEnd};
use crate::transport::write_queue::EnqueueError;
use net::buffers::with_scratch;

/// A stream that is about to be opened. Change the settings that should differ from the defaults,
/// then await it.
#[must_use = "a stream is opened when it is awaited"]
#[derive(Debug)]
pub struct StreamCall<'a, T> {
    raw: RawCall<'a>,
    result: PhantomData<fn() -> T>,
}

impl<'a, T> StreamCall<'a, T> {
    pub(crate) fn new(raw: RawCall<'a>) -> Self {
        Self { raw: raw.streaming(STREAM_WINDOW), result: PhantomData }
    }

    /// How long opening the stream may take, with all attempts. 5 s unless set. An open stream may
    /// last as long as both sides want. One that was opened while a call is handled ends a margin
    /// before the deadline of that call, unless the caller of that one takes a stream.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.raw = self.raw.timeout(timeout);
        self
    }

    /// As [`Call::idempotent`](crate::Call::idempotent), until the stream is open.
    pub fn idempotent(mut self) -> Self {
        self.raw.idempotent = true;
        self
    }

    /// As [`Call::sticky_key`](crate::Call::sticky_key).
    pub fn sticky_key(mut self, key: &'a str) -> Self {
        self.raw.sticky_key = Some(key);
        self
    }

    /// As [`Call::to_instance`](crate::Call::to_instance).
    pub fn to_instance(mut self, instance: &'a str) -> Self {
        self.raw.instance = Some(instance);
        self
    }

    /// Opens the stream with the node at this address.
    #[cfg(feature = "event-log")]
    pub(crate) fn at_address(mut self, address: SocketAddr) -> Self {
        self.raw = self.raw.with_address(address);
        self
    }

    /// As [`Call::balance`](crate::Call::balance).
    pub fn balance(mut self, balance: Balance) -> Self {
        self.raw.balance = balance;
        self
    }
}

impl<'a, T: DeserializeOwned> IntoFuture for StreamCall<'a, T> {
    type Output = Result<Duplex<T>, CallError>;
    type IntoFuture = StreamFuture<'a, T>;

    fn into_future(self) -> StreamFuture<'a, T> {
        StreamFuture { raw: self.raw, result: PhantomData }
    }
}

/// A stream that is being opened.
#[derive(Debug)]
pub struct StreamFuture<'a, T> {
    raw: RawCall<'a>,
    result: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Future for StreamFuture<'_, T> {
    type Output = Result<Duplex<T>, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.raw).poll(context);
        let Poll::Ready(answer) = polled.map(noting_timeout)? else { return Poll::Pending };
        let mut stream = Duplex::from_call(&mut self.raw);
        if stream.open.is_none() {
            // A response in one piece is a stream of one item.
            let read = noting_timeout(read_response(Ok(answer), || stream.url.clone()));
            stream.whole.push_back(read?);
        }
        Poll::Ready(Ok(stream))
    }
}

/// What the parts of a stream are read as: anything that can be deserialized.
#[doc(hidden)]
pub trait FromPart: Sized {
    /// Reads a part.
    fn from_part(frame: Bytes) -> Result<Self, serde_json::Error>;
    /// Reads a response that ends the stream of a call of `url` as its last part.
    fn from_response(response: RawResponse, url: &str) -> Result<Self, CallError>;
}

impl<T: DeserializeOwned> FromPart for T {
    fn from_part(frame: Bytes) -> Result<Self, serde_json::Error> {
        read_part(&frame, Side::Callee)
    }

    fn from_response(response: RawResponse, url: &str) -> Result<Self, CallError> {
        read_result(&response).map_err(|error| error.into_call_error(|| url.to_owned()))
    }
}

/// An open stream: a [`Stream`] of the results that the other node sends, in order, and a
/// [`sender`](Self::sender) for the other direction. It ends with the last part of the other node,
/// or with one error. No part is skipped, and nothing is tried again. At most 256 kB, or one part,
/// wait here to be read; then the other node waits. Dropping the stream and its senders cancels the
/// work on the other node.
///
/// ```no_run
/// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
/// use futures::TryStreamExt;
///
/// let mut sums = peers.stream::<u64>("POST/sum", &()).await?;
/// let sender = sums.sender();
/// for number in [1, 2, 3] {
///     sender.send(&number).await?;
/// }
/// sender.finish();
/// assert_eq!(sums.try_next().await?, Some(6));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Duplex<T> {
    open: Option<Arc<OpenStream>>,
    /// The item of a response in one piece, or one that was put back.
    whole: VecDeque<T>,
    url: String,
    opened: Instant,
}

/// Sends parts of a stream. From [`Duplex::sender`].
///
/// ```no_run
/// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
/// let sums = peers.stream::<u64>("POST/sums", &()).await?;
/// let sender = sums.sender();
/// sender.send(&1).await?;
/// sender.send(&2).await?;
/// sender.finish();
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PartSender {
    open: Option<Arc<OpenStream>>,
    url: String,
}

impl<T> Duplex<T> {
    /// A sender of the parts that the other node reads as [`Items`](crate::Items). Cheap to clone.
    pub fn sender(&self) -> PartSender {
        PartSender { open: self.open.clone(), url: self.url.clone() }
    }
}

impl<T> Duplex<T> {
    /// The url that was called.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The node at the other end, if the stream is open and does not end in this process.
    pub fn node(&self) -> Option<SocketAddr> {
        self.open.as_ref().map(|open| open.address())
    }
}

impl<T> Unpin for Duplex<T> {}

impl<T> Duplex<T> {
    /// Whether the stream has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn open_stream(&self) -> Option<&Arc<OpenStream>> {
        self.open.as_ref()
    }

    /// Puts an item back, so that it is the next one again.
    pub(super) fn put_back(&mut self, item: T) {
        self.whole.push_front(item);
    }

    /// The stream that a call has become, if it has; once it is answered.
    pub(super) fn from_call(raw: &mut RawCall<'_>) -> Self {
        let open = raw.opened_stream().map(Arc::new);
        Self { open, whole: VecDeque::new(), url: raw.url(), opened: Instant::now() }
    }
}

impl<T: FromPart> Stream for Duplex<T> {
    type Item = Result<T, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(whole) = self.whole.pop_front() {
            return Poll::Ready(Some(Ok(whole)));
        }
        let Some(open) = &self.open else { return Poll::Ready(None) };
        let Poll::Ready(part) = open.poll_part(context) else { return Poll::Pending };
        let result = match part {
            Some(Ok(frame)) => T::from_part(frame).map_err(|source| self.unreadable(source)),
            Some(Err(StreamEnd::Response(frame))) => {
                let last = T::from_response(RawResponse { frame, node: Some(open.address()) }, &self.url);
                self.open = None;
                last
            }
            Some(Err(StreamEnd::Failed(failure))) => Err(match failure {
                CallFailure::Lost { .. } => CallError::Lost { url: self.url.clone(), node: open.address() },
                CallFailure::Deadline { .. } => {
                    CallError::Deadline { url: self.url.clone(), within: self.opened.elapsed() }
                }
            }),
            Some(Err(StreamEnd::Violation(abuse))) => Err(self.unreadable(serde_json::Error::custom(match abuse {
                FlowViolation::Gap => "a part is missing or was sent twice",
                FlowViolation::Overrun => "a part was sent without credit",
            }))),
            Some(Err(StreamEnd::OutOfMemory)) => {
                Err(self.unreadable(serde_json::Error::custom("no memory is left for the parts of the stream")))
            }
            None => {
                self.open = None;
                return Poll::Ready(None);
            }
        };
        if result.is_err() {
            // Nothing valid can follow.
            self.open = None;
        }
        Poll::Ready(Some(result))
    }
}

impl<T> Duplex<T> {
    fn unreadable(&self, source: serde_json::Error) -> CallError {
        CallError::Response { url: self.url.clone(), source }
    }
}

impl PartSender {
    /// Sends one part, as soon as the other side grants credit. Cancel safe: a part is sent as a
    /// whole or not at all.
    ///
    /// # Errors
    /// [`CallError::Ended`] when the stream is over; its end says why. Others when the part cannot
    /// be sent.
    pub async fn send(&self, item: &(impl Serialize + Sync)) -> Result<(), CallError> {
        let Some(open) = &self.open else { return Err(self.ended()) };
        loop {
            if poll_fn(|context| open.poll_send(context)).await.is_err() {
                return Err(self.ended());
            }
            if self.send_now(open, item)? {
                return Ok(());
            }
        }
    }

    /// Sends one part, unless another sender has used up the credit.
    fn send_now(&self, open: &OpenStream, item: &(impl Serialize + Sync)) -> Result<bool, CallError> {
        with_scratch(|scratch| {
            let params = |source| CallError::Params { url: self.url.clone(), source };
            serde_json::to_writer(&mut *scratch, item).map_err(params)?;
            let sent = open.send(|number, out| {
                let writer = PartWriter::begin(out, Side::Caller, open.key(), number);
                out.extend_from_slice(scratch);
                writer.end(out)
            });
            sent.map_err(|refusal| match refusal {
                EnqueueError::Full => CallError::Overloaded { url: self.url.clone() },
                EnqueueError::TooLarge => CallError::TooLarge { url: self.url.clone() },
            })
        })
    }

    /// Says that no part follows. The other node may still send. Calling it again does nothing.
    pub fn finish(&self) {
        if let Some(open) = &self.open {
            open.finish();
        }
    }

    fn ended(&self) -> CallError {
        CallError::Ended { url: self.url.clone() }
    }
}
