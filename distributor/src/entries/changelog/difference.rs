//! The difference between two states of the table.

use std::sync::Arc;

use protocol::LeaveReason;

use crate::entries::EntryTable;
use crate::entries::interests::view::View;
use crate::entries::record::Record;

/// The entries touched between two revisions, for all receivers.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) entries: Vec<TouchedEntry>,
    /// Whether something has changed, even if nothing of it is left to tell.
    pub(crate) has_changes: bool,
    /// Whether the header of lists has changed.
    pub(crate) header_changed: bool,
}

/// An entry as it was at the one revision and at the other.
#[derive(Debug)]
pub(crate) struct TouchedEntry {
    pub(crate) id: u64,
    pub(crate) before: Option<Arc<Record>>,
    pub(crate) after: Option<Arc<Record>>,
    /// Why it has left, if it has.
    pub(crate) reason: LeaveReason,
    /// Whether the node has registered itself, and receivers that see confirmed entries only do not
    /// know it.
    pub(crate) has_returned: bool,
}

impl Touched {
    /// The difference for a receiver with this view, from these entries, which are among the
    /// touched ones.
    pub(crate) fn difference<'a>(
        &self,
        view: &View,
        entries: impl IntoIterator<Item = &'a TouchedEntry>,
    ) -> Difference {
        let Self { has_changes, header_changed, .. } = *self;
        let mut difference = Difference { has_changes, header_changed, ..Difference::default() };
        entries.into_iter().for_each(|touched| difference.add(view, touched));
        difference
    }
}

/// The difference between two revisions, as far as it concerns one receiver.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) joined: Vec<Arc<Record>>,
    pub(crate) left: Vec<(u64, LeaveReason)>,
    pub(crate) suspect: Vec<u64>,
    pub(crate) trusted: Vec<u64>,
    /// Whether something has changed, even if nothing of it is left to tell.
    pub(crate) has_changes: bool,
    /// Whether the header of lists has changed.
    pub(crate) header_changed: bool,
}

impl EntryTable {
    /// The difference from `base` to `target`, both results of [`base`](Self::base), for a receiver
    /// with this view.
    pub(crate) fn difference(&self, base: u64, target: u64, view: &View) -> Difference {
        let touched = self.touched(base, target, view.confirmed_only);
        touched.difference(view, &touched.entries)
    }

    /// The entries touched from `base` to `target`: see [`Touched`].
    pub(crate) fn touched(&self, base: u64, target: u64, with_returned: bool) -> Touched {
        self.changelog.touched(base, target, with_returned, |id| self.record(id))
    }
}

impl Difference {
    /// Whether the difference tells the receiver nothing but the new revision.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { joined, left, suspect, trusted, header_changed, .. } = self;
        joined.is_empty() && left.is_empty() && suspect.is_empty() && trusted.is_empty() && !header_changed
    }

    fn add(&mut self, view: &View, touched: &TouchedEntry) {
        let TouchedEntry { id, before, after, reason, has_returned } = touched;
        let before = before.as_ref().filter(|record| view.includes(record));
        let is_listed = after.is_some();
        let after = after.as_ref().filter(|record| view.includes(record));
        // Before this was logged, a list may have shown it to a peer that sees confirmed entries
        // only. Sending it twice does no harm.
        let before = before.filter(|_| !(*has_returned && after.is_some()));
        match (before, after) {
            (None, None) if *has_returned => self.left.push((*id, *reason)),
            (None, None) => {}
            (Some(_), None) => self.left.push((*id, if is_listed { LeaveReason::Changed } else { *reason })),
            (before, Some(after)) => {
                let was_suspect = match before {
                    Some(before) if before.entry == after.entry => before.is_suspect,
                    // A new entry is not suspect.
                    _ => {
                        self.joined.push(Arc::clone(after));
                        false
                    }
                };
                match (was_suspect, after.is_suspect) {
                    (false, true) => self.suspect.push(*id),
                    (true, false) => self.trusted.push(*id),
                    (false, false) | (true, true) => {}
                }
            }
        }
    }

    /// About how many bytes its delta has.
    pub(crate) fn bytes(&self) -> usize {
        let entries: usize = self.joined.iter().map(|record| record.entry.len() + 8).sum();
        entries + 32 * self.left.len() + 8 * (self.suspect.len() + self.trusted.len())
    }
}
