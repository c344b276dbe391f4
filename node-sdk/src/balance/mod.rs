//! Whose turn it is: how one of several providers is picked. Used by nodes for calls, and by the gateway for HTTP servers too.

mod load;
mod retry_budget;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

pub use self::load::Load;
pub use self::retry_budget::RetryBudget;

/// Most providers of a route that one node calls: each of many callers has its own, and fewer connections.
pub(crate) const MAX_SUBSET: usize = 100;
/// Calls in flight to a node of our own zone from which one of another, if that costs less than half, is taken.
const ZONE_OVERFLOW: u32 = 32;
/// Differences in cost below that of half a millisecond say nothing, and must not spoil the turns.
const MIN_COST_GAP: u64 = 500 * 500;
/// Most turns of a schedule for each provider; finer weights are rounded.
const MAX_SCHEDULE_SHARE: u32 = 16;

/// Those that offer the same and want calls.
#[derive(Debug)]
pub struct Pool<M> {
    list: Vec<M>,
    /// Most of them that we call.
    most: usize,
    /// Those that we call, if there are several.
    members: Vec<usize>,
    /// Those of them that take turns, the near ones if there are any: each as often as its weight says, spread out.
    schedule: Vec<usize>,
    /// The two are of `list` as it is.
    is_scheduled: bool,
    cursor: AtomicUsize,
}

/// Whoever can be picked.
pub trait Member {
    /// Where it is: no two of a pool are at the same place.
    fn address(&self) -> SocketAddr;

    /// What it has to do, and how it does.
    fn load(&self) -> &Load;

    /// Whether it can be called now; what comes first is better.
    fn readiness(&self, now: Instant) -> Readiness;

    /// Its share, in hundredths of the usual one.
    fn weight(&self) -> u16;

    /// It runs where we do.
    fn same_zone(&self) -> bool {
        false
    }

    /// The id that [`PickOptions::instance`] may name.
    fn instance(&self) -> Option<&str> {
        None
    }

    /// Among too many, those with the highest are called.
    fn rendezvous_score(&self) -> u64 {
        0
    }
}

/// Whether a provider can be called; what comes first is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// A live connection, or no doubt that there will be one.
    Ready,
    /// Being connected.
    Connecting,
    /// It lets calls fail, or gives no sign of life.
    Ejected,
    /// Not connected, and worth a try.
    Reconnect,
    /// Failed a moment ago.
    CoolingDown,
}

/// How one of several providers is picked.
#[derive(Clone, Copy, Debug, Default)]
pub enum Balance {
    /// Providers take turns by weight; whose turn it is gives way to another at random that costs less: its calls in flight times
    /// the square of the latency of its last answers.
    #[default]
    PeakEwma,
    /// Providers take turns by weight.
    RoundRobin,
    /// The fewest calls in flight for its weight, of those that we have made.
    LeastInFlight,
    /// In a way of one's own.
    Custom(&'static dyn Balancer),
}

/// A way of one's own to pick a provider: see [`Balance::Custom`].
///
/// ```
/// use node_sdk::{Balance, Balancer, Candidate, Node};
///
/// /// Whoever was the quickest of late.
/// #[derive(Debug)]
/// struct Quickest;
///
/// impl Balancer for Quickest {
///     fn pick(&self, candidates: &[Candidate<'_>]) -> usize {
///         (0..candidates.len()).min_by_key(|at| candidates[*at].latency).unwrap_or(0)
///     }
/// }
///
/// let node = Node::builder("caller").balance(Balance::Custom(&Quickest));
/// ```
pub trait Balancer: std::fmt::Debug + Send + Sync {
    /// Where in `candidates` the provider to call stands; beyond the last, the first is called. There is at least one, and all
    /// of them have a live connection, do not let calls fail, and were not tried for this call before. Asked for every call that more
    /// than one provider could take, in the task that makes it: it should be quick.
    fn pick(&self, candidates: &[Candidate<'_>]) -> usize;
}

/// A provider that could be picked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Where it is.
    pub address: SocketAddr,
    /// The id of its instance; nodes of version 1 have none.
    pub instance: Option<&'a str>,
    /// Its share of the calls, in hundredths of the usual one.
    pub weight: u16,
    /// Our calls that it has not answered.
    pub in_flight: u32,
    /// How long it takes to answer us, with what was slow of late foremost; `None` before its first answer.
    pub latency: Option<Duration>,
    /// It runs in our zone.
    pub same_zone: bool,
}

/// Who is to be picked.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickOptions<'a> {
    /// How.
    pub balance: Balance,
    /// Calls with the same key go to the same provider, as long as it is there.
    pub sticky: Option<&'a str>,
    /// Nobody but this instance.
    pub instance: Option<&'a str>,
    /// Not those: a second attempt.
    pub tried: &'a [SocketAddr],
}

fn cost(member: &impl Member, now: Instant) -> u64 {
    member.load().peak_ewma_cost(now.into_std())
}

fn candidate(member: &impl Member) -> Candidate<'_> {
    let load = member.load();
    Candidate {
        address: member.address(),
        instance: member.instance(),
        weight: member.weight(),
        in_flight: load.in_flight(),
        latency: load.latency(),
        same_zone: member.same_zone(),
    }
}

