//! A response on its way to the client: that of a server, or the stream of a node.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use net::buffers;
use tokio::net::tcp::ReadHalf;
use tokio::time::{Duration, Instant};

use super::deadline::MovingDeadline;
use super::{ForwardError, Forwarded, Sink, Source, while_waiting_for_client};
use crate::http1::body::BodyReader;
use crate::http1::line_ends::LineEnds;
use crate::http1::response_reader::ResponseReader;
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::Readable;
use crate::message::body::Framing;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::ended::Ended;
use crate::upstream::concurrency::Permit;
use crate::upstream::endpoint::IdleLimits;

/// Read sizes: of the first read of a response, of later reads, and of a response of which the
/// client has read much. Bytes that were read when a client stops are held until it continues.
pub(super) const FIRST_READ_BYTES: usize = 4 * 1024;
pub(super) const READ_BYTES: usize = 8 * 1024;
pub(super) const LARGE_READ_BYTES: usize = 32 * 1024;
pub(super) const LARGE_FROM_BYTES: u64 = 1 << 20;
/// The system takes this many bytes for a client that does not read. From then on it is asked
/// whether it would take more before more is read.
pub(super) const ASK_FROM_BYTES: u64 = 8 * 1024;
/// Most bytes of parts that leave together.
pub(super) const MAX_BATCH_BYTES: usize = 16 * 1024;
/// Most interim responses of a server, such as 103.
pub(super) const MAX_INTERIM: u32 = 16;

/// A response on its way.
pub(super) struct ResponsePump<'a, S> {
    pub(super) head: &'a RequestHead,
    pub(super) from_server: ReadHalf<'a>,
    pub(super) sink: &'a mut S,
    pub(super) deadline: &'a MovingDeadline,
    pub(super) idle_timeout: Duration,
    /// The client is being given the response.
    pub(super) is_response_begun: &'a AtomicBool,
    /// The server has been given the whole request.
    pub(super) is_request_sent: &'a AtomicBool,
    pub(super) asked: Instant,
    pub(super) edits: &'a ResponseEdits<'a>,
    /// Bytes of the body that have been passed on.
    pub(super) passed: u64,
    pub(super) permit: &'a Permit,
    pub(super) slice: PollSlice<'a>,
}

