//! Finds the patterns of events, such as `orders.*`, to which the name of an event belongs.

use foldhash::{HashMap, HashMapExt};

use crate::route::{ANY_WORD, LAST_WORDS};

/// A value per pattern, as a tree of their words. A look-up may have to follow a word and a `*` at
/// each node. A pattern has at most 16 words and 3 wildcards, so it visits at most 697 nodes.
#[derive(Clone, Debug)]
pub(super) struct EventPatterns<T> {
    root: PatternNode<T>,
}

/// A node of the tree of patterns, reached by the words before it.
#[derive(Clone, Debug)]
struct PatternNode<T> {
    words: HashMap<Box<str>, Self>,
    /// What follows any one word.
    any: Option<Box<Self>>,
    /// The value of the pattern that ends here.
    end: Option<T>,
    /// The value of the pattern that has all that follows.
    rest: Option<T>,
}

impl<T> EventPatterns<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// The value of a pattern, made by `new` if there is none. The path is a pattern.
    pub(super) fn entry(&mut self, path: &str, new: impl FnOnce() -> T) -> &mut T {
        let mut node = &mut self.root;
        for word in words(path) {
            node = match word {
                LAST_WORDS => return node.rest.get_or_insert_with(new),
                ANY_WORD => node.any.get_or_insert_with(Box::default),
                word => node.words.entry(word.into()).or_default(),
            };
        }
        node.end.get_or_insert_with(new)
    }

    pub(super) fn get(&self, path: &str) -> Option<&T> {
        let mut node = &self.root;
        for word in words(path) {
            node = match word {
                LAST_WORDS => return node.rest.as_ref(),
                ANY_WORD => node.any.as_ref()?,
                word => node.words.get(word)?,
            };
        }
        node.end.as_ref()
    }

    pub(super) fn get_mut(&mut self, path: &str) -> Option<&mut T> {
        let mut node = &mut self.root;
        for word in words(path) {
            node = match word {
                LAST_WORDS => return node.rest.as_mut(),
                ANY_WORD => node.any.as_mut()?,
                word => node.words.get_mut(word)?,
            };
        }
        node.end.as_mut()
    }

    /// Removes a pattern, and leaves nothing behind.
    pub(super) fn remove(&mut self, path: &str) {
        self.root.remove(words(path));
    }

    /// Passes the values of all patterns to which the path belongs to `found`, the most specific
    /// first: at the first word at which two differ, a word is before a `*`, and a `*` before a
    /// `>`. Ends when `found` returns false.
    pub(super) fn find_all<'a>(&'a self, path: &str, mut found: impl FnMut(&'a T) -> bool) {
        self.root.find_all(path.strip_prefix('/'), &mut found);
    }
}

impl<T> PatternNode<T> {
    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.any.is_none() && self.end.is_none() && self.rest.is_none()
    }

    fn remove<'w>(&mut self, mut words: impl Iterator<Item = &'w str>) {
        match words.next() {
            None => self.end = None,
            Some(LAST_WORDS) => self.rest = None,
            Some(ANY_WORD) => {
                if let Some(node) = &mut self.any {
                    node.remove(words);
                }
                self.any.take_if(|node| node.is_empty());
            }
            Some(word) => {
                let Some(node) = self.words.get_mut(word) else { return };
                node.remove(words);
                if node.is_empty() {
                    self.words.remove(word);
                }
            }
        }
    }

    /// `left` has the words that are left, if any are. Returns whether more is wanted.
    fn find_all<'a>(&'a self, left: Option<&str>, found: &mut impl FnMut(&'a T) -> bool) -> bool {
        let Some(left) = left else { return self.end.as_ref().is_none_or(found) };
        let (word, left) = match left.split_once('.') {
            Some((word, left)) => (word, Some(left)),
            None => (left, None),
        };
        if word.is_empty() {
            return true;
        }
        self.words.get(word).is_none_or(|node| node.find_all(left, found))
            && self.any.as_ref().is_none_or(|node| node.find_all(left, found))
            && self.rest.as_ref().is_none_or(found)
    }
}

