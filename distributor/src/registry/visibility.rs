//! Which sessions wait until other nodes know of their registration, and which state each session
//! has acknowledged.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::{Revision, VisibilityTarget};

use crate::entries::SessionId;

/// How often waits are checked: counting all acknowledgements at each of them would cost more.
const LOOK: Duration = Duration::from_millis(10);

/// The longest that a session may wait.
const LONGEST: Duration = Duration::from_secs(60);

/// The waits, at most one for each session, and the revisions that version 2 sessions have
/// acknowledged.
#[derive(Debug, Default)]
pub(crate) struct VisibilityWaits {
    open: HashMap<SessionId, VisibilityWait>,
    acknowledged: HashMap<SessionId, Revision>,
    look_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct VisibilityWait {
    revision: Revision,
    percent: u8,
    until: Instant,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) session: SessionId,
    pub(crate) seen: usize,
    pub(crate) of: usize,
    pub(crate) enough: bool,
    /// Some of those that have not acknowledged it.
    pub(crate) missing: Vec<SessionId>,
}

/// Nodes that are named when a wait ends in vain.
const MAX_MISSING: usize = 8;

impl VisibilityWaits {
    /// A version 2 session follows: its acknowledgement counts.
    pub(crate) fn add_session(&mut self, session: SessionId) {
        self.acknowledged.entry(session).or_default();
    }

    /// It does not any more.
    pub(crate) fn remove_session(&mut self, session: SessionId) {
        self.acknowledged.remove(&session);
        self.open.remove(&session);
    }

    /// A session wants to know when its registration, which led to `revision`, has been seen.
    pub(crate) fn open(&mut self, now: Instant, session: SessionId, revision: Revision, visible: VisibilityTarget) {
        let until = now + Duration::from_millis(visible.within.into()).min(LONGEST);
        self.open.insert(session, VisibilityWait { revision, percent: visible.percent, until });
        self.look_at.get_or_insert(now + LOOK);
    }

    /// Whether acknowledgements are of interest.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// A session knows this state.
    pub(crate) fn acknowledge(&mut self, session: SessionId, revision: Revision) {
        if let Some(known) = self.acknowledged.get_mut(&session) {
            *known = revision.max(*known);
        }
    }

    /// When to look again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.look_at
    }

    /// Waits that have ended: enough nodes know, or the time is over.
    pub(crate) fn poll_resolved(&mut self, now: Instant) -> Vec<Resolved> {
        if self.look_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut revisions: Vec<_> = self.acknowledged.values().copied().collect();
        revisions.sort_unstable();
        let of = revisions.len();
        let mut resolved = Vec::new();
        for (&session, wait) in &self.open {
            let seen = of - revisions.partition_point(|revision| *revision < wait.revision);
            let enough = seen * 100 >= of * usize::from(wait.percent);
            if enough || wait.until <= now {
                let behind = self.acknowledged.iter().filter(|(_, revision)| **revision < wait.revision);
                let missing = behind.map(|(session, _)| *session).take(MAX_MISSING).collect();
                resolved.push(Resolved { session, seen, of, enough, missing });
            }
        }
        for Resolved { session, .. } in &resolved {
            self.open.remove(session);
        }
        self.look_at = self.open.values().map(|wait| wait.until.min(now + LOOK)).min();
        resolved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Revision = Revision { epoch: 1, rev: 7 };
    const OLD: Revision = Revision { epoch: 1, rev: 6 };

    #[track_caller]
    fn check(percent: u8, acknowledged: u64, after: u64, expected: Option<(usize, bool)>) {
        let mut waits = VisibilityWaits::default();
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let start = Instant::now();
        (0..10).for_each(|id| waits.add_session(SessionId(id)));
        assert!(!waits.is_open());
        waits.open(start, SessionId(0), NEW, VisibilityTarget { percent, within: 5000 });
        assert!(waits.is_open());
        for id in 0..10 {
            waits.acknowledge(SessionId(id), if id < acknowledged { NEW } else { OLD });
        }
        let resolved = waits.poll_resolved(start + Duration::from_millis(after));
        assert_eq!(resolved.first().map(|resolved| (resolved.seen, resolved.enough)), expected);
        assert_eq!(waits.is_open(), expected.is_none());
        if let Some(resolved) = resolved.first() {
            assert_eq!(resolved.missing.len(), (10 - resolved.seen).min(MAX_MISSING));
        }
    }

    #[test]
    fn a_wait_ends_by_enough_acknowledgements_or_by_time() {
        check(100, 10, 10, Some((10, true)));
        check(100, 10, 9, None);
        check(100, 9, 10, None);
        check(90, 9, 10, Some((9, true)));
        check(91, 9, 10, None);
        check(100, 9, 5000, Some((9, false)));
        check(100, 0, 5000, Some((0, false)));
    }

    #[test]
    fn those_who_leave_do_not_count() {
        let mut waits = VisibilityWaits::default();
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let start = Instant::now();
        (0..3).for_each(|id| waits.add_session(SessionId(id)));
        waits.open(start, SessionId(0), NEW, VisibilityTarget { percent: 100, within: 5000 });
        waits.acknowledge(SessionId(0), NEW);
        waits.acknowledge(SessionId(1), NEW);
        waits.remove_session(SessionId(2));
        waits.acknowledge(SessionId(2), NEW);
        assert_eq!(waits.poll_resolved(start + LOOK)[0].of, 2);
        waits.open(start, SessionId(0), NEW, VisibilityTarget { percent: 100, within: 5000 });
        waits.remove_session(SessionId(0));
        assert!(!waits.is_open());
    }
}
