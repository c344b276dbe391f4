//! The reading half of a connection: which bytes it reads, and what each packet does.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net::{FrameReader, MAX_ESCAPED_BYTES, Socket, escaped};
use protocol::{
    HostPort, Key, LeaveReason, ListedHost, Packet, Pong, RegisterOptions, Registration, Version, read_copy,
    write_history, write_refusal,
};
use socket2::SockRef;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::config::Config;
use crate::peer::command::{Command, CommandReader, guess_protocol};
use crate::peer::outbox::Reply;
use crate::rate_limit::token_bucket::TokenBucket;
use crate::registry::Rejection;
use crate::shell::connection::{ConnectionEnd, SHORT_MEMORY_TIMEOUT};
use crate::shell::incoming_budget::{IncomingBudget, PacketReservation, PendingReservation};
use crate::shell::name_lookup::{LOOKUP_RETRY_AFTER, PendingRegistration};
use crate::shell::session::SessionGuard;
use crate::updates::budget::OutPacket;

/// Bytes of a packet that are read before memory for all of it is reserved.
const UNRESERVED_BYTES: usize = 4 * 1024;
/// Unsent bytes that the system may hold for a version 2 peer. A peer that stops reading then
/// catches up from the newest state, and not through all states between.
#[cfg(target_os = "linux")]
const MAX_UNSENT_BYTES: u32 = 128 * 1024;
/// All bytes that the system may hold for a version 2 peer, sent or not (Linux takes twice that,
/// for its own needs: socket(7)). Otherwise ten thousand slow peers would use up the system's
/// memory for TCP, and the system would drop incoming bytes of all connections.
const MAX_SYSTEM_BYTES: usize = 128 * 1024;

/// The state of the reading half.
pub(super) struct PeerReader {
    pub(super) frames: FrameReader,
    pub(super) commands: CommandReader,
    was_read_before: bool,
    pub(super) has_registered: bool,
    /// When the last packet arrived.
    heard_at: Instant,
    bucket: TokenBucket,
    /// A packet that arrived too soon, and when to handle it.
    pub(super) waiting: Option<(Bytes, Instant)>,
    pub(super) memory: PacketMemory,
    /// A registration whose name is being looked up. Nothing else is handled meanwhile.
    pub(super) pending: Option<PendingRegistration>,
    /// The name that the node advertises, and the address that was found for it last.
    named: Option<(HostPort, IpAddr)>,
}

/// Where the bytes of a packet that has begun to arrive are held.
pub(super) enum PacketMemory {
    /// The packet's bytes are few and need no reservation.
    Unreserved,
    /// The packet's bytes wait for a reservation.
    Pending(PendingReservation),
    /// Memory for a whole packet has been reserved since this time.
    Reserved { _reservation: PacketReservation, since: Instant },
}

impl PacketMemory {
    pub(super) fn reserved(reservation: PacketReservation) -> Self {
        Self::Reserved { _reservation: reservation, since: Instant::now() }
    }

    /// Waits for the reservation, for ever when none is pending. Cancel safe.
    pub(super) async fn acquired(&mut self) -> PacketReservation {
        match self {
            Self::Pending(reservation) => reservation.await,
            Self::Unreserved | Self::Reserved { .. } => std::future::pending().await,
        }
    }
}

impl PeerReader {
    pub(super) fn new(config: &Config) -> Self {
        let mut frames = FrameReader::new(config.max_frame_bytes);
        // Until it shows version 2, whose writers escape `¶`.
        frames.join_pieces(true);
        Self {
            frames,
            commands: CommandReader::new(),
            was_read_before: false,
            has_registered: false,
            heard_at: Instant::now(),
            bucket: TokenBucket::new(config.packets_per_second, config.packet_burst),
            waiting: None,
            memory: PacketMemory::Unreserved,
            pending: None,
            named: None,
        }
    }

