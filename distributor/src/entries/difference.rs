//! What has changed between two states of the table.

use std::sync::Arc;

use protocol::LeaveReason;

use crate::entries::record::Record;

/// What has changed between two revisions, as far as it concerns one receiver.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) joined: Vec<Arc<Record>>,
    pub(crate) left: Vec<(u64, LeaveReason)>,
    pub(crate) suspect: Vec<u64>,
    pub(crate) trusted: Vec<u64>,
    /// Something has changed, even if nothing of it is left to tell.
    pub(crate) has_changes: bool,
    /// The header of lists has changed.
    pub(crate) header_changed: bool,
}

impl Difference {
    /// A difference that tells the receiver nothing but the new revision.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { joined, left, suspect, trusted, header_changed, .. } = self;
        joined.is_empty() && left.is_empty() && suspect.is_empty() && trusted.is_empty() && !header_changed
    }

    /// About how many bytes its delta has.
    pub(crate) fn bytes(&self) -> usize {
        let entries: usize = self.joined.iter().map(|record| record.entry.len() + 8).sum();
        entries + 32 * self.left.len() + 8 * (self.suspect.len() + self.trusted.len())
    }
}
