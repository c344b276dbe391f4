//! One request on its way to a server, and the response on its way back, both as they come.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Duration, Instant};

use super::body::{BodyReader, Piece};
use super::connection::{BodyError, Connection, Ended, Reading, Timer, write_all};
use super::head::{Framing, Head};
use super::headers;
use super::response::{ResponseHead, ResponseReader};
use super::write::{KeepAlive, put_date, status_line};
use crate::buffers;
use crate::problem::Problem;

/// Room for a read of a response, at first and for one that goes on.
const FIRST_READ_BYTES: usize = 4 * 1024;
const READ_BYTES: usize = 32 * 1024;
/// A body that comes slower than so many bytes a second, after a moment of grace, comes from an attacker, or from nobody.
const MIN_BODY_RATE: u64 = 1024;
const BODY_GRACE: Duration = Duration::from_secs(5);
/// However much has come before, a client may pause for so long.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// Heads before the response itself that a server may send, such as 103.
const MAX_INTERIM: u32 = 16;
/// Bytes on their way through a tunnel, each way.
const TUNNEL_BYTES: usize = 8 * 1024;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// The response has been passed on. Whether the server's connection can be used again.
    Done { keep_server: bool },
    /// The server has gone over to another protocol, and so has the client.
    Tunnel { to_client: Bytes },
}

/// Why there is no response to pass on.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The server's connection ended without a byte of a response.
    Unanswered,
    /// What came is no response.
    Nonsense(String),
    /// No response in time.
    Deadline,
    /// The client is told, and its connection closed.
    Client(Problem),
    /// The connection cannot go on.
    Ended(Ended),
}

impl From<Ended> for Failed {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<BodyError> for Failed {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Problem(problem) => Self::Client(problem),
            BodyError::Ended(ended) => Self::Ended(ended),
        }
    }
}

/// Until when something has to happen: moved while it is waited for.
struct Due {
    base: Instant,
    after_ms: AtomicU64,
}

impl Due {
    fn after(within: Duration) -> Self {
        let now = Instant::now();
        let due = Self { base: now, after_ms: AtomicU64::new(0) };
        due.set(now + within);
        due
    }

    fn set(&self, due: Instant) {
        let after = due.saturating_duration_since(self.base).as_millis();
        self.after_ms.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    async fn over(&self, timer: &mut Timer) {
        loop {
            let after = self.after_ms.load(Ordering::Relaxed);
            timer.set(self.base + Duration::from_millis(after));
            timer.expired().await;
            if self.after_ms.load(Ordering::Relaxed) == after {
                return;
            }
        }
    }
}

impl Connection {
    /// Sends a request, whose `request` is the head as the server is to see it, and passes the response on. `within`: how long the
    /// server may take to take the request, and to answer once it has all of it; after that something has to come every `idle`.
    pub(crate) async fn forward(
        &mut self,
        head: &Head,
        request: BytesMut,
        server: &mut TcpStream,
        within: Duration,
        idle: Duration,
    ) -> Result<Forwarded, Failed> {
        self.give_leave().await?;
        let keep_alive = self.keep_alive_while();
        let (due, begun, sent) = (Due::after(within), AtomicBool::new(false), AtomicBool::new(false));
        let (mut from_client, to_client) = self.stream.split();
        let (from_server, mut to_server) = server.split();
        let mut download = Download {
            head,
            from_server,
            to_client,
            output: &mut self.output,
            keep_alive,
            is_head: self.is_head,
            limit: self.limits.write,
            due: &due,
            idle,
            begun: &begun,
            sent: &sent,
            status: &mut self.status,
            chunks: false,
        };
        let outcome = {
            let pace = Pace { due: &due, within, sent: &sent };
            let upload = upload(&mut self.reading, &mut from_client, &mut to_server, request, head.framing, pace);
            let (mut upload, mut uploads) = (std::pin::pin!(upload), true);
            let mut download = std::pin::pin!(download.run());
            loop {
                let has_begun = || begun.load(Ordering::Relaxed);
                tokio::select! {
                    biased;
                    outcome = download.as_mut() => break outcome,
                    ended = upload.as_mut(), if uploads => match ended {
                        Upload::Failed(failed) if !has_begun() => {
                            self.keep_alive = KeepAlive::Closes;
                            return Err(failed);
                        }
                        // The server may have said why it takes no more.
                        Upload::Refused | Upload::Failed(_) => uploads = false,
                    },
                    () = due.over(&mut self.timer) => {
                        break Err(if has_begun() { Ended("a response stood still").into() } else { Failed::Deadline });
                    }
                }
            }
        };
        self.keep_alive = download.keep_alive;
        let download_chunks = download.chunks;
        // A server that was not given all of a request would take the next one for the rest of it.
        let whole = self.reading.body.is_done() && sent.load(Ordering::Relaxed);
        if !whole {
            self.keep_alive = KeepAlive::Closes;
        }
        if outcome.is_err() && begun.load(Ordering::Relaxed) && !download_chunks {
            // A client that reads to the end of the connection must not take this end for the response's.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        outcome.map(|forwarded| match forwarded {
            Forwarded::Done { keep_server } => Forwarded::Done { keep_server: keep_server && whole },
            tunnel @ Forwarded::Tunnel { .. } => tunnel,
        })
    }