    /// Whether there is room for the buffered bytes, and more. A few bytes need none.
    pub(super) fn has_room(&mut self, budget: &IncomingBudget) -> bool {
        if self.frames.buffered().len() <= UNRESERVED_BYTES {
            self.memory = PacketMemory::Unreserved;
        } else if matches!(self.memory, PacketMemory::Unreserved) {
            self.memory = match budget.acquire() {
                Ok(reservation) => PacketMemory::reserved(reservation),
                Err(pending) => PacketMemory::Pending(pending),
            };
        }
        !matches!(self.memory, PacketMemory::Pending(_))
    }

    /// Reads the available bytes, as far as there is room; `false` when the peer has closed its
    /// side.
    pub(super) fn fill(&mut self, socket: &Socket, max_frame_bytes: usize) -> std::io::Result<bool> {
        let limit =
            if matches!(self.memory, PacketMemory::Reserved { .. }) { max_frame_bytes } else { UNRESERVED_BYTES };
        self.frames.fill_at_most(socket, limit.saturating_sub(self.frames.buffered().len()))
    }

    /// Handles one packet; `false` when more bytes are needed first.
    pub(super) fn handle_next_frame(&mut self, guard: &SessionGuard) -> Result<bool, ConnectionEnd> {
        if self.pending.is_some() {
            return Ok(false);
        }
        self.check_protocol()?;
        let now = Instant::now();
        let Some(frame) = self.next_frame(guard, now)? else { return Ok(false) };
        self.heard_at = now;
        let version = self.commands.version();
        let command = self.commands.read(now.into_std(), &frame, &guard.shared().config);
        self.carry_out(guard, command, &frame)?;
        if version == Version::V1 && self.commands.version() == Version::V2 {
            tune_for_changes(&guard.session.socket);
            self.frames.join_pieces(false);
        }
        Ok(true)
    }

    /// Looks at the first bytes, which may be those of another protocol.
    fn check_protocol(&mut self) -> Result<(), ConnectionEnd> {
        if self.was_read_before || self.frames.buffered().is_empty() {
            return Ok(());
        }
        if let Some(other) = guess_protocol(self.frames.buffered()) {
            let message = format!("this port is for packets to the Distributor; the peer seems to speak {other}");
            return Err(ConnectionEnd::Rejected(Rejection::new(400, "wrong_protocol", message)));
        }
        // The longest signature: after this many bytes the guess is as good as it gets.
        self.was_read_before = self.frames.buffered().len() >= 12;
        Ok(())
    }

    /// The next packet, unless it is incomplete, or has come too soon and has to wait.
    fn next_frame(&mut self, guard: &SessionGuard, now: Instant) -> Result<Option<Bytes>, ConnectionEnd> {
        let frame = match self.waiting.take() {
            Some((frame, at)) if at <= now => frame,
            Some(early) => {
                self.waiting = Some(early);
                return Ok(None);
            }
            None => match self.frames.next_frame() {
                Ok(Some(frame)) => {
                    self.warn_of_pieces(guard);
                    frame
                }
                Ok(None) => return Ok(None),
                Err(too_large) => {
                    return Err(ConnectionEnd::Rejected(Rejection::new(413, "frame_too_large", too_large.to_string())));
                }
            },
        };
        self.was_read_before = true;
        if let Err(wait) = self.bucket.try_spend(now.into_std()) {
            self.waiting = Some((frame, now + wait));
            return Ok(None);
        }
        Ok(Some(frame))
    }

