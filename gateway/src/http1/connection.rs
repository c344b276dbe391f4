//! One client's connection: requests in, responses out, each phase with its own time-out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, Sleep, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::body::{BodyReader, Broken, Piece};
use super::head::{Head, HeadReader};
use super::write::{Full, KeepAlive};
use crate::buffers;
use crate::config::Config;
use crate::problem::Problem;

/// Room for one read: most requests, and a part of the others.
const READ_BYTES: usize = 4 * 1024;
/// Bytes of requests that are read ahead while one is worked on.
const MAX_AHEAD_BYTES: usize = 64 * 1024;
/// Bytes of responses that wait for one write.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Bytes of a body that nobody wants which are read, so that the connection can be used again.
const MAX_DISCARDED_BYTES: usize = 64 * 1024;
/// When we stop, how long a client that is kept alive may take for its next request, which is answered still.
const LAST_CALL: Duration = Duration::from_secs(1);
/// After the last response, how long a client may go on sending before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);

/// A client, as whoever answers its requests sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) reading: Reading,
    pub(super) output: BytesMut,
    pub(super) keep_alive: KeepAlive,
    pub(super) is_head: bool,
    /// What the request at hand is answered with, if it is.
    pub(super) status: Option<StatusCode>,
    pub(super) timer: Timer,
    /// When it was done with the last request, or began the next.
    since: Instant,
    pub(super) limits: Limits,
    stop: CancellationToken,
}

/// What the client sends.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) input: BytesMut,
    heads: HeadReader,
    /// Of the request at hand.
    pub(super) body: BodyReader,
    /// The client waits for leave to send the body.
    pub(super) owes_continue: bool,
}

/// How long each phase may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    header: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) &'static str);

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self("broken")
    }
}

/// Why a body cannot be had.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// To be told to the client.
    Problem(Problem),
    Ended(Ended),
}

impl From<Ended> for BodyError {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// Whoever answers requests.
pub(crate) trait Answer {
    /// Answers one request: whatever it takes, ends with a response.
    fn answer(&mut self, head: Head, connection: &mut Connection) -> impl Future<Output = Result<(), Ended>> + Send;

    /// A request made no sense, or took too long to come, and was answered with this.
    fn refused(&mut self, status: StatusCode);
}

/// Serves one client until it goes, does nothing for too long, or `stop` is cancelled and its requests are answered.
pub(crate) async fn run(
    stream: TcpStream,
    config: &Config,
    stop: CancellationToken,
    mut service: impl Answer,
) -> &'static str {
    let limits = Limits { header: config.header_timeout, idle: config.idle_timeout, write: config.write_timeout };
    let now = Instant::now();
    let mut connection = Connection {
        stream,
        reading: Reading {
            input: BytesMut::new(),
            heads: HeadReader::default(),
            body: BodyReader::Done,
            owes_continue: false,
        },
        output: BytesMut::new(),
        keep_alive: KeepAlive::Stays,
        is_head: false,
        status: None,
        timer: Timer::at(now + limits.header),
        since: now,
        limits,
        stop,
    };
    let Ended(reason) = match connection.serve(&mut service).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    };
    reason
}

impl Connection {
    async fn serve(&mut self, service: &mut impl Answer) -> Result<std::convert::Infallible, Ended> {
        let mut is_first = true;
        loop {
            let head = self.next_head(is_first, service).await?;
            self.status = None;
            is_first = false;
            let stays = if head.is_1_1 { KeepAlive::Stays } else { KeepAlive::StaysAsAsked };
            self.keep_alive = if head.keep_alive { stays } else { KeepAlive::Closes };
            self.is_head = head.method() == "HEAD";
            self.reading.body = BodyReader::new(head.framing);
            self.reading.owes_continue = head.expects_continue;
            service.answer(head, self).await?;
            self.finish().await?;
            self.since = Instant::now();
        }
    }

    /// The next request. Answers that wait leave before it is waited for.
    async fn next_head(&mut self, is_first: bool, service: &mut impl Answer) -> Result<Head, Ended> {
        loop {
            let problem = match self.reading.next_head() {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {
                    self.flush().await?;
                    let has_begun = self.reading.heads.has_begun();
                    match self.wait_for_head(has_begun, is_first).await? {
                        None => continue,
                        Some(problem) => problem,
                    }
                }
                Err(problem) => problem,
            };
            self.keep_alive = KeepAlive::Closes;
            self.is_head = false;
            service.refused(problem.status);
            self.problem(&problem);
            self.flush().await?;
            return Err(self.close("a head that makes no sense").await);
        }
    }

