//! The open events of one subscription, and the node that has each, without I/O. An event goes to
//! one node at a time. It is done when that node has acknowledged it, or when it is buried.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Maximum number of open events of a subscription. An event that fails for long delays only events
/// of its key.
pub(crate) const MAX_OPEN: usize = 256;
/// Maximum bytes of their payloads. A single event may have more.
pub(crate) const MAX_OPEN_BYTES: usize = 16 << 20;
/// Maximum number of attempts at one event. They take about ten minutes with their pauses. A fault
/// that lasts longer is in the event or the handler, and events of the same key wait behind it.
pub(crate) const MAX_ATTEMPTS: u32 = 16;
/// The pause after the first failed attempt. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// An event as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    /// Its position in the log, from 1.
    pub(crate) position: u64,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) key: Option<String>,
    /// When it was published, in milliseconds since 1970.
    pub(crate) time: u64,
    /// The payload as JSON.
    pub(crate) payload: String,
}

/// The number of one reader's stream.
pub(crate) type Consumer = u64;

/// The events of one subscription that were read from the log and are not done.
#[derive(Debug)]
pub(crate) struct Deliveries {
    /// All events up to here are done.
    floor: u64,
    /// The log was read up to here.
    read: u64,
    /// The events after `floor` and up to `read` that are not done.
    open: BTreeMap<u64, OpenEvent>,
    bytes: usize,
}

#[derive(Debug)]
struct OpenEvent {
    event: Arc<StoredEvent>,
    /// The number of failed attempts.
    failed: u32,
    state: OpenState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenState {
    /// It waits, and may be sent from this time on.
    Waits(Instant),
    /// The reader of this number has it.
    Leased(Consumer),
}

/// The effect of a failed attempt on its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureOutcome {
    /// The event is sent again.
    Again,
    /// The event is not sent again; the caller has to bury it.
    Buried,
    /// The reader no longer had the event, so nothing changes.
    Unknown,
}

impl Deliveries {
    /// The state of a subscription whose events up to `floor` are done.
    pub(crate) fn new(floor: u64) -> Self {
        Self { floor, read: floor, open: BTreeMap::new(), bytes: 0 }
    }

    /// All events up to here are done.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The position after which the log has to be read; `None` while enough events are open.
    pub(crate) fn wants_after(&self) -> Option<u64> {
        (self.open.len() < MAX_OPEN && self.bytes < MAX_OPEN_BYTES).then_some(self.read)
    }

    /// Adds events that were read from the log, up to the position `read`. They are in order.
    pub(crate) fn add(&mut self, events: impl IntoIterator<Item = Arc<StoredEvent>>, read: u64, now: Instant) {
        for event in events {
            if event.position > self.read {
                self.bytes += event.payload.len();
                let open = OpenEvent { event: Arc::clone(&event), failed: 0, state: OpenState::Waits(now) };
                self.open.insert(event.position, open);
            }
        }
        self.read = self.read.max(read);
        self.raise_floor();
    }

    /// Leases the next event to a node, with the number of its attempts that have failed. Events of
    /// one key are leased one after the other, in the order of the log.
    pub(crate) fn lease(&mut self, consumer: Consumer, now: Instant) -> Option<(Arc<StoredEvent>, u32)> {
        let mut keys = HashSet::new();
        for open in self.open.values_mut() {
            let is_first = open.event.key.as_deref().is_none_or(|key| keys.insert(key));
            match open.state {
                OpenState::Waits(at) if is_first && at <= now => {
                    open.state = OpenState::Leased(consumer);
                    return Some((Arc::clone(&open.event), open.failed));
                }
                OpenState::Waits(_) | OpenState::Leased(_) => {}
            }
        }
        None
    }

