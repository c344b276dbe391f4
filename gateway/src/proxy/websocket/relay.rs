//! An open WebSocket: the client's messages are parts that go to a node, and the node's parts are
//! messages that go to the client.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use node_sdk::{CallError, PartSender};
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::closing::{close_frame, of_call_error, of_client_error};
use super::counted_stream::CountedStream;
use crate::io::budget::{OverBudget, Reservation};
use crate::io::poll_slice::PollSlice;
use crate::io::timer::Timer;
use crate::proxy::node_call::translate::is_json_text;

/// How long a client may be silent before it is pinged. A client that does not answer for as long
/// again has gone: its machine may have lost power. Proxies on the way drop connections that are
/// silent for a minute.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Bytes of a message that are sent in one frame. A message that is sent as a whole would leave a
/// buffer of its size with each socket.
const MAX_FRAME_BYTES: usize = 4096;
/// Bytes of messages that are sent together.
pub(super) const MAX_BATCH_BYTES: usize = 16 * 1024;

/// The part of a node's stream that takes the client's messages.
pub(super) trait PartSink {
    /// Sends one part, as soon as the node takes it. Cancel safe.
    fn send(&self, part: &RawValue) -> impl Future<Output = Result<(), CallError>> + Send;
}

impl PartSink for PartSender {
    async fn send(&self, part: &RawValue) -> Result<(), CallError> {
        Self::send(self, &part).await
    }
}

/// How a WebSocket has ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client has closed it, or has gone.
    ByClient,
    /// The client does not read, or does not answer pings.
    Silent,
    /// It is to be closed with this code and reason.
    Close(CloseFrame),
}

/// What a socket is allowed, and where its faults are recorded.
pub(super) struct RelayTerms<'a, H, R> {
    /// How long a client may take to read a message.
    pub(super) write_timeout: Duration,
    /// Cancelled when the connection should be closed.
    pub(super) stop: &'a CancellationToken,
    /// Reserves bytes for a message to the client.
    pub(super) hold: H,
    /// Records a fault of the node's stream; `None` for a part that is not JSON.
    pub(super) record: R,
}

/// Relays both ways until one side ends. Each side waits for the other: a client that does not read
/// keeps the node from sending, and the other way round.
pub(super) async fn relay<S, H, R>(
    socket: &mut WebSocketStream<CountedStream<S>>,
    mut parts: impl Stream<Item = Result<Box<RawValue>, CallError>> + Unpin,
    node: &impl PartSink,
    terms: &RelayTerms<'_, H, R>,
    mut slice: PollSlice<'_>,
) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(usize) -> Result<Reservation, OverBudget>,
    R: Fn(Option<&CallError>),
{
    let mut timer = Timer::at(Instant::now() + PING_INTERVAL);
    // A message that the node does not take yet: the next one is not read before.
    let mut waiting: Option<Box<RawValue>> = None;
    let (mut heard, mut pinged) = (false, false);
    loop {
        slice.yield_if_over(Instant::now()).await;
        tokio::select! {
            () = terms.stop.cancelled() => return Ending::Close(close_frame(CloseCode::Away, "the gateway stops")),
            () = timer.expired() => {
                if !std::mem::take(&mut heard) {
                    // While a message waits, nothing is read, so no answer can be heard.
                    if waiting.is_none() && std::mem::replace(&mut pinged, true) {
                        return Ending::Silent;
                    }
                    if let Some(ending) = write(socket, [Message::Ping(Bytes::new())], terms.write_timeout).await {
                        return ending;
                    }
                }
                timer.set(Instant::now() + PING_INTERVAL);
            }
            part = parts.next() => if let Some(ending) = pass_down(socket, part, &mut parts, terms).await {
                return ending;
            },
            sent = send(node, waiting.as_deref()), if waiting.is_some() => {
                waiting = None;
                match sent {
                    // The end of the node's stream, which follows, says why.
                    Ok(()) | Err(CallError::Ended { .. }) => {}
                    Err(error) => return Ending::Close(of_call_error(&error)),
                }
            }
            message = socket.next(), if waiting.is_none() => {
                (heard, pinged) = (true, false);
                match take_message(message) {
                    Ok(part) => waiting = part,
                    Err(ending) => return ending,
                }
                socket.get_mut().end_message();
            }
        }
    }
}

async fn send(node: &impl PartSink, part: Option<&RawValue>) -> Result<(), CallError> {
    match part {
        Some(part) => node.send(part).await,
        None => std::future::pending().await,
    }
}

