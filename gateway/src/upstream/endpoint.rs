//! One HTTP server: its health, and the connections to it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::{QueuedSocket, ServerAddress};
use node_sdk::gateway::{Load, unreachable_because};
use protocol::Unreachable;
use tokio::time::{Instant, timeout};

use crate::io::stream::limit_unsent;
use crate::upstream::connector::Connector;
use crate::upstream::unix_socket::UnixSocket;
use crate::upstream::unix_socket::unix_fault::{SocketFile, UnixFault};

/// How long connecting may take. Within a network it takes far less, or fails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an idle connection is surely open if its server does not say: servers in Node.js close
/// theirs after five seconds, and a request on its way would be lost.
const RELIABLE_IDLE_TIME: Duration = Duration::from_secs(4);
/// The longest time for which an idle connection is kept. Beyond the time in which it is surely
/// open, only requests that may be sent again use it.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);
/// Subtracted from the time for which a server says that it keeps a connection: a request may take
/// this long to get there.
const TRANSIT_MARGIN: Duration = Duration::from_secs(1);
/// Maximum number of idle connections to one server. A burst leaves these for the next one; each
/// takes a descriptor.
const MAX_IDLE: usize = 256;
/// How long a server is skipped after a failed connect, and at most; the time doubles after each
/// further failure.
const FIRST_COOL_DOWN_TIME: Duration = Duration::from_millis(500);
const MAX_COOL_DOWN_TIME: Duration = Duration::from_secs(10);
/// How long the health of a server is remembered after the server has gone: it may come back, for
/// example after a restart of the Distributor.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(60);

/// One server, for all its prefixes. It outlives changes of the list.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The address that lists, or the configuration, give it.
    pub(crate) address: ServerAddress,
    pub(super) connector: Connector,
    pub(crate) load: Load,
    since: Instant,
    /// The end of the cool-down in milliseconds after `since`; 0 without one.
    cooling_down_until: AtomicU64,
    /// The time at which it was first missing, in milliseconds after `since`; 0 while it is listed.
    unlisted_since: AtomicU64,
    state: Mutex<EndpointState>,
}

#[derive(Debug, Default)]
struct EndpointState {
    /// The connection that was used last is at the end.
    idle: VecDeque<IdleConnection>,
    /// The file that was last seen at the path of its Unix socket.
    file: Option<SocketFile>,
    /// How often that file has changed. A connection of an earlier one is not used again.
    file_changes: u64,
    cool_down: Duration,
    malformed: Option<MalformedResponses>,
}

/// Responses that could not be understood, or did not end as they should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MalformedResponses {
    pub(crate) count: u64,
    /// When the last one came, and what was wrong with it.
    pub(crate) last: Instant,
    pub(crate) why: String,
}

/// An idle connection.
#[derive(Debug)]
struct IdleConnection {
    stream: QueuedSocket,
    /// The time until which the server certainly keeps the connection open.
    reliable_until: Instant,
    until: Instant,
}

/// How long an idle connection may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleLimits {
    /// How long a connection may be idle that any request may use.
    reliable: Duration,
    /// How long a connection may be idle for a request that may be sent again, if the server has
    /// closed the connection meanwhile.
    max: Duration,
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Any connection: if the server is closing it, the request is sent again.
    Any,
    /// An idle connection that is surely open, or else a new one.
    Reliable,
    /// A new connection.
    Never,
}

/// A connection to a server. Unless it is [returned to the pool](Self::return_to_pool), it is
/// closed when it is dropped.
#[derive(Debug)]
pub(crate) struct ServerConnection {
    /// `None` only after it has been returned to the pool or taken.
    stream: Option<QueuedSocket>,
    endpoint: Arc<Endpoint>,
    /// The changes of the file when it was made or taken.
    file_changes: u64,
    /// Whether it has been used before, so that the server may be closing it.
    pub(crate) is_used: bool,
    /// Whether the connect before this one failed.
    pub(crate) has_recovered: bool,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// The server does not answer.
    Unreachable(Unreachable),
    /// This machine has no port or descriptor left to connect with.
    Exhausted,
}

