//! The services and urls that a node wants to be told of.

use std::collections::BTreeSet;

use crate::entries::record::Record;

/// Service names, and urls as they are registered. Equal for nodes that want the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Interests(BTreeSet<String>);

impl Interests {
    pub(crate) fn new(needs: Vec<String>) -> Self {
        Self(needs.into_iter().collect())
    }

    /// About how much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|need| need.len() + 2 * size_of::<String>()).sum()
    }

    /// Whether a node is one of those.
    pub(crate) fn include(&self, record: &Record) -> bool {
        self.0.contains(&*record.name) || record.urls.iter().any(|url| self.0.contains(&**url))
    }
}
