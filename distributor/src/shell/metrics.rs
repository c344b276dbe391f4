//! The Distributor's counters and gauges, for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use protocol::Revision;

use crate::registry::Rejection;

/// The status of all rejections that are for want of room.
const NO_ROOM: u16 = 507;

/// Counters that only the metrics need.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    updates_sent: AtomicU64,
    questions: AtomicU64,
    uses_refused: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// Counts lists and changes that peers were sent.
    pub(crate) fn record_updates(&self, packets: u64) {
        self.updates_sent.fetch_add(packets, Ordering::Relaxed);
    }

    /// Counts a refusal, unless the status says that the packet was accepted after all. The reasons
    /// are words of this program, so there are few.
    pub(crate) fn record_rejection(&self, status: u16, reason: &'static str) {
        if status < 400 {
            return;
        }
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Counts a question, and whether it is refused because there is no room for what it brings.
    pub(crate) fn record_question(&self, refusal: Option<&Rejection>) {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if refusal.is_some_and(|refusal| refusal.status == NO_ROOM) {
            self.record_uses_refused();
        }
    }

    /// Counts a registration or question that brings what there is no room for.
    pub(crate) fn record_uses_refused(&self) {
        self.uses_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn updates_sent(&self) -> u64 {
        self.updates_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }

    pub(crate) fn uses_refused(&self) -> u64 {
        self.uses_refused.load(Ordering::Relaxed)
    }

    pub(crate) fn all_refused(&self) -> BTreeMap<&'static str, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The figures at one moment.
#[derive(Debug, Default)]
pub(crate) struct MetricsSnapshot {
    pub(crate) connections: usize,
    /// Connections that have registered nothing.
    pub(crate) unregistered: usize,
    /// Nodes that are listed.
    pub(crate) nodes: usize,
    pub(crate) suspects: usize,
    /// Listed nodes that version 1 peers are not told of.
    pub(crate) left_out: usize,
    /// Deferred registrations.
    pub(crate) deferred: usize,
    pub(crate) revision: Revision,
    pub(crate) history_events: usize,
    /// Lists and changes that peers were sent.
    pub(crate) updates_sent: u64,
    /// Nodes that are told only of what they use.
    pub(crate) partial_views: usize,
    /// Questions of nodes.
    pub(crate) questions: u64,
    /// Registrations and questions for whose uses there was no room.
    pub(crate) uses_refused: u64,
    /// Connections that were cut, by reason.
    pub(crate) cut: BTreeMap<&'static str, u64>,
    /// Faults of listed nodes, by kind.
    pub(crate) warnings: BTreeMap<&'static str, u64>,
    /// Refusals, by reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Log lines that were suppressed because there were many alike, and lines that could not be
    /// written.
    pub(crate) log_lines_suppressed: u64,
    pub(crate) log_lines_lost: u64,
    /// Connections that wait for room for a packet.
    pub(crate) waiting: usize,
    /// The bytes that are held, and their limit, for each kind.
    pub(crate) memory: Vec<(&'static str, usize, usize)>,
}

/// All figures in Prometheus' text format 0.0.4.
pub(crate) fn text(figures: &MetricsSnapshot) -> String {
    let mut out = String::new();
    let mut about = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
        let _ = writeln!(out, "# HELP distributor_{name} {help}\n# TYPE distributor_{name} {kind}");
        for (label, value) in values {
            let _ = writeln!(out, "distributor_{name}{label} {value}");
        }
    };
    let one = |value: u64| [(String::new(), value)];
    let few = |value: usize| one(value as u64);
    let labelled = |(label, value): (&str, u64), name: &str| (format!("{{{name}=\"{label}\"}}"), value);
    let reasons = |counts: &BTreeMap<&'static str, u64>| -> Vec<_> {
        counts.iter().map(|(reason, count)| labelled((reason, *count), "reason")).collect()
    };
    about("connections", "gauge", "Connections that are open.", &few(figures.connections));
    let help = "Connections that have registered nothing.";
    about("unregistered_connections", "gauge", help, &few(figures.unregistered));
    about("nodes", "gauge", "Nodes that are listed.", &few(figures.nodes));
    let help = "Listed nodes that version 1 peers are not told of, because their list has no room.";
    about("left_out_of_old_lists", "gauge", help, &few(figures.left_out));
    about(
        "suspects",
        "gauge",
        "Listed nodes that are suspect: they give no sign of life, or calls to them fail.",
        &few(figures.suspects),
    );
    let help = "Registrations that are deferred because their nodes come and go, or change, too often.";
    about("deferred", "gauge", help, &few(figures.deferred));
    about("revision", "gauge", "Number of the newest state, since the start.", &one(figures.revision.rev));
    about("history_events", "gauge", "Events that are remembered.", &few(figures.history_events));
    about("updates_sent_total", "counter", "Lists and changes that peers were sent.", &one(figures.updates_sent));
    let help = "Nodes that are told only of what they use, and ask for more.";
    about("nodes_told_of_part", "gauge", help, &few(figures.partial_views));
    about("questions_total", "counter", "Questions of nodes who offers what they call.", &one(figures.questions));
    let help = "Registrations and questions that bring uses for which there is no room (--max-list-bytes).";
    about("uses_refused_total", "counter", help, &one(figures.uses_refused));
    about("cut_total", "counter", "Connections that were cut, by reason.", &reasons(&figures.cut));
    about("refused_total", "counter", "Refusals, by reason.", &reasons(&figures.refused));
    let help = "Faults of listed nodes that were seen, by kind.";
    about("warnings_total", "counter", help, &reasons(&figures.warnings));
    let memory = |value: fn(&(&str, usize, usize)) -> usize| -> Vec<_> {
        figures.memory.iter().map(|kind| labelled((kind.0, value(kind) as u64), "kind")).collect()
    };
    about("memory_bytes", "gauge", "Bytes that are held, by kind.", &memory(|(_, used, _)| *used));
    about("memory_limit_bytes", "gauge", "Limits of bytes that are held, by kind.", &memory(|(_, _, limit)| *limit));
    let help = "Connections that wait for memory for a packet.";
    about("waiting_for_memory", "gauge", help, &few(figures.waiting));
    let help = "Log lines that were suppressed because there were many of their kind.";
    about("log_lines_suppressed_total", "counter", help, &one(figures.log_lines_suppressed));
    let help = "Log lines that could not be written as fast as they came.";
    about("log_lines_lost_total", "counter", help, &one(figures.log_lines_lost));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_a_line() {
        let counters = Counters::default();
        counters.record_updates(3);
        for (status, reason) in [(503, "busy"), (202, "held_back"), (503, "busy"), (507, "registry_full")] {
            counters.record_rejection(status, reason);
        }
        counters.record_uses_refused();
        counters.record_question(None);
        for (status, reason) in [(507, "registry_full"), (503, "busy"), (400, "too_many_needs"), (507, "address_full")]
        {
            counters.record_question(Some(&Rejection::new(status, reason, "no")));
        }
        let figures = MetricsSnapshot {
            connections: 1,
            unregistered: 2,
            nodes: 3,
            suspects: 4,
            left_out: 16,
            deferred: 5,
            revision: Revision { epoch: 1, rev: 6 },
            history_events: 7,
            updates_sent: counters.updates_sent(),
            partial_views: 17,
            questions: counters.questions(),
            uses_refused: counters.uses_refused(),
            cut: [("slow", 8)].into(),
            warnings: [("unreachable", 15)].into(),
            refused: counters.all_refused(),
            log_lines_suppressed: 9,
            log_lines_lost: 10,
            waiting: 11,
            memory: vec![("unread", 12, 13), ("incoming", 14, 15)],
        };
        let text = text(&figures);
        #[track_caller]
        fn check(text: &str, name: &str, expected: &str) {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("distributor_{name} ")));
            assert_eq!(value, Some(expected), "{name} in\n{text}");
        }
        for (name, expected) in [
            ("connections", "1"),
            ("unregistered_connections", "2"),
            ("nodes", "3"),
            ("suspects", "4"),
            ("left_out_of_old_lists", "16"),
            ("deferred", "5"),
            ("revision", "6"),
            ("history_events", "7"),
            ("updates_sent_total", "3"),
            ("nodes_told_of_part", "17"),
            ("questions_total", "5"),
            ("uses_refused_total", "3"),
            ("cut_total{reason=\"slow\"}", "8"),
            ("warnings_total{reason=\"unreachable\"}", "15"),
            ("refused_total{reason=\"busy\"}", "2"),
            ("refused_total{reason=\"registry_full\"}", "1"),
            ("log_lines_suppressed_total", "9"),
            ("log_lines_lost_total", "10"),
            ("waiting_for_memory", "11"),
            ("memory_bytes{kind=\"unread\"}", "12"),
            ("memory_limit_bytes{kind=\"unread\"}", "13"),
            ("memory_bytes{kind=\"incoming\"}", "14"),
            ("memory_limit_bytes{kind=\"incoming\"}", "15"),
        ] {
            check(&text, name, expected);
        }
        assert!(!text.contains("held_back\"}"), "deferred nodes are not refused");
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("distributor_")), "{text}");
    }
}
