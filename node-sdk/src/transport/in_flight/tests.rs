use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Wake;

use proptest::prelude::*;
use protocol::LEGACY_READ_BYTES;

use super::*;

const LIMITS: InFlightLimits =
    InFlightLimits { max_calls: 4, max_queued_bytes: 100, max_packet_bytes: 1000, read_window: LEGACY_READ_BYTES };

/// A table of calls with a clock.
struct Scene {
    calls: InFlight,
    start: Instant,
}

struct NoWake;

impl Wake for NoWake {
    fn wake(self: Arc<Self>) {}
}

impl Scene {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn new(version: Version, limits: InFlightLimits) -> Self {
        Self { calls: InFlight::new(version, limits), start: Instant::now() }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Accepts a call of this many bytes, delimiter included, with a timeout of one second.
    fn admit(&mut self, bytes: usize) -> Result<u64, EnqueueError> {
        self.admit_until(bytes, 1000)
    }

    fn admit_until(&mut self, bytes: usize, ms: u64) -> Result<u64, EnqueueError> {
        let (start, deadline) = (self.start, self.at(ms));
        self.calls.admit(start, CallDeadlines { response: deadline, stream: None }, |_, out| {
            out.resize(out.len() + bytes - 2, b'x');
            out.extend_from_slice("¶".as_bytes());
        })
    }

    /// The bytes of the next write, all of which the socket takes.
    fn write(&mut self) -> Option<String> {
        let mut bytes = BytesMut::new();
        let start = self.start;
        self.calls.fill_write_buffer(start, &mut bytes).then(|| {
            self.calls.record_write(bytes.len());
            String::from_utf8(bytes.to_vec()).unwrap()
        })
    }

    fn answer(&mut self, key: u64) -> bool {
        let now = self.at(7);
        self.calls.handle_response(now, key, ResponseFrame::from(Bytes::from_static(b"{}"))).is_ok()
    }

