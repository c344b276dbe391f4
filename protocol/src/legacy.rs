//! What keeps old peers alive that cannot bear a packet split over two reads.

use std::time::{Duration, Instant};

/// Most bytes that one read of an old peer takes: 65,536 arrive whole, 65,600 kill it.
pub const LEGACY_READ_BYTES: usize = 65_536;

/// Guesses how much of what was written an old peer has not read yet, and says when more may follow.
///
/// Nothing that an old peer sends tells what it has read, and neither does TCP, whose acknowledgements come from the
/// kernel. So a peer counts as having read everything once `read_time` has passed without a write to it. A peer that
/// stands still for longer than that while packets flow can find more than one read's worth when it goes on.
#[derive(Clone, Debug)]
pub struct ReadWindow {
    max_unread_bytes: usize,
    read_time: Duration,
    unread: usize,
    last_write: Option<Instant>,
}

impl ReadWindow {
    /// A window of `max_unread_bytes` towards a peer that reads within `read_time`.
    pub fn new(max_unread_bytes: usize, read_time: Duration) -> Self {
        Self { max_unread_bytes, read_time, unread: 0, last_write: None }
    }

    /// Whether `bytes` more may be written now; if not, when to ask again.
    ///
    /// More bytes than the whole window never fit beside others: they go alone, and it is for the caller to avoid that.
    ///
    /// # Errors
    /// The time at which everything counts as read.
    pub fn admit(&mut self, now: Instant, bytes: usize) -> Result<(), Instant> {
        let Some(last_write) = self.last_write else { return Ok(()) };
        let all_read = last_write + self.read_time;
        if now >= all_read {
            self.unread = 0;
        }
        if self.unread == 0 || self.unread + bytes <= self.max_unread_bytes { Ok(()) } else { Err(all_read) }
    }

    /// Counts `bytes` as written at `now`.
    pub fn wrote(&mut self, now: Instant, bytes: usize) {
        self.unread = self.unread.saturating_add(bytes);
        self.last_write = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn never_more_than_one_read_is_unread() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = ReadWindow::new(100, Duration::from_millis(50));
        // (at ms, bytes, expected: None = written, Some(ms) = try again then)
        for (ms, bytes, expected) in [
            (0, 60, None),
            (1, 40, None),
            (2, 1, Some(51)),
            (50, 1, Some(51)),
            (51, 99, None),
            (52, 1, None),
            (53, 1, Some(102)),
            (102, 500, None),
            (103, 1, Some(152)),
        ] {
            let admitted = window.admit(at(ms), bytes);
            assert_eq!(admitted.err(), expected.map(at), "{ms}");
            if admitted.is_ok() {
                window.wrote(at(ms), bytes);
            }
        }
    }
}
