//! A server's response on its way to the client.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use http::StatusCode;
use net::buffers;
use tokio::time::{Instant, timeout};

use super::deadline::MovingDeadline;
use super::state::ForwardState;
use super::{ForwardError, Forwarded, Sink, while_waiting_for_client};
use crate::http1::body::{BodyReader, MalformedBody};
use crate::http1::line_ends::LineEnds;
use crate::http1::response_reader::ResponseReader;
use crate::io::poll_slice::PollSlice;
use crate::io::stream::{ReadHalf, Readable};
use crate::message::body::Framing;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::request_error::Ended;
use crate::upstream::concurrency::Permit;
use crate::upstream::endpoint::IdleLimits;

/// Read sizes: of the first read of a response, of later reads, and of a response of which the
/// client has read much. Bytes that were read when a client stops are held until it continues.
const FIRST_READ_BYTES: usize = 4 * 1024;
const READ_BYTES: usize = 8 * 1024;
const LARGE_READ_BYTES: usize = 32 * 1024;
const LARGE_FROM_BYTES: u64 = 1 << 20;
/// The system buffers this many bytes for a client that does not read. After that, more is read
/// from the server only when the system would take more.
pub(super) const UNPACED_BYTES: u64 = 8 * 1024;
/// Maximum number of interim responses of a server, such as 103.
const MAX_INTERIM: u32 = 16;
/// How long a client waits for a server that neither says `100 Continue` nor answers. Some servers
/// never say it, and some clients would wait for ever. This is longer than a server takes to check
/// who the client is.
pub(super) const CONTINUE_WAIT: Duration = Duration::from_secs(3);

/// A response on its way.
pub(super) struct ResponsePump<'a, S> {
    pub(super) head: &'a RequestHead,
    pub(super) from_server: ReadHalf<'a>,
    pub(super) sink: &'a mut S,
    pub(super) deadline: &'a MovingDeadline,
    pub(super) idle_timeout: Duration,
    /// How long the server may stay silent before the client is told to send its body anyway.
    pub(super) continue_wait: Duration,
    pub(super) state: &'a ForwardState,
    pub(super) sent_at: Instant,
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
        let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !self.head.upgrades {
            return Err(ForwardError::Malformed("it changes to a protocol that was not asked for".to_owned()));
        }
        let response_time = self.sent_at.elapsed();
        self.sink.head(&response, !self.state.is_request_sent(), self.edits);
        if switches {
            return Ok(Forwarded::Tunnel { to_client: input.split().freeze() });
        }
        let ResponseHead { framing, keep_alive, keep_for, fields, .. } = response;
        // The head is not needed while the body is passed on.
        drop(fields);
        self.state.set_response_begun();
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
                    // No byte waits here, and nothing is read that the client does not read. Time
                    // spent on the client does not count against the server.
                    self.deadline.disarm();
                    if input.is_empty() {
                        buffers::release(std::mem::take(input));
                    }
                    while_waiting_for_client(self.permit, self.sink.flush()).await?;
                    if self.passed >= UNPACED_BYTES {
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
                        return Err(ForwardError::Cut("it closed in mid response"));
                    }
                }
                Err(MalformedBody(why)) => {
                    self.deadline.disarm();
                    self.sink.flush().await?;
                    return Err(ForwardError::Cut(why));
                }
            }
        }
        self.deadline.disarm();
        while_waiting_for_client(self.permit, self.sink.flush()).await?;
        let keep_server = (keep_alive && input.is_empty()).then(|| IdleLimits::from_header(keep_for));
        Ok(Forwarded::Done { keep_server, response_time })
    }

    /// The head of the response; those before it are passed on.
    pub(super) async fn response(&mut self, input: &mut BytesMut) -> Result<ResponseHead, ForwardError> {
        let mut reader = ResponseReader::default();
        let (mut interim, mut unflushed) = (0, false);
        let without_body = self.head.method() == "HEAD";
        loop {
            match reader.next(input, without_body) {
                Ok(Some(head)) if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        return Err(ForwardError::Malformed("it has too many interim responses".to_owned()));
                    }
                    unflushed |= self.pass_on_interim(&head);
                }
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {
                    if std::mem::take(&mut unflushed) {
                        while_waiting_for_client(self.permit, self.sink.flush()).await?;
                    }
                    let read = if self.state.awaits_continue() {
                        match Box::pin(timeout(self.continue_wait, self.read(input))).await {
                            Ok(read) => read?,
                            Err(_elapsed) => {
                                unflushed |= self.pass_on_interim(&ResponseHead::interim(StatusCode::CONTINUE));
                                continue;
                            }
                        }
                    } else {
                        self.read(input).await?
                    };
                    if read == 0 {
                        let cut = || ForwardError::Malformed("it ended within the head".to_owned());
                        return Err(if input.is_empty() && interim == 0 { ForwardError::Unanswered } else { cut() });
                    }
                }
                Err(why) => return Err(ForwardError::Malformed(why)),
            }
        }
    }

    /// Passes on an interim head, such as 103. `100 Continue` is passed on once.
    fn pass_on_interim(&mut self, head: &ResponseHead) -> bool {
        if head.status == StatusCode::CONTINUE {
            let was_given = self.head.expects_continue && !self.state.awaits_continue();
            self.state.set_continued();
            if was_given {
                return false;
            }
        }
        self.sink.interim(head);
        true
    }

    /// Reads more. An empty buffer is taken only when there is something to read: thousands of
    /// requests may wait for a slow server.
    pub(super) async fn read(&mut self, input: &mut BytesMut) -> Result<usize, ForwardError> {
        let is_response_begun = self.state.is_response_begun();
        let read = loop {
            let readable = match Readable::readable(&mut self.from_server).now_or_never() {
                Some(readable) => readable,
                None => {
                    self.sink.release_buffers();
                    self.wait_readable().await?
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
            Err(_reset) if is_response_begun => Err(ForwardError::Cut("it was lost in mid response")),
            Err(_reset) => Ok(0),
        }
    }

    /// Waits until the server has something to read. A client that may be gone is written to
    /// meanwhile.
    async fn wait_readable(&mut self) -> Result<io::Result<()>, Ended> {
        loop {
            tokio::select! {
                biased;
                readable = Readable::readable(&mut self.from_server) => return Ok(readable),
                () = self.state.test_byte_requested() => {}
            }
            self.sink.write_test_byte();
            self.sink.flush().await?;
        }
    }
}
