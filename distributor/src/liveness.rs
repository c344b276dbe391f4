//! Who is still there although nothing is heard: pings on a budget, and deadlines that know when we ourselves were late.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use crate::registry::SessionId;

/// How often [`Liveness::tick`] should be called.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// No peer is pinged more often than this, however few there are.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// With more peers than this, half of the budget is used.
const LARGE_MESH: usize = 1000;
/// After a ping, how long an answer may take until others are told to prefer somebody else.
const SUSPECT_AFTER: Duration = Duration::from_millis(750);
/// After a ping, how long an answer may take until the peer counts as hung.
const HUNG_AFTER: Duration = Duration::from_secs(7);

/// How long we have been awake, as far as it counts for others' deadlines: when a tick comes late, because we were stopped or
/// starved, the time we missed is nobody's fault.
pub(crate) type Awake = Duration;

/// Watches version 2 peers.
#[derive(Debug)]
pub(crate) struct Liveness {
    pings_per_second: u32,
    awake: Awake,
    last_tick: Option<Instant>,
    watched: HashMap<SessionId, Watch>,
    /// One entry for each watched session, and some for sessions that are not any more.
    due: BinaryHeap<Reverse<(Awake, SessionId)>>,
}

#[derive(Debug)]
struct Watch {
    /// When the ping was sent that is not answered yet.
    pinged: Option<Awake>,
    suspect: bool,
    due: Awake,
}

/// What is to be done about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask for a sign of life.
    Ping,
    /// It has not answered for a moment.
    Suspect,
    /// It has, after all.
    Trust,
    /// It does not answer.
    Hung,
}

impl Liveness {
    pub(crate) fn new(pings_per_second: u32) -> Self {
        Self {
            pings_per_second: pings_per_second.max(1),
            awake: Awake::ZERO,
            last_tick: None,
            watched: HashMap::new(),
            due: BinaryHeap::new(),
        }
    }

    /// How long we have been awake: what to note when something is heard from a peer.
    pub(crate) fn awake(&self) -> Awake {
        self.awake
    }

    /// Between two pings to a peer that is otherwise silent.
    pub(crate) fn interval(&self) -> Duration {
        let peers = u32::try_from(self.watched.len()).unwrap_or(u32::MAX);
        (Duration::from_secs(1) * peers / self.budget()).max(LEAST_INTERVAL)
    }

    /// Pings a second to all. A large mesh is left idle rather than asked often: its pings should not cost more than a
    /// hundredth of a core.
    fn budget(&self) -> u32 {
        let share = if self.watched.len() > LARGE_MESH { 2 } else { 1 };
        (self.pings_per_second / share).max(1)
    }

    /// Watches a peer from now on. Its first ping comes within an interval, at a moment of its own.
    pub(crate) fn watch(&mut self, session: SessionId) {
        if self.watched.contains_key(&session) {
            return;
        }
        // Sessions come in bursts; their pings should not.
        let spread = (session.0 % 64) as f64 / 64.0;
        let due = self.awake + self.interval().mul_f64(spread);
        self.watched.insert(session, Watch { pinged: None, suspect: false, due });
        self.due.push(Reverse((due, session)));
    }