impl Endpoint {
    pub(crate) fn new(connector: Connector, now: Instant) -> Self {
        Self {
            address: connector.address(),
            connector,
            load: Load::new(now.into_std()),
            since: now,
            cooling_down_until: AtomicU64::new(0),
            unlisted_since: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// A connection: an idle one or a new one.
    ///
    /// # Errors
    /// When no connection can be made. The server is skipped for a while if it is at fault.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        reuse: Reuse,
        now: Instant,
    ) -> Result<ServerConnection, ConnectError> {
        if let Some(connected) = self.reuse(reuse, now) {
            return Ok(connected);
        }
        // First the file, and then the connection: if it is replaced in between, the connection
        // counts as one of the file before, and is not kept.
        let file_changes = self.follow_file();
        let connected = timeout(CONNECT_TIMEOUT, self.connector.connect()).await;
        let error = match connected {
            Ok(Ok(socket)) => {
                if let Some(stream) = socket.tcp() {
                    let _ = stream.set_nodelay(true);
                    limit_unsent(stream);
                }
                let has_recovered = self.cooling_down_until.swap(0, Ordering::Relaxed) > 0;
                if has_recovered {
                    self.lock().cool_down = Duration::ZERO;
                    self.load.record_connect(Instant::now().into_std());
                }
                let (stream, endpoint) = (Some(QueuedSocket::new(socket)), Arc::clone(self));
                return Ok(ServerConnection { stream, endpoint, file_changes, is_used: false, has_recovered });
            }
            Ok(Err(error)) => Some(error),
            Err(_elapsed) => None,
        };
        if error.as_ref().is_some_and(is_exhausted) {
            return Err(ConnectError::Exhausted);
        }
        match &self.connector {
            Connector::Address(_) => {}
            Connector::Name(_, name) => name.mark_suspect(),
            // Only a full backlog takes that long.
            Connector::Unix(socket) if error.is_none() => socket.record(Some(UnixFault::Full)),
            Connector::Unix(_) => {}
        }
        let why = error.as_ref().map_or(Unreachable::Timeout, unreachable_because);
        let mut state = self.lock();
        state.cool_down = (state.cool_down * 2).clamp(FIRST_COOL_DOWN_TIME, MAX_COOL_DOWN_TIME);
        self.cool_down_until(Instant::now() + state.cool_down);
        Err(ConnectError::Unreachable(why))
    }

    /// An idle connection.
    pub(crate) fn reuse(self: &Arc<Self>, reuse: Reuse, now: Instant) -> Option<ServerConnection> {
        if reuse == Reuse::Reliable {
            // A server that has been replaced will close its connections.
            self.follow_file();
        }
        loop {
            let (stream, file_changes) = self.idle(reuse, now)?;
            if is_silent(&stream) {
                let (stream, endpoint) = (Some(stream), Arc::clone(self));
                return Some(ServerConnection { stream, endpoint, file_changes, is_used: true, has_recovered: false });
            }
        }
    }

    /// Closes the idle connections of a server whose Unix socket has been replaced by that of
    /// another one, which is worth an attempt at once. Gives how often that was so. A file that is
    /// missing changes nothing: the server may still serve its connections.
    fn follow_file(&self) -> u64 {
        let Some(socket) = self.connector.unix() else { return 0 };
        let seen = socket.observe();
        let mut state = self.lock();
        if seen.is_some() && state.file != seen {
            state.file = seen;
            state.file_changes += 1;
            state.idle.clear();
            state.cool_down = Duration::ZERO;
            if self.cooling_down_until.load(Ordering::Relaxed) > 0 {
                // In the past, so that the next connection is known to be the first one.
                self.cooling_down_until.store(1, Ordering::Relaxed);
            }
        }
        state.file_changes
    }

    /// The idle connection that was used last.
    fn idle(&self, reuse: Reuse, now: Instant) -> Option<(QueuedSocket, u64)> {
        let mut state = self.lock();
        let last = state.idle.back()?;
        let fits = match reuse {
            Reuse::Any => last.until > now,
            Reuse::Reliable => last.reliable_until > now,
            Reuse::Never => false,
        };
        if fits { state.idle.pop_back().map(|idle| (idle.stream, state.file_changes)) } else { None }
    }

    /// Closes idle connections.
    pub(crate) fn close_idle(&self) {
        self.lock().idle.clear();
    }

    /// Closes connections that have been idle for a while, that the server has closed, or whose
    /// server has been replaced.
    pub(crate) fn sweep(&self, now: Instant) {
        self.follow_file();
        self.lock().sweep(now);
    }

    fn return_to_pool(
        &self,
        stream: QueuedSocket,
        file_changes: u64,
        limits: IdleLimits,
        response_began: Instant,
        now: Instant,
    ) {
        if limits.max.is_zero() {
            return;
        }
        let mut state = self.lock();
        if file_changes != state.file_changes {
            return;
        }
        // The connection that has been idle for longest can serve few requests.
        if state.idle.len() >= MAX_IDLE {
            state.idle.pop_front();
        }
        state.idle.push_back(IdleConnection {
            stream,
            reliable_until: response_began + limits.reliable,
            until: now + limits.max,
        });
    }

    pub(crate) fn record_malformed(&self, why: String, now: Instant) {
        let mut state = self.lock();
        let count = state.malformed.as_ref().map_or(0, |before| before.count) + 1;
        state.malformed = Some(MalformedResponses { count, last: now, why });
    }

    pub(crate) fn malformed(&self) -> Option<MalformedResponses> {
        self.lock().malformed.clone()
    }

    fn is_cooling_down(&self, now: Instant) -> bool {
        let until = self.cooling_down_until.load(Ordering::Relaxed);
        until > 0 && until > self.millis_at(now)
    }

    /// Whether connecting is worth an attempt only if no other server is left: the last one has
    /// failed, or the file of a Unix socket shows that it would.
    pub(crate) fn is_unreachable(&self, now: Instant) -> bool {
        self.is_cooling_down(now) || self.connector.unix().is_some_and(UnixSocket::is_unusable)
    }

    /// Records that the server is listed.
    pub(crate) fn mark_listed(&self) {
        self.unlisted_since.store(0, Ordering::Relaxed);
    }

    /// Records until when the server is skipped.
    pub(crate) fn cool_down_until(&self, until: Instant) {
        self.cooling_down_until.store(self.millis_at(until), Ordering::Relaxed);
    }

    /// Records that the server is not listed, unless that is known.
    pub(crate) fn mark_unlisted(&self, now: Instant) {
        let _ = self.unlisted_since.compare_exchange(0, self.millis_at(now), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it is listed, or was listed recently.
    pub(crate) fn is_remembered(&self, now: Instant) -> bool {
        let since = self.unlisted_since.load(Ordering::Relaxed);
        since == 0 || Duration::from_millis(self.millis_at(now).saturating_sub(since)) < FORGET_AFTER
    }

    /// Times begin at 1: 0 stands for never.
    fn millis_at(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn lock(&self) -> MutexGuard<'_, EndpointState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndpointState {
    fn sweep(&mut self, now: Instant) {
        self.idle.retain(|idle| idle.until > now && is_silent(&idle.stream));
    }
}

/// Whether a server has sent nothing unasked, including its end. Afterwards a connection would be
/// useless.
fn is_silent(stream: &QueuedSocket) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether this machine is at fault, and not the server: no port (EADDRNOTAVAIL), no descriptor, no
/// memory.
fn is_exhausted(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    error.kind() == io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS))
}

impl ServerConnection {
    pub(crate) fn stream(&self) -> &QueuedSocket {
        self.stream.as_ref().expect("it is there until it is kept or taken")
    }

    /// Takes the stream, which will not be reused.
    pub(crate) fn detach(&mut self) -> QueuedSocket {
        self.stream.take().expect("it is there until it is kept or taken")
    }

    /// Returns it to be used again. `response_began`: when the response had begun, which the server
    /// may count as its end.
    pub(crate) fn return_to_pool(mut self, limits: IdleLimits, response_began: Instant, now: Instant) {
        if let Some(stream) = self.stream.take() {
            self.endpoint.return_to_pool(stream, self.file_changes, limits, response_began, now);
        }
    }
}

impl IdleLimits {
    /// The limits that the server states in `Keep-Alive`, if it does.
    pub(crate) fn from_header(stated: Option<Duration>) -> Self {
        let stated = stated.map(|stated| stated.saturating_sub(TRANSIT_MARGIN).min(MAX_IDLE_TIME));
        Self { reliable: stated.unwrap_or(RELIABLE_IDLE_TIME), max: stated.unwrap_or(MAX_IDLE_TIME) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::unix_socket::UnixSockets;

    #[tokio::test]
    async fn connections_are_reused_but_not_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(Connector::Address(listener.local_addr().unwrap()), Instant::now()));
        let idle = || endpoint.lock().idle.len();
        let connect = async |reuse, at| endpoint.connect(reuse, at).await.unwrap();
        let now = Instant::now();
        let unsaid = IdleLimits::from_header(None);
        let (one, two) = (connect(Reuse::Any, now).await, connect(Reuse::Any, now).await);
        one.return_to_pool(unsaid, now, now);
        assert_eq!(idle(), 1);
        let check = async |reuse, after: Duration, is_used: bool| {
            let connected = connect(reuse, now + after).await;
            assert_eq!(connected.is_used, is_used, "{reuse:?} after {after:?}");
            if connected.is_used {
                connected.return_to_pool(unsaid, now, now);
            }
            assert_eq!(idle(), 1, "a new connection leaves the others alone");
        };
        check(Reuse::Any, Duration::ZERO, true).await;
        check(Reuse::Reliable, Duration::ZERO, true).await;
        check(Reuse::Never, Duration::ZERO, false).await;
        check(Reuse::Reliable, RELIABLE_IDLE_TIME, false).await;
        check(Reuse::Any, RELIABLE_IDLE_TIME, true).await;
        check(Reuse::Any, MAX_IDLE_TIME, false).await;
        endpoint.sweep(now + RELIABLE_IDLE_TIME);
        assert_eq!(idle(), 1);
        endpoint.sweep(now + MAX_IDLE_TIME);
        assert_eq!(idle(), 0);
        two.return_to_pool(unsaid, now, now);
        assert_eq!(idle(), 1);
        endpoint.close_idle();
        assert_eq!(idle(), 0);
        connect(Reuse::Any, now).await.return_to_pool(IdleLimits::from_header(Some(TRANSIT_MARGIN)), now, now);
        assert_eq!(idle(), 0, "it is closed at once");
    }

    #[tokio::test]
    async fn the_latest_connections_are_kept_and_sure_from_when_their_response_began() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(Connector::Address(listener.local_addr().unwrap()), Instant::now()));
        let (unsaid, now) = (IdleLimits::from_header(None), Instant::now());
        for _ in 0..=MAX_IDLE {
            endpoint.connect(Reuse::Never, now).await.unwrap().return_to_pool(unsaid, now, now);
            // The server accepts it; otherwise too many would soon wait to be accepted.
            drop(listener.accept().await.unwrap());
        }
        let later = now + RELIABLE_IDLE_TIME;
        let last = endpoint.connect(Reuse::Reliable, later).await.unwrap();
        assert!(!last.is_used);
        let (_server, _) = listener.accept().await.unwrap();
        last.return_to_pool(unsaid, now, later);
        assert_eq!(endpoint.lock().idle.len(), MAX_IDLE);
        assert!(!endpoint.connect(Reuse::Reliable, later).await.unwrap().is_used, "its response began long ago");
        let last = endpoint.connect(Reuse::Any, later).await.unwrap();
        assert!(last.is_used);
        last.return_to_pool(unsaid, later, later);
        assert!(
            endpoint.connect(Reuse::Reliable, later).await.unwrap().is_used,
            "a full list keeps the latest one too"
        );
    }

