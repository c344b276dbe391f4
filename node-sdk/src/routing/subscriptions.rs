//! Subscriptions to events, which stand among the routes of a node.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use protocol::{EVENT_METHOD, EVENT_PREFIX, Route, RouteError, Router, check_event};

use crate::routing::provider::{Provider, RouteProviders};

/// The subscribers of one event or pattern, by the names of nodes: the nodes of one name are a
/// group.
pub(crate) type SubscriberGroups = BTreeMap<Box<str>, Arc<RouteProviders>>;

/// All subscribers of one event: those of its name, and those of each pattern to which it belongs,
/// the most specific first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribers(Vec<Arc<SubscriberGroups>>);

impl Subscribers {
    pub(super) fn find(events: &Router<Arc<SubscriberGroups>>, path: &str) -> Self {
        let mut all = Self::default();
        events.subscriptions(path, |groups| all.0.push(Arc::clone(groups)));
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has_group(&self, name: &str) -> bool {
        self.0.iter().any(|groups| groups.contains_key(name))
    }

    /// Each group once: its name, and its nodes by subscription, the most specific one first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &Arc<RouteProviders>>)> {
        self.0.iter().enumerate().flat_map(move |(at, groups)| {
            let is_new = move |name: &&str| !self.0[..at].iter().any(|earlier| earlier.contains_key(*name));
            groups.keys().map(|name| &**name).filter(is_new).map(move |name| (name, self.group(name)))
        })
    }

    /// The nodes of one group by subscription, the most specific one first.
    pub(crate) fn group(&self, name: &str) -> impl Iterator<Item = &Arc<RouteProviders>> {
        self.0.iter().filter_map(move |groups| groups.get(name))
    }

    /// Each node once.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Provider> {
        let (is_single, mut seen) = (self.0.len() == 1, HashSet::new());
        let all = self.0.iter().flat_map(|groups| groups.values()).flat_map(|group| group.members());
        all.filter(move |provider| is_single || seen.insert(provider.connection.address))
    }
}

/// The route of a subscription.
pub(crate) fn event_route(event: &str) -> Result<Route, RouteError> {
    let route = Route::parse(&format!("{EVENT_PREFIX}{event}"))?;
    let broken = |reason| RouteError { text: event.chars().take(60).collect(), reason };
    if route.is_pattern() {
        return Err(broken("an event has no parameters"));
    }
    check_event(event).map_err(broken)?;
    Ok(route)
}

/// Why no event can have this name; `None` if one can.
pub(crate) fn event_name_fault(event: &str) -> Option<&'static str> {
    match Route::parse(&format!("{EVENT_PREFIX}{event}")) {
        Err(error) => Some(error.reason),
        Ok(route) if route.is_pattern() => Some("an event has no parameters"),
        Ok(_) if event.split('.').any(|word| matches!(word, "*" | ">")) => {
            Some("an event is emitted by its whole name; only subscriptions have a * or a >")
        }
        Ok(_) => None,
    }
}

/// Whether a route is a subscription.
pub(crate) fn is_event(route: &Route) -> bool {
    route.method() == EVENT_METHOD
}