    /// Does what a packet asks for. `frame` is that packet.
    fn carry_out(&mut self, guard: &SessionGuard, command: Command, frame: &[u8]) -> Result<(), ConnectionEnd> {
        let session = &guard.session;
        match command {
            Command::Ignore => {}
            Command::Skip(rejection) => guard.shared().warn_of_skip(session.peer, &rejection),
            Command::FollowOnly(rejection) => {
                guard.shared().counters.record_rejection(rejection.status, rejection.reason);
                guard.shared().warn_of_rejection(session.peer, &rejection);
                self.follow_only(guard);
            }
            Command::Register(registration, options) => self.locate_and_register(guard, *registration, options),
            Command::GetList(key) => session.outbox().reply(Reply::List(key), self.commands.version()),
            Command::Leave => {
                self.has_registered = false;
                guard.unregister(LeaveReason::Leave);
            }
            Command::Acknowledge(Pong { revision: Some(known), digest }) => {
                guard.acknowledge(known, digest, self.heard_at.into_std());
            }
            Command::Acknowledge(_nothing) => {}
            Command::Report(report) => guard.report(&report),
            Command::CopyPart => {
                if let Some(part) = Packet::parse(frame).ok().as_ref().and_then(read_copy) {
                    guard.restore_part(&part);
                }
            }
            Command::GetHistory(key, node) => self.reply_history(guard, &key, &node),
            Command::Need(key, routes) => {
                if let Err(rejection) = guard.answer_need(&key, &routes) {
                    self.reject(guard, Some(&key), &rejection);
                }
            }
            Command::Reject(key, rejection) => self.reject(guard, key.as_ref(), &rejection),
            Command::Cut(rejection) => return Err(ConnectionEnd::Rejected(rejection)),
        }
        Ok(())
    }

    /// Replies what happened to a node, if the memory for packets has room for it.
    fn reply_history(&self, guard: &SessionGuard, key: &Key, node: &str) {
        let mut out = BytesMut::new();
        write_history(&mut out, key, &guard.history(node));
        let memory = &guard.shared().update_budget;
        if memory.has_room(out.len()) {
            let answer = OutPacket::reserved(out.freeze(), memory);
            guard.session.outbox().reply(Reply::Packet(answer), self.commands.version());
        } else {
            let rejection = Rejection::new(503, "busy", "unread packets of peers take too much memory");
            self.reject(guard, Some(key), &rejection.retry_after(SHORT_MEMORY_TIMEOUT));
        }
    }

    /// The rest of a packet that a raw `¶` has cut does not come: its first piece is handled as it
    /// is. Returns whether there was one.
    pub(super) fn give_up_pieces(&mut self) -> bool {
        let piece = self.frames.give_up_pieces().map(|piece| (piece, Instant::now()));
        let is_given_up = piece.is_some();
        self.waiting = piece.or_else(|| self.waiting.take());
        is_given_up
    }

    fn warn_of_pieces(&self, guard: &SessionGuard) {
        let pieces = self.frames.pieces();
        if pieces > 1
            && let Some(suppressed) =
                guard.shared().warnings.allow_for("raw_delimiter", guard.session.peer.ip(), Instant::now().into_std())
        {
            let peer = guard.session.peer;
            warn!(%peer, pieces, suppressed, "a packet of this node was cut by a raw ¶ in a text; its pieces were joined");
        }
    }

    /// Finds out where a node should be listed, and registers it.
    fn locate_and_register(&mut self, guard: &SessionGuard, registration: Registration, options: RegisterOptions) {
        let seen = guard.session.peer.ip();
        match registration.listed_host(seen) {
            Ok(ListedHost::Address(host)) => self.register(guard, registration, host, &options),
            Ok(ListedHost::Name(name)) => {
                let name = name.to_owned();
                let lookups = &guard.shared().lookups;
                self.pending = Some(PendingRegistration::begin(lookups, name, seen, registration, options));
            }
            Err(why) => {
                let message = registration.advertised().map_or_else(|| why.to_string(), |at| format!("{at}: {why}"));
                let rejection = Rejection::new(400, "bad_advertise", message);
                guard.shared().warn_of_rejection(guard.session.peer, &rejection);
                self.reject(guard, None, &rejection);
            }
        }
    }

