//! How one of several members is picked: power of two choices over a weighted schedule, unless
//! another balance is asked for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Member, Pool, Readiness, affinity};

/// With this many calls in flight to a member of our own zone, calls overflow to a member of
/// another zone that has less than half as many.
const ZONE_OVERFLOW: u32 = 32;

/// How one of several providers is picked.
#[derive(Clone, Copy, Debug, Default)]
pub enum Balance {
    /// Power of two choices: the next provider of a weighted schedule, unless a random other one is
    /// clearly cheaper. Equal providers get equal shares, whatever the noise in their latencies.
    /// The cost is the calls in flight, times the square of the usual latency if one of the two is
    /// clearly slower: if even its quickest recent answers took more than twice as long.
    #[default]
    PowerOfTwo,
    /// The providers in turn, by weight.
    RoundRobin,
    /// The provider with the fewest calls in flight from this process for its weight.
    LeastInFlight,
    /// The provider that a [`Balancer`] picks.
    Custom(&'static dyn Balancer),
}

/// A custom way to pick a provider: see [`Balance::Custom`].
///
/// ```
/// use node_sdk::{Balance, Balancer, Candidate, Node};
///
/// /// The provider with the lowest latency.
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
    /// Returns the position in `candidates` of the provider to call; beyond the last, the first is
    /// called. There is at least one candidate. All have a live connection, are not ejected, and
    /// were not tried for this call before. Called for every call that more than one provider could
    /// take, in the task that makes the call: it should be quick.
    fn pick(&self, candidates: &[Candidate<'_>]) -> usize;
}

/// A provider that could be picked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// The address of the member. A server at a Unix socket has none: it is 0.0.0.0 and port 0
    /// then.
    pub address: SocketAddr,
    /// The path of its Unix socket, if it is a server of a gateway that is asked there.
    pub unix_path: Option<&'a Path>,
    /// The id of its instance; nodes of version 1 have none.
    pub instance: Option<&'a str>,
    /// The share of the calls that the member gets, in hundredths of the usual one.
    pub weight: u16,
    /// The calls of this process that the provider has not answered.
    pub in_flight: u32,
    /// How long its answers to this process usually take; `None` before the first.
    pub latency: Option<Duration>,
    /// Whether the member runs in this process's zone.
    pub same_zone: bool,
}

/// How to pick a member for one call.
#[derive(Clone, Copy, Debug)]
pub struct PickOptions<'a, A = SocketAddr> {
    /// How a member is picked.
    pub balance: Balance,
    /// Calls with the same key go to the same provider, as long as it is a member.
    pub sticky: Option<&'a str>,
    /// The only instance that may be picked.
    pub instance: Option<&'a str>,
    /// Addresses that were tried before, and are not picked again.
    pub tried: &'a [A],
    /// An address that is not picked, and whose turns the others share.
    pub excluded: Option<A>,
}

impl<A> Default for PickOptions<'_, A> {
    fn default() -> Self {
        Self { balance: Balance::default(), sticky: None, instance: None, tried: &[], excluded: None }
    }
}

impl<A: PartialEq> PickOptions<'_, A> {
    /// Whether the member at this address may be picked.
    fn allows(&self, address: &A) -> bool {
        !self.tried.contains(address) && !self.excludes(address)
    }

    fn excludes(&self, address: &A) -> bool {
        self.excluded.as_ref() == Some(address)
    }
}

