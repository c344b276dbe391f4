use std::collections::VecDeque;

use super::*;

/// What the system answers to the next sends; afterwards it takes everything.
#[derive(Debug, Default)]
struct Wire {
    answers: VecDeque<Answer>,
    sent: Vec<u8>,
    sends: usize,
    is_lost: bool,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Full,
    Takes(usize),
    Lost,
}

impl Wire {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize> {
        self.sends += 1;
        if self.is_lost {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let taken = match self.answers.pop_front() {
            Some(Answer::Full) => return Err(ErrorKind::WouldBlock.into()),
            Some(Answer::Takes(most)) => most.max(1).min(bytes.len()),
            Some(Answer::Lost) => {
                self.is_lost = true;
                return Err(ErrorKind::ConnectionReset.into());
            }
            None => bytes.len(),
        };
        self.sent.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }
}

/// A socket with its system, and all bytes that were accepted.
#[derive(Debug, Default)]
struct Scene {
    outgoing: Outgoing,
    wire: Wire,
    accepted: Vec<u8>,
    is_ended: bool,
}

impl Scene {
    /// Writes as a connection does: what is not accepted is lost to the scene.
    fn write(&mut self, lengths: &[usize], may_queue: bool) -> Option<usize> {
        let first = self.accepted.len();
        let all: Vec<u8> =
            (first..first + lengths.iter().sum::<usize>()).map(|at| at as u8 ^ (at >> 8) as u8).collect();
        let mut rest = &all[..];
        let pieces = lengths.iter().map(|length| {
            let (piece, others) = rest.split_at(*length);
            rest = others;
            IoSlice::new(piece)
        });
        let pieces: Vec<_> = pieces.collect();
        let accepted = self.outgoing.write(&pieces, may_queue, |pieces| self.wire.send(pieces)).ok();
        self.accepted.extend_from_slice(&all[..accepted.unwrap_or(0)]);
        accepted
    }

    fn send_queued(&mut self) {
        self.outgoing.send_queued(|pieces| self.wire.send(pieces));
        assert_ne!(self.outgoing.state(), BytesState::Queued, "all are sent");
        self.check();
    }

    fn becomes_writable(&mut self) {
        self.outgoing.send_held(|pieces| self.wire.send(pieces));
        self.check();
    }

