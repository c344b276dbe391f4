//! How long the calls of one connection have waited on the way, without synchronized clocks.

use std::time::Duration;

use tokio::time::Instant;

/// The clocks of two machines drift by less than this, in parts per million.
const DRIFT_PPM: u32 = 100;

/// No connection is older than this. A larger time is ignored.
const MAX_AGE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Estimates the queue delay of calls: the fastest call so far shows when, by our clock, the
/// caller's clock was at zero.
#[derive(Debug, Default)]
pub(crate) struct QueueDelay {
    baseline: Option<(Instant, Instant)>,
}

impl QueueDelay {
    /// How much longer than the fastest call a call was on its way. It was sent at `sent`, by the
    /// caller's clock, and read at `received`. Waiting in the buffers of an overloaded node shows
    /// here.
    pub(crate) fn delay(&mut self, received: Instant, sent: Duration) -> Duration {
        let Some(zero) = received.checked_sub(sent).filter(|_| sent < MAX_AGE) else { return Duration::ZERO };
        let known = match self.baseline {
            None => zero,
            // The clocks may have drifted since the fastest call.
            Some((known, at)) => (known + received.saturating_duration_since(at) * DRIFT_PPM / 1_000_000).min(zero),
        };
        self.baseline = Some((known, received));
        zero.saturating_duration_since(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_slower_than_the_fastest_have_waited() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut queue_delay = QueueDelay::default();
        let mut delay = |received, sent| {
            let delay = queue_delay.delay(start + Duration::from_millis(received), Duration::from_millis(sent));
            (delay.as_micros() + 500) / 1000
        };
        assert_eq!(delay(100, 0), 0, "the first call is the fastest");
        assert_eq!(delay(150, 20), 30);
        assert_eq!(delay(160, 80), 0, "a faster call");
        assert_eq!(delay(250, 90), 80);
        // An hour later, with a clock that is slow by 50 parts per million.
        assert_eq!(delay(3_600_250, 3_600_000), 0);
        assert_eq!(delay(3_601_250, 3_600_000), 1000);
        assert_eq!(delay(3_601_250, u64::MAX), 0, "nonsense");
        assert_eq!(delay(3_602_250, 3_601_000), 1000, "it does not become the fastest");
    }
}
