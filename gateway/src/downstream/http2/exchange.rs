//! One stream of a client that speaks HTTP/2.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use crate::http1::body::Piece;
use crate::http1::head::{Framing, RequestHead};
use crate::http1::headers::{HopByHop, late_trailer};
use crate::http1::response_reader::ResponseHead;
use crate::http1::response_writer::date;
use crate::io::budget::Reservation;
use crate::io::timer::Timer;
use crate::message::problem::Problem;
use crate::proxy::exchange::{BodyError, Ended, Exchange, FullResponse};
use crate::proxy::forward::{self, ForwardError, ForwardRequest, Forwarded, Sink, Source};
use crate::upstream::concurrency::Permit;

/// Bytes of a body that nobody wants which are read, and for how long: some clients take a reset for the end of everything, though it
/// says NO_ERROR and follows the whole answer (RFC 9113, 8.1).
const MAX_DISCARDED_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(1);

/// Pieces of a response that are copied.
const SMALL_BYTES: usize = 8 * 1024;

/// A request, and what it can be answered through.
#[derive(Debug)]
pub(super) struct Http2Exchange {
    incoming: Http2Body,
    outgoing: Http2Sender,
    /// A response whose body is all there.
    full: Option<FullResponse>,
    status: Option<StatusCode>,
    /// The client waits for leave to send the body.
    needs_continue: bool,
    length: Framing,
    is_head: bool,
    /// How long the client may take nothing.
    limit: Duration,
}

/// The request's body.
#[derive(Debug)]
struct Http2Body {
    body: RecvStream,
    /// Read already, and not wanted until now.
    read_ahead: VecDeque<Piece>,
}

/// The response, before its head and after.
#[derive(Debug)]
struct Http2Sender {
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
}

impl Http2Exchange {
    /// Takes a request over; with its head, or what is wrong with it.
    pub(super) fn open(
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
        limit: Duration,
    ) -> (Self, Result<RequestHead, Problem>) {
        let (parts, body) = request.into_parts();
        let head = head(&parts, body.is_end_stream());
        let length = head.as_ref().map_or(Framing::Empty, |head| head.framing);
        let needs_continue = head.as_ref().is_ok_and(|head| head.expects_continue);
        let stream = Self {
            incoming: Http2Body { body, read_ahead: VecDeque::new() },
            outgoing: Http2Sender { respond, send: None },
            full: None,
            status: None,
            needs_continue,
            length,
            is_head: parts.method == http::Method::HEAD,
            limit,
        };
        (stream, head)
    }

    /// Sends what the request was answered with; how its handling `ended` decides how the stream does.
    pub(super) async fn finish(mut self, ended: Result<(), Ended>) {
        let sent = match (ended, self.full.take()) {
            (Ok(()), Some(full)) => self.send_full(full).await,
            (ended, _) => ended,
        };
        match &mut self.outgoing.send {
            // A response that was begun and is not whole must not look as if it were.
            Some(send) if sent.is_err() => send.send_reset(Reason::INTERNAL_ERROR),
            Some(_) => self.discard_body().await,
            None => {}
        }
    }

    /// Reads what the client still sends of its request, within limits: so it hears what is wrong with that, and a small rest is not
    /// answered by a reset.
    async fn discard_body(&mut self) {
        let until = Instant::now() + LINGER;
        let mut left = MAX_DISCARDED_BYTES;
        while !self.incoming.body.is_end_stream()
            && let Ok(Piece::Data(data)) = self.incoming.next_piece(until).await
            && data.len() <= left
        {
            left -= data.len();
        }
    }

    async fn send_full(&mut self, full: FullResponse) -> Result<(), Ended> {
        let FullResponse { status, content_type, retry_after, location, body, held: _held } = full;
        let mut response = Response::new(());
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(after) = retry_after {
            fields.insert(RETRY_AFTER, HeaderValue::from_static(after));
        }
        if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
            fields.insert(LOCATION, location);
        }
        let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !has_none {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        put_date(fields);
        let ends = has_none || self.is_head || body.is_empty();
        self.outgoing.begin(response, ends)?;
        if ends { Ok(()) } else { send_data(&Mutex::new(&mut self.outgoing), body, true, self.limit).await }
    }

