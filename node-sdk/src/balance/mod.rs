//! Balancing: which of several members a call goes to. Nodes use it for calls, and the gateway for
//! HTTP servers too.
//!
//! It must not do I/O, and it must not import other modules.

pub mod affinity;
mod latency;
mod load;
mod pick;
mod retry_budget;
#[cfg(test)]
mod simulation;
mod turns;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

pub use self::load::Load;
pub use self::pick::{Balance, Balancer, Candidate, PickOptions};
pub use self::retry_budget::RetryBudget;
pub use self::turns::{SharedTurns, Turns};

/// Maximum number of providers of a route that one node calls. With many callers, each has a
/// different subset, and fewer connections.
pub(crate) const MAX_SUBSET: usize = 100;
/// Maximum number of positions of one member in a schedule. Finer weights are rounded.
const MAX_SCHEDULE_SHARE: u32 = 16;

/// The members that can take the same calls, with the schedule of the subset that is called.
#[derive(Debug)]
pub struct Pool<M> {
    members: Vec<M>,
    /// Maximum number of members that are called.
    max_subset: usize,
    /// The members that are called, if there are several: positions in `members`.
    subset: Vec<usize>,
    /// The order in which members are called: those of our zone if there are any, each as often as
    /// its weight says, spread out.
    schedule: Vec<usize>,
    /// Whether `subset` and `schedule` match `members`.
    is_scheduled: bool,
    turns: Turns,
    /// Whether a call has picked from it.
    is_used: AtomicBool,
}

/// Something that can be picked: a provider, or a server.
pub trait Member {
    /// The identity of a member. Sticky keys are hashed with its text.
    type Address: Clone + Ord + Display;

    /// The address of the member, which no other member of a pool has.
    fn address(&self) -> &Self::Address;

    /// The address of the member for a [`Balancer`], in the form of [`Candidate`].
    fn candidate_address(&self) -> (SocketAddr, Option<&Path>);

    /// The calls in flight, the latency and the failures of the member.
    fn load(&self) -> &Load;

    /// Whether it can be called now.
    fn readiness(&self, now: Instant) -> Readiness;

    /// The readiness that counts for a call with a sticky key.
    fn sticky_readiness(&self, readiness: Readiness) -> Readiness {
        readiness
    }

    /// The weight of the member, in hundredths of the usual one.
    fn weight(&self) -> u16;

    /// Whether the member runs in this process's zone.
    fn same_zone(&self) -> bool {
        false
    }

    /// The id that [`PickOptions::instance`] may name.
    fn instance(&self) -> Option<&str> {
        None
    }

    /// The rank of the member when there are too many members: those with the highest scores are
    /// called.
    fn rendezvous_score(&self) -> u64 {
        0
    }
}

/// Whether a member can be called. The best value comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// The member has a live connection, or will certainly have one.
    Ready,
    /// Being connected.
    Connecting,
    /// The member fails calls, or is suspect.
    Ejected,
    /// The member is not connected, and worth an attempt.
    Reconnect,
    /// Connecting to it has just failed.
    CoolingDown,
}

impl<M: Clone> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self {
            members: self.members.clone(),
            subset: self.subset.clone(),
            schedule: self.schedule.clone(),
            turns: self.turns.clone(),
            is_used: AtomicBool::new(self.is_used.load(Ordering::Relaxed)),
            ..*self
        }
    }
}

impl<M: Member> Pool<M> {
    /// An empty pool, of whose members at most `max_subset` are called, in `turns`.
    pub fn new(max_subset: usize, turns: Turns) -> Self {
        Self {
            members: Vec::new(),
            max_subset,
            subset: Vec::new(),
            schedule: Vec::new(),
            is_scheduled: true,
            turns,
            is_used: AtomicBool::new(false),
        }
    }

    /// Whether a call has picked from it.
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// All members, called or not.
    pub fn members(&self) -> &[M] {
        &self.members
    }

    /// Adds a member. After the last change, [`rebuild_schedule`](Self::rebuild_schedule).
    pub fn push(&mut self, member: M) {
        self.members.push(member);
        self.is_scheduled = false;
    }

