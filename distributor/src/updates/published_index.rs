//! Finds the entries that concern a node with interests, without a search through all of them:
//! thousands of such nodes may register at once, and all of them are told of changes.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use protocol::Revision;

use crate::entries::interests::Interests;
use crate::entries::view::View;
use crate::entries::{Difference, EntryTable, Record, Touched};

/// Partial lists of one state that are made by looking at all entries. For more of them, an index
/// takes less time.
const SCANS_BEFORE_INDEX: usize = 2;

/// The published state, and the step that led to it, by what entries offer. Either is indexed when
/// it is needed.
#[derive(Debug, Default)]
pub(super) struct PublishedIndex {
    /// The state that was published before.
    base: Revision,
    published: Revision,
    /// The partial lists of this state that were made by looking at all entries.
    scans: usize,
    state: Option<IndexedState>,
    step: Option<IndexedStep>,
}

/// The entries of one state.
#[derive(Debug)]
struct IndexedState {
    records: Vec<Arc<Record>>,
    offers: OfferIndex,
}

/// The entries touched between two states.
#[derive(Debug)]
struct IndexedStep {
    touched: Touched,
    offers: OfferIndex,
}

/// The positions of records by their names and urls, as hashes.
#[derive(Debug, Default)]
struct OfferIndex {
    positions: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
}

impl PublishedIndex {
    pub(super) fn new(base: Revision, published: Revision) -> Self {
        Self { base, published, ..Self::default() }
    }

    /// The entries that a view shows of a state, and how many were looked at to find them.
    pub(super) fn records(
        &mut self,
        entries: &EntryTable,
        revision: Revision,
        view: &View,
    ) -> (Vec<Arc<Record>>, usize) {
        let interests = view.interests.as_ref().filter(|_| revision == self.published);
        let Some(interests) = interests.filter(|_| self.scans >= SCANS_BEFORE_INDEX) else {
            self.scans += usize::from(revision == self.published);
            let records = entries.records_at(revision.rev).into_iter().filter(|record| view.includes(record));
            return (records.cloned().collect(), entries.len());
        };
        let is_new = self.state.is_none();
        let state = self.state.get_or_insert_with(|| {
            let records: Vec<_> = entries.records_at(revision.rev).into_iter().cloned().collect();
            let mut offers = OfferIndex::default();
            records.iter().enumerate().for_each(|(position, record)| offers.add(position, record));
            IndexedState { records, offers }
        });
        let candidates = state.offers.candidates(interests);
        let looks = if is_new { entries.len() } else { candidates.len() };
        let records = candidates.into_iter().map(|position| &state.records[position]);
        (records.filter(|record| view.includes(record)).cloned().collect(), looks)
    }

    /// The touched entries that concern a view, from `base` to `target`; `None` if that is not the
    /// step that led to the published state, or if further entries concern the view.
    pub(super) fn difference(
        &mut self,
        entries: &EntryTable,
        base: u64,
        target: Revision,
        view: &View,
    ) -> Option<Difference> {
        let interests = view.interests.as_ref().filter(|_| !view.confirmed_only)?;
        let from = Revision { rev: base, ..target };
        if (from, target) != (self.base, self.published) {
            return None;
        }
        let step = self.step.get_or_insert_with(|| {
            let touched = entries.touched(base, target.rev, false);
            let mut offers = OfferIndex::default();
            for (position, entry) in touched.entries.iter().enumerate() {
                entry.before.iter().chain(&entry.after).for_each(|record| offers.add(position, record));
            }
            IndexedStep { touched, offers }
        });
        let candidates = step.offers.candidates(interests);
        Some(step.touched.difference(view, candidates.into_iter().map(|position| &step.touched.entries[position])))
    }
}

impl OfferIndex {
    fn add(&mut self, position: usize, record: &Record) {
        for offer in std::iter::once(&record.name).chain(&record.urls) {
            let positions = self.positions.entry(self.hasher.hash_one(&**offer)).or_default();
            if positions.last() != Some(&position) {
                positions.push(position);
            }
        }
    }

    /// The records that may match, in order. Hashes may collide.
    fn candidates(&self, interests: &Interests) -> BTreeSet<usize> {
        let offers = interests.iter().map(|need| self.hasher.hash_one(need));
        offers.filter_map(|offer| self.positions.get(&offer)).flatten().copied().collect()
    }
}
