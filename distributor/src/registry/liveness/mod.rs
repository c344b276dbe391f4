//! Whether silent peers are alive: pings within a budget, and deadlines in active time, so that our
//! own pauses count against no peer.
//!
//! It must not list or remove a node: it says what it found, and the registry acts.

pub(super) mod mass_loss;
pub(super) mod suspicions;
pub(super) mod unreachable;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use crate::entries::SessionId;

/// How often [`Liveness::tick`] should be called, and half as often in a large mesh: see
/// [`Liveness::period`].
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// No peer is pinged more often than this, however few peers there are.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// With more peers than this, two fifths of the budget are used: ten thousand idle peers cost less
/// than a hundredth of a core.
const LARGE_MESH: usize = 1000;
/// How long the answer to a ping may take before the peer is suspect, and other nodes prefer
/// others: longer than garbage collection usually pauses a node.
const SUSPECT_AFTER: Duration = Duration::from_millis(750);
/// After a ping, how long an answer may take until the peer counts as hung. With the longest
/// interval of 1000 nodes, a hung node is off the list within ten seconds.
const HUNG_AFTER_PING: Duration = Duration::from_secs(7);

/// The share of the pings for peers that were reported. A peer that reports all others must not
/// keep the unreported ones from being pinged.
const REPORTED_SHARE: f64 = 0.25;
/// Reported peers that are pinged at once.
const REPORTED_BURST: f64 = 16.0;

/// The time that counts towards peers' deadlines. When a tick comes late because this process was
/// stopped or starved, the missed time does not count.
pub(crate) type ActiveTime = Duration;

/// Watches version 2 peers.
#[derive(Debug)]
pub(crate) struct Liveness {
    pings_per_second: u32,
    /// Pings that may be sent now.
    credit: f64,
    /// Reported peers that may be pinged now.
    reported_credit: f64,
    active_time: ActiveTime,
    last_tick: Option<Instant>,
    watched: HashMap<SessionId, WatchedSession>,
    /// The sessions to ping, and those whose answers are due. Each watched session is in one of the
    /// two queues; some entries belong to sessions that are no longer watched.
    pings: DueQueue,
    checks: DueQueue,
}

type DueQueue = BinaryHeap<Reverse<(ActiveTime, SessionId)>>;

#[derive(Debug)]
struct WatchedSession {
    /// When the unanswered ping was sent.
    pinged: Option<ActiveTime>,
    is_suspect: bool,
    due: ActiveTime,
}

/// The next step for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask for a sign of life.
    Ping,
    /// The peer is suspect: it has not answered in time.
    Suspect,
    /// The peer has answered after all.
    Trust,
    /// The peer is hung: it does not answer.
    Hung,
}

impl Liveness {
    pub(crate) fn new(pings_per_second: u32) -> Self {
        Self {
            pings_per_second: pings_per_second.max(1),
            credit: 1.0,
            reported_credit: REPORTED_BURST,
            active_time: ActiveTime::ZERO,
            last_tick: None,
            watched: HashMap::new(),
            pings: DueQueue::new(),
            checks: DueQueue::new(),
        }
    }

    /// The active time so far. It is stored when something is received from a peer.
    pub(crate) fn active_time(&self) -> ActiveTime {
        self.active_time
    }

    /// How often [`tick`](Self::tick) should be called. In a large mesh, waking up costs more than
    /// the work that follows.
    pub(crate) fn period(&self) -> Duration {
        if self.watched.len() > LARGE_MESH { 2 * TICK } else { TICK }
    }

    /// The time between two pings to a peer that is otherwise silent.
    pub(crate) fn interval(&self) -> Duration {
        let peers = u32::try_from(self.watched.len()).unwrap_or(u32::MAX);
        (Duration::from_secs(1) * peers / self.budget()).max(MIN_INTERVAL)
    }

    /// Pings a second to all peers together.
    fn budget(&self) -> u32 {
        let budget = if self.watched.len() > LARGE_MESH {
            self.pings_per_second.saturating_mul(2) / 5
        } else {
            self.pings_per_second
        };
        budget.max(1)
    }

    /// Watches a peer from now on. Its first ping is sent within one interval.
    pub(crate) fn watch(&mut self, session: SessionId) {
        if self.watched.contains_key(&session) {
            return;
        }
        // Sessions begin in bursts; their pings should not.
        let spread = (session.0 % 64) as f64 / 64.0;
        let due = self.active_time + self.interval().mul_f64(spread);
        self.watched.insert(session, WatchedSession { pinged: None, is_suspect: false, due });
        self.pings.push(Reverse((due, session)));
    }

    /// Stops watching a peer.
    pub(crate) fn remove_session(&mut self, session: SessionId) {
        self.watched.remove(&session);
    }

    /// Pings a peer at once that was reported not to answer, as long as such pings keep to their
    /// share.
    pub(crate) fn ping_reported(&mut self, session: SessionId) {
        let now = self.active_time;
        if let Some(watch) = self.watched.get_mut(&session)
            && watch.pinged.is_none()
            && watch.due > now
            && self.reported_credit >= 1.0
        {
            self.reported_credit -= 1.0;
            // It goes before all peers that are already due: after a burst of joins they are a long
            // queue.
            watch.due = ActiveTime::ZERO;
            self.pings.push(Reverse((watch.due, session)));
        }
    }