impl<M: Clone> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self {
            list: self.list.clone(),
            members: self.members.clone(),
            schedule: self.schedule.clone(),
            cursor: AtomicUsize::new(self.cursor.load(Ordering::Relaxed)),
            ..*self
        }
    }
}

impl<M: Member> Pool<M> {
    /// Nobody yet; of those that come, `most` are called. Turns begin anywhere: many processes start together.
    pub fn new(most: usize) -> Self {
        let cursor = AtomicUsize::new(fastrand::usize(..));
        Self { list: Vec::new(), most, members: Vec::new(), schedule: Vec::new(), is_scheduled: true, cursor }
    }

    /// All of them, called or not.
    pub fn list(&self) -> &[M] {
        &self.list
    }

    /// Adds one. After the last change, [`rebuild_schedule`](Self::rebuild_schedule).
    pub fn push(&mut self, member: M) {
        self.list.push(member);
        self.is_scheduled = false;
    }

    /// Removes those that are not to be kept. After the last change, [`rebuild_schedule`](Self::rebuild_schedule).
    pub fn retain(&mut self, keep: impl FnMut(&M) -> bool) {
        self.list.retain(keep);
        self.is_scheduled = false;
    }

    /// Whether nothing has changed since [`rebuild_schedule`](Self::rebuild_schedule).
    pub fn is_scheduled(&self) -> bool {
        self.is_scheduled
    }

    /// Spreads the turns by weight, as evenly as they go, over those that we call.
    pub fn rebuild_schedule(&mut self) {
        self.is_scheduled = true;
        (self.members, self.schedule) = (Vec::new(), Vec::new());
        if self.list.len() <= 1 {
            // The usual case, of many thousands of routes.
            return;
        }
        let mut members: Vec<usize> = (0..self.list.len()).collect();
        if members.len() > self.most {
            let rendezvous_score = |at: &usize| std::cmp::Reverse(self.list[*at].rendezvous_score());
            members.select_nth_unstable_by_key(self.most, rendezvous_score);
            members.truncate(self.most);
            members.sort_unstable();
        }
        let near: Vec<usize> = members.iter().copied().filter(|at| self.list[*at].same_zone()).collect();
        let usual = if near.is_empty() { &members } else { &near };
        let weights: Vec<u32> = usual.iter().map(|at| self.list[*at].weight().into()).collect();
        self.schedule = schedule(&weights).into_iter().map(|position| usual[position]).collect();
        self.members = members;
    }

