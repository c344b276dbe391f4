//! The body of a request on its way to a node, while it arrives, and the node's answer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::BoxStream;
use http::StatusCode;
use node_sdk::CallError;
use node_sdk::gateway::{BodySender, RawReply, RawResponse};
use tokio::time::Instant;

use super::deadline::MovingDeadline;
use super::node_stream::{Relay, Silence};
use super::state::ForwardState;
use super::upload::{UploadEnd, body_deadline, ended};
use super::{ClientGone, ForwardError, ForwardOutcome, Forwarded, Sink, Source};
use crate::io::budget::Reservation;
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::timer::Timer;
use crate::message::body::Piece;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::exchange::Exchange;
use crate::proxy::request_error::{Ended, RequestError};

/// Bytes of a body that are gathered for one part, if they are there.
const GATHERED_BYTES: usize = 64 * 1024;

/// A request whose node has begun to take the body.
pub(crate) struct NodeUpload<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) sender: BodySender,
    /// Maximum bytes of the body.
    pub(crate) max_bytes: u64,
    /// How long the node may take to read what was sent, and to answer once it has all of it.
    pub(crate) timeout: Duration,
    /// The reservation for gathered bytes.
    pub(crate) held: Reservation,
}

/// The answer of a node to a body.
pub(crate) enum NodeAnswer<'a> {
    /// In one piece: it is still to be sent.
    Whole(RawResponse),
    /// In parts: they are to be sent.
    Parts(StreamedAnswer<'a>),
}

/// A response in parts: its head, and its body.
pub(crate) struct StreamedAnswer<'a> {
    pub(crate) response: ResponseHead,
    pub(crate) parts: BoxStream<'a, Result<Bytes, Ended>>,
    pub(crate) silence: Silence,
}

/// Why a request whose body was on its way has no whole response.
#[derive(Debug)]
pub(crate) enum NodeUploadError {
    /// The call has failed.
    Call(CallError),
    /// The request has failed.
    Request(RequestError),
}

impl From<RequestError> for NodeUploadError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<Ended> for NodeUploadError {
    fn from(ended: Ended) -> Self {
        Self::Request(ended.into())
    }
}

/// Sends a node the body of a request while it arrives, and the client the answer, in either order
/// or both at once. Returns the answer if it is in one piece. `reply` completes with the beginning
/// of the node's answer, which `read` makes into a response.
pub(crate) async fn upload_to_node<'a>(
    upload: NodeUpload<'_>,
    reply: impl Future<Output = Result<RawReply, CallError>> + Send,
    read: impl FnOnce(RawReply) -> Result<NodeAnswer<'a>, Problem> + Send,
    exchange: &mut impl Exchange,
) -> Result<Option<RawResponse>, NodeUploadError> {
    exchange.begin_forward(false).await?;
    let now = Instant::now();
    let (state, polls) = (ForwardState::new(false), PollCounter::default());
    let deadline = MovingDeadline::after(upload.timeout, now);
    let result = {
        let (mut source, mut sink, timer) = exchange.split(upload.head, true, now);
        let directions = Directions { deadline: &deadline, state: &state, polls: &polls };
        directions.run(upload, reply, read, &mut source, &mut sink, timer).await
    };
    // The answer in one piece is sent afterwards.
    let result_of_forward = match &result {
        Ok(_) => Ok(Forwarded::Done { keep_server: None, response_time: now.elapsed() }),
        Err(_) => Err(ForwardError::Deadline),
    };
    exchange.end_forward(&ForwardOutcome {
        result: result_of_forward,
        is_response_begun: state.is_response_begun(),
        is_request_sent: state.is_request_sent(),
        awaits_continue: false,
    });
    match result {
        // Part of a response has been sent, so nothing else can be.
        Err(_) if state.is_response_begun() => {
            Err(Ended("a response whose request was still on its way did not end as it should").into())
        }
        result => result,
    }
}

/// What both directions share.
struct Directions<'a> {
    deadline: &'a MovingDeadline,
    state: &'a ForwardState,
    polls: &'a PollCounter,
}