    /// Registers a node whose advertised name was looked up. A node that is listed stays at the
    /// address that was found before when none is found now.
    pub(super) fn handle_looked_up(&mut self, guard: &SessionGuard, found: Result<IpAddr, String>) {
        let Some(PendingRegistration { registration, options, .. }) = self.pending.take() else { return };
        let advertised = registration.advertised().cloned();
        let before = self.named.take().filter(|(name, _)| Some(name) == advertised.as_ref());
        let host = match (found, before) {
            (Ok(host), _) | (Err(_), Some((_, host))) => host,
            (Err(message), None) => {
                let rejection = Rejection::new(503, "unknown_name", message).retry_after(LOOKUP_RETRY_AFTER);
                guard.shared().warn_of_rejection(guard.session.peer, &rejection);
                return self.reject(guard, None, &rejection);
            }
        };
        self.named = advertised.map(|name| (name, host));
        self.register(guard, registration, host, &options);
    }

    fn register(
        &mut self,
        guard: &SessionGuard,
        mut registration: Registration,
        listed_at: IpAddr,
        options: &RegisterOptions,
    ) {
        let version = self.commands.version();
        if registration.advertised().is_some() {
            registration.list_at(listed_at);
        }
        let rejection = match guard.register(registration, version, options) {
            Ok(admission) => {
                self.has_registered = true;
                admission.notice()
            }
            Err(error) => {
                if version == Version::V1 {
                    self.follow_only(guard);
                }
                error.rejection()
            }
        };
        let Some(rejection) = rejection else { return };
        let Rejection { status, reason, .. } = rejection;
        // While this Distributor stops, all are told to come back.
        if status != 202 && (reason != "draining" || version == Version::V1) {
            guard.shared().warn_of_rejection(guard.session.peer, &rejection);
        }
        match version {
            Version::V1 => guard.shared().counters.record_rejection(status, reason),
            Version::V2 => self.reject(guard, None, &rejection),
        }
    }

    /// Tells a version 1 peer that is not listed of changes: an earlier registration of it stands,
    /// or it is a gateway whose entry no other peer needs.
    fn follow_only(&mut self, guard: &SessionGuard) {
        self.has_registered = true;
        guard.follow_only();
    }

    fn reject(&self, guard: &SessionGuard, key: Option<&Key>, rejection: &Rejection) {
        let session = &guard.session;
        let Rejection { status, reason, message, retry_after } = rejection;
        debug!(conn = session.id.0, peer = %session.peer, reason, "refused: {}", escaped(message, MAX_ESCAPED_BYTES));
        guard.shared().counters.record_rejection(*status, reason);
        let mut out = BytesMut::new();
        write_refusal(&mut out, key, *status, reason, message, *retry_after);
        session.outbox().reply(Reply::Packet(out.freeze().into()), self.commands.version());
    }

    /// The result of the look-up that a registration waits for; never, when none does. Cancel safe.
    pub(super) async fn looked_up(pending: &mut Option<PendingRegistration>) -> Result<IpAddr, String> {
        match pending {
            Some(pending) => pending.looked_up().await,
            None => std::future::pending().await,
        }
    }

    /// When a version 2 peer must have registered.
    pub(super) fn register_by(&self, register_timeout: Duration) -> Option<Instant> {
        let waits = self.commands.version() == Version::V2 && !self.has_registered && self.pending.is_none();
        waits.then(|| self.heard_at + register_timeout)
    }
}

/// Limits the bytes that the system holds for a peer: changes are small and many, and a newer
/// packet is better than an old one.
fn tune_for_changes(socket: &Socket) {
    let Some(tcp) = socket.tcp() else { return };
    let socket = SockRef::from(tcp);
    let limited = socket.set_send_buffer_size(MAX_SYSTEM_BYTES);
    #[cfg(target_os = "linux")]
    let limited = limited.and_then(|()| socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES));
    if let Err(error) = limited {
        debug!(%error, "cannot limit what the system holds for a peer");
    }
}
