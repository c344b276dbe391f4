//! Figures of a worker, for Prometheus: one thread counts, another one reads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net::Tally;

/// Upper bounds of the histogram of request times, in microseconds. No request takes longer than a
/// hundred seconds.
const BOUNDS_US: [u64; 10] = [250, 500, 1000, 2500, 5000, 10_000, 50_000, 250_000, 1_000_000, 10_000_000];

/// Counters of one worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By status, from 100 to 599.
    responses: [AtomicU64; 500],
    /// Requests that ended without a response, mostly because the client closed.
    unanswered: AtomicU64,
    /// Connected clients.
    connections: AtomicU64,
    /// The most bytes that they may take beside the counted ones.
    uncounted: AtomicU64,
    /// Requests by the lowest bound above their time; the last counts all others.
    times: [AtomicU64; BOUNDS_US.len() + 1],
    time_us: AtomicU64,
    /// Responses of servers that were malformed, or cut.
    malformed_responses: AtomicU64,
    /// Fields of requests that servers were not given, because of a `_` in their names.
    fields_left_out: AtomicU64,
    /// How often a heavy connection waited for its turn.
    turn_waits: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            responses: [const { AtomicU64::new(0) }; 500],
            unanswered: AtomicU64::default(),
            connections: AtomicU64::default(),
            uncounted: AtomicU64::default(),
            times: Default::default(),
            time_us: AtomicU64::default(),
            malformed_responses: AtomicU64::default(),
            fields_left_out: AtomicU64::default(),
            turn_waits: AtomicU64::default(),
        }
    }
}

impl Metrics {
    /// Counts a request that was answered, or given up if there is no status.
    pub(crate) fn record_request(&self, status: Option<u16>, took: Duration) {
        let counter = status.and_then(|status| self.responses.get(usize::from(status).checked_sub(100)?));
        counter.unwrap_or(&self.unanswered).fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.times[at].fetch_add(1, Ordering::Relaxed);
        self.time_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Records that a server has sent a malformed response, or a part of one.
    pub(crate) fn record_malformed_response(&self) {
        self.malformed_responses.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that this many fields of a request were left out for its server.
    pub(crate) fn record_fields_left_out(&self, count: u64) {
        self.fields_left_out.fetch_add(count, Ordering::Relaxed);
    }

    /// Records that a heavy connection has to wait for its turn.
    pub(crate) fn record_turn_wait(&self) {
        self.turn_waits.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connected client until the returned value is dropped.
    pub(crate) fn count_connection(self: &Arc<Self>) -> ConnectionCount {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(self))
    }

    /// Counts bytes that a client may take beside the counted ones, until the returned value is
    /// dropped.
    pub(crate) fn count_uncounted(&self, bytes: usize) -> UncountedBytes<'_> {
        self.uncounted.fetch_add(bytes as u64, Ordering::Relaxed);
        UncountedBytes(self, bytes)
    }
}

/// A client that is connected.
#[derive(Debug)]
pub(crate) struct ConnectionCount(Arc<Metrics>);

/// The most bytes that a client may take beside the counted ones.
#[derive(Debug)]
pub(crate) struct UncountedBytes<'a>(&'a Metrics, usize);

