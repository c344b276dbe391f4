//! Packets of one connection on their way to the socket, without I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::{Version, write_cancel};

use crate::transport::limits::InFlightLimits;

/// Packets on their way to the socket.
#[derive(Debug)]
pub(crate) enum WriteQueue {
    Batch(BatchQueue),
    Legacy(LegacyQueue),
}

/// The queue for version 2 nodes: all waiting packets leave in one write.
#[derive(Debug, Default)]
pub(crate) struct BatchQueue {
    bytes: BytesMut,
    /// The position of the first byte among all bytes ever queued.
    first: u64,
    /// How many bytes of all the socket has taken.
    written: u64,
    one_way: OneWayPackets,
}

/// The routes of one-way packets that are not written yet, each with the position of its end, or
/// its number. The bytes of the queue bound them.
type OneWayPackets = VecDeque<(u64, Arc<str>)>;

/// The queue for version 1 nodes: a write for each packet, and never more than the read window of
/// the node that it may not have read. A call that is answered was read, and so was everything
/// written before it.
#[derive(Debug, Default)]
pub(crate) struct LegacyQueue {
    /// Packets that are not yet written, with their numbers and keys, oldest first. One-way packets
    /// have no key.
    queue: VecDeque<(u64, Option<u64>, Bytes)>,
    one_way: OneWayPackets,
    queued_bytes: usize,
    next_number: u64,
    /// Packets that the node may not have read, oldest first.
    unread: VecDeque<UnreadPacket>,
    unread_bytes: usize,
}

/// The position of a packet: its first byte among all bytes ever queued, or its number among all
/// packets; and its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedRange {
    first: u64,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct UnreadPacket {
    key: Option<u64>,
    bytes: usize,
    written: Instant,
}

/// Why a packet was not queued. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnqueueError {
    /// The queue is full.
    Full,
    /// The packet is too large: a version 1 node could not read it in one piece, and a version 2
    /// node would cut the connection.
    TooLarge,
}

/// An estimate of when a version 1 node has read a one-way packet, which it does not answer: a node
/// that works reads within this time.
const LEGACY_READ_TIME: Duration = Duration::from_millis(500);

/// A larger buffer is freed when it is empty.
const USUAL_BATCH_BYTES: usize = 64 * 1024;

impl WriteQueue {
    pub(crate) fn new(version: Version) -> Self {
        match version {
            Version::V1 => Self::Legacy(LegacyQueue::default()),
            Version::V2 => Self::Batch(BatchQueue::default()),
        }
    }

    /// Whether something waits to be written.
    pub(crate) fn has_waiting(&self) -> bool {
        match self {
            Self::Batch(batch) => !batch.bytes.is_empty(),
            Self::Legacy(legacy) => !legacy.queue.is_empty(),
        }
    }

    /// Whether more packets can join the next write.
    pub(crate) fn can_gather(&self) -> bool {
        matches!(self, Self::Batch(batch) if !batch.bytes.is_empty())
    }

    /// Whether packets wait for a version 1 node to answer earlier ones.
    pub(crate) fn waits_for_responses(&self) -> bool {
        match self {
            Self::Batch(_) => false,
            Self::Legacy(legacy) => !legacy.queue.is_empty() && legacy.unread_bytes > 0,
        }
    }

