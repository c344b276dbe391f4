//! One HTTP server: its health, and the connections to it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::{QueuedSocket, ServerAddress, Socket};
use node_sdk::gateway::{Load, unreachable_because};
use protocol::Unreachable;
use tokio::time::{Instant, timeout};

use crate::io::stream::limit_unsent;
use crate::upstream::advertised::AdvertisedName;

/// How long connecting may take. Within a network it takes far less, or fails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an idle connection is surely open if its server does not say: servers in Node.js close
/// theirs after five seconds, and a request on its way would be lost.
const RELIABLE_IDLE: Duration = Duration::from_secs(4);
/// The longest time for which an idle connection is kept. Beyond the time in which it is surely
/// open, only requests that may be sent again use it.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);
/// Subtracted from the time for which a server says that it keeps a connection: a request may take
/// this long to get there.
const IN_TRANSIT: Duration = Duration::from_secs(1);
/// Most idle connections to one server. A burst leaves these for the next one; each takes a
/// descriptor.
const MAX_IDLE: usize = 256;
/// How long a server is skipped after a failed connect, and at most; the time doubles after each
/// further failure.
const FIRST_COOL_DOWN: Duration = Duration::from_millis(500);
const MAX_COOL_DOWN: Duration = Duration::from_secs(10);
/// How long the health of a server is remembered after the server has gone: it may come back, for
/// example after a restart of the Distributor.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(60);

/// One server, for all its prefixes. It outlives changes of the list.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The address that lists, or the configuration, give it.
    pub(crate) address: ServerAddress,
    /// The name that it advertises, if it does.
    pub(super) name: Option<Arc<AdvertisedName>>,
    pub(crate) load: Load,
    since: Instant,
    /// In milliseconds after `since`; 0 when it does not cool down.
    cooling_down_until: AtomicU64,
    /// In milliseconds after `since`, when it was first missing; 0 while it is listed.
    unlisted_since: AtomicU64,
    state: Mutex<EndpointState>,
}

#[derive(Debug, Default)]
struct EndpointState {
    /// The connection that was used last is at the end.
    idle: VecDeque<IdleConnection>,
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
    /// Until then the server surely does not close it.
    sure: Instant,
    until: Instant,
}

/// For how long an idle connection may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleLimits {
    /// For any request.
    sure: Duration,
    /// For a request that may be sent again if the server has closed the connection meanwhile.
    most: Duration,
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Any connection: if the server is closing it, the request is sent again.
    Any,
    /// An idle connection that is surely open, or else a new one.
    Sure,
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
    /// Whether it has been used before, so that the server may be closing it.
    pub(crate) is_used: bool,
    /// It is the first connection after one that failed.
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
    pub(crate) fn new(address: ServerAddress, name: Option<Arc<AdvertisedName>>, now: Instant) -> Self {
        Self {
            address,
            name,
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
        let connected = timeout(CONNECT_TIMEOUT, connect(&self.address, self.name.as_deref())).await;
        let error = match connected {
            Ok(Ok(socket)) => {
                if let Some(stream) = socket.tcp() {
                    let _ = stream.set_nodelay(true);
                    limit_unsent(stream);
                }
                let has_recovered = self.cooling_down_until.swap(0, Ordering::Relaxed) > 0;
                if has_recovered {
                    self.lock().cool_down = Duration::ZERO;
                    self.load.connected(Instant::now().into_std());
                }
                let (stream, endpoint) = (Some(QueuedSocket::new(socket)), Arc::clone(self));
                return Ok(ServerConnection { stream, endpoint, is_used: false, has_recovered });
            }
            Ok(Err(error)) => Some(error),
            Err(_elapsed) => None,
        };
        if error.as_ref().is_some_and(is_exhausted) {
            return Err(ConnectError::Exhausted);
        }
        if let Some(name) = &self.name {
            name.mark_suspect();
        }
        let why = error.as_ref().map_or(Unreachable::Timeout, unreachable_because);
        let mut state = self.lock();
        state.cool_down = (state.cool_down * 2).clamp(FIRST_COOL_DOWN, MAX_COOL_DOWN);
        self.cool_down_until(Instant::now() + state.cool_down);
        Err(ConnectError::Unreachable(why))
    }

    /// An idle connection.
    pub(crate) fn reuse(self: &Arc<Self>, reuse: Reuse, now: Instant) -> Option<ServerConnection> {
        loop {
            let stream = self.idle(reuse, now)?;
            if is_silent(&stream) {
                let endpoint = Arc::clone(self);
                return Some(ServerConnection { stream: Some(stream), endpoint, is_used: true, has_recovered: false });
            }
        }
    }

    /// The idle connection that was used last.
    fn idle(&self, reuse: Reuse, now: Instant) -> Option<QueuedSocket> {
        let mut state = self.lock();
        let last = state.idle.back()?;
        let fits = match reuse {
            Reuse::Any => last.until > now,
            Reuse::Sure => last.sure > now,
            Reuse::Never => false,
        };
        if fits { state.idle.pop_back().map(|idle| idle.stream) } else { None }
    }

    /// Closes idle connections.
    pub(crate) fn close_idle(&self) {
        self.lock().idle.clear();
    }

    /// Closes connections that have been idle for a while, or that the server has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        self.lock().sweep(now);
    }

    fn return_to_pool(&self, stream: QueuedSocket, limits: IdleLimits, response_began: Instant, now: Instant) {
        if limits.most.is_zero() {
            return;
        }
        let mut state = self.lock();
        // The connection that has been idle for longest can serve few requests.
        if state.idle.len() >= MAX_IDLE {
            state.idle.pop_front();
        }
        state.idle.push_back(IdleConnection { stream, sure: response_began + limits.sure, until: now + limits.most });
    }

    pub(crate) fn record_malformed(&self, why: String, now: Instant) {
        let mut state = self.lock();
        let count = state.malformed.as_ref().map_or(0, |before| before.count) + 1;
        state.malformed = Some(MalformedResponses { count, last: now, why });
    }

    pub(crate) fn malformed(&self) -> Option<MalformedResponses> {
        self.lock().malformed.clone()
    }

    pub(crate) fn is_cooling_down(&self, now: Instant) -> bool {
        let until = self.cooling_down_until.load(Ordering::Relaxed);
        until > 0 && until > self.millis_at(now)
    }

    /// Records that the server is listed.
    pub(crate) fn mark_listed(&self) {
        self.unlisted_since.store(0, Ordering::Relaxed);
    }

    /// Until when it is skipped, if it is.
    pub(crate) fn cool_down_until(&self, until: Instant) {
        self.cooling_down_until.store(self.millis_at(until), Ordering::Relaxed);
    }

    /// Whether it was listed recently. Called whenever it is missing.
    pub(crate) fn is_remembered(&self, now: Instant) -> bool {
        let now = self.millis_at(now);
        let since = self.unlisted_since.load(Ordering::Relaxed);
        if since == 0 {
            self.unlisted_since.store(now, Ordering::Relaxed);
        }
        since == 0 || Duration::from_millis(now.saturating_sub(since)) < FORGET_AFTER
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

/// Connects to a server at its address, or at those of the name that it advertises. Cancel safe.
///
/// # Errors
/// Those of the system.
pub(super) async fn connect(address: &ServerAddress, name: Option<&AdvertisedName>) -> io::Result<Socket> {
    match (address, name) {
        (ServerAddress::Tcp(listed), Some(name)) => name.connect(*listed).await.map(Socket::Tcp),
        (ServerAddress::Tcp(_) | ServerAddress::Unix(_), _) => address.connect().await,
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
            self.endpoint.return_to_pool(stream, limits, response_began, now);
        }
    }
}

