//! One client's connection: requests in, responses out, each phase with its own time-out.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::downstream::clients::TrackedClient;
use crate::http1::body::{BodyReader, MalformedBody, Piece};
use crate::http1::head::{Framing, HeadReader, RequestHead};
use crate::http1::headers;
use crate::http1::response_reader::ResponseHead;
use crate::http1::response_writer::{KeepAlive, put_date, put_full, status_line};
use crate::io::budget::Reservation;
use crate::io::buffers;
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::{ClientStream, ReadHalf, Readable, WriteHalf, Written, shrink, write_all};
use crate::io::timer::Timer;
use crate::message::problem::Problem;
use crate::proxy::exchange::{BodyError, Ended, Exchange, FullResponse, Handler};
use crate::proxy::forward::{self, ForwardError, ForwardRequest, Forwarded, Sink, Source, put_chunk, put_last_chunk};
use crate::proxy::tunnel;
use crate::upstream::concurrency::Permit;

/// Room for one read: most requests, and a part of the others.
const READ_BYTES: usize = 4 * 1024;
/// With less than this there is more made.
const MIN_READ_ROOM_BYTES: usize = 1024;
/// Bytes of requests that are read ahead while one is worked on: ten thousand clients may do that.
const MAX_AHEAD_BYTES: usize = 32 * 1024;
/// Bytes of responses that wait for one write.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Bytes of a body that nobody wants which are read, so that the connection can be used again.
const MAX_DISCARDED_BYTES: usize = 64 * 1024;
/// When we stop, how long a client that is kept alive may take for its next request, which is answered still.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);
/// After the last response, how long a client may go on sending before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);

/// A client, as whoever answers its requests sees it.
#[derive(Debug)]
struct Http1Connection<'a> {
    stream: Held,
    input: Http1Input,
    output: BytesMut,
    /// On account of what it holds, if that is large.
    reservations: Vec<Reservation>,
    keep_alive: KeepAlive,
    is_head: bool,
    /// What the request at hand is answered with, if it is.
    status: Option<StatusCode>,
    timer: Timer,
    /// When it began to wait for a head, or for the rest of one.
    since: Instant,
    /// When the last request was answered, if nothing has been waited for since: so nobody has to look at the clock again.
    answered: Option<Instant>,
    limits: Http1Timeouts,
    client: &'a TrackedClient,
    slice: PollSlice<'a>,
    /// Completes when the client is to go: waited for again and again.
    stop: Pin<&'a mut WaitForCancellationFutureOwned>,
}

/// The client's stream, until a tunnel takes it.
#[derive(Debug)]
struct Held(Option<ClientStream>);

/// What the client sends.
#[derive(Debug)]
struct Http1Input {
    buffer: BytesMut,
    heads: HeadReader,
    /// The rest of a head is waited for.
    has_begun: bool,
    /// Of the request at hand.
    body: BodyReader,
    /// Pieces of it that have been read, and that nobody has taken yet.
    read_ahead: VecDeque<Piece>,
    /// The client waits for leave to send the body.
    needs_continue: bool,
}

/// How long each phase may take.
#[derive(Clone, Copy, Debug)]
struct Http1Timeouts {
    header: Duration,
    idle: Duration,
    write: Duration,
}

