//! Finds the url that a path belongs to among all that nodes offer, for nodes that are not told of
//! all of them. It finds what the routing tables of nodes would find.

use std::collections::BTreeMap;

use protocol::{EVENT_METHOD, Route, Router, RouterError, Segment};

use crate::entries::{EntryTable, Record};

/// The urls of entries that take calls, once each.
#[derive(Debug, Default)]
pub(in crate::entries) struct RouteIndex {
    router: Router<OfferedUrl>,
    /// Urls that would make searches too long. No node calls them. A group has such urls only while
    /// it has as many shapes as there may be, and none of theirs.
    refused: BTreeMap<Group, BTreeMap<Shape, RefusedUrls>>,
    /// How many urls were added again after they had been refused.
    #[cfg(test)]
    added_again: usize,
}

#[derive(Debug)]
struct OfferedUrl {
    url: Box<str>,
    entries: usize,
}

/// Urls with how many entries offer them.
type RefusedUrls = BTreeMap<Box<str>, usize>;

/// The method, the number of segments and the first segment, unless it is a parameter: what the
/// number of shapes is limited by.
type Group = (Box<str>, usize, Option<Box<str>>);

/// Which segments are parameters.
type Shape = Vec<usize>;

impl RouteIndex {
    pub(in crate::entries) fn add(&mut self, record: &Record) {
        for route in routes(record) {
            self.add_route(&route, 1);
        }
    }

    pub(in crate::entries) fn remove(&mut self, record: &Record) {
        for route in routes(record) {
            if let Some(offered) = self.router.get_mut(&route) {
                offered.entries -= 1;
                if offered.entries == 0 && self.router.remove(&route) {
                    self.fill(&group(&route));
                }
            } else {
                self.remove_refused(&route);
            }
        }
    }

    fn add_route(&mut self, route: &Route, entries: usize) {
        match self.router.entry(route, || OfferedUrl { url: route.as_str().into(), entries: 0 }) {
            Ok(offered) => offered.entries += entries,
            Err(RouterError::TooLong | RouterError::TooManyShapes) => {
                let shapes = self.refused.entry(group(route)).or_default();
                *shapes.entry(shape(route)).or_default().entry(route.as_str().into()).or_default() += entries;
            }
        }
    }

    /// Adds refused urls of a group that has room for one shape. Those of other shapes and groups
    /// are left alone: there may be tens of thousands, which would be refused again.
    fn fill(&mut self, group: &Group) {
        let Some(shapes) = self.refused.get_mut(group) else { return };
        let urls = shapes.pop_first().map(|(_, urls)| urls).unwrap_or_default();
        if shapes.is_empty() {
            self.refused.remove(group);
        }
        for (url, entries) in urls {
            #[cfg(test)]
            (self.added_again += 1);
            if let Ok(route) = Route::parse(&url) {
                self.add_route(&route, entries);
            }
        }
    }

    fn remove_refused(&mut self, route: &Route) {
        let (group, shape) = (group(route), shape(route));
        let Some(shapes) = self.refused.get_mut(&group) else { return };
        let Some(urls) = shapes.get_mut(&shape) else { return };
        let Some(entries) = urls.get_mut(route.as_str()) else { return };
        *entries -= 1;
        if *entries == 0 {
            urls.remove(route.as_str());
        }
        if urls.is_empty() {
            shapes.remove(&shape);
        }
        if shapes.is_empty() {
            self.refused.remove(&group);
        }
    }

    fn is_refused(&self, url: &str) -> bool {
        if self.refused.is_empty() {
            return false;
        }
        let Ok(route) = Route::parse(url) else { return false };
        let urls = self.refused.get(&group(&route)).and_then(|shapes| shapes.get(&shape(&route)));
        urls.is_some_and(|urls| urls.contains_key(url))
    }
}

fn group(route: &Route) -> Group {
    let first = match route.segments().next() {
        Some(Segment::Literal(literal)) => Some(literal.into()),
        Some(Segment::Parameter(_)) | None => None,
    };
    (route.method().into(), route.segments().count(), first)
}

fn shape(route: &Route) -> Shape {
    let segments = route.segments().enumerate();
    segments.filter(|(_, segment)| matches!(segment, Segment::Parameter(_))).map(|(at, _)| at).collect()
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
        record.urls.iter().map(|url| &**url).filter(|url| self.routes.is_refused(url))
    }
}

