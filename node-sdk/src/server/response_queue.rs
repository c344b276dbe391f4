//! Responses that wait to be written to one caller, without I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use protocol::{ReadWindow, Version, WindowFull};

use crate::error::ServiceError;
use crate::handler::response_sink::{ResponseSink, ReturnPath};

/// An estimate: a version 1 caller on another machine that sends calls also reads within this time.
pub(super) const LEGACY_READ_TIME: Duration = Duration::from_millis(50);

/// A larger buffer is not reused.
const USUAL_BATCH_BYTES: usize = 64 * 1024;

/// Responses to one caller. Those of version 2 leave in one write; those of version 1 one by one,
/// and never more than the caller can read at once.
#[derive(Debug)]
pub(crate) struct ResponseQueue {
    batch: BytesMut,
    legacy: VecDeque<Bytes>,
    legacy_bytes: usize,
    window: ReadWindow,
    remainder: Bytes,
    /// The capacity of `remainder`: all of it stays allocated.
    remainder_capacity: usize,
}

/// The next step for the caller's socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteStep {
    /// Write these bytes, and record how many were taken.
    Write(Bytes),
    /// A version 1 caller is still reading: wait for this.
    WaitFor(WindowFull),
    /// Nothing waits.
    Done,
}

impl ResponseQueue {
    /// `can_see`: this process can observe how much the caller has read. `legacy_bytes`: how many
    /// unread bytes a caller of version 1 may have.
    pub(crate) fn new(can_see: bool, legacy_bytes: usize) -> Self {
        let read_time = (!can_see).then_some(LEGACY_READ_TIME);
        Self {
            batch: BytesMut::new(),
            legacy: VecDeque::new(),
            legacy_bytes: 0,
            window: ReadWindow::new(legacy_bytes, read_time),
            remainder: Bytes::new(),
            remainder_capacity: 0,
        }
    }

    /// Sets how many bytes a caller of version 1 may have unread from now on.
    pub(crate) fn set_read_window(&mut self, bytes: usize) {
        self.window.set_max_unread_bytes(bytes);
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.batch.len() + self.legacy_bytes + self.remainder.len()
    }