    /// The provider to call, with whether it has to be connected first. A provider without a live connection is picked only
    /// when there is none with one; those that are due are named to `connect`, to be there the next time.
    pub fn pick(&self, options: &PickOptions<'_>, now: Instant, mut connect: impl FnMut(&M)) -> Option<&M> {
        debug_assert!(self.is_scheduled, "who changes a pool plans it");
        if let Some(instance) = options.instance {
            let provider = self.list.iter().find(|provider| provider.instance() == Some(instance))?;
            connect(provider);
            return (!options.tried.contains(&provider.address())).then_some(provider);
        }
        if let [only] = &self.list[..] {
            let is_down = matches!(only.readiness(now), Readiness::Reconnect | Readiness::CoolingDown);
            let is_open = !options.tried.contains(&only.address());
            return is_open
                .then(|| {
                    if is_down {
                        connect(only)
                    }
                })
                .map(|()| only);
        }
        if let Some(key) = options.sticky {
            return self.pick_sticky(key, options, now, connect);
        }
        if let Balance::Custom(balancer) = options.balance
            && let Some(provider) = self.pick_custom(balancer, options, now, &mut connect)
        {
            return Some(provider);
        }
        // A second attempt takes no turn: whoever lets calls fail would be called first every time.
        let turn = self.cursor.fetch_add(usize::from(options.tried.is_empty()), Ordering::Relaxed);
        let count = self.schedule.len();
        let first = self.list.get(*self.schedule.get(turn % count.max(1))?)?;
        let is_up =
            |provider: &M| !options.tried.contains(&provider.address()) && provider.readiness(now) == Readiness::Ready;
        if is_up(first) {
            if matches!(options.balance, Balance::LeastInFlight) {
                return self.pick_least_in_flight(turn, options, now);
            }
            let overflows_zone = first.same_zone() && first.load().in_flight() >= ZONE_OVERFLOW;
            let starting = first.load().is_starting(now.into_std());
            if !overflows_zone && (count == 1 || (matches!(options.balance, Balance::RoundRobin) && !starting)) {
                return Some(first);
            }
            let second = if overflows_zone {
                self.members[fastrand::usize(..self.members.len())]
            } else {
                // Another one: with few providers, one's own luck would come up often.
                self.schedule[(turn % count + fastrand::usize(1..count)) % count]
            };
            let second = &self.list[second];
            let wins_slow_start = |one: &M, other: &M| {
                let (one, other, now) = (&one.load(), &other.load(), now.into_std());
                !one.is_starting(now) || one.wins_slow_start(other, now, fastrand::f64())
            };
            let yields_to_second = !overflows_zone && starting && !wins_slow_start(first, second);
            let is_second =
                yields_to_second || (is_cheaper(second, first, options.balance, now) && wins_slow_start(second, first));
            return Some(if is_second && is_up(second) { second } else { first });
        }
        // Somebody does not do as usual: look at all of them.
        let count = self.members.len();
        let in_turn = (0..count).map(|step| &self.list[self.members[turn.wrapping_add(step) % count]]);
        let rank_of = self.ranks(now);
        let mut best: Option<(Readiness, &M)> = None;
        for provider in in_turn.filter(|provider| !options.tried.contains(&provider.address())) {
            let rank = rank_of(provider);
            if rank == Readiness::Reconnect {
                connect(provider);
            }
            let better = best.is_none_or(|(so_far, known)| {
                rank < so_far || (rank == so_far && is_cheaper(provider, known, options.balance, now))
            });
            if better {
                best = Some((rank, provider));
            }
        }
        let (rank, provider) = best?;
        if rank == Readiness::CoolingDown {
            // Nobody better is left: a refused connect costs less than a refused call.
            connect(provider);
        }
        Some(provider)
    }

    /// Whoever has the fewest calls in flight for its weight, among those with a live connection; the near ones first, until they
    /// have much to do.
    fn pick_least_in_flight(&self, turn: usize, options: &PickOptions<'_>, now: Instant) -> Option<&M> {
        let least = |positions: &[usize], not: Option<SocketAddr>| {
            // From whose turn it is: among equals, everybody has some.
            let (before, after) = positions.split_at(turn % positions.len().max(1));
            let up = after.iter().chain(before).map(|at| &self.list[*at]).filter(|provider| {
                let address = provider.address();
                not != Some(address) && !options.tried.contains(&address) && provider.readiness(now) == Readiness::Ready
            });
            up.min_by_key(|provider| provider.load().load_per_weight(provider.weight()))
        };
        let near = least(&self.schedule, None)?;
        if near.same_zone() && near.load().in_flight() >= ZONE_OVERFLOW {
            return least(&self.members, None);
        }
        if near.load().is_starting(now.into_std())
            && let Some(other) = least(&self.schedule, Some(near.address()))
            && !near.load().wins_slow_start(other.load(), now.into_std(), fastrand::f64())
        {
            return Some(other);
        }
        Some(near)
    }

