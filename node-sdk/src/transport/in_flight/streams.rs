//! The streams among the calls of a connection, without I/O.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::{Part, STREAM_WINDOW, Side, write_credit, write_end};

use super::{CallFailure, InFlight, SlotState, StreamOptions, WaitingSlot};
use crate::transport::flow::{FlowViolation, ReceiveWindow, SendWindow};
use crate::transport::response_frame::ResponseFrame;
use crate::transport::write_queue::{EnqueueError, QueuedRange};

/// A stream.
#[derive(Debug)]
pub(super) struct StreamSlot {
    /// The packet that opened it, until the caller has read it.
    pub(super) opening: Option<Bytes>,
    receive: ReceiveWindow,
    send: SendWindow,
    pub(super) deadline: Option<Instant>,
    /// How it ended, if not by a last part.
    end: Option<StreamEnd>,
    pub(super) range: QueuedRange,
}

/// Credit that changes nothing: no stream sends under its key, it grants no byte, or the stream has
/// enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UselessCredit;

/// How a stream ended, if not by a last part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// A response as that of a call: the only result, or an error.
    Response(ResponseFrame),
    Failed(CallFailure),
    /// The node broke the rules of streams.
    Violation(FlowViolation),
    /// There was no memory for its parts.
    OutOfMemory,
}

/// The stream takes no more parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamClosed;

impl InFlight {
    /// Takes a part of a stream. Returns how long it took if it is the first, and the task to wake.
    ///
    /// # Errors
    /// No call waits for it.
    pub(crate) fn handle_part(
        &mut self,
        now: Instant,
        key: u64,
        part: Part,
        frame: Bytes,
    ) -> Result<(Option<Duration>, Option<Waker>), Bytes> {
        let Some(slot) = self.slot(key) else { return Err(frame) };
        match &mut self.slots[slot].state {
            SlotState::Waiting(WaitingSlot { waker, began, stream: Some(options), range, .. }) if part.number == 0 => {
                let (waker, took) = (waker.take(), now.saturating_duration_since(*began));
                let open = StreamSlot::new(frame, *options, *range);
                self.next_deadline = self.next_deadline.into_iter().chain(open.deadline).min();
                self.slots[slot].state = SlotState::Open(Box::new(open));
                Ok((Some(took), waker))
            }
            // A frame after the end.
            SlotState::Open(open) if open.is_over() => Err(frame),
            SlotState::Open(open) => match push_counted(&mut open.receive, &mut self.parts_bytes, part, frame) {
                Ok(waker) => {
                    if open.is_over() {
                        open.wake_writer();
                    }
                    Ok((None, waker))
                }
                Err(abuse) => Ok((None, self.end(slot, StreamEnd::Violation(abuse)))),
            },
            SlotState::Waiting(_) | SlotState::Done(_) | SlotState::Free => Err(frame),
        }
    }

    /// Takes credit that the node grants for a stream. Returns the task to wake.
    ///
    /// # Errors
    /// [`UselessCredit`]; it may have been added nevertheless.
    pub(crate) fn grant(&mut self, key: u64, bytes: u32) -> Result<Option<Waker>, UselessCredit> {
        let open = self.open(key).filter(|open| !open.is_over() && bytes > 0).ok_or(UselessCredit)?;
        let is_needed = open.send.credit() < i64::from(STREAM_WINDOW);
        let waker = open.send.grant(bytes);
        if is_needed { Ok(waker) } else { Err(UselessCredit) }
    }