    /// The steps that are due now. `heard` returns the active time at which something was last
    /// received from a peer.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        mut heard: impl FnMut(SessionId) -> ActiveTime,
    ) -> Vec<(SessionId, Verdict)> {
        let passed = self.last_tick.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last_tick = Some(now);
        let passed = passed.min(2 * self.period());
        self.active_time += passed;
        // A quarter more than the budget needs makes up for late ticks. Peers that came in a burst
        // are pinged in a burst once; this spreads later pings.
        let budget = 1.25 * f64::from(self.budget());
        self.credit =
            (self.credit + budget * passed.as_secs_f64()).min((budget * self.period().as_secs_f64()).max(1.0));
        let earned = REPORTED_SHARE * f64::from(self.budget()) * passed.as_secs_f64();
        self.reported_credit = (self.reported_credit + earned).min(REPORTED_BURST);
        let mut verdicts = Vec::new();
        self.check(&mut heard, &mut verdicts);
        self.ask(&mut verdicts);
        verdicts
    }

    /// Judges the peers whose time to answer is over. At most as many are due as were pinged in
    /// that time, so no limit is needed.
    fn check(&mut self, heard: &mut impl FnMut(SessionId) -> ActiveTime, verdicts: &mut Vec<(SessionId, Verdict)>) {
        let (active_time, interval) = (self.active_time, self.interval());
        while let Some(session) = pop_due(&mut self.checks, &self.watched, active_time) {
            let Some(watch) = self.watched.get_mut(&session) else { continue };
            let Some(pinged) = watch.pinged else { continue };
            if heard(session) >= pinged {
                if std::mem::take(&mut watch.is_suspect) {
                    verdicts.push((session, Verdict::Trust));
                }
                watch.pinged = None;
                watch.due = active_time.max(pinged + interval);
                self.pings.push(Reverse((watch.due, session)));
            } else if active_time - pinged >= HUNG_AFTER_PING {
                self.watched.remove(&session);
                verdicts.push((session, Verdict::Hung));
            } else {
                // Not pinged again: the first ping is on its way, or ahead of whatever would be
                // sent now.
                if !std::mem::replace(&mut watch.is_suspect, true) {
                    verdicts.push((session, Verdict::Suspect));
                }
                watch.due = active_time + SUSPECT_AFTER;
                self.checks.push(Reverse((watch.due, session)));
            }
        }
    }

    /// Pings the peers that are due, as many as the budget allows.
    fn ask(&mut self, verdicts: &mut Vec<(SessionId, Verdict)>) {
        while self.credit >= 1.0 {
            let Some(session) = pop_due(&mut self.pings, &self.watched, self.active_time) else { return };
            self.credit -= 1.0;
            let Some(watch) = self.watched.get_mut(&session) else { continue };
            watch.pinged = Some(self.active_time);
            watch.due = self.active_time + SUSPECT_AFTER;
            self.checks.push(Reverse((watch.due, session)));
            verdicts.push((session, Verdict::Ping));
        }
    }
}

