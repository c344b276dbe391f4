//! One request over HTTP/1, and the means to answer it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use net::{QueuedSocket, buffers};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::sink::{Http1Sink, put_switch_fields};
use super::source::Http1Source;
use super::{Http1Connection, open};
use crate::downstream::date::with_date;
use crate::http1::body::BodyReader;
use crate::http1::response_writer::{FullHead, KeepAlive, put_full};
use crate::io::budget::Reservation;
use crate::io::stream::Readable;
use crate::io::timer::Timer;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::ResponseHead;
use crate::proxy::exchange::{Exchange, FullResponse, SwitchedConnection};
use crate::proxy::forward::{self, ClientGone, ForwardOutcome, Sink, Source};
use crate::proxy::request_error::{Ended, RequestError};
use crate::proxy::tunnel;
use crate::upstream::concurrency::Permit;

impl Exchange for Http1Connection<'_> {
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
        // Refused before the client is asked to continue with a body that cannot be accepted.
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

    async fn buffer_body(&mut self, bytes: usize, held: &mut Reservation) -> Result<(), RequestError> {
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
        // Waiting responses are written first.
        let mut work = std::pin::pin!(work);
        if let Poll::Ready(done) = std::future::poll_fn(|task| Poll::Ready(work.as_mut().poll(task))).await {
            return Ok(done);
        }
        self.flush().await?;
        // Thousands may wait for a slow server.
        buffers::release(std::mem::take(&mut self.output));
        if self.input.buffer.is_empty() {
            buffers::release(std::mem::take(&mut self.input.buffer));
        }
        loop {
            let gone = async {
                match self.input.client_gone(open(&mut self.stream)).await {
                    Some(gone) => gone,
                    None => std::future::pending().await,
                }
            };
            let gone = tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                gone = gone => gone,
            };
            match gone {
                ClientGone::Surely(ended) => return Err(ended),
                ClientGone::Perhaps => {
                    self.line.begin(&mut self.output);
                    self.flush().await?;
                }
            }
        }
    }

    async fn delay_rejection(&mut self, pause: impl Future<Output = ()> + Send) -> Result<(), Ended> {
        self.flush().await?;
        // The wait ends early for a client that sends, or that sends a further request.
        if !self.input.body.is_done() || !self.input.buffer.is_empty() || self.client.stop.is_cancelled() {
            return Ok(());
        }
        // Meanwhile the client may be evicted like an idle one, and holds as little memory.
        self.client.mark_idle(Instant::now());
        buffers::release(std::mem::take(&mut self.input.buffer));
        buffers::release(std::mem::take(&mut self.output));
        tokio::select! {
            () = pause => {}
            ready = open(&mut self.stream).readable() => ready?,
            () = self.stop.as_mut() => {}
        }
        self.client.mark_busy();
        Ok(())
    }

    fn respond(&mut self, mut response: FullResponse) -> Instant {
        let (keep_alive, now) = (self.keep_alive_after(), Instant::now());
        self.status = Some(response.status);
        buffers::make_ready(&mut self.output);
        let (status, fields) = (response.status, response.fields());
        let head = FullHead { status, fields, keep_alive, is_bodiless: self.is_head };
        let (output, line, own) = (&mut self.output, &mut self.line, &self.own_fields[..]);
        with_date(now, |date| put_full(output, line, head, own, &response.body, date));
        self.reservations.extend(response.held.take().filter(Reservation::is_large));
        now
    }

    fn status(&self) -> Option<StatusCode> {
        self.status
    }

    fn own_fields(&mut self) -> &mut Vec<u8> {
        &mut self.own_fields
    }

    async fn begin_forward(&mut self, awaits_continue: bool) -> Result<(), Ended> {
        if awaits_continue {
            self.flush().await?;
        } else {
            self.send_continue().await?;
        }
        // Its body is on its way to the server.
        if self.client.stop.is_cancelled() {
            self.keep_alive = KeepAlive::Closes;
        }
        Ok(())
    }

    fn begin_stream(&mut self) {
        self.keep_alive_after();
    }

    fn split<'a>(
        &'a mut self,
        head: &'a RequestHead,
        has_deadline: bool,
        _now: Instant,
    ) -> (impl Source, impl Sink, &'a mut Timer) {
        let (from_client, to_client) = open(&mut self.stream).split();
        let source = Http1Source { input: &mut self.input, from_client, has_deadline };
        self.is_chunked = false;
        let sink = Http1Sink {
            head,
            to_client,
            output: &mut self.output,
            keep_alive: &mut self.keep_alive,
            write_timeout: self.timeouts.write,
            status: &mut self.status,
            pace: &self.client.pace,
            is_chunked: &mut self.is_chunked,
            line: &mut self.line,
            own_fields: &self.own_fields,
            has_head: false,
            zeros: 0,
        };
        (source, sink, &mut self.timer)
    }

    fn end_forward(&mut self, outcome: &ForwardOutcome) -> bool {
        self.input.needs_continue &= outcome.awaits_continue;
        let whole = self.input.body.is_done() && self.input.read_ahead.is_empty() && outcome.is_request_sent;
        if !whole {
            self.keep_alive = KeepAlive::Closes;
        }
        if outcome.is_response_begun {
            self.end_stream(outcome.result.is_ok());
        }
        whole
    }

    fn end_stream(&mut self, is_whole: bool) {
        if !is_whole && !self.is_chunked {
            // A client that reads to the end of the connection must not take this end for that of
            // the response.
            open(&mut self.stream).reset_on_drop();
        }
    }

    async fn switch(&mut self, head: &ResponseHead) -> Result<SwitchedConnection, Ended> {
        self.status = Some(head.status);
        buffers::make_ready(&mut self.output);
        self.line.finish(&mut self.output, head.status);
        put_switch_fields(&mut self.output, head);
        self.flush().await?;
        self.output = BytesMut::new();
        let stream = self.stream.take().expect("a connection ends with its tunnel");
        Ok(SwitchedConnection {
            stream,
            ahead: std::mem::take(&mut self.input.buffer),
            stop: self.client.stop.clone(),
            write_timeout: self.timeouts.write,
        })
    }

    async fn tunnel(&mut self, server: QueuedSocket, to_client: Bytes, permit: Permit, idle: Duration) -> Ended {
        match self.start_tunnel(server, to_client, permit, idle).await {
            Ok(()) => Ended("the tunnel was closed"),
            Err(ended) => ended,
        }
    }
}

impl Http1Connection<'_> {
    /// Starts a tunnel on which both sides have agreed: passes on the bytes that were already read
    /// from either, and then all further ones.
    async fn start_tunnel(
        &mut self,
        mut server: QueuedSocket,
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
        let client = self.stream.take().expect("a connection ends with its tunnel");
        // The tunnel has a task of its own, because otherwise each byte would wake the whole task
        // of the connection.
        let carries = async move { tunnel::run(client, server, permit.holder(), idle).await };
        match AbortOnDropHandle::new(tokio::spawn(carries)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Ended("the tunnel was idle")),
            Ok(Err(error)) if error.kind() == io::ErrorKind::QuotaExceeded => {
                Err(Ended("the tunnel was silent while others wait"))
            }
            Ok(carried) => Ok(carried?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_aborted) => Err(Ended("the tunnel was lost")),
            },
        }
    }
}