    /// How ready each is, for who looks at all of them. When most are ejected it is not they who are at fault, and the rest could not
    /// bear it all: then nobody is.
    fn ranks(&self, now: Instant) -> impl Fn(&M) -> Readiness + use<M> {
        let ejected = self.members().filter(|member| member.readiness(now) == Readiness::Ejected).count();
        let panic = ejected * 2 > self.members.len();
        move |member| match member.readiness(now) {
            Readiness::Ejected if panic => Readiness::Ready,
            rank => rank,
        }
    }

    /// Those that calls go to, of those that there are.
    pub fn members(&self) -> impl Iterator<Item = &M> {
        self.members.iter().map(|at| &self.list[*at])
    }

    /// The provider that `balancer` wants, if there is one with a live connection.
    fn pick_custom(
        &self,
        balancer: &dyn Balancer,
        options: &PickOptions<'_>,
        now: Instant,
        connect: &mut impl FnMut(&M),
    ) -> Option<&M> {
        let rank_of = self.ranks(now);
        self.members().filter(|provider| rank_of(provider) == Readiness::Reconnect).for_each(connect);
        let open = self.members().filter(|provider| !options.tried.contains(&provider.address()));
        let up: Vec<&M> = open.filter(|provider| rank_of(provider) == Readiness::Ready).collect();
        let first = *up.first()?;
        let candidates: Vec<Candidate<'_>> = up.iter().map(|provider| candidate(*provider)).collect();
        Some(up.get(balancer.pick(&candidates)).copied().unwrap_or(first))
    }

    /// Rendezvous hashing with bounded load: the closest to the key, unless it has a quarter more to do than the mean.
    fn pick_sticky(
        &self,
        key: &str,
        options: &PickOptions<'_>,
        now: Instant,
        mut connect: impl FnMut(&M),
    ) -> Option<&M> {
        let open = || self.list.iter().filter(|provider| !options.tried.contains(&provider.address()));
        let in_flight: u32 = open().map(|provider| provider.load().in_flight()).sum();
        let count = u32::try_from(open().count()).unwrap_or(u32::MAX).max(1);
        let most = (in_flight + 1).div_ceil(count) * 5 / 4 + 1;
        let rank_of = self.ranks(now);
        let ranked = open().map(|provider| {
            let rank = rank_of(provider);
            if rank == Readiness::Reconnect {
                connect(provider);
            }
            let is_full = provider.load().in_flight() >= most;
            ((rank, is_full, std::cmp::Reverse(affinity(key, provider.address()))), provider)
        });
        let (rank, provider) = ranked.min_by_key(|(rank, _)| *rank).map(|((rank, ..), provider)| (rank, provider))?;
        if rank == Readiness::CoolingDown {
            connect(provider);
        }
        Some(provider)
    }
}

/// Whether one provider is to be preferred to another whose turn it is.
fn is_cheaper<M: Member>(one: &M, other: &M, balance: Balance, now: Instant) -> bool {
    let (ours, theirs) = (one.load().in_flight(), other.load().in_flight());
    match (one.same_zone(), other.same_zone()) {
        (true, false) => return ours < ZONE_OVERFLOW,
        (false, true) => return theirs >= ZONE_OVERFLOW && ours < theirs / 2,
        (true, true) | (false, false) => {}
    }
    match balance {
        Balance::RoundRobin | Balance::Custom(_) => false,
        Balance::LeastInFlight => ours < theirs,
        Balance::PeakEwma => {
            if !one.load().is_measured() || !other.load().is_measured() {
                return ours < theirs;
            }
            let (ours, theirs) = (cost(one, now), cost(other, now));
            ours < theirs / 2 && theirs - ours > MIN_COST_GAP
        }
    }
}

