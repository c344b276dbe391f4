//! How a held socket has ended: for its client, for its session, and for its service.

use node_sdk::CallError;
use protocol::SocketClosed;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::message::problem::Problem;
use crate::proxy::websocket::closing::{close_frame, of_call_error};
use crate::sessions::SessionEnding;

/// The code for a client that has gone without one (RFC 6455, 7.4.1).
const GONE_CODE: u16 = 1006;

/// How a held socket has ended.
#[derive(Debug)]
pub(super) enum HeldEnding {
    /// The client has closed it, with this code and reason.
    ByClient { code: u16, reason: String },
    /// The client has gone, or does not answer.
    Gone,
    /// It is closed with this code and reason.
    Close { frame: CloseFrame, fate: SessionFate },
}

/// What becomes of the session of a socket that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionFate {
    /// It ends.
    Ends,
    /// It waits for its client, if its route says so.
    Waits,
    /// It goes on over another socket.
    GoesOn,
}

impl HeldEnding {
    pub(super) fn close(code: CloseCode, reason: &str, fate: SessionFate) -> Self {
        Self::Close { frame: close_frame(code, reason), fate }
    }

    /// As the session says.
    pub(super) fn of_session(ending: &SessionEnding) -> Self {
        match ending {
            SessionEnding::ByNode { code, reason } => Self::close(CloseCode::from(*code), reason, SessionFate::Ends),
            SessionEnding::Slow => {
                Self::close(CloseCode::Again, "more waits for the client than may: it does not read", SessionFate::Ends)
            }
            SessionEnding::TakenOver => {
                Self::close(CloseCode::Policy, "the session goes on over another socket", SessionFate::GoesOn)
            }
        }
    }

    /// The call for a message has failed.
    pub(super) fn of_call(error: &CallError) -> Self {
        let frame = match error {
            CallError::NoProvider { .. } | CallError::NoRoute { .. } => {
                close_frame(CloseCode::Again, "no node takes the message now: send it again")
            }
            CallError::Lost { .. } | CallError::Deadline { .. } => {
                close_frame(CloseCode::Error, "the message may not have been handled")
            }
            other => of_call_error(other),
        };
        Self::Close { frame, fate: SessionFate::Waits }
    }

    /// The service has refused a message.
    pub(super) fn of_refusal(problem: &Problem) -> Self {
        let code = CloseCode::from(4000 + problem.status.as_u16().min(999));
        Self::close(code, problem.kind.as_str(), SessionFate::Ends)
    }

    /// What becomes of the session.
    pub(super) fn fate(&self) -> SessionFate {
        match self {
            // A client that says goodbye does not come back. One whose page is reloaded may.
            Self::ByClient { code: 1000, .. } => SessionFate::Ends,
            Self::ByClient { .. } | Self::Gone => SessionFate::Waits,
            Self::Close { fate, .. } => *fate,
        }
    }

    /// Whether the client did not read.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self, Self::Close { frame, fate: SessionFate::Ends } if frame.code == CloseCode::Again)
    }

    /// The arguments of the event `close`.
    pub(super) fn closed(&self) -> SocketClosed {
        match self {
            Self::ByClient { code, reason } => SocketClosed { code: *code, reason: reason.clone() },
            Self::Gone => SocketClosed { code: GONE_CODE, reason: String::new() },
            Self::Close { frame, .. } => {
                SocketClosed { code: frame.code.into(), reason: frame.reason.as_str().to_owned() }
            }
        }
    }
}
