//! What one peer is still to be told, without I/O.
//!
//! There is no queue: a peer is owed the newest list or nothing, at most one reply, and the rest of at
//! most one packet that its socket took in part. So a peer that stands still costs the same however much changes.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use protocol::{Key, ReadWindow, Unread, Version};

use crate::lists::Lists;

/// What one peer is still to be told.
#[derive(Debug)]
pub(crate) struct Outbox {
    version: Version,
    /// Greeted peers get changes only once they have registered.
    follows: bool,
    told_rev: Option<u64>,
    reply: Option<Reply>,
    rest: Bytes,
    window: ReadWindow,
    stalled_since: Option<Instant>,
    /// The connection's task waits for what is in the way of the rest.
    pub(crate) attended: bool,
}

/// What a peer gets for a packet of its own.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The list under this key.
    List(Key),
    /// A packet that says what was wrong.
    Refusal(Bytes),
}

/// What a peer's socket should do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write these bytes and say how many were taken.
    Write(Bytes),
    /// An old peer is still reading: wait for this.
    WaitFor(Unread),
    /// Nothing until something changes.
    Done,
}

impl Outbox {
    /// A peer that has just connected and is owed the list. `legacy_read_time` is `None` when its end can be looked at.
    pub(crate) fn new(legacy_list_bytes: usize, legacy_read_time: Option<Duration>) -> Self {
        Self {
            version: Version::V1,
            follows: false,
            told_rev: None,
            reply: None,
            rest: Bytes::new(),
            window: ReadWindow::new(legacy_list_bytes, legacy_read_time),
            stalled_since: None,
            attended: false,
        }
    }

    /// From now on the peer is told of every change, in the form of its version.
    pub(crate) fn follow(&mut self, version: Version) {
        self.follows = true;
        self.version = version;
    }

    /// From now on the peer is told nothing of its own accord.
    pub(crate) fn unfollow(&mut self) {
        self.follows = false;
    }

    /// The peer is owed a reply. One at a time: ask [`owes_reply`](Self::owes_reply) before reading its next packet.
    pub(crate) fn reply(&mut self, reply: Reply, version: Version) {
        self.version = version;
        self.reply = Some(reply);
    }

