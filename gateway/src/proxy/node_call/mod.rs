//! A request that a node answers: the call, and its response or stream on the way to the client.
//!
//! It must not try another node: calls of the SDK do.

mod byte_response;
mod client_request;
pub(crate) mod stream_body;
pub(crate) mod translate;
mod upload;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use futures::StreamExt;
use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::gateway::{GatewayPeers, RawCall, RawHead, RawPart, RawReply, RawResponse, RouteOffer};
use node_sdk::{CallError, Duplex};
use tokio::time::Instant;
use tracing::warn;

pub(super) use self::client_request::CallClient;
use self::stream_body::{StreamFormat, has_broken_field};
use self::translate::{
    MediaType, NodeAnswer, body_params, form_params, has_body, is_json_text, is_malformed, is_stream, stream_problem,
    to_http,
};
use crate::config::{RouteConfig, Sticky};
use crate::io::budget::Reservation;
use crate::io::response_room::ResponseRoom;
use crate::message::answer_fields::AnswerFields;
use crate::message::body::Framing;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::response_head::ResponseHead;
use crate::proxy::exchange::{Exchange, FullResponse};
use crate::proxy::forward::{Silence, StreamedAnswer, respond_with_stream};
use crate::proxy::request_error::{Ended, RequestError};
use crate::proxy::{Proxy, RequestContext};
use crate::route::params::RequestParts;

/// Bytes of a node's stream that wait for a client: thousands of clients may not read.
pub(super) const STREAM_WINDOW: u32 = 16 * 1024;

