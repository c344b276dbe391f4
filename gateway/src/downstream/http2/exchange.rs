//! One stream of a client that speaks HTTP/2.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};
use net::QueuedSocket;
use tokio::time::Instant;

use super::body::{Http2Body, Http2Sender, send_data};
use super::head::read_head;
use super::sink::{Http2Sink, put_date, put_own_fields};
use super::source::Http2Source;
use crate::io::budget::Reservation;
use crate::io::client_pace::ClientPace;
use crate::io::timer::Timer;
use crate::message::body::Framing;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::ResponseHead;
use crate::proxy::exchange::{Exchange, FullResponse, SwitchedConnection};
use crate::proxy::forward::{self, ForwardOutcome, Sink, Source};
use crate::proxy::request_error::{Ended, RequestError};
use crate::upstream::concurrency::Permit;

/// How many bytes of an unwanted body are read, and for how long. Some clients take a reset for a
/// failure, even though it says NO_ERROR and follows the whole response (RFC 9113, 8.1).
const MAX_DISCARDED_BYTES: usize = 16 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// A request, and the means to answer it.
#[derive(Debug)]
pub(super) struct Http2Exchange {
    incoming: Http2Body,
    /// Both directions use it, in one task.
    outgoing: Mutex<Http2Sender>,
    timer: Option<Timer>,
    /// A response with a complete body.
    full: Option<FullResponse>,
    status: Option<StatusCode>,
    /// The fields that are added to the response, as lines.
    own_fields: Vec<u8>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    needs_continue: bool,
    framing: Framing,
    is_head: bool,
    /// How long the client may read nothing.
    write_timeout: Duration,
}

impl Http2Exchange {
    /// Takes a request with its head, or with the problem of its head.
    pub(super) fn open(
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
        write_timeout: Duration,
        pace: Arc<ClientPace>,
    ) -> (Self, Result<RequestHead, Problem>) {
        let (parts, body) = request.into_parts();
        let head = read_head(&parts, body.is_end_stream());
        let framing = head.as_ref().map_or(Framing::Empty, |head| head.framing);
        let needs_continue = head.as_ref().is_ok_and(|head| head.expects_continue);
        let exchange = Self {
            incoming: Http2Body { body, read_ahead: VecDeque::new() },
            outgoing: Mutex::new(Http2Sender { respond, send: None, pace }),
            timer: None,
            full: None,
            status: None,
            own_fields: Vec::new(),
            needs_continue,
            framing,
            is_head: parts.method == http::Method::HEAD,
            write_timeout,
        };
        (exchange, head)
    }

    /// Finds out whether there is a body, because the end of a stream may come in a separate empty
    /// frame. A request whose method seldom has a body waits for its first piece; for other
    /// methods, only bytes that have arrived count.
    ///
    /// # Errors
    /// What is wrong with the body, or that it does not come.
    pub(super) async fn settle_framing(&mut self, head: &mut RequestHead) -> Result<(), RequestError> {
        if head.framing != Framing::Chunked || head.expects_continue {
            return Ok(());
        }
        let waits = !matches!(head.method(), "POST" | "PUT" | "PATCH");
        let deadline = waits.then(|| {
            let now = Instant::now();
            forward::body_deadline(now, 0, now)
        });
        if self.incoming.is_empty(deadline).await? {
            head.framing = Framing::Empty;
            self.framing = Framing::Empty;
        }
        Ok(())
    }

    /// Sends the complete response, if there is one, and ends the stream: in order, or by a reset
    /// if the handling of the request `ended` with an error or sending fails.
    pub(super) async fn finish(mut self, ended: Result<(), Ended>) {
        let sent = match (ended, self.full.take()) {
            (Ok(()), Some(full)) => self.send_full(full).await,
            (ended, _) => ended,
        };
        match &mut self.sender().send {
            // An incomplete response must not look complete.
            Some(send) if sent.is_err() => send.send_reset(Reason::INTERNAL_ERROR),
            Some(_) => self.discard_body().await,
            None => {}
        }
    }

    /// Reads the rest of a client's request, within limits. Otherwise a reset could keep the client
    /// from reading its response.
    async fn discard_body(&mut self) {
        let until = Instant::now() + LINGER_TIMEOUT;
        let mut left = MAX_DISCARDED_BYTES;
        while !self.incoming.body.is_end_stream()
            && let Ok(Piece::Data(data)) = self.incoming.next_piece(until).await
            && data.len() <= left
        {
            left -= data.len();
        }
    }

