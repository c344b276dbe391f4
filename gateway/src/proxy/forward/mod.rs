//! One request on its way to a server, and the response on its way back, both unbuffered.
//!
//! It must not pick a server or try another one: [`attempts`](super::attempts) does.

mod deadline;
mod download;
mod node_stream;
mod node_upload;
mod state;
mod upload;

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net::QueuedSocket;
use tokio::time::Instant;

use self::deadline::MovingDeadline;
use self::download::{CONTINUE_WAIT, ResponsePump};
use self::state::ForwardState;
use self::upload::{UploadClock, UploadEnd, upload};
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::{ReadHalf, WriteHalf};
use crate::io::timer::Timer;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::request_error::{Ended, RequestError};
use crate::upstream::concurrency::Permit;
use crate::upstream::endpoint::IdleLimits;

pub(crate) use self::node_stream::{Silence, respond_with_stream};
pub(crate) use self::node_upload::{
    NodeAnswer, NodeUpload, NodeUploadError, StreamedAnswer, too_large, upload_to_node,
};
pub(crate) use self::upload::body_deadline;

/// The outcome of a request.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// The response has been passed on. With how long the server's connection can be used again, if
    /// at all, and when the response began.
    Done { keep_server: Option<IdleLimits>, response_time: Duration },
    /// The server has switched to another protocol, and so has the client.
    Tunnel { to_client: Bytes },
}

/// Why there is no response to pass on.
#[derive(Debug)]
pub(crate) enum ForwardError {
    /// The server's connection ended without a byte of a response.
    Unanswered,
    /// The server sent something that is not a response.
    Malformed(String),
    /// The response has begun, and did not end as it should. The text is the reason, for the log.
    Cut(&'static str),
    /// No response in time.
    Deadline,
    /// The client is told this problem, and its connection is closed.
    Client(Problem),
    /// The connection cannot go on.
    Ended(Ended),
}

impl From<Ended> for ForwardError {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<RequestError> for ForwardError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Problem(problem) => Self::Client(problem),
            RequestError::Ended(ended) => Self::Ended(ended),
        }
    }
}

/// The body of a request.
pub(crate) trait Source: Send {
    /// Whether a further piece is available that can leave together with the last one.
    fn has_more(&mut self) -> bool;

    /// The next piece: never [`Piece::More`].
    fn next_piece(&mut self, deadline: Instant) -> impl Future<Output = Result<Piece, RequestError>> + Send;

    /// Completes when the client goes, or may have gone. Cancel safe; to be called again.
    fn client_gone(&mut self) -> impl Future<Output = ClientGone> + Send;

    /// Whether the client cannot read the response any more; otherwise it has only closed its
    /// sending side.
    fn is_client_gone(ended: Ended) -> bool;
}

/// How sure it is that a client has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientGone {
    /// The client is gone in both directions.
    Surely(Ended),
    /// The client sends no more. It may still read, or be gone: a [byte that is
    /// written](Sink::write_test_byte) to it shows which.
    Perhaps,
}

/// The destination of a response.
pub(crate) trait Sink: Send {
    /// Sends a head before that of the response itself, such as 103.
    fn interim(&mut self, response: &ResponseHead);

    /// Sends the head. If it is `early`, the server has not been sent the whole request, and may
    /// never read the rest.
    fn head(&mut self, response: &ResponseHead, early: bool, edits: &ResponseEdits<'_>);

    fn data(&mut self, data: Bytes);

    /// Ends the body, with its trailers.
    fn end(&mut self, trailers: &[u8]);

    /// Writes the next byte that any response would have, if there is such a byte. The system of a
    /// client that is gone answers it with a reset.
    fn write_test_byte(&mut self);

    /// Waits until everything that was sent is on its way.
    fn flush(&mut self) -> impl Future<Output = Result<(), Ended>> + Send;

    /// Releases buffers when everything is on its way and nothing follows for a while: thousands of
    /// requests may wait, and none of them holds a buffer.
    fn release_buffers(&mut self);

    /// Waits until the client would read more, when everything is on its way.
    fn writable(&mut self) -> impl Future<Output = Result<(), Ended>> + Send;
}

/// A request that should be passed on.
pub(crate) struct ForwardRequest<'a> {
    pub(crate) head: &'a RequestHead,
    /// The head for the server.
    pub(crate) bytes: BytesMut,
    pub(crate) now: Instant,
    /// How long the server may take to read the request, and to answer once it has all of it.
    pub(crate) timeout: Duration,
    /// How long the server may send nothing of a response that it has begun.
    pub(crate) idle_timeout: Duration,
    pub(crate) edits: ResponseEdits<'a>,
    /// Whether the client waits for the server's leave to send the body.
    pub(crate) awaits_continue: bool,
    /// The permit of the request at the server. The request may be evicted while it waits for its
    /// client.
    pub(crate) permit: &'a Permit,
}

