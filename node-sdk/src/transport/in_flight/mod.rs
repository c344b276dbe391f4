//! The calls on one connection to another node, without I/O.
//!
//! It must not know sockets or ask for the time, which is an argument.

mod streams;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::Version;

use self::streams::StreamSlot;
pub(crate) use self::streams::{StreamClosed, StreamEnd};
use crate::transport::limits::InFlightLimits;
use crate::transport::response_frame::ResponseFrame;
use crate::transport::write_queue::{EnqueueError, QueuedRange, WriteQueue};

/// The calls of one connection: those that wait to be written, and those that wait for a response.
///
/// A call has a slot from its beginning until its result is read or the call is cancelled. Its key
/// names slot and generation, so that a late response reaches no other call.
#[derive(Debug)]
pub(crate) struct InFlight {
    limits: InFlightLimits,
    slots: Vec<Slot>,
    max_generation: u32,
    free: Vec<usize>,
    /// Slots of calls without a result.
    waiting: usize,
    write_queue: WriteQueue,
    /// Whether the next write has been delayed once.
    has_yielded: bool,
    /// The most calls in flight since there was only one, and in the period before.
    peak: usize,
    last_peak: usize,
    /// No deadline is before this.
    next_deadline: Option<Instant>,
    /// Calls that were never answered, cancelled ones included: this many responses may come.
    responses_due: u64,
    /// Bytes of parts that were not read, of all streams.
    parts_bytes: usize,
    /// Bytes of parts that may still arrive for cancelled streams: they were on their way.
    parts_due: u64,
    /// See [`take_lost`](Self::take_lost).
    lost: Vec<Arc<str>>,
}

/// With this many calls in flight, a delayed write nearly always finds more to send.
pub(crate) const MANY_IN_FLIGHT: usize = 8;

/// The result of a call: its response, or why there is none.
pub(crate) type CallResult = Result<ResponseFrame, CallFailure>;

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallFailure {
    /// The connection was lost, or could not be made. If the call was `written`, it may have been
    /// carried out.
    Lost { written: bool },
    /// The time of the call is over. If the call was `written`, it may have been carried out.
    Deadline { written: bool },
}

#[derive(Debug)]
struct Slot {
    /// Counts the calls that have used the slot.
    generation: u32,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    Free,
    Waiting(WaitingSlot),
    Done(CallResult),
    /// On the heap: few calls are streams, and every slot would have the size of a stream.
    Open(Box<StreamSlot>),
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallDeadlines {
    /// The deadline of the response, or of the opening of a stream.
    pub(crate) response: Instant,
    /// The call may become a stream.
    pub(crate) stream: Option<StreamOptions>,
}

/// The settings of a stream once it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// The deadline of the stream, if it has one.
    pub(crate) deadline: Option<Instant>,
    /// Bytes that the node was allowed to send ahead.
    pub(crate) window: u32,
    /// Bytes that may be sent ahead to the node.
    pub(crate) credit: u32,
}

#[derive(Debug)]
struct WaitingSlot {
    waker: Option<Waker>,
    began: Instant,
    deadline: Instant,
    /// See [`CallDeadlines`].
    stream: Option<StreamOptions>,
    range: QueuedRange,
}

const SLOT_BITS: u32 = 16;
/// Generations of a slot until they begin anew: keys of version 1 stay below 2³¹, because version 1
/// services may keep them in a signed number of 32 bits.
const MAX_GENERATION_V1: u32 = (1 << (31 - SLOT_BITS)) - 1;

