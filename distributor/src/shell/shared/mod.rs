//! The registry as all connections share it, behind one lock, with the followers and the limits
//! that go with it. It must not write to a peer, or wait, while it holds the lock.

mod state;
pub(super) mod update_queue;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use net::{LogThrottle, LogThrottles, PeerBacklog, SliceQueue, Socket, Tally, address_group};
use protocol::{LeaveReason, RegisterOptions, Registration, Revision, Version, host_text};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::warn;

pub(super) use self::state::SharedState;
use self::update_queue::UpdateQueue;
use crate::config::Config;
use crate::entries::{MAX_CHANGE_BYTES, SessionId, shown_address};
use crate::peer::notices::Warning;
use crate::peer::outbox::{MAX_NEWCOMERS, Outbox};
use crate::registry::history;
use crate::registry::{Admission, RegisterEffects, RegisterError, Registry, Removal};
use crate::shell::incoming_budget::IncomingBudget;
use crate::shell::logs::{MAX_JOIN_LINES, RegistrationLog, described, shown_name};
use crate::shell::metrics::{Counters, MetricsSnapshot};
use crate::shell::name_lookup::MAX_LOOKUPS;
use crate::shell::session::{Session, SessionGuard};
use crate::updates::budget::UpdateBudget;

/// The shared state. Its lock is held for computing only: nothing waits, and no peer is written to,
/// while it is held.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(super) state: Mutex<SharedState>,
    pub(super) changed: [Notify; 2],
    /// Something may be due earlier than the timer task thinks.
    pub(super) rescheduled: Notify,
    /// Throttles of log lines about refused registrations and cut connections: an attacker must not
    /// fill the log.
    pub(super) rejection_log: LogThrottles,
    pub(crate) cut_log: LogThrottles,
    /// Throttles of log lines about faults of listed nodes.
    pub(super) warnings: LogThrottles,
    /// Throttles of log lines about nodes that come and go. A node that flaps must not fill the log
    /// either.
    pub(super) join_log: LogThrottles,
    /// Observes how much version 1 peers on this machine have read.
    pub(crate) peer_backlog: PeerBacklog,
    /// Connections whose peers send without a pause work one at a time.
    pub(crate) slices: SliceQueue,
    /// The queue of peers that wait for a packet of their own.
    pub(crate) update_queue: UpdateQueue,
    /// Memory of packets on their way to peers.
    pub(crate) update_budget: UpdateBudget,
    /// Memory of packets that have begun to arrive.
    pub(crate) incoming_budget: IncomingBudget,
    /// Permits for look-ups of names of nodes.
    pub(super) lookups: Arc<Semaphore>,
    pub(crate) counters: Counters,
    /// The active time in nanoseconds: see `liveness`.
    pub(super) active_time: AtomicU64,
}