    async fn send_full(&mut self, full: FullResponse) -> Result<(), Ended> {
        let FullResponse { status, content_type, retry_after, location, allow, of_node, body, held } = full;
        let mut response = Response::new(());
        *response.status_mut() = status;
        let fields = response.headers_mut();
        let media_type = match content_type {
            Cow::Borrowed(known) => Ok(HeaderValue::from_static(known)),
            Cow::Owned(named) => HeaderValue::try_from(named),
        };
        if let Some(media_type) = media_type.ok().filter(|media_type| !media_type.is_empty()) {
            fields.insert(CONTENT_TYPE, media_type);
        }
        for (name, value) in of_node.iter() {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                fields.append(name, value);
            }
        }
        if let Some(after) = retry_after.and_then(|after| HeaderValue::try_from(&*after).ok()) {
            fields.insert(RETRY_AFTER, after);
        }
        for (name, value) in [(LOCATION, location), (ALLOW, allow)] {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                fields.insert(name, value);
            }
        }
        let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !has_none {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        put_own_fields(fields, &self.own_fields);
        put_date(fields);
        let ends = has_none || self.is_head || body.is_empty();
        self.sender().begin(response, ends)?;
        if !ends {
            send_data(&self.outgoing, body, true, self.write_timeout).await?;
        }
        held.into_iter().for_each(Reservation::complete);
        Ok(())
    }

    fn sender(&mut self) -> &mut Http2Sender {
        self.outgoing.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_continue(&mut self) {
        if std::mem::take(&mut self.needs_continue) {
            let mut leave = Response::new(());
            *leave.status_mut() = StatusCode::CONTINUE;
            // That a client has gone is noticed elsewhere.
            let _ = self.sender().respond.send_informational(leave);
        }
    }
}

impl Exchange for Http2Exchange {
    async fn whole_body(
        &mut self,
        limit: usize,
        deadline: Instant,
        held: &mut Reservation,
    ) -> Result<Bytes, RequestError> {
        let too_large = || {
            let detail = format!("the body is larger than {limit} bytes");
            RequestError::Problem(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, ProblemKind::BODY_TOO_LARGE, detail))
        };
        match self.framing {
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

    async fn buffer_body(&mut self, bytes: usize, held: &mut Reservation) -> Result<(), RequestError> {
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
            gone = poll_fn(|task| self.sender().poll_gone(task)) => Err(gone),
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

    fn own_fields(&mut self) -> &mut Vec<u8> {
        &mut self.own_fields
    }

    async fn begin_forward(&mut self, awaits_continue: bool) -> Result<(), Ended> {
        if !awaits_continue {
            self.send_continue();
        }
        Ok(())
    }

    fn begin_stream(&mut self) {}

    fn split<'a>(
        &'a mut self,
        _head: &'a RequestHead,
        _has_deadline: bool,
        now: Instant,
    ) -> (impl Source, impl Sink, &'a mut Timer) {
        let Self { incoming, outgoing, timer, write_timeout, status, own_fields, .. } = self;
        let timer = timer.get_or_insert_with(|| Timer::at(now + *write_timeout));
        (Http2Source { incoming, outgoing }, Http2Sink::new(outgoing, *write_timeout, status, own_fields), timer)
    }

    fn end_forward(&mut self, outcome: &ForwardOutcome) -> bool {
        outcome.is_request_sent
    }

    fn end_stream(&mut self, _is_whole: bool) {}

    async fn delay_rejection(&mut self, _pause: impl Future<Output = ()> + Send) -> Result<(), Ended> {
        // The streams and the window of a connection are limited, and other requests may need them.
        Ok(())
    }

    async fn switch(&mut self, _head: &ResponseHead) -> Result<SwitchedConnection, Ended> {
        Err(Ended("HTTP/2 has no upgrades"))
    }

    async fn tunnel(&mut self, _server: QueuedSocket, _to_client: Bytes, _permit: Permit, _idle: Duration) -> Ended {
        // No HTTP/2 head asks for another protocol, so no server's response can switch to one.
        Ended("HTTP/2 has no upgrades")
    }
}