/// How close a provider is to a key: the same on every node and in every version, so that all callers agree.
pub fn affinity(key: &str, address: SocketAddr) -> u64 {
    let (key, address) = (crc32fast::hash(key.as_bytes()), crc32fast::hash(address.to_string().as_bytes()));
    // The finalizer of SplitMix64: sums of similar texts are similar, and this is not.
    let mixed = (u64::from(key) << 32 | u64::from(address)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// Positions in the order of their turns: each as often as its weight says, and spread out.
fn schedule(weights: &[u32]) -> Vec<usize> {
    let most = weights.iter().copied().max().unwrap_or(0);
    if most == 0 || weights.iter().all(|weight| *weight == most) {
        return (0..weights.len()).collect();
    }
    // No more turns than it takes: weights of 100 and 200 are one turn and two.
    let divisor = weights.iter().copied().fold(0, gcd);
    let turns = |weight: u32| {
        if most / divisor <= MAX_SCHEDULE_SHARE {
            weight / divisor
        } else {
            (weight * MAX_SCHEDULE_SHARE).div_ceil(most)
        }
    };
    let mut places = Vec::new();
    for (position, weight) in weights.iter().enumerate() {
        let turns = turns(*weight);
        places.extend((0..turns).map(|turn| ((f64::from(turn) + 0.5) / f64::from(turns), position)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    places.into_iter().map(|(_, position)| position).collect()
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
    }

    impl Member for TestMember {
        fn address(&self) -> SocketAddr {
            self.address
        }

        fn load(&self) -> &Load {
            &self.load
        }

        fn readiness(&self, _now: Instant) -> Readiness {
            Readiness::Ready
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
    fn turns_are_spread_by_weight() {
        check(&[], &[]);
        check(&[100, 100, 100], &[0, 1, 2]);
        check(&[100, 200], &[1, 0, 1]);
        check(&[50, 100, 150], &[2, 1, 0, 2, 1, 2]);
        let count = |weights: &[u32], position| schedule(weights).iter().filter(|turn| **turn == position).count();
        let weights = [1, 999, 1000];
        assert_eq!([0, 1, 2].map(|position| count(&weights, position)), [1, 16, 16]);
    }

    #[test]
    fn everybody_agrees_who_is_close_to_a_key() {
        let address = |port: u16| SocketAddr::new("10.0.0.1".parse().unwrap(), port);
        // Whoever changes this makes old and new callers disagree.
        assert_eq!(affinity("member 7", address(1)), 18_238_533_787_092_928_065);
        let owners: Vec<u16> = (0..1000)
            .map(|key| (1..=4).max_by_key(|port| affinity(&key.to_string(), address(*port))).unwrap())
            .collect();
        for port in 1..=4 {
            let share = owners.iter().filter(|owner| **owner == port).count();
            assert!((200..300).contains(&share), "{port} owns {share} of 1000");
        }
        // Whoever leaves takes along only what was its own.
        for (key, owner) in owners.iter().enumerate() {
            let among_three = (1..=3).max_by_key(|port| affinity(&key.to_string(), address(*port))).unwrap();
            assert!(*owner == 4 || *owner == among_three);
        }
    }

    #[tokio::test]
    async fn a_node_calls_a_hundred_of_many_and_others_call_others() {
        let members = |caller: &str| {
            let mut providers = Pool::new(MAX_SUBSET);
            for port in 1..=300 {
                let address = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
                let (load, rendezvous_score) = (Load::new(Instant::now().into_std()), affinity(caller, address));
                providers.push(TestMember { address, load, rendezvous_score });
            }
            providers.rebuild_schedule();
            assert_eq!(providers.schedule.len(), MAX_SUBSET);
            providers.members
        };
        let (a, b) = (members("a"), members("b"));
        assert_eq!(a, members("a"), "always the same");
        let shared = a.iter().filter(|member| b.contains(member)).count();
        assert!((15..55).contains(&shared), "{shared} in common: about a third");
    }
}
