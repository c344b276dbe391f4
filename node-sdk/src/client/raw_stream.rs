//! Streams as gateways see them: parts that are passed on, and the bodies of requests that are sent
//! in parts.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use protocol::{EventFields, Packet, Side, StreamHead, parse_part, parse_raw_part, read_raw_part, write_raw_part};
use serde::de::Error as _;
use serde_json::value::RawValue;
use tokio::time::sleep;

use crate::client::call::raw_call::RawCall;
use crate::client::call::response::{RawResponse, ResponseError, read_result};
use crate::client::stream::{Duplex, FromPart};
use crate::error::CallError;
use crate::transport::connection::OpenStream;
use crate::transport::flow::{max_part_bytes, take_front};
use crate::transport::write_queue::EnqueueError;

/// When a connection whose queue is full is tried again. Its node reads less than others send.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The response of a node, unread: see [`RawCall::open`].
#[derive(Debug)]
pub enum RawReply {
    /// The response came in one piece.
    Response(RawResponse),
    /// The node has begun a stream.
    Stream {
        /// The head of the response, if raw bytes follow.
        head: Option<RawHead>,
        /// Its parts.
        parts: Duplex<RawPart>,
    },
}

/// The head of a response whose body comes in parts of raw bytes.
#[derive(Clone, Debug)]
pub struct RawHead {
    /// The status that the node gives.
    pub status: u16,
    /// How many bytes follow, if the node says so. It may be wrong.
    pub length: Option<u64>,
    /// The header fields as JSON, if there are any. The text may be anything else than a list of
    /// pairs.
    pub headers: Option<Box<RawValue>>,
}

/// A part of a node's stream.
#[derive(Debug)]
pub enum RawPart {
    /// A JSON text, and what it has as a server-sent event.
    Json(Box<RawValue>, Option<Box<EventFields<'static>>>),
    /// The head of a response whose body is the raw bytes that follow: before any other part.
    Head(RawHead),
    /// Raw bytes.
    Bytes(Bytes),
    /// A response like that of a call, with which the stream ends: the only result, or an error.
    Response(RawResponse),
}

impl RawPart {
    /// The part of a stream of JSON texts.
    ///
    /// # Errors
    /// The error with which the node has ended the stream, or [`CallError::Response`] if the part
    /// is not JSON.
    pub fn into_json(self, url: &str) -> Result<Box<RawValue>, CallError> {
        self.into_event(url).map(|(text, _fields)| text)
    }

    /// As [`into_json`](Self::into_json), with what the part has as a server-sent event.
    ///
    /// # Errors
    /// As for that method.
    pub fn into_event(self, url: &str) -> Result<(Box<RawValue>, Option<Box<EventFields<'static>>>), CallError> {
        let unreadable = |what| ResponseError::Unreadable(serde_json::Error::custom(what));
        let read = match self {
            Self::Json(text, fields) => Ok((text, fields)),
            Self::Response(response) => read_result(&response).map(|text| (text, None)),
            Self::Head(_) | Self::Bytes(_) => Err(unreadable("a part is raw bytes, which were not asked for")),
        };
        read.map_err(|error| error.into_call_error(|| url.to_owned()))
    }
}

impl FromPart for RawPart {
    fn from_part(frame: Bytes) -> Result<Self, serde_json::Error> {
        if let Some((_, _, raw)) = parse_raw_part(&frame, Side::Callee) {
            return Ok(Self::Bytes(frame.slice_ref(raw)));
        }
        if let Some((_, _, body)) = parse_part(&frame, Side::Callee)
            && let Ok(text) = serde_json::from_slice(body)
        {
            return Ok(Self::Json(text, None));
        }
        if let Some(raw) = read_raw_part(&frame) {
            return Ok(Self::Bytes(frame.slice_ref(raw)));
        }
        let packet = Packet::parse(&frame).map_err(serde_json::Error::custom)?;
        if let Some(head) = RawHead::from_packet(&packet) {
            return Ok(Self::Head(head));
        }
        let fields = EventFields::from_packet(&packet).map(|fields| Box::new(fields.into_static()));
        serde_json::from_str(packet.params.map_or("null", RawValue::get)).map(|text| Self::Json(text, fields))
    }