    /// Reads more, or tells what to say instead.
    async fn wait_for_head(&mut self, has_begun: bool, is_first: bool) -> Result<Option<Problem>, Ended> {
        let limit = if has_begun || is_first { self.limits.header } else { self.limits.idle };
        self.timer.set(self.since + limit);
        if self.reading.input.is_empty() {
            // An idle client holds no memory.
            buffers::give(std::mem::take(&mut self.reading.input));
            buffers::give(std::mem::take(&mut self.output));
        }
        // Whoever is about to ask is answered, and told that it was the last time; closing at once would be a race with that.
        let stopping = async {
            self.stop.cancelled().await;
            sleep(LAST_CALL).await;
        };
        tokio::select! {
            biased;
            ready = self.stream.readable() => ready?,
            () = self.timer.expired() => {
                let detail = "the head of a request takes too long";
                let slow = || Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_head", detail);
                return if has_begun { Ok(Some(slow())) } else { Err(Ended("idle")) };
            }
            () = stopping, if !has_begun => return Err(self.close("stopped").await),
        }
        if self.reading.read(&mut self.stream)? == Some(0) {
            return Err(Ended("closed by the client"));
        }
        if !has_begun && !is_first {
            self.since = Instant::now();
        }
        Ok(None)
    }

    /// The next piece of the body; `None` after the last.
    async fn next_piece(&mut self, deadline: Instant) -> Result<Option<Bytes>, BodyError> {
        match self.reading.body.next(&mut self.reading.input) {
            Ok(Piece::Data(data)) => return Ok(Some(data)),
            Ok(Piece::End(_)) => return Ok(None),
            Ok(Piece::More) => self.give_leave().await?,
            // It is said below, again.
            Err(Broken(_)) => {}
        }
        let piece = self.reading.next_piece(&mut self.stream, deadline).await;
        if matches!(piece, Err(BodyError::Problem(_))) {
            self.keep_alive = KeepAlive::Closes;
        }
        piece.map(|piece| match piece {
            Piece::Data(data) => Some(data),
            Piece::End(_) | Piece::More => None,
        })
    }

    /// Tells a client that waits for it to send the body; what else waits leaves too.
    pub(super) async fn give_leave(&mut self) -> Result<(), Ended> {
        if std::mem::take(&mut self.reading.owes_continue) && self.reading.input.is_empty() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.flush().await
    }

    /// The whole body.
    pub(crate) async fn whole_body(&mut self, limit: usize, deadline: Instant) -> Result<Bytes, BodyError> {
        let too_large = || {
            let detail = format!("a body may have {limit} bytes");
            BodyError::Problem(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail))
        };
        // Said before the client is asked to go on with what cannot be taken.
        if let BodyReader::Length(bytes) = self.reading.body
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
            if whole.is_empty() && self.reading.body == BodyReader::Length(0) {
                return Ok(data);
            }
            whole.extend_from_slice(&data);
            piece = self.next_piece(deadline).await?;
        }
        Ok(whole.freeze())
    }

    /// Completes with what `work` gives, unless the client goes before that. Answers that wait leave first.
    pub(crate) async fn unless_gone<F: Future>(&mut self, work: F) -> Result<F::Output, Ended> {
        let mut work = std::pin::pin!(work);
        if let Poll::Ready(done) = std::future::poll_fn(|task| Poll::Ready(work.as_mut().poll(task))).await {
            return Ok(done);
        }
        self.flush().await?;
        loop {
            let listens = self.reading.input.len() < MAX_AHEAD_BYTES;
            tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                ready = self.stream.readable(), if listens => ready?,
            }
            if self.reading.read(&mut self.stream)? == Some(0) {
                return Err(Ended("closed by the client before it was answered"));
            }
        }
    }

    /// Appends a response whose body is all there.
    pub(crate) fn respond(&mut self, response: &Full<'_>) {
        let keep_alive = self.keep_alive_after();
        self.status = Some(response.status);
        response.write(&mut self.output, keep_alive, self.is_head);
    }

    /// What the request at hand was answered with, if it was.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Appends a problem.
    pub(crate) fn problem(&mut self, problem: &Problem) {
        let retry_after = (problem.status == StatusCode::SERVICE_UNAVAILABLE).then_some(Problem::RETRY_AFTER_SECONDS);
        let body = problem.body();
        let content_type = "application/problem+json";
        self.respond(&Full { status: problem.status, content_type, retry_after, body: body.as_bytes() });
    }

    /// What the response says of the connection: whoever has sent much that nobody reads loses it, and so does everybody when we stop.
    fn keep_alive_after(&mut self) -> KeepAlive {
        let unread = match self.reading.body {
            BodyReader::Done | BodyReader::Length(0) => false,
            _ if self.reading.owes_continue => true,
            BodyReader::Length(bytes) => bytes > MAX_DISCARDED_BYTES as u64,
            BodyReader::Chunked(_) | BodyReader::Close => false,
        };
        if unread || self.stop.is_cancelled() {
            self.keep_alive = KeepAlive::Closes;
        }
        self.keep_alive
    }

    /// As [`keep_alive_after`](Self::keep_alive_after), for a request whose body is on its way to somebody.
    pub(super) fn keep_alive_while(&self) -> KeepAlive {
        if self.stop.is_cancelled() { KeepAlive::Closes } else { self.keep_alive }
    }

    /// After a response: the rest of the request is passed over, or the connection ends.
    async fn finish(&mut self) -> Result<(), Ended> {
        let mut discarded = 0;
        let mut deadline = None;
        while self.keep_alive != KeepAlive::Closes && !self.reading.body.is_done() {
            self.flush().await?;
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + LINGER);
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
    pub(crate) async fn flush(&mut self) -> Result<(), Ended> {
        write_all(&self.stream, &mut self.output, self.limits.write).await
    }

    /// Ends the connection so that the last response arrives: a system that has unread bytes resets, and the client may lose what it
    /// has not read (RFC 9112, 9.6).
    async fn close(&mut self, why: &'static str) -> Ended {
        let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        self.timer.set(Instant::now() + LINGER);
        let mut discarded = 0;
        while discarded < MAX_DISCARDED_BYTES {
            tokio::select! {
                ready = self.stream.readable() => if ready.is_err() { break },
                () = self.timer.expired() => break,
            }
            self.reading.input.clear();
            match self.reading.read(&mut self.stream) {
                Ok(Some(0)) | Err(_) => break,
                Ok(bytes) => discarded += bytes.unwrap_or_default(),
            }
        }
        Ended(why)
    }
}

