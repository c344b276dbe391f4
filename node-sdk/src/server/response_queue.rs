//! Answers that wait to be written to one caller, without I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use net::{MAX_ESCAPED_BYTES, debug, escaped};
use protocol::{
    Key, LEGACY_READ_BYTES, PartWriter, ReadWindow, ResponsePayload, ResponseWriter, Side, Version, WindowFull,
    write_credit, write_end, write_open, write_response,
};

use crate::error::ServiceError;
use crate::handler::WriteProgress;
use crate::handler::stream::{CallStream, Parts};
use crate::transport::limits::MAX_FRAME_BYTES;

/// An old caller on another machine that has work for us turns its loop, and so reads, within this time: a guess.
const LEGACY_READ_TIME: Duration = Duration::from_millis(50);

/// A buffer that has become larger is not used again.
const USUAL_BATCH_BYTES: usize = 64 * 1024;

/// Bytes of parts of one answer that are written before other answers have their turn.
const PARTS_BYTES: usize = 64 * 1024;

/// Answers to one caller: those for version 2 leave in one write, those for version 1 one by one and never more than it
/// can read at once.
#[derive(Debug)]
pub(crate) struct ResponseQueue {
    batch: BytesMut,
    legacy: VecDeque<Bytes>,
    legacy_bytes: usize,
    window: ReadWindow,
    remainder: Bytes,
    /// Bytes that `rest` had at first, all of which it keeps.
    remainder_capacity: usize,
}

/// What the caller's socket should do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteStep {
    /// Write these bytes and say how many were taken.
    Write(Bytes),
    /// An old caller is still reading: wait for this.
    WaitFor(WindowFull),
    /// Nothing waits.
    Done,
}

/// Where an answer goes; nowhere for a call without a key.
#[derive(Debug)]
pub(crate) struct ResponseTarget {
    pub(crate) version: Version,
    pub(crate) key: Option<Key>,
    /// What makes it a stream, if its caller takes one.
    pub(crate) call_stream: Option<Arc<CallStream>>,
}

/// Whoever still takes the items of a call that is over finds out.
impl Drop for ResponseTarget {
    fn drop(&mut self) {
        if let Some(call_stream) = &self.call_stream {
            call_stream.close();
        }
    }
}

/// Takes one answer. What does not become one leaves nothing behind.
#[derive(Debug)]
pub(crate) struct ResponseSink<'a> {
    out: &'a mut BytesMut,
    start: usize,
    to: &'a ResponseTarget,
}

impl<'a> ResponseSink<'a> {
    pub(crate) fn new(out: &'a mut BytesMut, to: &'a ResponseTarget) -> Self {
        Self { start: out.len(), out, to }
    }

    /// A result, which `write` makes into JSON text.
    pub(crate) fn success(&mut self, status: u16, write: impl FnOnce(&mut BytesMut) -> Result<(), serde_json::Error>) {
        let Some(key) = &self.to.key else { return };
        let limit = match self.to.version {
            Version::V1 => LEGACY_READ_BYTES,
            Version::V2 => MAX_FRAME_BYTES,
        };
        let writer = ResponseWriter::begin(self.out, self.to.version, key, status);
        if let Err(error) = write(self.out) {
            self.clear();
            return self.failure(&ServiceError::internal(format!("the result has no JSON form: {error}")));
        }
        let bytes = writer.end(self.out);
        if bytes > limit {
            self.clear();
            let message = format!("the answer has {bytes} bytes; this caller can read {limit}");
            self.failure(&ServiceError::new(500, "answer_too_large", message));
        }
    }

    /// Why there is no result.
    pub(crate) fn failure(&mut self, error: &ServiceError) {
        let Some(key) = &self.to.key else {
            return debug!(error = ?escaped(error, MAX_ESCAPED_BYTES), "a call that is not answered has failed");
        };
        let ServiceError { status, reason, message, retry_after } = error;
        let failure = ResponsePayload::Failure { status: *status, reason, message, retry_after: *retry_after };
        write_response(self.out, self.to.version, key, failure);
    }

    /// Says that the answer comes in parts. Whether its caller takes that.
    pub(crate) fn open(&mut self) -> bool {
        let Some((call_stream, key)) = self.stream() else { return false };
        if call_stream.set_open(true) {
            write_open(self.out, key);
        }
        true
    }

    /// Writes parts of an answer, as many as its caller takes now.
    pub(crate) fn poll_parts(&mut self, parts: &mut Parts, task: &mut Context<'_>) -> Poll<WriteProgress> {
        let Some((call_stream, key)) = self.stream() else { return Poll::Ready(WriteProgress::Done) };
        loop {
            if self.has_written() && self.out.len() - self.start >= PARTS_BYTES {
                return Poll::Ready(WriteProgress::More);
            }
            let number = ready!(call_stream.poll_ready(task));
            let before = self.out.len();
            let writer = PartWriter::begin(self.out, Side::Callee, key, number);
            let error = match parts.0.as_mut().poll_part(task, self.out) {
                Poll::Ready(Some(Ok(()))) => {
                    let bytes = writer.end(self.out);
                    if bytes <= MAX_FRAME_BYTES {
                        call_stream.sent(bytes);
                        continue;
                    }
                    Some(ServiceError::new(500, "answer_too_large", format!("a part has {bytes} bytes")))
                }
                Poll::Ready(Some(Err(error))) => Some(error),
                Poll::Ready(None) => None,
                Poll::Pending => match call_stream.stop_error() {
                    Some(error) => Some(error),
                    None => {
                        self.out.truncate(before);
                        return Poll::Pending;
                    }
                },
            };
            self.out.truncate(before);
            match error {
                Some(error) => self.failure(&error),
                None => write_end(self.out, Side::Callee, key, number),
            }
            return Poll::Ready(WriteProgress::Done);
        }
    }