    fn from_response(response: RawResponse, _url: &str) -> Result<Self, CallError> {
        Ok(Self::Response(response))
    }
}

impl RawHead {
    fn from_packet(packet: &Packet<'_>) -> Option<Self> {
        let StreamHead { status, length, headers } = StreamHead::from_packet(packet)?;
        Some(Self { status, length, headers: headers.map(ToOwned::to_owned) })
    }
}

impl RawCall<'_> {
    /// Makes a call whose response may be a stream. At most `window` bytes of parts, and one more
    /// part, wait here to be read. Dropping the future cancels the call.
    ///
    /// # Errors
    /// Those of [`GatewayPeers::call_raw`](crate::gateway::GatewayPeers::call_raw).
    pub async fn open(self, window: u32) -> Result<RawReply, CallError> {
        let mut raw = self.streaming(window);
        let answer = (&mut raw).await?;
        let parts = Duplex::from_call(&mut raw);
        if !parts.is_open() {
            return Ok(RawReply::Response(answer));
        }
        let head = Packet::parse(answer.packet()).ok().as_ref().and_then(RawHead::from_packet);
        Ok(RawReply::Stream { head, parts })
    }
}

impl Duplex<RawPart> {
    /// The reply of a node that has taken the body of a request: what its first part says.
    ///
    /// # Errors
    /// The node was lost, or has broken the rules of streams.
    pub async fn reply(mut self) -> Result<RawReply, CallError> {
        match self.next().await.transpose()? {
            Some(RawPart::Response(response)) => Ok(RawReply::Response(response)),
            Some(RawPart::Head(head)) => Ok(RawReply::Stream { head: Some(head), parts: self }),
            Some(first) => {
                self.put_back(first);
                Ok(RawReply::Stream { head: None, parts: self })
            }
            None => Ok(RawReply::Stream { head: None, parts: self }),
        }
    }

    /// A sender of the body of a client's request, of which the node was told that it
    /// [follows](RawCall::body_follows).
    pub fn body_sender(&self) -> BodySender {
        BodySender { open: self.open_stream().cloned(), url: self.url().to_owned() }
    }

    /// Lets the node send this many more bytes ahead.
    pub fn widen(&self, bytes: u32) {
        if let Some(open) = self.open_stream() {
            open.widen(bytes);
        }
    }
}

/// Sends the body of a client's request in parts. From [`Duplex::body_sender`].
#[derive(Clone, Debug)]
pub struct BodySender {
    open: Option<Arc<OpenStream>>,
    url: String,
}

impl BodySender {
    /// Sends one part, as soon as the node grants credit: as much from the front of `body` as one
    /// part may have. What was sent is no longer in `body`. Cancel safe: a part is sent as a whole
    /// or not at all.
    ///
    /// # Errors
    /// [`CallError::Ended`] when the stream is over; its end says why. Others when the part cannot
    /// be sent.
    pub async fn send(&self, body: &mut VecDeque<Bytes>) -> Result<(), CallError> {
        let ended = || CallError::Ended { url: self.url.clone() };
        let Some(open) = &self.open else { return Err(ended()) };
        loop {
            let credit = poll_fn(|task| open.poll_send(task)).await.map_err(|_closed| ended())?;
            let pieces = take_front(body, max_part_bytes(credit));
            let bytes = pieces.iter().map(Bytes::len).sum();
            let sent = open.send(|number, out| {
                let pieces = pieces.iter().map(|piece| &**piece);
                write_raw_part(out, Side::Caller, (open.key(), number), bytes, pieces)
            });
            match sent {
                Ok(true) => return Ok(()),
                // Nothing was sent, so nothing may be lost.
                not_sent => {
                    pieces.into_iter().rev().for_each(|piece| body.push_front(piece));
                    match not_sent {
                        Ok(_) => {}
                        Err(EnqueueError::Full) => sleep(FULL_PAUSE).await,
                        Err(EnqueueError::TooLarge) => return Err(CallError::TooLarge { url: self.url.clone() }),
                    }
                }
            }
        }
    }

    /// Says that no part follows: the body is whole. Calling it again does nothing.
    pub fn finish(&self) {
        if let Some(open) = &self.open {
            open.finish();
        }
    }
}