impl Reading {
    fn next_head(&mut self) -> Result<Option<Head>, Problem> {
        self.heads.next(&mut self.input)
    }

    /// What the system has; `None` for nothing yet, 0 at the end.
    fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<usize>, Ended> {
        if self.input.capacity() == 0 {
            self.input = buffers::take();
        }
        self.input.reserve(READ_BYTES);
        // Unlike `try_read`, this knows after a short read that there is no more, and spares asking the system again.
        stream.read_buf(&mut self.input).now_or_never().transpose().map_err(Ended::from)
    }

    /// The next piece of the body: never [`Piece::More`].
    pub(super) async fn next_piece(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        deadline: Instant,
    ) -> Result<Piece, BodyError> {
        loop {
            match self.body.next(&mut self.input) {
                Ok(Piece::More) => {
                    self.input.reserve(READ_BYTES);
                    match timeout_at(deadline, stream.read_buf(&mut self.input)).await {
                        Ok(Ok(0)) => return Err(Ended("closed by the client in mid body").into()),
                        Ok(read) => drop(read.map_err(Ended::from)?),
                        Err(_elapsed) => {
                            let detail = "the body of the request takes too long";
                            let slow = Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", detail);
                            return Err(BodyError::Problem(slow));
                        }
                    }
                }
                Ok(piece) => return Ok(piece),
                Err(Broken(why)) => {
                    return Err(BodyError::Problem(Problem::new(StatusCode::BAD_REQUEST, "bad_body", why)));
                }
            }
        }
    }

    /// Reads ahead, and completes when the client goes.
    pub(super) async fn gone(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Ended {
        while self.input.len() < MAX_AHEAD_BYTES {
            self.input.reserve(READ_BYTES);
            match stream.read_buf(&mut self.input).await {
                Ok(0) => return Ended("closed by the client before it was answered"),
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        std::future::pending().await
    }
}

/// Writes all of it, unless the client takes nothing for too long.
pub(super) async fn write_all(stream: &TcpStream, output: &mut BytesMut, limit: Duration) -> Result<(), Ended> {
    while !output.is_empty() {
        match stream.try_write(output) {
            Ok(bytes) => output.advance(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match timeout(limit, stream.writable()).await {
                Ok(ready) => ready?,
                Err(_elapsed) => return Err(Ended("takes no response")),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A time-out that is set often and seldom over: the system's timer is touched when it is over, or has to be sooner.
#[derive(Debug)]
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    due: Instant,
}

impl Timer {
    fn at(due: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(due)), due }
    }

    pub(super) fn set(&mut self, due: Instant) {
        self.due = due;
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
    }

    pub(super) async fn expired(&mut self) {
        loop {
            if self.sleep.is_elapsed() {
                if Instant::now() >= self.due {
                    return;
                }
                self.sleep.as_mut().reset(self.due);
            }
            self.sleep.as_mut().await;
        }
    }
}
