//! The entries of version 1 nodes that are expected back.

use std::collections::{BTreeSet, HashMap};

use crate::entries::NodeIdentity;

/// Ids by identity, in order of registration: several workers may share one.
#[derive(Debug, Default)]
pub(super) struct ExpectedEntries {
    ids: HashMap<NodeIdentity, BTreeSet<u64>>,
}

impl ExpectedEntries {
    pub(super) fn insert(&mut self, identity: NodeIdentity, id: u64) {
        self.ids.entry(identity).or_default().insert(id);
    }

    /// Whether a node of this identity is expected.
    pub(super) fn has(&self, identity: &NodeIdentity) -> bool {
        self.ids.contains_key(identity)
    }

    /// The entry that the next node of this identity takes.
    pub(super) fn first(&self, identity: &NodeIdentity) -> Option<u64> {
        self.ids.get(identity)?.first().copied()
    }

    /// Removes an entry that has its node, or is gone.
    pub(super) fn remove(&mut self, identity: &NodeIdentity, id: u64) {
        if let Some(ids) = self.ids.get_mut(identity) {
            ids.remove(&id);
            if ids.is_empty() {
                self.ids.remove(identity);
            }
        }
    }
}
