//! WebSockets to nodes: each is a stream of a node, to which both sides send.
//!
//! It must not know the routes: `proxy` has found the node. WebSockets to servers are tunnels.

mod closing;
mod counted_stream;
mod handshake;
pub(crate) mod held;
mod relay;

use std::time::Duration;

use futures::StreamExt;
use http::StatusCode;
use node_sdk::CallError;
use node_sdk::gateway::{GatewayPeers, RawReply};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use self::counted_stream::CountedStream;
use self::relay::{Ending, RelayTerms, relay};
use super::node_call::{
    CallClient, STREAM_WINDOW, StreamFault, call_problem, client_key, respond_streamed, traceparent, with_balance,
};
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::MaybeTlsStream;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::exchange::{Exchange, SwitchedConnection};
use crate::proxy::request_error::{Ended, RequestError};
use crate::proxy::{Proxy, RequestContext, problem};

/// Bytes of one message of a client. Requests have larger bodies; a message is read as a whole, on
/// each of thousands of sockets.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes that are read at a time, and that an idle socket has room for.
const READ_BYTES: usize = 4096;
/// How long a client may take to answer that a socket is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Proxy<'_> {
    /// Opens a stream of a node for a client that asks for a WebSocket, and relays both ways until
    /// one side ends. A node that does not answer with a stream answers a usual request.
    pub(super) async fn open_websocket(
        &self,
        context: &RequestContext<'_>,
        method: &str,
        exchange: &mut impl Exchange,
    ) -> Result<Instant, RequestError> {
        let accepted = handshake::accept(context.head, context.origin, context.route.cors.as_ref())
            .map_err(RequestError::Problem)?;
        let place = self.shared.held_sockets.try_acquire(context.client);
        let Some(_place) = place else {
            let detail = "this gateway, or this client, has as many WebSockets open as it may";
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail));
        };
        let params = self.params(context, method, None);
        let key = client_key(context.route, context.client);
        let call = with_balance(self.peers.call_raw(method, context.path, &params), context.route, key.as_deref());
        let call = call.started_at(context.begin).timeout(context.deadline.saturating_duration_since(context.begin));
        let client = CallClient { context, socket: None };
        let call = call.in_trace(traceparent(context.head)).for_client(&client);
        let opening = Box::pin(call.open(STREAM_WINDOW));
        let parts = match exchange.until_client_gone(opening).await?.map_err(call_problem)? {
            RawReply::Stream { head: None, parts } => parts,
            RawReply::Stream { head: Some(begun), parts } => {
                parts.sender().finish();
                let streamed = self.byte_response(context, method, &begun, parts).map_err(RequestError::Problem)?;
                return respond_streamed(context.head, streamed, exchange).await;
            }
            RawReply::Response(response) => return self.respond_whole(context, method, &response, exchange),
        };
        let switched = exchange.switch(&accepted).await?;
        let (node, sender) = (parts.node(), parts.sender());
        let parts = parts.map(|part| part.and_then(|part| part.into_json(context.path)));
        let SwitchedConnection { stream, ahead, stop, write_timeout } = switched;
        let terms = RelayTerms {
            write_timeout,
            stop: &stop,
            hold: |bytes| self.budget.reserve(context.client, bytes),
            record: |error: Option<&CallError>| {
                self.record_stream_fault(node, error.map_or(StreamFault::NotJson, StreamFault::Cut));
            },
        };
        let held = self.budget.reserve(context.client, READ_BYTES)?;
        let stream = CountedStream::new(stream, held, READ_BYTES);
        let mut socket = WebSocketStream::from_partially_read(stream, ahead.into(), Role::Server, Some(config())).await;
        let polls = PollCounter::default();
        let ending = polls.count_polls(relay(&mut socket, parts, &sender, &terms, PollSlice::new(&polls))).await;
        Err(RequestError::Ended(end(socket, ending).await))
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// Closes a socket, so that its client learns why.
async fn end(mut socket: WebSocketStream<CountedStream<MaybeTlsStream>>, ending: Ending) -> Ended {
    match ending {
        Ending::ByClient => {
            // The answer to a close frame may still have to be written.
            let _ = timeout(CLOSE_TIMEOUT, socket.close(None)).await;
            Ended("the WebSocket was closed by the client")
        }
        Ending::Silent => Ended("the client of the WebSocket does not read or answer"),
        Ending::Close(frame) => {
            let closing = async {
                socket.close(Some(frame)).await?;
                // The client answers with a close frame, and then ends.
                while let Some(message) = socket.next().await {
                    message?;
                    socket.get_mut().end_message();
                }
                Ok::<_, tokio_tungstenite::tungstenite::Error>(())
            };
            let _ = timeout(CLOSE_TIMEOUT, closing).await;
            Ended("the WebSocket was closed")
        }
    }
}
