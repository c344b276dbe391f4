//! The calls on one connection to another node, without I/O.

mod streams;

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::Version;

use self::streams::StreamSlot;
pub(crate) use self::streams::{StreamClosed, StreamEnd};
use crate::transport::limits::InFlightLimits;
use crate::transport::write_queue::{EnqueueError, QueuedRange, WriteQueue};

/// Calls of one connection: those that wait to be written, and those that wait for an answer.
///
/// A call has a slot from its beginning until whoever waits for it has its outcome, or gives it up. Its key names slot and
/// generation, so that an answer that comes too late is nobody's.
#[derive(Debug)]
pub(crate) struct InFlight {
    limits: InFlightLimits,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Slots of calls that have no outcome yet.
    waiting: usize,
    write_queue: WriteQueue,
    /// What is to be written has waited for more to come.
    has_yielded: bool,
    /// The most calls in flight since one was alone last, and from the time before to then.
    peak: usize,
    last_peak: usize,
    /// No call's deadline is before this.
    next_deadline: Option<Instant>,
    /// Calls that were never answered, whether somebody still waits or not: so many answers may yet come.
    answers_due: u64,
    /// Bytes of parts that have come and are not taken, of all streams.
    parts_bytes: usize,
    /// Bytes of parts that may come for streams that were given up: they were on their way.
    parts_due: u64,
}

/// From so many calls in flight on, a write that waits for a moment nearly always finds more to take along.
pub(crate) const MANY_IN_FLIGHT: usize = 8;

/// What became of a call: the frame of its answer, or nothing.
pub(crate) type CallResult = Result<Bytes, CallFailure>;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallFailure {
    /// The connection was lost, or never came to be. If the call was `written`, it may have been carried out.
    Lost { written: bool },
    /// Its time is over. If the call was `written`, it may have been carried out.
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
    Waiting(WaitingCall),
    Done(CallResult),
    /// On the heap: few calls are streams, and each slot would have the room.
    Open(Box<StreamSlot>),
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallDeadlines {
    /// Until it is answered; a stream, until it is open.
    pub(crate) answer: Instant,
    /// The call may become a stream.
    pub(crate) stream: Option<StreamOptions>,
}

/// What holds for a stream once it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// Until when it may last, if not for ever.
    pub(crate) deadline: Option<Instant>,
    /// Bytes that the node has been told it may send ahead.
    pub(crate) window: u32,
}

#[derive(Debug)]
struct WaitingCall {
    waker: Option<Waker>,
    begun: Instant,
    deadline: Instant,
    /// See [`CallDeadlines`].
    stream: Option<StreamOptions>,
    range: QueuedRange,
}

const SLOT_BITS: u32 = 16;

