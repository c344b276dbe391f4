//! The task of a connection: in each round it writes the packets that are due, handles those that
//! have arrived, and waits for more.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use net::{BacklogPoller, Socket, TimeSlice, sleep_until_opt};
use protocol::{Key, LeaveReason, Version, WindowFull};
use tokio::io::{Interest, Ready};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::queue_state::QueueState;
use super::{ConnectionEnd, SHORT_MEMORY_TIMEOUT};
use crate::peer::outbox::Reply;
use crate::peer::read_probe::{ProbeResult, ReadProbe};
use crate::registry::Rejection;
use crate::registry::liveness::Verdict;
use crate::shell::connection::peer_reader::{PacketMemory, PeerReader};
use crate::shell::incoming_budget::PacketReservation;
use crate::shell::session::{FlushOutcome, Session, SessionGuard, Writer};
use crate::shell::shared::update_queue::QueueHead;

/// Packets of one peer that are handled before other tasks run, if they take less than a
/// [`TimeSlice`].
const FRAMES_PER_SLICE: u32 = 64;
/// How often a connection whose peer has taken longer than [`SHORT_MEMORY_TIMEOUT`] checks whether
/// memory is short. Ten thousand such connections cost a few hundredths of a core.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a connection that waits to greet its peer checks whether an earlier list has come.
const RESTORE_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Serves a connection until it ends.
pub(super) async fn serve(guard: &SessionGuard, reader: &mut PeerReader, stop: &CancellationToken) -> ConnectionEnd {
    let mut task = ConnectionTask {
        guard,
        reader,
        slice: TimeSlice::with_queue(&guard.shared().slices),
        backlog: BacklogPoller::default(),
        unread_since: None,
        queue: QueueState::Outside,
        probe: None,
    };
    loop {
        if let Err(end) = task.run_round(stop).await {
            return end;
        }
    }
}

/// The state of a connection's task between two rounds.
struct ConnectionTask<'a> {
    guard: &'a SessionGuard,
    reader: &'a mut PeerReader,
    /// A peer that sends without a pause never makes this task wait, and a packet may cost a
    /// microsecond or a millisecond.
    slice: TimeSlice,
    backlog: BacklogPoller,
    /// Since when a version 1 peer has read none of its unread bytes.
    unread_since: Option<Instant>,
    queue: QueueState,
    probe: Option<ReadProbe>,
}

/// The event that has ended the wait of a connection's task.
enum Wake {
    Stopping,
    /// The socket is readable, writable, or broken.
    Ready(std::io::Result<Ready>),
    /// The publisher could not write everything, or the registry has removed the session.
    Notified,
    /// A version 1 peer's socket was observed. Whether the peer reads.
    Observed(bool),
    /// Memory for the rest of a packet is reserved.
    Reservation(PacketReservation),
    /// The name that the peer advertises was looked up.
    LookedUp(Result<IpAddr, String>),
    /// The connection is first in the queue for a packet of its own.
    QueueHead(QueueHead),
    /// A deadline may be over.
    Due,
}

/// The events that a round waits for at its end.
struct AwaitedEvents {
    /// Whether the socket should be read.
    listens: bool,
    /// Whether the socket should be written.
    writes: bool,
    /// Room in the peer's read window.
    window: Option<WindowFull>,
    frame_deadline: Option<Instant>,
    write_deadline: Option<Instant>,
    register_deadline: Option<Instant>,
    greet_at: Option<Instant>,
    /// The first of these deadlines and all others. There is one timer for all, as there are
    /// thousands of connections.
    next: Option<Instant>,
}

