//! The two directions of a stream, as the h2 crate has them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use crate::io::client_pace::ClientPace;
use crate::message::body::Piece;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::request_error::{Ended, RequestError};

/// The request's body.
#[derive(Debug)]
pub(super) struct Http2Body {
    pub(super) body: RecvStream,
    /// Bytes that were read before they were needed.
    pub(super) read_ahead: VecDeque<Piece>,
}

/// The response, before and after its head.
#[derive(Debug)]
pub(super) struct Http2Sender {
    pub(super) respond: SendResponse<Bytes>,
    pub(super) send: Option<SendStream<Bytes>>,
    pub(super) pace: Arc<ClientPace>,
}

impl Http2Body {
    pub(super) async fn next_piece(&mut self, deadline: Instant) -> Result<Piece, RequestError> {
        if let Some(piece) = self.read_ahead.pop_front() {
            return Ok(piece);
        }
        self.next_of_client(deadline).await
    }

    /// Waits for the first piece that is not empty, and keeps it. Waits until `deadline`, or not at
    /// all if that is `None`. Returns whether the body is empty: it has neither such a piece nor
    /// trailers.
    pub(super) async fn is_empty(&mut self, deadline: Option<Instant>) -> Result<bool, RequestError> {
        loop {
            let piece = match deadline {
                Some(deadline) => self.next_of_client(deadline).await?,
                None => match self.read().now_or_never() {
                    Some(piece) => piece?,
                    None => return Ok(false),
                },
            };
            match piece {
                Piece::Data(data) if data.is_empty() => {}
                Piece::End(trailers) if trailers.is_empty() => return Ok(true),
                piece => {
                    self.read_ahead.push_back(piece);
                    return Ok(false);
                }
            }
        }
    }

    pub(super) async fn next_of_client(&mut self, deadline: Instant) -> Result<Piece, RequestError> {
        match timeout_at(deadline, self.read()).await {
            Ok(piece) => Ok(piece?),
            Err(_elapsed) => {
                let detail = "the body of the request took too long to arrive";
                Err(RequestError::Problem(Problem::new(StatusCode::REQUEST_TIMEOUT, ProblemKind::SLOW_BODY, detail)))
            }
        }
    }

    pub(super) async fn read(&mut self) -> Result<Piece, Ended> {
        let reset = |_| Ended("reset by the client within a body");
        match self.body.data().await {
            Some(data) => {
                let data = data.map_err(reset)?;
                // The client may send as many bytes again. We never hold more than its window.
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
    pub(super) fn begin(&mut self, response: Response<()>, ends: bool) -> Result<(), Ended> {
        let send = self.respond.send_response(response, ends).map_err(|_gone| Ended("reset by the client"))?;
        self.send = Some(send);
        Ok(())
    }

    pub(super) fn poll_gone(&mut self, task: &mut Context<'_>) -> Poll<Ended> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(task),
            None => self.respond.poll_reset(task),
        };
        reset.map(|_| Ended("reset by the client before the response"))
    }
}

/// Locks what both directions of a stream use. They do so in one task, so the lock is never
/// contended.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends as fast as the client reads.
pub(super) async fn send_data(
    out: &Mutex<Http2Sender>,
    mut data: Bytes,
    ends: bool,
    write_timeout: Duration,
) -> Result<(), Ended> {
    let gone = || Ended("reset by the client within a response");
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
            let pace = Arc::clone(&lock(out).pace);
            let _wait = pace.wait();
            let room = timeout(write_timeout, room)
                .await
                .map_err(|_elapsed| Ended("the client does not read its response"))?;
            room.and_then(Result::ok).ok_or_else(gone)?
        };
        let part = data.split_to(room.min(data.len()));
        let is_last = ends && data.is_empty();
        let mut out = lock(out);
        out.pace.record_bytes(part.len());
        let send = out.send.as_mut().ok_or_else(gone)?;
        send.send_data(part, is_last).map_err(|_| gone())?;
        if data.is_empty() {
            return Ok(());
        }
    }
}
