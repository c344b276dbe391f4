//! One HTTP server: how it does, and the connections to it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_sdk::gateway::Load;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::io::stream::limit_unsent;

/// In one network a connect is answered in well under this, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection that is not in use is surely open, if its server does not say: those in
/// Node.js close theirs after five seconds, and a request that is on its way then is lost.
const RELIABLE_IDLE: Duration = Duration::from_secs(4);
/// A connection is kept no longer than this, whatever its server says, if it says nothing, too:
/// what may be sent again can try it.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);
/// A server that says for how long it keeps a connection is believed, less what a request may take
/// to get there.
const IN_TRANSIT: Duration = Duration::from_secs(1);
/// Connections to one server that are kept though they are not in use.
const MAX_IDLE: usize = 256;
/// After a failed connect, how long a server is passed over; twice as long after each that follows.
const FIRST_COOL_DOWN: Duration = Duration::from_millis(500);
const MAX_COOL_DOWN: Duration = Duration::from_secs(10);
/// How long a server's health is remembered after it has gone: it may come back, as after a restart
/// of the Distributor.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(60);

/// One server, whatever it answers. It outlives changes of the list.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) load: Load,
    since: Instant,
    /// In milliseconds after `since`; 0 when it does not cool down.
    cooling_down_until: AtomicU64,
    /// In milliseconds after `since`, when it was missed first; 0 while it is there.
    unlisted_since: AtomicU64,
    state: Mutex<EndpointState>,
}

#[derive(Debug, Default)]
struct EndpointState {
    /// The last is the one that was used last.
    idle: VecDeque<IdleConnection>,
    cool_down: Duration,
}

/// A connection that is not in use.
#[derive(Debug)]
struct IdleConnection {
    stream: TcpStream,
    /// Until then the server does not close it.
    sure: Instant,
    until: Instant,
}

/// For how long a connection may be kept that is not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleLimits {
    /// For any request.
    sure: Duration,
    /// For one that may be sent again if the server has closed it meanwhile.
    most: Duration,
}

/// Which connections a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Any: if the server is closing it, the request is sent again.
    Any,
    /// One that the server has not closed for sure, or else a new one.
    Sure,
    /// A new one.
    Never,
}

