//! After a start: how long lists may lack nodes that are there, and how to get back what the
//! Distributor before knew.

use std::time::{Duration, Instant};

use protocol::ResumePoint;

use crate::entries::SessionId;

/// The period in which nodes that are not connected try to be.
const PERIOD: Duration = Duration::from_secs(3);
/// No node that comes back takes longer than this.
const LONGEST: Duration = Duration::from_secs(6);
/// When no node comes back from an earlier Distributor, all have joined once no join has come for
/// so long.
const QUIET: Duration = Duration::from_secs(1);
/// From the first node that has an older list to the choice of the newest.
const COLLECT: Duration = Duration::from_millis(100);
/// How long a node may take to hand over what it knows.
const COPY: Duration = Duration::from_secs(1);
/// Nodes that are asked before the lists are built up from nothing.
const MAX_COPIES: u32 = 3;
/// Offers that are remembered: the best of so many is good enough.
const MAX_OFFERS: usize = 64;

/// After a copy, nodes in it that are not back within two periods and a second are gone.
pub(crate) const RETURN_WITHIN: Duration = LONGEST.saturating_add(Duration::from_secs(1));

/// Where a Distributor that has just started stands.
#[derive(Debug)]
pub(crate) struct Warmup {
    started: Instant,
    last_join: Option<Instant>,
    /// What nodes say that they hold. Nodes whose list is the same are counted together.
    offers: Vec<(ResumePoint, SessionId)>,
    stage: Stage,
    copies: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nodes that come are added.
    Gathering,
    /// Nodes have come that know an earlier Distributor's list; it is asked for at this time.
    Collecting(Instant),
    /// This node was asked for what it knows, and has until this time.
    Copying(SessionId, ResumePoint, Instant),
    /// Nodes knew an earlier list, and none could be had.
    Rebuilding,
    /// Lists show all there are.
    Warm,
}

impl Warmup {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, last_join: None, offers: Vec::new(), stage: Stage::Gathering, copies: 0 }
    }

    /// Lists may lack nodes that are there.
    pub(crate) fn is_warming(&self) -> bool {
        self.stage != Stage::Warm
    }

    /// An earlier list is about to come: nothing should be told before.
    pub(crate) fn is_restoring(&self) -> bool {
        matches!(self.stage, Stage::Collecting(_) | Stage::Copying(..))
    }

    /// A node has registered.
    pub(crate) fn record_join(&mut self, now: Instant) {
        self.last_join = Some(now);
    }

    /// A node has come with a list of another epoch.
    pub(crate) fn record_offer(&mut self, now: Instant, session: SessionId, have: ResumePoint) {
        let fresh = match self.stage {
            Stage::Gathering => true,
            Stage::Warm => self.copies == 0 && now < self.started + LONGEST,
            Stage::Collecting(_) | Stage::Copying(..) | Stage::Rebuilding => false,
        };
        if fresh {
            self.stage = Stage::Collecting(now + COLLECT);
        }
        if self.is_restoring() && self.offers.len() < MAX_OFFERS {
            self.offers.push((have, session));
        }
    }

    /// The node that should be asked for what it knows now, if any.
    pub(crate) fn next_copy_source(&mut self, now: Instant) -> Option<SessionId> {
        let due = match self.stage {
            Stage::Collecting(until) | Stage::Copying(_, _, until) => until <= now,
            Stage::Gathering | Stage::Rebuilding | Stage::Warm => false,
        };
        due.then(|| self.next_offer(now)).flatten()
    }

    /// A session has ended; if it was to hand over its list, another is asked.
    pub(crate) fn record_leave(&mut self, now: Instant, session: SessionId) {
        self.offers.retain(|(_, other)| *other != session);
        if let Stage::Copying(asked, ..) = self.stage
            && asked == session
        {
            self.stage = Stage::Collecting(now);
        }
    }

    /// What this node was asked for, if it was and there is still time.
    pub(crate) fn expected_copy(&self, session: SessionId) -> Option<ResumePoint> {
        match self.stage {
            Stage::Copying(asked, have, _) if asked == session => Some(have),
            Stage::Gathering | Stage::Collecting(_) | Stage::Copying(..) | Stage::Rebuilding | Stage::Warm => None,
        }
    }

    /// What it handed over is no list.
    pub(crate) fn record_bad_copy(&mut self, now: Instant) {
        self.stage = Stage::Collecting(now);
    }

    /// An earlier list is restored: all nodes are known.
    pub(crate) fn record_restored(&mut self) {
        self.stage = Stage::Warm;
        self.offers.clear();
    }

    /// Whether the time is over in which lists may lack nodes. True once.
    pub(crate) fn try_end(&mut self, now: Instant) -> bool {
        let over = self.end().is_some_and(|end| end <= now);
        if over {
            self.stage = Stage::Warm;
        }
        over
    }

    /// When to look again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Collecting(until) | Stage::Copying(_, _, until) => Some(until),
            Stage::Gathering | Stage::Rebuilding | Stage::Warm => self.end(),
        }
    }

    fn end(&self) -> Option<Instant> {
        let longest = self.started + LONGEST;
        match self.stage {
            Stage::Gathering => Some(self.last_join.map_or(longest, |last| (last + QUIET).min(longest))),
            Stage::Rebuilding => Some(longest.max(self.last_join? + PERIOD).min(longest + PERIOD)),
            Stage::Collecting(_) | Stage::Copying(..) | Stage::Warm => None,
        }
    }

    fn next_offer(&mut self, now: Instant) -> Option<SessionId> {
        // What most of them hold; of several such states the newest. One node can claim the newest,
        // and be alone with it.
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
            self.stage = Stage::Copying(session, have, now + COPY);
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
        assert!(warmup.is_warming() && !warmup.try_end(at(5999)), "nobody is there yet");
        warmup.record_join(at(100));
        warmup.record_join(at(900));
        assert_eq!(warmup.next_due(), Some(at(1900)));
        assert!(!warmup.try_end(at(1899)) && warmup.try_end(at(1900)) && !warmup.try_end(at(1900)));
        assert!(!warmup.is_warming());
    }

    #[test]
    fn nobody_waits_for_longer_than_two_periods() {
        let (mut warmup, at) = start();
        (0..60).for_each(|tenth| warmup.record_join(at(tenth * 100)));
        assert!(!warmup.try_end(at(5999)) && warmup.try_end(at(6000)));
    }

    #[test]
    fn the_newest_list_of_those_who_come_first_is_asked_for() {
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
    fn a_list_that_most_hold_is_asked_for_before_one_that_claims_to_be_newer() {
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
        assert!(!warmup.try_end(at(5999)) && warmup.try_end(at(6000)), "all of them may still be coming");
    }

    #[test]
    fn one_that_comes_early_after_all_makes_it_cold_again() {
        let (mut warmup, at) = start();
        warmup.record_join(at(0));
        assert!(warmup.try_end(at(1000)));
        warmup.record_offer(at(2000), SessionId(1), have(1));
        assert!(warmup.is_restoring());
        let (mut warmup, at) = start();
        assert!(warmup.try_end(at(6000)));
        warmup.record_offer(at(6001), SessionId(1), have(1));
        assert!(!warmup.is_warming(), "two periods later it is only late");
    }
}
