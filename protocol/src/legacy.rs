//! The read window of version 1 peers: they fail when a packet is split over two reads, so no more
//! is written to them than one read takes.

use std::time::{Duration, Instant};

/// Maximum bytes that one read of a version 1 peer takes. A packet of 65,536 bytes arrives whole;
/// one of 65,600 crashes the peer.
pub const LEGACY_READ_BYTES: usize = 65_536;

/// Counts the bytes that a version 1 peer may not have read yet, and says when more may be written.
///
/// A version 1 peer does not say how much it has read, and neither does TCP, whose acknowledgements
/// come from the kernel. If the peer's socket can be observed, [`confirm_read`](Self::confirm_read)
/// keeps the count exact. For other peers the window assumes that everything is read once some time
/// has passed without a write. A peer that stands still for longer can then find more than one read
/// takes.
#[derive(Clone, Debug)]
pub struct ReadWindow {
    max_unread_bytes: usize,
    /// `None` when the peer's socket is observed.
    read_time: Option<Duration>,
    unread: usize,
    written: u64,
    read: u64,
    last_write: Option<Instant>,
}

impl ReadWindow {
    /// A window of `max_unread_bytes` for a peer that is assumed to read within `read_time`. `None`
    /// when the peer's socket can be observed.
    pub fn new(max_unread_bytes: usize, read_time: Option<Duration>) -> Self {
        Self { max_unread_bytes, read_time, unread: 0, written: 0, read: 0, last_write: None }
    }

    /// Sets how many bytes the peer may have unread from now on.
    pub fn set_max_unread_bytes(&mut self, bytes: usize) {
        self.max_unread_bytes = bytes;
    }

    /// Checks that `bytes` more may be written now.
    ///
    /// More bytes than the whole window are admitted when nothing else is unread. The caller should
    /// avoid such writes.
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

    /// All bytes written so far. Call it before observing the peer's socket.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The bytes that the peer is known to have read, of [`written`](Self::written). `None` when
    /// its socket cannot be observed.
    pub fn read(&self) -> Option<u64> {
        self.read_time.is_none().then_some(self.read)
    }

    /// Records that the peer had at most `unread` bytes unread when `written` had been written.
    /// Returns whether the peer has read anything since the last call.
    pub fn confirm_read(&mut self, written: u64, unread: usize) -> bool {
        let since = usize::try_from(self.written.saturating_sub(written)).unwrap_or(usize::MAX);
        self.unread = unread.saturating_add(since);
        let read = written.saturating_sub(unread as u64);
        let goes_on = read > self.read;
        self.read = self.read.max(read);
        goes_on
    }

    /// Uses `read_time` from now on, because the peer's socket cannot be observed after all.
    pub fn fall_back_to_time(&mut self, read_time: Duration) {
        self.read_time = Some(read_time);
    }
}

/// The condition for the next write to a version 1 peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowFull {
    /// Wait until this time, when everything counts as read.
    Until(Instant),
    /// Wait until the peer's socket shows less, which [`ReadWindow::confirm_read`] records.
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
        // (at ms, bytes, expected: None = written, Some(ms) = try again at ms)
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
    fn observed_reads_are_not_estimated() {
        let start = Instant::now();
        let mut window = ReadWindow::new(100, None);
        window.record_write(start, 100);
        let later = start + Duration::from_secs(60);
        assert_eq!(window.admit(later, 1), Err(WindowFull::PollPeer), "time does not matter");
        assert!(window.confirm_read(100, 40) && !window.confirm_read(100, 40), "it has read 60, and then nothing");
        assert_eq!(window.admit(later, 60), Ok(()));
        assert!(window.admit(later, 61).is_err());
        let mark = window.written();
        window.record_write(later, 30);
        window.confirm_read(mark, 0);
        assert!(window.admit(later, 71).is_err(), "what was written after the observation is not read");
        assert_eq!(window.admit(later, 70), Ok(()));
    }
}