    /// The next part of a stream. An end that is not a part is returned once, and `None` after it.
    pub(crate) fn poll_part(&mut self, key: u64, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamEnd>>> {
        let Some(open) = self.open(key) else { return Poll::Ready(None) };
        let before = open.receive.waiting_bytes();
        let Poll::Ready(frame) = open.receive.poll_part(task) else { return Poll::Pending };
        let Some(frame) = frame else { return Poll::Ready(open.end.take().map(Err)) };
        let (credit, after) = (open.receive.next_credit(), open.receive.waiting_bytes());
        self.parts_bytes -= before - after;
        if let Some(credit) = credit {
            // Credit packets are few and small, and without them the node stops sending.
            self.write_queue.push_unbounded(|out| write_credit(out, key, credit));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// The credit for the next part of a stream, as soon as there is any; an error when the stream
    /// is over.
    pub(crate) fn poll_send(&mut self, key: u64, task: &mut Context<'_>) -> Poll<Result<i64, StreamClosed>> {
        match self.open(key) {
            Some(open) if !open.is_over() && !open.send.is_over() => {
                open.send.poll_ready(task).map(|()| Ok(open.send.credit()))
            }
            _over => Poll::Ready(Err(StreamClosed)),
        }
    }

    /// Lets the node of a stream send this many more bytes ahead.
    pub(crate) fn widen(&mut self, key: u64, bytes: u32) {
        let Some(open) = self.open(key).filter(|open| !open.is_over()) else { return };
        open.receive.widen(bytes);
        self.parts_due += u64::from(bytes);
        self.write_queue.push_unbounded(|out| write_credit(out, key, bytes));
    }

    /// Bytes of parts that were not read.
    pub(crate) fn parts_bytes(&self) -> usize {
        self.parts_bytes
    }

    /// Ends the stream with the most bytes of parts, and tells the node. Returns the task to wake;
    /// `None` if no stream has any parts.
    pub(crate) fn discard_parts(&mut self) -> Option<Option<Waker>> {
        let waiting = |state: &SlotState| match state {
            SlotState::Open(open) => open.receive.waiting_bytes(),
            SlotState::Free | SlotState::Waiting(_) | SlotState::Done(_) => 0,
        };
        let (slot, bytes) =
            self.slots.iter().map(|slot| waiting(&slot.state)).enumerate().max_by_key(|(_, bytes)| *bytes)?;
        if bytes == 0 {
            return None;
        }
        let reader = self.end(slot, StreamEnd::OutOfMemory);
        if let SlotState::Open(open) = &mut self.slots[slot].state {
            open.receive.clear();
            open.end = Some(StreamEnd::OutOfMemory);
        }
        self.parts_bytes -= bytes;
        Some(reader)
    }

    /// Sends a part, which `write` makes for a given number, and of which it returns the credit;
    /// `false` when another sender has used up the credit.
    pub(crate) fn send_part(
        &mut self,
        key: u64,
        write: impl FnOnce(u64, &mut BytesMut) -> usize,
    ) -> Result<bool, EnqueueError> {
        let Some(open) = self.open(key) else { return Ok(true) };
        if open.send.credit() <= 0 {
            return Ok(false);
        }
        let number = open.send.next_number();
        let mut cost = 0;
        self.write_queue.push(&self.limits, None, |out| cost = write(number, out))?;
        if let Some(open) = self.open(key) {
            open.send.record_sent(cost);
        }
        Ok(true)
    }

    /// Says that no part follows. Calling it again does nothing.
    pub(crate) fn finish(&mut self, key: u64) {
        let Some(open) = self.open(key) else { return };
        if open.is_over() || !open.send.end() {
            return;
        }
        let number = open.send.next_number();
        self.write_queue.push_unbounded(|out| write_end(out, Side::Caller, key, number));
    }

    fn open(&mut self, key: u64) -> Option<&mut StreamSlot> {
        let slot = self.slot(key)?;
        match &mut self.slots[slot].state {
            SlotState::Open(open) => Some(open),
            SlotState::Free | SlotState::Waiting(_) | SlotState::Done(_) => None,
        }
    }

    /// Ends a stream before its last part, and tells the node unless it knows. Returns the task to
    /// wake.
    pub(super) fn end(&mut self, slot: usize, end: StreamEnd) -> Option<Waker> {
        let key = self.key(slot);
        let SlotState::Open(open) = &mut self.slots[slot].state else { return None };
        if open.is_over() {
            return None;
        }
        let range = open.range;
        let notifies_node = !matches!(end, StreamEnd::Response(_) | StreamEnd::Failed(CallFailure::Lost { .. }));
        open.end = Some(end);
        open.wake_writer();
        let reader = open.receive.end();
        if notifies_node {
            self.write_queue.withdraw(&self.limits, key, range);
        }
        reader
    }
}

/// Adds a part to its window, and counts its bytes.
fn push_counted(
    receive: &mut ReceiveWindow,
    bytes: &mut usize,
    part: Part,
    frame: Bytes,
) -> Result<Option<Waker>, FlowViolation> {
    let before = receive.waiting_bytes();
    let put = receive.push(part, frame);
    *bytes += receive.waiting_bytes() - before;
    put
}

impl StreamSlot {
    /// Bytes of parts that were not read.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.receive.waiting_bytes()
    }

    fn new(opening: Bytes, options: StreamOptions, range: QueuedRange) -> Self {
        let StreamOptions { deadline, window, credit } = options;
        let (receive, send) = (ReceiveWindow::new(window), SendWindow::new(credit));
        Self { opening: Some(opening), receive, send, deadline, end: None, range }
    }

    /// Whether no more parts follow.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() || self.receive.is_over()
    }

    /// Wakes a task that waits to send, because the stream is over.
    fn wake_writer(&mut self) {
        if let Some(writer) = self.send.grant(0) {
            writer.wake();
        }
    }
}