impl Directions<'_> {
    async fn run<'r>(
        &self,
        upload: NodeUpload<'_>,
        reply: impl Future<Output = Result<RawReply, CallError>> + Send,
        read: impl FnOnce(RawReply) -> Result<NodeAnswer<'r>, Problem> + Send,
        source: &mut impl Source,
        sink: &mut impl Sink,
        timer: &mut Timer,
    ) -> Result<Option<RawResponse>, NodeUploadError> {
        let (mut sending, mut uploads) = (pin!(self.send(upload, source)), true);
        let mut answering = pin!(self.answer(reply, read, sink));
        loop {
            tokio::select! {
                biased;
                answered = poll_fn(|task| {
                    self.polls.count();
                    answering.as_mut().poll(task)
                }) => return answered,
                end = sending.as_mut(), if uploads => match end {
                    UploadEnd::Failed(ForwardError::Client(problem)) => return Err(RequestError::Problem(problem).into()),
                    UploadEnd::Failed(_) => return Err(Ended("the body of the request did not end as it should").into()),
                    UploadEnd::Gone(ended) => return Err(ended.into()),
                    // The node says why it reads no more.
                    UploadEnd::Refused => uploads = false,
                },
                () = poll_fn(|task| self.deadline.poll_expired(timer, task)) => {
                    let detail = "the service did not read the body, or did not answer, in time";
                    let late = Problem::new(StatusCode::GATEWAY_TIMEOUT, ProblemKind::DEADLINE, detail);
                    return Err(RequestError::Problem(late).into());
                }
            }
        }
    }

    /// Waits for the answer, and sends it if it comes in parts.
    async fn answer<'r>(
        &self,
        reply: impl Future<Output = Result<RawReply, CallError>> + Send,
        read: impl FnOnce(RawReply) -> Result<NodeAnswer<'r>, Problem> + Send,
        sink: &mut impl Sink,
    ) -> Result<Option<RawResponse>, NodeUploadError> {
        let mut reply = pin!(reply);
        let replied = loop {
            tokio::select! {
                biased;
                replied = reply.as_mut() => break replied.map_err(NodeUploadError::Call)?,
                () = self.state.test_byte_requested() => {}
            }
            sink.write_test_byte();
            sink.flush().await?;
        };
        let streamed = match read(replied).map_err(RequestError::Problem)? {
            NodeAnswer::Whole(response) => return Ok(Some(response)),
            NodeAnswer::Parts(streamed) => streamed,
        };
        let StreamedAnswer { response, parts, silence } = streamed;
        sink.head(&response, !self.state.is_request_sent(), &ResponseEdits::default());
        self.state.set_response_begun();
        self.deadline.disarm();
        let mut timer = Timer::at(Instant::now() + MAX_SILENCE);
        let relay = Relay { silence, timer: &mut timer, slice: PollSlice::new(self.polls) };
        relay.run(parts, self.state, sink).await?;
        Ok(None)
    }

    /// Sends the body while it arrives, then watches for the client to close.
    async fn send<S: Source>(&self, upload: NodeUpload<'_>, source: &mut S) -> UploadEnd {
        let NodeUpload { sender, max_bytes, timeout, mut held, .. } = upload;
        let (mut gathered, mut slice) = (Gathered::default(), PollSlice::new(self.polls));
        let begin = Instant::now();
        while !gathered.is_whole {
            let now = Instant::now();
            let until = body_deadline(begin, gathered.received, now);
            // While a body arrives, the client's time counts; while a part waits for the node, the
            // node's time counts.
            self.set_deadline(until + timeout);
            if let Err(error) = gathered.gather(source, until, max_bytes).await {
                return match error {
                    RequestError::Problem(problem) => UploadEnd::Failed(ForwardError::Client(problem)),
                    RequestError::Ended(why) => ended::<S>(why),
                };
            }
            self.set_deadline(Instant::now() + timeout);
            if let Err(over) = held.grow_to(gathered.bytes()) {
                return UploadEnd::Failed(ForwardError::Client(over.into()));
            }
            while !gathered.pieces.is_empty() {
                if sender.send(&mut gathered.pieces).await.is_err() {
                    return UploadEnd::Refused;
                }
            }
            slice.yield_if_over(now).await;
        }
        sender.finish();
        drop((sender, held));
        self.state.set_request_sent();
        loop {
            match source.client_gone().await {
                ClientGone::Surely(ended) => return UploadEnd::Gone(ended),
                ClientGone::Perhaps => self.state.request_test_byte().await,
            }
        }
    }

    /// Once the response has begun, the rest of the request no longer moves the deadline.
    fn set_deadline(&self, deadline: Instant) {
        if !self.state.is_response_begun() {
            self.deadline.set(deadline);
        }
    }
}

/// When the timer of a stream first fires, if it has nothing to do.
const MAX_SILENCE: Duration = Duration::from_secs(3600);

/// Bytes of a body that wait to be sent.
#[derive(Default)]
struct Gathered {
    pieces: VecDeque<Bytes>,
    /// How many bytes have arrived so far.
    received: u64,
    /// Whether the body has ended.
    is_whole: bool,
}

impl Gathered {
    fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Waits for a piece of the body, and takes those that are there.
    async fn gather(
        &mut self,
        source: &mut impl Source,
        deadline: Instant,
        max_bytes: u64,
    ) -> Result<(), RequestError> {
        self.take(source.next_piece(deadline).await?, max_bytes)?;
        let mut bytes = self.bytes();
        while !self.is_whole && bytes < GATHERED_BYTES {
            let Some(piece) = source.next_piece(deadline).now_or_never() else { break };
            // What has come before an error is of no use without the rest.
            let piece = piece?;
            bytes += if let Piece::Data(data) = &piece { data.len() } else { 0 };
            self.take(piece, max_bytes)?;
        }
        Ok(())
    }

    fn take(&mut self, piece: Piece, max_bytes: u64) -> Result<(), RequestError> {
        match piece {
            Piece::Data(data) => {
                self.received += data.len() as u64;
                if self.received > max_bytes {
                    return Err(RequestError::Problem(too_large(max_bytes)));
                }
                if !data.is_empty() {
                    self.pieces.push_back(data);
                }
            }
            Piece::End(_trailers) => self.is_whole = true,
            Piece::More => {}
        }
        Ok(())
    }
}

/// The problem of a body with more than `max_bytes`.
pub(crate) fn too_large(max_bytes: u64) -> Problem {
    let detail = format!("the body is larger than {max_bytes} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, ProblemKind::BODY_TOO_LARGE, detail)
}
