//! The calls on one connection to another node, without I/O.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::{LEGACY_READ_BYTES, Version, write_cancel};

use self::streams::StreamSlot;
pub(crate) use self::streams::{StreamClosed, StreamEnd};

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

/// How much may wait on one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlightLimits {
    /// Calls that somebody waits for: less than 65,536.
    pub(crate) max_calls: usize,
    /// Bytes that are not written.
    pub(crate) max_queued_bytes: usize,
    /// Bytes of one packet that a version 2 node takes.
    pub(crate) max_packet_bytes: usize,
}

/// Why a call was not taken. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnqueueError {
    /// As much waits as may.
    Full,
    /// A version 1 node could not read it in one piece, a version 2 node would cut the connection.
    TooLarge,
}

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

/// Where a call's packet is, or was: its first byte in the order of all bytes that were ever queued, or its number in that
/// of all packets, and how many bytes it has.
#[derive(Clone, Copy, Debug)]
struct QueuedRange {
    first: u64,
    bytes: usize,
}

/// Packets on their way to the socket.
#[derive(Debug)]
enum WriteQueue {
    Batch(BatchQueue),
    Legacy(LegacyQueue),
}

/// Towards version 2: all that waits leaves in one write.
#[derive(Debug, Default)]
struct BatchQueue {
    bytes: BytesMut,
    /// Where the first of these stands among all bytes ever queued.
    first: u64,
    /// How many of all the socket has taken.
    written: u64,
}

/// Towards version 1: a write for each packet, and at most [`LEGACY_READ_BYTES`] that the node has not surely read. What it
/// has answered it has read, and all that was written before that.
#[derive(Debug, Default)]
struct LegacyQueue {
    /// Packets that are not written, with their numbers and keys, oldest first; what is one-way has no key.
    queue: VecDeque<(u64, Option<u64>, Bytes)>,
    queued_bytes: usize,
    next_number: u64,
    /// Packets that the node may not have read, oldest first.
    unread: VecDeque<UnreadPacket>,
    unread_bytes: usize,
}

#[derive(Debug)]
struct UnreadPacket {
    key: Option<u64>,
    bytes: usize,
    written: Instant,
}

/// What is one-way is not answered, so when an old node has read it is a guess: one that works turns its loop in this time.
const LEGACY_READ_TIME: Duration = Duration::from_millis(500);

const SLOT_BITS: u32 = 16;
/// A buffer that has become larger is given back when it is empty.
const USUAL_BATCH_BYTES: usize = 64 * 1024;

impl InFlight {
    pub(crate) fn new(version: Version, limits: InFlightLimits) -> Self {
        let write_queue = match version {
            Version::V1 => WriteQueue::Legacy(LegacyQueue::default()),
            Version::V2 => WriteQueue::Batch(BatchQueue::default()),
        };
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            waiting: 0,
            write_queue,
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
        if let WriteQueue::Legacy(legacy) = &mut self.write_queue {
            legacy.has_read(key);
        }
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
        match &self.write_queue {
            WriteQueue::Legacy(LegacyQueue { unread, .. }) if unread.len() == 1 => unread.front().and_then(|it| it.key),
            WriteQueue::Legacy(_) | WriteQueue::Batch(_) => None,
        }
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
        if let WriteQueue::Batch(batch) = &mut self.write_queue {
            batch.written += bytes as u64;
        }
    }

    /// Whether packets wait for a version 1 node to answer earlier ones.
    pub(crate) fn is_held_back(&self) -> bool {
        match &self.write_queue {
            WriteQueue::Batch(_) => false,
            WriteQueue::Legacy(legacy) => !legacy.queue.is_empty() && legacy.unread_bytes > 0,
        }
    }

