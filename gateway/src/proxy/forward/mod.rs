//! One request on its way to a server, and the response on its way back, both as they come.

use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use net::send_now;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Duration, Instant};

use crate::http1::body::{BodyReader, Piece};
use crate::http1::head::{Framing, RequestHead};
use crate::http1::headers;
use crate::http1::response_reader::{ResponseHead, ResponseReader};
use crate::io::buffers;
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::Readable;
use crate::io::timer::Timer;
use crate::message::problem::Problem;
use crate::proxy::exchange::{BodyError, Ended};
use crate::upstream::concurrency::Permit;
use crate::upstream::endpoint::IdleLimits;

/// Room for a read of a response: at first, for most of them; then; and for one of which so much has been taken that its client is one
/// who reads. What has been read when a client stops is held for as long as it does.
const FIRST_READ_BYTES: usize = 4 * 1024;
const READ_BYTES: usize = 8 * 1024;
const LARGE_READ_BYTES: usize = 32 * 1024;
const LARGE_FROM_BYTES: u64 = 1 << 20;
/// The system takes so much for a client that takes nothing. From there on it is asked whether it would take more before more is read.
const ASK_FROM_BYTES: u64 = 8 * 1024;
/// Bytes of parts that leave together.
const MAX_BATCH_BYTES: usize = 16 * 1024;
/// A body that comes slower than so many bytes a second, after a moment of grace, comes from an attacker, or from nobody.
const MIN_BODY_RATE: u64 = 1024;
const BODY_GRACE: Duration = Duration::from_secs(5);
/// However much has come before, a client may pause for so long.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// Heads before the response itself that a server may send, such as 103.
const MAX_INTERIM: u32 = 16;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// The response has been passed on. For how long the server's connection can be used again, if it can, and when the response began.
    Done { keep_server: Option<IdleLimits>, answered: Duration },
    /// The server has gone over to another protocol, and so has the client.
    Tunnel { to_client: Bytes },
}

/// Why there is no response to pass on.
#[derive(Debug)]
pub(crate) enum ForwardError {
    /// The server's connection ended without a byte of a response.
    Unanswered,
    /// What came is no response.
    Malformed(String),
    /// No response in time.
    Deadline,
    /// The client is told, and its connection closed.
    Client(Problem),
    /// The connection cannot go on.
    Ended(Ended),
}

impl From<Ended> for ForwardError {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<BodyError> for ForwardError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Problem(problem) => Self::Client(problem),
            BodyError::Ended(ended) => Self::Ended(ended),
        }
    }
}

/// Where a request's body comes from.
pub(crate) trait Source: Send {
    /// Something is there that can leave together with what came before it.
    fn has_more(&mut self) -> bool;

    /// The next piece: never [`Piece::More`].
    fn next_piece(&mut self, deadline: Instant) -> impl Future<Output = Result<Piece, BodyError>> + Send;

    /// Completes when the client goes.
    fn client_gone(&mut self) -> impl Future<Output = Ended> + Send;

    /// Whether nobody is left to read the response; otherwise the client has only said that it sends no more.
    fn is_client_gone(ended: Ended) -> bool;
}

/// Where a response goes.
pub(crate) trait Sink: Send {
    /// Its head. `early`: the server has not been given the whole request, and may never take the rest.
    fn head(&mut self, response: &ResponseHead, early: bool, set_cookie: Option<&str>);

    fn data(&mut self, data: Bytes);

    /// The end, with the lines that follow it.
    fn end(&mut self, trailers: &[u8]);

    /// Waits until all that was given is on its way.
    fn flush(&mut self) -> impl Future<Output = Result<(), Ended>> + Send;

    /// When all is on its way, and nothing follows for a while: there may be thousands who wait, and none of them holds a buffer.
    fn release_buffers(&mut self);

    /// Waits until the client would take more, when all is on its way.
    fn writable(&mut self) -> impl Future<Output = Result<(), Ended>> + Send;
}

/// A request to be passed on.
pub(crate) struct ForwardRequest<'a> {
    pub(crate) head: &'a RequestHead,
    /// The head as the server is to see it.
    pub(crate) bytes: BytesMut,
    pub(crate) now: Instant,
    /// How long the server may take to take it, and to answer once it has all of it.
    pub(crate) timeout: Duration,
    /// How long the server may send nothing of a response that it has begun.
    pub(crate) idle_timeout: Duration,
    /// A cookie that the client is given with the response.
    pub(crate) set_cookie: Option<String>,
    /// Its place at the server, which it may have to give up for others while its client is waited for.
    pub(crate) permit: &'a Permit,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct ForwardOutcome {
    pub(crate) result: Result<Forwarded, ForwardError>,
    /// The client is being given the response.
    pub(crate) is_response_begun: bool,
    /// The server has been given the whole request.
    pub(crate) is_request_sent: bool,
}