/// A connection to a server. Unless it is [returned to the pool](Self::return_to_pool), it is
/// closed when it is dropped.
#[derive(Debug)]
pub(crate) struct ServerConnection {
    /// `None` only when it has been kept or taken.
    stream: Option<TcpStream>,
    endpoint: Arc<Endpoint>,
    /// It has been used before, so the server may be closing it.
    pub(crate) is_used: bool,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// The server does not answer.
    Unreachable,
    /// This machine has no port left to connect from, or no descriptor.
    Exhausted,
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, now: Instant) -> Self {
        Self {
            address,
            load: Load::new(now.into_std()),
            since: now,
            cooling_down_until: AtomicU64::new(0),
            unlisted_since: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// A connection: one that is there and not in use, or a new one.
    ///
    /// # Errors
    /// When there is none to be had; the server is passed over for a while if it is its fault.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        reuse: Reuse,
        now: Instant,
    ) -> Result<ServerConnection, ConnectError> {
        if let Some(connected) = self.reuse(reuse, now) {
            return Ok(connected);
        }
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await;
        let error = match connected {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                limit_unsent(&stream);
                if self.cooling_down_until.swap(0, Ordering::Relaxed) > 0 {
                    self.lock().cool_down = Duration::ZERO;
                    self.load.connected(Instant::now().into_std());
                }
                return Ok(ServerConnection { stream: Some(stream), endpoint: Arc::clone(self), is_used: false });
            }
            Ok(Err(error)) => Some(error),
            Err(_elapsed) => None,
        };
        if error.is_some_and(|error| is_exhausted(&error)) {
            return Err(ConnectError::Exhausted);
        }
        let mut state = self.lock();
        state.cool_down = (state.cool_down * 2).clamp(FIRST_COOL_DOWN, MAX_COOL_DOWN);
        self.cool_down_until(Instant::now() + state.cool_down);
        Err(ConnectError::Unreachable)
    }

    /// A connection that is there and not in use.
    pub(crate) fn reuse(self: &Arc<Self>, reuse: Reuse, now: Instant) -> Option<ServerConnection> {
        loop {
            let stream = self.idle(reuse, now)?;
            if is_silent(&stream) {
                return Some(ServerConnection { stream: Some(stream), endpoint: Arc::clone(self), is_used: true });
            }
        }
    }

    /// Of those that are not in use the one that was used last.
    fn idle(&self, reuse: Reuse, now: Instant) -> Option<TcpStream> {
        let mut state = self.lock();
        let last = state.idle.back()?;
        let fits = match reuse {
            Reuse::Any => last.until > now,
            Reuse::Sure => last.sure > now,
            Reuse::Never => false,
        };
        if fits { state.idle.pop_back().map(|idle| idle.stream) } else { None }
    }

    /// Closes connections that are not in use.
    pub(crate) fn close_idle(&self) {
        self.lock().idle.clear();
    }

    /// Closes connections that have not been used for a while, or that the server has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        self.lock().sweep(now);
    }

    fn return_to_pool(&self, stream: TcpStream, limits: IdleLimits, begun: Instant, now: Instant) {
        if limits.most.is_zero() {
            return;
        }
        let mut state = self.lock();
        // The one that was used longest ago may be of use to few.
        if state.idle.len() >= MAX_IDLE {
            state.idle.pop_front();
        }
        state.idle.push_back(IdleConnection { stream, sure: begun + limits.sure, until: now + limits.most });
    }

    pub(crate) fn is_cooling_down(&self, now: Instant) -> bool {
        let until = self.cooling_down_until.load(Ordering::Relaxed);
        until > 0 && until > self.millis_at(now)
    }

    /// It is on the list.
    pub(crate) fn mark_listed(&self) {
        self.unlisted_since.store(0, Ordering::Relaxed);
    }

    /// It is passed over until then.
    pub(crate) fn cool_down_until(&self, until: Instant) {
        self.cooling_down_until.store(self.millis_at(until), Ordering::Relaxed);
    }

    /// Whether it was there not long ago: asked whenever it is missed.
    pub(crate) fn is_remembered(&self, now: Instant) -> bool {
        let now = self.millis_at(now);
        let since = self.unlisted_since.load(Ordering::Relaxed);
        if since == 0 {
            self.unlisted_since.store(now, Ordering::Relaxed);
        }
        since == 0 || Duration::from_millis(now.saturating_sub(since)) < FORGET_AFTER
    }

    /// From 1: 0 stands for never.
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

/// Whether a server has sent nothing unasked, its end included. After that a connection is of no
/// use.
fn is_silent(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// It is not the server that is at fault, but this machine: no port (EADDRNOTAVAIL), no descriptor,
/// no memory.
fn is_exhausted(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    error.kind() == io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS))
}

impl ServerConnection {
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("it is there until it is kept or taken")
    }

    /// Takes the stream out: it will not be reused.
    pub(crate) fn detach(&mut self) -> TcpStream {
        self.stream.take().expect("it is there until it is kept or taken")
    }

    /// Gives it back to be used again. `begun`: when the response had begun, and was perhaps whole
    /// in the server's eyes.
    pub(crate) fn return_to_pool(mut self, limits: IdleLimits, begun: Instant, now: Instant) {
        if let Some(stream) = self.stream.take() {
            self.endpoint.return_to_pool(stream, limits, begun, now);
        }
    }
}

impl IdleLimits {
    /// From what the server says in `Keep-Alive`, if it does.
    pub(crate) fn from_header(said: Option<Duration>) -> Self {
        let said = said.map(|said| said.saturating_sub(IN_TRANSIT).min(MAX_IDLE_TIME));
        Self { sure: said.unwrap_or(RELIABLE_IDLE), most: said.unwrap_or(MAX_IDLE_TIME) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_used_again_and_not_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap(), Instant::now()));
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
            assert_eq!(idle(), 1, "what is new leaves the others alone");
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
        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap(), Instant::now()));
        let (unsaid, now) = (IdleLimits::from_header(None), Instant::now());
        for _ in 0..=MAX_IDLE {
            endpoint.connect(Reuse::Never, now).await.unwrap().return_to_pool(unsaid, now, now);
            // The server takes it, or there would soon be too many that wait for that.
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
        assert!(endpoint.connect(Reuse::Sure, later).await.unwrap().is_used, "the latest is there in a full list too");
    }

    #[tokio::test]
    async fn connections_that_the_server_has_closed_are_not_kept() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap(), Instant::now()));
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
