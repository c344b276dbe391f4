//! The roster as all connections share it, and the tasks that tell of its changes and keep its time.

use std::collections::hash_map;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use net::{
    Escaped, LogThrottle, LogThrottles, MAX_ESCAPED_BYTES, PeerBacklog, SliceQueue, Socket, TimeSlice, address_group,
    escaped,
};
use protocol::{
    CopyPart, Digest, LeaveReason, RegisterOptions, Registration, Revision, Version, Visibility, WindowFull, host_text,
    write_copy_request, write_visibility,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::config::{Config, OversizedList};
use crate::entries::interests::Interests;
use crate::entries::{MAX_CHANGE_BYTES, RegisterOutcome, Registered, SessionId};
use crate::peer::command::Rejection;
use crate::peer::outbox::{Outbox, WriteStep};
use crate::registry::history;
use crate::registry::liveness::Verdict;
use crate::registry::{Admission, DueActions, RegisterError, Registry, Removal};
use crate::shell::metrics::{Counters, MetricsSnapshot};
use crate::shell::update_queue::{NetworkQueue, UpdateQueue};
use crate::updates::budget::{Budget, IncomingBudget, Reservation};

/// Sockets written to, and bytes written, before other tasks have their turn, when that takes less than a [`TimeSlice`].
const WRITES_PER_SLICE: usize = 64;
const BYTES_PER_SLICE: usize = 1 << 20;

/// Lists per second, in bytes, that a publisher aims at: a fraction of what one core copies into loopback sockets.
const PUBLISH_BYTES_PER_SECOND: f64 = 256e6;
/// A publisher rests this many times as long as it has worked, so that it takes a third of a core at most. A single change
/// goes out at once, and a burst merges.
const PAUSE_PER_WORK: u32 = 2;
/// However much there is to tell, a change does not wait longer than this for the round before.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// Log lines of one kind about nodes that come and go, in [`LogThrottle::LOG_PERIOD`]; the next says how many were left out. `distributor why`
/// knows all.
const MAX_JOIN_LINES: u32 = 100;

/// How long a connection has to register until it may have to give way to others.
const REGISTER_GRACE: Duration = Duration::from_millis(500);

/// The shared state. Its lock is held for computing only: nothing waits inside, and no peer is written to.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    state: Mutex<SharedState>,
    changed: [Notify; 2],
    /// Something may be due earlier than the time keeper thinks.
    rescheduled: Notify,
    /// What is said of registrations that are not taken, and of connections that are cut: an attacker must not fill the log.
    refusal_log: LogThrottles,
    pub(crate) cut_log: LogThrottles,
    /// What is said of nodes that are listed, and have something wrong.
    warnings: LogThrottles,
    /// What is said of nodes that come and go: there are as many as nodes, and one that flaps must not fill the log either.
    join_log: LogThrottles,
    /// What old peers on this machine have read.
    pub(crate) local_queues: PeerBacklog,
    /// Connections whose peers always have something to say have one turn at a time between them.
    pub(crate) slices: SliceQueue,
    /// Peers for which a packet of their own has to be made.
    pub(crate) update_queue: UpdateQueue,
    /// What packets take that are on their way to peers.
    pub(crate) update_budget: Budget,
    /// What packets of peers take that have begun to come.
    pub(crate) incoming_budget: IncomingBudget,
    /// What the needs of all nodes take.
    interest_budget: Budget,
    pub(crate) counters: Counters,
    /// How long we have been awake, in nanoseconds: see `liveness`.
    active_time: AtomicU64,
}

#[derive(Debug)]
struct SharedState {
    registry: Registry,
    /// Those who are told of changes, version 1 and version 2 apart: they are told at their own pace.
    followers: [Followers; 2],
    /// The connections of each [network](address_group).
    by_address_group: HashMap<IpAddr, AddressCounts>,
    /// Connections that have registered nothing, the oldest first: they give way when there is no room for others.
    unregistered: BTreeMap<SessionId, Arc<Session>>,
    next_session: u64,
    open_sessions: usize,
    warned_of_size: bool,
}

/// The connections of one network.
#[derive(Debug, Default)]
struct AddressCounts {
    open: usize,
    /// Those that have registered nothing.
    unregistered: usize,
    turn: NetworkQueue,
}

