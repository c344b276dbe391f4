//! The registry as all connections share it, and the publisher that tells them of its changes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::{LocalQueues, Throttle};
use protocol::{Registration, Unread, Version, shown_host};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::config::{Config, OversizedList};
use crate::intake::Complaint;
use crate::lists::Lists;
use crate::outbox::{Outbox, Step};
use crate::registry::{Registered, Registry, SessionId};

/// Sockets written to before other tasks have their turn.
const WRITES_PER_TURN: usize = 64;

/// Lists per second, in bytes, that the publisher aims at: a fraction of what one core copies into loopback sockets.
/// After a round it pauses for its bytes at this rate, so a burst of changes merges and a single one goes out at once.
const PUBLISH_BYTES_PER_SECOND: f64 = 256e6;
/// However long the lists, a change does not wait longer than this for the round before.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The shared state. Its lock is held for computing only: nothing waits inside, and no peer is written to.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) config: Config,
    state: Mutex<State>,
    changed: Notify,
    refusals: Mutex<Throttle>,
    /// What old peers on this machine have read.
    pub(crate) local_queues: LocalQueues,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    lists: Arc<Lists>,
    followers: HashMap<SessionId, Arc<Session>>,
    next_session: u64,
    open_sessions: usize,
    warned_of_size: bool,
}

/// One connection, as the publisher sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) peer: SocketAddr,
    pub(crate) stream: TcpStream,
    /// Whoever holds it may write to the stream. Nothing waits inside.
    outbox: Mutex<Outbox>,
    /// Wakes the connection's task: the publisher could not write everything, or the session is superseded.
    pub(crate) unfinished: Notify,
    /// The same instance has registered on a newer connection.
    pub(crate) is_superseded: AtomicBool,
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
pub(crate) enum Flow {
    /// The peer has been given everything.
    Done,
    /// The socket takes nothing more since this time.
    Stalled(std::time::Instant),
    /// An old peer is given time to read.
    Paced(Unread),
    /// The connection is broken; its reader will find out.
    Broken,
}

impl Membership {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let registry = Registry::default();
        let lists = Arc::new(Lists::encode(&registry, &config));
        let state = State {
            registry,
            lists,
            followers: HashMap::new(),
            next_session: 0,
            open_sessions: 0,
            warned_of_size: false,
        };
        Arc::new(Self {
            config,
            state: Mutex::new(state),
            changed: Notify::new(),
            refusals: Mutex::default(),
            local_queues: LocalQueues::start(),
        })
    }

    /// A session for a new connection, or the stream back when there are as many as allowed.
    pub(crate) fn open(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Result<Attendance, TcpStream> {
        let mut state = self.lock();
        if state.open_sessions >= self.config.max_connections {
            return Err(stream);
        }
        state.open_sessions += 1;
        let id = SessionId(state.next_session);
        state.next_session += 1;
        drop(state);
        let read_time = (!LocalQueues::can_see(&stream)).then_some(self.config.legacy_read_time);
        let outbox = Outbox::new(self.config.legacy_list_bytes, read_time);
        let session = Session {
            id,
            peer,
            stream,
            outbox: Mutex::new(outbox),
            unfinished: Notify::new(),
            is_superseded: AtomicBool::new(false),
        };
        Ok(Attendance { membership: Arc::clone(self), session: Arc::new(session) })
    }

    /// The newest lists.
    pub(crate) fn lists(&self) -> Arc<Lists> {
        let mut state = self.lock();
        if state.lists.rev != state.registry.rev() {
            state.lists = Arc::new(Lists::encode(&state.registry, &self.config));
        }
        Arc::clone(&state.lists)
    }

    /// Tells every follower of every change, merged while it is busy. Runs until cancelled.
    pub(crate) async fn publish(&self) {
        loop {
            self.changed.notified().await;
            let begin = Instant::now();
            let lists = self.lists();
            let followers: Vec<_> = self.lock().followers.values().cloned().collect();
            let mut bytes = 0;
            for turn in followers.chunks(WRITES_PER_TURN) {
                for session in turn {
                    let (flow, written) = session.flush(|| Arc::clone(&lists), Writer::Publisher);
                    bytes += written;
                    if flow != Flow::Done {
                        session.unfinished.notify_one();
                    }
                }
                tokio::task::yield_now().await;
            }
            // Those that have ended meanwhile must not stay open for longer.
            drop(followers);
            let pause = Duration::from_secs_f64(bytes as f64 / PUBLISH_BYTES_PER_SECOND).min(LONGEST_PAUSE);
            let left = pause.saturating_sub(begin.elapsed());
            // Below the timer's resolution a pause would only add to every change.
            if left >= Duration::from_millis(1) {
                sleep(left).await;
            }
        }
    }

    fn register(&self, session: &Arc<Session>, registration: &Registration, version: Version) {
        let host = shown_host(session.peer.ip());
        session.outbox().follow(version);
        let mut state = self.lock();
        if session.is_superseded.load(Ordering::Acquire) {
            // It is about to be cut; the newer connection keeps the instance.
            return;
        }
        let Registered { is_new, superseded } = state.registry.register(session.id, registration, &host);
        state.followers.insert(session.id, Arc::clone(session));
        if let Some(superseded) = superseded.and_then(|id| state.followers.remove(&id)) {
            superseded.is_superseded.store(true, Ordering::Release);
            superseded.unfinished.notify_one();
        }
        let nodes = state.registry.len();
        drop(state);
        self.changed.notify_one();
        let (name, port) = (registration.name.escape_debug(), registration.port);
        let urls = registration.urls.len();
        if is_new {
            info!(nodes, %name, %host, port, urls, version = ?version, "joined");
        } else {
            info!(nodes, %name, %host, port, urls, version = ?version, "updated");
        }
        self.warn_of_size(&registration.name);
    }

    /// Says that a version 1 node is not listed: it is told nothing, and would wonder.
    pub(crate) fn warn_of_refusal(&self, peer: SocketAddr, complaint: &Complaint) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held_back) = refusals.pass(Instant::now().into_std()) {
            let Complaint { reason, message, .. } = complaint;
            warn!(%peer, reason, held_back, "the registration of a version 1 node is not taken: {message}");
        }
    }

    fn leave(&self, session: &Session) {
        let mut state = self.lock();
        state.followers.remove(&session.id);
        let record = state.registry.leave(session.id);
        let nodes = state.registry.len();
        drop(state);
        if let Some(record) = record {
            self.changed.notify_one();
            info!(nodes, name = %record.name.escape_debug(), peer = %session.peer, "left");
        }
    }

    /// Says once, and by name, that version 1 peers can no longer read the whole list.
    fn warn_of_size(&self, name: &str) {
        let mut state = self.lock();
        let outgrows = Lists::bytes(&state.registry) > self.config.legacy_list_bytes;
        if outgrows == state.warned_of_size {
            return;
        }
        state.warned_of_size = outgrows;
        let nodes = state.registry.len();
        drop(state);
        if outgrows {
            let (name, limit) = (name.escape_debug(), self.config.legacy_list_bytes);
            let get = match self.config.oversized_list {
                OversizedList::Truncate => "get as many nodes as fit, at least one of each name first",
                OversizedList::Send => "get the whole list all the same, and may die of it",
            };
            warn!(nodes, %name, limit, "with this node the list outgrows what version 1 peers can read: they {get} (--oversized-list)");
        }
    }

    /// A panic inside would have left half a change behind; no code of ours panics there, and a live registry serves
    /// better than none.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the membership. Leaving is its `Drop`, so panics and cancelled tasks leave too.
