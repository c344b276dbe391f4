//! The response to a call, and what it means.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use protocol::{LegacyResponse, Packet, Part, Response, Version, WRONG_INSTANCE, WRONG_INSTANCE_STATUS};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::CallError;
use crate::transport::response_frame::ResponseFrame;

/// A response as it was received.
#[derive(Debug, Default)]
pub struct RawResponse {
    pub(crate) frame: ResponseFrame,
    pub(crate) node: Option<SocketAddr>,
}

impl RawResponse {
    /// The packet, without its delimiter.
    pub fn packet(&self) -> &Bytes {
        self.frame.frame()
    }

    /// The JSON text of the result, if the packet is a success in the form that our nodes write.
    /// Any other packet has to be read. The text may be malformed.
    pub fn result(&self) -> Option<&[u8]> {
        self.frame.result()
    }

    /// The raw bytes that are the result, if the node has answered with such.
    pub fn attachment(&self) -> Option<&Bytes> {
        self.frame.attachment()
    }

    /// The node that has answered; `None` if it is this one.
    pub fn node(&self) -> Option<SocketAddr> {
        self.node
    }

    /// Reads the response.
    ///
    /// # Errors
    /// When the frame is not a packet: a version 1 service answers `null` to a method that it does
    /// not know.
    pub fn read(&self) -> Result<Response<'_>, protocol::PacketError> {
        Packet::parse(self.packet()).map(|packet| Response::from_packet(&packet))
    }
}

/// Why a response holds no result.
pub(crate) enum ResponseError {
    Refused { status: u16, reason: String, message: String, retry_after: Option<Duration> },
    Unreadable(serde_json::Error),
}

impl ResponseError {
    /// Makes an error of a call of `url`.
    pub(crate) fn into_call_error(self, url: impl FnOnce() -> String) -> CallError {
        match self {
            Self::Refused { status, reason, message, retry_after } => {
                CallError::Refused { status, reason, message, retry_after }
            }
            Self::Unreadable(source) => CallError::Response { url: url(), source },
        }
    }
}

/// Reads the result of a response. A type without data, such as `()`, takes any result.
pub(crate) fn read_result<T: DeserializeOwned>(raw: &RawResponse) -> Result<T, ResponseError> {
    // The usual response is read once. If that fails, parsing the whole packet says why.
    if let Some(result) = raw.result()
        && let Ok(result) = serde_json::from_slice(result)
    {
        return Ok(result);
    }
    let answer = raw.read().map_err(|_no_packet| ResponseError::Refused {
        status: 501,
        reason: "old_error".to_owned(),
        message: "the node does not know the method".to_owned(),
        retry_after: None,
    })?;
    if answer.status >= 400 {
        let reason = answer.reason.map_or_else(|| "old_error".to_owned(), Cow::into_owned);
        let message = answer.message.unwrap_or_default().into_owned();
        return Err(ResponseError::Refused { status: answer.status, reason, message, retry_after: answer.retry_after });
    }
    let read = match answer.version {
        Version::V1 => read_legacy(raw.packet()),
        Version::V2 => serde_json::from_str(answer.body.map_or("null", RawValue::get)),
    };
    read.or_else(|error| takes_anything::<T>().ok_or(error)).map_err(ResponseError::Unreadable)
}

/// The value of a type without data, which is read from nothing.
fn takes_anything<T: DeserializeOwned>() -> Option<T> {
    (size_of::<T>() == 0).then(|| serde_json::from_str("null").ok())?
}

/// Reads all that a version 1 answer holds, or only its `results` if that is what fits.
fn read_legacy<T: DeserializeOwned>(frame: &[u8]) -> Result<T, serde_json::Error> {
    let Some(LegacyResponse { all, results }) = LegacyResponse::parse(frame) else {
        return serde_json::from_slice(frame);
    };
    match (serde_json::from_str(&all), results) {
        (Err(_), Some(results)) => serde_json::from_str(results),
        (read, _) => read,
    }
}

/// Whether a response says that its node has done nothing: it is overloaded, or not the one that
/// the call is for.
pub(crate) fn is_declined(frame: &ResponseFrame) -> bool {
    if frame.is_success() {
        return false;
    }
    let Ok(packet) = Packet::parse(frame.frame()) else { return false };
    let answer = Response::from_packet(&packet);
    let said = (answer.status, answer.reason.as_deref().unwrap_or_default());
    answer.version == Version::V2 && matches!(said, (503, "overloaded") | (WRONG_INSTANCE_STATUS, WRONG_INSTANCE))
}

/// Whether a response says that the call has become a stream.
pub(super) fn opens_stream(frame: &ResponseFrame) -> bool {
    let opening = Packet::parse(frame.frame()).ok().as_ref().and_then(Part::from_packet);
    opening.is_some_and(|part| part.number == 0)
}
