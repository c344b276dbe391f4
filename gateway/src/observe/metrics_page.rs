//! The page of metrics, in Prometheus' text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net::Tally;

use super::metrics::{BOUNDS_US, Metrics};
use crate::sessions::SessionTotals;

/// Figures of the whole process.
#[derive(Debug, Default)]
pub(crate) struct ProcessTotals {
    /// Known nodes.
    pub(crate) nodes: usize,
    /// Answers of nodes that could not be understood.
    pub(crate) malformed_from_nodes: u64,
    /// Log lines about servers, nodes and clients, logged or suppressed, by kind.
    pub(crate) warnings: BTreeMap<&'static str, Tally>,
    /// How long no Distributor has been connected.
    pub(crate) stale: Option<Duration>,
    /// Lines of the access log that were lost.
    pub(crate) access_log_lost: u64,
    /// Lines of the log that were lost.
    pub(crate) log_lines_lost: u64,
    /// Requests and tunnels that were evicted, because they were slow or silent while others
    /// waited.
    pub(crate) evicted: u64,
    /// Bytes that are held for clients beyond each connection's own allowance.
    pub(crate) held: usize,
    /// How often more bytes were refused.
    pub(crate) over_budget: u64,
    /// Responses that clients have left unread.
    pub(crate) left_unread: u64,
    /// Held sockets.
    pub(crate) sockets: SessionTotals,
}

/// Writes the figures of all workers, and those of the process.
pub(crate) fn metrics_page(workers: &[Arc<Metrics>], totals: &ProcessTotals) -> String {
    let mut page = MetricsPage { workers, text: String::new() };
    page.write_requests();
    page.write_faults(totals);
    page.write_registry(totals);
    page.write_held_bytes(totals);
    page.write_sockets(&totals.sockets);
    let help =
        "Requests and tunnels that were evicted because they were slow or silent while others waited for a server.";
    page.counter("gateway_evicted_total", help, totals.evicted);
    let help = "Lines of the access log that were lost.";
    page.counter("gateway_access_log_lost_total", help, totals.access_log_lost);
    let help = "Log lines that could not be written as fast as they came.";
    page.counter("gateway_log_lines_lost_total", help, totals.log_lines_lost);
    page.text
}

/// The page while it is written.
struct MetricsPage<'a> {
    workers: &'a [Arc<Metrics>],
    text: String,
}

