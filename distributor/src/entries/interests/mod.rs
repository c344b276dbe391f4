//! The services and urls of which a node wants to be told.
//!
//! It must not know which nodes are registered: it compares interests with one record.

pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet};

use protocol::{EVENT_PREFIX, check_event};

use crate::entries::record::Record;

/// Maximum number of families of one url: one for each number of its first segments, from none to
/// seven. The index has an entry for each of them, and urls are made of as many slashes as a peer
/// likes. A url with more segments before its first parameter stands for the family of its first
/// seven: a node is then told of more than it needs, and never of less.
const MAX_FAMILIES: usize = 8;

/// In place of a number of segments: the family of the patterns of events that begin with the same
/// word, or with a wildcard. No other url that is in a family has so few. A node that needs an
/// event is told of all nodes with patterns of these two families, and finds itself which of them
/// match.
const EVENT_FAMILY: usize = 0;

/// The services and urls that a node is told of. Nodes with the same interests have equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Interests {
    kind: InterestKind,
    /// Names of services, and urls as registered.
    texts: BTreeSet<Box<str>>,
    /// How the families of the urls with parameters begin, by their number of segments.
    families: BTreeMap<usize, BTreeSet<Box<str>>>,
}

/// What interests and nodes are matched by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Offer<'o> {
    /// The name of a service.
    Name(&'o str),
    /// A url or event, as registered.
    Url(&'o str),
    /// All urls with this many segments that begin so.
    Family(usize, &'o str),
}

/// The origin of a node's interests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum InterestKind {
    /// The author of the node, which is told of these services and urls, and of no others.
    Named,
    /// The node itself, by what it uses. It asks for more when it needs more. It is told of all
    /// that may be preferred for its calls, too.
    Used,
}

impl Interests {
    /// The interests that an author has named.
    pub(crate) fn named(interests: Vec<String>) -> Self {
        let texts: BTreeSet<Box<str>> = interests.into_iter().map(Into::into).collect();
        let families = families(texts.iter().flat_map(|url| event_families(url)));
        Self { kind: InterestKind::Named, texts, families }
    }

    /// The interests of a node that uses these urls.
    pub(crate) fn used<'u>(urls: impl IntoIterator<Item = &'u str>) -> Self {
        let texts: BTreeSet<Box<str>> = urls.into_iter().map(Box::from).collect();
        let events = texts.iter().flat_map(|url| event_families(url));
        let families = families(texts.iter().filter_map(|url| family_of(url)).chain(events));
        Self { kind: InterestKind::Used, texts, families }
    }

    /// A copy of the interests with more urls.
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
        let has_family = |(segments, beginning)| {
            self.families.get(&segments).is_some_and(|beginnings| beginnings.contains(beginning))
        };
        self.texts.contains(url) || family_of(url).is_some_and(has_family)
    }

    /// About how many bytes of memory they take.
    pub(crate) fn bytes(&self) -> usize {
        let both = self.texts.iter().chain(self.families.values().flatten());
        both.map(|text| text.len() + 2 * size_of::<Box<str>>()).sum()
    }

    /// What a node that matches offers: one of these.
    pub(crate) fn offers(&self) -> impl Iterator<Item = Offer<'_>> {
        let names = self.texts.iter().filter(|_| self.kind == InterestKind::Named).map(|text| Offer::Name(text));
        let families = self
            .families
            .iter()
            .flat_map(|(segments, beginnings)| beginnings.iter().map(|beginning| Offer::Family(*segments, beginning)));
        self.texts.iter().map(|text| Offer::Url(text)).chain(names).chain(families)
    }

    /// Whether a node matches these interests.
    pub(crate) fn include(&self, record: &Record) -> bool {
        if self.texts.contains(&*record.name) && self.kind == InterestKind::Named {
            return true;
        }
        record.urls.iter().any(|url| self.texts.contains(url) || self.has_family_with(url))
    }

    fn has_family_with(&self, url: &str) -> bool {
        if self.families.is_empty() {
            return false;
        }
        if let Some((events, beginning)) = pattern_family(url) {
            return self.families.get(&events).is_some_and(|beginnings| beginnings.contains(beginning));
        }
        let Some(beginnings) = self.families.get(&segments(url)) else { return false };
        beginnings_of(url).any(|beginning| beginnings.contains(beginning))
    }
}

/// All that interests may find a node by: its name, its urls, and their families.
pub(crate) fn offers_of(record: &Record) -> impl Iterator<Item = Offer<'_>> {
    let of_url = |url| {
        let segments = segments(url);
        let families = beginnings_of(url).map(move |beginning| Offer::Family(segments, beginning));
        let events = pattern_family(url).map(|(events, beginning)| Offer::Family(events, beginning));
        std::iter::once(Offer::Url(url)).chain(families.filter(move |_| events.is_none())).chain(events)
    };
    let urls = record.urls.iter().flat_map(move |url| of_url(&**url));
    std::iter::once(Offer::Name(&record.name)).chain(urls)
}

/// The family of a url with parameters: all urls with as many segments that begin as it does, up to
/// the first parameter or the eighth segment. Whatever may be preferred to it for some path is one
/// of them, and so is itself under other names of parameters. `None` of a url without parameters,
/// which is preferred to all others.
fn family_of(url: &str) -> Option<(usize, &str)> {
    url.find("/{")?;
    Some((segments(url), beginnings_of(url).last()?))
}