    /// Whether a reply waits to be written.
    pub(crate) fn owes_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// Whether a packet has begun to go out and not ended, so that no other may follow.
    pub(crate) fn is_mid_packet(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Since when the socket has taken nothing of what is owed.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The next thing to do at `now`, when `lists` is the newest state.
    pub(crate) fn next(&mut self, now: Instant, lists: &Lists) -> Step {
        if !self.rest.is_empty() {
            return Step::Write(self.rest.clone());
        }
        let packet = match &self.reply {
            Some(Reply::Refusal(packet)) => packet.clone(),
            Some(Reply::List(key)) => lists.answer(self.version, key),
            None if self.is_behind(lists) => lists.for_version(self.version),
            None => return Step::Done,
        };
        if self.version == Version::V1
            && let Err(unread) = self.window.admit(now, packet.len())
        {
            return Step::WaitFor(unread);
        }
        if !matches!(self.reply.take(), Some(Reply::Refusal(_))) {
            self.told_rev = Some(lists.rev);
        }
        self.rest = packet.clone();
        Step::Write(packet)
    }

    /// The socket took `bytes` of what it was given.
    pub(crate) fn wrote(&mut self, now: Instant, bytes: usize) {
        self.rest.advance(bytes);
        self.window.wrote(now, bytes);
        self.stalled_since = None;
    }

    /// The socket took nothing.
    pub(crate) fn blocked(&mut self, now: Instant) {
        self.stalled_since.get_or_insert(now);
    }

    /// Everything written so far. Ask before looking at the peer's end.
    pub(crate) fn written(&self) -> u64 {
        self.window.written()
    }

    /// The peer's end was seen, after `written` bytes, to have at most `unread` of them before it.
    /// Returns whether it has read anything since the last time.
    pub(crate) fn settle(&mut self, written: u64, unread: usize) -> bool {
        self.window.settle(written, unread)
    }

    /// The peer's end cannot be seen after all.
    pub(crate) fn guess(&mut self, legacy_read_time: Duration) {
        self.window.guess(legacy_read_time);
    }

    fn is_behind(&self, lists: &Lists) -> bool {
        match self.told_rev {
            None => true,
            Some(told) => self.follows && told < lists.rev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::registry::{Registry, SessionId};

    /// A registry whose list has `nodes` entries of the same length, with the same `rev`.
    fn lists(nodes: u64) -> Lists {
        let mut registry = Registry::default();
        for session in 0..nodes {
            let params = serde_json::from_str(r#"{"port":1,"name":"n","urls":[]}"#).unwrap();
            let registration = protocol::Registration::parse(Some(params), &Config::default().registration).unwrap();
            registry.register(SessionId(session), &registration, "::1");
        }
        Lists::encode(&registry, &Config::default())
    }

    struct Peer {
        outbox: Outbox,
        start: Instant,
    }

    impl Peer {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        fn new(legacy_list_bytes: usize) -> Self {
            Self { outbox: Outbox::new(legacy_list_bytes, Some(Duration::from_millis(100))), start: Instant::now() }
        }

        /// What happens at `ms` when the socket takes everything: entries told, or when to ask again.
        #[track_caller]
        fn check(&mut self, ms: u64, nodes: u64, expected: Result<Option<usize>, u64>) {
            let now = self.start + Duration::from_millis(ms);
            let seen = match self.outbox.next(now, &lists(nodes)) {
                Step::Write(bytes) => {
                    self.outbox.wrote(now, bytes.len());
                    Ok(Some(String::from_utf8_lossy(&bytes).matches("port").count()))
                }
                Step::WaitFor(unread) => Err(unread),
                Step::Done => Ok(None),
            };
            assert_eq!(seen, expected.map_err(|ms| Unread::Until(self.start + Duration::from_millis(ms))));
        }
    }

    #[test]
    fn a_newcomer_is_greeted_once_and_follows_when_registered() {
        let mut peer = Peer::new(65_536);
        peer.check(0, 0, Ok(Some(0)));
        peer.check(1, 5, Ok(None));
        peer.outbox.follow(Version::V1);
        peer.check(2, 6, Ok(Some(6)));
        peer.check(3, 6, Ok(None));
        peer.check(4, 9, Ok(Some(9)));
        peer.outbox.unfollow();
        peer.check(5, 10, Ok(None));
    }

    #[test]
    fn old_peers_get_the_newest_list_when_they_have_read_the_last() {
        let mut peer = Peer::new(lists(10).for_version(Version::V1).len());
        peer.outbox.follow(Version::V1);
        peer.check(0, 8, Ok(Some(8)));
        peer.check(1, 9, Err(100));
        peer.check(99, 10, Err(100));
        peer.check(100, 10, Ok(Some(10)));
        peer.outbox.follow(Version::V2);
        peer.check(101, 11, Ok(Some(11)));
        peer.check(102, 12, Ok(Some(12)));
    }

    #[test]
    fn a_packet_ends_before_the_next_begins() {
        let mut peer = Peer::new(65_536);
        peer.outbox.follow(Version::V1);
        let Step::Write(first) = peer.outbox.next(peer.start, &lists(3)) else { panic!("nothing to write") };
        peer.outbox.wrote(peer.start, 10);
        peer.outbox.blocked(peer.start);
        assert_eq!(peer.outbox.stalled_since(), Some(peer.start));
        assert!(peer.outbox.is_mid_packet());
        assert_eq!(peer.outbox.next(peer.start, &lists(4)), Step::Write(first.slice(10..)));
        peer.outbox.wrote(peer.start, first.len() - 10);
        assert_eq!(peer.outbox.stalled_since(), None);
        peer.check(1, 4, Ok(Some(4)));
    }

    #[test]
    fn a_question_is_answered_under_its_key_even_when_nothing_changed() {
        let mut peer = Peer::new(65_536);
        peer.check(0, 2, Ok(Some(2)));
        peer.outbox.reply(Reply::List(Key::Number(7)), Version::V1);
        assert!(peer.outbox.owes_reply());
        let Step::Write(bytes) = peer.outbox.next(peer.start, &lists(2)) else { panic!("nothing to write") };
        assert!(String::from_utf8_lossy(&bytes).contains(r#""key":7,"#));
        assert!(!peer.outbox.owes_reply());
    }
}