    /// The result of a call.
    fn outcome(&mut self, key: u64) -> Option<CallResult> {
        match self.calls.poll(key, &mut Context::from_waker(&Waker::from(Arc::new(NoWake)))) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }
}

#[test]
fn limits_are_exact() {
    let mut scene = Scene::new(Version::V2, LIMITS);
    assert_eq!(scene.admit(1001), Err(EnqueueError::TooLarge));
    assert!(scene.admit(1000).is_ok(), "alone, a call of any packet size fits");
    assert_eq!(scene.admit(2), Err(EnqueueError::Full));
    assert_eq!(scene.write().unwrap().len(), 1000);
    let second = scene.admit(60).unwrap();
    assert!(scene.admit(40).is_ok());
    assert_eq!(scene.admit(2), Err(EnqueueError::Full));
    assert_eq!(scene.write().unwrap().len(), 100, "all in one write");
    assert!(scene.admit(2).is_ok());
    assert_eq!(scene.admit(2), Err(EnqueueError::Full), "four calls are in flight");
    assert!(scene.answer(second));
    assert_eq!(scene.admit(2), Err(EnqueueError::Full), "the response of one is not read yet");
    assert!(scene.outcome(second).unwrap().is_ok());
    assert!(scene.admit(2).is_ok());
}

#[test]
fn a_write_waits_once_for_others_to_call_while_many_are_in_flight() {
    let limits = InFlightLimits { max_calls: 2 * MANY_IN_FLIGHT, ..LIMITS };
    let mut scene = Scene::new(Version::V2, limits);
    for _ in 1..MANY_IN_FLIGHT {
        scene.admit(10).unwrap();
        assert!(!scene.calls.yields_for_others(), "few calls are in flight");
    }
    scene.write();
    let last = scene.admit(10).unwrap();
    assert!(scene.calls.yields_for_others() && !scene.calls.yields_for_others());
    assert_eq!(scene.write().map(|bytes| bytes.len()), Some(10));
    assert!(!scene.calls.yields_for_others(), "everything is written");
    scene.admit(10).unwrap();
    assert!(scene.calls.yields_for_others(), "this is another write");
    scene.write();
    assert!(scene.answer(last) && scene.outcome(last).is_some());
    let mut old = Scene::new(Version::V1, limits);
    assert!((0..MANY_IN_FLIGHT).all(|_| old.admit(10).is_ok()));
    assert!(!old.calls.yields_for_others(), "each packet is written by itself");
}

#[test]
fn e14_keys_of_version_1_stay_small() {
    let mut scene = Scene::new(Version::V1, LIMITS);
    let mut before = 0;
    for call in 0..100_000 {
        let key = scene.admit(2).unwrap();
        assert!(key > 0 && key < 1 << 31 && key != before, "{call}: {key}");
        before = key;
        scene.write();
        assert!(scene.answer(key) && scene.outcome(key).is_some());
    }
}

#[test]
fn what_the_socket_has_not_taken_counts() {
    let mut scene = Scene::new(Version::V2, LIMITS);
    scene.admit(90).unwrap();
    let mut bytes = BytesMut::new();
    assert!(scene.calls.fill_write_buffer(scene.start, &mut bytes));
    scene.calls.record_write(40);
    assert!(scene.admit(50).is_ok());
    assert_eq!(scene.admit(2), Err(EnqueueError::Full));
    scene.calls.record_write(2);
    assert!(scene.admit(2).is_ok());
}

#[test]
fn gu6_only_known_keys_are_responses_and_each_only_once() {
    let mut scene = Scene::new(Version::V2, LIMITS);
    let key = scene.admit(2).unwrap();
    for other in [key + 1, key + (1 << SLOT_BITS), 0, u64::MAX] {
        assert!(!scene.answer(other), "{other}");
    }
    assert!(scene.answer(key) && !scene.answer(key));
    assert_eq!(scene.outcome(key), Some(Ok(ResponseFrame::from(Bytes::from_static(b"{}")))));
    let next = scene.admit(2).unwrap();
    assert!(next != key && !scene.answer(key), "the slot is the same, but the key is not");
}

#[test]
fn partly_written_packets_are_told_apart() {
    let mut scene = Scene::new(Version::V2, LIMITS);
    let keys: Vec<_> = (0..3).map(|_| scene.admit(10).unwrap()).collect();
    let mut bytes = BytesMut::new();
    assert!(scene.calls.fill_write_buffer(scene.start, &mut bytes));
    scene.calls.record_write(19);
    let late = scene.admit(10).unwrap();
    scene.calls.fail_all();
    let lost = |written| Some(Err(CallFailure::Lost { written }));
    assert_eq!(keys.iter().map(|key| scene.outcome(*key)).collect::<Vec<_>>(), [lost(true), lost(false), lost(false)]);
    assert_eq!(scene.outcome(late), lost(false));
    assert_eq!((scene.calls.len(), scene.write()), (0, None));
}

#[test]
fn a_cancelled_call_is_not_written_or_is_cancelled_remotely() {
    let mut scene = Scene::new(Version::V2, InFlightLimits { max_queued_bytes: 1000, ..LIMITS });
    let (first, second) = (scene.admit(5).unwrap(), scene.admit(5).unwrap());
    scene.calls.cancel(first);
    assert_eq!(scene.write().unwrap(), "   ¶xxx¶");
    scene.calls.cancel(second);
    assert_eq!(scene.write().unwrap(), format!(r#"{{"uri":"$cancel","key":{second},"$":{{}}}}¶"#));
    scene.calls.cancel(second);
    assert_eq!((scene.write(), scene.calls.len()), (None, 0));
}

#[test]
fn gu3_calls_end_in_time() {
    let mut scene = Scene::new(Version::V2, InFlightLimits { max_queued_bytes: 1000, ..LIMITS });
    let written = scene.admit_until(5, 300).unwrap();
    scene.write();
    let unwritten = scene.admit_until(5, 100).unwrap();
    let longer = scene.admit_until(5, 500).unwrap();
    for (ms, ended, due) in [(99, None, 100), (100, Some(unwritten), 300), (300, Some(written), 500)] {
        scene.calls.expire(scene.at(ms));
        if let Some(ended) = ended {
            let failure = CallFailure::Deadline { written: ended == written };
            assert_eq!(scene.outcome(ended), Some(Err(failure)), "{ms}");
        }
        assert_eq!(scene.calls.next_due(), Some(scene.at(due)));
    }
    assert!(scene.write().unwrap().starts_with("   ¶xxx¶{\"uri\":\"$cancel\""));
    assert!(scene.answer(longer) && !scene.answer(written));
}

#[test]
fn old_nodes_get_one_packet_per_write_within_the_window() {
    let mut scene = Scene::new(Version::V1, InFlightLimits { max_calls: 9, max_queued_bytes: 1 << 20, ..LIMITS });
    assert_eq!(scene.admit(LEGACY_READ_BYTES + 1), Err(EnqueueError::TooLarge));
    let keys: Vec<_> = (0..4).map(|_| scene.admit(LEGACY_READ_BYTES / 2).unwrap()).collect();
    assert!(scene.write().is_some() && scene.write().is_some());
    assert!(scene.write().is_none() && scene.calls.waits_for_responses());
    scene.answer(keys[1]);
    assert!(scene.write().is_some(), "the second was read, so the first was too");
    scene.calls.cancel(keys[2]);
    assert!(scene.write().is_some() && !scene.calls.waits_for_responses());
    scene.admit(2).unwrap();
    assert!(scene.write().is_none(), "a cancelled call has still to be read");
}

#[test]
fn e6_an_old_node_is_sent_as_much_as_it_says_that_it_reads() {
    let read_window = 3 * LEGACY_READ_BYTES;
    let mut scene =
        Scene::new(Version::V1, InFlightLimits { max_calls: 9, max_queued_bytes: 1 << 20, read_window, ..LIMITS });
    assert_eq!(scene.admit(read_window + 1), Err(EnqueueError::TooLarge));
    let whole = scene.admit(read_window).unwrap();
    scene.admit(2).unwrap();
    assert!(scene.write().is_some() && scene.write().is_none());
    scene.answer(whole);
    assert!(scene.write().is_some());
}

#[test]
fn one_way_packets_to_old_nodes_count_as_read_after_a_while() {
    let mut scene = Scene::new(Version::V1, InFlightLimits { max_calls: 9, max_queued_bytes: 1 << 20, ..LIMITS });
    for _ in 0..2 {
        scene.calls.send(None, |out| out.resize(LEGACY_READ_BYTES, b'x')).unwrap();
    }
    assert!(scene.write().is_some() && scene.write().is_none());
    assert_eq!(scene.calls.next_due(), Some(scene.at(500)));
    let mut bytes = BytesMut::new();
    assert!(!scene.calls.fill_write_buffer(scene.at(499), &mut bytes));
    assert!(scene.calls.fill_write_buffer(scene.at(500), &mut bytes));
}

#[test]
fn b8_one_way_packets_that_are_not_written_are_lost() {
    for version in [Version::V1, Version::V2] {
        let limits = InFlightLimits { max_calls: 9, max_queued_bytes: 1 << 20, max_packet_bytes: 1 << 20, ..LIMITS };
        let mut scene = Scene::new(version, limits);
        let send = |scene: &mut Scene, route: &str| {
            scene.calls.send(Some(&route.into()), |out| out.resize(LEGACY_READ_BYTES, b'x')).unwrap();
        };
        send(&mut scene, "EVENT/a");
        assert!(scene.write().is_some());
        ["EVENT/b", "EVENT/c"].iter().for_each(|route| send(&mut scene, route));
        assert_eq!(scene.calls.take_lost(), [] as [std::sync::Arc<str>; 0]);
        scene.calls.fail_all();
        let lost: Vec<_> = scene.calls.take_lost().iter().map(ToString::to_string).collect();
        assert_eq!(lost, ["EVENT/b", "EVENT/c"], "{version:?}");
        assert!(scene.calls.take_lost().is_empty());
    }
}

proptest! {
    /// Whatever happens, a version 1 node never has more unread bytes than one read takes.
    #[test]
    fn the_window_holds(steps in proptest::collection::vec((0_u8..4, 2_usize..40_000), 0..200)) {
        let mut scene = Scene::new(Version::V1, InFlightLimits { max_calls: 50, max_queued_bytes: 1 << 20, ..LIMITS });
        let mut waiting: VecDeque<(u64, usize)> = VecDeque::new();
        let mut written: VecDeque<(u64, usize)> = VecDeque::new();
        for (step, number) in steps {
            match step {
                0 => waiting.extend(scene.admit(number).map(|key| (key, number))),
                1 => {
                    if let Some(packet) = scene.write() {
                        let next = waiting.pop_front().unwrap();
                        prop_assert_eq!(packet.len(), next.1);
                        written.push_back(next);
                    }
                }
                2 => {
                    if !waiting.is_empty() {
                        let (key, _) = waiting.remove(number % waiting.len()).unwrap();
                        scene.calls.cancel(key);
                    }
                }
                _ => {
                    // A node answers a packet that it has read, and reads in order.
                    if !written.is_empty() {
                        let key = written.drain(..=number % written.len()).next_back().unwrap().0;
                        scene.answer(key);
                        scene.calls.cancel(key);
                    }
                }
            }
            prop_assert!(written.iter().map(|(_, bytes)| bytes).sum::<usize>() <= LEGACY_READ_BYTES);
        }
    }

    /// Whatever happens, each call has one outcome, and the stream stays in step: all written
    /// packets are whole, in order, and belong to calls whose caller waits, or waited at that time.
    #[test]
    fn calls_and_bytes_add_up(steps in proptest::collection::vec((0_u8..6, 0_usize..1000), 0..300)) {
        let limits = InFlightLimits { max_calls: 8, max_queued_bytes: 4000, ..LIMITS };
        let mut scene = Scene::new(Version::V2, limits);
        let mut open: Vec<u64> = Vec::new();
        let mut writing = BytesMut::new();
        let mut stream = Vec::new();
        for (step, number) in steps {
            let any = (!open.is_empty()).then(|| number % open.len().max(1));
            match (step, any) {
                (0 | 1, _) => {
                    let (start, deadline) = (scene.start, scene.at(number as u64));
                    let admitted = scene.calls.admit(start, CallDeadlines { response: deadline, stream: None }, |key, out| {
                        out.extend_from_slice(format!("{key}¶").as_bytes());
                    });
                    open.extend(admitted);
                }
                (2, _) => {
                    if !writing.is_empty() || scene.calls.fill_write_buffer(scene.start, &mut writing) {
                        let bytes = writing.split_to(number.min(writing.len()));
                        scene.calls.record_write(bytes.len());
                        stream.extend_from_slice(&bytes);
                    }
                }
                (3, Some(any)) => scene.calls.cancel(open.swap_remove(any)),
                (4, Some(any)) => drop(scene.answer(open[any])),
                (5, _) => drop(scene.calls.expire(scene.at(number as u64 / 2))),
                (_, _) => {}
            }
            let before = open.len();
            open.retain(|key| scene.outcome(*key).is_none());
            prop_assert!(open.len() == scene.calls.len() && before <= limits.max_calls);
        }
        scene.calls.fail_all();
        for key in open {
            let lost = matches!(scene.outcome(key), Some(Err(CallFailure::Lost { .. })));
            prop_assert!(lost);
        }
        prop_assert_eq!(scene.calls.free.len(), scene.calls.slots.len());
        let text = String::from_utf8_lossy(&stream).into_owned();
        let mut keys = Vec::new();
        for frame in text.split_inclusive('¶').filter_map(|frame| frame.strip_suffix('¶')) {
            if !frame.trim().is_empty() && !frame.contains("$cancel") {
                keys.push(frame.parse::<u64>().unwrap());
            }
        }
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        prop_assert_eq!(keys.len(), count, "no call is written twice");
    }
}