/// The routes of a node that other nodes may call. Nodes that ask are not told of one that only a
/// copy shows, so no url leads to it.
fn routes(record: &Record) -> impl Iterator<Item = Route> {
    let is_called = record.takes_calls && record.prefixes.is_empty() && record.is_confirmed;
    let urls = record.urls.iter().filter(move |_| is_called).filter_map(|url| Route::parse(url).ok());
    // An event has no parameters, so it needs no search.
    urls.filter(|route| route.method() != EVENT_METHOD)
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
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the end")]
    fn no_url_leads_to_a_node_that_only_a_copy_shows() {
        let mut table = EntryTable::new(2);
        let goods = registration(r#"{"port":1,"name":"goods","urls":["GET/goods/new"],"$":{"id":"i"}}"#);
        let any = registration(r#"{"port":2,"name":"any","urls":["GET/goods/{id}"],"$":{"id":"j"}}"#);
        let copied = protocol::ResumePoint { revision: protocol::Revision { epoch: 1, rev: 1 }, digest: None };
        table.register(SessionId(2), &any, "::1");
        table.restore(copied, [Record::new(7, &goods, "::1")], std::time::Instant::now());
        check(&table, "GET/goods/new", Some("GET/goods/{id}"));
        table.register(SessionId(1), &goods, "::1");
        check(&table, "GET/goods/new", Some("GET/goods/new"));
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
    /// A url with seven segments, of which those of these bits are parameters.
    fn url(first: &str, bits: usize, last: usize) -> String {
        let segment = |at: usize| if bits >> at & 1 == 0 { "/x".to_owned() } else { format!("/{{p{at}}}") };
        format!("GET/{first}{}/{last}", (0..6).map(segment).collect::<String>())
    }

    fn node(port: u16, weight: u16, urls: impl IntoIterator<Item = String>) -> Registration {
        let urls: Vec<_> = urls.into_iter().collect();
        let advert = serde_json::json!({ "weight": weight });
        registration(&serde_json::json!({ "port": port, "name": "n", "urls": urls, "$": advert }).to_string())
    }

    #[test]
    fn only_urls_that_there_is_room_for_are_added_again() {
        let mut table = EntryTable::new(1);
        for (session, first) in ["a", "b"].into_iter().enumerate() {
            table.register(SessionId(session as u64), &node(1, 1, (1..=16).map(|bits| url(first, bits, 0))), "::1");
        }
        // The urls are of two groups and several shapes.
        for (session, first, bits) in [(10, "a", 40), (11, "a", 41), (12, "b", 40)] {
            let urls = (0..200).map(|last| url(first, bits, last));
            table.register(SessionId(session), &node(2, 1, urls), "::1");
            assert_eq!(table.refused_urls(table.record_of(SessionId(session)).unwrap()).count(), 200);
        }
        let less = node(1, 1, (1..=15).map(|bits| url("a", bits, 0)));
        table.register(SessionId(0), &less, "::1");
        assert_eq!(table.routes.added_again, 200);
        let mut refused = [10, 11, 12].map(|session| {
            let record = table.record_of(SessionId(session)).unwrap();
            table.refused_urls(record).count()
        });
        refused.sort_unstable();
        assert_eq!(refused, [0, 200, 200]);
        for session in 0..20 {
            table.remove_session(SessionId(session), protocol::LeaveReason::Closed);
        }
        assert!(table.routes.refused.is_empty() && table.url_of("GET/a/x/x/x/1/x/2/0").is_none());
    }

    #[test]
    fn a_node_that_registers_again_keeps_its_shapes() {
        let mut table = EntryTable::new(1);
        table.register(SessionId(1), &node(1, 1, (1..=16).map(|bits| url("a", bits, 0))), "::1");
        table.register(SessionId(2), &node(2, 1, [url("a", 40, 0)]), "::1");
        table.register(SessionId(1), &node(1, 2, (1..=16).map(|bits| url("a", bits, 0))), "::1");
        let refused = [1, 2].map(|session| table.refused_urls(table.record_of(SessionId(session)).unwrap()).count());
        assert_eq!(refused, [0, 1]);
    }
}