#[derive(Debug, Default)]
struct Followers {
    /// In the order in which they came, so that a round walks through memory, ours and the system's, in order.
    all: BTreeMap<SessionId, Arc<Session>>,
    /// Those who have registered since the last round.
    new: Vec<Arc<Session>>,
}

/// One connection, as the publisher sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) peer: SocketAddr,
    pub(crate) stream: Socket,
    /// Whoever holds it may write to the stream. Nothing waits inside, and the roster is asked from inside, never the other
    /// way round.
    outbox: Mutex<Outbox>,
    /// Wakes the connection's task: the publisher could not write everything, or the session is out.
    pub(crate) unfinished: Notify,
    /// Why the session is out, once it is.
    pub(crate) cut_reason: OnceLock<LeaveReason>,
    /// Another connection has its place.
    pub(crate) is_evicted: AtomicBool,
    /// What it says it needs is kept as long as it is registered.
    interest_reservation: Mutex<Option<Reservation>>,
    opened_at: Instant,
    /// The connections of a network have one turn between them.
    pub(crate) network_queue: NetworkQueue,
    /// How long we had been awake when it last gave a sign of life.
    last_heard: AtomicU64,
}

/// Who writes to a session's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The publisher, to every session in turn; it never waits for one.
    Publisher,
    /// The connection's own task, which waits for what is in the way.
    Connection,
}

