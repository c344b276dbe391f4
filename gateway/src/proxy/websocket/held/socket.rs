//! A held WebSocket: each message of the client is a call, and what waits in its session goes to
//! the client.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::calls::AttachedSocket;
use super::ending::{HeldEnding, SessionFate};
use crate::io::poll_slice::PollSlice;
use crate::io::timer::Timer;
use crate::proxy::websocket::closing::of_client_error;
use crate::proxy::websocket::counted_stream::CountedStream;
use crate::proxy::websocket::relay::{Ending, MAX_BATCH_BYTES, PING_INTERVAL, frames, is_over_quota, write};
use crate::sessions::NextOfSession;
use crate::sessions::core::envelope::{ClientMessage, enclosed, greeting, open_envelope};
use crate::sessions::core::message_pace::MessagePace;

/// The time over which a gateway that stops closes its sockets, so that clients do not all connect
/// to the next one at once; at most half of its time to drain.
const DRAIN_SPREAD_TIME: Duration = Duration::from_secs(10);

/// What a socket is allowed.
pub(super) struct HoldTerms<'a> {
    /// How long a client may take to read a message.
    pub(super) write_timeout: Duration,
    /// Cancelled when the connection should be closed.
    pub(super) stop: &'a CancellationToken,
    /// How long a gateway that stops has.
    pub(super) drain_time: Duration,
}

/// The call for a message, on the heap: an idle socket has none. Its result is what the client
/// gets.
type RunningCall = Pin<Box<dyn Future<Output = Result<Option<Bytes>, HeldEnding>> + Send>>;

/// Holds a socket until it ends. A message is not read before the call for the one before has
/// ended.
pub(super) async fn hold<S: AsyncRead + AsyncWrite + Unpin>(
    websocket: &mut WebSocketStream<CountedStream<S>>,
    held: &mut AttachedSocket,
    terms: &HoldTerms<'_>,
    mut slice: PollSlice<'_>,
) -> HeldEnding {
    if let Some(ending) = greet(websocket, held, terms.write_timeout).await {
        return ending;
    }
    let mut timer = Timer::at(Instant::now() + PING_INTERVAL);
    let (mut heard, mut pinged, mut is_draining) = (false, false, false);
    let mut pace = MessagePace::new(Instant::now().into_std());
    let mut running: Option<RunningCall> = None;
    let ending = loop {
        slice.yield_if_over(Instant::now()).await;
        tokio::select! {
            () = terms.stop.cancelled(), if !is_draining => {
                is_draining = true;
                timer.set(Instant::now() + drain_delay(terms.drain_time, fastrand::f64()));
            }
            () = timer.expired() => {
                if is_draining {
                    break HeldEnding::close(CloseCode::Restart, "the gateway restarts: connect again", SessionFate::Ends);
                }
                if !std::mem::take(&mut heard) {
                    // While a call runs, nothing is read, so no answer can be heard.
                    if running.is_none() && std::mem::replace(&mut pinged, true) {
                        break HeldEnding::Gone;
                    }
                    if let Some(ending) = send(websocket, [Message::Ping(Bytes::new())], terms.write_timeout).await {
                        break ending;
                    }
                }
                timer.set(Instant::now() + PING_INTERVAL);
            }
            next = next_of(held) => if let Some(ending) = send_waiting(websocket, held, next, terms.write_timeout).await {
                break ending;
            },
            done = ended(&mut running) => {
                running = None;
                match done {
                    Ok(Some(reply)) => drop(held.attached.session.push(reply)),
                    Ok(None) => {}
                    Err(ending) => break ending,
                }
            }
            message = websocket.next(), if running.is_none() => {
                (heard, pinged) = (true, false);
                match take_message(message, held) {
                    Ok(Some(message)) => {
                        let wait = pace.count(Instant::now().into_std());
                        running = Some(call(held, message, wait));
                    }
                    Ok(None) => {}
                    Err(ending) => break ending,
                }
                websocket.get_mut().end_message();
            }
        }
    };
    // The node is told of the end after the last message.
    if let Some(running) = running {
        let _ = running.await;
    }
    ending
}

/// When a socket is closed after the gateway has begun to stop; `random` is from 0 to 1.
pub(super) fn drain_delay(drain_time: Duration, random: f64) -> Duration {
    DRAIN_SPREAD_TIME.min(drain_time / 2).mul_f64(random)
}

/// Tells the client how it resumes the session, if it can.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    websocket: &mut WebSocketStream<CountedStream<S>>,
    held: &AttachedSocket,
    write_timeout: Duration,
) -> Option<HeldEnding> {
    let attached = &held.attached;
    if attached.token.is_empty() {
        return None;
    }
    let greeting = greeting(&attached.token, attached.resumed, attached.missed);
    send(websocket, frames(Bytes::from(greeting)), write_timeout).await
}

