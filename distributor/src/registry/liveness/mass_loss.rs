//! Detects mass loss: when many nodes vanish at once without a FIN, the network is a likelier cause
//! than the nodes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time in which losses count together: one reconnect period.
const WINDOW: Duration = Duration::from_secs(3);
/// This many nodes may vanish whatever their share is: a small mesh on one machine may vanish as a
/// whole.
const MAX_USUAL_LOSSES: usize = 8;
/// A loss of a third (1 / this) of the listed nodes or more is a mass loss.
const MASS_DIVISOR: usize = 3;

/// The last nodes that vanished without a FIN.
#[derive(Debug, Default)]
pub(crate) struct MassLoss {
    times: VecDeque<Instant>,
}

impl MassLoss {
    /// Records that one more of `listed` nodes has vanished. Returns whether too many have.
    pub(crate) fn record_loss(&mut self, now: Instant, listed: usize) -> bool {
        while self.times.front().is_some_and(|time| *time + WINDOW <= now) {
            self.times.pop_front();
        }
        let before = listed + self.times.len();
        let is_mass = self.times.len() >= MAX_USUAL_LOSSES.max(before / MASS_DIVISOR);
        if !is_mass {
            // Retained nodes stay listed, so they need not be added.
            self.times.push_back(now);
        }
        is_mass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_third_of_all_within_a_period_is_a_mass() {
        let start = Instant::now();
        for (nodes, believed) in [(5, 5), (8, 8), (9, 8), (24, 8), (30, 10), (3000, 1000)] {
            let mut losses = MassLoss::default();
            let gone = (0..nodes).filter(|gone| !losses.record_loss(start, nodes - gone)).count();
            assert_eq!(gone, believed, "{nodes}");
            assert!(!losses.record_loss(start + WINDOW, 1), "a period later, another loss is believed");
        }
    }
}