impl ConnectionTask<'_> {
    async fn run_round(&mut self, stop: &CancellationToken) -> Result<(), ConnectionEnd> {
        self.slice.yield_if_over().await;
        self.check_session()?;
        self.read_before_greeting().await?;
        let session = &self.guard.session;
        let (outcome, _) = session.flush(self.guard.shared(), Writer::Connection);
        // Judged right after an attempt: on a busy machine this task comes late to a socket that
        // has taken bytes again.
        if let FlushOutcome::Stalled(since) = outcome
            && Instant::now() >= Instant::from_std(since) + self.guard.shared().config.write_timeout
        {
            return Err(ConnectionEnd::Stalled);
        }
        self.handle_frames().await?;
        let owes_reply = session.outbox().owes_reply();
        if (owes_reply || session.outbox().is_behind) && outcome == FlushOutcome::Done {
            return Ok(());
        }
        let awaited = self.awaited(outcome, owes_reply)?;
        let woken = self.wait(&awaited, stop).await;
        if !awaited.listens {
            self.reader.frames.defer_deadline();
        }
        self.handle_wake(woken, &awaited)
    }

    /// Carries out requests of other tasks to the session.
    fn check_session(&mut self) -> Result<(), ConnectionEnd> {
        let session = &self.guard.session;
        if let Some(reason) = session.cut_reason.get() {
            return Err(ConnectionEnd::CutByRegistry(*reason));
        }
        if session.is_evicted.load(Ordering::Relaxed) {
            return Err(ConnectionEnd::Evicted);
        }
        if session.is_reported.swap(false, Ordering::Relaxed) && self.probe.is_none() {
            self.probe = begin_probe(session);
        }
        Ok(())
    }

    /// Reads the socket once more before the peer is greeted as a silent one. On a busy machine a
    /// registration that came in time may still be unread. That peer has no use for a list of
    /// version 1, and encoding it would make this machine later for the next peer.
    async fn read_before_greeting(&mut self) -> Result<(), ConnectionEnd> {
        let Self { guard, reader, .. } = self;
        let greet_at = guard.session.outbox().greet_at().map(Instant::from_std);
        if greet_at.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        match reader.fill(&guard.session.socket, guard.shared().config.max_frame_bytes) {
            Ok(true) => self.handle_frames().await,
            Ok(false) => Err(ConnectionEnd::Gone(LeaveReason::Closed)),
            Err(error) => Err(ConnectionEnd::Gone(reason(&error))),
        }
    }

    /// Handles the packets that have arrived. A peer that asks faster than it reads is not read
    /// from: one reply at a time.
    async fn handle_frames(&mut self) -> Result<(), ConnectionEnd> {
        let mut handled = 0;
        while !self.guard.session.outbox().owes_reply() && self.reader.handle_next_frame(self.guard)? {
            handled += 1;
            if handled == FRAMES_PER_SLICE || self.slice.is_over() {
                self.slice.yield_now().await;
                handled = 0;
            }
        }
        Ok(())
    }

    /// Decides which events to wait for, after the peer was written to with this outcome.
    ///
    /// # Errors
    /// The connection is broken, or its peer holds memory that is short.
    fn awaited(&mut self, outcome: FlushOutcome, owes_reply: bool) -> Result<AwaitedEvents, ConnectionEnd> {
        let guard = self.guard;
        let (session, shared, config) = (&guard.session, guard.shared(), &guard.shared().config);
        let has_room = self.reader.has_room(&shared.incoming_budget);
        let reader = &self.reader;
        let listens = !owes_reply && reader.waiting.is_none() && reader.pending.is_none() && has_room;
        let (mut writes, mut window, mut stalled_since, mut next_try) = (false, None, None, None);
        match outcome {
            FlushOutcome::Done => {
                if self.probe.is_none() {
                    self.backlog.reset();
                }
                self.unread_since = None;
            }
            FlushOutcome::Stalled(since) => {
                writes = true;
                stalled_since = Some(Instant::from_std(since));
            }
            FlushOutcome::Paced(full) => {
                if full == WindowFull::PollPeer {
                    self.unread_since.get_or_insert_with(Instant::now);
                }
                window = Some(full);
                stalled_since = self.unread_since;
            }
            FlushOutcome::Later(wait) => {
                next_try = self.queue.next_try(wait, &shared.update_queue, session).map(Instant::from_std);
                stalled_since = self.unread_since;
            }
            FlushOutcome::Broken => return Err(ConnectionEnd::Gone(LeaveReason::Reset)),
        }
        if !matches!(outcome, FlushOutcome::Later(_)) {
            self.queue = QueueState::Outside;
        }
        let now = Instant::now();
        let recheck = self.recheck_memory(now)?;
        let reader = &self.reader;
        let frame_deadline = reader.frames.deadline(config.frame_timeout).filter(|_| listens);
        let write_deadline = stalled_since.map(|since| since + config.write_timeout);
        let register_deadline = reader.register_by(config.register_timeout);
        let greet_at = session.outbox().greet_at().filter(|_| outcome == FlushOutcome::Done).map(Instant::from_std);
        let too_soon = reader.waiting.as_ref().map(|(_, at)| *at);
        let deadlines = [frame_deadline, write_deadline, register_deadline, greet_at, too_soon, next_try, recheck];
        let next = deadlines.into_iter().flatten().min();
        Ok(AwaitedEvents { listens, writes, window, frame_deadline, write_deadline, register_deadline, greet_at, next })
    }

    /// Ends the connection of a peer that reads or sends too slowly while memory is short. Returns
    /// when to check that again.
    fn recheck_memory(&self, now: Instant) -> Result<Option<Instant>, ConnectionEnd> {
        let shared = self.guard.shared();
        let unread_since = self.guard.session.outbox().unread_since().map(Instant::from_std);
        let read_by = unread_since.map(|since| since + SHORT_MEMORY_TIMEOUT);
        let send_by = match &self.reader.memory {
            PacketMemory::Reserved { since, .. } => {
                Some(*since + shared.incoming_budget.packet_timeout(SHORT_MEMORY_TIMEOUT))
            }
            PacketMemory::Unreserved | PacketMemory::Pending(_) => None,
        };
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if is_over(read_by) && shared.update_budget.is_short() {
            return Err(ConnectionEnd::Slow);
        }
        if is_over(send_by) && shared.incoming_budget.is_short() {
            return Err(ConnectionEnd::Rejected(takes_too_long(self.reader.frames.buffered())));
        }
        let checks = [read_by, send_by].into_iter().flatten();
        Ok(checks.map(|until| if until <= now { now + RECHECK_INTERVAL } else { until }).min())
    }

    async fn wait(&mut self, awaited: &AwaitedEvents, stop: &CancellationToken) -> Wake {
        let Self { guard, reader, slice, backlog, queue, probe, .. } = self;
        let session = &guard.session;
        // It is on the heap, because most connections never wait for a version 1 peer to read, and
        // each would keep room for it.
        let to_observe = awaited.window.or_else(|| probe.as_ref().map(|_| WindowFull::PollPeer));
        let mut reading = to_observe.map(|full| Box::pin(wait_for_read_room(guard, full, backlog)));
        let (memory, pending) = (&mut reader.memory, &mut reader.pending);
        slice
            .idle_while(async {
                tokio::select! {
                    () = stop.cancelled() => Wake::Stopping,
                    ready = ready(&session.socket, awaited.listens, awaited.writes) => Wake::Ready(ready),
                    () = session.wake.notified() => Wake::Notified,
                    reads = or_pending(&mut reading) => Wake::Observed(reads),
                    reservation = memory.acquired() => Wake::Reservation(reservation),
                    found = PeerReader::looked_up(pending) => Wake::LookedUp(found),
                    head = queue.acquired() => Wake::QueueHead(head),
                    () = sleep_until_opt(awaited.next) => Wake::Due,
                }
            })
            .await
    }

    fn handle_wake(&mut self, woken: Wake, awaited: &AwaitedEvents) -> Result<(), ConnectionEnd> {
        match woken {
            Wake::Stopping => return Err(ConnectionEnd::Stopping),
            Wake::Ready(ready) => self.read(ready)?,
            Wake::Notified => {}
            Wake::LookedUp(found) => self.reader.handle_looked_up(self.guard, found),
            Wake::Reservation(reservation) => self.reader.memory = PacketMemory::reserved(reservation),
            Wake::QueueHead(head) => self.queue = QueueState::First { _head: head },
            Wake::Observed(reads) => self.handle_observation(reads)?,
            Wake::Due => self.handle_due(awaited)?,
        }
        Ok(())
    }

    /// Reads the available bytes of a socket that is ready.
    fn read(&mut self, ready: std::io::Result<Ready>) -> Result<(), ConnectionEnd> {
        let broken = |error: std::io::Error| ConnectionEnd::Gone(reason(&error));
        if !ready.map_err(broken)?.is_readable() {
            return Ok(());
        }
        let max_frame_bytes = self.guard.shared().config.max_frame_bytes;
        match self.reader.fill(&self.guard.session.socket, max_frame_bytes).map_err(broken)? {
            true => {
                self.guard.record_sign_of_life();
                Ok(())
            }
            false => Err(ConnectionEnd::Gone(LeaveReason::Closed)),
        }
    }

    /// Handles what was observed of a version 1 peer's socket.
    fn handle_observation(&mut self, reads: bool) -> Result<(), ConnectionEnd> {
        if reads {
            self.unread_since = None;
        }
        let now = Instant::now().into_std();
        let seen = self.probe.as_mut().map(|probe| probe.observe(now, self.guard.session.outbox().read()));
        match seen {
            None | Some(ProbeResult::Waiting) => {}
            Some(ProbeResult::Suspect) => self.guard.apply_verdict(Verdict::Suspect),
            Some(ProbeResult::Reads) => {
                self.probe = None;
                self.guard.apply_verdict(Verdict::Trust);
            }
            Some(ProbeResult::Hidden) => self.probe = None,
            Some(ProbeResult::Hung) => return Err(ConnectionEnd::CutByRegistry(LeaveReason::Hung)),
        }
        Ok(())
    }

    /// Ends the connection if a deadline is over.
    fn handle_due(&mut self, awaited: &AwaitedEvents) -> Result<(), ConnectionEnd> {
        let now = Instant::now();
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        // A socket that takes nothing is tried once more first.
        if is_due(awaited.write_deadline) && !awaited.writes {
            return Err(ConnectionEnd::Stalled);
        }
        if is_due(awaited.frame_deadline) && !self.reader.give_up_pieces() {
            return Err(ConnectionEnd::Rejected(takes_too_long(self.reader.frames.buffered())));
        }
        if is_due(awaited.register_deadline) {
            let message = "a version 2 peer must register at once";
            return Err(ConnectionEnd::Rejected(Rejection::new(408, "not_registered", message)));
        }
        if is_due(awaited.greet_at) && self.guard.defers_greetings() {
            self.guard.session.outbox().greet_later((now + RESTORE_CHECK_INTERVAL).into_std());
        }
        Ok(())
    }
}

