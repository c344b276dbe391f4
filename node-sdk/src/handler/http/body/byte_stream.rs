//! A response whose body is a stream of bytes.

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use protocol::{ResponseHeaders, Side, write_raw_part};

use crate::error::ServiceError;
use crate::handler::call_stream::{ByteParts, ByteSource, Parts, PartsKind};
use crate::handler::http::Wants;
use crate::handler::respond::Respond;
use crate::transport::flow::take_front;

/// Pieces of a source that are taken for one part: then others get their turn.
const MAX_PIECES: usize = 256;

/// A body that is made while it is sent: a file, an archive, the answer of another server. Bytes of
/// any media type, `application/octet-stream` unless
/// [`content_type`](crate::HttpResponse::content_type) says otherwise.
///
/// The stream is polled for more when the client has read the bytes before, so a slow client slows
/// it down and fills no memory. It is dropped when the client has gone. If it ends with an error,
/// the client's connection is cut (over HTTP/2: the request is reset), so that half a body does not
/// look whole. When the node stops, the stream goes on to its end within the time that
/// [`stop`](crate::Node::stop) has.
///
/// A caller that is a node is refused with 406 `bytes`. So is a gateway of before, which knows no
/// such streams.
///
/// ```
/// use bytes::Bytes;
/// use futures::stream;
/// use node_sdk::{ByteStream, HttpResponse, Node, ServiceError};
///
/// async fn export() -> Result<HttpResponse<ByteStream>, ServiceError> {
///     let rows = stream::iter((1..=100_000).map(|row| Ok::<_, ServiceError>(format!("{row}\n"))));
///     Ok(HttpResponse::new(ByteStream::new(rows)).content_type("text/csv"))
/// }
///
/// let node = Node::builder("reports").route("GET/export", export).public();
/// ```
pub struct ByteStream {
    source: ByteSource,
    length: Option<u64>,
}

impl ByteStream {
    /// A body of the pieces of `stream`, which may be of any size.
    pub fn new<S, B, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<B, E>> + Send + 'static,
        B: Into<Bytes>,
        E: Into<ServiceError>,
    {
        let source = stream.map(|piece| piece.map(Into::into).map_err(Into::into));
        Self { source: Box::pin(source), length: None }
    }

    /// A body without bytes: for a response that has none, such as one with status 304.
    pub fn empty() -> Self {
        Self::new(stream::empty::<Result<Bytes, ServiceError>>()).length(0)
    }

    /// States how many bytes the stream has, as `content-length`: clients then show how much is
    /// left. Without it the body is sent in chunks. A stream with more or fewer bytes is cut.
    pub fn length(self, bytes: u64) -> Self {
        Self { length: Some(bytes), ..self }
    }
}

impl Respond for ByteStream {
    fn headers(&self, headers: &mut ResponseHeaders) {
        headers.append("content-type", "application/octet-stream");
    }

    fn wants(wants: &mut Wants) {
        wants.byte_stream();
    }

    fn write(&self, _out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        Err(serde::ser::Error::custom("the result is a stream of bytes"))
    }

