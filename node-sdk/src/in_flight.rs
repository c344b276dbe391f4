//! The calls on one connection to another node, without I/O.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use protocol::{LEGACY_READ_BYTES, Version};

/// Calls of one connection: those that wait to be written, and those that wait for an answer.
///
/// Towards a version 1 node at most [`LEGACY_READ_BYTES`] are written that it has not surely read. What it answered it has
/// read, and all that was written before that.
#[derive(Debug)]
pub(crate) struct InFlight<W> {
    version: Version,
    limits: Limits,
    next_key: u64,
    calls: HashMap<u64, W>,
    /// Packets that are not written, with their keys, oldest first.
    queue: VecDeque<(u64, Bytes)>,
    queued_bytes: usize,
    /// Sizes of packets that a version 1 node may not have read, with their keys, oldest first.
    unread: VecDeque<(u64, usize)>,
    unread_bytes: usize,
}

/// How much may wait on one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Calls without an answer.
    pub(crate) max_calls: usize,
    /// Bytes that are not written.
    pub(crate) max_queued_bytes: usize,
    /// Bytes of one packet that a version 2 node takes.
    pub(crate) max_packet_bytes: usize,
}

/// Why a call was not taken. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As much waits as may.
    Full,
    /// A version 1 node could not read it in one piece, a version 2 node would cut the connection.
    TooLarge,
}

impl<W> InFlight<W> {
    pub(crate) fn new(version: Version, limits: Limits) -> Self {
        Self {
            version,
            limits,
            next_key: 1,
            calls: HashMap::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            unread: VecDeque::new(),
            unread_bytes: 0,
        }
    }

    /// Takes a call whose packet `write` makes for a given key; `waiter` is given back with its answer.
    pub(crate) fn admit(&mut self, waiter: W, write: impl FnOnce(u64, &mut BytesMut)) -> Result<u64, Refusal> {
        let key = self.next_key;
        let mut packet = BytesMut::with_capacity(256);
        write(key, &mut packet);
        let max_packet_bytes = match self.version {
            Version::V1 => LEGACY_READ_BYTES,
            Version::V2 => self.limits.max_packet_bytes,
        };
        if packet.len() > max_packet_bytes {
            return Err(Refusal::TooLarge);
        }
        let bytes = self.queued_bytes + packet.len();
        // One packet alone always fits.
        let fits = self.queue.is_empty() || bytes <= self.limits.max_queued_bytes;
        if !fits || self.calls.len() >= self.limits.max_calls {
            return Err(Refusal::Full);
        }
        self.next_key += 1;
        self.queued_bytes = bytes;
        self.queue.push_back((key, packet.freeze()));
        self.calls.insert(key, waiter);
        Ok(key)
    }

    /// What is to be written next, counted as written: for version 2 all there is, for version 1 one packet, if it fits.
    pub(crate) fn take_outgoing(&mut self) -> Option<Bytes> {
        match self.version {
            Version::V1 => {
                let (_, packet) = self.queue.front()?;
                if self.unread_bytes > 0 && self.unread_bytes + packet.len() > LEGACY_READ_BYTES {
                    return None;
                }
                let (key, packet) = self.queue.pop_front()?;
                self.unread.push_back((key, packet.len()));
                self.unread_bytes += packet.len();
                self.queued_bytes -= packet.len();
                Some(packet)
            }
            Version::V2 if self.queue.len() <= 1 => {
                self.queued_bytes = 0;
                self.queue.pop_front().map(|(_, packet)| packet)
            }
            Version::V2 => {
                let mut all = BytesMut::with_capacity(self.queued_bytes);
                for (_, packet) in self.queue.drain(..) {
                    all.extend_from_slice(&packet);
                }
                self.queued_bytes = 0;
                Some(all.freeze())
            }
        }
    }

    /// Whether packets wait for a version 1 node to answer earlier ones.
    pub(crate) fn is_held_back(&self) -> bool {
        self.version == Version::V1 && !self.queue.is_empty() && self.unread_bytes > 0
    }

    /// An answer came: whose it is, if anybody still waits for it.
    pub(crate) fn answer(&mut self, key: u64) -> Option<W> {
        if let Some(position) = self.unread.iter().position(|&(written, _)| written == key) {
            let read = self.unread.drain(..=position).map(|(_, bytes)| bytes).sum::<usize>();
            self.unread_bytes -= read;
        }
        self.calls.remove(&key)
    }

    /// The only call that a version 1 node has before it, if there is just one: an answer without a key must be for it,
    /// even if nobody waits for it any more.
    pub(crate) fn only_unanswered(&self) -> Option<u64> {
        if self.unread.len() == 1 { self.unread.front().map(|(key, _)| *key) } else { None }
    }

    /// Nobody waits for this call any more. If it is not written, it never will be.
    pub(crate) fn cancel(&mut self, key: u64) {
        if self.calls.remove(&key).is_none() {
            return;
        }
        if let Some(position) = self.queue.iter().position(|&(queued, _)| queued == key)
            && let Some((_, packet)) = self.queue.remove(position)
        {
            self.queued_bytes -= packet.len();
        }
    }