    fn send_continue(&mut self) {
        if std::mem::take(&mut self.needs_continue) {
            let mut leave = Response::new(());
            *leave.status_mut() = StatusCode::CONTINUE;
            // A client that is gone is found out otherwise.
            let _ = self.outgoing.respond.send_informational(leave);
        }
    }
}

impl Exchange for Http2Exchange {
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
        match self.length {
            Framing::Empty => return Ok(Bytes::new()),
            Framing::Length(bytes) if bytes > limit as u64 => return Err(too_large()),
            _ => self.send_continue(),
        }
        let mut whole = BytesMut::new();
        loop {
            match self.incoming.next_piece(deadline).await? {
                Piece::Data(data) if whole.len() + data.len() > limit => return Err(too_large()),
                Piece::Data(data) => {
                    held.grow_to(whole.len() + data.len())?;
                    whole.extend_from_slice(&data);
                }
                Piece::End(_) | Piece::More => return Ok(whole.freeze()),
            }
        }
    }

    async fn buffer_body(&mut self, bytes: usize, held: &mut Reservation) -> Result<(), BodyError> {
        self.send_continue();
        let (begin, mut received) = (Instant::now(), 0);
        while received < bytes {
            let deadline = forward::body_deadline(begin, received as u64, Instant::now());
            let piece = self.incoming.next_of_client(deadline).await?;
            let is_last = matches!(piece, Piece::End(_) | Piece::More);
            if let Piece::Data(data) = &piece {
                received += data.len();
                held.grow_to(received)?;
            }
            self.incoming.read_ahead.push_back(piece);
            if is_last {
                break;
            }
        }
        Ok(())
    }

    async fn until_client_gone<F>(&mut self, work: F) -> Result<F::Output, Ended>
    where
        F: Future + Send,
        F::Output: Send,
    {
        tokio::select! {
            biased;
            done = work => Ok(done),
            gone = poll_fn(|task| self.outgoing.poll_gone(task)) => Err(gone),
        }
    }

    fn respond(&mut self, response: FullResponse) -> Instant {
        self.status = Some(response.status);
        self.full = Some(response);
        Instant::now()
    }

    fn status(&self) -> Option<StatusCode> {
        self.status
    }

    async fn forward(
        &mut self,
        request: ForwardRequest<'_>,
        server: &mut TcpStream,
    ) -> Result<Forwarded, ForwardError> {
        self.send_continue();
        let outgoing = Mutex::new(&mut self.outgoing);
        let mut upload = Http2Source { incoming: &mut self.incoming, outgoing: &outgoing };
        let mut download = Http2Sink::new(&outgoing, self.limit, &mut self.status);
        let mut timer = Timer::at(Instant::now() + request.timeout);
        let outcome = forward::forward(request, &mut upload, &mut download, server, &mut timer).await;
        outcome.result.map(|forwarded| match forwarded {
            // A server that was not given all of a request would take the next one for the rest of it.
            Forwarded::Done { keep_server, answered } => {
                Forwarded::Done { keep_server: keep_server.filter(|_| outcome.is_request_sent), answered }
            }
            tunnel @ Forwarded::Tunnel { .. } => tunnel,
        })
    }

    async fn respond_with_stream(
        &mut self,
        _head: &RequestHead,
        response: &ResponseHead,
        parts: impl futures::Stream<Item = Result<Bytes, Ended>> + Send,
    ) -> Result<(), Ended> {
        let outgoing = Mutex::new(&mut self.outgoing);
        let mut upload = Http2Source { incoming: &mut self.incoming, outgoing: &outgoing };
        let mut download = Http2Sink::new(&outgoing, self.limit, &mut self.status);
        forward::relay_stream(response, parts, &mut upload, &mut download).await
    }

    async fn delay_rejection(&mut self, _pause: impl Future<Output = ()> + Send) -> Result<(), Ended> {
        // There are so many streams to a connection, and what is in its window: others may need them.
        Ok(())
    }

    async fn tunnel(&mut self, _server: TcpStream, _to_client: Bytes, _permit: Permit, _idle: Duration) -> Ended {
        // No head of HTTP/2 asks for another protocol, so no server's answer is taken for leave to change to one.
        Ended("HTTP/2 has no upgrades")
    }
}

