//! Moments for peers that are told to come back, one for each.

use std::time::{Duration, Instant};

/// Tells each peer that is turned away another time to come back. If all were told the same time,
/// all would come back then. To turn thousands away again and again costs more than to serve them.
#[derive(Debug)]
pub(crate) struct Spread {
    /// The time between two peers.
    interval: Duration,
    /// No peer is told to wait longer, unless nothing can be done for it earlier.
    max_wait: Duration,
    /// The last moment that was given away.
    last: Option<Instant>,
}

impl Spread {
    pub(crate) fn new(interval: Duration, max_wait: Duration) -> Self {
        Self { interval, max_wait, last: None }
    }

    /// How long the next peer waits: at least as long as `earliest`.
    pub(crate) fn next_wait(&mut self, now: Instant, earliest: Duration) -> Duration {
        let next = self.last.map_or(Duration::ZERO, |last| (last + self.interval).saturating_duration_since(now));
        // Peers that try again and again must not make others wait longer and longer.
        let wait = if next <= self.max_wait { next.max(earliest) } else { earliest };
        self.last = Some(now + wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn each_peer_has_a_moment_of_its_own_and_none_waits_for_long() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut spread = Spread::new(ms(2), ms(10));
        let waits: Vec<_> = (0..6).map(|_| spread.next_wait(now, ms(3)).as_millis()).collect();
        assert_eq!(waits, [3, 5, 7, 9, 3, 5]);
        assert_eq!(spread.next_wait(now + ms(100), ms(1)), ms(1));
    }
}