    #[tokio::test]
    async fn connections_that_the_server_has_closed_are_not_kept() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(Connector::Address(listener.local_addr().unwrap()), Instant::now()));
        let now = Instant::now();
        let connected = endpoint.connect(Reuse::Any, now).await.unwrap();
        drop(listener.accept().await.unwrap());
        connected.return_to_pool(IdleLimits::from_header(None), now, now);
        let state = || endpoint.lock();
        timeout(Duration::from_secs(30), async {
            while !state().idle.is_empty() {
                tokio::task::yield_now().await;
                endpoint.sweep(now);
            }
        })
        .await
        .expect("its end is seen");
    }

    #[tokio::test]
    async fn gu24_a_server_that_has_been_replaced_is_not_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("a.sock"), folder.path().join("b.sock"));
        let bind = |path: &std::path::Path| tokio::net::UnixListener::bind(path).unwrap();
        let socket = UnixSockets::default().get(&format!("unix:{}", path.display()).parse().unwrap());
        let endpoint = Arc::new(Endpoint::new(Connector::Unix(socket), Instant::now()));
        let (unsaid, now) = (IdleLimits::from_header(None), Instant::now());
        let idle = || endpoint.lock().idle.len();
        assert_eq!(
            endpoint.connect(Reuse::Any, now).await.err(),
            Some(ConnectError::Unreachable(Unreachable::UnknownName))
        );
        assert!(endpoint.is_unreachable(now), "the file is missing");
        let _first = bind(&path);
        endpoint.sweep(now);
        assert!(!endpoint.is_unreachable(now), "it is there, so the server is asked at once");
        let connect = async || endpoint.connect(Reuse::Never, now).await.unwrap();
        let (kept, in_use) = (connect().await, connect().await);
        assert!(kept.has_recovered && !in_use.has_recovered);
        kept.return_to_pool(unsaid, now, now);
        // A file that is missing for a moment changes nothing.
        std::fs::rename(&path, folder.path().join("away")).unwrap();
        endpoint.sweep(now);
        assert_eq!(idle(), 1);
        assert!(endpoint.reuse(Reuse::Reliable, now).is_some_and(|connected| connected.is_used));
        std::fs::rename(folder.path().join("away"), &path).unwrap();
        connect().await.return_to_pool(unsaid, now, now);
        assert_eq!(idle(), 1);
        let _second = bind(&beside);
        std::fs::rename(&beside, &path).unwrap();
        assert!(endpoint.reuse(Reuse::Reliable, now).is_none(), "another server is there");
        in_use.return_to_pool(unsaid, now, now);
        assert_eq!(idle(), 0, "it is one of the server before");
        connect().await.return_to_pool(unsaid, now, now);
        assert_eq!(idle(), 1);
        let _third = bind(&beside);
        std::fs::rename(&beside, &path).unwrap();
        endpoint.sweep(now);
        assert_eq!(idle(), 0, "it is noticed without a request, too");
    }

    #[test]
    fn a_connection_is_kept_for_less_than_the_server_keeps_it() {
        let check = |stated: Option<u64>, reliable: u64, max: u64| {
            let IdleLimits { reliable: seen, max: longest } = IdleLimits::from_header(stated.map(Duration::from_secs));
            assert_eq!((seen.as_secs(), longest.as_secs()), (reliable, max), "{stated:?}");
        };
        check(None, 4, 60);
        check(Some(1), 0, 0);
        check(Some(5), 4, 4);
        check(Some(900), 60, 60);
    }
}
