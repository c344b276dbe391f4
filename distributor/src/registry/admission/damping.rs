//! Flap damping: a node that comes and goes too often is listed later.
//!
//! It works as in routers (RFC 2439): a short stay costs a penalty, which halves with time. Beyond
//! the cut-off, the next join waits until the penalty has fallen to the reuse threshold. A node
//! that stays for long, or joins for the first time, never waits. A sole provider waits only
//! briefly: without it, calls of its routes fail, which is worse than telling all nodes of it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::entries::NodeIdentity;
use crate::rate_limit::token_bucket::TokenBucket;

/// A stay of at least this is not too short.
const LONG_STAY_TIME: Duration = Duration::from_secs(16);
/// A penalty halves in this time.
const HALF_LIFE: Duration = Duration::from_secs(8);
/// The cut-off: after this many short stays, less those that have faded, the next join waits.
const CUT_OFF: f64 = 2.5;
/// The reuse threshold: the penalty at which a join waits no longer.
const REUSE: f64 = 1.0;
/// No penalty grows beyond this, so that no node waits longer than three half-lives.
const MAX_PENALTY: f64 = 8.0;
/// Identities that are remembered. Beyond this number, new flappers are not noticed until old ones
/// have faded.
const MAX_IDENTITIES: usize = 4096;
/// A penalty that is small enough to forget.
const FADED: f64 = 0.1;

/// A sole provider that comes and goes is listed at most once in this time.
pub(in crate::registry) const SOLE_PERIOD: Duration = Duration::from_secs(1);
/// How many sole providers that come and go are listed each second, after a burst: each costs all
/// nodes two changes, and anyone can offer a route that no other has. Further ones wait as others
/// do.
const SOLE_PER_SECOND: u32 = 10;
const SOLE_BURST: u32 = 20;

/// The penalties of identities: host, port and name.
#[derive(Debug)]
pub(crate) struct Damping {
    /// The key is a hash of the identity, because a name may be long.
    penalties: HashMap<u64, Penalty>,
    hasher: RandomState,
    sole_rate: TokenBucket,
}

#[derive(Debug)]
struct Penalty {
    height: f64,
    /// When it was that high.
    at: Instant,
    /// When the identity was, or will be, listed as a sole provider.
    sole_at: Option<Instant>,
}

impl Default for Damping {
    fn default() -> Self {
        let sole_rate = TokenBucket::new(SOLE_PER_SECOND, SOLE_BURST);
        Self { penalties: HashMap::new(), hasher: RandomState::new(), sole_rate }
    }
}

impl Damping {
    /// Records that a node has left after it was listed, or deferred, for `stay`.
    pub(crate) fn penalise(&mut self, now: Instant, identity: &NodeIdentity, stay: Duration) {
        if stay >= LONG_STAY_TIME {
            return;
        }
        let identity = self.hasher.hash_one(identity);
        if self.penalties.len() >= MAX_IDENTITIES && !self.penalties.contains_key(&identity) {
            self.penalties.retain(|_, penalty| penalty.faded(now) > FADED);
            if self.penalties.len() >= MAX_IDENTITIES {
                return;
            }
        }
        let penalty = self.penalties.entry(identity).or_insert(Penalty { height: 0.0, at: now, sole_at: None });
        (penalty.height, penalty.at) = ((penalty.faded(now) + 1.0).min(MAX_PENALTY), now);
    }

    /// How long a join of this identity must wait now.
    pub(crate) fn delay(&self, now: Instant, identity: &NodeIdentity) -> Option<Duration> {
        let penalty = self.penalties.get(&self.hasher.hash_one(identity))?.faded(now);
        // penalty × 2^(-t / half-life) = reuse
        (penalty > CUT_OFF).then(|| HALF_LIFE.mul_f64((penalty / REUSE).log2()))
    }

    /// How long a join of a sole provider of this identity must wait now. The decision holds for
    /// its next join, too.
    pub(crate) fn sole_delay(&mut self, now: Instant, identity: &NodeIdentity) -> Option<Duration> {
        let usual = self.delay(now, identity)?;
        let penalty = self.penalties.get_mut(&self.hasher.hash_one(identity))?;
        let at = match penalty.sole_at {
            Some(at) if at > now => at,
            before => {
                if self.sole_rate.try_spend(now).is_err() {
                    return Some(usual);
                }
                before.map_or(now, |before| now.max(before + SOLE_PERIOD))
            }
        };
        penalty.sole_at = Some(at);
        (at > now).then(|| usual.min(at - now))
    }
}

