//! The packets that one peer is still to be sent, without I/O.
//!
//! There is no queue. The outbox owes a peer at most the update to the newest state, one reply, one
//! notice of each kind, one ping, and the rest of one packet. So a peer that does not read costs
//! the same however much changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::{Key, ReadWindow, ResumePoint, Revision, Version, WindowFull, write_needed};

use crate::entries::SessionId;
use crate::entries::interests::Interests;
use crate::entries::interests::view::View;
use crate::peer::notices::{NoticeKind, Notices};
use crate::registry::interests::needs::LearnedInterests;
use crate::registry::{Registry, Rejection};
use crate::updates::budget::OutPacket;
use crate::updates::learned::LearnedUpdate;
use crate::updates::lists::{NextUpdate, PeerState, StateAfter, WaitReason};
use crate::updates::transfers::MIN_TRANSFER_BYTES;

/// A peer whose digest stays wrong is sent the list once in this time, not at every sign of life.
const RESEND_INTERVAL: Duration = Duration::from_secs(30);

/// Newcomers that wait for the publisher. With a crowd, it would come to the last one only after
/// many rounds. So further nodes are sent the list by their own tasks, which begin at once.
pub(crate) const MAX_NEWCOMERS: usize = 64;

/// The packets that one peer is still to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    session: SessionId,
    version: Version,
    /// Unregistered peers get the list once, at this time.
    greet_at: Instant,
    /// Whether `greet_at` is the time that the registry has assigned among silent peers.
    has_greeting_time: bool,
    /// Whether the peer is registered, so that it is told of changes.
    follows: bool,
    known: PeerState,
    /// The last state that it was told before it had to be told everything anew. It may be later
    /// than what is published, and no earlier one may follow.
    floor: Option<Revision>,
    reply: Option<Reply>,
    notices: Notices,
    owes_ping: bool,
    remainder: OutPacket,
    /// Since when the rest of a packet has been on its way.
    remainder_since: Option<Instant>,
    /// Whether a large packet is on its way, and the registry waits to hear that it is written.
    is_in_transfer: bool,
    /// Whether the peer's packets have to wait, and it was sent a ping instead.
    is_waiting: bool,
    window: ReadWindow,
    stalled_since: Option<Instant>,
    corrected_at: Option<Instant>,
    /// Whether the connection's task waits for what blocks the rest, and then continues by itself.
    pub(crate) is_behind: bool,
}

/// The reply to a packet of a peer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The list under this key.
    List(Key),
    /// Another packet, for this peer only.
    Packet(OutPacket),
}

/// The next step for a peer's socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteStep {
    /// Write these bytes and record how many were taken.
    Write(Bytes),
    /// A version 1 peer is still reading: wait for this.
    WaitFor(WindowFull),
    /// Call again at this time: the packet is for this peer only and has to wait.
    Later(WaitReason),
    /// Do nothing until something changes.
    Done,
}

/// Whether a peer is sent packets unasked.
enum Unsolicited {
    Nothing,
    Packet(OutPacket, Option<StateAfter>),
    Later(WaitReason),
}

impl From<NextUpdate> for Unsolicited {
    fn from(update: NextUpdate) -> Self {
        match update {
            NextUpdate::Nothing(_) => Self::Nothing,
            NextUpdate::Packet(packet, told) => Self::Packet(packet, Some(told)),
            NextUpdate::Later(wait) => Self::Later(wait),
        }
    }
}

impl Outbox {
    /// The outbox of a peer that has just connected and is owed the list at `greet_at`, unless it
    /// registers before. `legacy_read_time` is `None` when the peer's socket can be observed.
    pub(crate) fn new(
        session: SessionId,
        greet_at: Instant,
        legacy_list_bytes: usize,
        legacy_read_time: Option<Duration>,
    ) -> Self {
        Self {
            session,
            version: Version::V1,
            greet_at,
            has_greeting_time: false,
            follows: false,
            known: PeerState::default(),
            floor: None,
            reply: None,
            notices: Notices::default(),
            owes_ping: false,
            remainder: OutPacket::default(),
            remainder_since: None,
            is_in_transfer: false,
            is_waiting: false,
            window: ReadWindow::new(legacy_list_bytes, legacy_read_time),
            stalled_since: None,
            corrected_at: None,
            is_behind: false,
        }
    }

    /// Tells the peer of every change that concerns it from now on, in the form of its version.
    /// Returns whether it has to be told all of that first.
    pub(crate) fn follow(&mut self, version: Version, interests: Option<Arc<Interests>>) -> bool {
        // A greeting in the form of version 1 carries no state that changes could start from.
        let before = std::mem::replace(&mut self.version, version);
        let is_other = self.known.view.interests != interests || before != version;
        if is_other {
            self.floor = self.floor.max(self.known.revision.filter(|_| before == Version::V2));
            self.known = PeerState { view: View { interests, confirmed_only: false }, ..PeerState::default() };
        }
        self.follows = true;
        is_other
    }

    /// Says whether the peer reads packed entries.
    pub(crate) fn take_packed(&mut self, takes_packed: bool) {
        self.known.takes_packed = takes_packed;
    }

