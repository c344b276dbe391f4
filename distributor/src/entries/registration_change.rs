//! The change that a registration makes in the table.

use crate::entries::SessionId;

/// The kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterOutcome {
    /// A node that was not listed is listed.
    Joined,
    /// An entry was replaced.
    Updated,
    /// The entry is unchanged: no peer has to be told.
    Unchanged,
}

/// The change that a registration made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegistrationChange {
    pub(crate) outcome: RegisterOutcome,
    /// The session that had registered the same instance, which no longer owns the entry.
    pub(crate) superseded: Option<SessionId>,
    /// The entry was retained for its node.
    pub(crate) retained: Option<Retained>,
}

impl RegistrationChange {
    /// Whether the node had an entry without this session.
    pub(crate) fn is_return(&self) -> bool {
        self.superseded.is_some() || self.retained.is_some()
    }
}

/// Why an entry without a session was retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retained {
    /// An earlier Distributor knew the node.
    OverRestart,
    /// The node was lost among many.
    OverMassLoss,
}
