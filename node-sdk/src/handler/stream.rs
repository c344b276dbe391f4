//! Streams as handlers see them.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use futures::Stream;
use pin_project_lite::pin_project;
use protocol::{PartWriter, Side};
use serde::de::DeserializeOwned;

use crate::error::ServiceError;
use crate::handler::call_stream::{CallStream, PartSource, Parts, PartsKind};
use crate::handler::http::StreamItem;
use crate::handler::respond::Respond;
use crate::handler::{FromCall, IncomingCall};
use crate::transport::flow::read_part;

/// The parts that the caller sends after the call, in order: an argument of a handler. The stream
/// ends with the last part, or with one error when the caller or its connection is lost before.
/// Callers open a [`stream`](crate::Peers::stream); other calls are refused.
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

/// A response in parts, made of a [`Stream`] of results: what a handler returns. Items that are a
/// [`ServerEvent`](crate::ServerEvent) have an id and a name for browsers. The stream is
/// polled for the next part when the caller has read the earlier ones, and dropped when the caller
/// has gone. An error ends it, and the caller is told. When the node stops, the stream ends as soon
/// as it has nothing to send.
///
/// ```
/// use futures::{Stream, stream};
/// use node_sdk::{Params, ServiceError, Streaming};
///
/// type Number = Result<u64, ServiceError>;
///
/// async fn count(
///     Params(to): Params<u64>,
/// ) -> Result<Streaming<impl Stream<Item = Number>>, ServiceError> {
///     Ok(Streaming(stream::iter((0..to).map(Ok))))
/// }
/// ```
#[derive(Debug)]
pub struct Streaming<S>(pub S);

/// A response in parts whose type can be written down, as in the methods of a
/// [`service`](crate::service). From [`Streaming::boxed`].
pub type BoxStreaming<T, E = ServiceError> = Streaming<Pin<Box<dyn Stream<Item = Result<T, E>> + Send>>>;

impl<T, E> BoxStreaming<T, E> {
    /// A response in parts, made of any stream.
    pub fn boxed(stream: impl Stream<Item = Result<T, E>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl<T: 'static> FromCall for Items<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let Some(call_stream) = call.call_stream else {
            return Err(ServiceError::bad_request("no_stream", "this route reads a stream; open a stream"));
        };
        call_stream.expect_items();
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
        let item = match ready!(self.call_stream.poll_part(task)) {
            Some(Ok(frame)) => read_part(&frame, Side::Caller)
                .map_err(|error| ServiceError::bad_request("bad_part", error.to_string())),
            Some(Err(error)) => Err(error),
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
    T: StreamItem,
    E: Into<ServiceError>,
{
    fn write(&self, _out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        Err(serde::ser::Error::custom("the result is a stream"))
    }

    fn into_parts(self) -> Result<Parts, Self> {
        Ok(Parts(PartsKind::Json(Box::pin(StreamSource { stream: self.0 }))))
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
    T: StreamItem,
    E: Into<ServiceError>,
{
    fn poll_part(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        (key, number): (u64, u64),
        out: &mut BytesMut,
    ) -> Poll<Option<Result<usize, ServiceError>>> {
        let item = ready!(self.project().stream.poll_next(task));
        Poll::Ready(item.map(|item| {
            let item = item.map_err(Into::into)?;
            let writer = PartWriter::begin_event(out, Side::Callee, key, number, &item.fields());
            item.append(out).map_err(|error| ServiceError::internal(format!("a part has no JSON form: {error}")))?;
            Ok(writer.end(out))
        }))
    }
}