    /// Records that the peer says it already knows this state.
    pub(crate) fn resume_from(&mut self, have: ResumePoint) {
        if self.known.revision.is_none() && self.known.view.interests.is_none() {
            (self.known.revision, self.known.digest) = (Some(have.revision), have.digest);
        }
    }

    /// Sends the peer nothing unasked from now on.
    pub(crate) fn unfollow(&mut self) {
        self.follows = false;
    }

    /// The state that it was told last.
    pub(crate) fn last_sent(&self) -> Option<Revision> {
        self.known.revision
    }

    /// When to greet the peer with the list, if that has not happened yet.
    pub(crate) fn greet_at(&self) -> Option<Instant> {
        self.is_to_be_greeted().then_some(self.greet_at)
    }

    /// Whether it is a silent peer that has not been sent a list. One of version 2 registers before
    /// it is told anything: thousands that are turned away for a while have no use for a list.
    fn is_to_be_greeted(&self) -> bool {
        !self.follows && self.version == Version::V1 && self.known.revision.is_none()
    }

    /// Postpones the greeting, because the list cannot be sent yet.
    pub(crate) fn greet_later(&mut self, at: Instant) {
        self.greet_at = at;
    }

    /// Owes the peer a reply. It is owed one at a time: ask [`owes_reply`](Self::owes_reply) before
    /// reading its next packet.
    pub(crate) fn reply(&mut self, reply: Reply, version: Version) {
        self.version = version;
        self.reply = Some(reply);
    }

    /// Owes the peer the answer to its question: who offers these routes? Those of these nodes that
    /// it does not know are sent before the answer, in the same reply.
    ///
    /// # Errors
    /// The rejection that it is sent instead.
    pub(crate) fn answer_need(
        &mut self,
        now: Instant,
        registry: &mut Registry,
        host: &str,
        key: &Key,
        routes: &[String],
    ) -> Result<(), Rejection> {
        if !self.follows || self.version != Version::V2 {
            return Err(Rejection::new(400, "bad_need", "a node registers before it asks"));
        }
        let LearnedInterests { needs, interests, update } =
            registry.learn(now, self.session, host, &self.known, routes)?;
        if interests.is_some() {
            self.known.view.interests = interests;
        }
        let mut reply = BytesMut::new();
        match update {
            LearnedUpdate::Nothing => {}
            LearnedUpdate::Change(change, told) => {
                reply.extend_from_slice(&change);
                self.record_told(told);
            }
            LearnedUpdate::List => {
                self.floor = self.floor.max(self.known.revision);
                (self.known.revision, self.known.digest, self.known.irrelevant_until) = (None, None, None);
                self.is_behind = true;
                return Err(LearnedInterests::after_list());
            }
        }
        write_needed(&mut reply, key, &needs);
        self.reply = Some(Reply::Packet(registry.reserved(reply.freeze())));
        Ok(())
    }

    fn record_told(&mut self, StateAfter { revision, confirmed_only }: StateAfter) {
        (self.known.revision, self.known.digest, self.known.irrelevant_until) = (Some(revision), None, None);
        self.known.view.confirmed_only = confirmed_only;
    }

    /// Whether a reply waits to be written.
    pub(crate) fn owes_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// Owes the peer the whole list again, because its digest is not that of the state it was sent:
    /// once in 30 s at most. Returns whether it does.
    pub(crate) fn resend_list(&mut self, now: Instant) -> bool {
        let is_new = self.corrected_at.is_none_or(|at| at + RESEND_INTERVAL <= now);
        if !is_new || self.reply.is_some() || !self.known.view.is_all() {
            return false;
        }
        self.corrected_at = Some(now);
        self.reply = Some(Reply::List(Key::Number(0)));
        true
    }

    /// Owes the peer this notice, in place of one of its kind that is still waiting.
    pub(crate) fn notify(&mut self, kind: NoticeKind, packet: Bytes) {
        self.notices.set(kind, packet);
    }

    /// Owes the peer a ping, which asks for a sign of life.
    pub(crate) fn ping(&mut self) {
        self.owes_ping = true;
    }

    /// Whether a packet has begun to go out and not ended, so that no other may follow.
    pub(crate) fn is_mid_packet(&self) -> bool {
        !self.remainder.is_empty()
    }

    /// Since when a large packet whose bytes are kept for this peer has been on its way.
    pub(crate) fn unread_since(&self) -> Option<Instant> {
        self.remainder_since.filter(|_| self.remainder.is_reserved())
    }