/// How far writing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushOutcome {
    /// The peer has been given everything.
    Done,
    /// The socket takes nothing more since this time.
    Stalled(std::time::Instant),
    /// An old peer is given time to read.
    Paced(WindowFull),
    /// What the peer is owed can be made at this time.
    Later(std::time::Instant),
    /// The connection is broken.
    Broken,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionLimit {
    /// There are as many as allowed.
    Total,
    /// There are as many from its address as allowed.
    PerAddress,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let memory = Budget::new(config.max_unread_bytes);
        let state = SharedState {
            registry: Registry::new(config.clone(), memory.clone(), Instant::now().into_std(), epoch()),
            followers: Default::default(),
            by_address_group: HashMap::new(),
            unregistered: BTreeMap::new(),
            next_session: 0,
            open_sessions: 0,
            warned_of_size: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Default::default(),
            rescheduled: Notify::new(),
            refusal_log: LogThrottles::default(),
            cut_log: LogThrottles::default(),
            warnings: LogThrottles::default(),
            join_log: LogThrottles::new(LogThrottle::with_burst(MAX_JOIN_LINES, LogThrottle::LOG_PERIOD)),
            local_queues: PeerBacklog::start(),
            slices: SliceQueue::new(),
            update_queue: UpdateQueue::default(),
            update_budget: memory,
            incoming_budget: IncomingBudget::new(config.max_incoming_bytes, config.max_frame_bytes),
            interest_budget: Budget::new(config.max_list_bytes),
            counters: Counters::default(),
            config,
            active_time: AtomicU64::new(0),
        })
    }

    /// A session for a new connection, or the stream back when there are as many as allowed.
    pub(crate) fn open(
        self: &Arc<Self>,
        stream: Socket,
        peer: SocketAddr,
    ) -> Result<SessionGuard, (ConnectionLimit, Socket)> {
        let now = Instant::now();
        let mut state = self.lock();
        let network = address_group(peer.ip());
        let from_there = state.by_address_group.get(&network).map_or(0, |counts| counts.open);
        if !network.is_loopback() && from_there >= self.config.max_connections_per_address {
            self.counters.refused(503, "many_of_its_address");
            return Err((ConnectionLimit::PerAddress, stream));
        }
        if state.open_sessions >= self.config.max_connections {
            let Some(session) = state.evict_unregistered(now) else {
                self.counters.refused(503, "many_connections");
                return Err((ConnectionLimit::Total, stream));
            };
            if let Some(held_back) = self.cut_log.allow("gave_way", now.into_std()) {
                warn!(peer = %session.peer, held_back, "cut: it has registered nothing, and there is no room for others (--max-connections)");
            }
        }
        let id = SessionId(state.next_session);
        state.next_session += 1;
        let read_time = (!PeerBacklog::can_see(&stream)).then_some(self.config.legacy_read_time);
        let greet_at = (now + self.config.greet_after).into_std();
        let outbox = Outbox::new(greet_at, self.config.legacy_list_bytes, read_time);
        let session = Arc::new(Session {
            id,
            peer,
            stream,
            outbox: Mutex::new(outbox),
            unfinished: Notify::new(),
            cut_reason: OnceLock::new(),
            is_evicted: AtomicBool::new(false),
            interest_reservation: Mutex::default(),
            opened_at: now,
            network_queue: state.by_address_group.entry(network).or_default().turn.clone(),
            last_heard: AtomicU64::new(self.active_time.load(Ordering::Relaxed)),
        });
        state.open_sessions += 1;
        state.by_address_group.entry(network).or_default().open += 1;
        state.await_registration(&session);
        drop(state);
        // The time keeper sleeps while there is nobody.
        self.rescheduled.notify_one();
        Ok(SessionGuard { shared: Arc::clone(self), session })
    }

    /// How it is now.
    pub(crate) fn figures(&self) -> MetricsSnapshot {
        let said = [&self.refusal_log, &self.cut_log, &self.warnings, &self.join_log].map(LogThrottles::tallies);
        let cut = said[1].iter().map(|(reason, tally)| (*reason, tally.seen)).collect();
        let state = self.lock();
        let registry = &state.registry;
        let (list, changes) = registry.bytes();
        let (history_events, history) = registry.history_size();
        MetricsSnapshot {
            connections: state.open_sessions,
            unregistered: state.unregistered.len(),
            nodes: registry.nodes(),
            suspects: registry.suspects(),
            held_back: registry.held_back(),
            revision: registry.revision(),
            history_events,
            told: self.counters.all_told(),
            cut,
            refused: self.counters.all_refused(),
            log_lines_held_back: said.iter().flat_map(BTreeMap::values).map(|tally| tally.held_back).sum(),
            log_lines_lost: net::log_lines_lost(),
            waiting: self.incoming_budget.waiting(),
            memory: vec![
                ("unread", self.update_budget.used(), self.update_budget.limit()),
                ("incoming", self.incoming_budget.used(), self.incoming_budget.limit()),
                ("list", list, self.config.max_list_bytes),
                ("needs", self.interest_budget.used(), self.interest_budget.limit()),
                ("changes", changes, MAX_CHANGE_BYTES),
                ("history", history, history::MAX_BYTES),
            ],
        }
    }

    /// From now on whoever registers is told to come back later.
    pub(crate) fn drain(&self) {
        self.lock().registry.drain();
    }

    /// Tells every follower of this version of every change, merged while it is busy or rests. Runs until cancelled.
    pub(crate) async fn publish(&self, version: Version) {
        let mut told = Revision::default();
        loop {
            self.changed[index(version)].notified().await;
            let begin = Instant::now();
            let followers: Vec<_> = {
                let mut state = self.lock();
                if state.registry.defers_updates(version) {
                    // Those who wait for it are told when it is over.
                    continue;
                }
                if version == Version::V1 && state.followers[index(version)].all.is_empty() {
                    // The list of thousands of nodes is not made for nobody, a thousand times a second.
                    continue;
                }
                let newest = state.registry.publish(version);
                let followers = &mut state.followers[index(version)];
                let new = std::mem::take(&mut followers.new);
                if std::mem::replace(&mut told, newest) == newest {
                    new
                } else {
                    followers.all.values().cloned().collect()
                }
            };
            let (mut bytes, mut worked) = (0, Duration::ZERO);
            let mut slice = TimeSlice::new();
            let mut turn = (0, 0);
            for session in &followers {
                let (flow, written) = session.flush(self, Writer::Publisher);
                bytes += written;
                turn = (turn.0 + 1, turn.1 + written);
                if !matches!(flow, FlushOutcome::Done | FlushOutcome::Broken) {
                    session.unfinished.notify_one();
                }
                if turn.0 == WRITES_PER_SLICE || turn.1 >= BYTES_PER_SLICE || slice.is_over() {
                    worked += slice.worked();
                    slice.yield_now().await;
                    turn = (0, 0);
                }
            }
            worked += slice.worked();
            // Those that have ended meanwhile must not stay open for longer.
            drop(followers);
            let pause =
                Duration::from_secs_f64(bytes as f64 / PUBLISH_BYTES_PER_SECOND).max(worked * (PAUSE_PER_WORK + 1));
            let left = pause.min(MAX_PAUSE).saturating_sub(begin.elapsed());
            // Below the timer's resolution a pause would only add to every change.
            if left >= Duration::from_millis(1) {
                sleep(left).await;
            }
        }
    }

    /// Does what is due, and watches over those who are silent. Runs until cancelled.
    pub(crate) async fn run_timers(&self) {
        loop {
            let next = {
                let state = self.lock();
                let tick = (state.open_sessions > 0).then(|| Instant::now() + state.registry.liveness.period());
                tick.into_iter().chain(state.registry.next_due().map(Instant::from_std)).min()
            };
            tokio::select! {
                () = net::sleep_until_opt(next) => {}
                () = self.rescheduled.notified() => {}
            }
            let now = Instant::now().into_std();
            let (before, turn, verdicts) = {
                let mut state = self.lock();
                let before = state.registry.published();
                let turn = state.registry.run_due(now);
                let SharedState { registry, followers, .. } = &mut *state;
                let heard = |session| {
                    let followers = &followers[index(Version::V2)].all;
                    let heard = followers.get(&session).map_or(0, |session| session.last_heard.load(Ordering::Relaxed));
                    Duration::from_nanos(heard)
                };
                let verdicts = registry.liveness.tick(now, heard);
                let active_time = u64::try_from(registry.liveness.active_time().as_nanos()).unwrap_or(u64::MAX);
                self.active_time.store(active_time, Ordering::Relaxed);
                (before, turn, verdicts)
            };
            self.apply_due(turn);
            for (session, verdict) in verdicts {
                self.apply_verdict(now, session, verdict);
            }
            self.cut_superseded(&mut self.lock());
            if before != self.lock().registry.published() {
                self.notify_followers();
            }
        }
    }

    fn apply_due(&self, turn: DueActions) {
        let DueActions { copy_from, resolved, gone, warm } = turn;
        if warm {
            debug!(nodes = self.lock().registry.nodes(), "warm: whoever is not listed is not there");
        }
        for record in gone {
            if let Some(held_back) = self.join_log.allow("gone", Instant::now().into_std()) {
                let (name, address) = (shown_name(&record.name), record.address());
                info!(%name, address, held_back, "left: it did not come back");
            }
        }
        let mut packets = Vec::new();
        if let Some(session) = copy_from {
            let mut out = BytesMut::new();
            write_copy_request(&mut out);
            packets.push((session, out));
        }
        for (resolved, missing) in resolved {
            let mut out = BytesMut::new();
            let visibility = Visibility { seen: resolved.seen, of: resolved.of, enough: resolved.enough, missing };
            write_visibility(&mut out, &visibility);
            packets.push((resolved.session, out));
        }
        for (session, packet) in packets {
            if let Some(session) = self.follower(session) {
                session.outbox().notify(packet.freeze());
                session.unfinished.notify_one();
            }
        }
    }

    fn apply_verdict(&self, now: std::time::Instant, session: SessionId, verdict: Verdict) {
        let Some(session) = self.follower(session) else { return };
        if self.lock().registry.apply_verdict(now, session.id, verdict) {
            debug!(conn = session.id.0, peer = %session.peer, ?verdict, "liveness");
        }
        match verdict {
            Verdict::Ping => {
                session.outbox().ping();
                let (flow, _) = session.flush(self, Writer::Publisher);
                if !matches!(flow, FlushOutcome::Done | FlushOutcome::Broken) {
                    session.unfinished.notify_one();
                }
            }
            Verdict::Suspect | Verdict::Trust => {}
            Verdict::Hung => session.cut(LeaveReason::Hung),
        }
    }

    /// Sessions whose instances have registered on newer ones are told so, and end.
    fn cut_superseded(&self, state: &mut SharedState) {
        while let Some(session) = state.registry.poll_superseded() {
            for followers in &mut state.followers {
                if let Some(superseded) = followers.all.remove(&session) {
                    superseded.cut(LeaveReason::Superseded);
                }
            }
        }
    }

    fn follower(&self, session: SessionId) -> Option<Arc<Session>> {
        self.lock().followers[index(Version::V2)].all.get(&session).cloned()
    }

    fn notify_followers(&self) {
        self.changed.iter().for_each(Notify::notify_one);
    }

    fn register(
        &self,
        session: &Arc<Session>,
        registration: Registration,
        version: Version,
        terms: &RegisterOptions,
    ) -> Result<Admission, RegisterError> {
        let host = host_text(session.peer.ip());
        let now = Instant::now().into_std();
        let (name, port, urls) = (registration.name.clone(), registration.port, registration.urls.len());
        let needs = terms.interests.clone().map(Interests::new);
        let interest_reservation = match &needs {
            Some(needs) if !self.interest_budget.has_room(needs.bytes()) => return Err(RegisterError::Full),
            Some(needs) => Some(self.interest_budget.reserve(needs.bytes())),
            None => None,
        };
        // Before it is among the followers: a round that finds it there tells it.
        let followed = {
            let mut outbox = session.outbox();
            let followed = outbox.follow(version, needs.map(Arc::new));
            if let Some(have) = terms.resume
                && self.lock().registry.can_resume_from(have)
            {
                outbox.resume_from(have);
            }
            followed
        };
        let mut state = self.lock();
        let before = state.registry.published();
        let admission = match session.cut_reason.get() {
            // It is about to be cut; the newer connection keeps the instance.
            Some(_) => Err(RegisterError::Superseded),
            None => state.registry.register(now, session.id, registration, &host, terms),
        };
        let admission = match admission {
            Ok(admission) => admission,
            Err(turned) => {
                drop(state);
                if !followed {
                    session.outbox().unfollow();
                }
                return Err(turned);
            }
        };
        *session.interest_reservation.lock().unwrap_or_else(PoisonError::into_inner) = interest_reservation;
        let followers = &mut state.followers[index(version)];
        if followers.all.insert(session.id, Arc::clone(session)).is_none() {
            followers.new.push(Arc::clone(session));
        }
        state.has_registered(session.id);
        self.cut_superseded(&mut state);
        let warns_of_loopback = terms.loopback && !session.peer.ip().to_canonical().is_loopback();
        if warns_of_loopback {
            state.registry.record_loopback(now, session.id);
        }
        let nodes = state.registry.nodes();
        let changes = state.registry.published() != before;
        drop(state);
        if changes {
            self.notify_followers();
        } else {
            self.changed[index(version)].notify_one();
        }
        if terms.visibility.is_some() || terms.resume.is_some() {
            self.rescheduled.notify_one();
        }
        let name = shown_name(&name);
        let event = match &admission {
            Admission::Listed(Registered { entrance: RegisterOutcome::Joined, .. }) => Some("joined"),
            Admission::Listed(Registered { entrance: RegisterOutcome::Updated, .. }) => Some("updated"),
            Admission::Listed(Registered { entrance: RegisterOutcome::Unchanged, .. }) => None,
            Admission::Deferred(_) => Some("held back"),
        };
        match (event.and_then(|event| self.join_log.allow(event, now)), &admission) {
            (Some(held_back), Admission::Listed(_)) => {
                let event = event.unwrap_or_default();
                info!(nodes, %name, %host, port, urls, version = ?version, held_back, "{event}");
            }
            (Some(held_back), Admission::Deferred(wait)) => {
                let seconds = wait.as_secs_f32();
                info!(%name, %host, port, seconds, held_back, "held back: it comes and goes, or changes, too often");
            }
            (None, _) => debug!(nodes, %name, %host, port, "registered"),
        }
        if warns_of_loopback && let Some(held_back) = self.warnings.allow("loopback", now) {
            warn!(%name, %host, port, held_back, "this node listens on its own machine's loopback only, and nodes on other machines cannot call it: let it listen on {host} or 0.0.0.0");
        }
        self.warn_of_size(name);
        Ok(admission)
    }

    /// Says that a node is not listed. A version 1 node is told nothing, and its operators would wonder.
    pub(crate) fn warn_of_refusal(&self, peer: SocketAddr, complaint: &Rejection) {
        let Rejection { reason, message, .. } = complaint;
        if let Some(held_back) = self.refusal_log.allow(reason, Instant::now().into_std()) {
            let message = escaped(message, MAX_ESCAPED_BYTES);
            warn!(%peer, reason, held_back, "a registration is not taken: {message}");
        }
    }

    fn remove_session(&self, session: &Session, reason: LeaveReason) {
        let mut state = self.lock();
        for followers in &mut state.followers {
            followers.all.remove(&session.id);
        }
        session.interest_reservation.lock().unwrap_or_else(PoisonError::into_inner).take();
        let restoring = state.registry.is_restoring();
        let departure = state.registry.remove_session(Instant::now().into_std(), session.id, reason);
        let nodes = state.registry.nodes();
        drop(state);
        if restoring {
            self.rescheduled.notify_one();
        }
        let Some(Removal { record, is_retained }) = departure else { return };
        let (name, reason) = (shown_name(&record.name), reason.as_str());
        if !is_retained {
            self.notify_followers();
        }
        let (event, message) = match is_retained {
            true => ("kept", "gone, as many others at once: it stays listed for a while"),
            false => ("left", "left"),
        };
        if let Some(held_back) = self.join_log.allow(event, Instant::now().into_std()) {
            info!(nodes, %name, peer = %session.peer, reason, held_back, "{message}");
        }
    }

    /// Says once, and by name, that version 1 peers can no longer read the whole list.
    fn warn_of_size(&self, name: Escaped<&str>) {
        let mut state = self.lock();
        let outgrows = state.registry.legacy_bytes() > self.config.legacy_list_bytes;
        if outgrows == state.warned_of_size {
            return;
        }
        state.warned_of_size = outgrows;
        let nodes = state.registry.nodes();
        drop(state);
        if outgrows {
            let limit = self.config.legacy_list_bytes;
            let get = match self.config.oversized_list {
                OversizedList::Truncate => "get as many nodes as fit, at least one of each name first",
                OversizedList::Send => "get the whole list all the same, and may die of it",
            };
            warn!(nodes, %name, limit, "with this node the list outgrows what version 1 peers can read: they {get} (--oversized-list)");
        }
    }

    /// A panic inside would have left half a change behind; no code of ours panics there, and a live registry serves
    /// better than none.
    fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the membership. Leaving is its `Drop`, so panics and cancelled tasks leave too.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
}

