//! The services and urls of which a node wants to be told.

use std::collections::BTreeSet;

use crate::entries::record::Record;

/// Service names, and urls as registered. Nodes with the same interests have equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Interests(BTreeSet<String>);

impl Interests {
    pub(crate) fn new(interests: Vec<String>) -> Self {
        Self(interests.into_iter().collect())
    }

    /// About how many bytes of memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|need| need.len() + 2 * size_of::<String>()).sum()
    }

    /// The names and urls.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|need| &**need)
    }

    /// Whether a node matches these interests.
    pub(crate) fn include(&self, record: &Record) -> bool {
        self.0.contains(&*record.name) || record.urls.iter().any(|url| self.0.contains(&**url))
    }
}