/// Until when something has to happen: moved while it is waited for.
struct MovingDeadline {
    base: Instant,
    after_ms: AtomicU64,
}

impl MovingDeadline {
    fn after(timeout: Duration, now: Instant) -> Self {
        let deadline = Self { base: now, after_ms: AtomicU64::new(0) };
        deadline.set(now + timeout);
        deadline
    }

    fn set(&self, deadline: Instant) {
        let after = deadline.saturating_duration_since(self.base).as_millis();
        self.after_ms.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// While somebody else's time counts.
    fn disarm(&self) {
        self.after_ms.store(u64::from(u32::MAX), Ordering::Relaxed);
    }

    /// To be polled by the task that moves it, so that it is looked at again.
    fn poll_over(&self, timer: &mut Timer, task: &mut Context<'_>) -> Poll<()> {
        timer.set(self.base + Duration::from_millis(self.after_ms.load(Ordering::Relaxed)));
        timer.poll_expired(task)
    }
}

/// Sends a request and passes the response on.
pub(crate) async fn forward(
    request: ForwardRequest<'_>,
    source: &mut impl Source,
    sink: &mut impl Sink,
    server: &mut TcpStream,
    timer: &mut Timer,
) -> ForwardOutcome {
    let ForwardRequest { head, bytes, now: asked, timeout, idle_timeout, set_cookie, permit } = request;
    let set_cookie = set_cookie.as_deref();
    let (deadline, is_response_begun, is_request_sent) =
        (MovingDeadline::after(timeout, asked), AtomicBool::new(false), AtomicBool::new(false));
    let (from_server, mut to_server) = server.split();
    let (deadline_ref, response_begun, request_sent, polls) =
        (&deadline, &is_response_begun, &is_request_sent, PollCounter::default());
    let mut download = ResponsePump {
        head,
        from_server,
        sink,
        deadline: deadline_ref,
        idle_timeout,
        is_response_begun: response_begun,
        is_request_sent: request_sent,
        asked,
        set_cookie,
        passed: 0,
        permit,
        slice: PollSlice::new(&polls),
    };
    let result = {
        let clock = UploadClock {
            deadline: &deadline,
            timeout,
            is_request_sent: &is_request_sent,
            is_response_begun: &is_response_begun,
            permit,
            polls: &polls,
        };
        let upload = upload(source, &mut to_server, bytes, head.framing, clock);
        let (mut upload, mut uploads) = (std::pin::pin!(upload), true);
        let mut download = std::pin::pin!(download.run());
        loop {
            let has_begun = || is_response_begun.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                outcome = poll_fn(|task| {
                    polls.count();
                    download.as_mut().poll(task)
                }) => break outcome,
                ended = upload.as_mut(), if uploads => match ended {
                    UploadEnd::Failed(failed) if !has_begun() => break Err(failed),
                    UploadEnd::Gone(ended) => break Err(ended.into()),
                    // The server may have said why it takes no more.
                    UploadEnd::Refused | UploadEnd::Failed(_) => uploads = false,
                },
                () = poll_fn(|task| deadline.poll_over(timer, task)) => {
                    break Err(if has_begun() { Ended("a response stood still").into() } else { ForwardError::Deadline });
                }
                () = poll_fn(|task| permit.poll_evicted(task)) => {
                    break Err(if has_begun() { Ended("too slow while others wait").into() } else { ForwardError::Client(body_too_slow()) });
                }
            }
        }
    };
    let [is_response_begun, is_request_sent] = [is_response_begun, is_request_sent].map(AtomicBool::into_inner);
    ForwardOutcome { result, is_response_begun, is_request_sent }
}

fn body_too_slow() -> Problem {
    let detail = "the body of the request comes too slowly while others wait for the server";
    Problem::new(http::StatusCode::REQUEST_TIMEOUT, "slow_body", detail)
}

/// Waits for something that depends on the client.
async fn while_waiting_for_client<F: Future>(permit: &Permit, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    // Mostly it need not be waited for, and nobody has to know.
    if let Poll::Ready(done) = poll_fn(|task| Poll::Ready(future.as_mut().poll(task))).await {
        return done;
    }
    permit.waits_for_client(true);
    let done = future.await;
    permit.waits_for_client(false);
    done
}