impl<M: Member> Pool<M> {
    /// The member to call. A member without a live connection is picked only when no other has one.
    /// `connect` is called for members that should be connected, so that they are ready next time.
    pub fn pick(&self, options: &PickOptions<'_, M::Address>, now: Instant, mut connect: impl FnMut(&M)) -> Option<&M> {
        if !self.is_used() {
            // Written once: all threads read it.
            self.is_used.store(true, Ordering::Relaxed);
        }
        debug_assert!(self.is_scheduled, "the schedule is rebuilt after each change of a pool");
        if let Some(instance) = options.instance {
            let member = self.members.iter().find(|member| member.instance() == Some(instance))?;
            connect(member);
            return options.allows(member.address()).then_some(member);
        }
        if let [only] = &self.members[..] {
            if !options.allows(only.address()) {
                return None;
            }
            if matches!(only.readiness(now), Readiness::Reconnect | Readiness::CoolingDown) {
                connect(only);
            }
            return Some(only);
        }
        if let Some(key) = options.sticky {
            return self.pick_sticky(key, options, now, connect);
        }
        if let Balance::Custom(balancer) = options.balance
            && let Some(member) = self.pick_custom(balancer, options, now, &mut connect)
        {
            return Some(member);
        }
        // A second attempt does not move the cursor. Otherwise a member whose calls fail would
        // always be first.
        let step = usize::from(options.tried.is_empty());
        let mut cursor = self.turns.take(step);
        let mut next = self.scheduled(cursor)?;
        if options.excluded.is_some() {
            // Turns of the one that is left out are skipped: the next one would have them all.
            for _ in 0..self.schedule.len() {
                if !options.excludes(next.address()) {
                    break;
                }
                cursor = if step > 0 { self.turns.take(step) } else { cursor.wrapping_add(1) };
                next = self.scheduled(cursor)?;
            }
        }
        if !is_ready(next, options, now) {
            if step > 0 && next.readiness(now) == Readiness::Reconnect {
                // It is connected for its next turn, which otherwise came a whole round later. It
                // is only once in this state, so no other member gets many turns in a row.
                self.turns.return_turn();
            }
            return self.pick_best(cursor, options, now, connect);
        }
        if matches!(options.balance, Balance::LeastInFlight) {
            return self.pick_least_in_flight(cursor, options, now);
        }
        Some(self.pick_of_two(cursor, next, options, now))
    }

    /// The member whose turn it is.
    fn scheduled(&self, cursor: usize) -> Option<&M> {
        self.members.get(*self.schedule.get(cursor % self.schedule.len().max(1))?)
    }

