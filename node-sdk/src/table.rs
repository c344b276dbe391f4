//! What calls are routed by: who offers what, and whose turn it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::{Node, Route};
use tokio::time::Instant;

use crate::events::Groups;
use crate::link::{Link, Readiness};
use crate::router::Router;

/// Most providers of a route that one node calls: each of many callers has its own, and fewer connections.
const MAX_SUBSET: usize = 100;
/// Calls in flight to a node of our own zone from which one of another, if that costs less than half, is taken.
const SPILL: u32 = 32;
/// Differences in cost below that of half a millisecond say nothing, and must not spoil the turns.
const NOISE: u64 = 500 * 500;
/// Most turns of a schedule for each provider; finer weights are rounded.
const MAX_TURNS: u32 = 16;

/// Who offers what; replaced as a whole at every change.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) router: Router<Providers>,
    /// Routes that had providers once. Asked when `router` knows none: a route that is gone must not hide one that is there.
    pub(crate) remembered: Router<Providers>,
    /// Who has subscribed to what.
    pub(crate) events: Router<Groups>,
    pub(crate) nodes: Vec<Node>,
}

/// The nodes that offer one route and want calls.
#[derive(Debug, Default)]
pub(crate) struct Providers {
    pub(crate) list: Vec<Provider>,
    /// Those that we call.
    members: Vec<usize>,
    /// Those of them that take turns, the near ones if there are any: each as often as its weight says, spread out.
    schedule: Vec<usize>,
    turn: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) link: Arc<Link>,
    pub(crate) route: Route,
    pub(crate) weight: u16,
    /// The Distributor has had no sign of life from it for a moment.
    pub(crate) suspect: bool,
    /// It runs where we do.
    pub(crate) is_near: bool,
}

/// How one of several providers is picked.
#[derive(Clone, Copy, Debug, Default)]
pub enum Balance {
    /// Providers take turns by weight; whose turn it is gives way to another at random that costs less: its calls in flight times
    /// the square of the latency of its last answers.
    #[default]
    LeastCost,
    /// Providers take turns by weight.
    RoundRobin,
    /// The fewest calls in flight, of those that we have made.
    LeastInFlight,
    /// In a way of one's own.
    By(&'static dyn Balancer),
}

/// A way of one's own to pick a provider: see [`Balance::By`].
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
/// let node = Node::builder("caller").balance(Balance::By(&Quickest));
/// ```
pub trait Balancer: std::fmt::Debug + Send + Sync {
    /// Where in `candidates` the provider to call stands; beyond the last, the first is called. There is at least one, and all
    /// of them have a live connection, do not let calls fail, and were not tried for this call before. Asked for every call, in
    /// the task that makes it: it should be quick.
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
    pub is_near: bool,
}

/// Who is to be picked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice<'a> {
    pub(crate) balance: Balance,
    /// Calls with the same key go to the same provider, as long as it is there.
    pub(crate) sticky: Option<&'a str>,
    /// Nobody but this instance.
    pub(crate) on: Option<&'a str>,
    /// Not those.
    pub(crate) tried: &'a [SocketAddr],
}

impl Provider {
    /// What comes first is better.
    fn rank(&self, now: Instant) -> Readiness {
        let readiness = self.link.readiness(now);
        if self.suspect { readiness.max(Readiness::Ejected) } else { readiness }
    }

    fn cost(&self, now: Instant) -> u64 {
        self.link.load.cost(now.into_std())
    }

    fn candidate(&self) -> Candidate<'_> {
        let Self { link, weight, is_near, .. } = self;
        Candidate {
            address: link.address,
            instance: link.instance.as_deref(),
            weight: *weight,
            in_flight: link.load.in_flight(),
            latency: link.load.latency(),
            is_near: *is_near,
        }
    }
}

impl Providers {
    /// Turns begin anywhere: tables are rebuilt at every change, and processes start together.
    pub(crate) fn at_any_turn() -> Self {
        Self { turn: AtomicUsize::new(fastrand::usize(..)), ..Self::default() }
    }