impl InFlight {
    pub(crate) fn new(version: Version, limits: InFlightLimits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            waiting: 0,
            write_queue: WriteQueue::new(version),
            has_yielded: false,
            peak: 0,
            last_peak: 0,
            next_deadline: None,
            answers_due: 0,
            parts_bytes: 0,
            parts_due: 0,
        }
    }

    /// Takes a call whose packet `write` makes for a given key.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        deadlines: CallDeadlines,
        write: impl FnOnce(u64, &mut BytesMut),
    ) -> Result<u64, EnqueueError> {
        let CallDeadlines { answer: deadline, stream } = deadlines;
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
        self.slots[slot].state = SlotState::Waiting(WaitingCall { waker: None, begun: now, deadline, stream, range });
        self.waiting += 1;
        self.answers_due += 1;
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

    /// Takes a packet that nobody waits for an answer to.
    pub(crate) fn send(&mut self, write: impl FnOnce(&mut BytesMut)) -> Result<(), EnqueueError> {
        self.write_queue.push(&self.limits, None, write).map(drop)
    }

    /// The outcome of a call, once; its slot is free then, unless it is a stream that has been opened.
    pub(crate) fn poll(&mut self, key: u64, context: &mut Context<'_>) -> Poll<CallResult> {
        let Some(slot) = self.slot(key) else { return Poll::Ready(Err(CallFailure::Lost { written: true })) };
        match &mut self.slots[slot].state {
            SlotState::Waiting(WaitingCall { waker, .. }) => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
            SlotState::Open(open) => Poll::Ready(open.opening.take().ok_or(CallFailure::Lost { written: true })),
            SlotState::Done(_) | SlotState::Free => match self.release(slot) {
                SlotState::Done(outcome) => Poll::Ready(outcome),
                SlotState::Free | SlotState::Waiting(_) | SlotState::Open(_) => {
                    Poll::Ready(Err(CallFailure::Lost { written: true }))
                }
            },
        }
    }

    /// Nobody waits for this call any more. What is not written never will be; of what is, a version 2 node is told.
    pub(crate) fn cancel(&mut self, key: u64) {
        let Some(slot) = self.slot(key) else { return };
        match self.release(slot) {
            SlotState::Waiting(WaitingCall { range, .. }) => {
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

    /// An answer came. Gives how long it took, unless it ends a stream, and whom to wake.
    ///
    /// # Errors
    /// Nobody waits for it.
    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        key: u64,
        frame: Bytes,
    ) -> Result<(Option<Duration>, Option<Waker>), Bytes> {
        self.write_queue.has_read(key);
        let Some(slot) = self.slot(key) else { return Err(frame) };
        let begun = match &self.slots[slot].state {
            SlotState::Waiting(waiting) => waiting.begun,
            SlotState::Open(open) if open.is_over() => return Err(frame),
            SlotState::Open(_) => {
                self.answers_due = self.answers_due.saturating_sub(1);
                return Ok((None, self.end(slot, StreamEnd::Response(frame))));
            }
            SlotState::Done(_) | SlotState::Free => return Err(frame),
        };
        self.answers_due = self.answers_due.saturating_sub(1);
        Ok((Some(now.saturating_duration_since(begun)), self.complete(slot, Ok(frame))))
    }

    /// Whether an answer that nobody waits for may come: each call may be answered once, however late. An old node's `null` has no key.
    pub(crate) fn accept_late_response(&mut self, key: Option<u64>) -> bool {
        let is_due = self.answers_due > 0 && key.is_none_or(|key| self.was_used(key));
        self.answers_due -= u64::from(is_due);
        is_due
    }

    /// Whether a part that nobody takes may come: as much as the node could send before it heard that the stream was given up.
    pub(crate) fn accept_late_part(&mut self, key: u64, bytes: usize) -> bool {
        let is_due = self.parts_due > 0 && self.was_used(key);
        if is_due {
            self.parts_due = self.parts_due.saturating_sub(bytes as u64);
        }
        is_due
    }

    /// Whether some call has had this key.
    pub(crate) fn was_used(&self, key: u64) -> bool {
        let slot = usize::try_from(key & ((1 << SLOT_BITS) - 1)).ok().and_then(|slot| self.slots.get(slot));
        slot.is_some_and(|slot| (1..=u64::from(slot.generation)).contains(&(key >> SLOT_BITS)))
    }

    /// The only call that a version 1 node has before it, if there is just one: an answer without a key must be for it,
    /// even if nobody waits for it any more.
    pub(crate) fn only_unanswered(&self) -> Option<u64> {
        self.write_queue.only_unread()
    }

    /// Ends the calls whose time is over. Gives whom to wake.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if self.next_deadline.is_none_or(|next| next > now) {
            return wakers;
        }
        self.next_deadline = None;
        for slot in 0..self.slots.len() {
            let (deadline, range) = match &self.slots[slot].state {
                SlotState::Waiting(WaitingCall { deadline, range, .. }) => (*deadline, Some(*range)),
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

    /// The connection is lost, and with it every call. Gives whom to wake.
    pub(crate) fn fail_all(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for slot in 0..self.slots.len() {
            match &self.slots[slot].state {
                SlotState::Waiting(WaitingCall { range, .. }) => {
                    let written = self.write_queue.has_written(*range);
                    wakers.extend(self.complete(slot, Err(CallFailure::Lost { written })));
                }
                SlotState::Open(_) => {
                    wakers.extend(self.end(slot, StreamEnd::Failed(CallFailure::Lost { written: true })))
                }
                SlotState::Free | SlotState::Done(_) => {}
            }
        }
        self.write_queue.clear();
        self.next_deadline = None;
        wakers
    }

    /// The bytes of the next write, in exchange for an empty buffer; `false` when there are none, or none may leave now.
    pub(crate) fn fill_write_buffer(&mut self, now: Instant, into: &mut BytesMut) -> bool {
        self.write_queue.fill(now, into)
    }

    /// The socket has taken so many bytes.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.write_queue.wrote(bytes);
    }

    /// Whether packets wait for a version 1 node to answer earlier ones.
    pub(crate) fn is_held_back(&self) -> bool {
        self.write_queue.is_held_back()
    }

    /// When [`expire`](Self::expire) or [`fill_write_buffer`](Self::fill_write_buffer) may have something to do, though nothing
    /// happens.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.next_deadline.into_iter().chain(self.write_queue.next_due()).min()
    }

    /// Whether the call that was admitted last is to be written without waiting for anything: it is alone, and there were few before.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting == 1 && self.last_peak < MANY_IN_FLIGHT
    }

    /// Whether the next write should wait until those have called who are about to be woken: a write costs as much as a good many calls.
    /// Only once for each write, and only while many are in flight, or open: of few nobody has a call to add, and each of them would wait in vain.
    pub(crate) fn yields_for_others(&mut self) -> bool {
        let gathers = self.write_queue.can_gather();
        self.has_yielded = gathers && self.len() >= MANY_IN_FLIGHT && !self.has_yielded;
        self.has_yielded
    }

    /// Whether something waits to be written.
    pub(crate) fn has_outgoing(&self) -> bool {
        self.write_queue.has_waiting()
    }

    /// How many calls wait for an answer, and streams are open.
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
            SlotState::Waiting(WaitingCall { waker, .. }) => waker,
            SlotState::Free | SlotState::Done(_) | SlotState::Open(_) => None,
        }
    }

    fn release(&mut self, slot: usize) -> SlotState {
        let Slot { generation, state } = &mut self.slots[slot];
        // Never 0: old peers write their log under that key.
        *generation = generation.checked_add(1).unwrap_or(1);
        self.free.push(slot);
        std::mem::replace(state, SlotState::Free)
    }
}

#[cfg(test)]
mod tests;
