//! How much of the registry a peer is shown.

use std::sync::Arc;

use crate::entries::interests::Interests;
use crate::entries::record::Record;

/// How much of the registry a peer is shown. Peers that are shown the same are sent the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct View {
    /// The peer's interests; `None` means all.
    pub(crate) interests: Option<Arc<Interests>>,
    /// Whether the peer does not see entries that were only copied from another node: it was sent a
    /// list while there were such entries.
    pub(crate) confirmed_only: bool,
}

impl View {
    /// Whether the peer is shown all entries.
    pub(crate) fn is_all(&self) -> bool {
        self.interests.is_none() && !self.confirmed_only
    }

    /// Whether an entry is shown.
    pub(crate) fn includes(&self, record: &Record) -> bool {
        (record.is_confirmed || !self.confirmed_only)
            && self.interests.as_ref().is_none_or(|interests| interests.include(record))
    }
}
