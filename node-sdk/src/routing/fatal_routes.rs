//! Routes whose calls end the nodes that handle them: trying such a call again ends the next one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Two nodes that are lost within this time, each with a call of one route and with no answer in
/// between, are taken to have ended of it.
const WINDOW: Duration = Duration::from_secs(30);
/// Calls that one connection loses at once are one loss.
const ONE_LOSS: Duration = Duration::from_secs(1);
/// For how long after a loss calls of such a route are not tried again.
const FATAL: Duration = Duration::from_secs(60);
/// Routes that are remembered. With more, later ones count as harmless until old ones are
/// forgotten.
const MAX_ROUTES: usize = 1024;

/// The routes with which nodes were lost lately.
#[derive(Debug, Default)]
pub(crate) struct FatalRoutes {
    losses: HashMap<Box<str>, Loss>,
}

#[derive(Debug)]
struct Loss {
    node: SocketAddr,
    at: Instant,
    fatal_until: Option<Instant>,
}

/// What the loss of a node says of the route of the call that it was lost with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossVerdict {
    /// The call may be tried again.
    Harmless,
    /// Nodes end of it, one after the other. That is known from now on.
    NewlyFatal,
    /// The same, and it was known.
    Fatal,
}

impl FatalRoutes {
    /// A node was lost with a call of this route.
    pub(crate) fn record_loss(&mut self, now: Instant, route: &str, node: SocketAddr) -> LossVerdict {
        if self.losses.len() >= MAX_ROUTES {
            self.losses.retain(|_, loss| now < loss.fatal_until.unwrap_or(loss.at + WINDOW));
        }
        let is_full = self.losses.len() >= MAX_ROUTES;
        let Some(loss) = self.losses.get_mut(route) else {
            if !is_full {
                self.losses.insert(route.into(), Loss { node, at: now, fatal_until: None });
            }
            return LossVerdict::Harmless;
        };
        let passed = now.saturating_duration_since(loss.at);
        if loss.fatal_until.is_some_and(|until| now < until) {
            (loss.node, loss.at, loss.fatal_until) = (node, now, Some(now + FATAL));
            return LossVerdict::Fatal;
        }
        let is_same = loss.node == node && passed < ONE_LOSS;
        let is_fatal = !is_same && passed < WINDOW;
        (loss.node, loss.at, loss.fatal_until) = (node, now, is_fatal.then_some(now + FATAL));
        if is_fatal { LossVerdict::NewlyFatal } else { LossVerdict::Harmless }
    }

    /// A call of this route that a node was lost with was answered by another node.
    pub(crate) fn record_answer(&mut self, route: &str) {
        self.losses.remove(route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn e3_a_route_is_fatal_when_nodes_end_of_it_one_after_the_other() {
        use LossVerdict::{Fatal, Harmless, NewlyFatal};
        let start = Instant::now();
        let mut routes = FatalRoutes::default();
        for (ms, route, node, expected) in [
            (0, "GET/a", 1, Harmless),
            (10, "GET/a", 1, Harmless),
            (20, "GET/b", 2, Harmless),
            (30, "GET/a", 2, NewlyFatal),
            (40, "GET/a", 3, Fatal),
            (60_039, "GET/a", 3, Fatal),
            // Long after.
            (130_000, "GET/a", 4, Harmless),
            // One that was started again, at the same address.
            (140_000, "GET/a", 4, NewlyFatal),
            (20 + 30_000, "GET/b", 3, Harmless),
            (40_000, "GET/b", 1, NewlyFatal),
        ] {
            let node = SocketAddr::from(([127, 0, 0, 1], node));
            assert_eq!(routes.record_loss(start + Duration::from_millis(ms), route, node), expected, "{ms} {route}");
        }
        let node = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(routes.record_loss(start, "GET/c", node(1)), Harmless);
        routes.record_answer("GET/c");
        assert_eq!(routes.record_loss(start, "GET/c", node(2)), Harmless, "another node answers it");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn e3_so_many_routes_are_remembered() {
        let (start, mut routes) = (Instant::now(), FatalRoutes::default());
        let node = SocketAddr::from(([127, 0, 0, 1], 1));
        for number in 0..2 * MAX_ROUTES {
            routes.record_loss(start, &number.to_string(), node);
        }
        assert_eq!(routes.losses.len(), MAX_ROUTES);
        routes.record_loss(start + WINDOW, "new", node);
        assert_eq!(routes.losses.len(), 1);
    }
}
