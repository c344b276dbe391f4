//! The bytes that a client sends: heads, bodies, and bytes that are read ahead.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use net::buffers;
use tokio::time::{Instant, sleep, timeout_at};

use super::MAX_AHEAD_BYTES;
use crate::http1::body::{BodyReader, MalformedBody};
use crate::http1::head_reader::HeadReader;
use crate::io::stream::{Readable, reset};
use crate::message::body::{Framing, Piece};
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::forward::ClientGone;
use crate::proxy::request_error::{Ended, RequestError};

/// Room for one read: all of most requests, and a part of the others.
pub(super) const READ_BYTES: usize = 4 * 1024;
/// The buffer grows when it has less free room than this.
pub(super) const MIN_READ_ROOM_BYTES: usize = 1024;

/// A client that has closed its sending side is tested at once by a byte of the status line, again
/// after twice this time, and then after twice as long each time. The line has a byte for each
/// test, and this many tests at most.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_TEST_BYTES: u32 = 8;

/// The bytes that a client sends.
#[derive(Debug)]
pub(super) struct Http1Input {
    pub(super) buffer: BytesMut,
    pub(super) heads: HeadReader,
    /// Whether the rest of a head is awaited.
    pub(super) has_begun: bool,
    /// The body of the present request.
    pub(super) body: BodyReader,
    /// Pieces of the body that have been read and not used yet.
    pub(super) read_ahead: VecDeque<Piece>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(super) needs_continue: bool,
    /// Whether the client sends no more.
    pub(super) has_ended: bool,
    /// How many test bytes it has been sent since then, during the present request.
    pub(super) test_bytes: u32,
}

impl Http1Input {
    /// Makes room for a read. A client that sends little at a time does not get more room each
    /// time.
    pub(super) fn reserve_for_read(&mut self) {
        if self.buffer.capacity() - self.buffer.len() < MIN_READ_ROOM_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
    }

    pub(super) fn next_head(&mut self) -> Result<Option<RequestHead>, Problem> {
        self.heads.next(&mut self.buffer)
    }

    /// Skips a chunked body without chunks that has already arrived. The request then has no body,
    /// and may be tried again.
    pub(super) fn skip_empty_body(&mut self, head: &mut RequestHead) {
        const EMPTY: &[u8] = b"0\r\n\r\n";
        if head.framing == Framing::Chunked && self.buffer.starts_with(EMPTY) {
            self.buffer.advance(EMPTY.len());
            head.framing = Framing::Empty;
            head.expects_continue = false;
        }
    }

    /// Reads the bytes that the system has; `None` for nothing yet, 0 at the end.
    pub(super) fn read(&mut self, stream: &mut impl Readable) -> Result<Option<usize>, Ended> {
        if self.buffer.capacity() == 0 {
            self.buffer = buffers::acquire();
        }
        self.reserve_for_read();
        Ok(stream.recv(&mut self.buffer)?)
    }

    /// Waits for more bytes and reads them; 0 at the end. Thousands of clients may wait here, so a
    /// client holds no more memory than its bytes need.
    pub(super) async fn read_more(&mut self, stream: &mut (impl Readable + Send)) -> Result<usize, Ended> {
        loop {
            if self.buffer.is_empty() {
                buffers::release(std::mem::take(&mut self.buffer));
            }
            stream.readable().await?;
            if let Some(read) = self.read(stream)? {
                return Ok(read);
            }
        }
    }

    /// The next piece of the body: never [`Piece::More`].
    pub(super) async fn next_piece(
        &mut self,
        stream: &mut (impl Readable + Send),
        deadline: Instant,
    ) -> Result<Piece, RequestError> {
        if let Some(piece) = self.read_ahead.pop_front() {
            return Ok(piece);
        }
        loop {
            match self.body.next(&mut self.buffer) {
                Ok(Piece::More) => match timeout_at(deadline, self.read_more(stream)).await {
                    Ok(Ok(0)) => return Err(Ended("closed by the client within a body").into()),
                    Ok(read) => drop(read?),
                    Err(_elapsed) => {
                        let detail = "the body of the request took too long to arrive";
                        let slow = Problem::new(StatusCode::REQUEST_TIMEOUT, ProblemKind::SLOW_BODY, detail);
                        return Err(RequestError::Problem(slow));
                    }
                },
                Ok(piece) => return Ok(piece),
                Err(MalformedBody(why)) => {
                    return Err(RequestError::Problem(Problem::new(
                        StatusCode::BAD_REQUEST,
                        ProblemKind::BAD_BODY,
                        why,
                    )));
                }
            }
        }
    }

    /// Reads ahead, and completes when the client has gone, or may have gone. Returns `None` when
    /// the client has sent so much that nothing more is read, so that its end cannot be noticed.
    /// Cancel safe; to be called again.
    ///
    /// A client that is gone looks the same as one that has only closed its sending side (RFC 9112,
    /// 9.6), until something is written to it. So something must be written to the client, at
    /// once and now and then.
    pub(super) async fn client_gone(&mut self, stream: &mut (impl Readable + Send + Sync)) -> Option<ClientGone> {
        while !self.has_ended {
            if self.buffer.len() >= MAX_AHEAD_BYTES {
                return None;
            }
            match self.read_more(stream).await {
                Ok(0) => self.has_ended = true,
                Ok(_) => {}
                Err(ended) => return Some(ClientGone::Surely(ended)),
            }
        }
        let pause = match self.test_bytes {
            0 => Duration::ZERO,
            written => FIRST_PAUSE * 2_u32.pow(written.min(MAX_TEST_BYTES)),
        };
        tokio::select! {
            () = reset(stream) => Some(ClientGone::Surely(Ended::BROKEN)),
            () = sleep(pause), if self.test_bytes < MAX_TEST_BYTES => {
                self.test_bytes += 1;
                Some(ClientGone::Perhaps)
            }
        }
    }
}