/// Serves one client until it goes, does nothing for too long, or has to leave and its requests are answered.
pub(crate) async fn run(
    stream: ClientStream,
    config: &Config,
    client: &TrackedClient,
    handler: &impl Handler,
) -> &'static str {
    let limits =
        Http1Timeouts { header: config.header_timeout, idle: config.idle_timeout, write: config.write_timeout };
    let (now, polls) = (Instant::now(), PollCounter::default());
    let mut connection = Http1Connection {
        stream: Held(Some(stream)),
        input: Http1Input {
            buffer: BytesMut::new(),
            heads: HeadReader::default(),
            has_begun: false,
            body: BodyReader::Done,
            read_ahead: VecDeque::new(),
            needs_continue: false,
        },
        output: BytesMut::new(),
        reservations: Vec::new(),
        keep_alive: KeepAlive::Stays,
        is_head: false,
        status: None,
        timer: Timer::at(now + limits.header),
        since: now,
        answered: None,
        limits,
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
    async fn serve(&mut self, handler: &impl Handler) -> Result<std::convert::Infallible, Ended> {
        let mut is_first = true;
        loop {
            let head = self.next_head(is_first, handler).await?;
            self.status = None;
            is_first = false;
            let stays = if head.is_1_1 { KeepAlive::Stays } else { KeepAlive::StaysAsAsked };
            self.keep_alive = if head.keep_alive { stays } else { KeepAlive::Closes };
            self.is_head = head.method() == "HEAD";
            self.input.body = BodyReader::new(head.framing);
            self.input.needs_continue = head.expects_continue;
            let answered = handler.handle(head, self).await?;
            self.answered = Some(answered);
            self.finish().await?;
            // A client that asks again and again without a pause is not the only one.
            if self.slice.is_over(answered) {
                self.flush().await?;
                self.slice.yield_if_over(answered).await;
                self.answered = None;
            }
        }
    }

    /// The next request. Answers that wait leave before it is waited for.
    async fn next_head(&mut self, is_first: bool, handler: &impl Handler) -> Result<RequestHead, Ended> {
        loop {
            let problem = match self.input.next_head() {
                Ok(Some(head)) => {
                    self.input.has_begun = false;
                    self.client.mark_busy();
                    return Ok(head);
                }
                Ok(None) => {
                    self.flush().await?;
                    match self.wait_for_head(is_first).await? {
                        None => continue,
                        Some(problem) => problem,
                    }
                }
                Err(problem) => problem,
            };
            self.keep_alive = KeepAlive::Closes;
            self.is_head = false;
            handler.record_rejection(problem.status);
            self.respond(FullResponse::from(&problem));
            self.flush().await?;
            return Err(self.close("a head that makes no sense").await);
        }
    }

    /// Reads more, or tells what to say instead.
    async fn wait_for_head(&mut self, is_first: bool) -> Result<Option<Problem>, Ended> {
        let (has_begun, now) = (self.input.heads.has_begun(), self.answered.take().unwrap_or_else(Instant::now));
        // The time for a head begins with its first byte, for the first one with the connection.
        let newly_begun = !std::mem::replace(&mut self.input.has_begun, has_begun);
        if newly_begun && !is_first {
            self.since = now;
        }
        let limit = if has_begun || is_first { self.limits.header } else { self.limits.idle };
        // Whoever is about to ask is answered, and told that it was the last time; closing at once would be a race with that.
        let stops = !has_begun && self.client.stop.is_cancelled();
        let due = self.since + limit;
        self.timer.set(if stops { due.min(now + LAST_REQUEST_WAIT) } else { due });
        if self.input.buffer.is_empty() {
            // Who has never asked for anything has not finished what it came for.
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
            ready = self.stream.readable() => ready?,
            () = self.timer.expired() => {
                if has_begun {
                    let detail = "the head of a request takes too long";
                    return Ok(Some(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_head", detail)));
                }
                return Err(if stops { self.close("stopped").await } else { Ended("idle") });
            }
            () = self.stop.as_mut(), if !has_begun && !stops => return Ok(None),
        }
        match self.input.read(&mut *self.stream)? {
            Some(0) => Err(Ended("closed by the client")),
            _ => Ok(None),
        }
    }

    /// The next piece of the body; `None` after the last.
    async fn next_piece(&mut self, deadline: Instant) -> Result<Option<Bytes>, BodyError> {
        match self.piece(deadline).await? {
            Piece::Data(data) => Ok(Some(data)),
            Piece::End(_) | Piece::More => Ok(None),
        }
    }

    /// The next piece of the body: never [`Piece::More`].
    async fn piece(&mut self, deadline: Instant) -> Result<Piece, BodyError> {
        let ahead = self.input.read_ahead.pop_front();
        match ahead.map_or_else(|| self.input.body.next(&mut self.input.buffer), Ok) {
            Ok(Piece::More) => self.send_continue().await?,
            Ok(piece) => return Ok(piece),
            // It is said below, again.
            Err(MalformedBody(_)) => {}
        }
        // As long as it does not go on, nothing can be done for it.
        self.client.mark_started(Instant::now());
        let piece = self.input.next_piece(&mut *self.stream, deadline).await;
        self.client.mark_busy();
        if matches!(piece, Err(BodyError::Problem(_))) {
            self.keep_alive = KeepAlive::Closes;
        }
        piece
    }

    /// Tells a client that waits for it to send the body; what else waits leaves too.
    async fn send_continue(&mut self) -> Result<(), Ended> {
        if std::mem::take(&mut self.input.needs_continue) && self.input.buffer.is_empty() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.flush().await
    }

    /// What the response says of the connection: whoever has sent much that nobody reads loses it, and so does everybody when we stop.
    fn keep_alive_after(&mut self) -> KeepAlive {
        let unread = match self.input.body {
            BodyReader::Done | BodyReader::Length(0) => false,
            _ if self.input.needs_continue => true,
            BodyReader::Length(bytes) => bytes > MAX_DISCARDED_BYTES as u64,
            BodyReader::Chunked(_) | BodyReader::Close => false,
        };
        if unread || self.client.stop.is_cancelled() {
            self.keep_alive = KeepAlive::Closes;
        }
        self.keep_alive
    }

    /// As [`keep_alive_after`](Self::keep_alive_after), for a request whose body is on its way to somebody.
    fn keep_alive_while(&self) -> KeepAlive {
        if self.client.stop.is_cancelled() { KeepAlive::Closes } else { self.keep_alive }
    }

    /// After a response: the rest of the request is passed over, or the connection ends.
    async fn finish(&mut self) -> Result<(), Ended> {
        self.input.read_ahead.clear();
        let mut discarded = 0;
        let mut deadline = None;
        while self.keep_alive != KeepAlive::Closes && !self.input.body.is_done() {
            self.flush().await?;
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + LINGER);
            self.answered = None;
            match self.next_piece(deadline).await {
                Ok(Some(data)) if discarded + data.len() <= MAX_DISCARDED_BYTES => discarded += data.len(),
                Ok(None) => {}
                Ok(Some(_)) | Err(BodyError::Problem(_)) => self.keep_alive = KeepAlive::Closes,
                Err(BodyError::Ended(ended)) => return Err(ended),
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

    /// Writes all that waits.
    async fn flush(&mut self) -> Result<(), Ended> {
        if write_all(&mut *self.stream, &mut self.output, self.limits.write).await? == Written::Late {
            self.answered = None;
        }
        self.reservations.clear();
        Ok(())
    }

    /// Both sides have agreed: what has been read of either is passed on, and then all that comes.
    async fn start_tunnel(
        &mut self,
        mut server: TcpStream,
        to_client: Bytes,
        permit: Permit,
        idle: Duration,
    ) -> Result<(), Ended> {
        self.output.extend_from_slice(&to_client);
        self.flush().await?;
        let ahead = self.input.buffer.split();
        server.write_all(&ahead).await?;
        drop(ahead);
        self.input.buffer = BytesMut::new();
        self.output = BytesMut::new();
        let client = self.stream.0.take().expect("a connection ends with its tunnel");
        // A task of its own: each of its bytes would wake all that this one is made of.
        let carries = async move { tunnel::run(client, server, permit.holder(), idle).await };
        match AbortOnDropHandle::new(tokio::spawn(carries)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Ended("nothing was said in the tunnel")),
            Ok(Err(error)) if error.kind() == io::ErrorKind::QuotaExceeded => Err(Ended("silent while others wait")),
            Ok(carried) => Ok(carried?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_aborted) => Err(Ended("the tunnel was lost")),
            },
        }
    }

    /// Ends the connection so that the last response arrives: a system that has unread bytes resets, and the client may lose what it
    /// has not read (RFC 9112, 9.6).
    async fn close(&mut self, why: &'static str) -> Ended {
        let _ = timeout(LINGER, self.stream.shutdown()).await;
        self.timer.set(Instant::now() + LINGER);
        // For as long as that: what is on its way may be much.
        loop {
            tokio::select! {
                ready = self.stream.readable() => if ready.is_err() { break },
                () = self.timer.expired() => break,
            }
            self.input.buffer.clear();
            match self.input.read(&mut *self.stream) {
                Ok(Some(0)) | Err(_) => break,
                Ok(_) => {}
            }
        }
        Ended(why)
    }
}

impl Exchange for Http1Connection<'_> {
    async fn whole_body(
        &mut self,
        limit: usize,
        deadline: Instant,
        held: &mut Reservation,
    ) -> Result<Bytes, BodyError> {
        let too_large = || {
            let detail = format!("a body may have {limit} bytes");
            BodyError::Problem(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail))
        };
        // Said before the client is asked to go on with what cannot be taken.
        if let BodyReader::Length(bytes) = self.input.body
            && bytes > limit as u64
        {
            return Err(too_large());
        }
        let Some(first) = self.next_piece(deadline).await? else { return Ok(Bytes::new()) };
        let mut whole = BytesMut::new();
        let mut piece = Some(first);
        while let Some(data) = piece {
            if whole.len() + data.len() > limit {
                return Err(too_large());
            }
            if let Err(over) = held.grow_to(whole.len() + data.len()) {
                self.keep_alive = KeepAlive::Closes;
                return Err(over.into());
            }
            if whole.is_empty() && self.input.body == BodyReader::Length(0) {
                return Ok(data);
            }
            whole.extend_from_slice(&data);
            piece = self.next_piece(deadline).await?;
        }
        Ok(whole.freeze())
    }

    async fn buffer_body(&mut self, bytes: usize, held: &mut Reservation) -> Result<(), BodyError> {
        let (begin, mut received) = (Instant::now(), 0);
        let mut ahead = VecDeque::new();
        while received < bytes {
            let deadline = forward::body_deadline(begin, received as u64, Instant::now());
            let piece = self.piece(deadline).await?;
            let is_last = matches!(piece, Piece::End(_) | Piece::More);
            if let Piece::Data(data) = &piece {
                received += data.len();
                if let Err(over) = held.grow_to(received) {
                    self.keep_alive = KeepAlive::Closes;
                    return Err(over.into());
                }
            }
            ahead.push_back(piece);
            if is_last {
                break;
            }
        }
        self.input.read_ahead = ahead;
        Ok(())
    }

    async fn until_client_gone<F>(&mut self, work: F) -> Result<F::Output, Ended>
    where
        F: Future + Send,
        F::Output: Send,
    {
        // Answers that wait leave first.
        let mut work = std::pin::pin!(work);
        if let Poll::Ready(done) = std::future::poll_fn(|task| Poll::Ready(work.as_mut().poll(task))).await {
            return Ok(done);
        }
        self.flush().await?;
        // There may be thousands who wait for what is slow.
        buffers::release(std::mem::take(&mut self.output));
        if self.input.buffer.is_empty() {
            buffers::release(std::mem::take(&mut self.input.buffer));
        }
        loop {
            let listens = self.input.buffer.len() < MAX_AHEAD_BYTES;
            tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                ready = self.stream.readable(), if listens => ready?,
            }
            if self.input.read(&mut *self.stream)? == Some(0) {
                return Err(Ended("closed by the client before it was answered"));
            }
        }
    }

    async fn delay_rejection(&mut self, pause: impl Future<Output = ()> + Send) -> Result<(), Ended> {
        self.flush().await?;
        // A client that sends is not made to wait with that, nor one that asks for more.
        if !self.input.body.is_done() || !self.input.buffer.is_empty() || self.client.stop.is_cancelled() {
            return Ok(());
        }
        // It gives way to others like one that does nothing, and holds as little.
        self.client.mark_idle(Instant::now());
        buffers::release(std::mem::take(&mut self.input.buffer));
        buffers::release(std::mem::take(&mut self.output));
        tokio::select! {
            () = pause => {}
            ready = self.stream.readable() => ready?,
            () = self.stop.as_mut() => {}
        }
        self.client.mark_busy();
        Ok(())
    }

    fn respond(&mut self, mut response: FullResponse) -> Instant {
        let (keep_alive, now) = (self.keep_alive_after(), Instant::now());
        self.status = Some(response.status);
        buffers::make_ready(&mut self.output);
        put_full(&mut self.output, &response, keep_alive, self.is_head, now);
        self.reservations.extend(response.held.take().filter(Reservation::is_large));
        now
    }

    fn status(&self) -> Option<StatusCode> {
        self.status
    }

    async fn forward(
        &mut self,
        request: ForwardRequest<'_>,
        server: &mut TcpStream,
    ) -> Result<Forwarded, ForwardError> {
        self.send_continue().await?;
        let keep_alive = self.keep_alive_while();
        let (from_client, to_client) = self.stream.split();
        let mut upload = Http1Source { input: &mut self.input, from_client, has_deadline: true };
        let (output, status, limit) = (&mut self.output, &mut self.status, self.limits.write);
        let head = request.head;
        let mut download = Http1Sink { head, to_client, output, keep_alive, limit, status, chunks: false };
        let outcome = forward::forward(request, &mut upload, &mut download, server, &mut self.timer).await;
        self.keep_alive = download.keep_alive;
        let chunks = download.chunks;
        // A server that was not given all of a request would take the next one for the rest of it.
        let whole = self.input.body.is_done() && self.input.read_ahead.is_empty() && outcome.is_request_sent;
        if !whole {
            self.keep_alive = KeepAlive::Closes;
        }
        if outcome.result.is_err() && outcome.is_response_begun && !chunks {
            // A client that reads to the end of the connection must not take this end for the response's.
            self.stream.reset_on_drop();
        }
        outcome.result.map(|forwarded| match forwarded {
            Forwarded::Done { keep_server, answered } => {
                Forwarded::Done { keep_server: keep_server.filter(|_| whole), answered }
            }
            tunnel @ Forwarded::Tunnel { .. } => tunnel,
        })
    }

    async fn respond_with_stream(
        &mut self,
        head: &RequestHead,
        response: &ResponseHead,
        parts: impl futures::Stream<Item = Result<Bytes, Ended>> + Send,
    ) -> Result<(), Ended> {
        let keep_alive = self.keep_alive_after();
        let (from_client, to_client) = self.stream.split();
        let mut upload = Http1Source { input: &mut self.input, from_client, has_deadline: false };
        let (output, status, limit) = (&mut self.output, &mut self.status, self.limits.write);
        let mut download = Http1Sink { head, to_client, output, keep_alive, limit, status, chunks: false };
        let ended = forward::relay_stream(response, parts, &mut upload, &mut download).await;
        self.keep_alive = download.keep_alive;
        if ended.is_err() && !download.chunks {
            // As with a server's response: this end is not the response's.
            self.stream.reset_on_drop();
        }
        ended
    }

    async fn tunnel(&mut self, server: TcpStream, to_client: Bytes, permit: Permit, idle: Duration) -> Ended {
        match self.start_tunnel(server, to_client, permit, idle).await {
            Ok(()) => Ended("the tunnel was closed"),
            Err(ended) => ended,
        }
    }
}

