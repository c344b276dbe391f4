//! Sessions that wait until other nodes know of their registration, and the state that each session
//! has acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{Revision, VisibilityTarget};

use crate::entries::interests::{InterestKind, Interests};
use crate::entries::{Record, SessionId};
use crate::registry::interests::index::{InterestIndex, NumberedInterests};

/// How often waits are checked. Checking them at each acknowledgement would cost more.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// The longest that a session may wait.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Maximum number of offers and interests that are looked at in one check, which takes a few
/// milliseconds. Further waits are checked in the next one. A wait for a node that offers what many
/// use may take more: the next check is later then.
const MAX_LOOKS: usize = 20_000;

/// The waits, at most one for each session, and the states that version 2 sessions have
/// acknowledged.
#[derive(Debug, Default)]
pub(crate) struct VisibilityWaits {
    open: BTreeMap<SessionId, VisibilityWait>,
    watchers: HashMap<SessionId, Watcher>,
    /// The interests of all watchers.
    interests: InterestIndex,
    check_at: Option<Instant>,
    /// The wait to check first.
    next: SessionId,
}

/// A session that is told of changes.
#[derive(Debug, Default)]
struct Watcher {
    acknowledged: Revision,
    /// The interests of the node; `None` means all.
    interests: Option<NumberedInterests>,
}

#[derive(Clone, Copy, Debug)]
struct VisibilityWait {
    revision: Revision,
    percent: u8,
    until: Instant,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VisibilityOutcome {
    pub(crate) session: SessionId,
    pub(crate) seen: usize,
    pub(crate) of: usize,
    pub(crate) enough: bool,
    /// Some of the sessions that have not acknowledged it.
    pub(crate) missing: Vec<SessionId>,
}

/// Maximum number of nodes that are named when a wait ends without enough acknowledgements.
const MAX_MISSING: usize = 8;

impl VisibilityWaits {
    /// Counts a version 2 session among those whose acknowledgement is needed.
    pub(crate) fn add_session(&mut self, session: SessionId) {
        self.watchers.entry(session).or_default();
    }

    /// Records that the session is told of these nodes only, and has nothing to acknowledge about
    /// others.
    pub(crate) fn set_interests(&mut self, session: SessionId, interests: Option<&Arc<Interests>>) {
        let Some(watcher) = self.watchers.get_mut(&session) else { return };
        let known = interests.map(|interests| self.interests.add(interests));
        if let Some(before) = std::mem::replace(&mut watcher.interests, known) {
            self.interests.remove(&before);
        }
    }

    /// What a session is told of, if it is counted; `None` within for all.
    pub(crate) fn interests_of(&self, session: SessionId) -> Option<Option<&Arc<Interests>>> {
        self.watchers.get(&session).map(|watcher| watcher.interests.as_ref().map(|(_, interests)| interests))
    }

    /// How many sessions are told only of what they use.
    pub(crate) fn partial_views(&self) -> usize {
        let interests = self.watchers.values().filter_map(|watcher| watcher.interests.as_ref());
        interests.filter(|(_, interests)| interests.kind() == InterestKind::Used).count()
    }

    /// Does not count a session any more.
    pub(crate) fn remove_session(&mut self, session: SessionId) {
        if let Some(Watcher { interests: Some(interests), .. }) = self.watchers.remove(&session) {
            self.interests.remove(&interests);
        }
        self.open.remove(&session);
    }

    /// Records that a session waits until enough nodes know of its registration, which led to
    /// `revision`.
    pub(crate) fn open(&mut self, now: Instant, session: SessionId, revision: Revision, visible: VisibilityTarget) {
        let until = now + Duration::from_millis(visible.within.into()).min(MAX_WAIT);
        self.open.insert(session, VisibilityWait { revision, percent: visible.percent, until });
        self.check_at.get_or_insert(now + CHECK_INTERVAL);
    }

