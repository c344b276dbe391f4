//! Held sockets: a client stays with this gateway, and nodes are called for what it does.
//!
//! It must not decide who gets a message, or what waits for whom: `sessions` does.

mod calls;
mod ending;
mod event_stream;
pub(crate) mod push_links;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::gateway::{GatewayPeers, RawResponse};
use protocol::{SocketAdvert, SocketCall, SocketEvent, SocketWelcome};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tracing::warn;

use self::calls::{AttachedSocket, SocketCalls};
use self::ending::HeldEnding;
use super::counted_stream::CountedStream;
use super::{MAX_MESSAGE_BYTES, handshake};
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::message::fields::Fields;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::exchange::{Exchange, SwitchedConnection};
use crate::proxy::node_call::stream_body::StreamFormat;
use crate::proxy::node_call::{CallClient, call_problem, client_key, traceparent, with_balance};
use crate::proxy::request_error::{Ended, RequestError};
use crate::proxy::{Proxy, RequestContext, problem};
use crate::sessions::Attached;
use crate::sessions::core::table::NewSession;

/// Bytes that are read at a time, and that an idle socket has room for: a chat line.
const READ_BYTES: usize = 512;
/// The name of a client's query by which it resumes a session, and that of the last message that it
/// has. They are the service's own for routes without `resume`.
const RESUME: &str = "resume";
const AFTER: &str = "after";
/// The field in which a browser says which event it has seen last.
const LAST_EVENT_ID: &str = "last-event-id";

impl Proxy<'_> {
    /// Holds a socket of a client: a WebSocket, or a stream of events. Returns when it has ended.
    pub(in crate::proxy) async fn hold_socket(
        &self,
        context: &RequestContext<'_>,
        method: &str,
        advert: SocketAdvert,
        exchange: &mut impl Exchange,
    ) -> Result<Instant, RequestError> {
        let accepts_events = StreamFormat::accepted(context.head.fields()) == Some(StreamFormat::Events);
        let accepted = match (context.head.upgrades, accepts_events) {
            (true, _) => Some(
                handshake::accept(context.head, context.origin, context.route.cors.as_ref())
                    .map_err(RequestError::Problem)?,
            ),
            (false, true) if context.head.method() == "GET" => None,
            (false, _) => {
                let detail = "open a WebSocket, or an event stream with 'Accept: text/event-stream'";
                return Err(problem(StatusCode::UPGRADE_REQUIRED, ProblemKind::NO_SOCKET, detail));
            }
        };
        let place = self.shared.held_sockets.try_acquire(context.client);
        let Some(_place) = place else {
            let detail = "this gateway, or this client, has as many sockets open as it may";
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail));
        };
        let attached = match self.resumed(context, advert) {
            Some(attached) => attached,
            None => match self.open_session(context, method, advert, exchange).await? {
                Opened::Session(attached) => attached,
                Opened::Refused(response) => return self.respond_whole(context, method, &response, exchange),
            },
        };
        let calls = SocketCalls { peers: self.peers.clone(), sessions: Arc::clone(&self.shared.sessions) };
        // From here on the session ends with this, whatever happens.
        let socket = AttachedSocket::new(attached, calls);
        match accepted {
            Some(accepted) => {
                let switched = exchange.switch(&accepted).await?;
                let drain_time = context.snapshot.config.drain_timeout;
                let ended = Box::pin(self.hold_websocket(context, socket, switched, drain_time)).await?;
                Err(RequestError::Ended(ended))
            }
            None => {
                let (begins, time) = (self.stop.clone(), context.snapshot.config.drain_timeout);
                let draining = event_stream::Draining { begins, time };
                Box::pin(event_stream::send_events(context.head, socket, &draining, exchange)).await?;
                Ok(Instant::now())
            }
        }
    }

    /// The session that the client resumes, if it shows the token of one.
    fn resumed(&self, context: &RequestContext<'_>, advert: SocketAdvert) -> Option<Attached> {
        if advert.resume == 0 {
            return None;
        }
        let (token, after) = resume_point(context.head.fields(), context.query)?;
        self.shared.sessions.resume(&token, &after, context.path)
    }

    /// Asks a node whether it accepts the socket.
    async fn open_session(
        &self,
        context: &RequestContext<'_>,
        method: &str,
        advert: SocketAdvert,
        exchange: &mut impl Exchange,
    ) -> Result<Opened, RequestError> {
        let sessions = &self.shared.sessions;
        let key = sessions.new_key();
        let id = sessions.id(key);
        let socket = SocketCall { event: SocketEvent::Open, session: id.into(), user: None };
        let client = CallClient { context, socket: Some(socket) };
        let params = self.params(context, method, None);
        let balance_key = client_key(context.route, context.client);
        let call = self.peers.call_raw(method, context.path, &params);
        let call = with_balance(call, context.route, balance_key.as_deref());
        let call = call.started_at(context.begin).timeout(context.deadline.saturating_duration_since(context.begin));
        let call = Box::pin(call.in_trace(traceparent(context.head)).for_client(&client));
        let response = exchange.until_client_gone(call).await?.map_err(call_problem)?;
        let answer = self.read_answer(context, method, &response).map_err(RequestError::Problem)?;
        if !answer.status.is_success() {
            return Ok(Opened::Refused(response));
        }
        let welcome = std::str::from_utf8(&answer.body).ok().and_then(|text| SocketWelcome::parse(text).ok());
        let Some(welcome) = welcome else {
            let detail = "the service has answered 'open' with something that is not a welcome";
            response.node().into_iter().for_each(|node| self.peers.record_malformed(node, detail));
            return Err(problem(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER, detail));
        };
        let new = NewSession { user: welcome.user, groups: welcome.groups, secret: sessions.new_secret() };
        let messages = welcome.messages.into_iter().map(|message| Bytes::from(Box::<str>::from(message).into_string()));
        let attached = sessions.open(key, (context.path, context.client, advert), &new, messages);
        let attached = attached.map_err(|_too_many| {
            let detail = "the socket has too many groups or first messages, or this gateway has too many groups";
            problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail)
        })?;
        Ok(Opened::Session(attached))
    }

    /// Holds a WebSocket until it ends.
    async fn hold_websocket(
        &self,
        context: &RequestContext<'_>,
        mut held: AttachedSocket,
        switched: SwitchedConnection,
        drain_time: Duration,
    ) -> Result<Ended, RequestError> {
        let SwitchedConnection { stream, ahead, stop, write_timeout } = switched;
        let reserved = self.budget.reserve(context.client, READ_BYTES)?;
        let stream = CountedStream::new(stream, reserved, READ_BYTES);
        let mut websocket =
            WebSocketStream::from_partially_read(stream, ahead.into(), Role::Server, Some(config())).await;
        let polls = PollCounter::default();
        let terms = socket::HoldTerms { write_timeout, stop: &stop, drain_time };
        let holding = socket::hold(&mut websocket, &mut held, &terms, PollSlice::new(&polls));
        let ending = polls.count_polls(holding).await;
        if ending.is_slow() {
            self.warn_of_slow_client(context);
        }
        let close_frame = ending.frame();
        held.finish(ending).await;
        Ok(super::end(websocket, close_frame).await)
    }

    /// Logs that a socket was closed because its client does not read: the service is told as well,
    /// but has no need to log.
    fn warn_of_slow_client(&self, context: &RequestContext<'_>) {
        let now = Instant::now().into_std();
        if let Some(suppressed) = self.shared.log_throttles.allow_for("slow_sockets", context.path, now) {
            let path = escaped(context.path, MAX_ESCAPED_BYTES);
            warn!(%path, client = %context.client, suppressed, "a held socket was closed: more messages \
                  waited for its client than its limit allows; push less, or let the route drop the oldest");
        }
    }
}

