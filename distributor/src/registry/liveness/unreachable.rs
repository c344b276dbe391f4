//! Peers' reports of nodes that they cannot connect to. The node and its operators are told,
//! because they can mend it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::Unreachable;

use crate::entries::{Record, SessionId};
use crate::registry::Registry;

/// Nodes of one report that are looked at.
const MAX_REPORTED_UNREACHABLE: usize = 64;
/// How often a node's unreachability is recorded and the node is told, however many peers report
/// it.
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);
/// Nodes that are remembered for that. Beyond it nothing is told until old ones are forgotten.
const MAX_TOLD: usize = 4096;

/// When it was last told which nodes cannot be reached.
#[derive(Debug, Default)]
pub(in crate::registry) struct UnreachableNodes {
    told: HashMap<u64, Instant>,
}

/// A node that must be told that a peer cannot reach it.
#[derive(Debug)]
pub(crate) struct UnreachableNotice {
    pub(crate) session: SessionId,
    pub(crate) record: Arc<Record>,
    /// The name of the peer, and its address as it is listed.
    pub(crate) peer: (Box<str>, String),
    pub(crate) why: Unreachable,
}

impl UnreachableNodes {
    fn is_notice_due(&mut self, now: Instant, id: u64) -> bool {
        if self.told.len() >= MAX_TOLD {
            self.told.retain(|_, told| now < *told + NOTICE_INTERVAL);
        }
        let is_full = self.told.len() >= MAX_TOLD;
        match self.told.get_mut(&id) {
            Some(told) if now < *told + NOTICE_INTERVAL => false,
            Some(told) => {
                *told = now;
                true
            }
            None if is_full => false,
            None => {
                self.told.insert(id, now);
                true
            }
        }
    }
}

impl Registry {
    /// Records that a peer says that it cannot connect to these nodes. That counts if the peer is a
    /// node itself, and once in a while for each node. Returns which nodes must be told.
    pub(crate) fn report_unreachable(
        &mut self,
        now: Instant,
        by: SessionId,
        reported: &[(u64, Unreachable)],
    ) -> Vec<UnreachableNotice> {
        let Some(peer) = self.entries.record_of(by).map(|peer| (peer.name.clone(), peer.address())) else {
            return Vec::new();
        };
        let mut notices = Vec::new();
        for &(id, why) in reported.iter().take(MAX_REPORTED_UNREACHABLE) {
            let (Some(record), Some(session)) = (self.entries.record(id), self.entries.owner(id)) else { continue };
            let record = Arc::clone(record);
            if session == by || !self.unreachable.is_notice_due(now, id) {
                continue;
            }
            let (name, at) = &peer;
            let text = format!("{name} at {at} cannot connect to it: {}", why.describe());
            self.history.record(now, self.revision().rev, &record, "unreachable", text);
            notices.push(UnreachableNotice { session, record, peer: peer.clone(), why });
        }
        notices
    }
}