impl Http2Body {
    async fn next_piece(&mut self, deadline: Instant) -> Result<Piece, BodyError> {
        if let Some(piece) = self.read_ahead.pop_front() {
            return Ok(piece);
        }
        self.next_of_client(deadline).await
    }

    async fn next_of_client(&mut self, deadline: Instant) -> Result<Piece, BodyError> {
        match timeout_at(deadline, self.read()).await {
            Ok(piece) => Ok(piece?),
            Err(_elapsed) => {
                let detail = "the body of the request takes too long";
                Err(BodyError::Problem(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", detail)))
            }
        }
    }

    async fn read(&mut self) -> Result<Piece, Ended> {
        let reset = |_| Ended("reset by the client in mid body");
        match self.body.data().await {
            Some(data) => {
                let data = data.map_err(reset)?;
                // The client may send as much again: we never hold more than this.
                self.body.flow_control().release_capacity(data.len()).map_err(reset)?;
                Ok(Piece::Data(data))
            }
            None => {
                let trailers = self.body.trailers().await.map_err(reset)?;
                let mut lines = BytesMut::new();
                for (name, value) in trailers.iter().flatten() {
                    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                        lines.extend_from_slice(part);
                    }
                }
                Ok(Piece::End(lines.freeze()))
            }
        }
    }
}

impl Http2Sender {
    fn begin(&mut self, response: Response<()>, ends: bool) -> Result<(), Ended> {
        let send = self.respond.send_response(response, ends).map_err(|_gone| Ended("reset by the client"))?;
        self.send = Some(send);
        Ok(())
    }

    fn poll_gone(&mut self, task: &mut Context<'_>) -> Poll<Ended> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(task),
            None => self.respond.poll_reset(task),
        };
        reset.map(|_| Ended("reset by the client before it was answered"))
    }
}

/// Both directions of a stream use it, in one task: it is never waited for.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends as the client takes it.
async fn send_data(out: &Mutex<&mut Http2Sender>, mut data: Bytes, ends: bool, limit: Duration) -> Result<(), Ended> {
    let gone = || Ended("reset by the client in mid response");
    loop {
        let room = {
            let mut out = lock(out);
            let send = out.send.as_mut().ok_or_else(gone)?;
            if data.is_empty() {
                return if ends { send.send_data(data, true).map_err(|_| gone()) } else { Ok(()) };
            }
            send.reserve_capacity(data.len());
            send.capacity()
        };
        let room = if room > 0 {
            room
        } else {
            let room = poll_fn(|task| match &mut lock(out).send {
                Some(send) => send.poll_capacity(task),
                None => Poll::Ready(None),
            });
            let room = timeout(limit, room).await.map_err(|_elapsed| Ended("takes no response"))?;
            room.and_then(Result::ok).ok_or_else(gone)?
        };
        let part = data.split_to(room.min(data.len()));
        let is_last = ends && data.is_empty();
        let mut out = lock(out);
        let send = out.send.as_mut().ok_or_else(gone)?;
        send.send_data(part, is_last).map_err(|_| gone())?;
        if data.is_empty() {
            return Ok(());
        }
    }
}

/// The request's body, on its way to a server.
struct Http2Source<'a, 'b> {
    incoming: &'a mut Http2Body,
    outgoing: &'a Mutex<&'b mut Http2Sender>,
}

impl Source for Http2Source<'_, '_> {
    fn has_more(&mut self) -> bool {
        if self.incoming.read_ahead.is_empty() {
            let read = self.incoming.read().now_or_never().and_then(Result::ok);
            self.incoming.read_ahead.extend(read);
        }
        !self.incoming.read_ahead.is_empty()
    }

    async fn next_piece(&mut self, deadline: Instant) -> Result<Piece, BodyError> {
        self.incoming.next_piece(deadline).await
    }

