//! One connection: reads packets, writes what its session is still to be sent, and ends when either
//! fails.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use net::{BacklogPoller, FrameReader, MAX_ESCAPED_BYTES, Socket, TimeSlice, escaped, sleep_until_opt};
use protocol::{Key, LeaveReason, Version, WindowFull};
use tokio::io::{Interest, Ready};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::peer::command::{CommandReader, FrameCounts, Rejection};
use crate::peer::outbox::Reply;
use crate::peer::read_probe::{ProbeResult, ReadProbe};
use crate::registry::liveness::Verdict;
use crate::shell::farewell::{abort, farewell};
use crate::shell::incoming_budget::Room;
use crate::shell::peer_reader::{PeerReader, RoomForPacket};
use crate::shell::session::{FlushOutcome, Session, SessionGuard, Writer};
use crate::shell::update_queue::{PendingHead, QueueHead, UpdateQueue};
use crate::token_bucket::TokenBucket;
use crate::updates::lists::Wait;

/// Packets of one peer that are handled before other tasks run, if they take less than a
/// [`TimeSlice`].
const FRAMES_PER_SLICE: u32 = 64;
/// How long a peer may take to send a packet, or to read a large one, while memory is short.
pub(super) const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// How often a connection whose peer has taken longer than that checks whether memory is short. Ten
/// thousand such connections cost a few hundredths of a core.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a connection that waits to greet its peer checks whether an earlier list has come.
const RESTORING: Duration = Duration::from_millis(50);
/// Why a connection ended.
pub(super) enum ConnectionEnd {
    /// The peer closed its side, or the connection broke.
    Gone(LeaveReason),
    /// We are stopping.
    Stopping,
    /// The peer is told what is wrong, and is then cut.
    Rejected(Rejection),
    /// The registry has removed the session; the peer is told why.
    CutByRegistry(LeaveReason),
    /// The peer reads none of the bytes that it is sent.
    Stalled,
    /// The peer reads slowly while memory is short.
    Slow,
    /// The connection was evicted to make room for another one.
    Evicted,
}

/// Serves one connection until it ends. Dropping the future ends it too; either way its session is
/// removed.
pub(crate) async fn run(guard: SessionGuard, stop: CancellationToken) {
    let session = &guard.session;
    let config = &guard.shared().config;
    let mut frames = FrameReader::new(config.max_frame_bytes);
    // Until it shows version 2, whose writers escape `¶`.
    frames.join_pieces(true);
    let mut reader = PeerReader {
        frames,
        commands: CommandReader::new(),
        read_before: false,
        registered: false,
        heard_at: Instant::now(),
        bucket: TokenBucket::new(config.packets_per_second, config.packet_burst),
        waiting: None,
        room: RoomForPacket::Little,
        pending: None,
        named: None,
    };
    let end = serve(&guard, &mut reader, &stop).await;
    let reason = match end {
        ConnectionEnd::Gone(reason) | ConnectionEnd::CutByRegistry(reason) => reason,
        ConnectionEnd::Stopping | ConnectionEnd::Evicted => LeaveReason::Closed,
        ConnectionEnd::Rejected(_) => LeaveReason::Refused,
        ConnectionEnd::Stalled | ConnectionEnd::Slow => LeaveReason::Stalled,
    };
    // The list must not wait for the farewell.
    guard.unregister(reason);
    let (peer, conn) = (session.peer, session.id.0);
    let FrameCounts { packets, ignored, blank, strikes } = reader.commands.counts;
    // A version 1 peer that follows takes any packet for the list: one that says why it is cut
    // would tell a gateway to forget all of its routes. A plain close tells it to come back.
    let takes_words = reader.commands.version() == Version::V2 || !reader.registered;
    // Other connections wait for the memory of its packet.
    drop(reader);
    let is_lost = session.outbox().is_mid_packet() || matches!(end, ConnectionEnd::CutByRegistry(_));
    let rejection = match end {
        ConnectionEnd::Gone(_) | ConnectionEnd::Stopping | ConnectionEnd::Evicted => {
            let reason = reason.as_str();
            debug!(conn, %peer, packets, ignored, blank, strikes, reason, "connection closed");
            return;
        }
        ConnectionEnd::Stalled => {
            let seconds = config.write_timeout.as_secs_f32();
            if let Some(suppressed) =
                guard.shared().cut_log.allow_for(reason.as_str(), peer.ip(), Instant::now().into_std())
            {
                warn!(conn, %peer, packets, suppressed, "cut: for {seconds} s the peer has read nothing of what it was sent");
            }
            return abort(&session.stream);
        }
        ConnectionEnd::Slow => {
            if let Some(suppressed) = guard.shared().cut_log.allow_for("slow", peer.ip(), Instant::now().into_std()) {
                let used = guard.shared().update_budget.used();
                warn!(conn, %peer, suppressed, used, "cut: the peer reads slowly, and unread packets take too much memory");
            }
            return abort(&session.stream);
        }
        ConnectionEnd::CutByRegistry(LeaveReason::Superseded) => {
            Rejection::new(409, "superseded", "the same instance has registered on a newer connection")
        }
        ConnectionEnd::CutByRegistry(reason) => Rejection::new(408, reason.as_str(), "no sign of life"),
        ConnectionEnd::Rejected(rejection) => rejection,
    };
    let Rejection { status, reason, message } = rejection;
    if let Some(suppressed) = guard.shared().cut_log.allow_for(reason, peer.ip(), Instant::now().into_std()) {
        let shown = escaped(&message, MAX_ESCAPED_BYTES);
        info!(conn, %peer, packets, ignored, blank, strikes, reason, suppressed, "cut: {shown}");
    }
    let words = takes_words.then_some((status, reason, message.as_str()));
    // A packet behind an unfinished one would be part of it.
    let heard = !session.outbox().is_mid_packet() && farewell(&guard, words).await;
    if !heard && is_lost {
        abort(&session.stream);
    }
}