    /// Spreads the turns by weight, as evenly as they go, over those that we call.
    pub(crate) fn plan(&mut self) {
        let mut members: Vec<usize> = (0..self.list.len()).collect();
        if members.len() > MAX_SUBSET {
            let closeness = |at: &usize| std::cmp::Reverse(self.list[*at].link.closeness);
            members.select_nth_unstable_by_key(MAX_SUBSET, closeness);
            members.truncate(MAX_SUBSET);
            members.sort_unstable();
        }
        let near: Vec<usize> = members.iter().copied().filter(|at| self.list[*at].is_near).collect();
        let usual = if near.is_empty() { &members } else { &near };
        let weights: Vec<u32> = usual.iter().map(|at| self.list[*at].weight.into()).collect();
        self.schedule = schedule(&weights).into_iter().map(|position| usual[position]).collect();
        self.members = members;
    }

    /// The provider to call, with whether it has to be connected first. A provider without a live connection is picked only
    /// when there is none with one; those that are due are named to `connect`, to be there the next time.
    pub(crate) fn pick(
        &self,
        choice: &Choice<'_>,
        now: Instant,
        mut connect: impl FnMut(&Provider),
    ) -> Option<&Provider> {
        if let Some(instance) = choice.on {
            let provider = self.list.iter().find(|provider| provider.link.instance.as_deref() == Some(instance))?;
            connect(provider);
            return (!choice.tried.contains(&provider.link.address)).then_some(provider);
        }
        if let Some(key) = choice.sticky {
            return self.closest(key, choice, now, connect);
        }
        if let Balance::By(balancer) = choice.balance
            && let Some(provider) = self.pick_by(balancer, choice, now, &mut connect)
        {
            return Some(provider);
        }
        // A second attempt takes no turn: whoever lets calls fail would be called first every time.
        let turn = self.turn.fetch_add(usize::from(choice.tried.is_empty()), Ordering::Relaxed);
        let count = self.schedule.len();
        let first = self.list.get(*self.schedule.get(turn % count.max(1))?)?;
        let is_up =
            |provider: &Provider| !choice.tried.contains(&provider.link.address) && provider.rank(now) == Readiness::Up;
        if is_up(first) {
            let spills = first.is_near && first.link.load.in_flight() >= SPILL;
            let starting = first.link.load.is_starting(now.into_std());
            if !spills && (count == 1 || (matches!(choice.balance, Balance::RoundRobin) && !starting)) {
                return Some(first);
            }
            let second = if spills {
                self.members[fastrand::usize(..self.members.len())]
            } else {
                // Another one: with few providers, one's own luck would come up often.
                self.schedule[(turn % count + fastrand::usize(1..count)) % count]
            };
            let second = &self.list[second];
            let takes_turn = |one: &Provider, other: &Provider| {
                let (one, other, now) = (&one.link.load, &other.link.load, now.into_std());
                !one.is_starting(now) || one.takes_turn(other, now, fastrand::f64())
            };
            let gives_way = !spills && starting && !takes_turn(first, second);
            let is_second = gives_way || (is_better(second, first, choice.balance, now) && takes_turn(second, first));
            return Some(if is_second && is_up(second) { second } else { first });
        }
        // Somebody does not do as usual: look at all of them.
        let count = self.members.len();
        let in_turn = (0..count).map(|step| &self.list[self.members[turn.wrapping_add(step) % count]]);
        // When most are ejected it is not they who are at fault, and the rest could not bear it all.
        let ejected = self.members.iter().filter(|at| self.list[**at].rank(now) == Readiness::Ejected).count();
        let panic = ejected * 2 > count;
        let mut best: Option<(Readiness, &Provider)> = None;
        for provider in in_turn.filter(|provider| !choice.tried.contains(&provider.link.address)) {
            let mut rank = provider.rank(now);
            if panic && rank == Readiness::Ejected {
                rank = Readiness::Up;
            }
            if rank == Readiness::Due {
                connect(provider);
            }
            let better = best.is_none_or(|(so_far, known)| {
                rank < so_far || (rank == so_far && is_better(provider, known, choice.balance, now))
            });
            if better {
                best = Some((rank, provider));
            }
        }
        let (rank, provider) = best?;
        if rank == Readiness::Resting {
            // Nobody better is left: a refused connect costs less than a refused call.
            connect(provider);
        }
        Some(provider)
    }

