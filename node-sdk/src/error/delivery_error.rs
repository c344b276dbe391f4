//! Why an event was not acknowledged.

use thiserror::Error;

use crate::error::CallError;

/// Why an event was not [delivered](crate::Peers::deliver) to all groups.
#[derive(Debug, Error)]
pub enum DeliveryError {
    /// It was sent to no node, and not tried again.
    #[error("the event was not sent")]
    NotSent(#[source] CallError),
    /// Some groups have not acknowledged it in time, or have refused it. A node of theirs may have
    /// handled it nevertheless. Delivered again under the same [id](crate::Deliver::id), it goes to
    /// all groups.
    #[error("{event} was not acknowledged by {}", names(failed))]
    Unacknowledged {
        /// The name of the event.
        event: String,
        /// The groups that have acknowledged it.
        acknowledged: Vec<String>,
        /// The other groups, and the failure of the last attempt of each.
        failed: Vec<(String, CallError)>,
    },
}

impl DeliveryError {
    /// The failure of the first group that has failed.
    pub(crate) fn into_call_error(self) -> Option<CallError> {
        match self {
            Self::NotSent(error) => Some(error),
            Self::Unacknowledged { failed, .. } => failed.into_iter().next().map(|(_, error)| error),
        }
    }
}

fn names(failed: &[(String, CallError)]) -> String {
    let all: Vec<String> = failed.iter().map(|(name, error)| format!("{name} ({error})")).collect();
    all.join(", ")
}
