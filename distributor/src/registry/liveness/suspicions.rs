//! Reports of peers about nodes that do not answer their calls.

use std::collections::{HashMap, hash_map};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::Version;

use crate::entries::{NodeIdentity, Record, SessionId};
use crate::registry::Registry;

/// Maximum number of nodes of one report that are considered: each costs a look-up, and maybe a
/// ping.
const MAX_REPORTED: usize = 64;
/// A reporter's report of a node counts once in this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Pairs of reporter and node that are remembered for that. Beyond this number, reports count for
/// nothing until old ones are forgotten.
pub(in crate::registry) const MAX_REPORT_PAIRS: usize = 4096;
/// Version 1 nodes cannot be pinged. When two peers report one within this time, or the only one
/// that can, it is suspect for the same time.
const SUSPICION_TIME: Duration = Duration::from_secs(5);
/// Version 1 nodes that were reported.
const MAX_SUSPICIONS: usize = 1024;

/// A version 1 node is removed when two peers report it again and again for this long: it does not
/// read, or no peer reaches it. If it is alive after all, it registers again within a few seconds.
const HUNG_AFTER_REPORTS: Duration = Duration::from_secs(30);
/// A version 1 node that only one peer can report, such as the gateway of version 1 services, is
/// removed after this long.
const HUNG_AFTER_SOLE_REPORTER: Duration = Duration::from_secs(60);
/// How long a version 1 node stays that only one peer at a time reports, although others could.
/// Usually the reporter is a gateway, and the others call nothing there.
const HUNG_AFTER_SINGLE_REPORTER: Duration = Duration::from_secs(120);
/// A node is removed on the reports of a single reporter at most once in this time. If the node
/// comes back, it lives, and the fault is at the reporter.
const SINGLE_REPORTER_PERIOD: Duration = Duration::from_secs(3600);
/// Nodes that were removed on the reports of a single reporter, and are remembered for that. Beyond
/// this number, the reports of a single reporter count for nothing.
const MAX_SINGLE_REMOVALS: usize = 1024;
/// The time without a report after which a node begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// Version 1 nodes about which something was reported, and who may report what.
#[derive(Debug, Default)]
pub(in crate::registry) struct Suspicions {
    reported: HashMap<u64, Suspicion>,
    /// Reporters with the nodes that they have reported, and until when each pair is remembered.
    report_pairs: HashMap<(SessionId, u64), Instant>,
    /// Nodes that were removed on the reports of a single reporter, and until when that is
    /// remembered.
    single_removals: HashMap<NodeIdentity, Instant>,
}

#[derive(Debug)]
struct Suspicion {
    by: SessionId,
    /// The time until which that report counts, and the node is suspect if another peer has said
    /// the same.
    until: Instant,
    is_suspect: bool,
    /// Since when any peer has said so.
    first: Instant,
    /// Since when enough peers have said so.
    since: Option<Instant>,
    forgiven_at: Instant,
}

/// The consequence of a report for a version 1 node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SuspicionVerdict {
    /// Too few peers have reported it.
    No,
    /// Enough peers have.
    Yes,
    /// Enough peers have, and for long enough: it is removed.
    Hung,
}

/// The next step after a report.
#[derive(Debug, Default)]
pub(crate) struct ReportOutcome {
    /// Whether followers have to be told.
    pub(crate) has_changed: bool,
    /// Version 1 nodes that are suspect from now on.
    pub(crate) suspects: Vec<Arc<Record>>,
    /// Version 1 nodes that should show whether they read.
    pub(crate) to_probe: Vec<SessionId>,
    /// Version 1 nodes that must be cut.
    pub(crate) hung: Vec<SessionId>,
}

impl Suspicions {
    /// When the next suspicion is over.
    pub(in crate::registry) fn next_due(&self) -> Option<Instant> {
        let due = |one: &Suspicion| if one.is_suspect { one.until } else { one.forgiven_at };
        self.reported.values().map(due).min()
    }