    /// The time at which the next waiting event may be leased.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let mut keys = HashSet::new();
        let waits = |open: &OpenEvent| match open.state {
            OpenState::Waits(at) => Some(at),
            OpenState::Leased(_) => None,
        };
        // An event that waits for an earlier one of its key has no time of its own.
        let firsts = self.open.values().filter(|open| open.event.key.as_deref().is_none_or(|key| keys.insert(key)));
        firsts.filter_map(waits).min()
    }

    /// Marks an event as handled by a reader. Returns whether the reader had it.
    pub(crate) fn acknowledge(&mut self, consumer: Consumer, position: u64) -> bool {
        let is_leased = self.open.get(&position).is_some_and(|open| open.state == OpenState::Leased(consumer));
        if is_leased {
            self.close(position);
        }
        is_leased
    }

    /// A node has failed to handle an event; for good, if another attempt would fail, too.
    pub(crate) fn fail(&mut self, consumer: Consumer, position: u64, for_good: bool, now: Instant) -> FailureOutcome {
        let Some(open) = self.open.get_mut(&position) else { return FailureOutcome::Unknown };
        if open.state != OpenState::Leased(consumer) {
            return FailureOutcome::Unknown;
        }
        open.failed += 1;
        if for_good || open.failed >= MAX_ATTEMPTS {
            self.close(position);
            return FailureOutcome::Buried;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (open.failed - 1).min(16)).min(MAX_PAUSE);
        open.state = OpenState::Waits(now + pause);
        FailureOutcome::Again
    }

    /// Frees the events of a reader that has gone, so that others get them. They do not count as
    /// failed: the reader may have handled some of them.
    pub(crate) fn release(&mut self, consumer: Consumer, now: Instant) {
        for open in self.open.values_mut().filter(|open| open.state == OpenState::Leased(consumer)) {
            open.state = OpenState::Waits(now);
        }
    }

    /// Drops the events up to this position, which the log has removed. Returns how many positions
    /// were never read for this subscription.
    pub(crate) fn skip_to(&mut self, trimmed: u64) -> u64 {
        let missed = trimmed.saturating_sub(self.read);
        self.read = self.read.max(trimmed);
        self.raise_floor();
        missed
    }

    fn close(&mut self, position: u64) {
        if let Some(open) = self.open.remove(&position) {
            self.bytes -= open.event.payload.len();
        }
        self.raise_floor();
    }

    fn raise_floor(&mut self) {
        let first = self.open.first_key_value().map(|(position, _)| position - 1);
        self.floor = self.floor.max(first.unwrap_or(self.read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(position: u64, key: Option<&str>) -> Arc<StoredEvent> {
        let (id, name, payload) = (position.to_string(), "a".to_owned(), "1".to_owned());
        Arc::new(StoredEvent { position, id, name, key: key.map(str::to_owned), time: 0, payload })
    }

    fn leased(deliveries: &mut Deliveries, consumer: Consumer, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| deliveries.lease(consumer, now)).map(|(event, _)| event.position).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_goes_to_one_node_and_those_of_a_key_one_after_the_other() {
        let now = Instant::now();
        let mut deliveries = Deliveries::new(0);
        assert_eq!(deliveries.wants_after(), Some(0));
        let keys = [None, Some("k"), Some("k"), Some("l"), None];
        deliveries.add((1..).zip(keys).map(|(position, key)| event(position, key)), 5, now);
        assert_eq!((leased(&mut deliveries, 1, now), leased(&mut deliveries, 2, now)), (vec![1, 2, 4, 5], vec![]));
        assert!(!deliveries.acknowledge(2, 1), "another node has it");
        assert!(deliveries.acknowledge(1, 2));
        assert_eq!(deliveries.floor(), 0, "the first one is not done");
        assert_eq!(leased(&mut deliveries, 2, now), [3]);
        assert!(deliveries.acknowledge(1, 1) && deliveries.acknowledge(1, 5));
        assert_eq!(deliveries.floor(), 2);
        // Events of a lost node go to others at once, and do not count as failed.
        deliveries.release(2, now);
        assert_eq!(deliveries.lease(1, now).map(|(event, failed)| (event.position, failed)), Some((3, 0)));
        assert!(!deliveries.acknowledge(2, 3));
        assert!(deliveries.acknowledge(1, 3) && deliveries.acknowledge(1, 4));
        assert_eq!((deliveries.floor(), deliveries.bytes), (5, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_later_and_buried_in_the_end() {
        let start = Instant::now();
        let (mut deliveries, mut now) = (Deliveries::new(0), start);
        deliveries.add([event(1, Some("k")), event(2, Some("k")), event(3, None)], 3, now);
        let mut attempts = 0;
        loop {
            let (event, failed) = deliveries.lease(1, now).unwrap();
            assert_eq!((event.position, failed), (1, attempts));
            attempts += 1;
            match deliveries.fail(1, 1, false, now) {
                FailureOutcome::Again => assert!(deliveries.lease(1, now).is_none_or(|(event, _)| event.position == 3)),
                FailureOutcome::Buried => break,
                FailureOutcome::Unknown => panic!("it has it"),
            }
            now = deliveries.next_at().unwrap();
        }
        assert_eq!(attempts, MAX_ATTEMPTS);
        assert!((Duration::from_secs(540)..Duration::from_secs(700)).contains(&(now - start)), "{:?}", now - start);
        assert_eq!(deliveries.lease(1, now).map(|(event, _)| event.position), Some(2), "the next of its key");
        assert_eq!(deliveries.fail(2, 2, true, now), FailureOutcome::Unknown);
        assert_eq!(deliveries.fail(1, 2, true, now), FailureOutcome::Buried);
        assert!(deliveries.acknowledge(1, 3));
        assert_eq!(deliveries.floor(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_open_and_what_is_trimmed_is_missed() {
        let now = Instant::now();
        let mut deliveries = Deliveries::new(0);
        let most = u64::try_from(MAX_OPEN).unwrap();
        deliveries.add((1..=most).map(|position| event(position, None)), most, now);
        assert_eq!(deliveries.wants_after(), None);
        assert_eq!(leased(&mut deliveries, 1, now).len(), MAX_OPEN);
        assert!(deliveries.acknowledge(1, 7));
        assert_eq!(deliveries.wants_after(), Some(most));
        assert_eq!(deliveries.skip_to(most + 10), 10);
        assert_eq!(deliveries.skip_to(3), 0);
        assert_eq!((deliveries.wants_after(), deliveries.floor()), (Some(most + 10), 0));
        let large = StoredEvent { payload: "x".repeat(MAX_OPEN_BYTES), ..(*event(1, None)).clone() };
        let mut deliveries = Deliveries::new(0);
        deliveries.add([Arc::new(large)], 1, now);
        assert_eq!(deliveries.wants_after(), None);
        // Events that do not concern the subscription are done when they are read.
        let mut deliveries = Deliveries::new(5);
        deliveries.add([], 100, now);
        assert_eq!(deliveries.floor(), 100);
    }

    /// The nodes of a subscription and the process of the log crash at any step. Whatever happens,
    /// each event is handled, and those of a key are handled in the order of the log.
    #[tokio::test(start_paused = true)]
    async fn no_crash_loses_an_event_or_changes_the_order_of_a_key() {
        const KEYS: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("c")];
        for seed in 0..500 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let log: Vec<_> = (1..=rng.u64(1..60)).map(|position| event(position, KEYS[rng.usize(0..4)])).collect();
            let end = u64::try_from(log.len()).unwrap();
            // What is on disk, and what only the process has.
            let (mut stored_floor, mut deliveries, mut now) = (0, Deliveries::new(0), Instant::now());
            let mut at_work: Vec<(Consumer, u64)> = Vec::new();
            let (mut handled, mut times): (Vec<u64>, _) = (Vec::new(), vec![0; log.len() + 1]);
            let mut crashes = 20;
            while stored_floor < end {
                now += Duration::from_millis(rng.u64(0..20_000));
                match rng.u8(0..12) {
                    0 | 1 if let Some(after) = deliveries.wants_after() => {
                        let some: Vec<_> = log.iter().filter(|event| event.position > after).take(7).cloned().collect();
                        let read = some.last().map_or(after, |event| event.position);
                        deliveries.add(some, read, now);
                    }
                    2..=4 => {
                        let consumer = rng.u64(0..3);
                        if let Some((event, _)) = deliveries.lease(consumer, now) {
                            assert!(at_work.iter().all(|(_, position)| *position != event.position), "one at a time");
                            at_work.push((consumer, event.position));
                        }
                    }
                    5..=8 if !at_work.is_empty() => {
                        let (consumer, position) = at_work.swap_remove(rng.usize(0..at_work.len()));
                        if times[usize::try_from(position).unwrap()] == 0 && rng.u8(0..4) == 0 {
                            let failed = deliveries.fail(consumer, position, false, now);
                            assert!(failed != FailureOutcome::Unknown);
                        } else {
                            times[usize::try_from(position).unwrap()] += 1;
                            handled.push(position);
                            // The acknowledgement may be lost with the node, later.
                            assert!(deliveries.acknowledge(consumer, position));
                        }
                    }
                    9 => stored_floor = deliveries.floor(),
                    10 if crashes > 0 => {
                        crashes -= 1;
                        let consumer = rng.u64(0..3);
                        deliveries.release(consumer, now);
                        at_work.retain(|(other, _)| *other != consumer);
                    }
                    11 if crashes > 0 => {
                        crashes -= 1;
                        deliveries = Deliveries::new(stored_floor);
                        at_work.clear();
                    }
                    _nothing => {}
                }
            }
            assert!(times[1..].iter().all(|times| *times > 0), "seed {seed}: all are handled");
            // The first time, those of a key are in order.
            for key in KEYS.into_iter().flatten() {
                let of_key =
                    |position: &&u64| log[usize::try_from(**position).unwrap() - 1].key.as_deref() == Some(key);
                let mut seen = HashSet::new();
                let first: Vec<_> = handled.iter().filter(of_key).filter(|position| seen.insert(**position)).collect();
                assert!(first.is_sorted(), "seed {seed}: {first:?}");
            }
        }
    }
}
