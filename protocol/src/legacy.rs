//! What keeps old peers alive that cannot bear a packet split over two reads.

use std::time::{Duration, Instant};

/// Most bytes that one read of an old peer takes: 65,536 arrive whole, 65,600 kill it.
pub const LEGACY_READ_BYTES: usize = 65_536;

/// Counts what was written to an old peer and may not be read yet, and says when more may follow.
///
/// Nothing that an old peer sends tells what it has read, and neither does TCP, whose acknowledgements come from the
/// kernel. Whoever can see the peer's end says so by [`settle`](Self::settle), and the count is exact. For other peers there
/// is only a guess: that everything is read once some time has passed without a write. One that stands still for longer
/// while packets flow can find more than one read's worth when it goes on.
#[derive(Clone, Debug)]
pub struct ReadWindow {
    max_unread_bytes: usize,
    /// `None`: the peer's end is looked at.
    read_time: Option<Duration>,
    unread: usize,
    written: u64,
    read: u64,
    last_write: Option<Instant>,
}

impl ReadWindow {
    /// A window of `max_unread_bytes` towards a peer that, as a guess, reads within `read_time`; `None` when its end can be
    /// looked at.
    pub fn new(max_unread_bytes: usize, read_time: Option<Duration>) -> Self {
        Self { max_unread_bytes, read_time, unread: 0, written: 0, read: 0, last_write: None }
    }

    /// Whether `bytes` more may be written now.
    ///
    /// More bytes than the whole window never fit beside others: they go alone, and it is for the caller to avoid that.
    ///
    /// # Errors
    /// [`WindowFull`] says what to wait for.
    pub fn admit(&mut self, now: Instant, bytes: usize) -> Result<(), WindowFull> {
        let all_read = self.read_time.zip(self.last_write).map(|(read_time, last_write)| last_write + read_time);
        if all_read.is_some_and(|all_read| now >= all_read) {
            self.unread = 0;
        }
        if self.unread == 0 || self.unread + bytes <= self.max_unread_bytes {
            return Ok(());
        }
        Err(all_read.map_or(WindowFull::PollPeer, WindowFull::Until))
    }

    /// Counts `bytes` as written at `now`.
    pub fn record_write(&mut self, now: Instant, bytes: usize) {
        self.unread = self.unread.saturating_add(bytes);
        self.written += bytes as u64;
        self.last_write = Some(now);
    }

    /// Everything written so far. Ask before looking at the peer's end.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The peer's end was seen, after `written` bytes: it had at most `unread` of them before it. Returns whether it has read
    /// anything since the last time.
    pub fn confirm_read(&mut self, written: u64, unread: usize) -> bool {
        let since = usize::try_from(self.written.saturating_sub(written)).unwrap_or(usize::MAX);
        self.unread = unread.saturating_add(since);
        let read = written.saturating_sub(unread as u64);
        let goes_on = read > self.read;
        self.read = self.read.max(read);
        goes_on
    }

    /// The peer's end cannot be seen after all.
    pub fn fall_back_to_time(&mut self, read_time: Duration) {
        self.read_time = Some(read_time);
    }
}

/// An old peer may not have read enough yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowFull {
    /// At this time everything counts as read.
    Until(Instant),
    /// Look at the peer's end and settle.
    PollPeer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn never_more_than_one_read_is_unread() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = ReadWindow::new(100, Some(Duration::from_millis(50)));
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
            assert_eq!(admitted.err(), expected.map(|ms| WindowFull::Until(at(ms))), "{ms}");
            if admitted.is_ok() {
                window.record_write(at(ms), bytes);
            }
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn what_is_seen_is_not_guessed() {
        let start = Instant::now();
        let mut window = ReadWindow::new(100, None);
        window.record_write(start, 100);
        let later = start + Duration::from_secs(60);
        assert_eq!(window.admit(later, 1), Err(WindowFull::PollPeer), "a minute means nothing");
        assert!(window.confirm_read(100, 40) && !window.confirm_read(100, 40), "it has read 60, and then nothing");
        assert_eq!(window.admit(later, 60), Ok(()));
        assert!(window.admit(later, 61).is_err());
        let mark = window.written();
        window.record_write(later, 30);
        window.confirm_read(mark, 0);
        assert!(window.admit(later, 71).is_err(), "what was written while somebody looked is not read");
        assert_eq!(window.admit(later, 70), Ok(()));
    }
}