/// The position of a peer in the queue of peers that wait for a packet of their own.
enum QueueState {
    Outside,
    Pending(PendingHead),
    First { _head: QueueHead },
}

/// What a connection's task has waited for.
enum Wake {
    Stopping,
    /// The socket is readable, writable, or broken.
    Ready(std::io::Result<Ready>),
    /// The publisher could not write everything, or the registry has removed the session.
    Unfinished,
    /// An old peer's socket was observed. Whether the peer reads.
    Looked(bool),
    /// There is room for the rest of a packet.
    Room(Room),
    /// The name that the peer advertises was looked up.
    LookedUp(Result<IpAddr, String>),
    /// It is first in the queue for a packet of its own.
    QueueHead(QueueHead),
    /// A deadline may be over.
    Due,
}

async fn serve(guard: &SessionGuard, reader: &mut PeerReader, stop: &CancellationToken) -> ConnectionEnd {
    let session = &guard.session;
    let config = &guard.shared().config;
    let mut look = BacklogPoller::default();
    // A peer that sends without a pause never makes this task wait, and a packet may cost a
    // microsecond or a millisecond.
    let mut slice = TimeSlice::with_queue(&guard.shared().slices);
    // Since when an old peer has read none of its unread bytes.
    let mut unread_since = None;
    let mut queue_state = QueueState::Outside;
    let mut probe = None;
    loop {
        slice.yield_if_over().await;
        if let Some(reason) = session.cut_reason.get() {
            return ConnectionEnd::CutByRegistry(*reason);
        }
        if session.is_evicted.load(Ordering::Relaxed) {
            return ConnectionEnd::Evicted;
        }
        if session.is_reported.swap(false, Ordering::Relaxed) && probe.is_none() {
            probe = begin_probe(session);
        }
        let (flow, _) = session.flush(guard.shared(), Writer::Connection);
        // A peer that asks faster than it reads is not read from: one reply at a time.
        let mut handled = 0;
        while !session.outbox().owes_reply() {
            match reader.handle_next_frame(guard) {
                Ok(true) => handled += 1,
                Ok(false) => break,
                Err(end) => return end,
            }
            if handled == FRAMES_PER_SLICE || slice.is_over() {
                slice.yield_now().await;
                handled = 0;
            }
        }
        let owes_reply = session.outbox().owes_reply();
        if owes_reply && flow == FlushOutcome::Done {
            continue;
        }
        let has_room = reader.has_room(&guard.shared().incoming_budget);
        let listening = !owes_reply && reader.waiting.is_none() && reader.pending.is_none() && has_room;
        let (writable, paced) = match flow {
            FlushOutcome::Done => {
                if probe.is_none() {
                    look.reset();
                }
                unread_since = None;
                (false, None)
            }
            FlushOutcome::Stalled(_) => (true, None),
            FlushOutcome::Paced(unread) => {
                if unread == WindowFull::PollPeer {
                    unread_since.get_or_insert_with(Instant::now);
                }
                (false, Some(unread))
            }
            FlushOutcome::Later(_) => (false, None),
            FlushOutcome::Broken => return ConnectionEnd::Gone(LeaveReason::Reset),
        };
        let stalled_since = match flow {
            FlushOutcome::Stalled(since) => Some(Instant::from_std(since)),
            FlushOutcome::Done | FlushOutcome::Paced(_) | FlushOutcome::Later(_) | FlushOutcome::Broken => unread_since,
        };
        let now = Instant::now();
        let later = match flow {
            FlushOutcome::Later(wait) => {
                queue_state.next_try(wait, &guard.shared().update_queue, session).map(Instant::from_std)
            }
            FlushOutcome::Done | FlushOutcome::Stalled(_) | FlushOutcome::Paced(_) | FlushOutcome::Broken => {
                queue_state = QueueState::Outside;
                None
            }
        };
        // A peer that holds much memory has less time while memory is short, which is checked once
        // in a while.
        let keeps_since = session.outbox().unread_since().map(Instant::from_std);
        let has_room_since = if let RoomForPacket::Roomy { since, .. } = &reader.room { Some(*since) } else { None };
        let keeps_until = keeps_since.map(|since| since + SHORT_PATIENCE);
        let has_room_until =
            has_room_since.map(|since| since + guard.shared().incoming_budget.patience(SHORT_PATIENCE));
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if is_over(keeps_until) && guard.shared().update_budget.is_short() {
            return ConnectionEnd::Slow;
        }
        if is_over(has_room_until) && guard.shared().incoming_budget.is_short() {
            return ConnectionEnd::Rejected(takes_too_long(reader.frames.buffered()));
        }
        let looks = [keeps_until, has_room_until].into_iter().flatten();
        let look_again = looks.map(|until| if until <= now { now + RECHECK_INTERVAL } else { until }).min();
        let frame_deadline = reader.frames.deadline(config.frame_timeout).filter(|_| listening);
        let write_deadline = stalled_since.map(|since| since + config.write_timeout);
        let register_deadline = reader.register_by(config.register_timeout);
        let greet_at = session.outbox().greet_at().filter(|_| flow == FlushOutcome::Done).map(Instant::from_std);
        let too_soon = reader.waiting.as_ref().map(|(_, at)| *at);
        // One timer for all: there are thousands of these.
        let deadlines = [frame_deadline, write_deadline, register_deadline, greet_at, too_soon, later, look_again];
        let next = deadlines.into_iter().flatten().min();
        // On the heap: most connections never wait for an old peer to read, and each would keep the
        // room.
        let looks_for = paced.or_else(|| probe.as_ref().map(|_| WindowFull::PollPeer));
        let mut reading = looks_for.map(|unread| Box::pin(read_enough(guard, unread, &mut look)));
        let (room, pending) = (&mut reader.room, &mut reader.pending);
        let woken = slice.idle_while(async {
            tokio::select! {
                () = stop.cancelled() => Wake::Stopping,
                ready = ready(&session.stream, listening, writable) => Wake::Ready(ready),
                () = session.unfinished.notified() => Wake::Unfinished,
                reads = or_pending(&mut reading) => Wake::Looked(reads),
                room = room.acquired() => Wake::Room(room),
                found = PeerReader::looked_up(pending) => Wake::LookedUp(found),
                head = queue_state.acquired() => Wake::QueueHead(head),
                () = sleep_until_opt(next) => Wake::Due,
            }
        });
        let woken = woken.await;
        if !listening {
            reader.frames.defer_deadline();
        }
        match woken {
            Wake::Stopping => return ConnectionEnd::Stopping,
            Wake::Ready(ready) => {
                let filled = ready.and_then(|ready| match ready.is_readable() {
                    true => reader.fill(&session.stream, config.max_frame_bytes).map(Some),
                    false => Ok(None),
                });
                match filled {
                    Ok(Some(true)) => guard.record_sign_of_life(),
                    Ok(Some(false)) => return ConnectionEnd::Gone(LeaveReason::Closed),
                    Ok(None) => {}
                    Err(error) => return ConnectionEnd::Gone(reason(&error)),
                }
            }
            Wake::Unfinished => {}
            Wake::LookedUp(found) => reader.handle_looked_up(guard, found),
            Wake::Room(room) => reader.room = RoomForPacket::roomy(room),
            Wake::QueueHead(head) => queue_state = QueueState::First { _head: head },
            Wake::Looked(reads) => {
                if reads {
                    unread_since = None;
                }
                let now = Instant::now().into_std();
                let seen = probe.as_mut().map(|probe| probe.look(now, session.outbox().read()));
                match seen {
                    None | Some(ProbeResult::Waiting) => {}
                    Some(ProbeResult::Suspect) => guard.apply_verdict(Verdict::Suspect),
                    Some(ProbeResult::Reads) => {
                        probe = None;
                        guard.apply_verdict(Verdict::Trust);
                    }
                    Some(ProbeResult::Hidden) => probe = None,
                    Some(ProbeResult::Hung) => return ConnectionEnd::CutByRegistry(LeaveReason::Hung),
                }
            }
            Wake::Due => {
                let now = Instant::now();
                let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
                if is_due(write_deadline) {
                    return ConnectionEnd::Stalled;
                }
                if is_due(frame_deadline) && !reader.give_up_pieces() {
                    return ConnectionEnd::Rejected(takes_too_long(reader.frames.buffered()));
                }
                if is_due(register_deadline) {
                    return ConnectionEnd::Rejected(Rejection::new(
                        408,
                        "not_registered",
                        "a version 2 peer must register at once",
                    ));
                }
                if is_due(greet_at) && guard.defers_greetings() {
                    session.outbox().greet_later((now + RESTORING).into_std());
                }
            }
        }
    }
}

