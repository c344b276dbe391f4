//! One request and its response, in either version of HTTP.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use net::QueuedSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::io::budget::Reservation;
use crate::io::stream::MaybeTlsStream;
use crate::io::timer::Timer;
use crate::message::answer_fields::AnswerFields;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::response_head::ResponseHead;
use crate::proxy::forward::{ForwardOutcome, Sink, Source};
use crate::proxy::request_error::{Ended, RequestError};
use crate::upstream::concurrency::Permit;

/// A response with a complete body.
#[derive(Debug)]
pub(crate) struct FullResponse {
    pub(crate) status: StatusCode,
    /// The media type of the body; empty if none is told.
    pub(crate) content_type: Cow<'static, str>,
    pub(crate) retry_after: Option<Cow<'static, str>>,
    /// The `Location` of a redirect.
    pub(crate) location: Option<String>,
    /// The methods that the path has.
    pub(crate) allow: Option<String>,
    /// The fields that a node gives to the client.
    pub(crate) of_node: AnswerFields,
    pub(crate) body: Bytes,
    /// The reservation for its body.
    pub(crate) held: Option<Reservation>,
}

impl FullResponse {
    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let (retry_after, location, allow, held) = (None, None, None, None);
        let (content_type, of_node) = (Cow::Borrowed(content_type), AnswerFields::default());
        Self { status, content_type, retry_after, location, allow, of_node, body: body.into(), held }
    }

    /// The same with the fields of a node's answer, which take the place of others. `has_type`: the
    /// body is of the media type that these name.
    pub(crate) fn with_fields(mut self, fields: AnswerFields, has_type: bool) -> Self {
        if fields.contains("retry-after") {
            self.retry_after = None;
        }
        if fields.contains("allow") {
            self.allow = None;
        }
        if let Some(media_type) = fields.content_type.as_ref().filter(|_| has_type) {
            self.content_type = Cow::Owned(media_type.clone());
        }
        Self { of_node: fields, ..self }
    }

    /// The fields of its head, except those that every response has.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let after = self.retry_after.as_deref().map(|after| ("retry-after", after));
        let location = self.location.as_deref().map(|location| ("location", location));
        let allow = self.allow.as_deref().map(|allow| ("allow", allow));
        let content_type = Some(("content-type", &*self.content_type)).filter(|(_, value)| !value.is_empty());
        content_type.into_iter().chain(after).chain(location).chain(allow).chain(self.of_node.iter())
    }
}

impl From<&Problem> for FullResponse {
    fn from(problem: &Problem) -> Self {
        let retry_after = problem.retry_after_seconds().map(|seconds| match seconds {
            // The usual times cost nothing.
            1 => Cow::Borrowed("1"),
            Problem::RETRY_AFTER_SECONDS => Cow::Borrowed("3"),
            other => Cow::Owned(other.to_string()),
        });
        let allow = problem.allow.clone();
        let full = Self::new(problem.status, "application/problem+json", problem.body());
        let full = Self { retry_after, allow, ..full };
        match &problem.of_node {
            Some(fields) => full.with_fields(AnswerFields::clone(fields), false),
            None => full,
        }
    }
}

/// Answers requests.
pub(crate) trait RequestHandler: Sync {
    /// Answers one request: it always ends with a response. Returns when that was done.
    fn handle(
        &self,
        head: RequestHead,
        exchange: &mut impl Exchange,
    ) -> impl Future<Output = Result<Instant, Ended>> + Send;

    /// Records that a request was malformed, or took too long to arrive, and was answered with this
    /// problem.
    fn record_rejection(&self, status: StatusCode);

    /// Where many requests at a time, and large heads, are counted; `None` where they are not.
    fn reservation(&self) -> Option<Reservation> {
        None
    }
}

/// A connection on which another protocol than HTTP is spoken from now on.
#[derive(Debug)]
pub(crate) struct SwitchedConnection {
    pub(crate) stream: MaybeTlsStream,
    /// Bytes of the client that have been read already.
    pub(crate) ahead: BytesMut,
    /// Cancelled when the connection should be closed.
    pub(crate) stop: CancellationToken,
    /// How long the client may take to read.
    pub(crate) write_timeout: Duration,
}

/// A request whose head has been read, and the means to answer it.
pub(crate) trait Exchange: Send {
    /// Reads the whole body, of at most `limit` bytes, which `held` accounts for.
    fn whole_body(
        &mut self,
        limit: usize,
        deadline: Instant,
        held: &mut Reservation,
    ) -> impl Future<Output = Result<Bytes, RequestError>> + Send;

    /// Waits until `bytes` of the body have arrived, or all of it, and keeps them for the next
    /// reader of the body. Sends `100 Continue` if the client waits for it.
    fn buffer_body(
        &mut self,
        bytes: usize,
        held: &mut Reservation,
    ) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Completes with the result of `work`, unless the client closes before that.
    fn until_client_gone<F>(&mut self, work: F) -> impl Future<Output = Result<F::Output, Ended>> + Send
    where
        F: Future + Send,
        F::Output: Send;

    /// Delays a rejection by at most `pause`. Ends early when the client sends anything, or has to
    /// be closed.
    fn delay_rejection(
        &mut self,
        pause: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<(), Ended>> + Send;

    /// The fields that the gateway adds to the final response of the present request: lines of
    /// `name: value`, each with CR LF behind it.
    fn own_fields(&mut self) -> &mut Vec<u8>;

    /// Sends a complete response. Returns when, which saves a reading of the clock.
    fn respond(&mut self, response: FullResponse) -> Instant;

    /// The status of the response, if there was one.
    fn status(&self) -> Option<StatusCode>;

    /// Prepares a request that is passed on. Flushes the bytes that are queued for the client.
    /// Sends `100 Continue`, unless `awaits_continue`: then the server's is passed on.
    fn begin_forward(&mut self, awaits_continue: bool) -> impl Future<Output = Result<(), Ended>> + Send;

    /// Begins a response in parts that does not come from a server.
    fn begin_stream(&mut self);

    /// Splits the exchange into its two directions and a timer. With `has_deadline`, the response
    /// ends some time, even if it is not noticed that the client has gone.
    fn split<'a>(
        &'a mut self,
        head: &'a RequestHead,
        has_deadline: bool,
        now: Instant,
    ) -> (impl Source, impl Sink, &'a mut Timer);

    /// Ends a request that was passed on. Returns whether all of it was, so that the server's
    /// connection may be used again.
    fn end_forward(&mut self, outcome: &ForwardOutcome) -> bool;

    /// Ends a response in parts, which was not cut if it `is_whole`.
    fn end_stream(&mut self, is_whole: bool);

    /// Sends a head with status 101, and gives away the connection. Only valid as the last step.
    fn switch(&mut self, head: &ResponseHead) -> impl Future<Output = Result<SwitchedConnection, Ended>> + Send;

    /// Relays bytes both ways until both sides have shut down, one fails, or neither has sent
    /// anything for `idle`. Only valid after a response with status 101, as the last step. It keeps
    /// its permit until then, unless it is evicted.
    fn tunnel(
        &mut self,
        server: QueuedSocket,
        to_client: Bytes,
        permit: Permit,
        idle: Duration,
    ) -> impl Future<Output = Ended> + Send;
}