/// What a node has made of a request for a socket.
enum Opened {
    Session(Attached),
    /// The client gets this response.
    Refused(RawResponse),
}

/// The token of a session and the number of the last message that the client has, if it names them.
fn resume_point(fields: &Fields, query: &str) -> Option<(String, String)> {
    if let Some(id) = fields.get(LAST_EVENT_ID).and_then(|id| std::str::from_utf8(id).ok()) {
        return id.split_once('/').map(|(token, number)| (token.to_owned(), number.to_owned()));
    }
    let mut found = (None, String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            RESUME => found.0 = Some(value.into_owned()),
            AFTER => found.1 = value.into_owned(),
            _ => {}
        }
    }
    Some((found.0?, found.1))
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

impl HeldEnding {
    fn frame(&self) -> super::relay::Ending {
        use super::relay::Ending;
        match self {
            Self::ByClient { .. } => Ending::ByClient,
            Self::Gone => Ending::Silent,
            Self::Close { frame, .. } => Ending::Close(CloseFrame::clone(frame)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_names_what_it_resumes_in_its_query_or_as_its_last_event() {
        let check = |fields: &[(&str, &str)], query: &str, expected: Option<(&str, &str)>| {
            let seen = resume_point(&Fields::from_pairs(fields), query);
            assert_eq!(seen.as_ref().map(|(token, after)| (&**token, &**after)), expected, "{fields:?} {query}");
        };
        check(&[], "", None);
        check(&[], "after=7&resume=a.b", Some(("a.b", "7")));
        check(&[], "resume=a%2Eb&name=x", Some(("a.b", "")));
        check(&[("Last-Event-ID", "a.b/7")], "resume=c", Some(("a.b", "7")));
        check(&[("Last-Event-ID", "7")], "", None);
    }
}