/// How sending a request ended, if it did before the response was there.
enum UploadEnd {
    /// The server takes no more.
    Refused,
    Failed(ForwardError),
    /// Nobody is left to read the response.
    Gone(Ended),
}

/// While a body comes its client's time counts, and the server's when there is something for it.
struct UploadClock<'a> {
    deadline: &'a MovingDeadline,
    timeout: Duration,
    /// The server has been given the whole request.
    is_request_sent: &'a AtomicBool,
    /// The response has: what is left of the request changes nothing.
    is_response_begun: &'a AtomicBool,
    permit: &'a Permit,
    polls: &'a PollCounter,
}

impl UploadClock<'_> {
    fn set(&self, deadline: Instant) {
        if !self.is_response_begun.load(Ordering::Relaxed) {
            self.deadline.set(deadline);
        }
    }
}

/// Sends head and body, then watches for the client's going.
async fn upload<S: Source>(
    source: &mut S,
    to_server: &mut WriteHalf<'_>,
    mut request: BytesMut,
    framing: Framing,
    clock: UploadClock<'_>,
) -> UploadEnd {
    if framing != Framing::Empty
        && let Err(failed) = send_body(source, to_server, &mut request, framing, &clock).await
    {
        return failed;
    }
    // Mostly it is taken at once.
    let taken = send_now(to_server.as_ref(), &request).unwrap_or(0);
    if to_server.write_all(&request[taken..]).await.is_err() {
        return UploadEnd::Refused;
    }
    clock.is_request_sent.store(true, Ordering::Relaxed);
    buffers::release(request);
    ended::<S>(source.client_gone().await)
}

fn ended<S: Source>(ended: Ended) -> UploadEnd {
    if S::is_client_gone(ended) { UploadEnd::Gone(ended) } else { UploadEnd::Failed(ended.into()) }
}

/// Until when the next piece of a body has to come, of which so many bytes have since `begin`.
pub(crate) fn body_deadline(begin: Instant, received: u64, now: Instant) -> Instant {
    let slowest = begin + BODY_GRACE + Duration::from_secs(received / MIN_BODY_RATE);
    slowest.min(now + BODY_PAUSE)
}

/// Sends what is in `out`, and the body; what ends it is left in `out`.
async fn send_body<S: Source>(
    source: &mut S,
    to_server: &mut WriteHalf<'_>,
    out: &mut BytesMut,
    framing: Framing,
    clock: &UploadClock<'_>,
) -> Result<(), UploadEnd> {
    let (begin, as_chunks) = (Instant::now(), framing == Framing::Chunked);
    let mut received = 0;
    let mut slice = PollSlice::new(clock.polls);
    loop {
        // What is there already leaves with the head.
        if !source.has_more() {
            to_server.write_all(out).await.map_err(|_broken| UploadEnd::Refused)?;
            out.clear();
        }
        let deadline = body_deadline(begin, received, Instant::now());
        clock.set(deadline + clock.timeout);
        let piece = while_waiting_for_client(clock.permit, source.next_piece(deadline)).await;
        let now = Instant::now();
        clock.set(now + clock.timeout);
        let piece = piece.map_err(|error| match error {
            BodyError::Problem(problem) => UploadEnd::Failed(ForwardError::Client(problem)),
            BodyError::Ended(why) => ended::<S>(why),
        });
        match piece? {
            Piece::Data(data) => {
                received += data.len() as u64;
                clock.permit.record_bytes(data.len());
                put_chunk(out, as_chunks, &data);
            }
            Piece::End(trailers) if as_chunks => {
                put_last_chunk(out, &trailers);
                return Ok(());
            }
            Piece::End(_) => return Ok(()),
            Piece::More => {}
        }
        to_server.write_all(out).await.map_err(|_broken| UploadEnd::Refused)?;
        out.clear();
        slice.yield_if_over(now).await;
    }
}

/// A response on its way.
struct ResponsePump<'a, S> {
    head: &'a RequestHead,
    from_server: ReadHalf<'a>,
    sink: &'a mut S,
    deadline: &'a MovingDeadline,
    idle_timeout: Duration,
    /// The client is being given the response.
    is_response_begun: &'a AtomicBool,
    /// The server has been given the whole request.
    is_request_sent: &'a AtomicBool,
    asked: Instant,
    set_cookie: Option<&'a str>,
    /// Bytes of the body that have been passed on.
    passed: u64,
    permit: &'a Permit,
    slice: PollSlice<'a>,
}

