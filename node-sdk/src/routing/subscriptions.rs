//! Subscriptions to events, which stand among the routes of a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{EVENT_METHOD, EVENT_PREFIX, Route, RouteError};

use crate::routing::provider::RouteProviders;

/// The subscribers of one event, by the names of nodes: the nodes of one name are a group.
pub(crate) type SubscriberGroups = BTreeMap<Box<str>, Arc<RouteProviders>>;

/// The route of a subscription.
pub(crate) fn event_route(event: &str) -> Result<Route, RouteError> {
    let route = Route::parse(&format!("{EVENT_PREFIX}{event}"))?;
    let broken = |reason| Err(RouteError { text: event.chars().take(60).collect(), reason });
    if route.is_pattern() {
        return broken("an event has no parameters");
    }
    if event.contains('*') {
        return broken("there are no wildcards: an event is subscribed to by its whole name");
    }
    Ok(route)
}

/// Whether a route is a subscription.
pub(crate) fn is_event(route: &Route) -> bool {
    route.method() == EVENT_METHOD
}
