//! How fast one client may send messages.

use std::time::{Duration, Instant};

/// The time between two messages in the long run: 50 a second, more than people type or games send.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(20);
/// How much sooner a message may come after a pause: 100 messages at once.
const BURST_TIME: Duration = Duration::from_secs(2);

/// The pace of one client's messages. One that sends more is read more slowly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessagePace {
    /// When the next message would be due without a burst.
    due: Instant,
}

impl MessagePace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// Counts a message. Returns how long it has to wait.
    pub(crate) fn count(&mut self, now: Instant) -> Duration {
        let due = self.due.max(now);
        self.due = due + MESSAGE_INTERVAL;
        (due - now).saturating_sub(BURST_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_a_flood_is_slowed_down() {
        let start = tokio::time::Instant::now().into_std();
        let mut pace = MessagePace::new(start);
        let free = (0..1000).take_while(|_| pace.count(start).is_zero()).count();
        assert_eq!(free, 101);
        assert_eq!(pace.count(start), 2 * MESSAGE_INTERVAL);
        // After a pause there is a burst again, and no more than one.
        let later = start + Duration::from_secs(60);
        let free = (0..1000).take_while(|_| pace.count(later).is_zero()).count();
        assert_eq!(free, 101);
    }
}
