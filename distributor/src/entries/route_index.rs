//! Finds the url that a path belongs to among all that nodes offer, for nodes that are not told of
//! all of them. It finds what the routing tables of nodes would find.

use std::collections::BTreeMap;

use protocol::{Route, Router, RouterError};

use crate::entries::{EntryTable, Record};

/// An event has no parameters, so it needs no search.
const EVENT: &str = "EVENT";

/// The urls of entries that take calls, once each.
#[derive(Debug, Default)]
pub(super) struct RouteIndex {
    router: Router<OfferedUrl>,
    /// Urls that would make searches too long, with how many entries offer them. No node calls
    /// them.
    refused: BTreeMap<Box<str>, usize>,
}

#[derive(Debug)]
struct OfferedUrl {
    url: Box<str>,
    entries: usize,
}

impl RouteIndex {
    pub(super) fn add(&mut self, record: &Record) {
        for route in routes(record) {
            self.add_route(&route, 1);
        }
    }

    pub(super) fn remove(&mut self, record: &Record) {
        let mut makes_room = false;
        for route in routes(record) {
            if let Some(offered) = self.router.get_mut(&route) {
                offered.entries -= 1;
                if offered.entries == 0 {
                    makes_room |= self.router.remove(&route);
                }
            } else if let Some(entries) = self.refused.get_mut(route.as_str()) {
                *entries -= 1;
                if *entries == 0 {
                    self.refused.remove(route.as_str());
                }
            }
        }
        if makes_room {
            for (url, entries) in std::mem::take(&mut self.refused) {
                if let Ok(route) = Route::parse(&url) {
                    self.add_route(&route, entries);
                }
            }
        }
    }

    fn add_route(&mut self, route: &Route, entries: usize) {
        match self.router.entry(route, || OfferedUrl { url: route.as_str().into(), entries: 0 }) {
            Ok(offered) => offered.entries += entries,
            Err(RouterError::TooLong | RouterError::TooManyShapes) => {
                *self.refused.entry(route.as_str().into()).or_default() += entries;
            }
        }
    }
}

impl EntryTable {
    /// The registered url that calls of this route, such as `GET/members/7`, go to; `None` if no
    /// entry that takes calls offers it.
    pub(crate) fn url_of(&self, route: &str) -> Option<&str> {
        let (method, path) = route.split_at(route.find('/')?);
        self.routes.router.find(method, path).map(|found| &*found.value.url)
    }

    /// The urls of a node that no other node calls: searches among them would take too long.
    pub(crate) fn refused_urls<'r>(&self, record: &'r Record) -> impl Iterator<Item = &'r str> {
        let is_refused = |url: &&str| !self.routes.refused.is_empty() && self.routes.refused.contains_key(*url);
        record.urls.iter().map(|url| &**url).filter(is_refused)
    }
}

/// The routes of a node that other nodes may call.
fn routes(record: &Record) -> impl Iterator<Item = Route> {
    let is_called = record.takes_calls && record.prefixes.is_empty();
    let urls = record.urls.iter().filter(move |_| is_called).filter_map(|url| Route::parse(url).ok());
    urls.filter(|route| route.method() != EVENT)
}

#[cfg(test)]
mod tests {
    use protocol::{Registration, RegistrationLimits};

    use super::*;
    use crate::entries::SessionId;

    fn registration(params: &str) -> Registration {
        Registration::parse(serde_json::from_str(params).ok(), &RegistrationLimits::default()).unwrap()
    }

    #[track_caller]
    fn check(table: &EntryTable, route: &str, expected: Option<&str>) {
        assert_eq!(table.url_of(route), expected, "{route}");
    }

    #[test]
    fn a_path_leads_to_what_is_called_with_it() {
        let mut table = EntryTable::new(1);
        for (session, params) in [
            r#"{"port":1,"name":"goods","urls":["GET/goods","GET/goods/{id}","EVENT/told","*"]}"#,
            r#"{"port":2,"name":"goods","urls":["GET/goods/{number}"]}"#,
            r#"{"port":3,"name":"new","urls":["GET/goods/new"],"$":{}}"#,
            r#"{"port":4,"name":"drains","urls":["GET/goods/old"],"$":{"draining":true}}"#,
            r#"{"port":5,"name":"web","urls":["GET/goods/web"],"$":{"http":{"prefixes":["/web"]}}}"#,
        ]
        .into_iter()
        .enumerate()
        {
            table.register(SessionId(session as u64), &registration(params), "::1");
        }
        check(&table, "GET/goods", Some("GET/goods"));
        check(&table, "GET/goods/7", Some("GET/goods/{id}"));
        check(&table, "GET/goods/new", Some("GET/goods/new"));
        for (other, expected) in [("GET/goods/old", Some("GET/goods/{id}")), ("GET/goods/web", Some("GET/goods/{id}"))]
        {
            check(&table, other, expected);
        }
        for none in ["POST/goods", "GET/goods/", "GET", "", "/goods", "EVENT/told", "GET/goods/7/8"] {
            check(&table, none, None);
        }
        table.remove_session(SessionId(0), protocol::LeaveReason::Closed);
        check(&table, "GET/goods", None);
        assert!(table.url_of("GET/goods/7").is_some_and(|url| url.starts_with("GET/goods/{")));
        let drains = r#"{"port":3,"name":"new","urls":["GET/goods/new"],"$":{"draining":true}}"#;
        table.register(SessionId(2), &registration(drains), "::1");
        assert!(table.url_of("GET/goods/new").is_some_and(|url| url.contains('{')), "the other one takes calls");
        for session in 1..5 {
            table.remove_session(SessionId(session), protocol::LeaveReason::Closed);
        }
        check(&table, "GET/goods/7", None);
    }

    #[test]
    fn what_would_make_searches_long_is_found_when_there_is_room() {
        let mut table = EntryTable::new(1);
        let url = |bits: usize| {
            let segment = |at: usize| if bits >> at & 1 == 0 { "/x".to_owned() } else { format!("/{{p{at}}}") };
            format!("GET/a{}", (0..6).map(segment).collect::<String>())
        };
        let node = |port: u16, urls: Vec<String>| {
            registration(&serde_json::json!({ "port": port, "name": "n", "urls": urls }).to_string())
        };
        table.register(SessionId(1), &node(1, (1..=16).map(url).collect()), "::1");
        table.register(SessionId(2), &node(2, vec![url(40)]), "::1");
        let late = table.record_of(SessionId(2)).unwrap().clone();
        assert_eq!(table.refused_urls(&late).collect::<Vec<_>>(), [url(40)]);
        check(&table, "GET/a/x/x/x/1/x/2", None);
        table.remove_session(SessionId(1), protocol::LeaveReason::Closed);
        check(&table, "GET/a/x/x/x/1/x/2", Some(&url(40)));
        assert_eq!(table.refused_urls(&late).count(), 0);
        table.remove_session(SessionId(2), protocol::LeaveReason::Closed);
        assert!(table.routes.refused.is_empty() && table.url_of("GET/a/x/x/x/1/x/2").is_none());
    }
}