fn takes_too_long(unfinished: &[u8]) -> Rejection {
    // Writers of some dialects end their packets otherwise.
    let (bytes, end) =
        (unfinished.len(), unfinished.last().map_or_else(String::new, |last| last.escape_ascii().to_string()));
    let what = format!("a packet took too long: {bytes} bytes without ¶, which end in '{end}'");
    Rejection::new(408, "frame_timeout", what)
}

/// Sends an old node that others report not to answer the list once more, and looks whether it
/// reads it; nothing else may be sent to it. `None` when it cannot be seen, or is about to be
/// answered.
fn begin_probe(session: &Session) -> Option<ReadProbe> {
    let mut outbox = session.outbox();
    if outbox.owes_reply() || outbox.is_mid_packet() || outbox.read().is_none() {
        return None;
    }
    let probe = ReadProbe::new(Instant::now().into_std(), outbox.written());
    outbox.reply(Reply::List(Key::Number(0)), Version::V1);
    Some(probe)
}

/// What a socket error says about the peer.
fn reason(error: &std::io::Error) -> LeaveReason {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::TimedOut | Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            LeaveReason::Unreachable
        }
        _ => LeaveReason::Reset,
    }
}

/// Waits until the socket is readable or writable, as far as either is wanted.
async fn ready(stream: &Socket, to_read: bool, to_write: bool) -> std::io::Result<Ready> {
    let interest = match (to_read, to_write) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => return std::future::pending().await,
    };
    stream.ready(interest).await
}

