//! A call while it is made or served, as its counters see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::node_metrics::{CallStats, NodeMetrics, RouteStats};

/// What became of a call that this node made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    Ok,
    /// The node has answered with an error.
    Refused,
    /// The connection was lost, and the node may have carried out the call.
    Lost,
    Deadline,
    /// No node could take it.
    NoProvider,
    /// Anything else that failed.
    Failed,
    /// The caller dropped the call.
    Cancelled,
}

impl CallOutcome {
    /// All outcomes, with the words of the page.
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::Ok, "ok"),
        (Self::Refused, "refused"),
        (Self::Lost, "lost"),
        (Self::Deadline, "deadline"),
        (Self::NoProvider, "no_provider"),
        (Self::Failed, "failed"),
        (Self::Cancelled, "cancelled"),
    ];
}

/// A call that is being made. Dropping it counts the call as cancelled, unless it has ended.
#[derive(Debug)]
pub(crate) struct CallRecord {
    metrics: Arc<NodeMetrics>,
    /// Of its route, once that is known.
    stats: Option<Arc<CallStats>>,
    began: Instant,
    outcome: CallOutcome,
}

impl CallRecord {
    pub(crate) fn begin(metrics: &Arc<NodeMetrics>, now: Instant) -> Self {
        Self { metrics: Arc::clone(metrics), stats: None, began: now, outcome: CallOutcome::Cancelled }
    }

    /// Whether it is not known yet of which route the call is.
    pub(crate) fn lacks_route(&self) -> bool {
        self.stats.is_none()
    }

    /// Says of which route the call is: `stats` gives its counters.
    pub(crate) fn set_route(&mut self, stats: impl FnOnce(&NodeMetrics) -> Arc<CallStats>) {
        let stats = stats(&self.metrics);
        stats.in_flight.fetch_add(1, Ordering::Relaxed);
        self.stats = Some(stats);
    }

    /// Counts the call.
    pub(crate) fn end(mut self, outcome: CallOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let stats = match &self.stats {
            Some(stats) => {
                stats.in_flight.fetch_sub(1, Ordering::Relaxed);
                Arc::clone(stats)
            }
            None => self.metrics.other_calls(),
        };
        stats.outcomes[self.outcome as usize].fetch_add(1, Ordering::Relaxed);
        stats.times.record(self.began.elapsed());
    }
}

/// A call that is being served. Dropping it counts the call.
#[derive(Debug)]
pub(crate) struct ServedCall {
    metrics: Arc<NodeMetrics>,
    /// The index of its route.
    route: usize,
    began: Instant,
    status: Option<u16>,
}

impl ServedCall {
    pub(crate) fn begin(metrics: &Arc<NodeMetrics>, route: usize, now: Instant) -> Self {
        let call = Self { metrics: Arc::clone(metrics), route, began: now, status: None };
        if let Some(stats) = call.stats() {
            stats.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        call
    }

    /// Says how the call is answered. The last status counts.
    pub(crate) fn answer(&mut self, status: u16) {
        self.status = Some(status);
    }

    fn stats(&self) -> Option<&RouteStats> {
        self.metrics.served.get(self.route)
    }
}

impl Drop for ServedCall {
    fn drop(&mut self) {
        let Some(stats) = self.stats() else { return };
        stats.in_flight.fetch_sub(1, Ordering::Relaxed);
        let counter = self.status.and_then(|status| stats.status(status)).unwrap_or(&stats.dropped);
        counter.fetch_add(1, Ordering::Relaxed);
        stats.times.record(self.began.elapsed());
    }
}