/// Why a connection is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionLimit {
    /// There are as many connections as allowed.
    Total,
    /// There are as many connections from its address as allowed.
    PerAddress,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let memory = UpdateBudget::new(config.max_unread_bytes);
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
            rejection_log: LogThrottles::default(),
            cut_log: LogThrottles::default(),
            warnings: LogThrottles::default(),
            join_log: LogThrottles::new(LogThrottle::with_burst(MAX_JOIN_LINES, LogThrottle::LOG_PERIOD)),
            peer_backlog: PeerBacklog::start(),
            slices: SliceQueue::new(),
            update_queue: UpdateQueue::default(),
            update_budget: memory,
            incoming_budget: IncomingBudget::new(config.max_incoming_bytes, config.max_frame_bytes),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            counters: Counters::default(),
            config,
            active_time: AtomicU64::new(0),
        })
    }

    /// Makes a session for a new connection, or returns the socket when there are as many as
    /// allowed.
    pub(crate) fn open(
        self: &Arc<Self>,
        socket: Socket,
        peer: SocketAddr,
    ) -> Result<SessionGuard, (ConnectionLimit, Socket)> {
        let now = Instant::now();
        let mut state = self.lock();
        let group = address_group(peer.ip());
        let from_there = state.by_address_group.get(&group).map_or(0, |counts| counts.open);
        if !group.is_loopback() && from_there >= self.config.max_connections_per_address {
            self.counters.record_rejection(503, "many_of_its_address");
            return Err((ConnectionLimit::PerAddress, socket));
        }
        if state.open_sessions >= self.config.max_connections {
            let Some(session) = state.evict_unregistered(now) else {
                self.counters.record_rejection(503, "many_connections");
                return Err((ConnectionLimit::Total, socket));
            };
            if let Some(suppressed) = self.cut_log.allow("evicted", now.into_std()) {
                warn!(peer = %session.peer, suppressed, "cut: the peer has not registered, and there is no room for others (--max-connections)");
            }
        }
        let id = SessionId(state.next_session);
        state.next_session += 1;
        let read_time = (!PeerBacklog::can_see(&socket)).then_some(self.config.legacy_read_time);
        let greet_at = (now + self.config.greet_after).into_std();
        let outbox = Outbox::new(id, greet_at, self.config.legacy_list_bytes, read_time);
        let session = Arc::new(Session {
            id,
            peer,
            socket,
            outbox: Mutex::new(outbox),
            wake: Notify::new(),
            cut_reason: OnceLock::new(),
            is_evicted: AtomicBool::new(false),
            is_reported: AtomicBool::new(false),
            opened_at: now,
            address_queue: state.by_address_group.entry(group).or_default().queue.clone(),
            last_heard: AtomicU64::new(self.active_time.load(Ordering::Relaxed)),
            is_owed_bytes: AtomicBool::new(false),
        });
        state.open_sessions += 1;
        state.by_address_group.entry(group).or_default().open += 1;
        state.await_registration(&session);
        drop(state);
        // The timer task sleeps while there are no connections.
        self.rescheduled.notify_one();
        Ok(SessionGuard { shared: Arc::clone(self), session })
    }

    /// The figures for operators at this moment.
    pub(crate) fn figures(&self) -> MetricsSnapshot {
        let said = [&self.rejection_log, &self.cut_log, &self.warnings, &self.join_log].map(LogThrottles::tallies);
        let seen = |tallies: &BTreeMap<&'static str, Tally>| -> BTreeMap<_, _> {
            tallies.iter().map(|(reason, tally)| (*reason, tally.seen)).collect()
        };
        let (cut, warnings) = (seen(&said[1]), seen(&said[2]));
        let state = self.lock();
        let registry = &state.registry;
        let (list, changes) = registry.bytes();
        let (list_of_one, share_of_one) = registry.largest_share();
        let (history_events, history) = registry.history_size();
        MetricsSnapshot {
            connections: state.open_sessions,
            unregistered: state.unregistered.len(),
            nodes: registry.nodes(),
            suspects: registry.suspects(),
            left_out: registry.left_out(),
            deferred: registry.deferred_registrations(),
            revision: registry.revision(),
            history_events,
            updates_sent: self.counters.updates_sent(),
            partial_views: registry.partial_views(),
            questions: self.counters.questions(),
            uses_refused: self.counters.uses_refused(),
            cut,
            warnings,
            refused: self.counters.all_refused(),
            log_lines_suppressed: said.iter().flat_map(BTreeMap::values).map(|tally| tally.suppressed).sum(),
            log_lines_lost: net::log_lines_lost(),
            waiting: self.incoming_budget.waiting(),
            memory: vec![
                ("unread", self.update_budget.used(), self.update_budget.limit()),
                ("incoming", self.incoming_budget.used(), self.incoming_budget.limit()),
                ("list", list, self.config.max_list_bytes),
                ("list_of_one_address", list_of_one, share_of_one),
                ("needs", registry.interest_budget().used(), registry.interest_budget().limit()),
                ("changes", changes, MAX_CHANGE_BYTES),
                ("history", history, history::MAX_BYTES),
            ],
        }
    }

    /// Tells peers that register from now on to come back later.
    pub(crate) fn drain(&self) {
        self.lock().registry.drain();
    }

    /// Tells sessions whose instances have registered on newer sessions so, and ends them.
    pub(super) fn cut_superseded(&self, state: &mut SharedState) {
        while let Some(session) = state.registry.poll_superseded() {
            for followers in &mut state.followers {
                if let Some(superseded) = followers.all.remove(&session) {
                    superseded.cut(LeaveReason::Superseded);
                }
            }
        }
    }

    pub(super) fn follower(&self, session: SessionId) -> Option<Arc<Session>> {
        self.lock().followers[version_index(Version::V2)].all.get(&session).cloned()
    }

    pub(super) fn notify_followers(&self) {
        self.changed.iter().for_each(Notify::notify_one);
    }

    pub(super) fn register(
        &self,
        session: &Arc<Session>,
        registration: Registration,
        version: Version,
        options: &RegisterOptions,
    ) -> Result<Admission, RegisterError> {
        let host = host_text(session.peer.ip());
        let now = Instant::now().into_std();
        let (name, urls) = (registration.name.clone(), registration.urls.len());
        let address = shown_address(registration.listed_at().unwrap_or(&host), registration.port);
        let ignored = registration.ignored();
        // All code that writes to a peer locks them in this order.
        let mut outbox = session.outbox();
        let mut state = self.lock();
        let before = state.registry.published();
        let is_cut = session.cut_reason.get().is_some();
        let effects = state.registry.register_session(now, session.id, is_cut, registration, &host, options)?;
        let RegisterEffects { admission, interests, resume, shared_url, uses_without_room } = effects;
        let is_to_be_told = outbox.follow(version, interests);
        outbox.take_packed(options.packed);
        if let Some(resume) = resume {
            outbox.resume_from(resume);
        }
        let followers = &mut state.followers[version_index(version)];
        // A session that is behind is told by its own task at once, and skipped by the publisher.
        if followers.all.insert(session.id, Arc::clone(session)).is_none() {
            outbox.is_behind |= version == Version::V2 && followers.new.len() >= MAX_NEWCOMERS;
            followers.new.push(Arc::clone(session));
        } else {
            outbox.is_behind |= version == Version::V2 && is_to_be_told;
        }
        drop(outbox);
        state.uncount_unregistered(session.id);
        self.cut_superseded(&mut state);
        let warns_of_loopback = options.loopback && !session.peer.ip().to_canonical().is_loopback();
        if warns_of_loopback {
            state.registry.record_loopback(now, session.id);
        }
        // A node that registers the same again has been told.
        let ignored = ignored.or_else(|| state.registry.refused_urls(session.id)).filter(|_| !admission.is_unchanged());
        let uses_without_room = uses_without_room.map(|uses_without_room| (Warning::UsesFull, uses_without_room));
        if uses_without_room.is_some() {
            self.counters.record_uses_refused();
        }
        let ignored = ignored.map(|ignored| (Warning::Ignored, ignored));
        for (_, ignored) in uses_without_room.iter().chain(&ignored) {
            state.registry.record_ignored(now, session.id, described(ignored));
        }
        let nodes = state.registry.nodes();
        let changes = state.registry.published() != before;
        drop(state);
        if changes {
            self.notify_followers();
        } else {
            self.changed[version_index(version)].notify_one();
        }
        if options.visibility.is_some() || options.resume.is_some() {
            self.rescheduled.notify_one();
        }
        let logged = RegistrationLog {
            nodes,
            name: &name,
            address: &address,
            seen: session.peer.ip().to_canonical(),
            urls,
            version,
        };
        self.log_registration(now, &logged, &admission, warns_of_loopback);
        if let Some(shared_url) = shared_url {
            self.warn_of_shared_url(now, &logged, &shared_url);
        }
        for (warning, ignored) in uses_without_room.iter().chain(&ignored) {
            self.report_ignored(now, session.id, &logged, *warning, ignored);
        }
        self.warn_of_size(shown_name(&name));
        Ok(admission)
    }

    /// Tells a version 1 peer that is not listed of changes from now on. It counts as a connection
    /// that has registered nothing: it makes room for others.
    pub(super) fn follow_only(&self, session: &Arc<Session>) {
        let mut outbox = session.outbox();
        let mut state = self.lock();
        let followers = &mut state.followers[version_index(Version::V1)];
        if followers.all.insert(session.id, Arc::clone(session)).is_some() {
            return;
        }
        followers.new.push(Arc::clone(session));
        outbox.follow(Version::V1, None);
        drop((state, outbox));
        self.changed[version_index(Version::V1)].notify_one();
    }

    pub(super) fn remove_session(&self, session: &Session, reason: LeaveReason) {
        let mut state = self.lock();
        for followers in &mut state.followers {
            followers.all.remove(&session.id);
        }
        let restoring = state.registry.is_restoring();
        let removal = state.registry.remove_session(Instant::now().into_std(), session.id, reason);
        let nodes = state.registry.nodes();
        drop(state);
        if restoring {
            self.rescheduled.notify_one();
        }
        let Some(Removal { record, is_retained }) = removal else { return };
        if !is_retained {
            self.notify_followers();
        }
        self.log_removal(nodes, session.peer, &record, reason, is_retained);
    }

    /// Locks the state. A panic under the lock would have left half a change behind. No code of
    /// ours panics there, and a live registry is better than none.
    pub(super) fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn version_index(version: Version) -> usize {
    match version {
        Version::V1 => 0,
        Version::V2 => 1,
    }
}

/// Higher at every start, as long as the clock is not set back. A Distributor that restores an
/// earlier list raises it itself.
#[expect(clippy::disallowed_methods, reason = "the clock names this start and decides nothing")]
fn epoch() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(0).clamp(1, Revision::MAX / 2)
}
