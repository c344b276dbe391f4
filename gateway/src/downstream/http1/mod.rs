//! One client's connection: requests in, responses out, each phase with its own time-out.
//!
//! It must not decide what answers a request, and it must not import `http2`.

mod exchange;
mod input;
mod sink;
mod source;

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use net::buffers;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::input::Http1Input;
use crate::config::Config;
use crate::downstream::tracked_client::TrackedClient;
use crate::http1::body::{BodyReader, MalformedBody};
use crate::http1::head_reader::HeadReader;
use crate::http1::line_ends::LineEnds;
use crate::http1::response_writer::{KeepAlive, StatusLine};
use crate::io::budget::{OWN_BYTES, OverBudget, Reservation};
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::{MaybeTlsStream, Readable, WriteTiming, shrink, write_all};
use crate::io::timer::Timer;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::exchange::{Exchange, FullResponse, RequestHandler};
use crate::proxy::request_error::{Ended, RequestError};

/// Bytes of requests that are read ahead while one is being answered: ten thousand clients may do
/// that.
const MAX_AHEAD_BYTES: usize = 16 * 1024;
/// Bytes of a head that are not counted: nearly all heads are smaller. Larger ones come from the
/// budget of all clients until they are answered.
const FREE_HEAD_BYTES: usize = 16 * 1024;
/// The most uncounted memory of a connection: the bytes that it may hold without a reservation, a
/// head, bytes that are read ahead, and room for a read.
pub(crate) const UNCOUNTED_BYTES: usize = OWN_BYTES + FREE_HEAD_BYTES + MAX_AHEAD_BYTES + input::READ_BYTES;
/// Bytes of responses that wait for one write.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Bytes of an unwanted body that are read so that the connection can be used again.
const MAX_DISCARDED_BYTES: usize = 64 * 1024;
/// How long an idle client may take for one more request while the gateway stops. It is still
/// answered.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);
/// How long a client may go on sending after the last response before the connection is reset.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// A client's connection, as the handler of its requests sees it.
#[derive(Debug)]
struct Http1Connection<'a> {
    /// `None` once a tunnel has it.
    stream: Option<MaybeTlsStream>,
    input: Http1Input,
    output: BytesMut,
    /// The part of the next status line that has been written.
    line: StatusLine,
    /// The reservations for what it holds, if that is large: responses, and the head of the
    /// request.
    reservations: Vec<Reservation>,
    head_reservation: Option<Reservation>,
    keep_alive: KeepAlive,
    /// Whether the body of the response goes in chunks.
    is_chunked: bool,
    is_head: bool,
    /// The status that the present request was answered with, if it was.
    status: Option<StatusCode>,
    /// The fields that are added to its response.
    own_fields: Vec<u8>,
    timer: Timer,
    /// When the wait for a head, or for the rest of one, began.
    waiting_since: Instant,
    /// When the last request was answered, if there was no wait since: this saves a reading of the
    /// clock.
    answered: Option<Instant>,
    timeouts: Http1Timeouts,
    client: &'a TrackedClient,
    slice: PollSlice<'a>,
    /// Completes when the client should be closed. May be awaited again.
    stop: Pin<&'a mut WaitForCancellationFutureOwned>,
}

/// How long each phase may take.
#[derive(Clone, Copy, Debug)]
struct Http1Timeouts {
    header: Duration,
    idle: Duration,
    write: Duration,
}

/// Serves one client until it closes, is idle for too long, or has to be closed and its requests
/// are answered.
pub(crate) async fn run(
    stream: MaybeTlsStream,
    config: &Config,
    client: &TrackedClient,
    handler: &impl RequestHandler,
) -> &'static str {
    let timeouts =
        Http1Timeouts { header: config.header_timeout, idle: config.idle_timeout, write: config.write_timeout };
    let (now, polls) = (Instant::now(), PollCounter::default());
    let mut connection = Http1Connection {
        stream: Some(stream),
        input: Http1Input {
            buffer: BytesMut::new(),
            heads: HeadReader::default(),
            has_begun: false,
            body: BodyReader::Done,
            read_ahead: VecDeque::new(),
            needs_continue: false,
            has_ended: false,
            test_bytes: 0,
        },
        output: BytesMut::new(),
        line: StatusLine::default(),
        reservations: Vec::new(),
        head_reservation: None,
        keep_alive: KeepAlive::Stays,
        is_chunked: false,
        is_head: false,
        status: None,
        own_fields: Vec::new(),
        timer: Timer::at(now + timeouts.header),
        waiting_since: now,
        answered: None,
        timeouts,
        client,
        slice: PollSlice::new(&polls),
        stop: std::pin::pin!(client.stop.clone().cancelled_owned()),
    };
    let Ended(reason) = match polls.count_polls(connection.serve(handler)).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    };
    reason
}