impl SessionGuard {
    pub(crate) fn register(
        &self,
        registration: Registration,
        version: Version,
        terms: &RegisterOptions,
    ) -> Result<Admission, RegisterError> {
        self.shared.register(&self.session, registration, version, terms)
    }

    /// Takes the registration away while the connection lives on.
    pub(crate) fn unregister(&self, reason: LeaveReason) {
        self.session.outbox().unfollow();
        self.shared.remove_session(&self.session, reason);
        self.shared.lock().await_registration(&self.session);
    }

    /// The peer has given a sign of life.
    pub(crate) fn heard(&self) {
        self.session.last_heard.store(self.shared.active_time.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The peer knows this state; if not as it should, it is sent the list.
    pub(crate) fn acknowledge(&self, known: Revision, digest: Option<Digest>, now: std::time::Instant) {
        let drifted = self.shared.lock().registry.acknowledge(self.session.id, known, digest);
        if drifted && self.session.outbox().may_resend(now) {
            warn!(peer = %self.session.peer, revision = %known, "its copy of the list is not what we told; sending it again");
        }
    }

    pub(crate) fn report_failed(&self, failed: &[u64]) {
        let now = Instant::now().into_std();
        let changes = self.shared.lock().registry.report_failed(now, self.session.id, failed);
        if changes {
            self.shared.notify_followers();
        }
        self.shared.rescheduled.notify_one();
    }

    pub(crate) fn restore_part(&self, part: &CopyPart<'_>) {
        let now = Instant::now().into_std();
        let (complete, nodes) = {
            let mut state = self.shared.lock();
            let complete = state.registry.restore_part(now, self.session.id, part);
            (complete, state.registry.nodes())
        };
        if complete {
            let (revision, peer) = (part.revision, self.session.peer);
            info!(nodes, %revision, %peer, "restored what the Distributor before knew");
            self.shared.notify_followers();
        }
        self.shared.rescheduled.notify_one();
    }

    pub(crate) fn history(&self, node: &str) -> Vec<protocol::HistoryEvent> {
        self.shared.lock().registry.history(Instant::now().into_std(), node)
    }

    /// Whether a peer that has just connected is greeted later: what an earlier Distributor knew is about to come.
    pub(crate) fn defers_greetings(&self) -> bool {
        self.shared.lock().registry.defers_updates(Version::V1)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.shared.remove_session(&self.session, LeaveReason::Closed);
        let mut state = self.shared.lock();
        state.has_registered(self.session.id);
        if !self.session.is_evicted.load(Ordering::Relaxed) {
            state.close(&self.session);
        }
    }
}

impl SharedState {
    /// A connection has registered nothing, so far or any more.
    fn await_registration(&mut self, session: &Arc<Session>) {
        if session.is_evicted.load(Ordering::Relaxed) {
            return;
        }
        if self.unregistered.insert(session.id, Arc::clone(session)).is_none() {
            self.by_address_group.entry(address_group(session.peer.ip())).or_default().unregistered += 1;
        }
    }

    /// It has, or is closed.
    fn has_registered(&mut self, session: SessionId) {
        if let Some(session) = self.unregistered.remove(&session)
            && let Some(counts) = self.by_address_group.get_mut(&address_group(session.peer.ip()))
        {
            counts.unregistered -= 1;
        }
    }

    /// A connection is closed, or is about to be.
    fn close(&mut self, session: &Session) {
        self.open_sessions -= 1;
        if let hash_map::Entry::Occupied(mut counts) = self.by_address_group.entry(address_group(session.peer.ip())) {
            counts.get_mut().open -= 1;
            if counts.get().open == 0 {
                counts.remove();
            }
        }
    }

    /// There is no room for a new connection: of the network that has most of those that have registered nothing, the one that
    /// has been there for longest gives way, if it has had the time to register.
    fn evict_unregistered(&mut self, now: Instant) -> Option<Arc<Session>> {
        let (network, _) = self.by_address_group.iter().max_by_key(|(_, counts)| counts.unregistered)?;
        let oldest = self.unregistered.values().find(|session| address_group(session.peer.ip()) == *network)?;
        if now < oldest.opened_at + REGISTER_GRACE {
            return None;
        }
        let session = Arc::clone(oldest);
        self.has_registered(session.id);
        session.is_evicted.store(true, Ordering::Relaxed);
        self.close(&session);
        session.unfinished.notify_one();
        Some(session)
    }
}

impl Session {
    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session is out; its task ends it.
    fn cut(&self, reason: LeaveReason) {
        let _ = self.cut_reason.set(reason);
        self.unfinished.notify_one();
    }

    /// Writes what the peer is owed as far as its socket takes it, and says how many bytes that was. Never waits.
    ///
    /// Changes are told by the publisher, so that they merge. What it cannot finish the connection's task does; until that has,
    /// the publisher keeps its hands off. No change is lost between them: both ask for the newest state while they hold the
    /// outbox, so whoever is last has told it.
    pub(crate) fn flush(&self, shared: &Shared, writer: Writer) -> (FlushOutcome, usize) {
        let mut outbox = self.outbox();
        if writer == Writer::Publisher && (outbox.is_behind || outbox.owes_reply()) {
            return (FlushOutcome::Done, 0);
        }
        let with_lists = writer == Writer::Publisher || outbox.is_behind;
        let (mut written, mut told) = (0, 0);
        let now = Instant::now().into_std();
        let flow = loop {
            let before = outbox.told();
            let step = outbox.next(now, &mut shared.lock().registry, with_lists);
            told += u64::from(outbox.told() != before);
            let packet = match step {
                WriteStep::Done => break FlushOutcome::Done,
                WriteStep::WaitFor(unread) => break FlushOutcome::Paced(unread),
                WriteStep::Later(at) => break FlushOutcome::Later(at),
                WriteStep::Write(packet) => packet,
            };
            // One write per packet: old peers die of a packet in two pieces.
            match self.stream.try_write(&packet) {
                Ok(bytes) => {
                    outbox.wrote(now, bytes);
                    written += bytes;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    outbox.blocked(now);
                    break FlushOutcome::Stalled(outbox.stalled_since().unwrap_or(now));
                }
                Err(_broken) => break FlushOutcome::Broken,
            }
        };
        if told > 0 {
            shared.counters.told(told);
        }
        if written > 0 && outbox.is_behind {
            // It goes on reading what it was behind with, though a ping may be stuck behind that.
            self.last_heard.store(shared.active_time.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        outbox.is_behind = matches!(flow, FlushOutcome::Stalled(_) | FlushOutcome::Paced(_) | FlushOutcome::Later(_));
        (flow, written)
    }
}

/// A node's name, for the log: names of version 1 nodes may be any text.
fn shown_name(name: &str) -> Escaped<&str> {
    escaped(name, MAX_ESCAPED_BYTES)
}

fn index(version: Version) -> usize {
    match version {
        Version::V1 => 0,
        Version::V2 => 1,
    }
}

/// Higher at every start, as long as the clock is not set back; a Distributor that succeeds another sees to it itself.
#[expect(clippy::disallowed_methods, reason = "the clock names this start and decides nothing")]
fn epoch() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(0).clamp(1, Revision::MAX / 2)
}