impl IdleLimits {
    /// The limits that the server states in `Keep-Alive`, if it does.
    pub(crate) fn from_header(said: Option<Duration>) -> Self {
        let said = said.map(|said| said.saturating_sub(IN_TRANSIT).min(MAX_IDLE_TIME));
        Self { sure: said.unwrap_or(RELIABLE_IDLE), most: said.unwrap_or(MAX_IDLE_TIME) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_reused_but_not_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap().into(), None, Instant::now()));
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
        check(Reuse::Sure, Duration::ZERO, true).await;
        check(Reuse::Never, Duration::ZERO, false).await;
        check(Reuse::Sure, RELIABLE_IDLE, false).await;
        check(Reuse::Any, RELIABLE_IDLE, true).await;
        check(Reuse::Any, MAX_IDLE_TIME, false).await;
        endpoint.sweep(now + RELIABLE_IDLE);
        assert_eq!(idle(), 1);
        endpoint.sweep(now + MAX_IDLE_TIME);
        assert_eq!(idle(), 0);
        two.return_to_pool(unsaid, now, now);
        assert_eq!(idle(), 1);
        endpoint.close_idle();
        assert_eq!(idle(), 0);
        connect(Reuse::Any, now).await.return_to_pool(IdleLimits::from_header(Some(IN_TRANSIT)), now, now);
        assert_eq!(idle(), 0, "it is closed at once");
    }

    #[tokio::test]
    async fn the_latest_connections_are_kept_and_sure_from_when_their_response_began() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap().into(), None, Instant::now()));
        let (unsaid, now) = (IdleLimits::from_header(None), Instant::now());
        for _ in 0..=MAX_IDLE {
            endpoint.connect(Reuse::Never, now).await.unwrap().return_to_pool(unsaid, now, now);
            // The server accepts it; otherwise too many would soon wait to be accepted.
            drop(listener.accept().await.unwrap());
        }
        let later = now + RELIABLE_IDLE;
        let last = endpoint.connect(Reuse::Sure, later).await.unwrap();
        assert!(!last.is_used);
        let (_server, _) = listener.accept().await.unwrap();
        last.return_to_pool(unsaid, now, later);
        assert_eq!(endpoint.lock().idle.len(), MAX_IDLE);
        assert!(!endpoint.connect(Reuse::Sure, later).await.unwrap().is_used, "its response began long ago");
        let last = endpoint.connect(Reuse::Any, later).await.unwrap();
        assert!(last.is_used);
        last.return_to_pool(unsaid, later, later);
        assert!(endpoint.connect(Reuse::Sure, later).await.unwrap().is_used, "a full list keeps the latest one too");
    }

    #[tokio::test]
    async fn connections_that_the_server_has_closed_are_not_kept() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap().into(), None, Instant::now()));
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

    #[test]
    fn a_connection_is_kept_for_less_than_the_server_keeps_it() {
        let check = |said: Option<u64>, sure: u64, most: u64| {
            let IdleLimits { sure: seen, most: longest } = IdleLimits::from_header(said.map(Duration::from_secs));
            assert_eq!((seen.as_secs(), longest.as_secs()), (sure, most), "{said:?}");
        };
        check(None, 4, 60);
        check(Some(1), 0, 0);
        check(Some(5), 4, 4);
        check(Some(900), 60, 60);
    }
}
