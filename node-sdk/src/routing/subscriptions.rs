//! Subscriptions to events, which stand among the routes of a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Route, RouteError};

use crate::routing::provider::Providers;

/// The method of subscriptions in the registry. No call has it, and gateways do not route it.
pub(crate) const METHOD: &str = "EVENT";

/// The prefix of an event's name in the registry.
pub(crate) const PREFIX: &str = "EVENT/";

/// The subscribers of one event, by the names of nodes: the nodes of one name are a group.
pub(crate) type SubscriberGroups = BTreeMap<Box<str>, Arc<Providers>>;

/// The route of a subscription.
pub(crate) fn event_route(event: &str) -> Result<Route, RouteError> {
    let route = Route::parse(&format!("{PREFIX}{event}"))?;
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
    route.method() == METHOD
}
