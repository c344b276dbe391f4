//! Reports of peers about nodes that do not answer their calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::Version;

use crate::entries::SessionId;
use crate::registry::Registry;

/// Most nodes of one report that are considered.
const MAX_REPORTED: usize = 64;
/// A reporter's report of a node counts once in this time.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Pairs of reporter and node that are remembered for that. Beyond this number, reports count for
/// nothing until old ones are forgotten.
pub(super) const MAX_PROBES: usize = 4096;
/// Version 1 nodes cannot be pinged. When two peers report one within this time, it is suspect for
/// the same time.
const SUSPICION: Duration = Duration::from_secs(5);
/// Version 1 nodes that were reported.
const MAX_SUSPICIONS: usize = 1024;

/// Version 1 nodes about which something was reported, and who may report what.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    reported: HashMap<u64, Suspicion>,
    /// Reporters with the nodes that they have reported, and until when each pair is remembered.
    probes: HashMap<(SessionId, u64), Instant>,
}

#[derive(Debug)]
struct Suspicion {
    by: SessionId,
    until: Instant,
}

impl Suspicions {
    /// When the next suspicion is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.reported.values().map(|suspicion| suspicion.until).min()
    }

    /// Removes those that are over, and returns their nodes.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<u64> {
        self.reported.extract_if(|_, suspicion| suspicion.until <= now).map(|(id, _)| id).collect()
    }

    #[cfg(test)]
    pub(super) fn probes_len(&self) -> usize {
        self.probes.len()
    }

    /// Whether a version 1 node is suspect, now that this peer has reported it: two peers have.
    fn report(&mut self, now: Instant, by: SessionId, id: u64) -> bool {
        let known = self.reported.get(&id).filter(|known| now < known.until);
        let is_second = known.is_some_and(|known| known.by != by);
        if self.reported.len() < MAX_SUSPICIONS || known.is_some() {
            let by = known.map_or(by, |known| known.by);
            self.reported.insert(id, Suspicion { by, until: now + SUSPICION });
        }
        is_second
    }

    fn may_probe(&mut self, now: Instant, by: SessionId, id: u64) -> bool {
        if self.probes.len() >= MAX_PROBES {
            self.probes.retain(|_, until| now < *until);
        }
        let is_full = self.probes.len() >= MAX_PROBES;
        match self.probes.get_mut(&(by, id)) {
            Some(until) if now < *until => false,
            Some(until) => {
                *until = now + PROBE_INTERVAL;
                true
            }
            None if is_full => false,
            None => {
                self.probes.insert((by, id), now + PROBE_INTERVAL);
                true
            }
        }
    }
}

impl Registry {
    /// A peer says that calls to these nodes failed. That counts if it is a node itself, once in a
    /// while for each node. Returns whether anything has to be told at once.
    pub(crate) fn report_failed(&mut self, now: Instant, by: SessionId, failed: &[u64]) -> bool {
        let rev = self.revision().rev;
        if self.entries.record_of(by).is_none() {
            return false;
        }
        for &id in failed.iter().take(MAX_REPORTED) {
            if !self.suspicions.may_probe(now, by, id) {
                continue;
            }
            let (Some(record), Some(session)) = (self.entries.record(id), self.entries.holder(id)) else { continue };
            let record = Arc::clone(record);
            if record.version == Version::V2 {
                self.liveness.probe(session);
                continue;
            }
            if self.suspicions.report(now, by, id)
                && let Some(record) = self.entries.mark_suspect(id, true)
            {
                self.history.record(now, self.revision().rev, &record, "suspect", "calls to it failed, say two peers");
            }
        }
        self.revision().rev != rev
    }
}