    async fn client_gone(&mut self) -> Ended {
        poll_fn(|task| lock(self.outgoing).poll_gone(task)).await
    }

    fn is_client_gone(_ended: Ended) -> bool {
        // A stream that has ended its request in order is not ended for us.
        true
    }
}

/// A response on its way from a server.
struct Http2Sink<'a, 'b> {
    outgoing: &'a Mutex<&'b mut Http2Sender>,
    waiting: VecDeque<Bytes>,
    /// Nothing more will be given, but these trailers.
    end: Option<HeaderMap>,
    /// The head has not ended the stream.
    open: bool,
    broken: Option<Ended>,
    limit: Duration,
    status: &'a mut Option<StatusCode>,
}

impl<'a, 'b> Http2Sink<'a, 'b> {
    fn new(outgoing: &'a Mutex<&'b mut Http2Sender>, limit: Duration, status: &'a mut Option<StatusCode>) -> Self {
        Self { outgoing, waiting: VecDeque::new(), end: None, open: true, broken: None, limit, status }
    }
}

impl Sink for Http2Sink<'_, '_> {
    fn head(&mut self, response: &ResponseHead, _early: bool, set_cookie: Option<&str>) {
        *self.status = Some(response.status);
        let mut head = Response::new(());
        *head.status_mut() = response.status;
        let fields = head.headers_mut();
        let connection = HopByHop::new(&response.fields);
        let with_length = response.tells_length();
        for (name, value) in response.fields.iter() {
            if connection.owns(name) && !(with_length && name.eq_ignore_ascii_case(b"content-length")) {
                continue;
            }
            // What was read as a field is one here too, in small letters.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
        if let Framing::Length(bytes) = response.framing {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        if let Some(cookie) = set_cookie.and_then(|cookie| HeaderValue::from_str(cookie).ok()) {
            fields.append(SET_COOKIE, cookie);
        }
        if !fields.contains_key(DATE) {
            put_date(fields);
        }
        self.open = response.framing != Framing::Empty;
        self.broken = lock(self.outgoing).begin(head, !self.open).err();
    }

    fn data(&mut self, data: Bytes) {
        // A small piece would hold all of the buffer that it was read into for as long as it waits.
        let data = if data.len() < SMALL_BYTES { Bytes::copy_from_slice(&data) } else { data };
        self.waiting.push_back(data);
    }

    fn end(&mut self, trailers: &[u8]) {
        let mut fields = HeaderMap::new();
        for line in trailers.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let name = HeaderName::from_bytes(name).ok().filter(|name| !late_trailer(name.as_str().as_bytes()));
            if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
        self.end = Some(fields);
    }

    fn release_buffers(&mut self) {}

    /// [`flush`](Self::flush) has waited for the client's window already.
    async fn writable(&mut self) -> Result<(), Ended> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if let Some(ended) = self.broken {
            return Err(ended);
        }
        let ends = self.end.as_ref().is_some_and(HeaderMap::is_empty);
        while let Some(data) = self.waiting.pop_front() {
            let is_last = ends && self.waiting.is_empty();
            send_data(self.outgoing, data, is_last, self.limit).await?;
            if is_last {
                self.end = None;
            }
        }
        let Some(trailers) = self.end.take() else { return Ok(()) };
        let gone = |_| Ended("reset by the client in mid response");
        let mut out = lock(self.outgoing);
        match &mut out.send {
            // The head has ended the stream already.
            Some(_) if !self.open => Ok(()),
            Some(send) if trailers.is_empty() => send.send_data(Bytes::new(), true).map_err(gone),
            Some(send) => send.send_trailers(trailers).map_err(gone),
            None => Ok(()),
        }
    }
}

/// A request's head, in the form that servers are told it in.
fn head(parts: &http::request::Parts, ends: bool) -> Result<RequestHead, Problem> {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let fields = &parts.headers;
    RequestHead::from_http2(parts.method.as_str(), target, authority, fields, ends)
}

fn put_date(fields: &mut HeaderMap) {
    if let Ok(date) = date(Instant::now(), HeaderValue::from_str) {
        fields.insert(DATE, date);
    }
}
