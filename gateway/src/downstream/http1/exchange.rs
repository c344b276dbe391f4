//! One request over HTTP/1, and the means to answer it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use net::buffers;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

use super::sink::Http1Sink;
use super::source::Http1Source;
use super::{Http1Connection, MAX_AHEAD_BYTES, open};
use crate::http1::body::BodyReader;
use crate::http1::response_writer::{KeepAlive, put_full};
use crate::io::budget::Reservation;
use crate::io::stream::Readable;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::response_head::ResponseHead;
use crate::proxy::ended::{BodyError, Ended};
use crate::proxy::exchange::{Exchange, FullResponse};
use crate::proxy::forward::{self, ForwardError, ForwardRequest, Forwarded};
use crate::proxy::tunnel;
use crate::upstream::concurrency::Permit;

impl Exchange for Http1Connection<'_> {
    async fn whole_body(
        &mut self,
        limit: usize,
        deadline: Instant,
        held: &mut Reservation,
    ) -> Result<Bytes, BodyError> {
        let too_large = || {
            let detail = format!("the body is larger than {limit} bytes");
            BodyError::Problem(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail))
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
            let listens = self.input.buffer.len() < MAX_AHEAD_BYTES;
            tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                ready = open(&mut self.stream).readable(), if listens => ready?,
            }
            if self.input.read(open(&mut self.stream))? == Some(0) {
                return Err(Ended("closed by the client before it was answered"));
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
        put_full(&mut self.output, response.status, response.fields(), &response.body, keep_alive, self.is_head, now);
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
        let (from_client, to_client) = open(&mut self.stream).split();
        let mut upload = Http1Source { input: &mut self.input, from_client, has_deadline: true };
        let (output, status, limit) = (&mut self.output, &mut self.status, self.limits.write);
        let head = request.head;
        let mut download =
            Http1Sink { head, to_client, output, keep_alive, limit, status, client: &self.client.pace, chunks: false };
        let outcome = forward::forward(request, &mut upload, &mut download, server, &mut self.timer).await;
        self.keep_alive = download.keep_alive;
        let chunks = download.chunks;
        // A server that was not given all of a request would take the next one for the rest of it.
        let whole = self.input.body.is_done() && self.input.read_ahead.is_empty() && outcome.is_request_sent;
        if !whole {
            self.keep_alive = KeepAlive::Closes;
        }
        if outcome.result.is_err() && outcome.is_response_begun && !chunks {
            // A client that reads to the end of the connection must not take this end for the
            // response's.
            open(&mut self.stream).reset_on_drop();
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
        let (from_client, to_client) = open(&mut self.stream).split();
        let mut upload = Http1Source { input: &mut self.input, from_client, has_deadline: false };
        let (output, status, limit) = (&mut self.output, &mut self.status, self.limits.write);
        let mut download =
            Http1Sink { head, to_client, output, keep_alive, limit, status, client: &self.client.pace, chunks: false };
        let ended = forward::relay_stream(response, parts, &mut upload, &mut download).await;
        self.keep_alive = download.keep_alive;
        if ended.is_err() && !download.chunks {
            // As with a server's response: this end is not the response's.
            open(&mut self.stream).reset_on_drop();
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

impl Http1Connection<'_> {
    /// Both sides have agreed. Bytes that were already read from either are passed on, and then all
    /// further ones.
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
        let client = self.stream.take().expect("a connection ends with its tunnel");
        // A task of its own: otherwise each byte would wake the whole task of the connection.
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