impl<S: Sink> ResponsePump<'_, S> {
    async fn run(&mut self) -> Result<Forwarded, ForwardError> {
        let mut input = BytesMut::new();
        let forwarded = self.run_with(&mut input).await;
        buffers::release(input);
        forwarded
    }

    async fn run_with(&mut self, input: &mut BytesMut) -> Result<Forwarded, ForwardError> {
        let response = self.response(input).await?;
        let switches = response.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if switches && !self.head.upgrades {
            return Err(ForwardError::Malformed("it changes to a protocol that nobody has asked for".to_owned()));
        }
        let answered = self.asked.elapsed();
        self.sink.head(&response, !self.is_request_sent.load(Ordering::Relaxed), self.set_cookie);
        if switches {
            return Ok(Forwarded::Tunnel { to_client: input.split().freeze() });
        }
        let ResponseHead { framing, keep_alive, keep_for, fields, .. } = response;
        // Nobody needs them for as long as the response takes.
        drop(fields);
        self.is_response_begun.store(true, Ordering::Relaxed);
        let mut body = BodyReader::new(framing);
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
                    // Nothing is held back, and nothing is read that the client does not take.
                    // The client's time is not the server's.
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
                        return Err(ForwardError::Ended(Ended("the server went in mid response")));
                    }
                }
                Err(_broken) => {
                    self.deadline.disarm();
                    self.sink.flush().await?;
                    return Err(ForwardError::Ended(Ended("the server's response makes no sense")));
                }
            }
        }
        self.deadline.disarm();
        while_waiting_for_client(self.permit, self.sink.flush()).await?;
        let keep_server = (keep_alive && input.is_empty()).then(|| IdleLimits::from_header(keep_for));
        Ok(Forwarded::Done { keep_server, answered })
    }

    /// The head of the response; those before it are passed over.
    async fn response(&mut self, input: &mut BytesMut) -> Result<ResponseHead, ForwardError> {
        let mut reader = ResponseReader::default();
        let mut interim = 0;
        let without_body = self.head.method() == "HEAD";
        loop {
            match reader.next(input, without_body) {
                Ok(Some(head)) if head.status.is_informational() && head.status.as_u16() != 101 => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        return Err(ForwardError::Malformed("there is no end of its heads".to_owned()));
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

    /// Reads on. A buffer that is empty is taken only when there is something to read: thousands may wait for a slow server.
    async fn read(&mut self, input: &mut BytesMut) -> Result<usize, ForwardError> {
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

/// Gives a client parts as they come, until the last, or until the client goes: of a stream nobody wants the rest.
pub(crate) async fn relay_stream(
    response: &ResponseHead,
    parts: impl Stream<Item = Result<Bytes, Ended>>,
    source: &mut impl Source,
    sink: &mut impl Sink,
) -> Result<(), Ended> {
    sink.head(response, false, None);
    let polls = PollCounter::default();
    polls.count_polls(relay_parts(parts, source, sink, PollSlice::new(&polls))).await
}

async fn relay_parts(
    parts: impl Stream<Item = Result<Bytes, Ended>>,
    source: &mut impl Source,
    sink: &mut impl Sink,
    mut slice: PollSlice<'_>,
) -> Result<(), Ended> {
    let mut parts = std::pin::pin!(parts);
    let (mut batch, mut passed) = (BytesMut::new(), 0);
    loop {
        // What is there leaves together: a frame of HTTP/2 for each of many small parts would look like an attack.
        let ready = if batch.len() < MAX_BATCH_BYTES { parts.next().now_or_never() } else { None };
        let part = match ready {
            Some(part) => part,
            None => {
                passed += batch.len() as u64;
                sink.data(batch.split().freeze());
                sink.flush().await?;
                // Nobody who waits holds a buffer.
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

pub(crate) fn put_chunk(out: &mut BytesMut, as_chunk: bool, data: &[u8]) {
    // A chunk of nothing is the last one.
    if data.is_empty() {
        return;
    }
    if as_chunk {
        // With room for the size and the line ends: a large piece is copied once.
        out.reserve(data.len() + 24);
        let _ = write!(out, "{:x}\r\n", data.len());
        out.put_slice(data);
        out.put_slice(b"\r\n");
    } else {
        out.put_slice(data);
    }
}

/// The last chunk, and what follows it.
pub(crate) fn put_last_chunk(out: &mut BytesMut, trailers: &[u8]) {
    out.put_slice(b"0\r\n");
    headers::put_trailers(out, trailers);
    out.put_slice(b"\r\n");
}