impl Proxy<'_> {
    /// Calls a node by `method` and the path of `context`, and responds with its response.
    pub(super) async fn call_node(
        &self,
        context: &RequestContext<'_>,
        (method, offer): (&str, RouteOffer),
        exchange: &mut impl Exchange,
    ) -> Result<Instant, RequestError> {
        // Copies of the other members would be kept as long as the call takes.
        let head = context.head;
        if offer.takes_upload && has_body(head) && head.framing != Framing::Empty {
            return Box::pin(self.send_upload(context, (method, offer), exchange)).await;
        }
        let mut held = self.budget.reserve(context.client, 0)?;
        let body = read_body(context, offer, exchange, &mut held).await?;
        let (body, raw_body) = match body {
            CallBody::None => (None, None),
            CallBody::Params(params) => (Some(params), None),
            CallBody::Raw(body) => (None, Some(body)),
        };
        let params = self.params(context, method, body);
        let room = ResponseRoom::new(&self.budget, context.client, method, context.path)?;
        let key = client_key(context.route, context.client);
        let call = with_balance(self.peers.call_raw(method, context.path, &params), context.route, key.as_deref());
        // A request without a body has taken no time to arrive.
        let now = if has_body(head) { Instant::now() } else { context.begin };
        let time_left = context.deadline.saturating_duration_since(now);
        let client = CallClient { context, socket: None };
        let call = call.started_at(now).timeout(time_left).in_trace(traceparent(head)).for_client(&client);
        let call = if let Some(body) = &raw_body { call.raw_body(body) } else { call };
        let format = StreamFormat::accepted(head.fields());
        // A stream of JSON texts is not begun for its head.
        let may_stream = offer.gives_download || (format.is_some() && head.method() != "HEAD");
        let response = match may_stream {
            true => {
                let opening = Box::pin(call.open(STREAM_WINDOW));
                match exchange.until_client_gone(opening).await?.map_err(call_problem)? {
                    RawReply::Response(response) => response,
                    RawReply::Stream { head: begun, parts } => {
                        drop((held, room));
                        // Its arguments have been sent: a node that reads further parts finds their
                        // end.
                        parts.sender().finish();
                        let streamed = self.streamed(context, method, (begun, parts), format);
                        return respond_streamed(head, streamed.map_err(RequestError::Problem)?, exchange).await;
                    }
                }
            }
            false => exchange.until_client_gone(call).await?.map_err(call_problem)?,
        };
        let answer = match (self.read_answer(context, method, &response), format) {
            // HEAD gets the head that GET would.
            (Err(problem), Some(format)) if head.method() == "HEAD" && is_stream(&problem) => {
                let head_only = ResponseHead { framing: Framing::Empty, ..format.head() };
                let none = futures::stream::empty();
                respond_with_stream(head, &head_only, none, Silence::Allowed, exchange).await?;
                return Ok(Instant::now());
            }
            (read, _) => read.map_err(RequestError::Problem)?,
        };
        drop(held);
        // A client that does not read its responses must not get more and more of them.
        let held = room.hold(answer.body.len() + answer.fields.len())?;
        Ok(respond_with_answer(answer, held, exchange))
    }

    /// Responds with a node's response to a request that might have become a stream.
    pub(super) fn respond_whole(
        &self,
        context: &RequestContext<'_>,
        method: &str,
        response: &RawResponse,
        exchange: &mut impl Exchange,
    ) -> Result<Instant, RequestError> {
        let answer = self.read_answer(context, method, response).map_err(RequestError::Problem)?;
        let held = self.budget.reserve(context.client, answer.body.len() + answer.fields.len())?;
        Ok(respond_with_answer(answer, held, exchange))
    }

    /// A node's response as its client gets it. Records what is wrong with it.
    pub(super) fn read_answer(
        &self,
        context: &RequestContext<'_>,
        method: &str,
        response: &RawResponse,
    ) -> Result<NodeAnswer, Problem> {
        let mut read = to_http(response);
        if context.route.cors.is_some() {
            fields_of(&mut read).into_iter().for_each(AnswerFields::remove_cors);
        }
        self.record_if_malformed(response, &read);
        let fields = match &read {
            Ok(answer) => Some(&answer.fields),
            Err(problem) => problem.of_node.as_deref(),
        };
        self.record_left_out(method, context.path, fields);
        read
    }

    /// Records a node's malformed response, because its operator has to know.
    fn record_if_malformed(&self, response: &RawResponse, read: &Result<NodeAnswer, Problem>) {
        if let (Err(problem), Some(node)) = (read, response.node())
            && is_malformed(problem)
        {
            self.peers.record_malformed(node, &problem.detail);
        }
    }

    /// Logs that a field of a node's answer was left out, because neither the node nor the client
    /// learns of it.
    fn record_left_out(&self, method: &str, path: &str, fields: Option<&AnswerFields>) {
        let Some((name, why)) = fields.and_then(|fields| fields.left_out.as_ref()) else { return };
        if let Some(suppressed) = self.shared.log_throttles.allow_for("answer_fields", path, Instant::now().into_std())
        {
            let [path, field] = [path, name].map(|text| escaped(text, MAX_ESCAPED_BYTES));
            warn!(method, %path, %field, suppressed, "a header field of a node's answer is left out: {why}");
        }
    }

    /// The response that a node's stream becomes: its bytes, or a line or an event for each part.
    ///
    /// # Errors
    /// The client has not named a form for parts, or the node's response is malformed.
    fn streamed<'s>(
        &'s self,
        context: &'s RequestContext<'_>,
        method: &str,
        (begun, parts): (Option<RawHead>, Duplex<RawPart>),
        format: Option<StreamFormat>,
    ) -> Result<StreamedAnswer<'s>, Problem> {
        match (begun, format) {
            (Some(begun), _) => self.byte_response(context, method, &begun, parts),
            (None, Some(format)) => Ok(self.parts_response(context, parts, format)),
            (None, None) => Err(stream_problem()),
        }
    }

    /// A response with the parts of a node's stream as they arrive.
    fn parts_response<'s>(
        &'s self,
        context: &'s RequestContext<'_>,
        parts: Duplex<RawPart>,
        format: StreamFormat,
    ) -> StreamedAnswer<'s> {
        let node = parts.node();
        let url = context.path;
        let mut held: Option<Reservation> = None;
        let parts = parts.map(move |part| match part.and_then(|part| part.into_event(url)) {
            Ok((part, _)) if !is_json_text(part.get().as_bytes()) => {
                self.record_stream_fault(node, StreamFault::NotJson);
                Err(Ended("a part of a node's stream is not JSON"))
            }
            Ok((part, fields)) => {
                // The part before has left, or is about to.
                drop(held.take());
                let hold = self.budget.reserve(context.client, part.get().len());
                if fields.as_deref().is_some_and(has_broken_field) {
                    self.record_stream_fault(node, StreamFault::BrokenField);
                }
                held = Some(hold.map_err(|_over| Ended("the client holds more bytes than it may"))?);
                Ok(format.write(part.get(), fields.as_deref()))
            }
            Err(error) => {
                self.record_stream_fault(node, StreamFault::Cut(&error));
                Err(Ended("a node's stream was cut before its last part"))
            }
        });
        StreamedAnswer { response: format.head(), parts: parts.boxed(), silence: format.silence() }
    }

    /// Logs that a node's stream was cut or malformed, because its operator has to know.
    pub(super) fn record_stream_fault(&self, node: Option<SocketAddr>, fault: StreamFault<'_>) {
        let Some(node) = node else { return };
        let malformed = |why| self.peers.record_malformed(node, why);
        let error = match fault {
            StreamFault::NotJson => return malformed("a part of a stream is not JSON"),
            StreamFault::NotBytes => return malformed("a part of a stream of bytes is not raw bytes"),
            StreamFault::BrokenField => return malformed("the id or the name of an event has a line break"),
            StreamFault::WrongLength => return malformed("a stream of bytes has not the length that it states"),
            StreamFault::Cut(error) => error,
        };
        if let Some(suppressed) = self.shared.log_throttles.allow_for("cut_stream", node, Instant::now().into_std()) {
            let error = escaped(error, MAX_ESCAPED_BYTES);
            warn!(%node, %error, suppressed, "a node's stream was cut before its last part");
        }
    }

    /// The arguments of a call: those of the route's template if it has one, and otherwise those in
    /// the body or in the query.
    pub(super) fn params(&self, context: &RequestContext<'_>, method: &str, body: Option<String>) -> String {
        let query = || form_params(context.query.as_bytes());
        let Some(template) = &context.route.params else { return body.unwrap_or_else(query) };
        let path = if template.takes_path() { self.peers.path_params(method, context.path) } else { String::new() };
        template.fill(&RequestParts {
            body: body.as_deref(),
            query: &query(),
            path: &path,
            fields: context.head.fields(),
            client: context.client,
        })
    }
}