    /// Bytes that are held for waiting responses.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.batch.len() + self.legacy_bytes + self.remainder_capacity.max(self.remainder.len())
    }

    /// Copies the remainder of a large write, without the bytes that were written, while the caller
    /// does not read.
    pub(crate) fn shrink(&mut self) {
        if self.remainder_capacity > USUAL_BATCH_BYTES && self.remainder.len() <= self.remainder_capacity / 2 {
            self.remainder = Bytes::copy_from_slice(&self.remainder);
            self.remainder_capacity = self.remainder.len();
        }
    }

    /// Replaces everything written after `bytes` by an error.
    pub(crate) fn replace(&mut self, bytes: usize, to: &ReturnPath, error: &ServiceError) {
        let added = self.len().saturating_sub(bytes);
        match to.version {
            Version::V2 => {
                self.batch.truncate(self.batch.len().saturating_sub(added));
                // Frees its capacity too.
                self.batch = BytesMut::from(&self.batch[..]);
            }
            Version::V1 => {
                if let Some(packet) = self.legacy.pop_back_if(|_| added > 0) {
                    self.legacy_bytes -= packet.len();
                }
            }
        }
        self.answer(to, |sink| sink.failure(error));
    }

    /// Calls `answer` with a sink for one response.
    pub(crate) fn answer<R>(&mut self, to: &ReturnPath, answer: impl FnOnce(&mut ResponseSink<'_>) -> R) -> R {
        match to.version {
            Version::V2 => answer(&mut ResponseSink::new(&mut self.batch, to)),
            Version::V1 => {
                let mut packet = BytesMut::new();
                let done = answer(&mut ResponseSink::new(&mut packet, to));
                self.push_legacy(packet);
                done
            }
        }
    }

    /// Adds a response that was written elsewhere.
    pub(crate) fn push(&mut self, to: Version, packet: BytesMut) {
        match to {
            Version::V2 => self.batch.extend_from_slice(&packet),
            Version::V1 => self.push_legacy(packet),
        }
    }

    fn push_legacy(&mut self, packet: BytesMut) {
        if !packet.is_empty() {
            self.legacy_bytes += packet.len();
            self.legacy.push_back(packet.freeze());
        }
    }

    pub(crate) fn next_step(&mut self, now: Instant) -> WriteStep {
        if self.remainder.is_empty() {
            if !self.batch.is_empty() {
                // A large buffer is freed when it is written.
                let is_large = self.batch.len() > USUAL_BATCH_BYTES;
                let batch = if is_large { std::mem::take(&mut self.batch) } else { self.batch.split() };
                self.remainder = batch.freeze();
            } else if let Some(packet) = self.legacy.front() {
                if let Err(full) = self.window.admit(now, packet.len()) {
                    return WriteStep::WaitFor(full);
                }
                self.legacy_bytes -= packet.len();
                self.remainder = self.legacy.pop_front().unwrap_or_default();
            }
        }
        self.remainder_capacity = self.remainder_capacity.max(self.remainder.len());
        if self.remainder.is_empty() { WriteStep::Done } else { WriteStep::Write(self.remainder.clone()) }
    }

    /// Bytes written so far. Read this before observing the caller's socket.
    pub(crate) fn written(&self) -> u64 {
        self.window.written()
    }

    /// Records that the caller had at most `unread` bytes unread when `written` had been written.
    pub(crate) fn record_unread(&mut self, written: u64, unread: Option<usize>) {
        match unread {
            Some(unread) => drop(self.window.confirm_read(written, unread)),
            None => self.window.fall_back_to_time(LEGACY_READ_TIME),
        }
    }

    pub(crate) fn record_write(&mut self, now: Instant, bytes: usize) {
        self.remainder.advance(bytes);
        if self.remainder.is_empty() {
            self.remainder = Bytes::new();
            self.remainder_capacity = 0;
        }
        self.window.record_write(now, bytes);
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Key, LEGACY_READ_BYTES, ResponseHeaders};

    use super::*;
    use crate::transport::limits::MAX_FRAME_BYTES;

    struct TestCaller {
        queue: ResponseQueue,
        start: Instant,
    }

    impl TestCaller {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        fn new() -> Self {
            Self { queue: ResponseQueue::new(false, LEGACY_READ_BYTES), start: Instant::now() }
        }

        fn push(&mut self, to: Version, bytes: usize) {
            let to = ReturnPath {
                version: to,
                key: Some(Key::Number(1)),
                legacy_bytes: LEGACY_READ_BYTES,
                call_stream: None,
                one_way: None,
                http: None,
            };
            self.queue.answer(&to, |sink| {
                sink.success(200, &ResponseHeaders::NONE, None, |out| {
                    out.extend_from_slice(format!("\"{}\"", "x".repeat(bytes)).as_bytes());
                    Ok(())
                });
            });
        }

        /// Checks at `ms` the bytes of the next write, or when to ask again.
        #[track_caller]
        fn check(&mut self, ms: u64, expected: Result<Option<usize>, u64>) {
            let at = |ms| self.start + Duration::from_millis(ms);
            let seen = match self.queue.next_step(at(ms)) {
                WriteStep::Write(bytes) => {
                    self.queue.record_write(at(ms), bytes.len());
                    Ok(Some(bytes.len()))
                }
                WriteStep::WaitFor(full) => Err(full),
                WriteStep::Done => Ok(None),
            };
            assert_eq!(seen, expected.map_err(|ms| WindowFull::Until(at(ms))));
        }
    }

    #[test]
    fn version_2_answers_leave_in_one_write() {
        let mut caller = TestCaller::new();
        caller.check(0, Ok(None));
        caller.push(Version::V2, 100_000);
        caller.push(Version::V2, 100_000);
        caller.check(0, Ok(Some(200_000 + 2 * r#"{"key":1,"$":{},"params":""}¶"#.len())));
        caller.check(0, Ok(None));
    }

    #[test]
    fn version_1_answers_leave_one_by_one_as_they_are_read() {
        let mut caller = TestCaller::new();
        let around = r#"{"key":1,"errorcode":0,"errormessage":"success","results":""}¶"#.len();
        for bytes in [60_000, 5_000, 1_000] {
            caller.push(Version::V1, bytes);
        }
        caller.check(0, Ok(Some(60_000 + around)));
        caller.check(1, Ok(Some(5_000 + around)));
        caller.check(2, Err(51));
        caller.check(51, Ok(Some(1_000 + around)));
        assert_eq!(caller.queue.len(), 0);
    }

    #[test]
    fn a_response_that_would_cut_the_connection_becomes_an_error() {
        let mut caller = TestCaller::new();
        caller.push(Version::V2, 10);
        caller.push(Version::V2, MAX_FRAME_BYTES);
        let WriteStep::Write(packets) = caller.queue.next_step(caller.start) else { panic!("nothing to write") };
        assert!(packets.len() < 300 && packets.windows(16).any(|window| window == b"answer_too_large"));
    }

    #[test]
    fn a_response_that_would_crash_its_caller_becomes_an_error() {
        let around = r#"{"key":1,"errorcode":0,"errormessage":"success","results":""}¶"#.len();
        for (bytes, whole) in [(LEGACY_READ_BYTES - around, true), (LEGACY_READ_BYTES - around + 1, false)] {
            let mut caller = TestCaller::new();
            caller.push(Version::V1, bytes);
            let WriteStep::Write(packet) = caller.queue.next_step(caller.start) else { panic!("nothing to write") };
            assert_eq!(packet.len() == LEGACY_READ_BYTES, whole);
            assert_eq!(packet.starts_with(br#"{"key":1,"errorcode":500,"#), !whole);
        }
    }
}
