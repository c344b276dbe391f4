mod needs;

use protocol::{RegisterOptions, Registration};

use super::*;
use crate::config::Config;
use crate::peer::notices::Warning;
use crate::updates::budget::UpdateBudget;

const PEER: SessionId = SessionId(1_000_000);

struct Peer {
    outbox: Outbox,
    registry: Registry,
    start: Instant,
}

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn new(legacy_list_bytes: usize) -> Self {
        let start = Instant::now();
        let outbox =
            Outbox::new(PEER, start + Duration::from_millis(100), legacy_list_bytes, Some(Duration::from_millis(100)));
        let config = Config { legacy_list_bytes, ..Config::default() };
        Self { outbox, registry: Registry::new(config, UpdateBudget::new(usize::MAX), start, 1), start }
    }

    /// Makes this many nodes listed. Their entries have the same length.
    fn nodes(&mut self, nodes: u64) {
        for session in 0..nodes {
            let params = serde_json::from_str(r#"{"port":1,"name":"n","urls":[]}"#).unwrap();
            let registration = Registration::parse(Some(params), &Config::default().registration_limits()).unwrap();
            let _ =
                self.registry.admit(self.start, SessionId(session), registration, "::1", &RegisterOptions::default());
        }
        self.registry.publish(Version::V1);
        self.registry.publish(Version::V2);
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// What happens at `ms`, with this many nodes listed, when the socket takes everything: the
    /// entries sent, or when to ask again.
    #[track_caller]
    fn check(&mut self, ms: u64, nodes: u64, expected: Result<Option<usize>, u64>) {
        self.nodes(nodes);
        let now = self.at(ms);
        let seen = match self.outbox.next(now, &mut self.registry, true) {
            WriteStep::Write(bytes) => {
                self.outbox.record_write(now, bytes.len());
                Ok(Some(String::from_utf8_lossy(&bytes).matches("port").count()))
            }
            WriteStep::WaitFor(full) => Err(full),
            WriteStep::Later(_) => panic!("no peer has interests"),
            WriteStep::Done => Ok(None),
        };
        assert_eq!(seen, expected.map_err(|ms| WindowFull::Until(self.at(ms))));
    }
}

#[test]
fn a_newcomer_is_greeted_once_and_follows_when_registered() {
    let mut peer = Peer::new(65_536);
    peer.check(99, 0, Ok(None));
    assert_eq!(peer.outbox.greet_at(), Some(peer.at(100)));
    peer.check(100, 0, Ok(Some(0)));
    assert_eq!(peer.outbox.greet_at(), None);
    peer.check(101, 5, Ok(None));
    peer.outbox.follow(Version::V1, None);
    peer.check(1000, 6, Ok(Some(6)));
    peer.check(1001, 6, Ok(None));
    peer.check(2000, 9, Ok(Some(9)));
    peer.outbox.unfollow();
    peer.check(3000, 10, Ok(None));
}

#[test]
fn a_peer_that_registers_at_once_is_not_greeted() {
    let mut peer = Peer::new(65_536);
    peer.outbox.follow(Version::V1, None);
    peer.check(1, 3, Ok(Some(3)));
    peer.check(100, 3, Ok(None));
}

#[test]
fn old_peers_get_the_newest_list_when_they_have_read_the_last() {
    let mut peer = Peer::new(65_536);
    peer.nodes(8);
    let bytes = peer.registry.legacy_bytes();
    let mut peer = Peer::new(bytes + 150);
    peer.outbox.follow(Version::V1, None);
    peer.check(0, 8, Ok(Some(8)));
    peer.check(1, 9, Err(100));
    peer.check(99, 10, Err(100));
    peer.check(100, 10, Ok(Some(10)));
}

#[test]
fn new_peers_get_the_list_and_then_changes() {
    let mut peer = Peer::new(65_536);
    peer.outbox.follow(Version::V2, None);
    peer.check(0, 8, Ok(Some(8)));
    peer.check(0, 8, Ok(None));
    peer.check(0, 9, Ok(Some(1)));
    peer.check(0, 12, Ok(Some(3)));
}

#[test]
fn new_peers_that_know_the_list_get_changes_only() {
    let mut peer = Peer::new(65_536);
    peer.nodes(8);
    peer.outbox.follow(Version::V2, None);
    peer.outbox.resume_from(peer.registry.revision().into());
    peer.check(0, 8, Ok(None));
    peer.check(0, 10, Ok(Some(2)));
}

#[test]
fn rs22_a_node_that_is_turned_away_is_sent_no_list_while_it_waits() {
    let mut peer = Peer::new(65_536);
    peer.nodes(3);
    peer.outbox.reply(Reply::Packet(Bytes::from_static(b"busy").into()), Version::V2);
    let WriteStep::Write(bytes) = peer.outbox.next(peer.start, &mut peer.registry, true) else { panic!("a reply") };
    peer.outbox.record_write(peer.start, bytes.len());
    assert_eq!(peer.outbox.greet_at(), None);
    peer.check(1000, 3, Ok(None));
    peer.outbox.follow(Version::V2, None);
    peer.check(2000, 3, Ok(Some(3)));
}

#[test]
fn a_greeting_of_version_1_is_not_a_base_for_changes() {
    let mut peer = Peer::new(65_536);
    peer.check(100, 3, Ok(Some(3)));
    peer.outbox.follow(Version::V2, None);
    peer.check(200, 4, Ok(Some(4)));
}

#[test]
fn changes_wait_for_the_publisher_and_replies_do_not() {
    let mut peer = Peer::new(65_536);
    peer.nodes(3);
    peer.outbox.follow(Version::V2, None);
    assert_eq!(peer.outbox.next(peer.start, &mut peer.registry, false), WriteStep::Done);
    peer.outbox.ping();
    let WriteStep::Write(ping) = peer.outbox.next(peer.start, &mut peer.registry, false) else {
        panic!("nothing to write")
    };
    assert!(String::from_utf8_lossy(&ping).contains("$ping"));
    peer.outbox.record_write(peer.start, ping.len());
    peer.outbox.notify(NoticeKind::CopyRequest, Bytes::from_static(b"notice"));
    let notice = Bytes::from_static(b"notice");
    assert_eq!(peer.outbox.next(peer.start, &mut peer.registry, false), WriteStep::Write(notice));
    peer.outbox.record_write(peer.start, 6);
    peer.check(0, 3, Ok(Some(3)));
}

#[test]
fn m14_no_other_notice_stands_in_for_that_of_uses_without_room() {
    let mut peer = Peer::new(65_536);
    peer.outbox.follow(Version::V2, None);
    peer.check(0, 3, Ok(Some(3)));
    peer.outbox.notify(NoticeKind::Warning(Warning::UsesFull), Bytes::from_static(b"full"));
    peer.outbox.notify(NoticeKind::Visibility, Bytes::from_static(b"seen"));
    peer.outbox.notify(NoticeKind::Warning(Warning::Unreachable), Bytes::from_static(b"lost"));
    for expected in ["full", "seen", "lost"] {
        let step = peer.outbox.next(peer.start, &mut peer.registry, true);
        assert_eq!(step, WriteStep::Write(Bytes::from_static(expected.as_bytes())));
        peer.outbox.record_write(peer.start, expected.len());
    }
    peer.check(0, 4, Ok(Some(1)));
}

#[test]
fn a_packet_ends_before_the_next_begins() {
    let mut peer = Peer::new(65_536);
    peer.outbox.follow(Version::V1, None);
    peer.nodes(3);
    let WriteStep::Write(first) = peer.outbox.next(peer.start, &mut peer.registry, true) else {
        panic!("nothing to write")
    };
    peer.outbox.record_write(peer.start, 10);
    peer.outbox.blocked(peer.start);
    assert_eq!(peer.outbox.stalled_since(), Some(peer.start));
    assert!(peer.outbox.is_mid_packet());
    peer.nodes(4);
    assert_eq!(peer.outbox.next(peer.start, &mut peer.registry, true), WriteStep::Write(first.slice(10..)));
    peer.outbox.record_write(peer.start, first.len() - 10);
    assert_eq!(peer.outbox.stalled_since(), None);
    peer.check(1, 4, Ok(Some(4)));
}

#[test]
fn a_question_is_answered_under_its_key_even_when_nothing_changed() {
    let mut peer = Peer::new(65_536);
    peer.check(100, 2, Ok(Some(2)));
    peer.outbox.reply(Reply::List(Key::Number(7)), Version::V1);
    assert!(peer.outbox.owes_reply());
    let WriteStep::Write(bytes) = peer.outbox.next(peer.start, &mut peer.registry, false) else {
        panic!("nothing to write")
    };
    assert!(String::from_utf8_lossy(&bytes).contains(r#""key":7,"#));
    assert!(!peer.outbox.owes_reply());
}

#[test]
fn a_peer_that_has_drifted_gets_the_list_but_not_at_every_pong() {
    let mut peer = Peer::new(65_536);
    peer.outbox.follow(Version::V2, None);
    peer.check(0, 2, Ok(Some(2)));
    for (ms, corrected) in [(1000, true), (2000, false), (30_999, false), (31_000, true)] {
        assert_eq!(peer.outbox.resend_list(peer.at(ms)), corrected, "{ms}");
        peer.check(ms, 0, Ok(corrected.then_some(2)));
    }
    let interests = Interests::named(vec!["n".into()]);
    peer.outbox.follow(Version::V2, Some(Arc::new(interests)));
    assert!(!peer.outbox.resend_list(peer.at(100_000)), "its digest is of a partial view");
}