/// Removes the first session that is due. Void entries are dropped on the way: their session is
/// gone, or due at another time.
fn pop_due(
    queue: &mut DueQueue,
    watched: &HashMap<SessionId, WatchedSession>,
    active_time: ActiveTime,
) -> Option<SessionId> {
    while let Some(Reverse((due, session))) = queue.peek().copied()
        && due <= active_time
    {
        queue.pop();
        if watched.get(&session).is_some_and(|watch| watch.due == due) {
            return Some(session);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One peer among `others`, and the verdicts on it over time.
    struct LivenessScene {
        liveness: Liveness,
        start: Instant,
        heard: HashMap<SessionId, ActiveTime>,
    }

    const PEER: SessionId = SessionId(0);

    impl LivenessScene {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        fn new(others: u64) -> Self {
            let mut liveness = Liveness::new(500);
            (0..=others).for_each(|id| liveness.watch(SessionId(id)));
            Self { liveness, start: Instant::now(), heard: HashMap::new() }
        }

        /// Ticks from one millisecond to another. All other peers answer; the peer does if it
        /// `answers`. Returns the verdicts on the peer, each with its second, and how many pings
        /// were sent.
        fn run(&mut self, from: u64, to: u64, step: u64, answers: bool) -> (Vec<(f64, Verdict)>, usize) {
            let (mut decided, mut pings) = (Vec::new(), 0);
            // Clocks are finer than milliseconds.
            for ms in (from..to).step_by(usize::try_from(step).unwrap()) {
                let heard = self.heard.clone();
                let verdicts = self.liveness.tick(self.start + Duration::from_micros(ms * 1001), |session| {
                    heard.get(&session).copied().unwrap_or_default()
                });
                for (session, verdict) in verdicts {
                    pings += usize::from(verdict == Verdict::Ping);
                    if session != PEER || answers {
                        self.heard.insert(session, self.liveness.active_time());
                    }
                    if session == PEER && verdict != Verdict::Ping {
                        decided.push((ms as f64 / 1000.0, verdict));
                    }
                }
            }
            (decided, pings)
        }
    }

    #[test]
    fn a_peer_that_answers_is_not_suspect() {
        let mut scene = LivenessScene::new(0);
        assert_eq!(scene.run(0, 60_000, 50, true), (vec![], 60));
    }

    #[test]
    fn a_hung_peer_is_suspect_within_3_seconds_and_gone_within_10() {
        for others in [0, 999] {
            let mut scene = LivenessScene::new(others);
            scene.run(0, 20_000, 50, true);
            let (decided, _) = scene.run(20_000, 40_000, 50, false);
            let [(suspect, Verdict::Suspect), (hung, Verdict::Hung)] = decided[..] else { panic!("{decided:?}") };
            assert!(suspect <= 23.0 && hung <= 30.0, "{decided:?}");
        }
    }

    #[test]
    fn a_burst_of_joins_delays_no_verdict() {
        // All of them have had their first ping after 40 s, and this one after 8 s.
        let mut scene = LivenessScene::new(9999);
        scene.liveness.remove_session(PEER);
        scene.run(0, 200, 100, true);
        scene.liveness.watch(PEER);
        let (decided, _) = scene.run(200, 30_000, 100, false);
        let [(suspect, Verdict::Suspect), (hung, Verdict::Hung)] = decided[..] else { panic!("{decided:?}") };
        assert!(suspect <= 10.0 && hung <= suspect + 7.0, "{decided:?}");
    }

    #[test]
    fn a_peer_that_comes_back_is_trusted() {
        let mut scene = LivenessScene::new(10);
        scene.run(0, 10_000, 50, true);
        let (decided, _) = scene.run(10_000, 14_000, 50, false);
        assert!(matches!(decided[..], [(_, Verdict::Suspect)]), "{decided:?}");
        scene.heard.insert(PEER, scene.liveness.active_time());
        let (decided, _) = scene.run(14_000, 30_000, 50, true);
        assert!(matches!(decided[..], [(_, Verdict::Trust)]), "{decided:?}");
    }

    #[test]
    fn pings_keep_to_a_budget() {
        for (peers, expected) in [(100, 100), (1000, 500), (10_000, 200)] {
            let mut scene = LivenessScene::new(peers - 1);
            scene.run(0, 120_000, 50, true);
            // As long as the longest interval, within which pings may come in waves.
            let (_, pings) = scene.run(120_000, 170_000, 50, true);
            assert!(pings.abs_diff(expected * 50) <= expected * 2, "{pings} pings in 50 s to {peers} peers");
        }
    }

    #[test]
    fn cr12_rs5_our_own_delays_count_against_no_peer() {
        // Stopped for a minute, of which not a second counts.
        let mut scene = LivenessScene::new(10);
        scene.run(0, 10_000, 50, true);
        let (decided, _) = scene.run(70_000, 70_500, 50, false);
        assert_eq!(decided, []);
        scene.heard.insert(PEER, scene.liveness.active_time());
        assert_eq!(scene.run(70_500, 90_000, 50, true).0, []);
        // Active for a tenth of the time: deadlines are ten times longer.
        let (decided, _) = scene.run(90_000, 200_000, 500, false);
        let [(suspect, Verdict::Suspect), (hung, Verdict::Hung)] = decided[..] else { panic!("{decided:?}") };
        assert!(suspect >= 93.0 && hung >= 120.0, "{decided:?}");
    }

    #[test]
    fn a_reported_peer_is_pinged_at_once() {
        let mut scene = LivenessScene::new(9999);
        scene.run(0, 30_000, 50, true);
        scene.liveness.ping_reported(PEER);
        let (decided, _) = scene.run(30_000, 50_000, 50, false);
        assert!(decided.iter().any(|(second, verdict)| *second <= 33.0 && *verdict == Verdict::Suspect), "{decided:?}");
    }

    #[test]
    fn reports_of_all_peers_do_not_keep_others_from_being_pinged() {
        let mut scene = LivenessScene::new(799);
        scene.run(0, 20_000, 50, true);
        let mut decided = Vec::new();
        for ms in (20_000..40_000).step_by(100) {
            (1..800).for_each(|id| scene.liveness.ping_reported(SessionId(id)));
            decided.extend(scene.run(ms, ms + 100, 50, false).0);
        }
        let [(suspect, Verdict::Suspect), (hung, Verdict::Hung)] = decided[..] else { panic!("{decided:?}") };
        assert!(suspect <= 24.0 && hung <= 31.0, "{decided:?}");
    }

    #[test]
    fn peers_that_left_get_no_verdict() {
        let mut scene = LivenessScene::new(0);
        scene.liveness.remove_session(PEER);
        assert_eq!(scene.run(0, 20_000, 50, false), (vec![], 0));
        assert!(
            scene.liveness.watched.is_empty() && scene.liveness.pings.is_empty() && scene.liveness.checks.is_empty()
        );
    }
}