    /// Power of two choices: the next member of the schedule, which is ready, unless another random
    /// one is clearly cheaper.
    fn pick_of_two<'a>(
        &'a self,
        cursor: usize,
        next: &'a M,
        options: &PickOptions<'_, M::Address>,
        now: Instant,
    ) -> &'a M {
        let count = self.schedule.len();
        let overflows_zone = next.same_zone() && next.load().in_flight() >= ZONE_OVERFLOW;
        let starting = next.load().is_starting(now.into_std());
        if !overflows_zone && (count == 1 || (matches!(options.balance, Balance::RoundRobin) && !starting)) {
            return next;
        }
        let other = if overflows_zone {
            self.subset[fastrand::usize(..self.subset.len())]
        } else {
            // Never the same member: among few members it would often be drawn.
            self.schedule[(cursor % count + fastrand::usize(1..count)) % count]
        };
        let other = &self.members[other];
        let wins_slow_start = |one: &M, other: &M| {
            let (one, other, now) = (&one.load(), &other.load(), now.into_std());
            !one.is_starting(now) || one.wins_slow_start(other, now, fastrand::f64())
        };
        let yields_to_other = !overflows_zone && starting && !wins_slow_start(next, other);
        let picks_other =
            yields_to_other || (is_cheaper(other, next, options.balance, now) && wins_slow_start(other, next));
        if picks_other && is_ready(other, options, now) { other } else { next }
    }

    /// The best of all members, used when the next of the schedule is not ready. `connect` is
    /// called for members that should be connected again.
    fn pick_best(
        &self,
        cursor: usize,
        options: &PickOptions<'_, M::Address>,
        now: Instant,
        mut connect: impl FnMut(&M),
    ) -> Option<&M> {
        let count = self.subset.len();
        let in_turn = (0..count).map(|step| &self.members[self.subset[cursor.wrapping_add(step) % count]]);
        let rank_of = self.ranks(now);
        let mut best: Option<(Readiness, &M)> = None;
        for member in in_turn.filter(|member| options.allows(member.address())) {
            let rank = rank_of(member);
            if rank == Readiness::Reconnect {
                connect(member);
            }
            let better = best.is_none_or(|(so_far, known)| {
                rank < so_far || (rank == so_far && is_cheaper(member, known, options.balance, now))
            });
            if better {
                best = Some((rank, member));
            }
        }
        let (rank, member) = best?;
        if rank == Readiness::CoolingDown {
            // No better member is left. A refused connect costs less than a refused call.
            connect(member);
        }
        Some(member)
    }

    /// The member with the fewest calls in flight for its weight, among those with a live
    /// connection; members of our zone first, until they overflow.
    fn pick_least_in_flight(&self, cursor: usize, options: &PickOptions<'_, M::Address>, now: Instant) -> Option<&M> {
        let least = |positions: &[usize], not: Option<&M::Address>| {
            // The comparison starts at the next of the schedule, so that equal members are all
            // called.
            let (before, after) = positions.split_at(cursor % positions.len().max(1));
            let up = after.iter().chain(before).map(|at| &self.members[*at]).filter(|member| {
                let address = member.address();
                not != Some(address) && options.allows(address) && member.readiness(now) == Readiness::Ready
            });
            up.min_by_key(|member| member.load().load_per_weight(member.weight()))
        };
        let near = least(&self.schedule, None)?;
        if near.same_zone() && near.load().in_flight() >= ZONE_OVERFLOW {
            return least(&self.subset, None);
        }
        if near.load().is_starting(now.into_std())
            && let Some(other) = least(&self.schedule, Some(near.address()))
            && !near.load().wins_slow_start(other.load(), now.into_std(), fastrand::f64())
        {
            return Some(other);
        }
        Some(near)
    }

    /// Rendezvous hashing with bounded load: the member with the best score for the key, unless it
    /// has a quarter more calls in flight than the mean.
    fn pick_sticky(
        &self,
        key: &str,
        options: &PickOptions<'_, M::Address>,
        now: Instant,
        mut connect: impl FnMut(&M),
    ) -> Option<&M> {
        let allowed = || self.members.iter().filter(|member| options.allows(member.address()));
        let in_flight: u32 = allowed().map(|member| member.load().in_flight()).sum();
        let count = u32::try_from(allowed().count()).unwrap_or(u32::MAX).max(1);
        let most = (in_flight + 1).div_ceil(count) * 5 / 4 + 1;
        let rank_of = self.ranks(now);
        let ranked = allowed().map(|member| {
            let rank = rank_of(member);
            if rank == Readiness::Reconnect {
                connect(member);
            }
            let is_full = member.load().in_flight() >= most;
            let rank = member.sticky_readiness(rank);
            ((rank, is_full, std::cmp::Reverse(affinity::score(key, member.address()))), member)
        });
        let (rank, member) = ranked.min_by_key(|(rank, _)| *rank).map(|((rank, ..), member)| (rank, member))?;
        if rank == Readiness::CoolingDown {
            connect(member);
        }
        Some(member)
    }

    /// The member that `balancer` picks, if there is one with a live connection.
    fn pick_custom(
        &self,
        balancer: &dyn Balancer,
        options: &PickOptions<'_, M::Address>,
        now: Instant,
        connect: &mut impl FnMut(&M),
    ) -> Option<&M> {
        let rank_of = self.ranks(now);
        self.subset().filter(|member| rank_of(member) == Readiness::Reconnect).for_each(connect);
        let allowed = self.subset().filter(|member| options.allows(member.address()));
        let up: Vec<&M> = allowed.filter(|member| rank_of(member) == Readiness::Ready).collect();
        let first = *up.first()?;
        let candidates: Vec<Candidate<'_>> = up.iter().map(|member| candidate(*member)).collect();
        Some(up.get(balancer.pick(&candidates)).copied().unwrap_or(first))
    }

    /// The readiness of members when all are compared. When most are ejected, they are hardly at
    /// fault and the others could not bear the load, so none counts as ejected.
    fn ranks(&self, now: Instant) -> impl Fn(&M) -> Readiness + use<M> {
        let ejected = self.subset().filter(|member| member.readiness(now) == Readiness::Ejected).count();
        let panic = ejected * 2 > self.subset.len();
        move |member| match member.readiness(now) {
            Readiness::Ejected if panic => Readiness::Ready,
            rank => rank,
        }
    }
}

/// Whether a member has a live connection, and was not tried before.
fn is_ready<M: Member>(member: &M, options: &PickOptions<'_, M::Address>, now: Instant) -> bool {
    options.allows(member.address()) && member.readiness(now) == Readiness::Ready
}

/// Whether one member is clearly cheaper than another, or in our zone when the other is not.
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
        Balance::PowerOfTwo => {
            one.load().is_clearly_cheaper(one.weight(), other.load(), other.weight(), now.into_std())
        }
    }
}

fn candidate(member: &impl Member) -> Candidate<'_> {
    let load = member.load();
    let (address, unix_path) = member.candidate_address();
    Candidate {
        address,
        unix_path,
        instance: member.instance(),
        weight: member.weight(),
        in_flight: load.in_flight(),
        latency: load.latency(),
        same_zone: member.same_zone(),
    }
}
