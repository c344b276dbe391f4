//! The budget for frames that no call waits for. Without a clock.

use std::time::{Duration, Instant};

/// A budget for frames that are not a response, part or credit that is due: invented keys,
/// nonsense, empty frames. Reading them costs time on the caller's thread. The budget refills with
/// time and with useful frames. When a node exceeds it, its connection is closed, and the node is
/// called again after a cool-down, which doubles each time.
///
/// The budget lasts as long as the node is known, over all its connections.
#[derive(Clone, Debug)]
pub(crate) struct UnexpectedFrames {
    /// The points that are left.
    budget: u64,
    refilled: Instant,
    /// When the budget was last used up, and the cool-down after that.
    closed: Option<Instant>,
    cool_down: Duration,
}

/// The points of a packet, and how many bytes cost one more point.
const PACKET: u64 = 1;
const BYTES_PER_POINT: usize = 8 * 1024;
/// Points a second: more than a correct node uses, and reading that many costs almost nothing.
const PER_SECOND: u64 = 200;
/// Maximum number of points: a burst of duplicate responses, or one packet of the largest size.
const BURST: u64 = 2000;
/// The first cool-down, and the longest.
const FIRST_COOL_DOWN_TIME: Duration = Duration::from_secs(1);
const MAX_COOL_DOWN_TIME: Duration = Duration::from_secs(30);
/// After this time without a cool-down, the next one is as short as the first again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(120);

/// The points of a packet of this size.
pub(crate) fn cost_of(bytes: usize) -> u64 {
    PACKET + (bytes / BYTES_PER_POINT) as u64
}

impl UnexpectedFrames {
    pub(crate) fn new(now: Instant) -> Self {
        Self { budget: BURST, refilled: now, closed: None, cool_down: Duration::ZERO }
    }

    /// Spends points for unexpected frames. Each useful packet may be accompanied by one. Returns
    /// whether the budget allows them.
    pub(crate) fn try_spend(&mut self, now: Instant, points: u64, useful: u64) -> bool {
        let refill =
            (now.saturating_duration_since(self.refilled).as_millis() as u64).saturating_mul(PER_SECOND) / 1000;
        if refill > 0 {
            self.refilled = now;
        }
        self.budget = self.budget.saturating_add(refill).saturating_add(useful).min(BURST);
        let fits = points <= self.budget;
        self.budget = self.budget.saturating_sub(points);
        fits
    }

    /// Records that the connection is closed because of unexpected frames. Returns the cool-down.
    pub(crate) fn close(&mut self, now: Instant) -> Duration {
        let is_forgiven = self.closed.is_none_or(|closed| now.saturating_duration_since(closed) >= FORGIVEN_AFTER);
        self.cool_down = if is_forgiven { FIRST_COOL_DOWN_TIME } else { (self.cool_down * 2).min(MAX_COOL_DOWN_TIME) };
        self.closed = Some(now);
        self.cool_down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn start() -> Instant {
        Instant::now()
    }

    /// For how many milliseconds the budget lasts when each brings the same frames.
    #[track_caller]
    fn check(points: u64, useful: u64, milliseconds: u64, lasts: u64) {
        let start = start();
        let mut unexpected = UnexpectedFrames::new(start);
        let lasted = (0..milliseconds)
            .take_while(|millisecond| unexpected.try_spend(start + Duration::from_millis(*millisecond), points, useful))
            .count() as u64;
        assert_eq!(lasted, lasts);
    }

    #[test]
    fn useless_frames_have_a_budget() {
        check(1, 0, 60_000, 2499);
        check(100, 0, 1000, 20);
        check(2001, 0, 1, 0);
        // One frame in five milliseconds is refilled as fast as it is used.
        check(0, 0, 60_000, 60_000);
        // Each response may be accompanied by one, as from nodes that end packets twice.
        check(100, 100, 60_000, 60_000);
        check(200, 100, 60_000, 19);
    }

    #[test]
    fn bytes_cost_too() {
        assert_eq!([0, 100, 8191, 8192, 8 << 20].map(cost_of), [1, 1, 1, 2, 1025]);
        assert!(cost_of(8 << 20) < BURST, "one packet of the largest size is allowed");
    }

    #[test]
    fn each_cool_down_doubles_until_a_long_quiet_time() {
        let start = start();
        let mut unexpected = UnexpectedFrames::new(start);
        let cool_downs: Vec<_> = (0..7).map(|_| unexpected.close(start).as_secs()).collect();
        assert_eq!(cool_downs, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(unexpected.close(start + FORGIVEN_AFTER), FIRST_COOL_DOWN_TIME);
    }
}