fn takes_too_long(unfinished: &[u8]) -> Rejection {
    // Some writers end their packets with something else.
    let (bytes, end) =
        (unfinished.len(), unfinished.last().map_or_else(String::new, |last| last.escape_ascii().to_string()));
    let what = format!("a packet took too long: {bytes} bytes without ¶, which end in '{end}'");
    Rejection::new(408, "frame_timeout", what)
}

/// Others report that a version 1 node does not answer. Sends it the list once more, and observes
/// whether it reads the list; nothing else may be sent to it. Returns `None` when its socket cannot
/// be observed, or a reply is about to be sent.
fn begin_probe(session: &Session) -> Option<ReadProbe> {
    let mut outbox = session.outbox();
    if outbox.owes_reply() || outbox.is_mid_packet() || outbox.read().is_none() {
        return None;
    }
    let probe = ReadProbe::new(Instant::now().into_std(), outbox.written());
    outbox.reply(Reply::List(Key::Number(0)), Version::V1);
    Some(probe)
}

/// The reason for a peer's leave, by a socket error.
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
async fn ready(socket: &Socket, to_read: bool, to_write: bool) -> std::io::Result<Ready> {
    let interest = match (to_read, to_write) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => return std::future::pending().await,
    };
    socket.ready(interest).await
}

/// Waits for a future, or for ever when there is none.
async fn or_pending<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits until a version 1 peer's read window may have room. Returns whether the peer reads.
async fn wait_for_read_room(guard: &SessionGuard, full: WindowFull, backlog: &mut BacklogPoller) -> bool {
    let (session, shared) = (&guard.session, guard.shared());
    match full {
        WindowFull::Until(time) => {
            sleep_until(Instant::from_std(time)).await;
            true
        }
        WindowFull::PollPeer => {
            let written = session.outbox().written();
            match backlog.unread(&shared.peer_backlog, &session.socket, written).await {
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