/// What a message of the client is for the node: a part, or nothing if it is one of control.
fn take_message(message: Option<Result<Message, Error>>) -> Result<Option<Box<RawValue>>, Ending> {
    match message {
        Some(Ok(Message::Text(text))) => {
            // A service reads JSON, and a message must not be taken for two parts.
            let part = serde_json::from_str::<Box<RawValue>>(&text).map_err(|error| {
                Ending::Close(close_frame(CloseCode::Invalid, &format!("a message must be JSON: {error}")))
            })?;
            Ok(Some(part))
        }
        Some(Ok(Message::Binary(_))) => {
            Err(Ending::Close(close_frame(CloseCode::Unsupported, "send text messages that are JSON")))
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
        Some(Ok(Message::Close(_))) | None => Err(Ending::ByClient),
        Some(Err(error)) => Err(match of_client_error(&error) {
            Some(frame) => Ending::Close(frame),
            None if is_over_quota(&error) => {
                Ending::Close(close_frame(CloseCode::Again, "the memory limit for clients is reached"))
            }
            None => Ending::ByClient,
        }),
    }
}

pub(super) fn is_over_quota(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == std::io::ErrorKind::QuotaExceeded)
}

/// Sends the client a part of the node, and those that have come with it.
async fn pass_down<S, H, R>(
    socket: &mut WebSocketStream<CountedStream<S>>,
    first: Option<Result<Box<RawValue>, CallError>>,
    parts: &mut (impl Stream<Item = Result<Box<RawValue>, CallError>> + Unpin),
    terms: &RelayTerms<'_, H, R>,
) -> Option<Ending>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(usize) -> Result<Reservation, OverBudget>,
    R: Fn(Option<&CallError>),
{
    let (mut next, mut held, mut batch) = (first, Vec::new(), Vec::new());
    let mut bytes = 0;
    let ending = loop {
        match next {
            Some(Ok(part)) if !is_json_text(part.get().as_bytes()) => {
                (terms.record)(None);
                break Some(close_frame(CloseCode::Error, "the service has sent something that is not JSON"));
            }
            Some(Ok(part)) => {
                let Ok(reservation) = (terms.hold)(part.get().len()) else {
                    break Some(close_frame(CloseCode::Again, "the memory limit for clients is reached"));
                };
                held.push(reservation);
                bytes += part.get().len();
                batch.push(part);
            }
            Some(Err(error)) => {
                // A service may end a stream with an error of its own, which its client is told.
                if !matches!(error, CallError::Refused { .. }) {
                    (terms.record)(Some(&error));
                }
                break Some(of_call_error(&error));
            }
            None => break Some(close_frame(CloseCode::Normal, "")),
        }
        if bytes >= MAX_BATCH_BYTES {
            break None;
        }
        match parts.next().now_or_never() {
            Some(available) => next = available,
            None => break None,
        }
    };
    let written = write(socket, batch.into_iter().flat_map(|part| frames(text_of(part))), terms.write_timeout).await;
    written.or_else(|| ending.map(Ending::Close))
}

/// The text of a part, without a copy.
fn text_of(part: Box<RawValue>) -> Bytes {
    Bytes::from(Box::<str>::from(part).into_boxed_bytes())
}

/// A message in frames of limited size.
pub(super) fn frames(message: Bytes) -> impl Iterator<Item = Message> {
    let mut rest = message;
    let mut data = Some(Data::Text);
    std::iter::from_fn(move || {
        let code = data.take()?;
        let payload = rest.split_to(rest.len().min(MAX_FRAME_BYTES));
        let is_last = rest.is_empty();
        if !is_last {
            data = Some(Data::Continue);
        }
        Some(Message::Frame(Frame::message(payload, OpCode::Data(code), is_last)))
    })
}

