//! The messages of one session: those that wait for its socket, and, if it can be resumed, those
//! that its client may not have.

use std::collections::VecDeque;

use bytes::Bytes;

/// Messages that wait for a client, or that it may not have, and their bytes. A client that reads
/// is behind by a few; one that was cut gets half a minute of a busy chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutboxLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// The limits of each session.
pub(crate) const LIMITS: OutboxLimits = OutboxLimits { messages: MAX_MESSAGES, bytes: MAX_BYTES };
const MAX_MESSAGES: usize = 1024;
/// Bytes of these messages. One message may have four times as many, if it is alone.
const MAX_BYTES: usize = 256 * 1024;

/// The outbox of a session. Messages have numbers from 1.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// The messages from `first` on.
    messages: VecDeque<Bytes>,
    first: u64,
    /// The number of the next message for the socket.
    next: u64,
    bytes: usize,
    limits: OutboxLimits,
    /// Whether messages are kept after the socket has taken them.
    keeps: bool,
    drops_oldest: bool,
    /// How many messages the client has lost for good.
    dropped: u64,
}

/// The outbox is full, so the message was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Outbox {
    /// An outbox that keeps messages if they can be asked for again.
    pub(crate) fn new(keeps: bool, drops_oldest: bool, limits: OutboxLimits) -> Self {
        Self { messages: VecDeque::new(), first: 1, next: 1, bytes: 0, limits, keeps, drops_oldest, dropped: 0 }
    }

    /// Adds a message. Messages that the socket has taken make room first.
    ///
    /// # Errors
    /// [`Full`], if the oldest may not be dropped.
    pub(crate) fn push(&mut self, message: Bytes) -> Result<(), Full> {
        while !self.has_room(message.len()) {
            if self.first == self.next {
                if !self.drops_oldest {
                    return Err(Full);
                }
                self.next += 1;
                self.dropped += 1;
            }
            self.forget_first();
        }
        self.bytes += message.len();
        self.messages.push_back(message);
        Ok(())
    }

    /// The next message for the socket, with its number.
    pub(crate) fn take(&mut self) -> Option<(u64, Bytes)> {
        let number = self.next;
        let message = self.messages.get(usize::try_from(number - self.first).ok()?)?.clone();
        self.next += 1;
        if !self.keeps {
            self.forget_first();
        }
        Some((number, message))
    }

    /// The client has all messages up to this number.
    pub(crate) fn acknowledge(&mut self, number: u64) {
        while self.first < self.next && self.first <= number {
            self.forget_first();
        }
    }

    /// A new socket takes the messages behind this number. Returns whether some of these are gone.
    pub(crate) fn resume(&mut self, after: u64) -> bool {
        let wanted = after.saturating_add(1).min(self.end());
        self.next = wanted.max(self.first);
        self.acknowledge(self.next - 1);
        wanted < self.next
    }

    /// The number of the last message that the socket has taken.
    pub(crate) fn last_taken(&self) -> u64 {
        self.next - 1
    }

    /// The bytes of the messages that it has.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a message waits for the socket.
    pub(crate) fn has_waiting(&self) -> bool {
        self.next < self.end()
    }

    /// How many messages were dropped since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Whether there is room for one more message: any, if it is alone.
    fn has_room(&self, bytes: usize) -> bool {
        self.messages.is_empty()
            || (self.messages.len() < self.limits.messages && self.bytes + bytes <= self.limits.bytes)
    }

    /// The number of the message that is pushed next.
    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    fn forget_first(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= message.len();
            self.first += 1;
        }
        if self.messages.is_empty() {
            // An idle session holds no memory.
            self.messages = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: OutboxLimits = OutboxLimits { messages: 3, bytes: 10 };

    fn message(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    /// The numbers that the socket takes now.
    fn taken(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.take().map(|(number, _)| number)).collect()
    }

    #[test]
    fn an_outbox_is_full_by_messages_or_bytes() {
        let check = |sizes: &[usize], expected: usize| {
            let mut outbox = Outbox::new(false, false, SMALL);
            let pushed = sizes.iter().take_while(|size| outbox.push(message(**size)).is_ok()).count();
            assert_eq!(pushed, expected, "{sizes:?}");
            assert_eq!(taken(&mut outbox), (1..=expected as u64).collect::<Vec<_>>());
            assert!(outbox.push(message(1)).is_ok() && outbox.has_waiting());
        };
        check(&[1, 1, 1, 1], 3);
        check(&[5, 5, 1], 2);
        check(&[40, 1], 1);
    }

    #[test]
    fn the_oldest_are_dropped_if_the_route_says_so() {
        let mut outbox = Outbox::new(false, true, SMALL);
        (0..5).for_each(|_| outbox.push(message(1)).unwrap());
        assert_eq!(outbox.take_dropped(), 2);
        assert_eq!(taken(&mut outbox), [3, 4, 5]);
        outbox.push(message(4)).unwrap();
        outbox.push(message(40)).unwrap();
        assert_eq!((taken(&mut outbox), outbox.take_dropped()), (vec![7], 1));
    }

    #[test]
    fn a_client_that_comes_back_gets_what_it_has_missed() {
        let mut outbox = Outbox::new(true, false, SMALL);
        (0..3).for_each(|_| outbox.push(message(1)).unwrap());
        assert_eq!(taken(&mut outbox), [1, 2, 3]);
        // It has the first.
        assert!(!outbox.resume(1));
        assert_eq!(taken(&mut outbox), [2, 3]);
        // Those that were taken make room for new ones.
        outbox.push(message(1)).unwrap();
        outbox.push(message(1)).unwrap();
        assert!(outbox.resume(1), "2 is gone");
        assert_eq!(taken(&mut outbox), [3, 4, 5]);
        outbox.acknowledge(4);
        assert!(!outbox.resume(4));
        assert_eq!((taken(&mut outbox), outbox.last_taken()), (vec![5], 5));
        // A number that was never sent is as good as the last.
        assert!(!outbox.resume(99));
        assert_eq!(taken(&mut outbox), Vec::<u64>::new());
        // What waits is not forgotten for new ones.
        (0..3).for_each(|_| outbox.push(message(1)).unwrap());
        assert_eq!(outbox.push(message(1)), Err(Full));
    }

    proptest! {
        /// As a list of all messages that were ever pushed, and two positions in it.
        #[test]
        fn an_outbox_is_a_window_of_all_messages(
            keeps: bool,
            drops: bool,
            steps in proptest::collection::vec((0..4u8, 0..6u64), 1..60),
        ) {
            let mut outbox = Outbox::new(keeps, drops, SMALL);
            let (mut pushed, mut next) = (0_u64, 1_u64);
            for (step, number) in steps {
                match step {
                    0 | 1 => if outbox.push(message(number as usize)).is_ok() {
                        pushed += 1;
                        next += outbox.take_dropped();
                    } else {
                        prop_assert!(!drops);
                    },
                    2 => if let Some((taken, _)) = outbox.take() {
                        prop_assert_eq!(taken, next);
                        next += 1;
                    } else {
                        prop_assert_eq!(next, pushed + 1);
                    },
                    _ if keeps => {
                        let after = next.saturating_sub(number);
                        let missed = outbox.resume(after);
                        let from = outbox.last_taken() + 1;
                        let wanted = (after + 1).min(pushed + 1);
                        prop_assert!(from >= wanted && missed == (from > wanted));
                        next = from;
                    }
                    _ => {}
                }
                prop_assert!(outbox.messages.len() <= SMALL.messages);
                prop_assert!(outbox.messages.len() <= 1 || outbox.bytes <= SMALL.bytes);
            }
        }
    }
}
