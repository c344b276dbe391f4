//! A held stream of server-sent events: what waits in its session goes to the client.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::stream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::calls::AttachedSocket;
use super::ending::{HeldEnding, SessionFate};
use super::socket::drain_delay;
use crate::message::head::RequestHead;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{Silence, respond_with_stream};
use crate::proxy::node_call::stream_body::StreamFormat;
use crate::proxy::request_error::Ended;
use crate::proxy::websocket::relay::PING_INTERVAL;
use crate::sessions::NextOfSession;
use crate::sessions::core::envelope::{event, greeting};

/// A comment, which clients pass over: it keeps proxies from closing a silent stream, and finds out
/// whether the client is still there.
const HEARTBEAT: &[u8] = b":\n\n";
/// The name of the first event of a session that can be resumed.
const SESSION_EVENT: &str = "session";

/// When a gateway stops, and how long it has then.
pub(super) struct Draining {
    pub(super) begins: CancellationToken,
    pub(super) time: std::time::Duration,
}

/// Sends events until either side ends. A client that goes is noticed, as with any response.
pub(super) async fn send_events(
    head: &RequestHead,
    held: AttachedSocket,
    draining: &Draining,
    exchange: &mut impl Exchange,
) -> Result<(), Ended> {
    let ending = Mutex::new(None);
    let sent = {
        let (held, ending) = (&held, &ending);
        let events = stream::unfold(true, move |is_first| async move {
            match next_event(held, is_first, draining).await {
                Ok(event) => Some((Ok(event), false)),
                Err(end) => {
                    *ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
                    None
                }
            }
        });
        respond_with_stream(head, &StreamFormat::Events.head(), events, Silence::Allowed, exchange).await
    };
    let ending = ending.into_inner().unwrap_or_else(PoisonError::into_inner);
    held.finish(ending.unwrap_or(HeldEnding::Gone)).await;
    sent
}

/// The next event, or a heartbeat.
///
/// # Errors
/// How the stream ends.
async fn next_event(held: &AttachedSocket, is_first: bool, draining: &Draining) -> Result<Bytes, HeldEnding> {
    let attached = &held.attached;
    let token = Some(&*attached.token).filter(|token| !token.is_empty());
    if is_first {
        return Ok(match token {
            Some(token) => {
                let greeting = greeting(token, attached.resumed, attached.missed);
                event(Some(SESSION_EVENT), Some((token, attached.after)), greeting.as_bytes())
            }
            None => Bytes::from_static(HEARTBEAT),
        });
    }
    let next = poll_fn(|task| attached.session.poll_next(task, attached.socket));
    tokio::select! {
        biased;
        next = timeout(PING_INTERVAL, next) => match next {
            Ok(NextOfSession::Message(number, message)) => {
                Ok(event(None, token.map(|token| (token, number)), &message))
            }
            Ok(NextOfSession::End(end)) => Err(HeldEnding::of_session(&end)),
            Err(_elapsed) => Ok(Bytes::from_static(HEARTBEAT)),
        },
        () = drained(draining) => {
            Err(HeldEnding::close(CloseCode::Restart, "the gateway restarts", SessionFate::Ends))
        }
    }
}

/// Completes some time after the gateway has begun to stop.
async fn drained(draining: &Draining) {
    draining.begins.cancelled().await;
    sleep(drain_delay(draining.time, fastrand::f64())).await;
}
