//! The counters of a node: what it serves, and what it calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::call_record::CallOutcome;
use super::histogram::Histogram;

/// Maximum number of routes of other nodes that have series of their own. Each takes 17 lines of
/// the page. Calls of further ones are counted together.
const MAX_CALLED_ROUTES: usize = 500;
/// What stands for those: no route is named so.
const OTHER_ROUTES: &str = "other";

/// The lowest status, and the number of statuses.
const MIN_STATUS: u16 = 100;
const STATUSES: usize = 500;

/// The counters of one node.
#[derive(Debug)]
pub(crate) struct NodeMetrics {
    /// Its routes, in the order of their indexes.
    pub(super) served: Box<[RouteStats]>,
    /// The routes that it calls, as their nodes register them.
    called: Mutex<BTreeMap<Box<str>, Arc<CallStats>>>,
    others: Arc<CallStats>,
    pub(super) retries: AtomicU64,
    pub(super) ejections: AtomicU64,
}

/// The calls of one route that the node serves.
#[derive(Debug)]
pub(crate) struct RouteStats {
    pub(super) route: Box<str>,
    pub(super) in_flight: AtomicU64,
    /// By status, from 100 to 599.
    pub(super) statuses: Box<[AtomicU64]>,
    /// Calls that ended without a status, because their callers had gone.
    pub(super) dropped: AtomicU64,
    pub(super) times: Histogram,
}

/// The calls of one route that the node makes.
#[derive(Debug, Default)]
pub(crate) struct CallStats {
    pub(super) in_flight: AtomicU64,
    pub(super) outcomes: [AtomicU64; CallOutcome::ALL.len()],
    pub(super) times: Histogram,
}

impl NodeMetrics {
    /// For a node that offers `routes`.
    pub(crate) fn new<'a>(routes: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            served: routes.into_iter().map(RouteStats::new).collect(),
            called: Mutex::default(),
            others: Arc::default(),
            retries: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
        }
    }

    /// The stats of calls of this route. Ask once, and keep them.
    pub(crate) fn calls_of(&self, route: &str) -> Arc<CallStats> {
        let mut called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = called.get(route) {
            return Arc::clone(known);
        }
        if called.len() >= MAX_CALLED_ROUTES {
            return self.other_calls();
        }
        Arc::clone(called.entry(route.into()).or_default())
    }

    /// The stats of calls that are of no known route.
    pub(crate) fn other_calls(&self) -> Arc<CallStats> {
        Arc::clone(&self.others)
    }

    /// Counts an attempt of a call after its first.
    pub(crate) fn record_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that a node is not called for a while, because calls to it have failed.
    pub(crate) fn record_ejection(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn all_called(&self) -> Vec<(Box<str>, Arc<CallStats>)> {
        let called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        let named = called.iter().map(|(route, stats)| (route.clone(), Arc::clone(stats)));
        named.chain([(OTHER_ROUTES.into(), self.other_calls())]).collect()
    }
}

impl RouteStats {
    fn new(route: &str) -> Self {
        Self {
            route: route.into(),
            in_flight: AtomicU64::new(0),
            statuses: (0..STATUSES).map(|_| AtomicU64::new(0)).collect(),
            dropped: AtomicU64::new(0),
            times: Histogram::default(),
        }
    }

    /// The counter of a status; `None` for one that HTTP does not have.
    pub(super) fn status(&self, status: u16) -> Option<&AtomicU64> {
        self.statuses.get(usize::from(status.checked_sub(MIN_STATUS)?))
    }

    /// The statuses that were answered, each with how often.
    pub(super) fn answered(&self) -> impl Iterator<Item = (u16, u64)> {
        let counts = (MIN_STATUS..).zip(&self.statuses).map(|(status, count)| (status, count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m6_routes_beyond_the_limit_are_counted_together() {
        let metrics = NodeMetrics::new([]);
        let first = metrics.calls_of("GET/0");
        for number in 1..MAX_CALLED_ROUTES {
            metrics.calls_of(&format!("GET/{number}"));
        }
        assert!(Arc::ptr_eq(&first, &metrics.calls_of("GET/0")));
        assert!(!Arc::ptr_eq(&metrics.calls_of("GET/499"), &metrics.other_calls()));
        assert!(Arc::ptr_eq(&metrics.calls_of("GET/500"), &metrics.other_calls()));
        assert_eq!(metrics.all_called().len(), MAX_CALLED_ROUTES + 1);
    }
}