impl Deref for Held {
    type Target = ClientStream;

    fn deref(&self) -> &ClientStream {
        self.0.as_ref().expect("nobody asks for it after that")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut ClientStream {
        self.0.as_mut().expect("nobody asks for it after that")
    }
}

/// The request's body, and what follows it.
struct Http1Source<'a> {
    input: &'a mut Http1Input,
    from_client: ReadHalf<'a>,
    /// The response ends some time, whether the client is seen to go or not.
    has_deadline: bool,
}

impl Source for Http1Source<'_> {
    fn has_more(&mut self) -> bool {
        !self.input.buffer.is_empty() || !self.input.read_ahead.is_empty()
    }

    async fn next_piece(&mut self, deadline: Instant) -> Result<Piece, BodyError> {
        self.input.next_piece(&mut self.from_client, deadline).await
    }

    async fn client_gone(&mut self) -> Ended {
        match self.input.client_gone(&mut self.from_client).await {
            Some(ended) => ended,
            None if self.has_deadline => std::future::pending().await,
            None => Ended("asks for more while a stream lasts than is read ahead"),
        }
    }

    fn is_client_gone(ended: Ended) -> bool {
        ended == Ended::BROKEN
    }
}

/// A response on its way.
struct Http1Sink<'a> {
    head: &'a RequestHead,
    to_client: WriteHalf<'a>,
    output: &'a mut BytesMut,
    keep_alive: KeepAlive,
    limit: Duration,
    status: &'a mut Option<StatusCode>,
    /// The body goes in chunks, so that its end is told from the connection's.
    chunks: bool,
}