    fn into_parts(self) -> Result<Parts, Self> {
        let mut headers = ResponseHeaders::NONE;
        Respond::headers(&self, &mut headers);
        let Self { source, length } = self;
        let (status, has_begun, waiting, sent, end) = (200, false, VecDeque::new(), 0, None);
        let parts = ByteParts { status, headers, length, source, has_begun, waiting, sent, end };
        Ok(Parts(PartsKind::Bytes(Box::new(parts))))
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Parts {
    /// The same with a status and header fields of its own. JSON texts have none.
    pub(crate) fn with_head(mut self, status: u16, headers: ResponseHeaders) -> Self {
        if let PartsKind::Bytes(parts) = &mut self.0 {
            (parts.status, parts.headers) = (status, headers);
        }
        self
    }
}

impl ByteParts {
    /// Writes the next part, of at most `max` raw bytes, for the stream of this key and under this
    /// number; `None` after the last. Returns the credit that it uses.
    pub(crate) fn poll_part(
        &mut self,
        task: &mut Context<'_>,
        max: usize,
        packet: (u64, u64),
        out: &mut BytesMut,
    ) -> Poll<Option<Result<usize, ServiceError>>> {
        self.fill(task, max);
        let pieces = take_front(&mut self.waiting, max);
        let bytes = pieces.iter().map(Bytes::len).sum();
        self.sent += bytes as u64;
        let is_over = self.length.is_some_and(|length| self.sent > length);
        match self.end.take_if(|_| bytes == 0) {
            None if is_over => Poll::Ready(Some(Err(self.wrong_length()))),
            None if bytes == 0 => Poll::Pending,
            None => {
                let pieces = pieces.iter().map(|piece| &**piece);
                Poll::Ready(Some(Ok(write_raw_part(out, Side::Callee, packet, bytes, pieces))))
            }
            Some(Ok(())) if self.length.is_some_and(|length| self.sent < length) => {
                Poll::Ready(Some(Err(self.wrong_length())))
            }
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
        }
    }

    /// Takes pieces of the source, until there are `max` bytes, or none are ready.
    fn fill(&mut self, task: &mut Context<'_>, max: usize) {
        let mut bytes: usize = self.waiting.iter().map(Bytes::len).sum();
        for _ in 0..MAX_PIECES {
            if bytes >= max || self.end.is_some() {
                return;
            }
            match self.source.poll_next_unpin(task) {
                Poll::Ready(Some(Ok(piece))) => {
                    bytes += piece.len();
                    self.waiting.push_back(piece);
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(error)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => return,
            }
        }
        task.waker().wake_by_ref();
    }

    fn wrong_length(&self) -> ServiceError {
        let length = self.length.unwrap_or_default();
        ServiceError::internal(format!("a body was stated to have {length} bytes, and has others"))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use protocol::{FrameDecoder, parse_raw_part};

    use super::*;

    /// The parts that a stream gives, of at most four bytes each, and its end.
    fn parts(stream: ByteStream) -> (Vec<String>, Result<(), u16>) {
        let Ok(Parts(PartsKind::Bytes(mut parts))) = stream.into_parts() else { panic!("it has parts") };
        let mut task = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        loop {
            let mut out = BytesMut::new();
            match parts.poll_part(&mut task, 4, (7, 1), &mut out) {
                Poll::Ready(Some(Ok(cost))) => {
                    assert_eq!(cost, out.len());
                    let mut decoder = FrameDecoder::new(100);
                    decoder.take_attachments();
                    *decoder.buffer() = out;
                    let frame = decoder.next_frame().unwrap().unwrap();
                    let (key, _, raw) = parse_raw_part(&frame, Side::Callee).unwrap();
                    assert_eq!(key, 7);
                    seen.push(String::from_utf8(raw.to_vec()).unwrap());
                }
                Poll::Ready(Some(Err(error))) => return (seen, Err(error.status)),
                Poll::Ready(None) => return (seen, Ok(())),
                Poll::Pending => panic!("all of it is ready"),
            }
        }
    }

    #[test]
    fn pieces_are_gathered_and_cut() {
        let check = |pieces: &[&'static str], length: Option<u64>, expected: &[&str], end: Result<(), u16>| {
            let pieces = pieces.iter().map(|piece| match *piece {
                "!" => Err(ServiceError::new(507, "full", "")),
                piece => Ok(Bytes::from_static(piece.as_bytes())),
            });
            let stream = ByteStream { length, ..ByteStream::new(stream::iter(pieces.collect::<Vec<_>>())) };
            let (seen, ended) = parts(stream);
            assert_eq!((seen.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), ended), (expected, end));
        };
        check(&[], None, &[], Ok(()));
        check(&["a", "b", "", "cd", "e"], None, &["abcd", "e"], Ok(()));
        check(&["abcdefghi"], None, &["abcd", "efgh", "i"], Ok(()));
        check(&["ab", "!"], None, &["ab"], Err(507));
        check(&["!"], None, &[], Err(507));
        check(&["abcde"], Some(5), &["abcd", "e"], Ok(()));
        check(&["abcde"], Some(4), &["abcd"], Err(500));
        check(&["abcde"], Some(6), &["abcd", "e"], Err(500));
        assert_eq!(parts(ByteStream::empty()), (vec![], Ok(())));
    }

    #[test]
    fn a_source_without_bytes_does_not_keep_others_from_their_turn() {
        let empty = ByteStream::new(stream::repeat_with(|| Ok::<_, ServiceError>(Bytes::new())));
        let Ok(Parts(PartsKind::Bytes(mut parts))) = empty.into_parts() else { panic!("it has parts") };
        let mut task = Context::from_waker(Waker::noop());
        assert!(parts.poll_part(&mut task, 4, (7, 1), &mut BytesMut::new()).is_pending());
    }
}