    /// When [`expire`](Self::expire) or [`fill_write_buffer`](Self::fill_write_buffer) may have something to do, though nothing
    /// happens.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let guess = match &self.write_queue {
            WriteQueue::Legacy(legacy) if !legacy.queue.is_empty() => {
                legacy.unread.front().filter(|it| it.key.is_none()).map(|it| it.written + LEGACY_READ_TIME)
            }
            WriteQueue::Legacy(_) | WriteQueue::Batch(_) => None,
        };
        self.next_deadline.into_iter().chain(guess).min()
    }

    /// Whether the call that was admitted last is to be written without waiting for anything: it is alone, and there were few before.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting == 1 && self.last_peak < MANY_IN_FLIGHT
    }

    /// Whether the next write should wait until those have called who are about to be woken: a write costs as much as a good many calls.
    /// Only once for each write, and only while many are in flight, or open: of few nobody has a call to add, and each of them would wait in vain.
    pub(crate) fn yields_for_others(&mut self) -> bool {
        let gathers = matches!(&self.write_queue, WriteQueue::Batch(batch) if !batch.bytes.is_empty());
        self.has_yielded = gathers && self.len() >= MANY_IN_FLIGHT && !self.has_yielded;
        self.has_yielded
    }

    /// Whether something waits to be written.
    pub(crate) fn has_outgoing(&self) -> bool {
        match &self.write_queue {
            WriteQueue::Batch(batch) => !batch.bytes.is_empty(),
            WriteQueue::Legacy(legacy) => !legacy.queue.is_empty(),
        }
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

impl WriteQueue {
    /// Takes a small packet that has to leave whatever else waits.
    fn push_unbounded(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if let Self::Batch(batch) = self {
            write(&mut batch.bytes);
        }
    }

    fn push(
        &mut self,
        limits: &InFlightLimits,
        key: Option<u64>,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<QueuedRange, EnqueueError> {
        match self {
            Self::Batch(batch) => {
                let start = batch.bytes.len();
                write(&mut batch.bytes);
                let bytes = batch.bytes.len() - start;
                let waiting = batch.end() - batch.written;
                let refusal = if bytes > limits.max_packet_bytes {
                    Some(EnqueueError::TooLarge)
                } else {
                    // Alone, any packet fits.
                    let is_alone = waiting == bytes as u64;
                    (waiting > limits.max_queued_bytes as u64 && !is_alone).then_some(EnqueueError::Full)
                };
                match refusal {
                    Some(refusal) => {
                        batch.bytes.truncate(start);
                        Err(refusal)
                    }
                    None => Ok(QueuedRange { first: batch.first + start as u64, bytes }),
                }
            }
            Self::Legacy(legacy) => {
                let mut packet = BytesMut::new();
                write(&mut packet);
                let bytes = packet.len();
                if bytes > LEGACY_READ_BYTES {
                    return Err(EnqueueError::TooLarge);
                }
                if legacy.queued_bytes + bytes > limits.max_queued_bytes && legacy.queued_bytes > 0 {
                    return Err(EnqueueError::Full);
                }
                let number = legacy.next_number;
                legacy.next_number += 1;
                legacy.queued_bytes += bytes;
                legacy.queue.push_back((number, key, packet.freeze()));
                Ok(QueuedRange { first: number, bytes })
            }
        }
    }

    /// Whether the whole packet has left: a part of one cannot be carried out.
    fn has_written(&self, range: QueuedRange) -> bool {
        match self {
            Self::Batch(batch) => range.first + range.bytes as u64 <= batch.written,
            Self::Legacy(legacy) => legacy.queue.front().is_none_or(|(number, ..)| range.first < *number),
        }
    }

    fn withdraw(&mut self, limits: &InFlightLimits, key: u64, range: QueuedRange) {
        match self {
            Self::Batch(batch) if range.first >= batch.first => {
                // An empty frame, which everybody passes over, is all that is left of it.
                let start = usize::try_from(range.first - batch.first).unwrap_or(usize::MAX);
                let end = start + range.bytes - protocol::DELIMITER.len();
                batch.bytes[start..end].fill(b' ');
            }
            Self::Batch(batch) => {
                if batch.bytes.len() < limits.max_queued_bytes {
                    write_cancel(&mut batch.bytes, key);
                }
            }
            Self::Legacy(legacy) => {
                if let Ok(position) = legacy.queue.binary_search_by_key(&range.first, |(number, ..)| *number)
                    && let Some((.., packet)) = legacy.queue.remove(position)
                {
                    legacy.queued_bytes -= packet.len();
                }
            }
        }
    }

    fn fill(&mut self, now: Instant, into: &mut BytesMut) -> bool {
        match self {
            Self::Batch(batch) => {
                if batch.bytes.is_empty() {
                    return false;
                }
                batch.first = batch.end();
                into.clear();
                if into.capacity() > USUAL_BATCH_BYTES {
                    *into = BytesMut::new();
                }
                std::mem::swap(into, &mut batch.bytes);
                true
            }
            Self::Legacy(legacy) => {
                legacy.assume_read(now);
                let Some((.., next)) = legacy.queue.front() else { return false };
                if legacy.unread_bytes + next.len() > LEGACY_READ_BYTES {
                    return false;
                }
                let Some((_, key, packet)) = legacy.queue.pop_front() else { return false };
                legacy.queued_bytes -= packet.len();
                legacy.unread.push_back(UnreadPacket { key, bytes: packet.len(), written: now });
                legacy.unread_bytes += packet.len();
                into.clear();
                into.extend_from_slice(&packet);
                true
            }
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Batch(batch) => {
                batch.first = batch.end();
                batch.written = batch.first;
                batch.bytes = BytesMut::new();
            }
            Self::Legacy(legacy) => *legacy = LegacyQueue::default(),
        }
    }
}

impl BatchQueue {
    fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }
}

impl LegacyQueue {
    /// The node has answered this call, and so has read it and all before it.
    fn has_read(&mut self, key: u64) {
        if let Some(position) = self.unread.iter().position(|unread| unread.key == Some(key)) {
            let read: usize = self.unread.drain(..=position).map(|unread| unread.bytes).sum();
            self.unread_bytes -= read;
        }
    }

    /// What is one-way, and has had its time, counts as read.
    fn assume_read(&mut self, now: Instant) {
        while let Some(UnreadPacket { key: None, bytes, written }) = self.unread.front()
            && *written + LEGACY_READ_TIME <= now
        {
            self.unread_bytes -= bytes;
            self.unread.pop_front();
        }
    }
}

mod streams;
#[cfg(test)]
mod tests;