impl Sink for Http1Sink<'_> {
    fn head(&mut self, response: &ResponseHead, early: bool, set_cookie: Option<&str>) {
        *self.status = Some(response.status);
        let out = &mut *self.output;
        buffers::make_ready(out);
        status_line(out, response.status);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            headers::put_response_fields(out, &response.fields, false);
            out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n");
            return;
        }
        // Who answers before it has heard all of it may never take the rest.
        if early {
            self.keep_alive = KeepAlive::Closes;
        }
        headers::put_response_fields(out, &response.fields, response.tells_length());
        match response.framing {
            Framing::Empty => {}
            Framing::Length(bytes) => {
                out.put_slice(b"content-length: ");
                out.put_slice(itoa::Buffer::new().format(bytes).as_bytes());
                out.put_slice(b"\r\n");
            }
            Framing::Chunked | Framing::Close if self.head.is_1_1 => {
                out.put_slice(b"transfer-encoding: chunked\r\n");
                self.chunks = true;
            }
            // HTTP/1.0 has no other way to say where it ends.
            Framing::Chunked | Framing::Close => self.keep_alive = KeepAlive::Closes,
        }
        if let Some(cookie) = set_cookie {
            out.put_slice(b"set-cookie: ");
            out.put_slice(cookie.as_bytes());
            out.put_slice(b"\r\n");
        }
        self.keep_alive.write(out);
        if response.fields.get("date").is_none() {
            put_date(out, Instant::now());
        }
        out.put_slice(b"\r\n");
    }

    fn data(&mut self, data: Bytes) {
        buffers::make_ready(self.output);
        put_chunk(self.output, self.chunks, &data);
    }

    fn end(&mut self, trailers: &[u8]) {
        if self.chunks {
            put_last_chunk(self.output, trailers);
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        write_all(&mut self.to_client, self.output, self.limit).await?;
        Ok(())
    }

    fn release_buffers(&mut self) {
        if self.output.is_empty() {
            buffers::release(std::mem::take(self.output));
        }
    }

    async fn writable(&mut self) -> Result<(), Ended> {
        self.release_buffers();
        Ok(self.to_client.writable(self.limit).await?)
    }
}

