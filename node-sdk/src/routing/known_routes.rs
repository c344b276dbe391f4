//! Routes that no node offers any more, to tell "not now" from "never". Without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use protocol::{Route, Router};
use tokio::time::Instant;

/// Routes whose last provider has gone. Each is kept for some time, up to a limit on all. Beyond
/// the limit, the node that left the most routes behind loses its oldest one, so a node that
/// invents routes only displaces its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownRoutes {
    routes: Router<u64>,
    /// The routes by number, the oldest first.
    by_age: BTreeMap<u64, GoneRoute>,
    /// The numbers of the routes that each node has left behind.
    by_node: BTreeMap<SocketAddr, BTreeSet<u64>>,
    /// The nodes by how many routes they have left behind.
    fullest: BTreeSet<(usize, SocketAddr)>,
    next: u64,
}

#[derive(Clone, Debug)]
struct GoneRoute {
    since: Instant,
    node: SocketAddr,
    route: Route,
}

impl KnownRoutes {
    /// Maximum number of routes that are kept.
    pub(crate) const MAX_ROUTES: usize = 10_000;
    /// How long a route is kept: a node that is deployed again, or has failed, is back by then.
    pub(crate) const KEPT_TIME: Duration = Duration::from_secs(600);

    /// Adds a route whose last provider, at `node`, has gone.
    pub(crate) fn add(&mut self, route: &Route, node: SocketAddr, now: Instant) {
        if let Some(number) = self.routes.get_mut(route).copied() {
            self.remove(number);
        }
        let number = self.next;
        // A route that cannot be looked up need not be kept.
        if self.routes.entry(route, || number).is_err() {
            return;
        }
        self.next += 1;
        self.by_age.insert(number, GoneRoute { since: now, node, route: route.clone() });
        self.update_numbers(node, |numbers| numbers.insert(number));
        if self.by_age.len() > Self::MAX_ROUTES
            && let Some((_, fullest)) = self.fullest.last()
            && let Some(oldest) = self.by_node.get(fullest).and_then(BTreeSet::first).copied()
        {
            self.remove(oldest);
        }
    }

    /// Whether a path belongs to one of the routes.
    pub(crate) fn contains(&self, method: &str, path: &str, now: Instant) -> bool {
        let number = self.routes.find(method, path).map(|found| *found.value);
        number.and_then(|number| self.by_age.get(&number)).is_some_and(|gone| now < gone.since + Self::KEPT_TIME)
    }

    /// Removes the routes that have been gone for too long.
    pub(crate) fn sweep(&mut self, now: Instant) {
        while let Some((number, gone)) = self.by_age.first_key_value()
            && now >= gone.since + Self::KEPT_TIME
        {
            self.remove(*number);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(GoneRoute { node, route, .. }) = self.by_age.remove(&number) {
            self.routes.remove(&route);
            self.update_numbers(node, |numbers| numbers.remove(&number));
        }
    }

    /// Changes the set of routes that a node has left behind.
    fn update_numbers(&mut self, node: SocketAddr, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let numbers = self.by_node.entry(node).or_default();
        self.fullest.remove(&(numbers.len(), node));
        change(numbers);
        if numbers.is_empty() {
            self.by_node.remove(&node);
        } else {
            self.fullest.insert((numbers.len(), node));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn route(text: &str) -> Route {
        Route::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn routes_are_remembered_for_some_time() {
        let (mut known, start) = (KnownRoutes::default(), Instant::now());
        known.add(&route("GET/goods/{id}"), node(1), start);
        known.add(&route("GET/members"), node(1), start);
        let later = start + KnownRoutes::KEPT_TIME / 2;
        known.add(&route("GET/goods/{other}"), node(2), later);
        for (path, at, expected) in [
            ("/goods/7", later, true),
            ("/members", later, true),
            ("/other", later, false),
            ("/members", start + KnownRoutes::KEPT_TIME, false),
            ("/goods/7", start + KnownRoutes::KEPT_TIME, true),
            ("/goods/7", later + KnownRoutes::KEPT_TIME, false),
        ] {
            assert_eq!(known.contains("GET", path, at), expected, "{path}");
        }
        known.sweep(start + KnownRoutes::KEPT_TIME);
        assert_eq!((known.by_age.len(), known.by_node.len()), (1, 1));
        known.sweep(later + KnownRoutes::KEPT_TIME);
        assert!(known.by_age.is_empty() && known.by_node.is_empty() && known.fullest.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_leaves_many_behind_displaces_its_own() {
        let (mut known, now) = (KnownRoutes::default(), Instant::now());
        known.add(&route("GET/real"), node(1), now);
        for number in 0..2 * KnownRoutes::MAX_ROUTES {
            known.add(&route(&format!("GET/invented/{number}")), node(2 + u16::from(number % 2 == 0)), now);
        }
        assert_eq!(known.by_age.len(), KnownRoutes::MAX_ROUTES);
        assert!(known.contains("GET", "/real", now) && !known.contains("GET", "/invented/0", now));
        assert!(known.contains("GET", &format!("/invented/{}", 2 * KnownRoutes::MAX_ROUTES - 1), now));
    }
}