    /// Since when the socket has taken none of the owed bytes.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The next step at `now`. Without `with_lists`, changes wait for the publisher, which merges
    /// them.
    pub(crate) fn next(&mut self, now: Instant, registry: &mut Registry, with_lists: bool) -> WriteStep {
        if !self.remainder.is_empty() {
            return WriteStep::Write(self.remainder.next());
        }
        if std::mem::take(&mut self.is_in_transfer) {
            registry.record_sent(self.session);
        }
        let mut told = None;
        let packet = match &self.reply {
            Some(Reply::Packet(packet)) => packet.clone(),
            Some(Reply::List(key)) => match registry.list_for(now, self.version, key, &self.known.view) {
                NextUpdate::Packet(packet, then) => {
                    told = Some(then);
                    packet
                }
                NextUpdate::Later(wait) => return self.wait(now, registry, wait),
                NextUpdate::Nothing(_) => return WriteStep::Done,
            },
            None => match self.unasked(now, registry, with_lists) {
                Unsolicited::Packet(packet, then) => {
                    told = then;
                    packet
                }
                Unsolicited::Later(wait) => return self.wait(now, registry, wait),
                Unsolicited::Nothing => return WriteStep::Done,
            },
        };
        // A packet in two pieces crashes version 1 peers.
        let packet = if self.version == Version::V1 { packet.in_one_piece() } else { packet };
        if self.version == Version::V1
            && let Err(full) = self.window.admit(now, packet.len())
        {
            return WriteStep::WaitFor(full);
        }
        let is_transfer = self.version == Version::V2 && packet.len() >= MIN_TRANSFER_BYTES;
        if is_transfer && let Err(at) = registry.try_begin(now, self.session) {
            return self.wait(now, registry, WaitReason::Pace(at));
        }
        self.is_waiting = false;
        if self.reply.take().is_none() && told.is_none() {
            // The packet was a notice, or the ping.
            if !self.notices.remove_first() {
                self.owes_ping = false;
            }
        }
        if let Some(told) = told {
            self.record_told(told);
        }
        self.is_in_transfer = is_transfer;
        if told.is_some() && !is_transfer {
            registry.record_sent(self.session);
        }
        self.begin(now, packet)
    }

    /// Lets the peer's packets wait. It is pinged at once: nodes give up a Distributor that says
    /// nothing for long.
    fn wait(&mut self, now: Instant, registry: &Registry, wait: WaitReason) -> WriteStep {
        let is_new = !std::mem::replace(&mut self.is_waiting, true);
        if is_new && self.follows && self.version == Version::V2 {
            return self.begin(now, registry.ping().into());
        }
        WriteStep::Later(wait)
    }

    /// Begins to send a packet.
    fn begin(&mut self, now: Instant, packet: OutPacket) -> WriteStep {
        self.remainder = packet;
        self.remainder_since = Some(now);
        WriteStep::Write(self.remainder.next())
    }

    /// The next packet that the peer is sent unasked, and the state that it knows then.
    fn unasked(&mut self, now: Instant, registry: &mut Registry, with_lists: bool) -> Unsolicited {
        if let Some(notice) = self.notices.first() {
            return Unsolicited::Packet(notice.clone().into(), None);
        }
        if self.owes_ping {
            return Unsolicited::Packet(registry.ping().into(), None);
        }
        if !self.follows {
            if !self.is_to_be_greeted() || now < self.greet_at || registry.defers_updates(Version::V1) {
                return Unsolicited::Nothing;
            }
            if !std::mem::replace(&mut self.has_greeting_time, true) {
                self.greet_at = registry.assign_greeting_time(now);
            }
            if now < self.greet_at {
                return Unsolicited::Nothing;
            }
            return registry.list_for(now, self.version, &Key::Number(0), &View::default()).into();
        }
        if !with_lists || registry.defers_updates(self.version) {
            return Unsolicited::Nothing;
        }
        match self.version {
            Version::V1 => match registry.legacy() {
                Some((packet, revision)) if self.known.revision.is_none_or(|told| told < revision) => {
                    Unsolicited::Packet(packet, Some(StateAfter { revision, confirmed_only: false }))
                }
                _ => Unsolicited::Nothing,
            },
            Version::V2 => {
                registry.publish_since(self.floor);
                let update = registry.update_for(now, &self.known);
                if let NextUpdate::Nothing(revision) = update {
                    self.known.irrelevant_until = Some(revision);
                }
                update.into()
            }
        }
    }

    /// Records that the socket took `bytes` of the bytes to write.
    pub(crate) fn record_write(&mut self, now: Instant, bytes: usize) {
        self.remainder.advance(bytes);
        self.window.record_write(now, bytes);
        self.stalled_since = None;
    }

    /// Records that the socket took nothing.
    pub(crate) fn blocked(&mut self, now: Instant) {
        self.stalled_since.get_or_insert(now);
    }

    /// All bytes written so far. Call it before observing the peer's socket.
    pub(crate) fn written(&self) -> u64 {
        self.window.written()
    }

    /// The bytes that the peer is known to have read; `None` when its socket cannot be observed.
    pub(crate) fn read(&self) -> Option<u64> {
        self.window.read()
    }

    /// Records that, after `written` bytes, at most `unread` of them were unread at the peer.
    /// Returns whether it has read anything since the last time.
    pub(crate) fn confirm_read(&mut self, written: u64, unread: usize) -> bool {
        self.window.confirm_read(written, unread)
    }

    /// Records that the peer's socket cannot be observed after all.
    pub(crate) fn fall_back_to_time(&mut self, legacy_read_time: Duration) {
        self.window.fall_back_to_time(legacy_read_time);
    }
}

#[cfg(test)]
mod tests;