    /// Ends those that are over, and returns their nodes.
    pub(in crate::registry) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let is_over = |one: &Suspicion| one.is_suspect && one.until <= now;
        let over = self.reported.iter_mut().filter(|(_, one)| is_over(one));
        let over = over.map(|(id, one)| {
            one.is_suspect = false;
            *id
        });
        let over = over.collect();
        self.reported.retain(|_, one| one.is_suspect || now < one.forgiven_at);
        over
    }

    /// Records that the node reads: it is not hung, though calls to it may fail.
    pub(in crate::registry) fn record_alive(&mut self, now: Instant, id: u64) {
        if let Some(suspicion) = self.reported.get_mut(&id) {
            (suspicion.since, suspicion.first) = (None, now);
        }
    }

    #[cfg(test)]
    pub(in crate::registry) fn report_pairs_len(&self) -> usize {
        self.report_pairs.len()
    }

    /// The consequence for a version 1 node that this peer has reported. With `is_sole`, no other
    /// peer can report.
    fn report(&mut self, now: Instant, by: SessionId, record: &Record, is_sole: bool) -> SuspicionVerdict {
        let id = record.id;
        let is_full = self.reported.len() >= MAX_SUSPICIONS;
        let (until, forgiven_at) = (now + SUSPICION_TIME, now + FORGIVEN_AFTER);
        let known = match self.reported.entry(id) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(_) if is_full => return SuspicionVerdict::No,
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Suspicion { by, until: now, is_suspect: false, first: now, since: None, forgiven_at })
            }
        };
        if known.forgiven_at <= now {
            (known.since, known.first) = (None, now);
        }
        known.forgiven_at = forgiven_at;
        let is_enough = is_sole || (now < known.until && known.by != by);
        if now >= known.until {
            known.by = by;
        }
        known.until = until;
        let has_been_told = now.saturating_duration_since(known.first) >= HUNG_AFTER_SINGLE_REPORTER;
        if has_been_told && single_reporter_suffices(&mut self.single_removals, now, record) {
            self.reported.remove(&id);
            return SuspicionVerdict::Hung;
        }
        if !is_enough {
            return SuspicionVerdict::No;
        }
        let since = *known.since.get_or_insert(now);
        let hung_after = if is_sole { HUNG_AFTER_SOLE_REPORTER } else { HUNG_AFTER_REPORTS };
        if now.saturating_duration_since(since) >= hung_after {
            self.reported.remove(&id);
            return SuspicionVerdict::Hung;
        }
        known.is_suspect = true;
        SuspicionVerdict::Yes
    }

    fn may_report(&mut self, now: Instant, by: SessionId, id: u64) -> bool {
        if self.report_pairs.len() >= MAX_REPORT_PAIRS {
            self.report_pairs.retain(|_, until| now < *until);
        }
        let is_full = self.report_pairs.len() >= MAX_REPORT_PAIRS;
        match self.report_pairs.get_mut(&(by, id)) {
            Some(until) if now < *until => false,
            Some(until) => {
                *until = now + REPORT_INTERVAL;
                true
            }
            None if is_full => false,
            None => {
                self.report_pairs.insert((by, id), now + REPORT_INTERVAL);
                true
            }
        }
    }
}

/// Whether the reports of a single reporter remove this node. Then they do not again for a while.
fn single_reporter_suffices(
    single_removals: &mut HashMap<NodeIdentity, Instant>,
    now: Instant,
    record: &Record,
) -> bool {
    single_removals.retain(|_, until| now < *until);
    let has_room = single_removals.len() < MAX_SINGLE_REMOVALS;
    match single_removals.entry(record.identity()) {
        hash_map::Entry::Vacant(vacant) if has_room => {
            vacant.insert(now + SINGLE_REPORTER_PERIOD);
            true
        }
        hash_map::Entry::Vacant(_) | hash_map::Entry::Occupied(_) => false,
    }
}

impl Registry {
    /// Records that a peer says that calls to these nodes failed. That counts if the peer is a node
    /// itself, once in a while for each node.
    pub(crate) fn report_failed(&mut self, now: Instant, by: SessionId, failed: &[u64]) -> ReportOutcome {
        let rev = self.revision().rev;
        let mut outcome = ReportOutcome::default();
        if self.entries.record_of(by).is_none() {
            return outcome;
        }
        for &id in failed.iter().take(MAX_REPORTED) {
            if !self.suspicions.may_report(now, by, id) {
                continue;
            }
            let (Some(record), Some(session)) = (self.entries.record(id), self.entries.owner(id)) else { continue };
            let record = Arc::clone(record);
            if record.version == Version::V2 {
                self.liveness.ping_reported(session);
                continue;
            }
            outcome.to_probe.push(session);
            // A peer without an instance id is not among those that are counted.
            let has_instance = self.entries.record_of(by).is_some_and(|record| record.instance.is_some());
            let is_sole = has_instance && self.entries.instances() == 1;
            match self.suspicions.report(now, by, &record, is_sole) {
                SuspicionVerdict::No => {}
                SuspicionVerdict::Yes => {
                    if let Some(record) = self.entries.mark_suspect(id, true) {
                        let why = if is_sole {
                            "calls to it failed, says the only peer that can"
                        } else {
                            "calls to it failed, say two peers"
                        };
                        self.history.record(now, self.revision().rev, &record, "suspect", why);
                        outcome.suspects.push(record);
                    }
                }
                SuspicionVerdict::Hung => outcome.hung.push(session),
            }
        }
        outcome.has_changed = self.revision().rev != rev;
        outcome
    }

    /// Records that a version 1 node reads its list.
    pub(crate) fn record_reading(&mut self, now: Instant, session: SessionId) {
        if let Some(record) = self.entries.record_of(session) {
            self.suspicions.record_alive(now, record.id);
        }
    }
}
