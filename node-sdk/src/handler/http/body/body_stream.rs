//! The body of a request, read while it arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use protocol::{Side, parse_raw_part, read_raw_part};

use crate::error::ServiceError;
use crate::handler::call_stream::CallStream;
use crate::handler::http::{Wants, header_values};
use crate::handler::{FromCall, IncomingCall};

/// The body of a client's request, read while it arrives: for uploads of any size and media type. A
/// [`Stream`] of pieces, byte for byte as they were sent. A handler that reads slowly slows the
/// client down, and no memory fills: at most 128 KiB wait here.
///
/// The stream ends with the last byte of the body, or with one error: 499 `cut` if the client has
/// gone before, 413 `body_too_large` if the body has more bytes than the route
/// [takes](crate::NodeBuilder::max_body), 503 `no_room` if there was no memory for its bytes. So
/// half a body never looks whole: keep what was read only after the stream has ended with `None`.
///
/// The client is asked for the body when the stream is first polled, or the response begins. So a
/// handler that refuses before is sent none of it.
///
/// **Cancelling.** A client that goes before its body is whole ends the call, and the handler is
/// dropped, whatever the method. Once the stream has ended with `None`, the call is like any other:
/// that of a `POST` is finished. Such a call has no deadline.
///
/// Without [`max_body`](crate::NodeBuilder::max_body) the limit of the gateway holds, 1 MiB unless
/// its operator has set another. The parameters of the path and of the query are the arguments, for
/// [`Params`](crate::Params) and [`Path`](crate::Path).
///
/// ```
/// use futures::TryStreamExt;
/// use node_sdk::{BodyStream, Created, Node, ServiceError};
///
/// async fn count(mut body: BodyStream) -> Result<Created<usize>, ServiceError> {
///     let mut bytes = 0;
///     while let Some(piece) = body.try_next().await? {
///         bytes += piece.len();
///     }
///     Ok(Created(bytes))
/// }
///
/// let node = Node::builder("files").route("POST/files", count).public().max_body(5_000_000_000);
/// ```
///
/// A gateway of before sends the whole body with the call, up to 8 MiB; it is one piece then. If a
/// node makes the call itself, that piece is the JSON text of the arguments.
#[derive(Debug)]
pub struct BodyStream {
    source: BodySource,
    content_type: Option<String>,
    length: Option<u64>,
    max_bytes: u64,
    received: u64,
}

#[derive(Debug)]
enum BodySource {
    /// The body has come with the call.
    Whole(Bytes),
    Parts(Arc<CallStream>),
    /// The end, or an error, was given.
    Over,
}

impl BodyStream {
    /// The media type that the client states.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// How many bytes the body has, if the client says so before. A body that ends without an error
    /// has as many.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Reads a part, or gives the error that ends the stream.
    fn take(&mut self, part: Result<Bytes, ServiceError>) -> Result<Bytes, ServiceError> {
        let part = part?;
        let raw = parse_raw_part(&part, Side::Caller).map(|(_, _, raw)| raw).or_else(|| read_raw_part(&part));
        let no_bytes = || ServiceError::bad_request("bad_part", "a part of a body has no raw bytes");
        let raw = part.slice_ref(raw.ok_or_else(no_bytes)?);
        self.received += raw.len() as u64;
        if self.received > self.max_bytes { Err(too_large(self.max_bytes)) } else { Ok(raw) }
    }
}

fn too_large(max_bytes: u64) -> ServiceError {
    ServiceError::new(413, "body_too_large", format!("the body is larger than {max_bytes} bytes"))
}

impl FromCall for BodyStream {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let content_type = header_values(call, "content-type")?.next().map(str::to_owned);
        let length = header_values(call, "content-length")?.next().and_then(|text| text.parse().ok());
        let max_bytes = call.max_body;
        let source = match call.call_stream {
            Some(call_stream) if call.body_follows => BodySource::Parts(Arc::clone(call_stream)),
            None if call.body_follows => {
                return Err(ServiceError::bad_request("no_stream", "a body in parts needs a stream"));
            }
            Some(_) | None => {
                let text = || Bytes::from(call.params().into_owned());
                BodySource::Whole(call.body.map_or_else(text, Bytes::copy_from_slice))
            }
        };
        if length.is_some_and(|bytes| bytes > max_bytes) {
            return Err(too_large(max_bytes));
        }
        Ok(Self { source, content_type, length, max_bytes, received: 0 })
    }

    fn wants(wants: &mut Wants) {
        wants.body_stream();
        ["content-type", "content-length"].into_iter().for_each(|name| wants.header(name));
    }
}

impl Stream for BodyStream {
    type Item = Result<Bytes, ServiceError>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let part = match &mut self.source {
            BodySource::Over => return Poll::Ready(None),
            BodySource::Whole(body) => {
                let body = std::mem::take(body);
                self.source = BodySource::Over;
                return Poll::Ready((!body.is_empty()).then_some(Ok(body)));
            }
            BodySource::Parts(call_stream) => {
                call_stream.expect_items();
                ready!(call_stream.poll_part(task))
            }
        };
        let item = part.map(|part| self.take(part));
        if !matches!(item, Some(Ok(_))) {
            self.source = BodySource::Over;
        }
        Poll::Ready(item)
    }
}