/// Sends a client a response in parts as they arrive, until either of them closes.
pub(super) async fn respond_streamed(
    head: &RequestHead,
    streamed: StreamedAnswer<'_>,
    exchange: &mut impl Exchange,
) -> Result<Instant, RequestError> {
    let StreamedAnswer { response, parts, silence } = streamed;
    Box::pin(respond_with_stream(head, &response, parts, silence, exchange)).await?;
    Ok(Instant::now())
}

fn respond_with_answer(answer: NodeAnswer, held: Reservation, exchange: &mut impl Exchange) -> Instant {
    let NodeAnswer { status, body, content_type, fields } = answer;
    let full = FullResponse { held: Some(held), ..FullResponse::new(status, content_type, body) };
    exchange.respond(full.with_fields(fields, true))
}

/// Why a node's stream is not sent to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum StreamFault<'e> {
    /// A part is not JSON.
    NotJson,
    /// A part is not raw bytes.
    NotBytes,
    /// The id or the name of an event has a line break, and is left out.
    BrokenField,
    /// There are more or fewer bytes than the node has stated.
    WrongLength,
    /// The stream ended before its last part.
    Cut(&'e CallError),
}

/// The fields that a node gives to the client, if it gives any.
fn fields_of(read: &mut Result<NodeAnswer, Problem>) -> Option<&mut AnswerFields> {
    match read {
        Ok(answer) => Some(&mut answer.fields),
        Err(problem) => problem.of_node.as_deref_mut(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
pub(super) fn call_problem(error: CallError) -> RequestError {
    RequestError::Problem(Problem::from_call(&error))
}

/// What the body of a request is for a call.
#[derive(Debug)]
enum CallBody {
    /// There is none, or none that counts: the arguments are in the query.
    None,
    /// The arguments.
    Params(String),
    /// The body as it was sent, beside the arguments.
    Raw(Bytes),
}

/// The body, if the method has one.
async fn read_body(
    context: &RequestContext<'_>,
    offer: RouteOffer,
    exchange: &mut impl Exchange,
    held: &mut Reservation,
) -> Result<CallBody, RequestError> {
    let head = context.head;
    if !has_body(head) {
        return Ok(CallBody::None);
    }
    let stated = usize::try_from(offer.max_body_bytes).unwrap_or(usize::MAX);
    let max_bytes = context.snapshot.config.max_body_bytes.min(stated);
    let body = exchange.whole_body(max_bytes, context.deadline, held).await?;
    // Some clients send `DELETE` with an empty body, and the arguments in the query.
    if body.is_empty() && head.method() == "DELETE" {
        return Ok(CallBody::None);
    }
    if offer.takes_raw_body {
        return Ok(CallBody::Raw(body));
    }
    let content_type = head.fields().get("content-type").map(|value| std::str::from_utf8(value).unwrap_or_default());
    let media_type = if context.route.any_body { MediaType::Any } else { MediaType::Named(content_type) };
    // A template names the members of an object.
    let takes_any_json = offer.takes_any_json && context.route.params.is_none();
    body_params(media_type, &body, takes_any_json).map(CallBody::Params).map_err(RequestError::Problem)
}

/// The sticky key of a client's calls, if the same node is to answer them.
pub(super) fn client_key(route: &RouteConfig, client: IpAddr) -> Option<String> {
    (route.sticky == Some(Sticky::Client)).then(|| client.to_string())
}

/// The trace that a request says it belongs to.
pub(super) fn traceparent(head: &RequestHead) -> Option<&str> {
    head.fields().get("traceparent").and_then(|text| std::str::from_utf8(text).ok())
}

/// A call to the node that the route's balance picks.
pub(super) fn with_balance<'a>(call: RawCall<'a>, route: &RouteConfig, key: Option<&'a str>) -> RawCall<'a> {
    match (key, route.balance) {
        (Some(key), _) => call.sticky_key(key),
        (None, Some(balance)) => call.balance(balance),
        (None, None) => call,
    }
}