    /// Before a handler goes on: what a stream owes its caller by itself.
    pub(crate) fn attend(&mut self, task: &Context<'_>) {
        let Some((call_stream, key)) = self.stream() else { return };
        call_stream.register_waker(task);
        if call_stream.set_open(false) {
            write_open(self.out, key);
        }
        if let Some(credit) = call_stream.next_credit() {
            write_credit(self.out, key, credit);
        }
    }

    fn stream(&self) -> Option<(&'a CallStream, u64)> {
        let ResponseTarget { call_stream, key, .. } = self.to;
        Some((call_stream.as_deref()?, key.as_ref()?.number()?))
    }

    pub(crate) fn has_written(&self) -> bool {
        self.out.len() > self.start
    }

    /// Takes back what has been written.
    pub(crate) fn clear(&mut self) {
        self.out.truncate(self.start);
    }
}

impl ResponseQueue {
    /// `can_see`: the caller's end can be looked at.
    pub(crate) fn new(can_see: bool) -> Self {
        let read_time = (!can_see).then_some(LEGACY_READ_TIME);
        Self {
            batch: BytesMut::new(),
            legacy: VecDeque::new(),
            legacy_bytes: 0,
            window: ReadWindow::new(LEGACY_READ_BYTES, read_time),
            remainder: Bytes::new(),
            remainder_capacity: 0,
        }
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.batch.len() + self.legacy_bytes + self.remainder.len()
    }

    /// Bytes that are kept for what waits.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.batch.len() + self.legacy_bytes + self.remainder_capacity.max(self.remainder.len())
    }

    /// The caller takes nothing now: what is left of much is kept without what it has taken.
    pub(crate) fn shrink(&mut self) {
        if self.remainder_capacity > USUAL_BATCH_BYTES && self.remainder.len() <= self.remainder_capacity / 2 {
            self.remainder = Bytes::copy_from_slice(&self.remainder);
            self.remainder_capacity = self.remainder.len();
        }
    }

    /// Takes back what was written since there were `bytes`, and has an error in its place.
    pub(crate) fn replace(&mut self, bytes: usize, to: &ResponseTarget, error: &ServiceError) {
        let added = self.len().saturating_sub(bytes);
        match to.version {
            Version::V2 => {
                self.batch.truncate(self.batch.len().saturating_sub(added));
                // Its room goes too.
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

    /// Gives `answer` a place to write one answer to.
    pub(crate) fn answer<R>(&mut self, to: &ResponseTarget, answer: impl FnOnce(&mut ResponseSink<'_>) -> R) -> R {
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

    /// Takes an answer that was written elsewhere.
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
                // What has become large is given back when it is written.
                let is_large = self.batch.len() > USUAL_BATCH_BYTES;
                let batch = if is_large { std::mem::take(&mut self.batch) } else { self.batch.split() };
                self.remainder = batch.freeze();
            } else if let Some(packet) = self.legacy.front() {
                if let Err(unread) = self.window.admit(now, packet.len()) {
                    return WriteStep::WaitFor(unread);
                }
                self.legacy_bytes -= packet.len();
                self.remainder = self.legacy.pop_front().unwrap_or_default();
            }
        }
        self.remainder_capacity = self.remainder_capacity.max(self.remainder.len());
        if self.remainder.is_empty() { WriteStep::Done } else { WriteStep::Write(self.remainder.clone()) }
    }

    /// Everything written so far. Ask before looking at the caller's end.
    pub(crate) fn written(&self) -> u64 {
        self.window.written()
    }

    /// What looking at the caller's end gave, after `written` bytes: how many of them it had before it at most.
    pub(crate) fn seen(&mut self, written: u64, unread: Option<usize>) {
        match unread {
            Some(unread) => drop(self.window.confirm_read(written, unread)),
            None => self.window.fall_back_to_time(LEGACY_READ_TIME),
        }
    }

    pub(crate) fn wrote(&mut self, now: Instant, bytes: usize) {
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
    use super::*;

    struct TestCaller {
        queue: ResponseQueue,
        start: Instant,
    }

    impl TestCaller {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        fn new() -> Self {
            Self { queue: ResponseQueue::new(false), start: Instant::now() }
        }

        fn push(&mut self, to: Version, bytes: usize) {
            let to = ResponseTarget { version: to, key: Some(Key::Number(1)), call_stream: None };
            self.queue.answer(&to, |sink| {
                sink.success(200, |out| {
                    out.extend_from_slice(format!("\"{}\"", "x".repeat(bytes)).as_bytes());
                    Ok(())
                });
            });
        }

        /// At `ms`: bytes of the next write, or when to ask again.
        #[track_caller]
        fn check(&mut self, ms: u64, expected: Result<Option<usize>, u64>) {
            let at = |ms| self.start + Duration::from_millis(ms);
            let seen = match self.queue.next_step(at(ms)) {
                WriteStep::Write(bytes) => {
                    self.queue.wrote(at(ms), bytes.len());
                    Ok(Some(bytes.len()))
                }
                WriteStep::WaitFor(unread) => Err(unread),
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
    fn an_answer_that_would_cut_the_connection_becomes_an_error() {
        let mut caller = TestCaller::new();
        caller.push(Version::V2, 10);
        caller.push(Version::V2, MAX_FRAME_BYTES);
        let WriteStep::Write(packets) = caller.queue.next_step(caller.start) else { panic!("nothing to write") };
        assert!(packets.len() < 300 && packets.windows(16).any(|window| window == b"answer_too_large"));
    }

    #[test]
    fn an_answer_that_would_kill_its_caller_becomes_an_error() {
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
