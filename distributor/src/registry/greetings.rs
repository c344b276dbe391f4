//! When silent peers are sent the list.

use std::time::{Duration, Instant};

/// Silent peers that are greeted at once. Few peers are silent: gateways of version 1. When many
/// are, they are nodes on busy machines that have not registered yet, and the list of up to 64 KiB
/// is useless to them.
const BURST: u32 = 100;
/// The time between two further greetings: they take a few MB in a second.
const INTERVAL: Duration = Duration::from_millis(10);
/// No silent peer waits longer, however many there are: a gateway of version 1 may be one of them.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// Gives each silent peer a moment for its greeting.
#[derive(Debug, Default)]
pub(crate) struct Greetings {
    /// The time at which a whole burst may be greeted at once again.
    whole_at: Option<Instant>,
}

impl Greetings {
    /// When a peer whose greeting is due at `now` is greeted.
    pub(super) fn assign_greeting_time(&mut self, now: Instant) -> Instant {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now)) + INTERVAL;
        let wait = whole_at.saturating_duration_since(now + INTERVAL * BURST);
        if wait > MAX_WAIT {
            return now + MAX_WAIT;
        }
        self.whole_at = Some(whole_at);
        now + wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the last of this many silent peers waits, and then one that comes after this time.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn check(peers: u32, last: Duration, later: Duration, one: Duration) {
        let (now, mut greetings) = (Instant::now(), Greetings::default());
        let waits: Vec<_> = (0..peers).map(|_| greetings.assign_greeting_time(now) - now).collect();
        assert!(waits.is_sorted(), "in the order of their coming");
        assert_eq!(waits.last(), Some(&last), "{peers}");
        assert_eq!(greetings.assign_greeting_time(now + later) - (now + later), one, "{peers}");
    }

    #[test]
    fn few_silent_peers_are_greeted_at_once_and_none_waits_for_long() {
        let none = Duration::ZERO;
        check(1, none, none, none);
        check(BURST - 1, none, none, none);
        check(BURST, none, none, INTERVAL);
        check(BURST, none, INTERVAL, none);
        check(BURST + 7, 7 * INTERVAL, none, 8 * INTERVAL);
        check(BURST + 300, MAX_WAIT, none, MAX_WAIT);
        check(10_000, MAX_WAIT, none, MAX_WAIT);
        check(10_000, MAX_WAIT, MAX_WAIT + INTERVAL, none);
    }
}