impl InFlight {
    pub(crate) fn new(version: Version, limits: InFlightLimits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            max_generation: match version {
                Version::V1 => MAX_GENERATION_V1,
                Version::V2 => u32::MAX,
            },
            free: Vec::new(),
            waiting: 0,
            write_queue: WriteQueue::new(version),
            has_yielded: false,
            peak: 0,
            last_peak: 0,
            next_deadline: None,
            responses_due: 0,
            parts_bytes: 0,
            parts_due: 0,
            lost: Vec::new(),
        }
    }

    /// Accepts a call whose packet `write` makes for a given key.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        deadlines: CallDeadlines,
        write: impl FnOnce(u64, &mut BytesMut),
    ) -> Result<u64, EnqueueError> {
        let CallDeadlines { response: deadline, stream } = deadlines;
        let slot = match self.free.last() {
            Some(slot) => *slot,
            None if self.slots.len() < self.limits.max_calls => {
                self.slots.push(Slot { generation: 1, state: SlotState::Free });
                self.free.push(self.slots.len() - 1);
                self.slots.len() - 1
            }
            None => return Err(EnqueueError::Full),
        };
        let key = u64::from(self.slots[slot].generation) << SLOT_BITS | slot as u64;
        let range = self.write_queue.push(&self.limits, Some(key), |out| write(key, out))?;
        self.free.pop();
        self.slots[slot].state = SlotState::Waiting(WaitingSlot { waker: None, began: now, deadline, stream, range });
        self.waiting += 1;
        self.responses_due += 1;
        if let Some(options) = stream {
            self.parts_due += u64::from(options.window);
        }
        if self.waiting == 1 {
            self.last_peak = std::mem::take(&mut self.peak);
        }
        self.peak = self.peak.max(self.waiting);
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        Ok(key)
    }

    /// Queues a packet that has no response. If it has a route, that is told if it is lost:
    /// [`take_lost`](Self::take_lost).
    pub(crate) fn send(
        &mut self,
        route: Option<&Arc<str>>,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<(), EnqueueError> {
        let range = self.write_queue.push(&self.limits, None, write)?;
        if let Some(route) = route {
            self.write_queue.record_one_way(range, route);
        }
        Ok(())
    }

    /// The routes of calls without a response that were lost with the connection.
    pub(crate) fn take_lost(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.lost)
    }

    /// The result of a call, once. Its slot is then free, unless the call has become a stream.
    pub(crate) fn poll(&mut self, key: u64, context: &mut Context<'_>) -> Poll<CallResult> {
        let Some(slot) = self.slot(key) else { return Poll::Ready(Err(CallFailure::Lost { written: true })) };
        match &mut self.slots[slot].state {
            SlotState::Waiting(WaitingSlot { waker, .. }) => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
            SlotState::Open(open) => {
                let opening = open.opening.take().map(ResponseFrame::other);
                Poll::Ready(opening.ok_or(CallFailure::Lost { written: true }))
            }
            SlotState::Done(_) | SlotState::Free => match self.release(slot) {
                SlotState::Done(outcome) => Poll::Ready(outcome),
                SlotState::Free | SlotState::Waiting(_) | SlotState::Open(_) => {
                    Poll::Ready(Err(CallFailure::Lost { written: true }))
                }
            },
        }
    }

    /// Cancels a call. An unwritten packet is never written; otherwise a version 2 node is told.
    pub(crate) fn cancel(&mut self, key: u64) {
        let Some(slot) = self.slot(key) else { return };
        match self.release(slot) {
            SlotState::Waiting(WaitingSlot { range, .. }) => {
                self.waiting -= 1;
                self.write_queue.withdraw(&self.limits, key, range);
            }
            SlotState::Open(open) => {
                self.waiting -= 1;
                self.parts_bytes -= open.waiting_bytes();
                if !open.is_over() {
                    self.write_queue.withdraw(&self.limits, key, open.range);
                }
            }
            SlotState::Done(_) | SlotState::Free => {}
        }
    }

    /// Takes a response. Returns how long it took, unless it ends a stream, and the task to wake.
    ///
    /// # Errors
    /// No call waits for it.
    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        key: u64,
        frame: ResponseFrame,
    ) -> Result<(Option<Duration>, Option<Waker>), Bytes> {
        self.write_queue.record_read(key);
        let Some(slot) = self.slot(key) else { return Err(frame.into_frame()) };
        let began = match &self.slots[slot].state {
            SlotState::Waiting(waiting) => waiting.began,
            SlotState::Open(open) if open.is_over() => return Err(frame.into_frame()),
            SlotState::Open(_) => {
                self.responses_due = self.responses_due.saturating_sub(1);
                return Ok((None, self.end(slot, StreamEnd::Response(frame))));
            }
            SlotState::Done(_) | SlotState::Free => return Err(frame.into_frame()),
        };
        self.responses_due = self.responses_due.saturating_sub(1);
        Ok((Some(now.saturating_duration_since(began)), self.complete(slot, Ok(frame))))
    }

    /// Whether a response without a waiting call is due: each call may be answered once, however
    /// late. The `null` of a version 1 node has no key.
    pub(crate) fn accept_late_response(&mut self, key: Option<u64>) -> bool {
        let is_due = self.responses_due > 0 && key.is_none_or(|key| self.was_used(key));
        self.responses_due -= u64::from(is_due);
        is_due
    }

    /// Whether a part without a stream is due: the node may have sent it before it knew of the
    /// cancellation.
    pub(crate) fn accept_late_part(&mut self, key: u64, bytes: usize) -> bool {
        let is_due = self.parts_due > 0 && self.was_used(key);
        if is_due {
            self.parts_due = self.parts_due.saturating_sub(bytes as u64);
        }
        is_due
    }

    /// Whether any call has had this key.
    pub(crate) fn was_used(&self, key: u64) -> bool {
        let slot = usize::try_from(key & ((1 << SLOT_BITS) - 1)).ok().and_then(|slot| self.slots.get(slot));
        slot.is_some_and(|slot| (1..=u64::from(slot.generation)).contains(&(key >> SLOT_BITS)))
    }

    /// The only call that a version 1 node has not answered, if there is just one. A response
    /// without a key must belong to it, even if it was cancelled.
    pub(crate) fn only_unanswered(&self) -> Option<u64> {
        self.write_queue.only_unread()
    }

    /// Ends the calls whose deadline is over. Returns the tasks to wake.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if self.next_deadline.is_none_or(|next| next > now) {
            return wakers;
        }
        self.next_deadline = None;
        for slot in 0..self.slots.len() {
            let (deadline, range) = match &self.slots[slot].state {
                SlotState::Waiting(WaitingSlot { deadline, range, .. }) => (*deadline, Some(*range)),
                SlotState::Open(open) if !open.is_over() && open.deadline.is_some() => {
                    (open.deadline.unwrap_or(now), None)
                }
                SlotState::Open(_) | SlotState::Free | SlotState::Done(_) => continue,
            };
            if deadline > now {
                self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
                continue;
            }
            let Some(range) = range else {
                wakers.extend(self.end(slot, StreamEnd::Failed(CallFailure::Deadline { written: true })));
                continue;
            };
            let key = self.key(slot);
            let written = self.write_queue.has_written(range);
            self.write_queue.withdraw(&self.limits, key, range);
            wakers.extend(self.complete(slot, Err(CallFailure::Deadline { written })));
        }
        wakers
    }

    /// Fails every call, because the connection is lost. Returns the tasks to wake.
    pub(crate) fn fail_all(&mut self) -> Vec<Waker> {
        self.fail(true)
    }

    /// As [`fail_all`](Self::fail_all), when the node has said that it begins none of the calls.
    pub(crate) fn fail_all_unbegun(&mut self) -> Vec<Waker> {
        self.fail(false)
    }

    fn fail(&mut self, may_have_begun: bool) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for slot in 0..self.slots.len() {
            match &self.slots[slot].state {
                SlotState::Waiting(WaitingSlot { range, .. }) => {
                    let written = may_have_begun && self.write_queue.has_written(*range);
                    wakers.extend(self.complete(slot, Err(CallFailure::Lost { written })));
                }
                SlotState::Open(_) => {
                    wakers.extend(self.end(slot, StreamEnd::Failed(CallFailure::Lost { written: true })))
                }
                SlotState::Free | SlotState::Done(_) => {}
            }
        }
        self.lost.extend(self.write_queue.clear());
        self.next_deadline = None;
        wakers
    }

    /// Swaps the bytes of the next write into an empty buffer; `false` when there are none, or none
    /// may be written now.
    pub(crate) fn fill_write_buffer(&mut self, now: Instant, into: &mut BytesMut) -> bool {
        self.write_queue.fill(&self.limits, now, into)
    }

    /// Records that the socket has taken this many bytes.
    pub(crate) fn record_write(&mut self, bytes: usize) {
        self.write_queue.record_write(bytes);
    }

    /// Whether packets wait for a version 1 node to answer earlier ones.
    pub(crate) fn waits_for_responses(&self) -> bool {
        self.write_queue.waits_for_responses()
    }

    /// When [`expire`](Self::expire) or [`fill_write_buffer`](Self::fill_write_buffer) may have
    /// work without another event.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.next_deadline.into_iter().chain(self.write_queue.next_due()).min()
    }

    /// Whether the last call should be written at once: it is the only one, and few calls were in
    /// flight before.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting == 1 && self.last_peak < MANY_IN_FLIGHT
    }

    /// Whether to yield once before writing, so that tasks about to wake can join this write: a
    /// write costs as much as many calls. It yields only once for each write, and only with many
    /// calls in flight: few tasks rarely have a call to add, and each call would only be delayed.
    pub(crate) fn yields_for_others(&mut self) -> bool {
        let gathers = self.write_queue.can_gather();
        self.has_yielded = gathers && self.len() >= MANY_IN_FLIGHT && !self.has_yielded;
        self.has_yielded
    }

    /// Whether something waits to be written.
    pub(crate) fn has_outgoing(&self) -> bool {
        self.write_queue.has_waiting()
    }

    /// The number of calls without a response, and of open streams.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    fn key(&self, slot: usize) -> u64 {
        u64::from(self.slots[slot].generation) << SLOT_BITS | slot as u64
    }

    fn slot(&self, key: u64) -> Option<usize> {
        let slot = usize::try_from(key & ((1 << SLOT_BITS) - 1)).ok()?;
        (slot < self.slots.len() && self.key(slot) == key).then_some(slot)
    }

    fn complete(&mut self, slot: usize, outcome: CallResult) -> Option<Waker> {
        self.waiting -= 1;
        match std::mem::replace(&mut self.slots[slot].state, SlotState::Done(outcome)) {
            SlotState::Waiting(WaitingSlot { waker, .. }) => waker,
            SlotState::Free | SlotState::Done(_) | SlotState::Open(_) => None,
        }
    }

    fn release(&mut self, slot: usize) -> SlotState {
        let Slot { generation, state } = &mut self.slots[slot];
        // Never 0: version 1 peers use that key for their log.
        *generation = if *generation == self.max_generation { 1 } else { *generation + 1 };
        self.free.push(slot);
        std::mem::replace(state, SlotState::Free)
    }
}

#[cfg(test)]
mod tests;