    /// Watches it no more.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.watched.remove(&session);
    }

    /// Somebody says that a peer does not answer: it is asked at once.
    pub(crate) fn doubt(&mut self, session: SessionId) {
        let now = self.awake;
        if let Some(watch) = self.watched.get_mut(&session)
            && watch.pinged.is_none()
            && watch.due > now
        {
            watch.due = now;
            self.due.push(Reverse((now, session)));
        }
    }

    /// What is to be done now. `heard` tells how long we had been awake when something was last heard from a peer.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        mut heard: impl FnMut(SessionId) -> Awake,
    ) -> Vec<(SessionId, Verdict)> {
        let passed = self.last_tick.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last_tick = Some(now);
        self.awake += passed.min(2 * TICK);
        let (awake, interval) = (self.awake, self.interval());
        let mut verdicts = Vec::new();
        while verdicts.len() < self.most_per_tick()
            && let Some(Reverse((due, session))) = self.due.peek().copied()
            && due <= awake
        {
            self.due.pop();
            // A session that is gone, or that was asked earlier than planned.
            let Some(watch) = self.watched.get_mut(&session).filter(|watch| watch.due == due) else { continue };
            let verdict = match watch.pinged {
                Some(pinged) if heard(session) < pinged => {
                    watch.due = awake + SUSPECT_AFTER;
                    if awake - pinged >= HUNG_AFTER {
                        self.watched.remove(&session);
                        verdicts.push((session, Verdict::Hung));
                        continue;
                    }
                    let known = std::mem::replace(&mut watch.suspect, true);
                    Some(if known { Verdict::Ping } else { Verdict::Suspect })
                }
                Some(pinged) if watch.suspect => {
                    *watch = Watch { pinged: None, suspect: false, due: awake.max(pinged + interval) };
                    Some(Verdict::Trust)
                }
                Some(pinged) if pinged + interval > awake => {
                    *watch = Watch { pinged: None, suspect: false, due: pinged + interval };
                    None
                }
                _ => {
                    *watch = Watch { pinged: Some(awake), suspect: false, due: awake + SUSPECT_AFTER };
                    Some(Verdict::Ping)
                }
            };
            self.due.push(Reverse((watch.due, session)));
            verdicts.extend(verdict.map(|verdict| (session, verdict)));
        }
        verdicts
    }

    /// A quarter more than the budget needs, to make up for what a late tick left undone. Peers that came in a burst are
    /// asked in a burst once, and spread by this.
    fn most_per_tick(&self) -> usize {
        (self.budget() as usize * TICK.as_millis() as usize * 5).div_ceil(4000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One peer among `others`, and what it is judged to be over time.
    struct Scene {
        liveness: Liveness,
        start: Instant,
        heard: HashMap<SessionId, Awake>,
    }

    const PEER: SessionId = SessionId(0);

    impl Scene {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        fn new(others: u64) -> Self {
            let mut liveness = Liveness::new(500);
            (0..=others).for_each(|id| liveness.watch(SessionId(id)));
            Self { liveness, start: Instant::now(), heard: HashMap::new() }
        }

        /// Ticks from one millisecond to another; everybody answers but the peer, which does if it `answers`. Gives what
        /// was decided about the peer, with the second, and how many pings were sent.
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
                        self.heard.insert(session, self.liveness.awake());
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
    fn a_peer_that_answers_is_left_in_peace() {
        let mut scene = Scene::new(0);
        assert_eq!(scene.run(0, 60_000, 50, true), (vec![], 60));
    }

    #[test]
    fn a_hung_peer_is_suspect_within_3_seconds_and_gone_within_10() {
        for others in [0, 999] {
            let mut scene = Scene::new(others);
            scene.run(0, 20_000, 50, true);
            let (decided, _) = scene.run(20_000, 40_000, 50, false);
            let [(suspect, Verdict::Suspect), (hung, Verdict::Hung)] = decided[..] else { panic!("{decided:?}") };
            assert!(suspect <= 23.0 && hung <= 30.0, "{decided:?}");
        }
    }

    #[test]
    fn a_peer_that_comes_back_is_trusted() {
        let mut scene = Scene::new(10);
        scene.run(0, 10_000, 50, true);
        let (decided, _) = scene.run(10_000, 14_000, 50, false);
        assert!(matches!(decided[..], [(_, Verdict::Suspect)]), "{decided:?}");
        scene.heard.insert(PEER, scene.liveness.awake());
        let (decided, _) = scene.run(14_000, 30_000, 50, true);
        assert!(matches!(decided[..], [(_, Verdict::Trust)]), "{decided:?}");
    }

    #[test]
    fn pings_keep_to_a_budget() {
        for (peers, expected) in [(100, 100), (1000, 500), (10_000, 250)] {
            let mut scene = Scene::new(peers - 1);
            scene.run(0, 120_000, 50, true);
            // As long as the longest interval: within it pings may come in waves.
            let (_, pings) = scene.run(120_000, 160_000, 50, true);
            assert!(pings.abs_diff(expected * 40) <= expected * 2, "{pings} pings in 40 s to {peers} peers");
        }
    }

    #[test]
    fn cr12_rs5_our_own_delays_are_nobodys_fault() {
        // Stopped for a minute: not a second of it counts.
        let mut scene = Scene::new(10);
        scene.run(0, 10_000, 50, true);
        let (decided, _) = scene.run(70_000, 70_500, 50, false);
        assert_eq!(decided, []);
        scene.heard.insert(PEER, scene.liveness.awake());
        assert_eq!(scene.run(70_500, 90_000, 50, true).0, []);
        // Awake one time in ten: deadlines are as much longer.
        let (decided, _) = scene.run(90_000, 200_000, 500, false);
        let [(suspect, Verdict::Suspect), (hung, Verdict::Hung)] = decided[..] else { panic!("{decided:?}") };
        assert!(suspect >= 93.0 && hung >= 120.0, "{decided:?}");
    }

    #[test]
    fn a_doubt_is_looked_into_at_once() {
        let mut scene = Scene::new(9999);
        scene.run(0, 30_000, 50, true);
        scene.liveness.doubt(PEER);
        let (decided, _) = scene.run(30_000, 50_000, 50, false);
        assert!(decided.iter().any(|(second, verdict)| *second <= 33.0 && *verdict == Verdict::Suspect), "{decided:?}");
    }

    #[test]
    fn nothing_is_said_of_those_who_left() {
        let mut scene = Scene::new(0);
        scene.liveness.forget(PEER);
        assert_eq!(scene.run(0, 20_000, 50, false), (vec![], 0));
        assert!(scene.liveness.watched.is_empty() && scene.liveness.due.is_empty());
    }
}