impl Penalty {
    fn faded(&self, now: Instant) -> f64 {
        let half_lives = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.height * (-half_lives).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn identity(name: &str) -> NodeIdentity {
        ("::1".into(), 1, name.into())
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn bc3_only_a_flapper_waits() {
        let (mut damping, start) = (Damping::default(), now());
        for (second, waits) in [(0, false), (1, false), (2, true)] {
            damping.penalise(start + SECOND * second, &identity("flapper"), SECOND);
            assert_eq!(damping.delay(start + SECOND * second, &identity("flapper")).is_some(), waits, "{second}");
        }
        assert_eq!(damping.delay(start + SECOND * 2, &identity("other")), None);
        let wait = damping.delay(start + SECOND * 2, &identity("flapper")).unwrap();
        assert!((SECOND * 11..SECOND * 13).contains(&wait), "{wait:?}");
        assert_eq!(damping.delay(start + SECOND * 2 + wait, &identity("flapper")), None);
    }

    #[test]
    fn long_stays_and_rare_restarts_cost_nothing() {
        let (mut damping, start) = (Damping::default(), now());
        for round in 0..100 {
            damping.penalise(start + SECOND * round, &identity("forked"), LONG_STAY_TIME);
            assert_eq!(damping.delay(start + SECOND * round, &identity("forked")), None);
            damping.penalise(start + SECOND * round * 6, &identity("cron"), SECOND);
            assert_eq!(damping.delay(start + SECOND * round * 6, &identity("cron")), None, "{round}");
        }
    }

    #[test]
    fn no_node_waits_longer_than_three_half_lives() {
        let (mut damping, start) = (Damping::default(), now());
        for _ in 0..10_000 {
            damping.penalise(start, &identity("flapper"), SECOND);
        }
        assert_eq!(damping.delay(start, &identity("flapper")), Some(HALF_LIFE * 3));
    }

    #[test]
    fn identities_are_remembered_up_to_a_limit_until_they_fade() {
        let (mut damping, start) = (Damping::default(), now());
        for number in 0..=MAX_IDENTITIES {
            damping.penalise(start, &identity(&number.to_string()), SECOND);
        }
        assert_eq!(damping.penalties.len(), MAX_IDENTITIES);
        damping.penalise(start + SECOND * 60, &identity("late"), SECOND);
        assert_eq!(damping.penalties.len(), 1);
    }

    #[test]
    fn a13_a_sole_provider_waits_a_second_at_most() {
        let (mut damping, start) = (Damping::default(), now());
        let at = |ms| start + Duration::from_millis(ms);
        let me = identity("goods");
        assert_eq!(damping.sole_delay(start, &me), None, "it has not come and gone");
        (0..4).for_each(|_| damping.penalise(start, &me, SECOND));
        for (ms, waits) in [(100, 0), (200, 900), (1000, 100), (1100, 1000), (1200, 900), (2200, 900), (9000, 0)] {
            let wait = damping.sole_delay(at(ms), &me).unwrap_or_default();
            assert_eq!(wait, Duration::from_millis(waits), "{ms}");
        }
    }

    #[test]
    fn a13_sole_providers_that_come_and_go_are_listed_at_a_rate() {
        let (mut damping, start) = (Damping::default(), now());
        let names: Vec<NodeIdentity> = (0..200).map(|number| identity(&number.to_string())).collect();
        let mut listed = 0;
        for tenth in 0..100 {
            let now = start + SECOND / 10 * tenth;
            for name in &names {
                (0..4).for_each(|_| damping.penalise(now, name, SECOND));
                // A wait is for one more listing; those who wait as others do are not yet listed.
                listed += u32::from(damping.sole_delay(now, name).is_none());
            }
        }
        assert!((SOLE_BURST..=SOLE_BURST + 10 * SOLE_PER_SECOND).contains(&listed), "{listed}");
    }
}
