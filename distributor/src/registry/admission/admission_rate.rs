//! How many nodes may register in a time, and when the others come back.

use std::time::{Duration, Instant};

use crate::rate_limit::spread::Spread;
use crate::rate_limit::token_bucket::TokenBucket;

/// No node is told to wait longer. Nodes of earlier versions wait up to twice as long as they are
/// told, and a peer that has not registered for five seconds is cut.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The shortest wait while admitted nodes wait for their lists: the time in which a few hundred get
/// them.
const CROWDED_WAIT: Duration = Duration::from_millis(250);

/// A rate limit that tells each refused node another time to come back.
#[derive(Debug)]
pub(in crate::registry) struct AdmissionRate {
    bucket: TokenBucket,
    waits: Spread,
}

impl AdmissionRate {
    pub(in crate::registry) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { bucket: TokenBucket::new(per_second, burst), waits: Spread::new(interval, MAX_WAIT) }
    }

    /// Lets a node register, or says after how long it should try again. While it `is_crowded`, no
    /// node may.
    pub(in crate::registry) fn try_admit(&mut self, now: Instant, is_crowded: bool) -> Result<(), Duration> {
        let earliest = match self.bucket.try_spend(now) {
            _ if is_crowded => CROWDED_WAIT,
            Ok(()) => return Ok(()),
            Err(wait) => wait,
        };
        Err(self.waits.next_wait(now, earliest))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Lets `nodes` begin at once, each of which comes back when it is told to. Returns how many
    /// were turned away, and when the last has registered, in milliseconds.
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn start_at_once(nodes: u32) -> (u32, u128) {
        let start = Instant::now();
        let mut rate = AdmissionRate::new(5000, 2000);
        let (mut due, mut refused, mut last) = (BTreeMap::from([(Duration::ZERO, nodes)]), 0, Duration::ZERO);
        while let Some((at, nodes)) = due.pop_first() {
            for _ in 0..nodes {
                match rate.try_admit(start + at, false) {
                    Ok(()) => last = at,
                    Err(wait) => {
                        refused += 1;
                        // On the wire there are whole milliseconds.
                        let ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap();
                        *due.entry(at + Duration::from_millis(ms)).or_default() += 1;
                    }
                }
            }
        }
        (refused, last.as_millis())
    }

    #[test]
    fn nodes_that_start_at_once_are_turned_away_once() {
        for (nodes, max_refused, longest) in [(2000, 0, 0), (2001, 1, 1), (10_000, 8200, 1650), (12_000, 10_200, 2050)]
        {
            let (refused, last) = start_at_once(nodes);
            assert!(refused <= max_refused, "{refused} times is one of {nodes} turned away");
            assert!(last <= longest, "the last of {nodes} registers after {last} ms");
        }
    }

    #[test]
    fn no_node_waits_longer_however_many_ask() {
        let (refused, last) = start_at_once(100_000);
        assert!(last <= 19_700, "the rate is used: {last} ms");
        assert!(refused <= 1_200_000, "each is turned away a few times: {refused}");
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        let now = Instant::now();
        let mut rate = AdmissionRate::new(1, 1);
        let waits: Vec<_> = (0..10).map(|_| rate.try_admit(now, false).err().unwrap_or_default().as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 1, 2, 1, 2, 1, 2, 1]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn while_it_is_crowded_no_node_registers() {
        let mut rate = AdmissionRate::new(10, 100);
        let now = Instant::now();
        let waits: Vec<_> = (0..4).map(|_| rate.try_admit(now, true).err().unwrap_or_default().as_millis()).collect();
        assert_eq!(waits, [250, 350, 450, 550], "each has a moment of its own");
        assert_eq!(rate.try_admit(now, false), Ok(()));
    }
}