#[derive(Debug)]
pub(crate) struct Attendance {
    membership: Arc<Membership>,
    pub(crate) session: Arc<Session>,
}

impl Attendance {
    pub(crate) fn register(&self, registration: &Registration, version: Version) {
        self.membership.register(&self.session, registration, version);
    }

    /// Takes the registration away while the connection lives on.
    pub(crate) fn unregister(&self) {
        self.session.outbox().unfollow();
        self.membership.leave(&self.session);
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.membership.leave(&self.session);
        self.membership.lock().open_sessions -= 1;
    }
}

impl Session {
    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the peer is owed as far as its socket takes it, and says how many bytes that was. Never waits.
    ///
    /// The connection's task sees to it that what is not done goes on; until it does, the publisher keeps its hands off, so
    /// that one news after the other does not keep it from waiting.
    /// Likewise while it owes a reply, which may need a newer list than the publisher has.
    ///
    /// `lists` gives the newest lists. It is asked when nobody else can write any more: otherwise the publisher could pass by
    /// with a newer list just before this task, done with an older one, stops attending.
    pub(crate) fn flush(&self, lists: impl FnOnce() -> Arc<Lists>, writer: Writer) -> (Flow, usize) {
        let mut outbox = self.outbox();
        if writer == Writer::Publisher && (outbox.attended || outbox.owes_reply()) {
            return (Flow::Done, 0);
        }
        let lists = &*lists();
        let mut written = 0;
        let flow = loop {
            let now = Instant::now().into_std();
            let packet = match outbox.next(now, lists) {
                Step::Done => break Flow::Done,
                Step::WaitFor(unread) => break Flow::Paced(unread),
                Step::Write(packet) => packet,
            };
            // One write per packet: old peers die of a packet in two pieces.
            match self.stream.try_write(&packet) {
                Ok(bytes) => {
                    outbox.wrote(now, bytes);
                    written += bytes;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    outbox.blocked(now);
                    break Flow::Stalled(outbox.stalled_since().unwrap_or(now));
                }
                Err(_broken) => break Flow::Broken,
            }
        };
        outbox.attended = writer == Writer::Connection && flow != Flow::Done;
        (flow, written)
    }
}