    /// Carries bytes both ways until both sides have said that no more come, or one is gone.
    pub(crate) async fn tunnel(&mut self, server: &mut TcpStream, to_client: Bytes) -> Result<(), Ended> {
        self.output.extend_from_slice(&to_client);
        self.flush().await?;
        let ahead = self.reading.input.split();
        server.write_all(&ahead).await?;
        drop(ahead);
        self.reading.input = BytesMut::new();
        self.output = BytesMut::new();
        tokio::io::copy_bidirectional_with_sizes(&mut self.stream, server, TUNNEL_BYTES, TUNNEL_BYTES).await?;
        Err(Ended("the tunnel was closed"))
    }
}

/// How sending a request ended, if it did before the response was there.
enum Upload {
    /// The server takes no more.
    Refused,
    Failed(Failed),
}

/// While a body comes its client's time counts, and the server's when there is something for it.
struct Pace<'a> {
    due: &'a Due,
    within: Duration,
    /// The server has been given the whole request.
    sent: &'a AtomicBool,
}

/// Sends head and body, then watches for the client's going.
async fn upload(
    reading: &mut Reading,
    from_client: &mut ReadHalf<'_>,
    to_server: &mut WriteHalf<'_>,
    mut request: BytesMut,
    framing: Framing,
    pace: Pace<'_>,
) -> Upload {
    if framing != Framing::Empty
        && let Err(failed) = send_body(reading, from_client, to_server, &mut request, framing, &pace).await
    {
        return failed;
    }
    if to_server.write_all(&request).await.is_err() {
        return Upload::Refused;
    }
    pace.sent.store(true, Ordering::Relaxed);
    buffers::give(request);
    Upload::Failed(Failed::Ended(reading.gone(from_client).await))
}

/// Sends what is in `out`, and the body; what ends it is left in `out`.
async fn send_body(
    reading: &mut Reading,
    from_client: &mut ReadHalf<'_>,
    to_server: &mut WriteHalf<'_>,
    out: &mut BytesMut,
    framing: Framing,
    pace: &Pace<'_>,
) -> Result<(), Upload> {
    let (begin, as_chunks) = (Instant::now(), framing == Framing::Chunked);
    let mut received = 0;
    loop {
        // What is there already leaves with the head.
        if reading.input.is_empty() {
            to_server.write_all(out).await.map_err(|_broken| Upload::Refused)?;
            out.clear();
        }
        let slowest = begin + BODY_GRACE + Duration::from_secs(received / MIN_BODY_RATE);
        let deadline = slowest.min(Instant::now() + BODY_PAUSE);
        pace.due.set(deadline + pace.within);
        let piece = reading.next_piece(from_client, deadline).await;
        pace.due.set(Instant::now() + pace.within);
        match piece.map_err(|error| Upload::Failed(error.into()))? {
            Piece::Data(data) => {
                received += data.len() as u64;
                put_piece(out, as_chunks, &data);
            }
            Piece::End(trailers) if as_chunks => {
                put_end(out, &trailers);
                return Ok(());
            }
            Piece::End(_) => return Ok(()),
            Piece::More => {}
        }
        to_server.write_all(out).await.map_err(|_broken| Upload::Refused)?;
        out.clear();
    }
}

/// A response on its way.
struct Download<'a> {
    head: &'a Head,
    from_server: ReadHalf<'a>,
    to_client: WriteHalf<'a>,
    output: &'a mut BytesMut,
    keep_alive: KeepAlive,
    is_head: bool,
    limit: Duration,
    due: &'a Due,
    idle: Duration,
    /// The client is being given the response.
    begun: &'a AtomicBool,
    /// The server has been given the whole request.
    sent: &'a AtomicBool,
    status: &'a mut Option<StatusCode>,
    /// The body goes in chunks, so that its end is told from the connection's.
    chunks: bool,
}

