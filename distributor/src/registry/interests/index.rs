//! Finds the interests that include a node by what it offers, without a look at all interests:
//! thousands of nodes have interests of their own.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::entries::Record;
use crate::entries::interests::{Interests, offers_of};

/// The interests of many sessions, each once. They are as many as the budget for interests allows.
#[derive(Debug, Default)]
pub(in crate::registry) struct InterestIndex {
    counts: HashMap<Arc<Interests>, InterestCount>,
    /// The hash of what they are found by, and their number.
    numbers: BTreeSet<(u64, u64)>,
    hasher: RandomState,
    next: u64,
}

#[derive(Debug)]
struct InterestCount {
    number: u64,
    sessions: usize,
}

/// Interests that a session has, with their number. Equal interests have one number.
pub(in crate::registry) type NumberedInterests = (u64, Arc<Interests>);

impl InterestIndex {
    /// Counts a session with these interests.
    pub(in crate::registry) fn add(&mut self, interests: &Arc<Interests>) -> NumberedInterests {
        if let Some((known, _)) = self.counts.get_key_value(interests) {
            let known = Arc::clone(known);
            let number = self.counts.get_mut(&known).map_or(0, |count| {
                count.sessions += 1;
                count.number
            });
            return (number, known);
        }
        let number = self.next;
        self.next += 1;
        self.numbers.extend(interests.offers().map(|offer| (self.hasher.hash_one(offer), number)));
        self.counts.insert(Arc::clone(interests), InterestCount { number, sessions: 1 });
        (number, Arc::clone(interests))
    }

    /// Removes the interests of a session.
    pub(in crate::registry) fn remove(&mut self, (number, interests): &NumberedInterests) {
        let Some(count) = self.counts.get_mut(interests) else { return };
        count.sessions -= 1;
        if count.sessions == 0 {
            self.counts.remove(interests);
            for offer in interests.offers() {
                self.numbers.remove(&(self.hasher.hash_one(offer), *number));
            }
        }
    }

    /// The numbers of the interests that include a node; and how many of its offers and of
    /// interests were looked at.
    pub(in crate::registry) fn including(&self, record: &Record) -> (HashSet<u64>, usize) {
        let (mut found, mut looks) = (HashSet::new(), 0);
        for offer in offers_of(record) {
            let offer = self.hasher.hash_one(offer);
            looks += 1;
            for (_, number) in self.numbers.range((offer, 0)..=(offer, u64::MAX)) {
                found.insert(*number);
                looks += 1;
            }
        }
        (found, looks)
    }

    /// Whether no session has interests.
    #[cfg(test)]
    pub(in crate::registry) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.numbers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Registration, RegistrationLimits};

    use super::*;

    #[test]
    fn what_includes_a_node_is_found_without_a_look_at_the_rest() {
        let mut index = InterestIndex::default();
        let mut all = Vec::new();
        for node in 0..3000 {
            let urls: Vec<_> = (0..20).map(|url| format!("GET/{node}/{url}")).collect();
            let popular = if node < 3 { &["GET/goods/{x}"][..] } else { &[] };
            let urls = urls.iter().map(String::as_str).chain(popular.iter().copied());
            all.push(index.add(&Arc::new(Interests::used(urls))));
        }
        all.push(index.add(&Arc::new(Interests::named(vec!["n".into()]))));
        all.push(index.add(&all[0].1.clone()));
        assert_eq!(all[0].0, all[3001].0, "equal interests are one");
        let urls: Vec<_> = (0..200).map(|url| format!("GET/goods/{url}")).collect();
        let params = serde_json::json!({ "port": 1, "name": "n", "urls": urls }).to_string();
        let params = serde_json::from_str(&params).ok();
        let record = Record::new(1, &Registration::parse(params, &RegistrationLimits::default()).unwrap(), "::1");
        let (found, looks) = index.including(&record);
        let expected = all.iter().filter(|(_, interests)| interests.include(&record)).map(|(number, _)| *number);
        assert_eq!(found, expected.collect::<HashSet<_>>());
        assert_eq!(found.len(), 4);
        // The node's name, and three offers for each url; four interests match one of them.
        assert!(looks <= 1 + 3 * 200 + 1 + 3 * 200, "{looks}");
        all.iter().for_each(|interests| index.remove(interests));
        assert!(index.is_empty());
    }
}
