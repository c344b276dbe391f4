//! Which entries fit into a list that has no room for all.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::ToldToOldPeers;
use crate::entries::{EntryTable, Record};

impl EntryTable {
    /// The confirmed entries that fit into `max_bytes` of a list of version 1 with a comma between
    /// them, in order of registration. The first node of each name comes before the second of any,
    /// so that every service stays known for as long as possible.
    pub(crate) fn records_within(&self, max_bytes: usize, told: ToldToOldPeers) -> Vec<&Arc<Record>> {
        let mut left = max_bytes;
        let mut fits = |record: &Record| {
            let bytes = record.legacy_entry(told).len();
            let fits = record.is_confirmed && bytes < left;
            if fits {
                left -= bytes + 1;
            }
            fits
        };
        let mut names = HashSet::new();
        let first_of_name: Vec<_> = self.records().map(|record| names.insert(&record.name)).collect();
        let mut taken: Vec<_> =
            self.records().zip(&first_of_name).map(|(record, &first)| first && fits(record)).collect();
        for (record, taken) in self.records().zip(&mut taken) {
            *taken = *taken || fits(record);
        }
        self.records().zip(taken).filter_map(|(record, taken)| taken.then_some(record)).collect()
    }
}
