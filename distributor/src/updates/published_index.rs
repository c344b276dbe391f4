//! Finds the changes that concern a node with interests, without a search through all that led to
//! the published state: thousands of such nodes are told of changes.

use protocol::Revision;

use crate::entries::interests::view::View;
use crate::entries::offers::offer_index::OfferIndex;
use crate::entries::{Difference, EntryTable, Touched};

/// The step that led to the published state, by what entries offer. It is indexed when it is
/// needed.
#[derive(Debug, Default)]
pub(super) struct PublishedIndex {
    /// The state that was published before.
    base: Revision,
    published: Revision,
    step: Option<IndexedStep>,
}

/// The entries touched between two states.
#[derive(Debug)]
struct IndexedStep {
    touched: Touched,
    /// Positions among what was touched.
    offers: OfferIndex,
}

impl PublishedIndex {
    pub(super) fn new(base: Revision, published: Revision) -> Self {
        Self { base, published, step: None }
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
            for (position, entry) in (0..).zip(&touched.entries) {
                entry.before.iter().chain(&entry.after).for_each(|record| offers.add(position, record));
            }
            IndexedStep { touched, offers }
        });
        let positions = step.offers.candidates(interests).into_iter();
        let entries = positions.filter_map(|at| step.touched.entries.get(usize::try_from(at).ok()?));
        Some(step.touched.difference(view, entries))
    }
}