    /// What always holds.
    fn check(&self) {
        assert!(self.accepted.starts_with(&self.wire.sent), "in order, and nothing twice: {self:?}");
        let unsent = self.accepted.len() - self.wire.sent.len();
        match self.outgoing.state() {
            BytesState::Nothing => assert!(unsent == 0 || self.wire.is_lost, "all is sent: {self:?}"),
            BytesState::Queued | BytesState::Held => {
                assert!((1..=MAX_QUEUED_BYTES).contains(&unsent), "few are here: {self:?}")
            }
            BytesState::Lost => assert!(self.wire.is_lost),
        }
        let is_held = self.outgoing.state() == BytesState::Held;
        assert_eq!(self.outgoing.poll_flush().is_pending(), is_held, "a flush waits for what is held only");
    }
}

#[test]
fn few_bytes_wait_and_leave_in_one_send() {
    let mut scene = Scene::default();
    assert_eq!(scene.write(&[300], true), Some(300));
    assert_eq!(scene.write(&[10, 20], true), Some(30));
    assert_eq!((scene.wire.sends, scene.outgoing.state()), (0, BytesState::Queued));
    scene.send_queued();
    assert_eq!((scene.wire.sends, scene.outgoing.state()), (1, BytesState::Nothing));
}

#[test]
fn bytes_leave_at_once_without_a_queue_or_if_they_are_many() {
    for (bytes, may_queue) in [(300, false), (MAX_QUEUED_BYTES + 1, true)] {
        let mut scene = Scene::default();
        assert_eq!(scene.write(&[bytes], may_queue), Some(bytes));
        assert_eq!((scene.wire.sent.len(), scene.outgoing.state()), (bytes, BytesState::Nothing));
    }
}

#[test]
fn queued_bytes_leave_before_others() {
    let mut scene = Scene::default();
    scene.write(&[300], true);
    assert_eq!(scene.write(&[MAX_QUEUED_BYTES], true), Some(MAX_QUEUED_BYTES), "together too many");
    assert_eq!((scene.wire.sent.len(), scene.outgoing.state()), (300, BytesState::Queued));
    assert_eq!(scene.write(&[100_000], true), Some(100_000));
    assert_eq!(scene.outgoing.state(), BytesState::Nothing);
    scene.check();
}

#[test]
fn what_the_system_does_not_take_is_held_before_all_others() {
    let mut scene = Scene::default();
    scene.write(&[300], true);
    scene.wire.answers = [Answer::Takes(100), Answer::Full, Answer::Full].into();
    scene.send_queued();
    assert_eq!((scene.wire.sent.len(), scene.outgoing.state()), (100, BytesState::Held));
    assert_eq!(scene.write(&[1], true), None);
    assert_eq!(scene.write(&[100_000], true), None);
    scene.becomes_writable();
    assert_eq!(scene.outgoing.state(), BytesState::Held);
    scene.becomes_writable();
    assert_eq!((scene.wire.sent.len(), scene.outgoing.state()), (300, BytesState::Nothing));
    assert_eq!(scene.write(&[7], true), Some(7), "and it goes on");
    assert_eq!(scene.outgoing.state(), BytesState::Queued);
}

#[test]
fn the_rest_of_a_large_write_is_not_queued() {
    let mut scene = Scene::default();
    scene.wire.answers = [Answer::Takes(65_536), Answer::Full].into();
    assert_eq!(scene.write(&[66_000], true), Some(65_536));
    assert_eq!(scene.write(&[464], true), None, "the system would hardly take it soon");
    assert_eq!(scene.write(&[464], true), Some(464));
    assert_eq!(scene.outgoing.state(), BytesState::Nothing);
    scene.write(&[1], true);
    assert_eq!(scene.outgoing.state(), BytesState::Queued);
}

#[test]
fn an_end_comes_after_all_that_was_accepted() {
    let mut scene = Scene::default();
    scene.write(&[300], true);
    scene.wire.answers = [Answer::Takes(1), Answer::Full].into();
    let end = |scene: &mut Scene| scene.outgoing.poll_end(|pieces| scene.wire.send(pieces)).map(|ended| ended.is_ok());
    assert_eq!(end(&mut scene), Poll::Pending);
    scene.becomes_writable();
    assert_eq!(end(&mut scene), Poll::Ready(true));
    assert_eq!(scene.wire.sent.len(), 300);
    assert_eq!(scene.write(&[1], true), None, "nothing is accepted behind it");
}

#[test]
fn an_error_is_that_of_each_later_write() {
    let mut scene = Scene::default();
    scene.write(&[300], true);
    scene.wire.answers = [Answer::Takes(10), Answer::Lost].into();
    scene.send_queued();
    assert_eq!(scene.outgoing.state(), BytesState::Lost);
    for _ in 0..2 {
        let error = scene.outgoing.write(&[IoSlice::new(b"x")], true, |_| unreachable!()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(matches!(scene.outgoing.poll_flush(), Poll::Ready(Err(_))));
    assert!(matches!(scene.outgoing.poll_end(|_| unreachable!()), Poll::Ready(Err(_))));
}

#[test]
fn only_what_is_held_can_be_given_up() {
    let mut scene = Scene::default();
    scene.write(&[300], true);
    assert!(!scene.outgoing.abandon(), "what is queued is still sent");
    scene.wire.answers = [Answer::Full].into();
    scene.send_queued();
    assert!(scene.outgoing.abandon());
    assert_eq!(scene.outgoing.state(), BytesState::Nothing);
}

/// Every order of what connections, the queue and the system do.
#[test]
fn bytes_leave_in_order_whatever_happens() {
    let mut random = fastrand::Rng::with_seed(20);
    for _ in 0..2_000 {
        let mut scene = Scene::default();
        for _ in 0..random.usize(1..40) {
            if scene.wire.answers.is_empty() && random.u8(..4) == 0 {
                let answer = match random.u8(..8) {
                    0 => Answer::Lost,
                    1..4 => Answer::Full,
                    _ => Answer::Takes(random.usize(1..6000)),
                };
                scene.wire.answers.push_back(answer);
            }
            match random.u8(..16) {
                0 => {
                    let ended = scene.outgoing.poll_end(|pieces| scene.wire.send(pieces));
                    scene.is_ended |= matches!(ended, Poll::Ready(Ok(())));
                    if scene.is_ended {
                        assert_eq!(scene.accepted, scene.wire.sent);
                    }
                }
                1 | 2 => {
                    scene.write(&[random.usize(4000..20_000)], random.bool());
                }
                3 => {
                    let lengths: Vec<_> = (0..random.usize(0..5)).map(|_| random.usize(0..3000)).collect();
                    scene.write(&lengths, random.bool());
                }
                4..8 => scene.send_queued(),
                8..10 => scene.becomes_writable(),
                _ => {
                    let state = scene.outgoing.state();
                    let written = scene.write(&[random.usize(1..600)], true);
                    if scene.is_ended || matches!(state, BytesState::Held | BytesState::Lost) {
                        assert_eq!(written, None);
                    }
                }
            }
            scene.check();
        }
        // In the end the system takes all.
        scene.wire.answers.clear();
        scene.send_queued();
        scene.becomes_writable();
        assert!(scene.wire.is_lost || scene.accepted == scene.wire.sent);
    }
}