/// The words of a pattern's path.
fn words(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('.')
}

impl<T> Default for EventPatterns<T> {
    fn default() -> Self {
        Self { root: PatternNode::default() }
    }
}

impl<T> Default for PatternNode<T> {
    fn default() -> Self {
        Self { words: HashMap::new(), any: None, end: None, rest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check_event, event_matches};

    fn found(patterns: &EventPatterns<String>, name: &str) -> Vec<String> {
        let mut all = Vec::new();
        patterns.find_all(&format!("/{name}"), |pattern| {
            all.push(pattern.clone());
            true
        });
        all
    }

    #[test]
    fn an_event_belongs_to_all_patterns_that_match_it_the_most_specific_first() {
        let mut patterns = EventPatterns::default();
        for pattern in [">", "*", "*.created", "orders.>", "orders.*", "orders.*.eu", "*.*", "orders.*.>"] {
            patterns.entry(&format!("/{pattern}"), || pattern.to_owned());
        }
        #[track_caller]
        fn check(patterns: &EventPatterns<String>, name: &str, expected: &[&str]) {
            assert_eq!(found(patterns, name), expected, "{name}");
        }
        check(&patterns, "orders.created", &["orders.*", "orders.>", "*.created", "*.*", ">"]);
        check(&patterns, "orders", &["*", ">"]);
        check(&patterns, "orders.created.eu", &["orders.*.eu", "orders.*.>", "orders.>", ">"]);
        check(&patterns, "members.left", &["*.*", ">"]);
        check(&patterns, "", &[]);
        let mut first = None;
        patterns.find_all("/orders.created", |pattern| {
            first = Some(pattern.clone());
            false
        });
        assert_eq!(first.as_deref(), Some("orders.*"));
    }

    #[test]
    fn look_ups_follow_the_rule_and_removed_patterns_leave_nothing_behind() {
        for seed in 0..300 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let name = |rng: &mut fastrand::Rng, words: &[&str]| {
                let chosen: Vec<&str> = (0..rng.usize(1..5)).map(|_| words[rng.usize(0..words.len())]).collect();
                chosen.join(".")
            };
            let (mut patterns, mut all) = (EventPatterns::default(), Vec::new());
            for _ in 0..rng.usize(1..30) {
                let pattern = name(rng, &["a", "b", "*", ">"]);
                if check_event(&pattern) != Ok(true) || all.contains(&pattern) {
                    continue;
                }
                patterns.entry(&format!("/{pattern}"), || pattern.clone());
                all.push(pattern);
                if rng.u8(0..4) == 0 {
                    let gone = all.swap_remove(rng.usize(0..all.len()));
                    patterns.remove(&format!("/{gone}"));
                    assert_eq!(patterns.get(&format!("/{gone}")), None);
                }
            }
            for _ in 0..50 {
                let name = name(rng, &["a", "b", "c", ""]);
                let mut expected: Vec<&String> = all.iter().filter(|pattern| event_matches(pattern, &name)).collect();
                let rank = |word: &str| match word {
                    LAST_WORDS => 2,
                    ANY_WORD => 1,
                    _word => 0,
                };
                expected.sort_by_key(|pattern| pattern.split('.').map(rank).collect::<Vec<_>>());
                assert_eq!(found(&patterns, &name).iter().collect::<Vec<_>>(), expected, "seed {seed}: {name}");
            }
            for pattern in &all {
                assert_eq!(patterns.get(&format!("/{pattern}")), Some(pattern));
                assert_eq!(patterns.get_mut(&format!("/{pattern}")).as_deref(), Some(pattern));
                patterns.remove(&format!("/{pattern}"));
            }
            assert!(patterns.is_empty());
        }
    }
}