/// Writes messages, and waits until the client has taken them.
pub(super) async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<CountedStream<S>>,
    messages: impl IntoIterator<Item = Message>,
    limit: Duration,
) -> Option<Ending> {
    let written = timeout(limit, async {
        for message in messages {
            socket.feed(message).await?;
        }
        socket.flush().await
    });
    match written.await {
        Ok(Ok(())) => None,
        Ok(Err(_gone)) => Some(Ending::ByClient),
        Err(_elapsed) => Some(Ending::Silent),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::stream;
    use tokio::io::{DuplexStream, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::io::budget::{ConnectionBudget, HeldBudget};
    use crate::io::poll_slice::PollCounter;
    use crate::proxy::websocket::{READ_BYTES, config};

    /// Bytes of the budget for clients.
    const BUDGET: usize = 256 * 1024;
    const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

    /// A node that takes everything, or nothing.
    struct Taken {
        parts: Mutex<Vec<String>>,
        takes: bool,
    }

    impl PartSink for Taken {
        async fn send(&self, part: &RawValue) -> Result<(), CallError> {
            if !self.takes {
                std::future::pending::<()>().await;
            }
            self.parts.lock().unwrap().push(part.get().to_owned());
            Ok(())
        }
    }

    type Client = WebSocketStream<DuplexStream>;

    /// How a relay ends whose node sends `parts`, beside what `client` does.
    async fn ending(
        takes: bool,
        parts: impl Stream<Item = Result<Box<RawValue>, CallError>> + Unpin,
        client: impl AsyncFnOnce(Client),
    ) -> (Ending, Vec<String>) {
        let (outer, inner) = duplex(4096);
        let budget = ConnectionBudget::new(&Arc::new(HeldBudget::new(BUDGET)));
        let hold = |bytes| budget.reserve([127, 0, 0, 1].into(), bytes);
        let stream = CountedStream::new(inner, hold(READ_BYTES).unwrap(), READ_BYTES);
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await;
        let (node, stop) = (Taken { parts: Mutex::default(), takes }, CancellationToken::new());
        let terms = RelayTerms { write_timeout: WRITE_TIMEOUT, stop: &stop, hold, record: |_: Option<&CallError>| {} };
        let polls = PollCounter::default();
        let client = async { client(WebSocketStream::from_raw_socket(outer, Role::Client, None).await).await };
        let relays = async {
            let ending = polls.count_polls(relay(&mut socket, parts, &node, &terms, PollSlice::new(&polls))).await;
            // Otherwise a client that waits for the end would wait for ever.
            drop(socket);
            ending
        };
        let (ending, ()) = tokio::join!(relays, client);
        (ending, node.parts.into_inner().unwrap())
    }

    fn part(text: &str) -> Result<Box<RawValue>, CallError> {
        Ok(RawValue::from_string(text.to_owned()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_answer_pings_has_gone() {
        let begin = Instant::now();
        let (ended, _) = ending(true, stream::pending(), async |client| {
            // It takes what comes, and says nothing.
            let mut inner = client.into_inner();
            tokio::io::copy(&mut inner, &mut tokio::io::sink()).await.unwrap();
        })
        .await;
        assert!(matches!(ended, Ending::Silent), "{ended:?}");
        assert_eq!(begin.elapsed().as_secs(), 2 * PING_INTERVAL.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_pings_stays() {
        let (begin, hour) = (Instant::now(), Duration::from_secs(3600));
        let (ended, _) = ending(true, stream::pending(), async |mut client| {
            let mut pings = 0;
            while let Ok(Some(message)) = tokio::time::timeout_at(begin + hour, client.next()).await {
                pings += u32::from(message.unwrap().is_ping());
            }
            assert!(pings > 50, "{pings}");
        })
        .await;
        assert!(matches!(ended, Ending::ByClient), "{ended:?}");
        assert!(begin.elapsed() >= hour);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up() {
        let begin = Instant::now();
        let large = format!("\"{}\"", "x".repeat(100_000));
        let (ended, _) = ending(true, stream::iter([part(&large)]), async |client| {
            tokio::time::sleep(10 * WRITE_TIMEOUT).await;
            drop(client);
        })
        .await;
        assert!(matches!(ended, Ending::Silent), "{ended:?}");
        assert_eq!(begin.elapsed(), 10 * WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_has_held_is_bounded() {
        let code = |ended| match ended {
            Ending::Close(frame) => u16::from(frame.code),
            other => panic!("{other:?}"),
        };
        // Half a message that is larger than what one client may hold.
        let (ended, _) = ending(true, stream::pending(), async |mut client| {
            let half = Frame::message(vec![b'x'; BUDGET], OpCode::Data(Data::Text), false);
            let _ = client.send(Message::Frame(half)).await;
        })
        .await;
        assert_eq!(code(ended), 1013);
        // A part of the node that is.
        let large = format!("\"{}\"", "x".repeat(BUDGET));
        let (ended, _) = ending(true, stream::iter([part(&large)]), async |client| drop(client)).await;
        assert_eq!(code(ended), 1013);
        // A node that takes nothing is sent one message, and the next one is not read.
        let (ended, taken) = ending(false, stream::pending(), async |mut client| {
            let sends = async {
                for _ in 0..100 {
                    client.send(Message::text(format!("\"{}\"", "x".repeat(1000)))).await.unwrap();
                }
            };
            // Longer than a client may leave pings unanswered: these are not read.
            assert!(timeout(5 * PING_INTERVAL, sends).await.is_err());
        })
        .await;
        assert!(matches!(ended, Ending::ByClient) && taken.is_empty(), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn messages_come_in_order_and_in_small_frames() {
        let large = format!("[{}0]", "1234567,".repeat(3000));
        let sent = ["1", &large, "{}"];
        let (ended, taken) = ending(true, stream::iter(sent.map(part)).chain(stream::pending()), async |mut client| {
            for expected in sent {
                let message = client.next().await.unwrap().unwrap();
                assert_eq!(message.to_text().unwrap(), expected);
                client.send(message).await.unwrap();
            }
            client.close(None).await.unwrap();
            while let Some(Ok(_)) = client.next().await {}
        })
        .await;
        assert!(matches!(ended, Ending::ByClient), "{ended:?}");
        assert_eq!(taken, sent);
        let frames: Vec<_> = frames(Bytes::from(large)).collect();
        assert!(frames.len() > 5 && frames.iter().all(|frame| frame.len() <= MAX_FRAME_BYTES + 14));
    }
}
