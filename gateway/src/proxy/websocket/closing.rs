//! What a client is told when its WebSocket is closed: a code (RFC 6455, 7.4) and a reason. Pure.

use node_sdk::CallError;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Bytes of a reason: a frame of control has 125, and the code takes two (RFC 6455, 5.5).
const MAX_REASON_BYTES: usize = 123;
/// Added to the status of a service's error. Codes from 4000 on are for programs to agree on.
const STATUS_BASE: u16 = 4000;
/// The word with which a node that stops ends its streams.
const LEAVING: &str = "leaving";

/// A close frame. A reason that is too long is cut between characters.
pub(super) fn close_frame(code: CloseCode, reason: &str) -> CloseFrame {
    CloseFrame { code, reason: Utf8Bytes::from(&reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]) }
}

/// Why a node's stream has ended with an error.
pub(super) fn of_call_error(error: &CallError) -> CloseFrame {
    match error {
        CallError::Refused { status: 503, reason, .. } if reason == LEAVING => {
            close_frame(CloseCode::Restart, "the service restarts")
        }
        CallError::Refused { status, reason, .. } => {
            close_frame(CloseCode::from(STATUS_BASE + (*status).min(999)), reason)
        }
        CallError::Lost { .. } | CallError::Deadline { .. } => {
            close_frame(CloseCode::Error, "the node that held the socket was lost")
        }
        CallError::Overloaded { .. } => close_frame(CloseCode::Again, "the service has no room now"),
        CallError::TooLarge { .. } => close_frame(CloseCode::Size, "the message is larger than the service accepts"),
        _ => close_frame(CloseCode::Error, "the service failed"),
    }
}

/// What a client did that ends its socket; `None` if it has gone.
pub(super) fn of_client_error(error: &Error) -> Option<CloseFrame> {
    Some(match error {
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
            close_frame(CloseCode::Size, &format!("a message may have {max_size} bytes"))
        }
        Error::Capacity(_) => close_frame(CloseCode::Size, "the message is too large"),
        Error::Utf8(_) => close_frame(CloseCode::Invalid, "a text message must be UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        Error::Protocol(fault) => close_frame(CloseCode::Protocol, &fault.to_string()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, reason: &str) -> CallError {
        CallError::Refused { status, reason: reason.to_owned(), message: "for people".to_owned(), retry_after: None }
    }

    #[test]
    fn clients_are_told_why_a_socket_was_closed() {
        for (error, code, reason) in [
            (refused(404, "no_room"), 4404, "no_room"),
            (refused(503, "leaving"), 1012, "the service restarts"),
            (refused(503, "overloaded"), 4503, "overloaded"),
            (refused(65_535, "odd"), 4999, "odd"),
            (
                CallError::Lost { url: "GET/x".to_owned(), node: ([10, 0, 0, 1], 9).into() },
                1011,
                "the node that held the socket was lost",
            ),
            (CallError::NoRoute { url: "GET/x".to_owned() }, 1011, "the service failed"),
        ] {
            let frame = of_call_error(&error);
            assert_eq!((u16::from(frame.code), frame.reason.as_str()), (code, reason), "{error:?}");
        }
    }

    #[test]
    fn a_reason_fits_into_a_frame_of_control() {
        let frame = close_frame(CloseCode::Normal, &"상".repeat(60));
        assert_eq!(frame.reason.len(), 123);
        assert_eq!(frame.reason.as_str(), "상".repeat(41));
    }
}