    /// When [`fill`](Self::fill) may have work without another event.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self {
            Self::Legacy(legacy) if !legacy.queue.is_empty() => {
                legacy.unread.front().filter(|it| it.key.is_none()).map(|it| it.written + LEGACY_READ_TIME)
            }
            Self::Legacy(_) | Self::Batch(_) => None,
        }
    }

    /// Records that the socket has taken this many bytes.
    pub(crate) fn record_write(&mut self, bytes: usize) {
        if let Self::Batch(batch) = self {
            batch.written += bytes as u64;
            while batch.one_way.front().is_some_and(|(end, _)| *end <= batch.written) {
                batch.one_way.pop_front();
            }
        }
    }

    /// Records that the packet of this range has no response. Its route is told if it is lost.
    pub(crate) fn record_one_way(&mut self, range: QueuedRange, route: &Arc<str>) {
        match self {
            Self::Batch(batch) => batch.one_way.push_back((range.first + range.bytes as u64, Arc::clone(route))),
            Self::Legacy(legacy) => legacy.one_way.push_back((range.first, Arc::clone(route))),
        }
    }

    /// Records that the node has answered this call, so that it has read the call and everything
    /// before it.
    pub(crate) fn record_read(&mut self, key: u64) {
        if let Self::Legacy(legacy) = self {
            legacy.record_read(key);
        }
    }

    /// The only packet that a version 1 node has not read or answered, if there is just one and it
    /// is a call.
    pub(crate) fn only_unread(&self) -> Option<u64> {
        match self {
            Self::Legacy(LegacyQueue { unread, .. }) if unread.len() == 1 => unread.front().and_then(|it| it.key),
            Self::Legacy(_) | Self::Batch(_) => None,
        }
    }

    /// Queues a small packet, however many bytes wait.
    pub(crate) fn push_unbounded(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if let Self::Batch(batch) = self {
            write(&mut batch.bytes);
        }
    }

    /// Queues a packet that `write` makes.
    ///
    /// # Errors
    /// [`EnqueueError`]; then nothing was queued.
    pub(crate) fn push(
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
                    // A single packet always fits.
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
                if bytes > limits.read_window {
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

    /// Whether the whole packet was written: a node cannot carry out a part of one.
    pub(crate) fn has_written(&self, range: QueuedRange) -> bool {
        match self {
            Self::Batch(batch) => range.first + range.bytes as u64 <= batch.written,
            Self::Legacy(legacy) => legacy.queue.front().is_none_or(|(number, ..)| range.first < *number),
        }
    }

    /// Takes back a call. A packet that has not been written becomes an empty frame. A version 2
    /// node that has the packet is sent `$cancel`; a version 1 node cannot be told.
    pub(crate) fn withdraw(&mut self, limits: &InFlightLimits, key: u64, range: QueuedRange) {
        match self {
            Self::Batch(batch) if range.first >= batch.first => {
                // Peers ignore empty frames, so the packet becomes an empty frame.
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

    /// Moves what may be written now into `into`. Returns `false` if that is nothing.
    pub(crate) fn fill(&mut self, limits: &InFlightLimits, now: Instant, into: &mut BytesMut) -> bool {
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
                if legacy.unread_bytes + next.len() > limits.read_window {
                    return false;
                }
                let Some((number, key, packet)) = legacy.queue.pop_front() else { return false };
                if legacy.one_way.front().is_some_and(|(one_way, _)| *one_way == number) {
                    legacy.one_way.pop_front();
                }
                legacy.queued_bytes -= packet.len();
                legacy.unread.push_back(UnreadPacket { key, bytes: packet.len(), written: now });
                legacy.unread_bytes += packet.len();
                into.clear();
                into.extend_from_slice(&packet);
                true
            }
        }
    }

    /// Drops everything that waits. Returns the routes of one-way packets that were not written as
    /// a whole.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = Arc<str>> {
        let one_way = match self {
            Self::Batch(batch) => {
                batch.first = batch.end();
                batch.written = batch.first;
                batch.bytes = BytesMut::new();
                std::mem::take(&mut batch.one_way)
            }
            Self::Legacy(legacy) => std::mem::take(legacy).one_way,
        };
        one_way.into_iter().map(|(_, route)| route)
    }
}

impl BatchQueue {
    fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }
}

impl LegacyQueue {
    /// Records that the node has answered this call, so that it has read the call and everything
    /// before it.
    fn record_read(&mut self, key: u64) {
        if let Some(position) = self.unread.iter().position(|unread| unread.key == Some(key)) {
            let read: usize = self.unread.drain(..=position).map(|unread| unread.bytes).sum();
            self.unread_bytes -= read;
        }
    }

    /// Counts one-way packets as read after some time.
    fn assume_read(&mut self, now: Instant) {
        while let Some(UnreadPacket { key: None, bytes, written }) = self.unread.front()
            && *written + LEGACY_READ_TIME <= now
        {
            self.unread_bytes -= bytes;
            self.unread.pop_front();
        }
    }
}
