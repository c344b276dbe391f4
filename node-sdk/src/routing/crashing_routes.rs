//! Routes whose calls crash the nodes that handle them: such a call is not tried at the next node.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Two nodes that are lost within this time, each with a call of one route and with no answer in
/// between, count as crashed by it.
const WINDOW: Duration = Duration::from_secs(30);
/// Calls that one connection loses at once are one loss.
const SAME_LOSS_WINDOW: Duration = Duration::from_secs(1);
/// How long calls of such a route are not tried again after a loss.
const NO_RETRY_PERIOD: Duration = Duration::from_secs(60);
/// Routes that are remembered. With more, later ones count as harmless until old ones are
/// forgotten.
const MAX_ROUTES: usize = 1024;

/// The routes with which nodes were lost lately.
#[derive(Debug, Default)]
pub(crate) struct CrashingRoutes {
    losses: HashMap<Box<str>, Loss>,
}

#[derive(Debug)]
struct Loss {
    node: SocketAddr,
    at: Instant,
    crashing_until: Option<Instant>,
}

/// The verdict on a route after a node was lost with a call of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossVerdict {
    /// The call may be tried again.
    Harmless,
    /// Calls of the route crash one node after the other. This is known from now on.
    NewlyCrashing,
    /// Calls of the route crash nodes, which was known before.
    Crashing,
}

impl CrashingRoutes {
    /// Records that a node was lost while it handled a call of this route.
    pub(crate) fn record_loss(&mut self, now: Instant, route: &str, node: SocketAddr) -> LossVerdict {
        if self.losses.len() >= MAX_ROUTES {
            self.losses.retain(|_, loss| now < loss.crashing_until.unwrap_or(loss.at + WINDOW));
        }
        let is_full = self.losses.len() >= MAX_ROUTES;
        let Some(loss) = self.losses.get_mut(route) else {
            if !is_full {
                self.losses.insert(route.into(), Loss { node, at: now, crashing_until: None });
            }
            return LossVerdict::Harmless;
        };
        let passed = now.saturating_duration_since(loss.at);
        if loss.crashing_until.is_some_and(|until| now < until) {
            (loss.node, loss.at, loss.crashing_until) = (node, now, Some(now + NO_RETRY_PERIOD));
            return LossVerdict::Crashing;
        }
        let is_same = loss.node == node && passed < SAME_LOSS_WINDOW;
        let is_crashing = !is_same && passed < WINDOW;
        (loss.node, loss.at, loss.crashing_until) = (node, now, is_crashing.then_some(now + NO_RETRY_PERIOD));
        if is_crashing { LossVerdict::NewlyCrashing } else { LossVerdict::Harmless }
    }

    /// Records that another node has answered such a call.
    pub(crate) fn record_response(&mut self, route: &str) {
        self.losses.remove(route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn e3_a_route_counts_as_crashing_when_nodes_end_of_it_one_after_the_other() {
        use LossVerdict::{Crashing, Harmless, NewlyCrashing};
        let start = Instant::now();
        let mut routes = CrashingRoutes::default();
        for (ms, route, node, expected) in [
            (0, "GET/a", 1, Harmless),
            (10, "GET/a", 1, Harmless),
            (20, "GET/b", 2, Harmless),
            (30, "GET/a", 2, NewlyCrashing),
            (40, "GET/a", 3, Crashing),
            (60_039, "GET/a", 3, Crashing),
            // Long after.
            (130_000, "GET/a", 4, Harmless),
            // One that was started again, at the same address.
            (140_000, "GET/a", 4, NewlyCrashing),
            (20 + 30_000, "GET/b", 3, Harmless),
            (40_000, "GET/b", 1, NewlyCrashing),
        ] {
            let node = SocketAddr::from(([127, 0, 0, 1], node));
            assert_eq!(routes.record_loss(start + Duration::from_millis(ms), route, node), expected, "{ms} {route}");
        }
        let node = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(routes.record_loss(start, "GET/c", node(1)), Harmless);
        routes.record_response("GET/c");
        assert_eq!(routes.record_loss(start, "GET/c", node(2)), Harmless, "another node answers it");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn e3_so_many_routes_are_remembered() {
        let (start, mut routes) = (Instant::now(), CrashingRoutes::default());
        let node = SocketAddr::from(([127, 0, 0, 1], 1));
        for number in 0..2 * MAX_ROUTES {
            routes.record_loss(start, &number.to_string(), node);
        }
        assert_eq!(routes.losses.len(), MAX_ROUTES);
        routes.record_loss(start + WINDOW, "new", node);
        assert_eq!(routes.losses.len(), 1);
    }
}