    /// The connection is lost: every call, and whether it may have been carried out.
    pub(crate) fn fail_all(&mut self) -> Vec<(W, bool)> {
        let mut unsent: Vec<_> = self.queue.drain(..).filter_map(|(key, _)| self.calls.remove(&key)).collect();
        self.queued_bytes = 0;
        self.unread.clear();
        self.unread_bytes = 0;
        let mut calls: Vec<_> = self.calls.drain().map(|(_, waiter)| (waiter, true)).collect();
        calls.extend(unsent.drain(..).map(|waiter| (waiter, false)));
        calls
    }

    /// How many calls wait for an answer.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { max_calls: 4, max_queued_bytes: 100, max_packet_bytes: 1000 };

    fn admit(calls: &mut InFlight<u64>, bytes: usize) -> Result<u64, Refusal> {
        let waiter = calls.next_key;
        calls.admit(waiter, |_, out| out.resize(bytes, b'x'))
    }

    #[test]
    fn limits_are_exact() {
        let mut calls = InFlight::new(Version::V2, LIMITS);
        assert_eq!(admit(&mut calls, 1001), Err(Refusal::TooLarge));
        assert_eq!(admit(&mut calls, 1000), Ok(1), "alone, any size up to a packet's fits");
        assert_eq!(admit(&mut calls, 1), Err(Refusal::Full));
        assert_eq!(calls.take_outgoing().map(|bytes| bytes.len()), Some(1000));
        assert_eq!((admit(&mut calls, 60), admit(&mut calls, 40)), (Ok(2), Ok(3)));
        assert_eq!(admit(&mut calls, 1), Err(Refusal::Full));
        assert_eq!(calls.take_outgoing().map(|bytes| bytes.len()), Some(100), "all in one write");
        assert_eq!(admit(&mut calls, 1), Ok(4));
        assert_eq!(admit(&mut calls, 1), Err(Refusal::Full), "four calls have no answer");
        assert_eq!(calls.answer(2), Some(2));
        assert_eq!(admit(&mut calls, 1), Ok(5));
    }

    #[test]
    fn gu6_only_known_keys_are_answers_and_each_only_once() {
        let mut calls = InFlight::new(Version::V2, LIMITS);
        let key = admit(&mut calls, 1).unwrap();
        assert_eq!(calls.answer(key + 1), None);
        assert_eq!(calls.answer(key), Some(key));
        assert_eq!(calls.answer(key), None);
    }

    #[test]
    fn what_was_not_written_is_told_apart() {
        let mut calls = InFlight::new(Version::V2, LIMITS);
        for _ in 0..3 {
            admit(&mut calls, 1).unwrap();
        }
        calls.cancel(3);
        calls.take_outgoing();
        admit(&mut calls, 1).unwrap();
        admit(&mut calls, 1).unwrap();
        calls.cancel(4);
        let mut failed = calls.fail_all();
        failed.sort_unstable();
        assert_eq!(failed, [(1, true), (2, true), (5, false)]);
        assert_eq!((calls.len(), calls.take_outgoing()), (0, None));
    }

    #[test]
    fn old_nodes_get_one_packet_per_write_within_the_window() {
        let mut calls = InFlight::new(Version::V1, Limits { max_calls: 9, max_queued_bytes: 1 << 20, ..LIMITS });
        assert_eq!(admit(&mut calls, LEGACY_READ_BYTES + 1), Err(Refusal::TooLarge));
        for _ in 0..4 {
            admit(&mut calls, LEGACY_READ_BYTES / 2).unwrap();
        }
        assert!(calls.take_outgoing().is_some() && calls.take_outgoing().is_some());
        assert!(calls.take_outgoing().is_none() && calls.is_held_back());
        calls.answer(2);
        assert!(calls.take_outgoing().is_some(), "the second was read, so the first was too");
        assert!(calls.take_outgoing().is_some() && !calls.is_held_back());
        calls.cancel(3);
        assert_eq!(calls.unread_bytes, LEGACY_READ_BYTES, "a call nobody waits for has still to be read");
    }

    proptest! {
        /// Whatever happens, an old node never has more than one read's worth before it, and counts add up.
        #[test]
        fn the_window_holds(steps in proptest::collection::vec((0_u8..4, 1_usize..40_000), 0..200)) {
            let mut calls = InFlight::new(Version::V1, Limits { max_calls: 50, max_queued_bytes: 1 << 20, ..LIMITS });
            let mut written: VecDeque<(u64, usize)> = VecDeque::new();
            for (step, number) in steps {
                match step {
                    0 => drop(admit(&mut calls, number)),
                    1 => {
                        let key = calls.queue.front().map(|(key, _)| *key);
                        if let Some(packet) = calls.take_outgoing() {
                            written.push_back((key.unwrap(), packet.len()));
                        }
                    }
                    2 => calls.cancel(number as u64 % calls.next_key),
                    _ => {
                        // A node answers something that it has read, and reads in order.
                        if !written.is_empty() {
                            let position = number % written.len();
                            let key = written.drain(..=position).next_back().unwrap().0;
                            calls.answer(key);
                        }
                    }
                }
                let unread: usize = written.iter().map(|(_, bytes)| bytes).sum();
                prop_assert!(unread <= LEGACY_READ_BYTES);
                prop_assert_eq!(unread, calls.unread_bytes);
                prop_assert_eq!(calls.queued_bytes, calls.queue.iter().map(|(_, packet)| packet.len()).sum::<usize>());
            }
        }
    }
}