    /// The provider that `balancer` wants, if there is one with a live connection.
    fn pick_by(
        &self,
        balancer: &dyn Balancer,
        choice: &Choice<'_>,
        now: Instant,
        connect: &mut impl FnMut(&Provider),
    ) -> Option<&Provider> {
        let members = self.members.iter().map(|at| &self.list[*at]);
        members.clone().filter(|provider| provider.rank(now) == Readiness::Due).for_each(connect);
        let up: Vec<&Provider> = members
            .filter(|provider| !choice.tried.contains(&provider.link.address) && provider.rank(now) == Readiness::Up)
            .collect();
        let first = *up.first()?;
        let candidates: Vec<Candidate<'_>> = up.iter().map(|provider| provider.candidate()).collect();
        Some(up.get(balancer.pick(&candidates)).copied().unwrap_or(first))
    }

    /// Rendezvous hashing with bounded load: the closest to the key, unless it has a quarter more to do than the mean.
    fn closest(
        &self,
        key: &str,
        choice: &Choice<'_>,
        now: Instant,
        mut connect: impl FnMut(&Provider),
    ) -> Option<&Provider> {
        let open = || self.list.iter().filter(|provider| !choice.tried.contains(&provider.link.address));
        let in_flight: u32 = open().map(|provider| provider.link.load.in_flight()).sum();
        let count = u32::try_from(open().count()).unwrap_or(u32::MAX).max(1);
        let most = (in_flight + 1).div_ceil(count) * 5 / 4 + 1;
        let ranked = open().map(|provider| {
            let rank = provider.rank(now);
            if rank == Readiness::Due {
                connect(provider);
            }
            let is_full = provider.link.load.in_flight() >= most;
            ((rank, is_full, std::cmp::Reverse(affinity(key, provider.link.address))), provider)
        });
        let (rank, provider) = ranked.min_by_key(|(rank, _)| *rank).map(|((rank, ..), provider)| (rank, provider))?;
        if rank == Readiness::Resting {
            connect(provider);
        }
        Some(provider)
    }
}

/// Whether one provider is to be preferred to another whose turn it is.
fn is_better(one: &Provider, other: &Provider, balance: Balance, now: Instant) -> bool {
    let (ours, theirs) = (one.link.load.in_flight(), other.link.load.in_flight());
    match (one.is_near, other.is_near) {
        (true, false) => return ours < SPILL,
        (false, true) => return theirs >= SPILL && ours < theirs / 2,
        (true, true) | (false, false) => {}
    }
    match balance {
        Balance::RoundRobin | Balance::By(_) => false,
        Balance::LeastInFlight => ours < theirs,
        Balance::LeastCost => {
            if !one.link.load.is_known() || !other.link.load.is_known() {
                return ours < theirs;
            }
            let (ours, theirs) = (one.cost(now), other.cost(now));
            ours < theirs / 2 && theirs - ours > NOISE
        }
    }
}

/// How close a provider is to a key: the same on every node and in every version, so that all callers agree.
pub(crate) fn affinity(key: &str, address: SocketAddr) -> u64 {
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
        if most / divisor <= MAX_TURNS { weight / divisor } else { (weight * MAX_TURNS).div_ceil(most) }
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
            let mut providers = Providers::at_any_turn();
            for port in 1..=300 {
                let address = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
                providers.list.push(Provider {
                    link: Link::new(
                        address,
                        protocol::Version::V2,
                        None,
                        affinity(caller, address),
                        bytes::Bytes::new(),
                        daemon::Network::System,
                    ),
                    route: Route::parse("GET/n").unwrap(),
                    weight: 100,
                    suspect: false,
                    is_near: false,
                });
            }
            providers.plan();
            assert_eq!(providers.schedule.len(), MAX_SUBSET);
            providers.members
        };
        let (a, b) = (members("a"), members("b"));
        assert_eq!(a, members("a"), "always the same");
        let shared = a.iter().filter(|member| b.contains(member)).count();
        assert!((15..55).contains(&shared), "{shared} in common: about a third");
    }
}
