//! Flap damping: a node that comes and goes too often is listed later.
//!
//! It works as in routers (RFC 2439): a short stay costs a penalty, which halves with time. Beyond
//! the cut-off, the next join waits until the penalty has fallen to the reuse threshold. A node
//! that stays for long, or joins for the first time, never waits.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::entries::NodeIdentity;

/// A stay of at least this is not too short.
const LONG_STAY: Duration = Duration::from_secs(16);
/// A penalty halves in this time.
const HALF_LIFE: Duration = Duration::from_secs(8);
/// The cut-off: after this many short stays, less what has faded, the next join waits.
const CUT_OFF: f64 = 2.5;
/// The reuse threshold: the penalty at which a join waits no longer.
const REUSE: f64 = 1.0;
/// No penalty grows beyond this, so that no node waits longer than three half-lives.
const MOST: f64 = 8.0;
/// Identities that are remembered. Beyond this number, new flappers are not noticed until old ones
/// have faded.
const MAX_IDENTITIES: usize = 4096;
/// A penalty that is small enough to forget.
const FADED: f64 = 0.1;

/// The penalties of identities: host, port and name.
#[derive(Debug, Default)]
pub(crate) struct Damping {
    /// By a hash of the identity, as its name may be long.
    penalties: HashMap<u64, (f64, Instant)>,
    hasher: RandomState,
}

impl Damping {
    /// Records that a node has left that was listed, or deferred, for `stay`.
    pub(crate) fn penalise(&mut self, now: Instant, identity: &NodeIdentity, stay: Duration) {
        if stay >= LONG_STAY {
            return;
        }
        let identity = self.hasher.hash_one(identity);
        if self.penalties.len() >= MAX_IDENTITIES && !self.penalties.contains_key(&identity) {
            self.penalties.retain(|_, penalty| faded(*penalty, now) > FADED);
            if self.penalties.len() >= MAX_IDENTITIES {
                return;
            }
        }
        let penalty = self.penalties.entry(identity).or_insert((0.0, now));
        *penalty = ((faded(*penalty, now) + 1.0).min(MOST), now);
    }

    /// How long a join of this identity must wait now.
    pub(crate) fn delay(&self, now: Instant, identity: &NodeIdentity) -> Option<Duration> {
        let penalty = faded(*self.penalties.get(&self.hasher.hash_one(identity))?, now);
        // penalty × 2^(-t / half-life) = reuse
        (penalty > CUT_OFF).then(|| HALF_LIFE.mul_f64((penalty / REUSE).log2()))
    }
}

fn faded((penalty, since): (f64, Instant), now: Instant) -> f64 {
    let half_lives = now.saturating_duration_since(since).as_secs_f64() / HALF_LIFE.as_secs_f64();
    penalty * (-half_lives).exp2()
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
            damping.penalise(start + SECOND * round, &identity("forked"), LONG_STAY);
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
}