impl Http1Connection<'_> {
    async fn serve(&mut self, handler: &impl RequestHandler) -> Result<std::convert::Infallible, Ended> {
        let mut is_first = true;
        loop {
            let mut head = self.next_head(is_first, handler).await?;
            self.input.skip_empty_body(&mut head);
            self.status = None;
            self.own_fields.clear();
            is_first = false;
            let stays = if head.is_1_1 { KeepAlive::Stays } else { KeepAlive::StaysAsAsked };
            self.keep_alive = if head.keep_alive { stays } else { KeepAlive::Closes };
            self.is_head = head.method() == "HEAD";
            self.input.body = BodyReader::new(head.framing, LineEnds::Strict);
            self.input.needs_continue = head.expects_continue;
            self.input.test_bytes = 0;
            let answered = handler.handle(head, self).await?;
            self.head_reservation = None;
            self.answered = Some(answered);
            self.finish().await?;
            // A client that sends requests without a pause must leave time for others.
            if self.slice.is_over(answered) {
                self.flush().await?;
                self.slice.yield_if_over(answered).await;
                self.answered = None;
            }
        }
    }

    /// The next request. Waiting responses are written before it is awaited.
    async fn next_head(&mut self, is_first: bool, handler: &impl RequestHandler) -> Result<RequestHead, Ended> {
        loop {
            let problem = match self.input.next_head() {
                Ok(Some(head)) => {
                    self.input.has_begun = false;
                    self.client.mark_busy();
                    return Ok(head);
                }
                Ok(None) => match self.reserve_head(handler) {
                    Ok(()) => {
                        self.flush().await?;
                        match self.wait_for_head(is_first).await? {
                            None => continue,
                            Some(problem) => problem,
                        }
                    }
                    Err(over) => Problem::from(over),
                },
                Err(problem) => problem,
            };
            self.keep_alive = KeepAlive::Closes;
            self.is_head = false;
            handler.record_rejection(problem.status);
            self.respond(FullResponse::from(&problem));
            self.flush().await?;
            return Err(self.close("a malformed head").await);
        }
    }

    /// Counts a head of which much has come.
    fn reserve_head(&mut self, handler: &impl RequestHandler) -> Result<(), OverBudget> {
        if self.input.buffer.len() <= FREE_HEAD_BYTES {
            return Ok(());
        }
        self.head_reservation = self.head_reservation.take().or_else(|| handler.reservation());
        self.head_reservation.as_mut().map_or(Ok(()), |held| held.grow_shared_to(self.input.buffer.len()))
    }

    /// Reads more, or returns the problem to answer with.
    async fn wait_for_head(&mut self, is_first: bool) -> Result<Option<Problem>, Ended> {
        let (has_begun, now) = (self.input.heads.has_begun(), self.answered.take().unwrap_or_else(Instant::now));
        // The time for a head begins with its first byte; that for the first head begins with the
        // connection.
        let newly_begun = !std::mem::replace(&mut self.input.has_begun, has_begun);
        if newly_begun && !is_first {
            self.waiting_since = now;
        }
        let timeout = if has_begun || is_first { self.timeouts.header } else { self.timeouts.idle };
        // A client that is about to send a request is answered, and told that it was the last one.
        // Closing at once would lose that request.
        let stops = !has_begun && self.client.stop.is_cancelled();
        let due = self.waiting_since + timeout;
        self.timer.set(if stops { due.min(now + LAST_REQUEST_WAIT) } else { due });
        if self.input.buffer.is_empty() {
            // A client that has not sent any request counts as one that has not finished a head.
            if !is_first {
                self.client.mark_idle(now);
            }
            // An idle client holds no memory.
            buffers::release(std::mem::take(&mut self.input.buffer));
            buffers::release(std::mem::take(&mut self.output));
        } else {
            if !is_first && newly_begun {
                self.client.mark_started(now);
            }
            shrink(&mut self.input.buffer);
        }
        tokio::select! {
            biased;
            ready = open(&mut self.stream).readable() => ready?,
            () = self.timer.expired() => {
                if has_begun {
                    let detail = "the head of the request took too long to arrive";
                    return Ok(Some(Problem::new(StatusCode::REQUEST_TIMEOUT, ProblemKind::SLOW_HEAD, detail)));
                }
                return Err(if stops { self.close("stopped").await } else { Ended("idle") });
            }
            () = self.stop.as_mut(), if !has_begun && !stops => return Ok(None),
        }
        match self.input.read(open(&mut self.stream))? {
            Some(0) => Err(Ended("closed by the client")),
            _ => Ok(None),
        }
    }

    /// The next piece of the body; `None` after the last.
    async fn next_piece(&mut self, deadline: Instant) -> Result<Option<Bytes>, RequestError> {
        match self.piece(deadline).await? {
            Piece::Data(data) => Ok(Some(data)),
            Piece::End(_) | Piece::More => Ok(None),
        }
    }

    /// The next piece of the body: never [`Piece::More`].
    async fn piece(&mut self, deadline: Instant) -> Result<Piece, RequestError> {
        let ahead = self.input.read_ahead.pop_front();
        match ahead.map_or_else(|| self.input.body.next(&mut self.input.buffer), Ok) {
            Ok(Piece::More) => self.send_continue().await?,
            Ok(piece) => return Ok(piece),
            // The next read reports this again.
            Err(MalformedBody(_)) => {}
        }
        // While the client does not continue, nothing can be done for it.
        self.client.mark_started(Instant::now());
        let piece = self.input.next_piece(open(&mut self.stream), deadline).await;
        self.client.mark_busy();
        if matches!(piece, Err(RequestError::Problem(_))) {
            self.keep_alive = KeepAlive::Closes;
        }
        piece
    }

    /// Tells a client that waits for `100 Continue` to send the body. Other waiting bytes leave
    /// too.
    async fn send_continue(&mut self) -> Result<(), Ended> {
        if std::mem::take(&mut self.input.needs_continue) && self.input.buffer.is_empty() {
            self.line.finish(&mut self.output, StatusCode::CONTINUE);
            self.output.extend_from_slice(b"\r\n");
        }
        self.flush().await
    }

    /// The response's statement about the connection. It closes after a request with a large unread
    /// body, and when the gateway stops.
    fn keep_alive_after(&mut self) -> KeepAlive {
        let unread = match self.input.body {
            BodyReader::Done | BodyReader::Length(0) => false,
            _ if self.input.needs_continue => true,
            BodyReader::Length(bytes) => bytes > MAX_DISCARDED_BYTES as u64,
            BodyReader::Chunked(..) | BodyReader::Close => false,
        };
        if unread || self.client.stop.is_cancelled() {
            self.keep_alive = KeepAlive::Closes;
        }
        self.keep_alive
    }

    /// Skips the rest of the request after a response, or ends the connection.
    async fn finish(&mut self) -> Result<(), Ended> {
        self.input.read_ahead.clear();
        let mut discarded = 0;
        let mut deadline = None;
        while self.keep_alive != KeepAlive::Closes && !self.input.body.is_done() {
            self.flush().await?;
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + LINGER_TIMEOUT);
            self.answered = None;
            match self.next_piece(deadline).await {
                Ok(Some(data)) if discarded + data.len() <= MAX_DISCARDED_BYTES => discarded += data.len(),
                Ok(None) => {}
                Ok(Some(_)) | Err(RequestError::Problem(_)) => self.keep_alive = KeepAlive::Closes,
                Err(RequestError::Ended(ended)) => return Err(ended),
            }
        }
        if self.keep_alive == KeepAlive::Closes {
            self.flush().await?;
            return Err(self.close("the last request was answered").await);
        }
        if self.output.len() >= MAX_BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes all waiting bytes.
    async fn flush(&mut self) -> Result<(), Ended> {
        if write_all(open(&mut self.stream), &mut self.output, self.timeouts.write, &self.client.pace).await?
            == WriteTiming::Late
        {
            self.answered = None;
        }
        self.reservations.drain(..).for_each(Reservation::complete);
        Ok(())
    }

    /// Ends the connection so that the last response arrives. A system with unread bytes resets the
    /// connection, and the client may lose bytes that it has not read (RFC 9112, 9.6).
    async fn close(&mut self, why: &'static str) -> Ended {
        // A slow client has as long for the last message as for all others.
        if open(&mut self.stream).wait_sent(self.timeouts.write, &self.client.pace).await.is_err() {
            return Ended(why);
        }
        let _ = timeout(LINGER_TIMEOUT, open(&mut self.stream).shutdown()).await;
        self.timer.set(Instant::now() + LINGER_TIMEOUT);
        // For the whole time: many bytes may be on their way.
        loop {
            tokio::select! {
                ready = open(&mut self.stream).readable() => if ready.is_err() { break },
                () = self.timer.expired() => break,
            }
            self.input.buffer.clear();
            match self.input.read(open(&mut self.stream)) {
                Ok(Some(0)) | Err(_) => break,
                Ok(_) => {}
            }
        }
        Ended(why)
    }
}

/// The client's stream. When a tunnel takes it, the connection ends, so nothing uses it afterwards.
fn open(stream: &mut Option<MaybeTlsStream>) -> &mut MaybeTlsStream {
    stream.as_mut().expect("a connection ends with its tunnel")
}

#[cfg(test)]
mod tests;
