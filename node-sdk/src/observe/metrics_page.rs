//! The page of metrics, in Prometheus' text format 0.0.4.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::call_record::CallOutcome;
use super::node_metrics::NodeMetrics;

/// Figures of a node beside its calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeTotals {
    /// Known nodes.
    pub(crate) nodes: usize,
    /// For how long no Distributor has been connected.
    pub(crate) stale: Option<Duration>,
    pub(crate) lost_events: u64,
    /// Bytes that are held for callers, and for nodes that are called.
    pub(crate) held_for_callers: usize,
    pub(crate) held_for_providers: usize,
}

/// Writes all figures. A route that was never called has no lines.
pub(crate) fn metrics_page(metrics: &NodeMetrics, totals: &NodeTotals) -> String {
    let mut page = MetricsPage { text: String::new() };
    page.write_served(metrics);
    page.write_called(metrics);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    page.one("node_retries_total", "counter", "Attempts of calls after their first.", load(&metrics.retries));
    let help = "How often a node was not called for a while, because calls to it had failed.";
    page.one("node_ejections_total", "counter", help, load(&metrics.ejections));
    let help = "Events, and other calls without a response, that were lost.";
    page.one("node_lost_events_total", "counter", help, totals.lost_events);
    page.one("node_known_nodes", "gauge", "Known nodes.", totals.nodes);
    let stale = totals.stale.unwrap_or_default().as_secs_f64();
    page.one("node_registry_stale_seconds", "gauge", "For how long no Distributor has been connected.", stale);
    page.begin("node_held_bytes", "gauge", "Bytes that are held for other nodes.");
    for (whom, bytes) in [("callers", totals.held_for_callers), ("providers", totals.held_for_providers)] {
        page.line("node_held_bytes", &format!("for=\"{whom}\""), bytes);
    }
    page.text
}

/// The page while it is written.
struct MetricsPage {
    text: String,
}

impl MetricsPage {
    fn write_served(&mut self, metrics: &NodeMetrics) {
        let called = || metrics.served.iter().map(|stats| (label(&stats.route), stats));
        self.begin("node_served_total", "counter", "Calls that were served, by route and status.");
        for (route, stats) in called() {
            for (status, count) in stats.answered() {
                self.line("node_served_total", &format!("{route},status=\"{status}\""), count);
            }
            let dropped = stats.dropped.load(Ordering::Relaxed);
            if dropped > 0 {
                self.line("node_served_total", &format!("{route},status=\"dropped\""), dropped);
            }
        }
        self.begin("node_serving", "gauge", "Calls that are being served.");
        for (route, stats) in called() {
            self.line("node_serving", &route, stats.in_flight.load(Ordering::Relaxed));
        }
        self.begin("node_served_seconds", "histogram", "Time from a call's begin to the end of its response.");
        for (route, stats) in called().filter(|(_, stats)| stats.answered().next().is_some()) {
            stats.times.write(&mut self.text, "node_served_seconds", &route);
        }
    }

    fn write_called(&mut self, metrics: &NodeMetrics) {
        let called = metrics.all_called();
        let called = || called.iter().map(|(route, stats)| (label(route), stats));
        self.begin("node_calls_total", "counter", "Calls that were made, by route and outcome.");
        for (route, stats) in called() {
            for ((_, word), count) in CallOutcome::ALL.iter().zip(&stats.outcomes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    self.line("node_calls_total", &format!("{route},outcome=\"{word}\""), count);
                }
            }
        }
        self.begin("node_calling", "gauge", "Calls that are being made.");
        for (route, stats) in called() {
            self.line("node_calling", &route, stats.in_flight.load(Ordering::Relaxed));
        }
        self.begin("node_call_seconds", "histogram", "Time of a call, with all its attempts.");
        let is_counted = |count: &AtomicU64| count.load(Ordering::Relaxed) > 0;
        for (route, stats) in called().filter(|(_, stats)| stats.outcomes.iter().any(is_counted)) {
            stats.times.write(&mut self.text, "node_call_seconds", &route);
        }
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        let _ = writeln!(self.text, "{name} {value}");
    }
}

/// The label of a route, which another node may have named.
fn label(route: &str) -> String {
    format!("route=\"{}\"", route.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::observe::{CallRecord, ServedCall};

    #[tokio::test(start_paused = true)]
    async fn m6_each_figure_has_a_line() {
        let metrics = Arc::new(NodeMetrics::new(["GET/a", "GET/b"]));
        let serve = |status: Option<u16>| {
            let mut served = ServedCall::begin(&metrics, 0, Instant::now());
            status.into_iter().for_each(|status| served.answer(status));
            served
        };
        [Some(200), Some(200), Some(404), None].into_iter().for_each(|status| drop(serve(status)));
        let _serving = serve(None);
        let call = |route: &str| {
            let mut call = CallRecord::begin(&metrics, Instant::now());
            call.set_route(|metrics| metrics.calls_of(route));
            call
        };
        call("GET/c").end(CallOutcome::Ok);
        call("GET/c").end(CallOutcome::Lost);
        drop(call("GET/\"d\""));
        CallRecord::begin(&metrics, Instant::now()).end(CallOutcome::NoProvider);
        let _calling = call("GET/c");
        metrics.record_retry();
        metrics.record_ejection();
        metrics.record_ejection();
        let totals = NodeTotals {
            nodes: 3,
            stale: Some(Duration::from_secs(4)),
            lost_events: 5,
            held_for_callers: 6,
            held_for_providers: 7,
        };
        let page = metrics_page(&metrics, &totals);
        #[track_caller]
        fn check(page: &str, line: &str) {
            assert!(page.lines().any(|seen| seen == line), "{line} in\n{page}");
        }
        for line in [
            "node_served_total{route=\"GET/a\",status=\"200\"} 2",
            "node_served_total{route=\"GET/a\",status=\"404\"} 1",
            "node_served_total{route=\"GET/a\",status=\"dropped\"} 1",
            "node_serving{route=\"GET/a\"} 1",
            "node_serving{route=\"GET/b\"} 0",
            "node_served_seconds_count{route=\"GET/a\"} 4",
            "node_calls_total{route=\"GET/c\",outcome=\"ok\"} 1",
            "node_calls_total{route=\"GET/c\",outcome=\"lost\"} 1",
            "node_calls_total{route=\"GET/\\\"d\\\"\",outcome=\"cancelled\"} 1",
            "node_calls_total{route=\"other\",outcome=\"no_provider\"} 1",
            "node_calling{route=\"GET/c\"} 1",
            "node_call_seconds_count{route=\"GET/c\"} 2",
            "node_retries_total 1",
            "node_ejections_total 2",
            "node_lost_events_total 5",
            "node_known_nodes 3",
            "node_registry_stale_seconds 4",
            "node_held_bytes{for=\"callers\"} 6",
            "node_held_bytes{for=\"providers\"} 7",
        ] {
            check(&page, line);
        }
        assert!(!page.contains("node_served_seconds_count{route=\"GET/b\"}"), "it was never called");
    }
}
