//! Subscriptions to events, which stand among the routes of a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Route, RouteError};

use crate::routing::provider::Providers;

/// The method under which subscriptions stand in the registry. No call has it, and gateways route none of it.
pub(crate) const METHOD: &str = "EVENT";

/// What stands before the name of an event in the registry.
pub(crate) const PREFIX: &str = "EVENT/";

/// Who has subscribed to one event, by the names of nodes: each name is a group.
pub(crate) type SubscriberGroups = BTreeMap<Box<str>, Arc<Providers>>;

/// The route of a subscription.
pub(crate) fn event_route(event: &str) -> Result<Route, RouteError> {
    let route = Route::parse(&format!("{PREFIX}{event}"))?;
    if route.is_pattern() {
        return Err(RouteError { text: event.to_owned(), reason: "an event has no parameters" });
    }
    Ok(route)
}

/// Whether a route is a subscription.
pub(crate) fn is_event(route: &Route) -> bool {
    route.method() == METHOD
}