impl Http1Input {
    /// Room for a read: a client that sends little by little is not given more each time.
    fn reserve_for_read(&mut self) {
        if self.buffer.capacity() - self.buffer.len() < MIN_READ_ROOM_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
    }

    fn next_head(&mut self) -> Result<Option<RequestHead>, Problem> {
        self.heads.next(&mut self.buffer)
    }

    /// What the system has; `None` for nothing yet, 0 at the end.
    fn read(&mut self, stream: &mut impl Readable) -> Result<Option<usize>, Ended> {
        if self.buffer.capacity() == 0 {
            self.buffer = buffers::acquire();
        }
        self.reserve_for_read();
        Ok(stream.recv(&mut self.buffer)?)
    }

    /// What comes next; 0 at the end. There may be thousands who wait here: they hold no more than what has come.
    async fn read_more(&mut self, stream: &mut (impl Readable + Send)) -> Result<usize, Ended> {
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
    async fn next_piece(&mut self, stream: &mut (impl Readable + Send), deadline: Instant) -> Result<Piece, BodyError> {
        if let Some(piece) = self.read_ahead.pop_front() {
            return Ok(piece);
        }
        loop {
            match self.body.next(&mut self.buffer) {
                Ok(Piece::More) => match timeout_at(deadline, self.read_more(stream)).await {
                    Ok(Ok(0)) => return Err(Ended("closed by the client in mid body").into()),
                    Ok(read) => drop(read?),
                    Err(_elapsed) => {
                        let detail = "the body of the request takes too long";
                        let slow = Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", detail);
                        return Err(BodyError::Problem(slow));
                    }
                },
                Ok(piece) => return Ok(piece),
                Err(MalformedBody(why)) => {
                    return Err(BodyError::Problem(Problem::new(StatusCode::BAD_REQUEST, "bad_body", why)));
                }
            }
        }
    }

    /// Reads ahead, and completes when the client goes; with `None` when it has sent so much that nothing more is read, and so
    /// nobody would see it go.
    async fn client_gone(&mut self, stream: &mut (impl Readable + Send)) -> Option<Ended> {
        while self.buffer.len() < MAX_AHEAD_BYTES {
            match self.read_more(stream).await {
                Ok(0) => return Some(Ended("closed by the client before it was answered")),
                Ok(_) => {}
                Err(ended) => return Some(ended),
            }
        }
        None
    }
}
