//! Finds urls that services of several names offer, and offers that only one node has, without a
//! search through all entries.
//!
//! It must not decide what follows: it answers, and the table and the registry ask.

pub(crate) mod offer_index;
pub(super) mod route_index;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use protocol::EVENT_PREFIX;

use crate::entries::{EntryTable, Record};

/// How many entries of each name offer each url, by hashes. It has as much as the entries have
/// urls, which the list bounds.
#[derive(Debug, Default)]
pub(super) struct Offers {
    by_url: HashMap<u64, Vec<NameCount>>,
    /// How many entries that take calls offer each thing.
    providers: HashMap<u64, u32>,
    hasher: RandomState,
}

#[derive(Debug)]
struct NameCount {
    name: u64,
    entries: u32,
}

impl Offers {
    pub(super) fn add(&mut self, record: &Record) {
        for offer in self.of(record) {
            *self.providers.entry(offer).or_default() += 1;
        }
        let name = self.hasher.hash_one(&*record.name);
        for url in self.urls(record) {
            let names = self.by_url.entry(url).or_default();
            match names.iter_mut().find(|known| known.name == name) {
                Some(known) => known.entries += 1,
                None => names.push(NameCount { name, entries: 1 }),
            }
        }
    }

    pub(super) fn remove(&mut self, record: &Record) {
        for offer in self.of(record) {
            if let Entry::Occupied(mut count) = self.providers.entry(offer) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        let name = self.hasher.hash_one(&*record.name);
        for url in self.urls(record) {
            let Entry::Occupied(mut names) = self.by_url.entry(url) else { continue };
            if let Some(at) = names.get().iter().position(|known| known.name == name) {
                let known = &mut names.get_mut()[at];
                known.entries -= 1;
                if known.entries == 0 {
                    names.get_mut().swap_remove(at);
                }
            }
            if names.get().is_empty() {
                names.remove();
            }
        }
    }

    /// The urls of an entry for which it is the only one of its name, and which entries of other
    /// names offer too.
    pub(super) fn newly_shared<'r>(&self, record: &'r Record) -> Vec<&'r str> {
        let name = self.hasher.hash_one(&*record.name);
        let is_new = |url: &&str| {
            let names = self.by_url.get(&self.hasher.hash_one(url)).map_or(&[][..], Vec::as_slice);
            names.len() > 1 && names.iter().any(|known| known.name == name && known.entries == 1)
        };
        urls(record).filter(is_new).collect()
    }

    /// The offers of an entry that takes calls, as hashes: routes, events of its group, and
    /// prefixes of HTTP.
    fn of(&self, record: &Record) -> Vec<u64> {
        if !record.takes_calls {
            return Vec::new();
        }
        let urls = record.urls.iter().map(|url| (&**url, url.starts_with(EVENT_PREFIX).then_some(&*record.name)));
        let prefixes = record.prefixes.iter().map(|prefix| ("HTTP", Some(&**prefix)));
        let mut hashes: Vec<u64> = urls.chain(prefixes).map(|offer| self.hasher.hash_one(offer)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    /// The hash of each url, once.
    fn urls(&self, record: &Record) -> Vec<u64> {
        let mut hashes: Vec<u64> = urls(record).map(|url| self.hasher.hash_one(url)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }
}

impl EntryTable {
    /// The offers of a node, for [`lacks`](Self::lacks).
    pub(crate) fn offers_of(&self, record: &Record) -> Box<[u64]> {
        self.offers.of(record).into()
    }

    /// Whether no entry that takes calls offers one of these: a node that does is a sole provider.
    pub(crate) fn lacks(&self, offers: &[u64]) -> bool {
        offers.iter().any(|offer| !self.offers.providers.contains_key(offer))
    }

    /// The urls of this entry that services of other names offer, if it is the first of its own
    /// name to offer them; and the name of one of those services.
    pub(crate) fn newly_shared<'r>(&self, record: &'r Record) -> Option<(Vec<&'r str>, &Arc<Record>)> {
        let shared = self.offers.newly_shared(record);
        let first = *shared.first()?;
        let mut others = self.records().filter(|other| other.name != record.name);
        let other = others.find(|other| other.urls.iter().any(|url| &**url == first))?;
        Some((shared, other))
    }
}

/// The urls of an entry that may be called. An event goes to each service that subscribes, so it is
/// not a mistake if several names share one.
fn urls(record: &Record) -> impl Iterator<Item = &str> {
    record.urls.iter().map(|url| &**url).filter(|url| !url.starts_with(EVENT_PREFIX))
}

#[cfg(test)]
mod tests {
    use protocol::{Registration, RegistrationLimits};

    use super::*;
    use crate::entries::SessionId;

    fn record(name: &str, urls: &[&str]) -> Record {
        let params = serde_json::json!({ "port": 1, "name": name, "urls": urls }).to_string();
        let params = serde_json::from_str(&params).unwrap();
        Record::new(1, &Registration::parse(Some(params), &RegistrationLimits::default()).unwrap(), "::1")
    }

    #[test]
    fn c7_one_url_under_two_names_is_noticed() {
        let mut offers = Offers::default();
        let [goods, again, tour] =
            [("goods", 2), ("goods", 1), ("tour", 2)].map(|(name, urls)| record(name, &["GET/goods", "GET/a"][..urls]));
        let events = record("mails", &["EVENT/goods", "GET/a", "GET/a"]);
        offers.add(&goods);
        offers.add(&again);
        assert!(offers.newly_shared(&goods).is_empty() && offers.newly_shared(&again).is_empty(), "one name");
        offers.add(&tour);
        assert_eq!(offers.newly_shared(&tour), ["GET/goods", "GET/a"]);
        offers.add(&events);
        assert_eq!(offers.newly_shared(&events), ["GET/a", "GET/a"]);
        let second = record("tour", &["GET/goods"]);
        offers.add(&second);
        assert!(offers.newly_shared(&second).is_empty(), "that is known");
        for record in [&goods, &again, &tour, &events, &second] {
            offers.remove(record);
        }
        assert!(offers.by_url.is_empty() && offers.providers.is_empty());
    }

    #[test]
    fn a13_what_no_entry_offers_that_takes_calls_is_noticed() {
        let mut table = EntryTable::new(1);
        let registration = |params: &str| {
            Registration::parse(serde_json::from_str(params).ok(), &RegistrationLimits::default()).unwrap()
        };
        let listed = [
            r#"{"port":1,"name":"goods","urls":["GET/goods","EVENT/told"]}"#,
            r#"{"port":2,"name":"leaves","urls":["GET/leaves"],"$":{"draining":true}}"#,
            r#"{"port":3,"name":"rests","urls":["GET/rests"],"$":{"weight":0}}"#,
            r#"{"port":4,"name":"web","$":{"http":{"prefixes":["/web"]}}}"#,
        ];
        for (session, params) in (1..).zip(listed) {
            table.register(SessionId(session), &registration(params), "::1");
        }
        for (params, is_sole) in [
            (r#"{"port":9,"name":"other","urls":[]}"#, false),
            (r#"{"port":9,"name":"other","urls":["GET/goods"]}"#, false),
            (r#"{"port":9,"name":"other","urls":["GET/goods","GET/more"]}"#, true),
            (r#"{"port":9,"name":"other","urls":["GET/more"],"$":{"draining":true}}"#, false),
            (r#"{"port":9,"name":"other","urls":["GET/leaves"]}"#, true),
            (r#"{"port":9,"name":"other","urls":["GET/rests"]}"#, true),
            (r#"{"port":9,"name":"goods","urls":["EVENT/told"]}"#, false),
            (r#"{"port":9,"name":"other","urls":["EVENT/told"]}"#, true),
            (r#"{"port":9,"name":"other","$":{"http":{"prefixes":["/web"]}}}"#, false),
            (r#"{"port":9,"name":"other","$":{"http":{"prefixes":["/web/more"]}}}"#, true),
        ] {
            let offers = table.offers_of(&Record::new(9, &registration(params), "::1"));
            assert_eq!(table.lacks(&offers), is_sole, "{params}");
        }
    }
}
