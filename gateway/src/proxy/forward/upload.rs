//! A request on its way to a server.

use std::time::Duration;

use bytes::BytesMut;
use net::buffers;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::deadline::MovingDeadline;
use super::state::ForwardState;
use super::{ClientGone, ForwardError, Source, while_waiting_for_client};
use crate::http1::response_writer::{put_chunk, put_last_chunk};
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::WriteHalf;
use crate::message::body::Framing;
use crate::message::body::Piece;
use crate::proxy::request_error::{Ended, RequestError};
use crate::upstream::concurrency::Permit;

/// The least bytes a second of a body, after a grace time. A slower one comes from an attacker, or
/// its client has gone.
pub(super) const MIN_BODY_RATE: u64 = 1024;
pub(super) const BODY_GRACE: Duration = Duration::from_secs(5);
/// How long a client may pause, however many bytes have arrived before.
pub(super) const BODY_PAUSE: Duration = Duration::from_secs(10);

/// How sending a request ended, if it did before the response.
pub(super) enum UploadEnd {
    /// The server reads no more.
    Refused,
    Failed(ForwardError),
    /// The client has gone in both directions, and cannot read the response.
    Gone(Ended),
}

/// While a body arrives, the client's time counts; while bytes wait for the server, the server's
/// time counts.
pub(super) struct UploadClock<'a> {
    pub(super) deadline: &'a MovingDeadline,
    pub(super) timeout: Duration,
    pub(super) state: &'a ForwardState,
    pub(super) permit: &'a Permit,
    pub(super) polls: &'a PollCounter,
}

impl UploadClock<'_> {
    pub(super) fn set(&self, deadline: Instant) {
        // Once the response has begun, the rest of the request no longer moves the deadline.
        if !self.state.is_response_begun() {
            self.deadline.set(deadline);
        }
    }
}

/// Sends head and body, then watches for the client to close.
pub(super) async fn upload<S: Source>(
    source: &mut S,
    mut to_server: WriteHalf<'_>,
    mut request: BytesMut,
    framing: Framing,
    clock: UploadClock<'_>,
) -> UploadEnd {
    if framing != Framing::Empty
        && let Err(failed) = send_body(source, &mut to_server, &mut request, framing, &clock).await
    {
        return failed;
    }
    if to_server.write_all(&request).await.is_err() {
        return UploadEnd::Refused;
    }
    clock.state.set_request_sent();
    buffers::release(request);
    loop {
        match source.client_gone().await {
            ClientGone::Surely(ended) => return UploadEnd::Gone(ended),
            ClientGone::Perhaps => clock.state.request_test_byte().await,
        }
    }
}

pub(super) fn ended<S: Source>(ended: Ended) -> UploadEnd {
    if S::is_client_gone(ended) { UploadEnd::Gone(ended) } else { UploadEnd::Failed(ended.into()) }
}

/// When the next piece of a body must have arrived, if `received` bytes have arrived since `begin`.
pub(crate) fn body_deadline(begin: Instant, received: u64, now: Instant) -> Instant {
    let slowest = begin + BODY_GRACE + Duration::from_secs(received / MIN_BODY_RATE);
    slowest.min(now + BODY_PAUSE)
}

/// Sends the bytes of `out` and the body. The end of the body is left in `out`.
pub(super) async fn send_body<S: Source>(
    source: &mut S,
    to_server: &mut WriteHalf<'_>,
    out: &mut BytesMut,
    framing: Framing,
    clock: &UploadClock<'_>,
) -> Result<(), UploadEnd> {
    let as_chunks = framing == Framing::Chunked;
    let mut received = 0;
    let mut slice = PollSlice::new(clock.polls);
    let mut first = None;
    if clock.state.awaits_continue() && !source.has_more() {
        to_server.write_all(out).await.map_err(|_broken| UploadEnd::Refused)?;
        out.clear();
        // Until the server sends `100 Continue`, its time counts. Some clients send the body
        // without waiting for it.
        let latest = Instant::now() + clock.timeout + BODY_GRACE;
        first = tokio::select! {
            biased;
            piece = source.next_piece(latest) => Some(piece),
            () = clock.state.continued() => None,
        };
    }
    let begin = Instant::now();
    loop {
        // Bytes of the body that have already arrived leave with the head.
        if !source.has_more() {
            to_server.write_all(out).await.map_err(|_broken| UploadEnd::Refused)?;
            out.clear();
        }
        let deadline = body_deadline(begin, received, Instant::now());
        clock.set(deadline + clock.timeout);
        let piece = match first.take() {
            Some(piece) => piece,
            None => while_waiting_for_client(clock.permit, source.next_piece(deadline)).await,
        };
        let now = Instant::now();
        clock.set(now + clock.timeout);
        let piece = piece.map_err(|error| match error {
            RequestError::Problem(problem) => UploadEnd::Failed(ForwardError::Client(problem)),
            RequestError::Ended(why) => ended::<S>(why),
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