/// Waits for a future, or for ever when there is none.
async fn or_pending<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits until an old peer's read window may have room. Returns whether the peer reads.
async fn read_enough(guard: &SessionGuard, unread: WindowFull, look: &mut BacklogPoller) -> bool {
    let (session, shared) = (&guard.session, guard.shared());
    match unread {
        WindowFull::Until(time) => {
            sleep_until(Instant::from_std(time)).await;
            true
        }
        WindowFull::PollPeer => {
            let written = session.outbox().written();
            match look.unread(&shared.local_queues, &session.stream, written).await {
                (written, Some(unread)) => session.outbox().confirm_read(written, unread),
                (_, None) => {
                    session.outbox().fall_back_to_time(shared.config.legacy_read_time);
                    shared.warn_of_hidden(session.peer);
                    true
                }
            }
        }
    }
}

impl QueueState {
    /// When to try again. A peer that waits for the pace enters the queue, and tries again when it
    /// is first. A peer for which there is no memory leaves the queue for a while: the packets of
    /// others, which may be smaller, must not wait for it.
    fn next_try(&mut self, wait: Wait, queue: &UpdateQueue, session: &Session) -> Option<std::time::Instant> {
        match (&self, wait) {
            (Self::Pending(_), _) => None,
            (Self::First { .. }, Wait::Pace(at)) => Some(at),
            (Self::First { .. } | Self::Outside, Wait::Memory(at)) => {
                *self = Self::Outside;
                Some(at)
            }
            (Self::Outside, Wait::Pace(_)) => {
                *self = Self::Pending(queue.enter(&session.network_queue));
                None
            }
        }
    }

    /// Waits until the peer is first, or for ever when it is not in the queue. Cancel safe.
    async fn acquired(&mut self) -> QueueHead {
        match self {
            Self::Pending(head) => head.await,
            Self::Outside | Self::First { .. } => std::future::pending().await,
        }
    }
}