/// How the families that a url is in begin: one for each segment before which it has no parameter,
/// and [`MAX_FAMILIES`] at most.
fn beginnings_of(url: &str) -> impl Iterator<Item = &str> {
    let until = url.find("/{").unwrap_or(url.len());
    let slashes = url.match_indices('/').map(|(at, _)| at).take_while(move |at| *at <= until);
    slashes.take(MAX_FAMILIES).map(|at| &url[..at])
}

fn segments(url: &str) -> usize {
    url.matches('/').count()
}

fn families<'u>(all: impl Iterator<Item = (usize, &'u str)>) -> BTreeMap<usize, BTreeSet<Box<str>>> {
    let mut families: BTreeMap<_, BTreeSet<Box<str>>> = BTreeMap::new();
    for (segments, beginning) in all {
        families.entry(segments).or_default().insert(beginning.into());
    }
    families
}

/// The families of the patterns to which an event may belong: those that begin with its first word,
/// and those that begin with a wildcard. None of a url that is not an event.
fn event_families(url: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = first_word(url).into_iter();
    word.flat_map(|beginning| [beginning, EVENT_PREFIX]).map(|beginning| (EVENT_FAMILY, beginning))
}

/// The family of a pattern of events; `None` of any other url.
fn pattern_family(url: &str) -> Option<(usize, &str)> {
    let beginning = first_word(url)?;
    let name = &url[EVENT_PREFIX.len()..];
    let is_pattern = check_event(name) == Ok(true);
    let begins_open = matches!(&beginning[EVENT_PREFIX.len()..], "*" | ">");
    is_pattern.then_some((EVENT_FAMILY, if begins_open { EVENT_PREFIX } else { beginning }))
}

/// An event up to its first word.
fn first_word(url: &str) -> Option<&str> {
    let name = url.strip_prefix(EVENT_PREFIX)?;
    let word = name.split('.').next().unwrap_or(name);
    Some(&url[..EVENT_PREFIX.len() + word.len()])
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
        let is_found = offers_of(&record).any(|offer| interests.offers().any(|wanted| wanted == offer));
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
        let deep = "GET/a/b/c/d/e/f/g/h/{id}";
        check(deep, "GET/a/b/c/d/e/f/g/h/new", true);
        check(deep, "GET/a/b/c/d/e/f/g/other/{x}", true);
        for other in ["GET/a/b/c/d/e/f/other/h/new", "GET/a/b/c/d/e/f/g/h", "GET/a/b/c/d/e/f/g/h/i/j"] {
            check(deep, other, false);
        }
        check("GET/a/b/c/d/e/f/g/{id}", "GET/a/b/c/d/e/f/g/new", true);
        check("EVENT/told", "EVENT/told", true);
        check("EVENT/told", "EVENT/told.too", false);
    }

    #[test]
    fn a_node_that_needs_an_event_is_told_of_patterns_that_it_may_belong_to() {
        for pattern in ["orders.*", "orders.>", "orders.*.eu", "*", ">", "*.created"] {
            check("EVENT/orders.created", &format!("EVENT/{pattern}"), true);
        }
        for other in ["EVENT/orders.paid", "EVENT/members.*", "EVENT/orders*", "GET/orders.*", "EVENT/orders"] {
            check("EVENT/orders.created", other, false);
        }
        check("GET/orders.created", "EVENT/orders.*", false);
        check("GET/orders/{id}", "EVENT/orders.*", false);
        let named = Interests::named(vec!["EVENT/orders.created".to_owned()]);
        let pattern = record("mails", "EVENT/orders.*");
        assert!(named.include(&pattern), "an author names the event, and is told of patterns, too");
        assert!(offers_of(&pattern).any(|offer| named.offers().any(|wanted| wanted == offer)));
        let uses = Interests::used(["EVENT/orders.created"]);
        assert!(!uses.has("EVENT/orders.paid") && !uses.has("EVENT/orders.*"), "it asks for another event");
    }

    #[test]
    fn a_url_has_few_families_however_many_slashes_it_has() {
        for (url, expected) in [
            (format!("a17{}", "/".repeat(509)), MAX_FAMILIES),
            (format!("GET{}", "/{x}".repeat(100)), 1),
            ("GET/a/b".to_owned(), 2),
            ("*".to_owned(), 0),
        ] {
            // Its name and the url itself are two more.
            assert_eq!(offers_of(&record("n", &url)).count(), 2 + expected, "{url}");
        }
        let urls: Vec<String> = (0..100).map(|at| format!("GET{}/{{x}}", format!("/{at}").repeat(20))).collect();
        let used = Interests::used(urls.iter().map(String::as_str));
        assert_eq!(used.offers().count(), 200);
        assert!(used.has(&urls[7].replace("{x}", "{y}")));
    }

    #[test]
    fn only_an_author_names_services() {
        let goods = record("goods", "GET/goods/{id}");
        for (interests, expected) in [
            (Interests::named(vec!["goods".to_owned()]), true),
            (Interests::used(["goods"]), false),
            (Interests::named(vec!["GET/goods".to_owned()]), false),
            (Interests::named(vec!["GET/goods/{id}".to_owned()]), true),
            (Interests::named(vec!["GET/goods/{x}".to_owned()]), false),
            (Interests::used(["GET/a"]).with(["GET/goods/{x}"]), true),
        ] {
            assert_eq!(interests.include(&goods), expected, "{interests:?}");
            let is_found = offers_of(&goods).any(|offer| interests.offers().any(|wanted| wanted == offer));
            assert_eq!(is_found, expected, "{interests:?}");
        }
        assert_ne!(Interests::used(["GET/a"]), Interests::named(vec!["GET/a".to_owned()]));
    }
}
