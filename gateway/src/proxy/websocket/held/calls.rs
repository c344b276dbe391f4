//! The calls that a held socket makes: one for each message, and one when it is gone for good.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use node_sdk::gateway::{ClientHead, ClientRequest, GatewayPeers, RawResponse, WantedHeaders};
use node_sdk::{CallError, Peers};
use protocol::{SocketCall, SocketClosed, SocketEvent};
use tokio::time::Instant;
use tracing::debug;

use super::ending::{HeldEnding, SessionFate};
use crate::proxy::node_call::translate::to_http;
use crate::sessions::{Attached, HeldSession, HeldSessions};

/// How long a node may take for a message, or for the end of a socket: as any call.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What calls nodes for the sockets of one worker.
#[derive(Clone, Debug)]
pub(super) struct SocketCalls {
    pub(super) peers: Peers,
    pub(super) sessions: Arc<HeldSessions>,
}

/// The client of a session, as nodes are told of it.
struct SessionClient<'a> {
    session: &'a HeldSession,
    id: String,
    event: SocketEvent,
}

impl ClientHead for SessionClient<'_> {
    fn request(&self, _wanted: &WantedHeaders) -> ClientRequest<'_> {
        let user = self.session.user.as_deref().map(Into::into);
        let socket = Some(SocketCall { event: self.event, session: self.id.as_str().into(), user });
        ClientRequest { address: self.session.client.to_string().into(), socket, ..ClientRequest::default() }
    }
}

impl fmt::Debug for SessionClient<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionClient").field(&self.id).finish()
    }
}

impl SocketCalls {
    /// Calls a node with a message of the client. Returns the message that the client gets for it,
    /// if any.
    ///
    /// # Errors
    /// How the socket ends.
    pub(super) async fn message(&self, session: &HeldSession, message: &str) -> Result<Option<Bytes>, HeldEnding> {
        let response = self.call(session, SocketEvent::Message, message).await;
        let response = response.map_err(|error| HeldEnding::of_call(&error))?;
        let answer = to_http(&response).map_err(|problem| HeldEnding::of_refusal(&problem))?;
        Ok(Some(answer.body).filter(|body| !body.is_empty() && &body[..] != b"null"))
    }

    /// Tells a node that a socket is gone for good. What fails is logged, because the client has
    /// gone.
    pub(super) async fn close(&self, session: &HeldSession, closed: &SocketClosed) {
        let params = serde_json::to_string(closed).unwrap_or_default();
        if let Err(error) = self.call(session, SocketEvent::Close, &params).await {
            debug!(path = &*session.path, %error, "no node was told that a socket is closed");
        }
    }

    async fn call(&self, session: &HeldSession, event: SocketEvent, params: &str) -> Result<RawResponse, CallError> {
        let client = SessionClient { session, id: self.sessions.id(session.key), event };
        let call = self.peers.call_raw("GET", &session.path, params).in_trace(None);
        call.once().timeout(EVENT_TIMEOUT).for_client(&client).await
    }
}

/// A socket of a session. When it is dropped, its session waits for the client or has ended.
#[derive(Debug)]
pub(super) struct AttachedSocket {
    pub(super) attached: Attached,
    pub(super) calls: SocketCalls,
    is_finished: bool,
}

impl AttachedSocket {
    pub(super) fn new(attached: Attached, calls: SocketCalls) -> Self {
        Self { attached, calls, is_finished: false }
    }

    /// Ends the socket in order: the node is told before this returns, if the session has ended.
    pub(super) async fn finish(mut self, ending: HeldEnding) {
        self.is_finished = true;
        if self.leave(&ending) {
            self.calls.close(&self.attached.session, &ending.closed()).await;
        }
    }

    /// Takes the socket off its session. Returns whether the session has ended.
    fn leave(&self, ending: &HeldEnding) -> bool {
        let (session, sessions) = (&self.attached.session, &self.calls.sessions);
        if !session.is_of(self.attached.socket) {
            return false;
        }
        match ending.fate() {
            SessionFate::GoesOn => false,
            SessionFate::Waits if session.is_resumable() => {
                sessions.keep(session, Instant::now().into_std());
                false
            }
            SessionFate::Waits | SessionFate::Ends => sessions.remove(session),
        }
    }
}

/// The connection was cut off, or its task has panicked.
impl Drop for AttachedSocket {
    fn drop(&mut self) {
        if !self.is_finished && self.leave(&HeldEnding::Gone) {
            let (session, calls) = (Arc::clone(&self.attached.session), self.calls.clone());
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { calls.close(&session, &HeldEnding::Gone.closed()).await });
            }
        }
    }
}
