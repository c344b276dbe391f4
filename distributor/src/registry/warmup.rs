//! Decides, after a start, how long lists may lack nodes, and which node is asked for the list of
//! the earlier Distributor.

use std::time::{Duration, Instant};

use protocol::ResumePoint;

use crate::entries::SessionId;

/// The reconnect period: nodes that are not connected try to connect at least this often.
const PERIOD: Duration = Duration::from_secs(3);
/// Every node that comes back has done so within this time.
const MAX_WARMUP_TIME: Duration = Duration::from_secs(6);
/// If no node comes back from an earlier Distributor, all nodes have joined when no join has come
/// for this time.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// How long to wait, after the first node that has an older list, before the newest list is chosen.
const COLLECT_TIME: Duration = Duration::from_millis(100);
/// How long a node may take to send its copy.
const COPY_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of nodes that are asked before the list is built from nothing.
const MAX_COPIES: u32 = 3;
/// Maximum number of offers that are kept: the best of this many is good enough.
const MAX_OFFERS: usize = 64;

/// Nodes of a copy that are not back within two periods and a second are gone.
pub(crate) const RETURN_WITHIN: Duration = MAX_WARMUP_TIME.saturating_add(Duration::from_secs(1));

/// The stages of a start.
#[derive(Debug)]
pub(crate) struct Warmup {
    started: Instant,
    last_join: Option<Instant>,
    /// The lists that nodes offer. Nodes that offer the same list are counted together.
    offers: Vec<(ResumePoint, SessionId)>,
    stage: Stage,
    copies: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No node has offered a list so far. Nodes that register are added.
    Gathering,
    /// Nodes have offered an earlier Distributor's list; one is asked for it at this time.
    Collecting(Instant),
    /// This node was asked for its copy, and has until this time.
    Copying(SessionId, ResumePoint, Instant),
    /// Nodes have offered an earlier list, but none could be restored.
    Rebuilding,
    /// Lists show all nodes.
    Warm,
}