impl Download<'_> {
    async fn run(&mut self) -> Result<Forwarded, Failed> {
        let mut input = buffers::take();
        let forwarded = self.run_with(&mut input).await;
        buffers::give(input);
        forwarded
    }

    async fn run_with(&mut self, input: &mut BytesMut) -> Result<Forwarded, Failed> {
        let response = self.response(input).await?;
        *self.status = Some(response.status);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            if !self.head.upgrades {
                return Err(Failed::Nonsense("it changes to a protocol that nobody has asked for".to_owned()));
            }
            status_line(self.output, response.status);
            headers::put_response_fields(self.output, &response.fields, false);
            self.output.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n");
            return Ok(Forwarded::Tunnel { to_client: input.split().freeze() });
        }
        let chunks = self.put_head(&response);
        self.chunks = chunks;
        self.begun.store(true, Ordering::Relaxed);
        self.due.set(Instant::now() + self.idle);
        let mut body = BodyReader::new(response.framing);
        loop {
            match body.next(input) {
                Ok(Piece::Data(data)) => put_piece(self.output, chunks, &data),
                Ok(Piece::End(trailers)) => {
                    if chunks {
                        put_end(self.output, &trailers);
                    }
                    break;
                }
                Ok(Piece::More) => {
                    // Nothing is held back, and nothing is read that the client does not take.
                    write_all(self.to_client.as_ref(), self.output, self.limit).await?;
                    if self.read(input).await? == 0 {
                        if response.framing == Framing::Close {
                            if chunks {
                                put_end(self.output, b"");
                            }
                            break;
                        }
                        return Err(Failed::Ended(Ended("the server went in mid response")));
                    }
                }
                Err(_broken) => {
                    write_all(self.to_client.as_ref(), self.output, self.limit).await?;
                    return Err(Failed::Ended(Ended("the server's response makes no sense")));
                }
            }
        }
        write_all(self.to_client.as_ref(), self.output, self.limit).await?;
        let keep_server = response.keep_alive && input.is_empty();
        Ok(Forwarded::Done { keep_server })
    }

    /// The head of the response; those before it are passed over.
    async fn response(&mut self, input: &mut BytesMut) -> Result<ResponseHead, Failed> {
        let mut reader = ResponseReader::default();
        let mut interim = 0;
        loop {
            match reader.next(input, self.is_head) {
                Ok(Some(head)) if head.status.is_informational() && head.status.as_u16() != 101 => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        return Err(Failed::Nonsense("there is no end of its heads".to_owned()));
                    }
                }
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {
                    if self.read(input).await? == 0 {
                        let cut = || Failed::Nonsense("it ended in mid head".to_owned());
                        return Err(if input.is_empty() && interim == 0 { Failed::Unanswered } else { cut() });
                    }
                }
                Err(why) => return Err(Failed::Nonsense(why)),
            }
        }
    }

    async fn read(&mut self, input: &mut BytesMut) -> Result<usize, Failed> {
        let begun = self.begun.load(Ordering::Relaxed);
        input.reserve(if begun { READ_BYTES } else { FIRST_READ_BYTES });
        let bytes = match self.from_server.read_buf(input).await {
            Ok(bytes) => bytes,
            Err(_reset) if begun => return Err(Ended("the server was lost in mid response").into()),
            Err(_reset) => 0,
        };
        // Until the response is there, the deadline of the whole holds.
        if begun {
            self.due.set(Instant::now() + self.idle);
        }
        Ok(bytes)
    }

    /// Writes the head as the client is to see it. Whether its body goes in chunks.
    fn put_head(&mut self, response: &ResponseHead) -> bool {
        // Who answers before it has heard all of it may never take the rest.
        if !self.sent.load(Ordering::Relaxed) {
            self.keep_alive = KeepAlive::Closes;
        }
        let out = &mut *self.output;
        status_line(out, response.status);
        // A length that tells of a body which is not there, as to HEAD, is passed on; but 204 has none (RFC 9110, 8.6).
        let with_length = response.framing == Framing::Empty && response.status != StatusCode::NO_CONTENT;
        headers::put_response_fields(out, &response.fields, with_length);
        let chunks = match response.framing {
            Framing::Empty => false,
            Framing::Length(bytes) => {
                out.put_slice(b"content-length: ");
                out.put_slice(itoa::Buffer::new().format(bytes).as_bytes());
                out.put_slice(b"\r\n");
                false
            }
            Framing::Chunked | Framing::Close if self.head.is_1_1 => {
                out.put_slice(b"transfer-encoding: chunked\r\n");
                true
            }
            // HTTP/1.0 has no other way to say where it ends.
            Framing::Chunked | Framing::Close => {
                self.keep_alive = KeepAlive::Closes;
                false
            }
        };
        self.keep_alive.write(out);
        if response.fields.get("date").is_none() {
            put_date(out);
        }
        out.put_slice(b"\r\n");
        chunks
    }
}

fn put_piece(out: &mut BytesMut, as_chunk: bool, data: &[u8]) {
    if as_chunk {
        let _ = write!(out, "{:x}\r\n", data.len());
        out.put_slice(data);
        out.put_slice(b"\r\n");
    } else {
        out.put_slice(data);
    }
}

/// The last chunk, and what follows it.
fn put_end(out: &mut BytesMut, trailers: &[u8]) {
    out.put_slice(b"0\r\n");
    headers::put_trailers(out, trailers);
    out.put_slice(b"\r\n");
}