    /// Removes the members for which `keep` is false. After the last change,
    /// [`rebuild_schedule`](Self::rebuild_schedule).
    pub fn retain(&mut self, keep: impl FnMut(&M) -> bool) {
        self.members.retain(keep);
        self.is_scheduled = false;
    }

    /// Whether nothing has changed since [`rebuild_schedule`](Self::rebuild_schedule).
    pub fn is_scheduled(&self) -> bool {
        self.is_scheduled
    }

    /// Makes the schedule again: by weight, and spread out as evenly as possible.
    pub fn rebuild_schedule(&mut self) {
        self.is_scheduled = true;
        (self.subset, self.schedule) = (Vec::new(), Vec::new());
        if self.members.len() <= 1 {
            // The usual case, for many thousands of routes.
            return;
        }
        let mut subset: Vec<usize> = (0..self.members.len()).collect();
        if subset.len() > self.max_subset {
            let rendezvous_score = |at: &usize| std::cmp::Reverse(self.members[*at].rendezvous_score());
            subset.select_nth_unstable_by_key(self.max_subset, rendezvous_score);
            subset.truncate(self.max_subset);
        }
        // The same order for all that share the turns, however members came and went.
        subset.sort_unstable_by(|one, other| self.members[*one].address().cmp(self.members[*other].address()));
        let near: Vec<usize> = subset.iter().copied().filter(|at| self.members[*at].same_zone()).collect();
        let usual = if near.is_empty() { &subset } else { &near };
        let weights: Vec<u32> = usual.iter().map(|at| self.members[*at].weight().into()).collect();
        self.schedule = schedule(&weights).into_iter().map(|position| usual[position]).collect();
        self.subset = subset;
    }

    /// The members that are called.
    pub fn subset(&self) -> impl Iterator<Item = &M> {
        self.subset.iter().map(|at| &self.members[*at])
    }
}

