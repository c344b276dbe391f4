//! The last changes of the table, one for each revision, and the differences between states that
//! follow from them.
//!
//! It must not write packets: `updates` makes them of the differences.

pub(super) mod difference;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use protocol::{LeaveReason, ResumePoint, Revision};

use crate::entries::changelog::difference::{Touched, TouchedEntry};
use crate::entries::record::Record;

/// Changes that are kept. A node that is further behind gets the list.
pub(crate) const MAX_CHANGES: usize = 8192;
/// Bytes of the entries as they were before those changes: twice the longest list. For a peer that
/// is further behind, the list is shorter than the changes.
pub(crate) const MAX_CHANGE_BYTES: usize = 16 << 20;

/// The last changes, the newest last.
#[derive(Debug)]
pub(super) struct Changelog {
    revision: Revision,
    /// A state of an earlier Distributor, and the number of the equal state here.
    resumes: Option<(ResumePoint, u64)>,
    changes: VecDeque<Change>,
    /// Bytes that the changes keep alive.
    bytes: usize,
}

#[derive(Debug)]
pub(super) enum Change {
    /// Something happened to a node.
    Entry(EntryChange),
    /// Only the header of lists has changed.
    Header,
    /// The nodes of these entries have registered. Peers that already knew the entries need not be
    /// told.
    Confirmed(Vec<Arc<Record>>),
}

#[derive(Debug)]
pub(super) struct EntryChange {
    pub(super) id: u64,
    pub(super) before: Option<Arc<Record>>,
    /// Why it is gone, if it is.
    pub(super) reason: LeaveReason,
}

impl Changelog {
    /// A changelog without changes, at this revision. `equal_to` is a state of an earlier
    /// Distributor that is equal to it.
    pub(super) fn new(revision: Revision, equal_to: Option<ResumePoint>) -> Self {
        let resumes = equal_to.map(|equal| (equal, revision.rev));
        Self { revision, resumes, changes: VecDeque::new(), bytes: 0 }
    }

    /// The newest state.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Bytes of the changes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Our revision from which a receiver that has `have` can be told the changes; `None` when it
    /// needs the list.
    pub(super) fn base(&self, have: ResumePoint) -> Option<u64> {
        let ResumePoint { revision, digest } = have;
        let rev = match self.resumes {
            Some((copied, rev)) if copied.revision == revision && (digest.is_none() || copied.digest == digest) => rev,
            _ if revision.epoch == self.revision.epoch => revision.rev,
            _ => return None,
        };
        let behind = self.revision.rev.checked_sub(rev)?;
        (behind <= self.changes.len() as u64).then_some(rev)
    }

    /// The changes after a revision that is one of [`base`](Self::base).
    fn after(&self, rev: u64) -> impl Iterator<Item = &Change> {
        let behind = usize::try_from(self.revision.rev.saturating_sub(rev)).unwrap_or(usize::MAX);
        self.changes.range(self.changes.len().saturating_sub(behind)..)
    }

    /// The entries that have changed since a revision, as they were at that revision.
    pub(super) fn reverted_since(&self, rev: u64) -> HashMap<u64, Option<&Arc<Record>>> {
        let mut undone = HashMap::new();
        for touched in self.after(rev).filter_map(Change::touched) {
            // The first change after the revision recorded the entry as it was.
            undone.entry(touched.id).or_insert(touched.before.as_ref());
        }
        undone
    }

    /// The entries touched from `base` to `target`, both results of [`base`](Self::base). `listed`
    /// finds the entries of the newest state. Entries whose nodes have registered are
    /// `with_returned`, for receivers that see confirmed entries only.
    pub(super) fn touched<'a>(
        &'a self,
        base: u64,
        target: u64,
        with_returned: bool,
        listed: impl Fn(u64) -> Option<&'a Arc<Record>>,
    ) -> Touched {
        let mut all = Touched::default();
        let undone = self.reverted_since(target);
        // The first change recorded the entry as it was at the base.
        let mut touched: BTreeMap<u64, (Option<&Arc<Record>>, LeaveReason)> = BTreeMap::new();
        let mut returned = HashSet::new();
        let changes = usize::try_from(target.saturating_sub(base)).unwrap_or(usize::MAX);
        for change in self.after(base).take(changes) {
            match change {
                Change::Entry(EntryChange { id, before, reason }) => {
                    all.has_changes = true;
                    touched.entry(*id).or_insert((before.as_ref(), *reason)).1 = *reason;
                }
                Change::Header => {
                    all.has_changes = true;
                    all.header_changed = true;
                }
                Change::Confirmed(records) if with_returned => {
                    for record in records {
                        returned.insert(record.id);
                        touched.entry(record.id).or_insert((None, LeaveReason::Changed));
                    }
                }
                Change::Confirmed(_known_already) => {}
            }
        }
        all.entries = touched
            .into_iter()
            .map(|(id, (before, reason))| {
                let after = undone.get(&id).copied().unwrap_or_else(|| listed(id));
                let has_returned = returned.contains(&id);
                TouchedEntry { id, before: before.cloned(), after: after.cloned(), reason, has_returned }
            })
            .collect();
        all
    }

    /// Logs a change, which makes a new revision.
    pub(super) fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.changes.push_back(change);
        self.revision.rev += 1;
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_CHANGE_BYTES {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }
}

impl Change {
    fn touched(&self) -> Option<&EntryChange> {
        match self {
            Self::Entry(touched) => Some(touched),
            Self::Header | Self::Confirmed(_) => None,
        }
    }

    /// Bytes that the change keeps alive.
    fn bytes(&self) -> usize {
        match self {
            Self::Entry(EntryChange { before, .. }) => before.as_ref().map_or(0, |record| record.bytes()),
            // The entries are listed.
            Self::Confirmed(records) => size_of_val(records.as_slice()),
            Self::Header => 0,
        }
    }
}
