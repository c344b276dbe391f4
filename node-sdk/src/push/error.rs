//! Why a push has not reached its client.

use net::info;
use thiserror::Error;
use tokio::time::Instant;

use crate::error::ServiceError;

/// Why a push, or another command about held sockets, has failed. As the error of a handler it is
/// 503 `no_client`, or 500 if the message has no JSON form or is too large.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PushError {
    /// No gateway with this session has opened its stream to this node: the gateway has stopped, or
    /// the id is not one. Nothing was sent.
    #[error("no gateway that is connected holds the session {session}")]
    NoGateway {
        /// The id of the session.
        session: String,
    },
    /// Its gateway does not hold the session any more: the client has gone.
    #[error("the session {session} has ended")]
    Ended {
        /// The id of the session.
        session: String,
    },
    /// More waits for the client than its limit allows. The message was not sent; the socket is
    /// being closed.
    #[error("the client of the session {session} does not read")]
    Slow {
        /// The id of the session.
        session: String,
    },
    /// The session is in as many groups as it may be, or the gateway has as many as it may have.
    #[error("the session {session} cannot join another group")]
    Groups {
        /// The id of the session.
        session: String,
    },
    /// The gateway was lost, or has not reported in time. The command may have been carried out.
    #[error("the gateway of the session {session} was lost, or has not reported in time")]
    Lost {
        /// The id of the session.
        session: String,
    },
    /// The message has no JSON form.
    #[error("the message has no JSON form")]
    Message(#[source] serde_json::Error),
    /// The message is larger than gateways take. Send a smaller one, or a url to fetch it by.
    #[error("the message has {bytes} bytes, and clients are sent {max} at most")]
    TooLarge {
        /// The bytes of the message.
        bytes: usize,
        /// As many as it may have.
        max: usize,
    },
    /// The gateway could not read the command: it is of a version that does not know it.
    #[error("the gateway does not know the command")]
    NotKnown,
}

/// The client of a held socket could not be told, and the handler cannot do without that.
impl From<PushError> for ServiceError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Message(_) | PushError::TooLarge { .. } => Self::internal(error.to_string()),
            PushError::NoGateway { .. }
            | PushError::Ended { .. }
            | PushError::Slow { .. }
            | PushError::Groups { .. }
            | PushError::Lost { .. }
            | PushError::NotKnown => {
                let suppressed = THROTTLE.with_borrow_mut(|throttle| throttle.allow("", Instant::now().into_std()));
                if let Some(suppressed) = suppressed {
                    info!(suppressed, "a handler has failed because of a push: {error}");
                }
                Self::new(503, "no_client", "the client of a socket could not be told")
            }
        }
    }
}

thread_local! {
    static THROTTLE: std::cell::RefCell<net::KeyedThrottle> = std::cell::RefCell::default();
}
