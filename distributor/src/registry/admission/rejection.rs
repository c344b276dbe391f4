//! Why a peer's packet is turned down.

use std::time::Duration;

/// Why a packet is turned down, or why a registration is not listed now; for the peer and for the
/// log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// A status as in HTTP.
    pub(crate) status: u16,
    /// A stable word.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The time after which the peer should try again, or is listed.
    pub(crate) retry_after: Option<Duration>,
}

impl Rejection {
    pub(crate) fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), retry_after: None }
    }

    /// A copy of the rejection with a time to come back.
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}