impl<S: Sink> ResponsePump<'_, S> {
    pub(super) async fn run(&mut self) -> Result<Forwarded, ForwardError> {
        let mut input = BytesMut::new();
        let forwarded = self.run_with(&mut input).await;
        buffers::release(input);
        forwarded
    }

    pub(super) async fn run_with(&mut self, input: &mut BytesMut) -> Result<Forwarded, ForwardError> {
        let response = self.response(input).await?;
        let switches = response.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if switches && !self.head.upgrades {
            return Err(ForwardError::Malformed("it changes to a protocol that was not asked for".to_owned()));
        }
        let answered = self.asked.elapsed();
        self.sink.head(&response, !self.is_request_sent.load(Ordering::Relaxed), self.edits);
        if switches {
            return Ok(Forwarded::Tunnel { to_client: input.split().freeze() });
        }
        let ResponseHead { framing, keep_alive, keep_for, fields, .. } = response;
        // The head is not needed while the body is passed on.
        drop(fields);
        self.is_response_begun.store(true, Ordering::Relaxed);
        let mut body = BodyReader::new(framing, LineEnds::Liberal);
        loop {
            match body.next(input) {
                Ok(Piece::Data(data)) => {
                    self.passed += data.len() as u64;
                    self.permit.record_bytes(data.len());
                    self.sink.data(data);
                }
                Ok(Piece::End(trailers)) => {
                    self.sink.end(&trailers);
                    break;
                }
                Ok(Piece::More) => {
                    // Nothing is held back, and nothing is read that the client does not read. Time
                    // spent on the client does not count against the server.
                    self.deadline.disarm();
                    if input.is_empty() {
                        buffers::release(std::mem::take(input));
                    }
                    while_waiting_for_client(self.permit, self.sink.flush()).await?;
                    if self.passed >= ASK_FROM_BYTES {
                        while_waiting_for_client(self.permit, self.sink.writable()).await?;
                    }
                    let now = Instant::now();
                    let now = if self.slice.yield_if_over(now).await { Instant::now() } else { now };
                    self.deadline.set(now + self.idle_timeout);
                    if self.read(input).await? == 0 {
                        if framing == Framing::Close {
                            self.sink.end(b"");
                            break;
                        }
                        return Err(ForwardError::Ended(Ended("the server closed in mid response")));
                    }
                }
                Err(_broken) => {
                    self.deadline.disarm();
                    self.sink.flush().await?;
                    return Err(ForwardError::Ended(Ended("the server's response is malformed")));
                }
            }
        }
        self.deadline.disarm();
        while_waiting_for_client(self.permit, self.sink.flush()).await?;
        let keep_server = (keep_alive && input.is_empty()).then(|| IdleLimits::from_header(keep_for));
        Ok(Forwarded::Done { keep_server, answered })
    }

    /// The head of the response; those before it are passed over.
    pub(super) async fn response(&mut self, input: &mut BytesMut) -> Result<ResponseHead, ForwardError> {
        let mut reader = ResponseReader::default();
        let mut interim = 0;
        let without_body = self.head.method() == "HEAD";
        loop {
            match reader.next(input, without_body) {
                Ok(Some(head)) if head.status.is_informational() && head.status.as_u16() != 101 => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        return Err(ForwardError::Malformed("it has too many interim responses".to_owned()));
                    }
                }
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {
                    if self.read(input).await? == 0 {
                        let cut = || ForwardError::Malformed("it ended in mid head".to_owned());
                        return Err(if input.is_empty() && interim == 0 { ForwardError::Unanswered } else { cut() });
                    }
                }
                Err(why) => return Err(ForwardError::Malformed(why)),
            }
        }
    }

    /// Reads on. A buffer that is empty is taken only when there is something to read: thousands
    /// may wait for a slow server.
    pub(super) async fn read(&mut self, input: &mut BytesMut) -> Result<usize, ForwardError> {
        let is_response_begun = self.is_response_begun.load(Ordering::Relaxed);
        let read = loop {
            let readable = match Readable::readable(&mut self.from_server).now_or_never() {
                Some(readable) => readable,
                None => {
                    self.sink.release_buffers();
                    Readable::readable(&mut self.from_server).await
                }
            };
            if let Err(error) = readable {
                break Err(error);
            }
            if input.capacity() == 0 {
                *input = buffers::acquire();
            }
            input.reserve(match self.passed {
                LARGE_FROM_BYTES.. => LARGE_READ_BYTES,
                _ if is_response_begun => READ_BYTES,
                _ => FIRST_READ_BYTES,
            });
            match self.from_server.recv(input) {
                Ok(Some(bytes)) => break Ok(bytes),
                Ok(None) if input.is_empty() => buffers::release(std::mem::take(input)),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        };
        match read {
            Ok(bytes) => Ok(bytes),
            Err(_reset) if is_response_begun => Err(Ended("the server was lost in mid response").into()),
            Err(_reset) => Ok(0),
        }
    }
}

/// Gives a client parts as they come, until the last, or until the client goes.
pub(crate) async fn relay_stream(
    response: &ResponseHead,
    parts: impl Stream<Item = Result<Bytes, Ended>>,
    source: &mut impl Source,
    sink: &mut impl Sink,
) -> Result<(), Ended> {
    sink.head(response, false, &ResponseEdits::default());
    let polls = PollCounter::default();
    polls.count_polls(relay_parts(parts, source, sink, PollSlice::new(&polls))).await
}

pub(super) async fn relay_parts(
    parts: impl Stream<Item = Result<Bytes, Ended>>,
    source: &mut impl Source,
    sink: &mut impl Sink,
    mut slice: PollSlice<'_>,
) -> Result<(), Ended> {
    let mut parts = std::pin::pin!(parts);
    let (mut batch, mut passed) = (BytesMut::new(), 0);
    loop {
        // Available parts leave together: an HTTP/2 frame for each of many small parts would look
        // like an attack.
        let ready = if batch.len() < MAX_BATCH_BYTES { parts.next().now_or_never() } else { None };
        let part = match ready {
            Some(part) => part,
            None => {
                passed += batch.len() as u64;
                sink.data(batch.split().freeze());
                sink.flush().await?;
                // A client that waits for parts holds no buffer.
                batch = BytesMut::new();
                sink.release_buffers();
                if passed >= ASK_FROM_BYTES {
                    sink.writable().await?;
                }
                slice.yield_if_over(Instant::now()).await;
                tokio::select! {
                    biased;
                    part = parts.next() => part,
                    ended = source.client_gone() => return Err(ended),
                }
            }
        };
        match part {
            Some(Ok(part)) => batch.extend_from_slice(&part),
            last => {
                sink.data(batch.freeze());
                if last.is_none() {
                    sink.end(b"");
                }
                sink.flush().await?;
                return last.map_or(Ok(()), |broken| broken.map(drop));
            }
        }
    }
}