impl Warmup {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, last_join: None, offers: Vec::new(), stage: Stage::Gathering, copies: 0 }
    }

    /// Whether lists may lack nodes.
    pub(crate) fn is_warming(&self) -> bool {
        self.stage != Stage::Warm
    }

    /// Whether an earlier list is about to be restored, so that nothing should be sent before.
    pub(crate) fn is_restoring(&self) -> bool {
        matches!(self.stage, Stage::Collecting(_) | Stage::Copying(..))
    }

    /// Records that a node has registered.
    pub(crate) fn record_join(&mut self, now: Instant) {
        self.last_join = Some(now);
    }

    /// Records that a node offers a list of another epoch.
    pub(crate) fn record_offer(&mut self, now: Instant, session: SessionId, have: ResumePoint) {
        let fresh = match self.stage {
            Stage::Gathering => true,
            Stage::Warm => self.copies == 0 && now < self.started + MAX_WARMUP_TIME,
            Stage::Collecting(_) | Stage::Copying(..) | Stage::Rebuilding => false,
        };
        if fresh {
            self.stage = Stage::Collecting(now + COLLECT_TIME);
        }
        if self.is_restoring() && self.offers.len() < MAX_OFFERS {
            self.offers.push((have, session));
        }
    }

    /// The node that should be asked for its copy now, if any.
    pub(crate) fn next_copy_source(&mut self, now: Instant) -> Option<SessionId> {
        let due = match self.stage {
            Stage::Collecting(until) | Stage::Copying(_, _, until) => until <= now,
            Stage::Gathering | Stage::Rebuilding | Stage::Warm => false,
        };
        due.then(|| self.next_offer(now)).flatten()
    }

    /// Records that a session has ended. If it was asked for its copy, another node is asked.
    pub(crate) fn record_leave(&mut self, now: Instant, session: SessionId) {
        self.offers.retain(|(_, other)| *other != session);
        if let Stage::Copying(asked, ..) = self.stage
            && asked == session
        {
            self.stage = Stage::Collecting(now);
        }
    }

    /// The state that this node was asked for, if there is still time.
    pub(crate) fn expected_copy(&self, session: SessionId) -> Option<ResumePoint> {
        match self.stage {
            Stage::Copying(asked, have, _) if asked == session => Some(have),
            Stage::Gathering | Stage::Collecting(_) | Stage::Copying(..) | Stage::Rebuilding | Stage::Warm => None,
        }
    }

    /// Records that the copy is not a sound list.
    pub(crate) fn record_bad_copy(&mut self, now: Instant) {
        self.stage = Stage::Collecting(now);
    }

    /// Records that an earlier list is restored: all nodes are known.
    pub(crate) fn record_restored(&mut self) {
        self.stage = Stage::Warm;
        self.offers.clear();
    }

    /// Ends the warm-up if its time is over. Returns whether it has ended just now.
    pub(crate) fn try_end(&mut self, now: Instant) -> bool {
        let over = self.end().is_some_and(|end| end <= now);
        if over {
            self.stage = Stage::Warm;
        }
        over
    }

    /// When to check again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Collecting(until) | Stage::Copying(_, _, until) => Some(until),
            Stage::Gathering | Stage::Rebuilding | Stage::Warm => self.end(),
        }
    }

    fn end(&self) -> Option<Instant> {
        let longest = self.started + MAX_WARMUP_TIME;
        match self.stage {
            Stage::Gathering => Some(self.last_join.map_or(longest, |last| (last + QUIET_TIME).min(longest))),
            Stage::Rebuilding => Some(longest.max(self.last_join? + PERIOD).min(longest + PERIOD)),
            Stage::Collecting(_) | Stage::Copying(..) | Stage::Warm => None,
        }
    }

    fn next_offer(&mut self, now: Instant) -> Option<SessionId> {
        // The state that most nodes hold; of several such states the newest. A single node may
        // claim the newest state.
        let witnesses = |have: ResumePoint| self.offers.iter().filter(|(other, _)| *other == have).count();
        let rank = |&at: &usize| {
            let (have, _) = self.offers[at];
            (witnesses(have), have.revision)
        };
        if self.copies < MAX_COPIES
            && let Some(best) = (0..self.offers.len()).max_by_key(rank)
        {
            let (have, session) = self.offers.swap_remove(best);
            self.copies += 1;
            self.stage = Stage::Copying(session, have, now + COPY_TIMEOUT);
            return Some(session);
        }
        self.offers.clear();
        self.stage = Stage::Rebuilding;
        None
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Digest, Revision};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn start() -> (Warmup, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Warmup::new(start), move |ms| start + Duration::from_millis(ms))
    }

    fn have(rev: u64) -> ResumePoint {
        ResumePoint { revision: Revision { epoch: 5, rev }, digest: Some(Digest(7)) }
    }

    #[test]
    fn a_mesh_that_starts_is_complete_when_joins_are_quiet() {
        let (mut warmup, at) = start();
        assert!(warmup.is_warming() && !warmup.try_end(at(5999)), "no node has registered yet");
        warmup.record_join(at(100));
        warmup.record_join(at(900));
        assert_eq!(warmup.next_due(), Some(at(1900)));
        assert!(!warmup.try_end(at(1899)) && warmup.try_end(at(1900)) && !warmup.try_end(at(1900)));
        assert!(!warmup.is_warming());
    }

    #[test]
    fn no_peer_waits_longer_than_two_periods() {
        let (mut warmup, at) = start();
        (0..60).for_each(|tenth| warmup.record_join(at(tenth * 100)));
        assert!(!warmup.try_end(at(5999)) && warmup.try_end(at(6000)));
    }

    #[test]
    fn the_newest_early_offer_is_asked_for() {
        let (mut warmup, at) = start();
        warmup.record_offer(at(10), SessionId(1), have(5));
        assert!(warmup.is_restoring());
        warmup.record_offer(at(50), SessionId(2), have(9));
        warmup.record_offer(at(60), SessionId(3), have(7));
        assert_eq!((warmup.next_copy_source(at(109)), warmup.next_copy_source(at(110))), (None, Some(SessionId(2))));
        assert_eq!((warmup.expected_copy(SessionId(2)), warmup.expected_copy(SessionId(3))), (Some(have(9)), None));
        warmup.record_restored();
        assert!(!warmup.is_warming() && !warmup.is_restoring());
        warmup.record_offer(at(200), SessionId(4), have(6));
        assert!(!warmup.is_restoring(), "one copy is enough");
    }

    #[test]
    fn the_most_common_list_is_asked_for_before_a_newer_one() {
        let (mut warmup, at) = start();
        let forged = ResumePoint { digest: Some(Digest(8)), ..have(5) };
        for (session, have) in [(1, have(900)), (2, have(5)), (3, forged), (4, have(5)), (5, have(4))] {
            warmup.record_offer(at(0), SessionId(session), have);
        }
        assert_eq!(warmup.next_copy_source(at(100)), Some(SessionId(4)));
        assert_eq!(warmup.expected_copy(SessionId(4)), Some(have(5)));
    }

    #[test]
    fn another_is_asked_when_one_does_not_answer_and_three_at_most() {
        let (mut warmup, at) = start();
        (1..=5).for_each(|rev| warmup.record_offer(at(0), SessionId(rev), have(rev)));
        assert_eq!(warmup.next_copy_source(at(100)), Some(SessionId(5)));
        assert_eq!((warmup.next_copy_source(at(1099)), warmup.next_copy_source(at(1100))), (None, Some(SessionId(4))));
        warmup.record_leave(at(1200), SessionId(4));
        assert_eq!(warmup.next_copy_source(at(1200)), Some(SessionId(3)));
        warmup.record_bad_copy(at(1300));
        assert_eq!(warmup.next_copy_source(at(1300)), None);
        assert!(warmup.is_warming() && !warmup.is_restoring());
        warmup.record_join(at(2000));
        assert!(!warmup.try_end(at(5999)) && warmup.try_end(at(6000)), "all nodes may still come back");
    }

    #[test]
    fn a_node_that_comes_early_restarts_the_warm_up() {
        let (mut warmup, at) = start();
        warmup.record_join(at(0));
        assert!(warmup.try_end(at(1000)));
        warmup.record_offer(at(2000), SessionId(1), have(1));
        assert!(warmup.is_restoring());
        let (mut warmup, at) = start();
        assert!(warmup.try_end(at(6000)));
        warmup.record_offer(at(6001), SessionId(1), have(1));
        assert!(!warmup.is_warming(), "two periods later, the node is only late");
    }
}
