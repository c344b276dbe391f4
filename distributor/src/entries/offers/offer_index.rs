//! Finds entries by what they offer, without a look at all of them: thousands of nodes with
//! interests of their own may register at once.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::entries::interests::view::View;
use crate::entries::interests::{Interests, Offer, offers_of};
use crate::entries::{EntryTable, Record};

/// Ids, or positions, of records by what interests may find them by. A record has one entry for its
/// name, and for each url at most nine: itself, and its families, of which there are eight.
#[derive(Debug, Default)]
pub(crate) struct OfferIndex {
    /// The hash of an offer, and an id: about 30 bytes each, as there may be millions.
    ids: BTreeSet<(u64, u64)>,
    hasher: RandomState,
}

impl OfferIndex {
    pub(crate) fn add(&mut self, id: u64, record: &Record) {
        for offer in offers_of(record) {
            self.ids.insert((self.hash(offer), id));
        }
    }

    pub(in crate::entries) fn remove(&mut self, id: u64, record: &Record) {
        for offer in offers_of(record) {
            self.ids.remove(&(self.hash(offer), id));
        }
    }

    /// The records that may match, in order. Hashes may collide.
    pub(crate) fn candidates(&self, interests: &Interests) -> BTreeSet<u64> {
        let ids = interests
            .offers()
            .map(|offer| self.hash(offer))
            .flat_map(|offer| self.ids.range((offer, 0)..=(offer, u64::MAX)).map(|(_, id)| *id));
        ids.collect()
    }

    fn hash(&self, offer: Offer<'_>) -> u64 {
        self.hasher.hash_one(offer)
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
