//! Finds entries by what they offer, without a look at all of them: thousands of nodes with
//! interests of their own may register at once.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::entries::interests::{Interests, offers_of};
use crate::entries::view::View;
use crate::entries::{EntryTable, Record};

/// Ids, or positions, of records by what interests may find them by, as hashes. It has as much as
/// the records have urls, and the segments of these.
#[derive(Debug, Default)]
pub(crate) struct OfferIndex {
    ids: HashMap<u64, BTreeSet<u64>>,
    hasher: RandomState,
}

impl OfferIndex {
    pub(crate) fn add(&mut self, id: u64, record: &Record) {
        offers_of(record, |offer| {
            self.ids.entry(self.hasher.hash_one(offer)).or_default().insert(id);
        });
    }

    pub(super) fn remove(&mut self, id: u64, record: &Record) {
        offers_of(record, |offer| {
            if let Entry::Occupied(mut ids) = self.ids.entry(self.hasher.hash_one(offer)) {
                ids.get_mut().remove(&id);
                if ids.get().is_empty() {
                    ids.remove();
                }
            }
        });
    }

    /// The records that may match, in order. Hashes may collide.
    pub(crate) fn candidates(&self, interests: &Interests) -> BTreeSet<u64> {
        let offers = interests.offers().map(|offer| self.hasher.hash_one(offer));
        offers.filter_map(|offer| self.ids.get(&offer)).flatten().copied().collect()
    }
}

impl EntryTable {
    /// The nodes of an earlier revision, a result of [`base`](Self::base), that a view shows, in
    /// order of registration; and how many were looked at.
    pub(crate) fn records_for(&self, rev: u64, view: &View) -> (Vec<Arc<Record>>, usize) {
        let Some(interests) = &view.interests else {
            let records = self.records_at(rev).into_iter().filter(|record| view.includes(record));
            return (records.cloned().collect(), self.len());
        };
        let undone = self.changelog.reverted_since(rev);
        let candidates = self.index.candidates(interests);
        let looks = candidates.len() + undone.len();
        let now = candidates.iter().filter(|id| !undone.contains_key(id)).filter_map(|id| self.record(*id));
        let all = now.chain(undone.values().copied().flatten());
        let mut records: Vec<_> = all.filter(|record| view.includes(record)).cloned().collect();
        records.sort_unstable_by_key(|record| record.id);
        (records, looks)
    }
}