async fn next_of(held: &AttachedSocket) -> NextOfSession {
    poll_fn(|task| held.attached.session.poll_next(task, held.attached.socket)).await
}

async fn ended(running: &mut Option<RunningCall>) -> Result<Option<Bytes>, HeldEnding> {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

/// The call for a message, after `wait` if the client sends too fast.
fn call(held: &AttachedSocket, message: Box<RawValue>, wait: Duration) -> RunningCall {
    let (calls, session) = (held.calls.clone(), Arc::clone(&held.attached.session));
    Box::pin(async move {
        if !wait.is_zero() {
            sleep(wait).await;
        }
        calls.message(&session, message.get()).await
    })
}

/// What a message of the client is: one for the service, or nothing if it is one of control.
fn take_message(
    message: Option<Result<Message, Error>>,
    held: &AttachedSocket,
) -> Result<Option<Box<RawValue>>, HeldEnding> {
    let session = &held.attached.session;
    let wrong = |detail: &str| HeldEnding::close(CloseCode::Invalid, detail, SessionFate::Ends);
    match message {
        Some(Ok(Message::Text(text))) if session.is_resumable() => match open_envelope(&text).map_err(|e| wrong(&e))? {
            ClientMessage::Message(message) => {
                RawValue::from_string(message).map(Some).map_err(|error| wrong(&error.to_string()))
            }
            ClientMessage::Acknowledgement(number) => {
                session.acknowledge(number);
                Ok(None)
            }
        },
        Some(Ok(Message::Text(text))) => {
            let read = serde_json::from_str(&text);
            read.map(Some).map_err(|error| wrong(&format!("a message must be JSON: {error}")))
        }
        Some(Ok(Message::Binary(_))) => {
            let detail = "send text messages that are JSON";
            Err(HeldEnding::close(CloseCode::Unsupported, detail, SessionFate::Ends))
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
        Some(Ok(Message::Close(Some(frame)))) => {
            Err(HeldEnding::ByClient { code: frame.code.into(), reason: frame.reason.as_str().to_owned() })
        }
        Some(Ok(Message::Close(None))) => Err(HeldEnding::ByClient { code: 1005, reason: String::new() }),
        None => Err(HeldEnding::Gone),
        Some(Err(error)) => Err(match of_client_error(&error) {
            Some(frame) => HeldEnding::Close { frame, fate: SessionFate::Ends },
            None if is_over_quota(&error) => {
                HeldEnding::close(CloseCode::Again, "the memory limit for clients is reached", SessionFate::Waits)
            }
            None => HeldEnding::Gone,
        }),
    }
}

/// Sends the client what waits in its session, and closes the socket if the session says so.
async fn send_waiting<S: AsyncRead + AsyncWrite + Unpin>(
    websocket: &mut WebSocketStream<CountedStream<S>>,
    held: &AttachedSocket,
    first: NextOfSession,
    write_timeout: Duration,
) -> Option<HeldEnding> {
    let (mut next, mut batch, mut bytes) = (Some(first), Vec::new(), 0);
    let is_resumable = held.attached.session.is_resumable();
    let mut ending = None;
    while let Some(taken) = next.take() {
        match taken {
            NextOfSession::Message(number, message) => {
                bytes += message.len();
                batch.push(if is_resumable { enclosed(number, &message) } else { message });
                if bytes < MAX_BATCH_BYTES {
                    next = next_of(held).now_or_never();
                }
            }
            NextOfSession::End(end) => ending = Some(HeldEnding::of_session(&end)),
        }
    }
    let sent = send(websocket, batch.into_iter().flat_map(frames), write_timeout).await;
    sent.or(ending)
}

/// Writes messages, and waits until the client has taken them.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    websocket: &mut WebSocketStream<CountedStream<S>>,
    messages: impl IntoIterator<Item = Message>,
    limit: Duration,
) -> Option<HeldEnding> {
    match write(websocket, messages, limit).await? {
        Ending::ByClient | Ending::Silent => Some(HeldEnding::Gone),
        Ending::Close(frame) => Some(HeldEnding::Close { frame, fate: SessionFate::Ends }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_a_gateway_that_stops_are_closed_one_after_the_other() {
        let check = |drain_seconds: u64, random: f64, expected: u64| {
            let delay = drain_delay(Duration::from_secs(drain_seconds), random);
            assert_eq!(delay, Duration::from_millis(expected), "{drain_seconds} {random}");
        };
        check(30, 0.0, 0);
        check(30, 0.5, 5000);
        check(30, 1.0, 10_000);
        check(4, 1.0, 2000);
        check(0, 1.0, 0);
    }
}