    /// Whether any session waits for acknowledgements.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Records that a session knows this state.
    pub(crate) fn acknowledge(&mut self, session: SessionId, revision: Revision) {
        if let Some(watcher) = self.watchers.get_mut(&session) {
            watcher.acknowledged = revision.max(watcher.acknowledged);
        }
    }

    /// When to check the waits next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.check_at
    }

    /// Waits that have ended: enough of the nodes that are told of it know, or the time is over.
    /// `record_of` returns the record of a session.
    pub(crate) fn poll_resolved<'r>(
        &mut self,
        now: Instant,
        record_of: impl Fn(SessionId) -> Option<&'r Record>,
    ) -> Vec<VisibilityOutcome> {
        if self.check_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        // What the watchers with equal interests have acknowledged, by the number of these.
        let mut watchers: HashMap<Option<u64>, Vec<Revision>> = HashMap::new();
        for Watcher { acknowledged, interests } in self.watchers.values() {
            watchers.entry(interests.as_ref().map(|(number, _)| *number)).or_default().push(*acknowledged);
        }
        watchers.values_mut().for_each(|revisions| revisions.sort_unstable());
        let mut resolved = Vec::new();
        let mut looks = 0;
        for (&session, wait) in self.open.range(self.next..).chain(self.open.range(..self.next)) {
            if looks > MAX_LOOKS {
                self.next = session;
                break;
            }
            let including = record_of(session).map(|record| self.interests.including(record));
            looks += including.as_ref().map_or(watchers.len(), |(_, looks)| *looks);
            let is_told = |number: Option<u64>| match (number, &including) {
                (Some(number), Some((numbers, _))) => numbers.contains(&number),
                (None, _) | (_, None) => true,
            };
            let (mut seen, mut of) = (0, 0);
            let mut count = |revisions: &Vec<Revision>| {
                seen += revisions.len() - revisions.partition_point(|revision| *revision < wait.revision);
                of += revisions.len();
            };
            match &including {
                Some((numbers, _)) => {
                    let told = numbers.iter().copied().map(Some).chain([None]);
                    told.filter_map(|number| watchers.get(&number)).for_each(&mut count);
                }
                None => watchers.values().for_each(&mut count),
            }
            let enough = seen * 100 >= of * usize::from(wait.percent);
            if enough || wait.until <= now {
                let behind = self.watchers.iter().filter(|(_, watcher)| {
                    let number = watcher.interests.as_ref().map(|(number, _)| *number);
                    watcher.acknowledged < wait.revision && is_told(number)
                });
                let missing = behind.map(|(session, _)| *session).take(MAX_MISSING.min(of - seen)).collect();
                resolved.push(VisibilityOutcome { session, seen, of, enough, missing });
            }
        }
        for VisibilityOutcome { session, .. } in &resolved {
            self.open.remove(session);
        }
        let pause = CHECK_INTERVAL * u32::try_from(1 + looks / (2 * MAX_LOOKS)).unwrap_or(u32::MAX);
        let earliest = if looks > 2 * MAX_LOOKS { now + pause } else { now };
        self.check_at = self.open.values().map(|wait| wait.until.max(earliest).min(now + pause)).min();
        resolved
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use protocol::{Registration, RegistrationLimits};

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
        let resolved = waits.poll_resolved(start + Duration::from_millis(after), |_| None);
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
    fn nodes_that_leave_do_not_count() {
        let mut waits = VisibilityWaits::default();
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let start = Instant::now();
        (0..3).for_each(|id| waits.add_session(SessionId(id)));
        waits.open(start, SessionId(0), NEW, VisibilityTarget { percent: 100, within: 5000 });
        waits.acknowledge(SessionId(0), NEW);
        waits.acknowledge(SessionId(1), NEW);
        waits.remove_session(SessionId(2));
        waits.acknowledge(SessionId(2), NEW);
        assert_eq!(waits.poll_resolved(start + CHECK_INTERVAL, |_| None)[0].of, 2);
        waits.open(start, SessionId(0), NEW, VisibilityTarget { percent: 100, within: 5000 });
        waits.remove_session(SessionId(0));
        assert!(!waits.is_open());
    }

    #[test]
    fn b4_a_node_that_is_told_nothing_of_a_change_need_not_acknowledge_it() {
        let record = |name: &str| {
            let params = format!(r#"{{"port":1,"name":"{name}","urls":[]}}"#);
            let params = serde_json::from_str(&params).unwrap();
            let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
            Record::new(1, &registration, "::ffff:127.0.0.1")
        };
        let interests_in =
            |names: &[&str]| Some(Arc::new(Interests::named(names.iter().copied().map(str::to_owned).collect())));
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let start = Instant::now();
        // The new node, one that wants all, and one with interests.
        let check = |interests: Option<Arc<Interests>>, expected: (usize, usize, bool)| {
            let mut waits = VisibilityWaits::default();
            (0..3).for_each(|id| waits.add_session(SessionId(id)));
            waits.set_interests(SessionId(2), interests_in(&["before"]).as_ref());
            waits.set_interests(SessionId(2), interests.as_ref());
            waits.open(start, SessionId(0), NEW, VisibilityTarget { percent: 100, within: 0 });
            (0..2).for_each(|id| waits.acknowledge(SessionId(id), NEW));
            let new = record("new");
            let resolved = waits.poll_resolved(start + CHECK_INTERVAL, |_| Some(&new));
            let VisibilityOutcome { seen, of, enough, missing, .. } = &resolved[0];
            assert_eq!((*seen, *of, *enough), expected);
            assert_eq!(missing.len(), of - seen);
            (0..3).for_each(|id| waits.remove_session(SessionId(id)));
            assert!(waits.interests.is_empty());
        };
        check(None, (2, 3, false));
        check(interests_in(&["x"]), (2, 2, true));
        check(interests_in(&["x", "new"]), (2, 3, false));
    }

    #[test]
    fn waits_that_are_left_out_of_one_check_are_in_the_next() {
        let mut waits = VisibilityWaits::default();
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let start = Instant::now();
        for id in 0..1000 {
            waits.add_session(SessionId(id));
            waits.set_interests(SessionId(id), Some(&Arc::new(Interests::named(vec![format!("n{id}")]))));
            waits.open(start, SessionId(id), NEW, VisibilityTarget { percent: 100, within: 0 });
        }
        let (mut now, mut checks, mut ended) = (start, 0, HashSet::new());
        while let Some(at) = waits.next_due() {
            now = at.max(now + Duration::from_millis(1));
            checks += 1;
            ended.extend(waits.poll_resolved(now, |_| None).into_iter().map(|resolved| resolved.session));
        }
        assert_eq!(ended.len(), 1000);
        assert!((40..60).contains(&checks), "{checks}");
    }
    #[test]
    fn the_next_check_is_later_after_one_that_looks_at_much() {
        let params = serde_json::from_str(r#"{"port":1,"name":"n","urls":["GET/a"]}"#).unwrap();
        let record = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        let record = Record::new(1, &record, "::1");
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let start = Instant::now();
        for (used, others, pauses) in [(10, 2 * MAX_LOOKS, 1), (2 * MAX_LOOKS, 0, 2)] {
            let mut waits = VisibilityWaits::default();
            for id in 0..used + others {
                let (session, own) = (SessionId(id as u64), format!("GET/{id}/b"));
                let popular = if id < used { "GET/a" } else { "GET/c" };
                waits.add_session(session);
                waits.set_interests(session, Some(&Arc::new(Interests::used([&*own, popular]))));
            }
            waits.open(start, SessionId(0), NEW, VisibilityTarget { percent: 100, within: 5000 });
            let now = start + CHECK_INTERVAL;
            assert!(waits.poll_resolved(now, |_| Some(&record)).is_empty());
            assert_eq!(waits.next_due(), Some(now + CHECK_INTERVAL * pauses), "{used} {others}");
        }
    }
}