impl Drop for UncountedBytes<'_> {
    fn drop(&mut self) {
        self.0.uncounted.fetch_sub(self.1 as u64, Ordering::Relaxed);
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Figures of the whole process.
#[derive(Debug, Default)]
pub(crate) struct ProcessTotals {
    /// Known nodes.
    pub(crate) nodes: usize,
    /// Answers of nodes that could not be understood.
    pub(crate) malformed_from_nodes: u64,
    /// Log lines about servers, nodes and clients, logged or suppressed, by kind.
    pub(crate) warnings: BTreeMap<&'static str, Tally>,
    /// For how long no Distributor has been connected.
    pub(crate) stale: Option<Duration>,
    /// Lines of the access log that were lost.
    pub(crate) lost: u64,
    /// Requests and tunnels that were evicted, because they were slow or silent while others
    /// waited.
    pub(crate) evicted: u64,
    /// Bytes that are held for clients beyond each connection's own allowance, and how often more
    /// was refused.
    pub(crate) held: usize,
    pub(crate) over_budget: u64,
    /// Responses that clients have left unread.
    pub(crate) left_unread: u64,
}

/// Writes the figures of all workers in Prometheus' text format 0.0.4.
pub(crate) fn text(workers: &[Arc<Metrics>], totals: &ProcessTotals) -> String {
    let ProcessTotals { nodes, malformed_from_nodes, warnings, stale, lost, evicted, held, over_budget, left_unread } =
        totals;
    let sum = |counter: fn(&Metrics) -> &AtomicU64| -> u64 {
        workers.iter().map(|worker| counter(worker).load(Ordering::Relaxed)).sum()
    };
    let mut out = String::new();
    let mut about = |name: &str, kind: &str, help: &str, lines: &mut dyn FnMut(&mut String)| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        lines(&mut out);
    };
    about("gateway_responses_total", "counter", "Responses by status.", &mut |out| {
        for at in 0..500 {
            let count: u64 = workers.iter().map(|worker| worker.responses[at].load(Ordering::Relaxed)).sum();
            if count > 0 {
                let _ = writeln!(out, "gateway_responses_total{{status=\"{}\"}} {count}", at + 100);
            }
        }
    });
    about("gateway_unanswered_total", "counter", "Requests that ended without a response.", &mut |out| {
        let _ = writeln!(out, "gateway_unanswered_total {}", sum(|worker| &worker.unanswered));
    });
    about("gateway_connections", "gauge", "Connected clients.", &mut |out| {
        let _ = writeln!(out, "gateway_connections {}", sum(|worker| &worker.connections));
    });
    about(
        "gateway_request_seconds",
        "histogram",
        "Time from a request's head to the end of its response.",
        &mut |out| {
            let mut below = 0;
            for at in 0..=BOUNDS_US.len() {
                below += workers.iter().map(|worker| worker.times[at].load(Ordering::Relaxed)).sum::<u64>();
                let bound = BOUNDS_US
                    .get(at)
                    .map_or_else(|| "+Inf".to_owned(), |us| (Duration::from_micros(*us).as_secs_f64()).to_string());
                let _ = writeln!(out, "gateway_request_seconds_bucket{{le=\"{bound}\"}} {below}");
            }
            let seconds = Duration::from_micros(sum(|worker| &worker.time_us)).as_secs_f64();
            let _ = writeln!(out, "gateway_request_seconds_sum {seconds}\ngateway_request_seconds_count {below}");
        },
    );
    let help = "Responses of servers and nodes that were malformed, or did not end as they should.";
    about("gateway_malformed_responses_total", "counter", help, &mut |out| {
        let malformed = sum(|worker| &worker.malformed_responses) + malformed_from_nodes;
        let _ = writeln!(out, "gateway_malformed_responses_total {malformed}");
    });
    let help = "Faults of servers, nodes and clients that a line in the log is about, by kind.";
    about("gateway_warnings_total", "counter", help, &mut |out| {
        for (kind, tally) in warnings {
            let _ = writeln!(out, "gateway_warnings_total{{reason=\"{kind}\"}} {}", tally.seen);
        }
    });
    let help = "Fields that servers were not given because their names have a _.";
    about("gateway_fields_left_out_total", "counter", help, &mut |out| {
        let _ = writeln!(out, "gateway_fields_left_out_total {}", sum(|worker| &worker.fields_left_out));
    });
    let help = "How often a connection that works long waited for its turn, so that others could work.";
    about("gateway_turn_waits_total", "counter", help, &mut |out| {
        let _ = writeln!(out, "gateway_turn_waits_total {}", sum(|worker| &worker.turn_waits));
    });
    about("gateway_nodes", "gauge", "Known nodes.", &mut |out| {
        let _ = writeln!(out, "gateway_nodes {nodes}");
    });
    about("gateway_registry_stale_seconds", "gauge", "For how long no Distributor has been connected.", &mut |out| {
        let _ = writeln!(out, "gateway_registry_stale_seconds {}", stale.unwrap_or_default().as_secs_f64());
    });
    about("gateway_access_log_lost_total", "counter", "Lines of the access log that were lost.", &mut |out| {
        let _ = writeln!(out, "gateway_access_log_lost_total {lost}");
    });
    let help = "Bytes of bodies and answers that are held beyond 16 KiB for each connection.";
    about("gateway_held_bytes", "gauge", help, &mut |out| {
        let _ = writeln!(out, "gateway_held_bytes {held}");
    });
    let help = "Bytes that the connections may take at most beside those that are held.";
    about("gateway_uncounted_bytes_limit", "gauge", help, &mut |out| {
        let _ = writeln!(out, "gateway_uncounted_bytes_limit {}", sum(|worker| &worker.uncounted));
    });
    let help = "Bodies, answers and calls that were refused because the limit of held bytes was reached.";
    about("gateway_over_budget_total", "counter", help, &mut |out| {
        let _ = writeln!(out, "gateway_over_budget_total {over_budget}");
    });
    let help = "Large answers of nodes that clients left unread.";
    about("gateway_left_unread_total", "counter", help, &mut |out| {
        let _ = writeln!(out, "gateway_left_unread_total {left_unread}");
    });
    let help =
        "Requests and tunnels that were evicted because they were slow or silent while others waited for a server.";
    about("gateway_evicted_total", "counter", help, &mut |out| {
        let _ = writeln!(out, "gateway_evicted_total {evicted}");
    });
    out
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
        let text = text(
            &workers,
            &ProcessTotals {
                nodes: 7,
                malformed_from_nodes: 2,
                warnings: [("no_tls", Tally { seen: 6, suppressed: 5 })].into(),
                stale: Some(Duration::from_millis(1500)),
                lost: 3,
                evicted: 5,
                held: 65_536,
                over_budget: 2,
                left_unread: 4,
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
            "gateway_held_bytes 65536",
            "gateway_over_budget_total 2",
            "gateway_left_unread_total 4",
            "gateway_registry_stale_seconds 1.5",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
    }
}