/// The progress of the request.
#[derive(Debug)]
pub(crate) struct ForwardOutcome {
    pub(crate) result: Result<Forwarded, ForwardError>,
    /// Whether the client is being given the response.
    pub(crate) is_response_begun: bool,
    /// Whether the server has been given the whole request.
    pub(crate) is_request_sent: bool,
    /// Whether the client has not been given leave to send its body.
    pub(crate) awaits_continue: bool,
}

/// Sends a request and passes the response on.
pub(crate) async fn forward(
    request: ForwardRequest<'_>,
    source: &mut impl Source,
    sink: &mut impl Sink,
    server: &QueuedSocket,
    timer: &mut Timer,
) -> ForwardOutcome {
    let ForwardRequest { head, bytes, now: sent_at, timeout, idle_timeout, edits, awaits_continue, permit } = request;
    let (deadline, state) = (MovingDeadline::after(timeout, sent_at), ForwardState::new(awaits_continue));
    let polls = PollCounter::default();
    let mut download = ResponsePump {
        head,
        from_server: ReadHalf::Plain(server),
        sink,
        deadline: &deadline,
        idle_timeout,
        // Leaves time for the answer.
        continue_wait: CONTINUE_WAIT.min(timeout / 4),
        state: &state,
        sent_at,
        edits: &edits,
        passed: 0,
        permit,
        slice: PollSlice::new(&polls),
    };
    let result = {
        let clock = UploadClock { deadline: &deadline, timeout, state: &state, permit, polls: &polls };
        let upload = upload(source, WriteHalf::Plain(server), bytes, head.framing, clock);
        let (mut upload, mut uploads) = (std::pin::pin!(upload), true);
        let mut download = std::pin::pin!(download.run());
        loop {
            let has_begun = || state.is_response_begun();
            tokio::select! {
                biased;
                outcome = poll_fn(|task| {
                    polls.count();
                    download.as_mut().poll(task)
                }) => break outcome,
                ended = upload.as_mut(), if uploads => match ended {
                    UploadEnd::Failed(failed) if !has_begun() => break Err(failed),
                    UploadEnd::Gone(ended) => break Err(ended.into()),
                    // The server may have said why it reads no more.
                    UploadEnd::Refused | UploadEnd::Failed(_) => uploads = false,
                },
                () = poll_fn(|task| deadline.poll_expired(timer, task)) => {
                    break Err(if has_begun() { ForwardError::Cut("it sent nothing for too long in mid response") } else { ForwardError::Deadline });
                }
                () = poll_fn(|task| permit.poll_evicted(task)) => {
                    break Err(if has_begun() { Ended("evicted: too slow while others wait").into() } else { ForwardError::Client(body_too_slow()) });
                }
            }
        }
    };
    let (is_response_begun, is_request_sent, awaits_continue) =
        (state.is_response_begun(), state.is_request_sent(), state.awaits_continue());
    ForwardOutcome { result, is_response_begun, is_request_sent, awaits_continue }
}

fn body_too_slow() -> Problem {
    let detail = "the body of the request comes too slowly while others wait for the server";
    Problem::new(http::StatusCode::REQUEST_TIMEOUT, ProblemKind::SLOW_BODY, detail)
}

/// Waits for something that depends on the client.
async fn while_waiting_for_client<F: Future>(permit: &Permit, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    // Usually there is no wait, and nothing to record.
    if let Poll::Ready(done) = poll_fn(|task| Poll::Ready(future.as_mut().poll(task))).await {
        return done;
    }
    permit.set_waiting_for_client(true);
    let done = future.await;
    permit.set_waiting_for_client(false);
    done
}
