//! The services and urls of which a node wants to be told.

use std::collections::BTreeSet;

use crate::entries::record::Record;

/// The services and urls that a node is told of. Nodes with the same interests have equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Interests {
    kind: InterestKind,
    /// Names of services, and urls as registered.
    texts: BTreeSet<Box<str>>,
    /// The families of the urls with parameters.
    families: BTreeSet<Box<str>>,
}

/// Who has said what a node is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum InterestKind {
    /// Its author: it is told of these services and urls, and of no others.
    Named,
    /// The node itself, by what it uses. It asks for more when it needs more. It is told of all
    /// that may be preferred for its calls, too.
    Used,
}

impl Interests {
    /// The interests that an author has named.
    pub(crate) fn named(interests: Vec<String>) -> Self {
        let texts = interests.into_iter().map(Into::into).collect();
        Self { kind: InterestKind::Named, texts, families: BTreeSet::new() }
    }

    /// The interests of a node that uses these urls.
    pub(crate) fn used<'u>(urls: impl IntoIterator<Item = &'u str>) -> Self {
        let texts: BTreeSet<Box<str>> = urls.into_iter().map(Box::from).collect();
        let families = texts.iter().filter_map(|url| family_of(url)).collect();
        Self { kind: InterestKind::Used, texts, families }
    }

    /// The same, with more urls.
    pub(crate) fn with<'u>(&'u self, urls: impl IntoIterator<Item = &'u str>) -> Self {
        Self::used(self.texts.iter().map(|text| &**text).chain(urls))
    }

    pub(crate) fn kind(&self) -> InterestKind {
        self.kind
    }

    /// How many names and urls there are.
    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether they name this url, or all of its family.
    pub(crate) fn has(&self, url: &str) -> bool {
        self.texts.contains(url) || family_of(url).is_some_and(|family| self.families.contains(&family))
    }

    /// About how many bytes of memory they take.
    pub(crate) fn bytes(&self) -> usize {
        let both = self.texts.iter().chain(&self.families);
        both.map(|text| text.len() + 2 * size_of::<Box<str>>()).sum()
    }

    /// What a node that matches is indexed by: see [`offers_of`].
    pub(crate) fn offers(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().chain(&self.families).map(|text| &**text)
    }

    /// Whether a node matches these interests.
    pub(crate) fn include(&self, record: &Record) -> bool {
        if self.texts.contains(&*record.name) && self.kind == InterestKind::Named {
            return true;
        }
        let is_of_family = |url: &str| families_with(url).any(|family| self.families.contains(&*family));
        record.urls.iter().any(|url| self.texts.contains(url) || (!self.families.is_empty() && is_of_family(url)))
    }
}

/// All that interests may find a node by: its name, its urls, and their families.
pub(crate) fn offers_of(record: &Record, mut offer: impl FnMut(&str)) {
    offer(&record.name);
    for url in &record.urls {
        offer(url);
        families_with(url).for_each(|family| offer(&family));
    }
}

/// The family of a url with parameters: all urls with as many segments that begin as it does, up to
/// the first parameter. Whatever may be preferred to it for some path is one of them, and so is
/// itself under other names of parameters. `None` of a url without parameters, which is preferred
/// to all others.
fn family_of(url: &str) -> Option<Box<str>> {
    let until = url.find("/{")?;
    Some(family(url, until))
}

/// The families that a url is in: one for each segment before which it has no parameter.
fn families_with(url: &str) -> impl Iterator<Item = Box<str>> {
    let until = url.find("/{").unwrap_or(url.len());
    url.match_indices('/').map(|(at, _)| at).take_while(move |at| *at <= until).map(|at| family(url, at))
}

/// No url or name has a space in it that a node could call.
fn family(url: &str, until: usize) -> Box<str> {
    format!("{} {}", url.matches('/').count(), &url[..until]).into()
}

#[cfg(test)]
mod tests {
    use protocol::{Registration, RegistrationLimits};

    use super::*;

    fn record(name: &str, url: &str) -> Record {
        let params = serde_json::json!({ "port": 1, "name": name, "urls": [url] }).to_string();
        let params = serde_json::from_str(&params).unwrap();
        Record::new(1, &Registration::parse(Some(params), &RegistrationLimits::default()).unwrap(), "::1")
    }

    /// Whether a node that uses `used` is told of one that offers `url`, and is found by the index.
    #[track_caller]
    fn check(used: &str, url: &str, expected: bool) {
        let (interests, record) = (Interests::used([used]), record("n", url));
        assert_eq!(interests.include(&record), expected, "{used} {url}");
        let mut is_found = false;
        offers_of(&record, |offer| is_found |= interests.offers().any(|wanted| wanted == offer));
        assert_eq!(is_found, expected, "{used} {url}");
    }

    #[test]
    fn a_node_is_told_of_all_that_may_be_preferred_for_its_calls() {
        check("GET/goods", "GET/goods", true);
        for other in ["POST/goods", "GET/goods/{id}", "GET/{all}", "GET/good", "GET/goods/"] {
            check("GET/goods", other, false);
        }
        check("GET/goods/{id}", "GET/goods/{id}", true);
        check("GET/goods/{id}", "GET/goods/{number}", true);
        check("GET/goods/{id}", "GET/goods/new", true);
        for other in ["GET/goods", "GET/goods/{id}/tags", "GET/{all}/new", "POST/goods/{id}", "GET/goodsx/new"] {
            check("GET/goods/{id}", other, false);
        }
        check("GET/goods/{id}/tags/{tag}", "GET/goods/new/tags/{x}", true);
        check("GET/goods/{id}/tags/{tag}", "GET/goods/{id}/tags/new", true);
        check("GET/{all}", "GET/goods", true);
        check("GET/{all}", "GET/goods/{id}", false);
        check("EVENT/told", "EVENT/told", true);
        check("EVENT/told", "EVENT/told.too", false);
    }

    #[test]
    fn only_an_author_names_services() {
        let goods = record("goods", "GET/goods/{id}");
        for (interests, expected) in [
            (Interests::named(vec!["goods".to_owned()]), true),
            (Interests::used(["goods"]), false),
            (Interests::named(vec!["GET/goods/{id}".to_owned()]), true),
            (Interests::named(vec!["GET/goods/{x}".to_owned()]), false),
            (Interests::used(["GET/a"]).with(["GET/goods/{x}"]), true),
        ] {
            assert_eq!(interests.include(&goods), expected, "{interests:?}");
        }
        assert_ne!(Interests::used(["GET/a"]), Interests::named(vec!["GET/a".to_owned()]));
    }
}
