//! The wait before the next attempt to connect to a node. Without a clock.

use std::time::Duration;

/// The wait doubles from attempt to attempt up to a limit, with a random part so that many callers
/// do not connect at once.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// A node that restarts is back after about this time.
    const FIRST: Duration = Duration::from_millis(100);
    /// A node that is gone for longer disappears from the list sooner or later.
    const MAX: Duration = Duration::from_secs(3);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The wait after one more failure; `chance` is from 0 to 1.
    pub(crate) fn record_failure(&mut self, chance: f64) -> Duration {
        let wait = self.next.mul_f64(0.5 + chance / 2.0);
        self.next = (self.next * 2).min(Self::MAX);
        wait
    }

    pub(crate) fn succeeded(&mut self) {
        self.next = Self::FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..7).map(|_| backoff.record_failure(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3000, 3000]);
        backoff.succeeded();
        assert_eq!(backoff.record_failure(0.0), Duration::from_millis(50));
    }
}