impl MetricsPage<'_> {
    fn write_requests(&mut self) {
        self.begin("gateway_responses_total", "counter", "Responses by status.");
        for at in 0..500 {
            let count = self.sum(|worker| &worker.responses[at]);
            if count > 0 {
                let _ = writeln!(self.text, "gateway_responses_total{{status=\"{}\"}} {count}", at + 100);
            }
        }
        let unanswered = self.sum(|worker| &worker.unanswered);
        self.counter("gateway_unanswered_total", "Requests that ended without a response.", unanswered);
        self.gauge("gateway_connections", "Connected clients.", self.sum(|worker| &worker.connections));
        let help = "Time from a request's head to the end of its response.";
        self.begin("gateway_request_seconds", "histogram", help);
        let mut below = 0;
        for at in 0..=BOUNDS_US.len() {
            below += self.sum(|worker| &worker.times[at]);
            let bound = BOUNDS_US
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), |us| (Duration::from_micros(*us).as_secs_f64()).to_string());
            let _ = writeln!(self.text, "gateway_request_seconds_bucket{{le=\"{bound}\"}} {below}");
        }
        let seconds = Duration::from_micros(self.sum(|worker| &worker.time_us)).as_secs_f64();
        let _ = writeln!(self.text, "gateway_request_seconds_sum {seconds}\ngateway_request_seconds_count {below}");
    }

    fn write_faults(&mut self, totals: &ProcessTotals) {
        let help = "Responses of servers and nodes that were malformed, or did not end as they should.";
        let malformed = self.sum(|worker| &worker.malformed_responses) + totals.malformed_from_nodes;
        self.counter("gateway_malformed_responses_total", help, malformed);
        let help = "Faults of servers, nodes and clients that a line in the log is about, by kind.";
        self.begin("gateway_warnings_total", "counter", help);
        for (kind, tally) in &totals.warnings {
            let _ = writeln!(self.text, "gateway_warnings_total{{reason=\"{kind}\"}} {}", tally.seen);
        }
        let help = "Fields that servers were not given because their names have a _.";
        self.counter("gateway_fields_left_out_total", help, self.sum(|worker| &worker.fields_left_out));
        let help = "How often a connection that works long waited for its turn, so that others could work.";
        self.counter("gateway_turn_waits_total", help, self.sum(|worker| &worker.turn_waits));
    }

    fn write_registry(&mut self, totals: &ProcessTotals) {
        self.gauge("gateway_nodes", "Known nodes.", totals.nodes);
        let stale = totals.stale.unwrap_or_default().as_secs_f64();
        self.gauge("gateway_registry_stale_seconds", "For how long no Distributor has been connected.", stale);
    }

    fn write_held_bytes(&mut self, totals: &ProcessTotals) {
        let help = "Bytes of bodies and answers that are held beyond 16 KiB for each connection.";
        self.gauge("gateway_held_bytes", help, totals.held);
        let help = "Bytes that the connections may take at most beside those that are held.";
        self.gauge("gateway_uncounted_bytes_limit", help, self.sum(|worker| &worker.uncounted));
        let help = "Bodies, answers and calls that were refused because the limit of held bytes was reached.";
        self.counter("gateway_over_budget_total", help, totals.over_budget);
        let help = "Large answers of nodes that clients left unread.";
        self.counter("gateway_left_unread_total", help, totals.left_unread);
    }

    fn write_sockets(&mut self, totals: &SessionTotals) {
        let SessionTotals { sessions, cut, groups, bytes, pushed, slow, dropped, resumed } = totals;
        let help = "Sessions of held sockets, with those whose clients may come back.";
        self.gauge("gateway_sessions", help, sessions);
        self.gauge("gateway_sessions_cut", "Sessions without a socket, whose clients may come back.", cut);
        self.gauge("gateway_groups", "Groups that sessions have joined.", groups);
        self.gauge(
            "gateway_session_bytes",
            "Bytes of messages that wait for clients, or may be asked for again.",
            bytes,
        );
        self.counter("gateway_pushed_total", "Messages that nodes have pushed to sessions.", pushed);
        let help = "Messages that were refused because their clients do not read: their sockets were closed.";
        self.counter("gateway_push_refused_total", help, slow);
        let help = "Messages that were dropped for newer ones, as their routes say.";
        self.counter("gateway_push_dropped_total", help, dropped);
        self.counter("gateway_sessions_resumed_total", "Sessions that clients have resumed.", resumed);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, "counter", help);
        let _ = writeln!(self.text, "{name} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, "gauge", help);
        let _ = writeln!(self.text, "{name} {value}");
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// The sum of a counter over all workers.
    fn sum(&self, counter: impl Fn(&Metrics) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|worker| counter(worker).load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up() {
        let workers: [Arc<Metrics>; 2] = Default::default();
        workers[0].record_request(Some(200), Duration::from_micros(300));
        workers[1].record_request(Some(200), Duration::from_millis(3));
        workers[1].record_request(Some(599), Duration::from_secs(100));
        workers[1].record_request(None, Duration::ZERO);
        workers[1].record_request(Some(999), Duration::ZERO);
        workers[0].record_malformed_response();
        workers.iter().for_each(|worker| worker.record_fields_left_out(2));
        workers.iter().for_each(|worker| worker.record_turn_wait());
        let _one = workers[0].count_connection();
        drop(workers[1].count_connection());
        let _bytes = workers[0].count_uncounted(1000);
        drop(workers[1].count_uncounted(10));
        let text = metrics_page(
            &workers,
            &ProcessTotals {
                nodes: 7,
                malformed_from_nodes: 2,
                warnings: [("no_tls", Tally { seen: 6, suppressed: 5 })].into(),
                stale: Some(Duration::from_millis(1500)),
                access_log_lost: 3,
                log_lines_lost: 8,
                evicted: 5,
                held: 65_536,
                over_budget: 2,
                left_unread: 4,
                sockets: SessionTotals { sessions: 9, pushed: 6, ..SessionTotals::default() },
            },
        );
        for line in [
            "gateway_responses_total{status=\"200\"} 2",
            "gateway_responses_total{status=\"599\"} 1",
            "gateway_unanswered_total 2",
            "gateway_connections 1",
            "gateway_uncounted_bytes_limit 1000",
            "gateway_request_seconds_bucket{le=\"0.00025\"} 2",
            "gateway_request_seconds_bucket{le=\"0.0005\"} 3",
            "gateway_request_seconds_bucket{le=\"0.005\"} 4",
            "gateway_request_seconds_bucket{le=\"+Inf\"} 5",
            "gateway_request_seconds_sum 100.0033",
            "gateway_request_seconds_count 5",
            "gateway_malformed_responses_total 3",
            "gateway_warnings_total{reason=\"no_tls\"} 6",
            "gateway_fields_left_out_total 4",
            "gateway_turn_waits_total 2",
            "gateway_nodes 7",
            "gateway_access_log_lost_total 3",
            "gateway_evicted_total 5",
            "gateway_log_lines_lost_total 8",
            "gateway_held_bytes 65536",
            "gateway_over_budget_total 2",
            "gateway_left_unread_total 4",
            "gateway_sessions 9",
            "gateway_pushed_total 6",
            "gateway_registry_stale_seconds 1.5",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
    }
}