/// Positions in the order of calls: each as often as its weight says, and spread out.
fn schedule(weights: &[u32]) -> Vec<usize> {
    let heaviest = weights.iter().copied().max().unwrap_or(0);
    if heaviest == 0 || weights.iter().all(|weight| *weight == heaviest) {
        return (0..weights.len()).collect();
    }
    // As few positions as possible: weights of 100 and 200 give one and two.
    let divisor = weights.iter().copied().fold(0, gcd);
    let positions_of = |weight: u32| {
        if heaviest / divisor <= MAX_SCHEDULE_SHARE {
            weight / divisor
        } else {
            (weight * MAX_SCHEDULE_SHARE).div_ceil(heaviest)
        }
    };
    let mut slots = Vec::new();
    for (position, weight) in weights.iter().enumerate() {
        let count = positions_of(*weight);
        slots.extend((0..count).map(|at| ((f64::from(at) + 0.5) / f64::from(count), position)));
    }
    slots.sort_by(|a, b| a.0.total_cmp(&b.0));
    slots.into_iter().map(|(_, position)| position).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestMember {
        address: SocketAddr,
        load: Load,
        rendezvous_score: u64,
        readiness: Readiness,
    }

    impl TestMember {
        fn new(port: u16) -> Self {
            let address = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
            let load = Load::new(Instant::now().into_std());
            Self { address, load, rendezvous_score: 0, readiness: Readiness::Ready }
        }
    }

    impl Member for TestMember {
        type Address = SocketAddr;

        fn address(&self) -> &SocketAddr {
            &self.address
        }

        fn candidate_address(&self) -> (SocketAddr, Option<&Path>) {
            (self.address, None)
        }

        fn load(&self) -> &Load {
            &self.load
        }

        fn readiness(&self, _now: Instant) -> Readiness {
            self.readiness
        }

        fn weight(&self) -> u16 {
            100
        }

        fn rendezvous_score(&self) -> u64 {
            self.rendezvous_score
        }
    }

    #[track_caller]
    fn check(weights: &[u32], expected: &[usize]) {
        assert_eq!(schedule(weights), expected);
    }

    #[test]
    fn the_schedule_is_spread_by_weight() {
        check(&[], &[]);
        check(&[100, 100, 100], &[0, 1, 2]);
        check(&[100, 200], &[1, 0, 1]);
        check(&[50, 100, 150], &[2, 1, 0, 2, 1, 2]);
        let count = |weights: &[u32], position| schedule(weights).iter().filter(|turn| **turn == position).count();
        let weights = [1, 999, 1000];
        assert_eq!([0, 1, 2].map(|position| count(&weights, position)), [1, 16, 16]);
    }

    #[test]
    fn all_callers_agree_on_the_member_of_a_key() {
        let address = |port: u16| SocketAddr::new("10.0.0.1".parse().unwrap(), port);
        // A change of these values makes callers of different versions disagree.
        assert_eq!(affinity::score("member 7", &address(1)), 18_238_533_787_092_928_065);
        let owners: Vec<u16> = (0..1000)
            .map(|key| (1..=4).max_by_key(|port| affinity::score(&key.to_string(), &address(*port))).unwrap())
            .collect();
        for port in 1..=4 {
            let share = owners.iter().filter(|owner| **owner == port).count();
            assert!((200..300).contains(&share), "{port} owns {share} of 1000");
        }
        // When a member leaves, only its own keys move.
        for (key, owner) in owners.iter().enumerate() {
            let among_three = (1..=3).max_by_key(|port| affinity::score(&key.to_string(), &address(*port))).unwrap();
            assert!(*owner == 4 || *owner == among_three);
        }
    }

    #[tokio::test]
    async fn a_node_calls_a_hundred_of_many_and_others_call_others() {
        let subset = |caller: &str| {
            let mut providers = Pool::new(MAX_SUBSET, Turns::default());
            for port in 1..=300 {
                let member = TestMember::new(port);
                providers.push(TestMember { rendezvous_score: affinity::score(caller, &member.address), ..member });
            }
            providers.rebuild_schedule();
            assert_eq!(providers.schedule.len(), MAX_SUBSET);
            providers.subset
        };
        let (a, b) = (subset("a"), subset("b"));
        assert_eq!(a, subset("a"), "always the same");
        let shared = a.iter().filter(|member| b.contains(member)).count();
        assert!((15..55).contains(&shared), "{shared} in common: about a third");
    }

    #[tokio::test]
    async fn b7_the_turns_of_a_member_that_is_left_out_are_shared() {
        let mut pool = Pool::new(MAX_SUBSET, Turns::default());
        let address = |port| SocketAddr::new("10.0.0.1".parse().unwrap(), port);
        (1..=3).for_each(|port| pool.push(TestMember::new(port)));
        pool.rebuild_schedule();
        let options =
            PickOptions { balance: Balance::RoundRobin, excluded: Some(address(1)), ..PickOptions::default() };
        // Slow start is over.
        let now = Instant::now() + std::time::Duration::from_secs(60);
        let mut counts = [0; 4];
        for _ in 0..100 {
            let picked = pool.pick(&options, now, |_| {}).unwrap();
            counts[usize::from(picked.address.port())] += 1;
        }
        assert_eq!(counts, [0, 0, 50, 50]);
    }

    #[tokio::test]
    async fn c9_a_member_that_is_not_connected_yet_keeps_its_turn() {
        let mut pool = Pool::new(MAX_SUBSET, Turns::default());
        (1..=3).for_each(|port| pool.push(TestMember::new(port)));
        pool.rebuild_schedule();
        // Slow start is over.
        let now = Instant::now() + std::time::Duration::from_secs(60);
        for turn in 0..6 {
            let next = pool.turns.take(0) % 3;
            pool.members[next].readiness = Readiness::Reconnect;
            let mut connected = Vec::new();
            let other = pool.pick(&PickOptions::default(), now, |member| connected.push(member.address)).unwrap();
            assert_eq!(connected, [pool.members[next].address], "turn {turn}");
            assert_ne!(other.address, pool.members[next].address, "turn {turn}");
            pool.members[next].readiness = Readiness::Ready;
            let picked = pool.pick(&PickOptions::default(), now, |_| {}).unwrap();
            assert_eq!(picked.address, pool.members[next].address, "turn {turn}");
        }
    }
}
