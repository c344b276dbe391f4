//! One HTTP server: how it does, and the connections to it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_sdk::balance::Load;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::cookie::Cookies;

/// In one network a connect is answered in well under this, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection that is not in use is kept: servers in Node.js close theirs after five seconds, and a request that is on its
/// way then is lost.
pub(crate) const KEEP: Duration = Duration::from_secs(4);
/// A server that says for how long it keeps a connection is believed, less what a request may take to get there, and up to this.
const LONGEST_KEEP: Duration = Duration::from_secs(60);
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// Connections to one server that are kept though they are not in use.
const MAX_IDLE: usize = 256;
/// After a failed connect, how long a server is passed over; twice as long after each that follows.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// How a server does is remembered for so long after it has gone: it may come back, as after a restart of the Distributor.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(60);

/// One server, whatever it answers. It outlives changes of the list.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// What it is called in cookies.
    id: u64,
    pub(crate) load: Load,
    since: Instant,
    /// In milliseconds after `since`; 0 when it does not rest.
    rests_until: AtomicU64,
    /// In milliseconds after `since`, when it was missed first; 0 while it is there.
    absent: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: VecDeque<(TcpStream, Instant)>,
    rest: Duration,
}

/// A connection to a server. Unless it is [kept](Self::keep), it is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    /// `None` only when it has been kept.
    stream: Option<TcpStream>,
    upstream: Arc<Upstream>,
    /// It has been used before, so the server may be closing it.
    pub(crate) is_used: bool,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// Nobody answers there.
    Unreachable,
    /// This machine has no port left to connect from, or no descriptor.
    Exhausted,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr, now: Instant) -> Self {
        Self {
            address,
            id: Cookies::id(address),
            load: Load::new(now.into_std()),
            since: now,
            rests_until: AtomicU64::new(0),
            absent: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A connection: one that is there and not in use, or a new one; `fresh`: a new one in any case.
    ///
    /// # Errors
    /// When there is none to be had; the server is passed over for a while if it is its fault.
    pub(crate) async fn connect(self: &Arc<Self>, fresh: bool, now: Instant) -> Result<Connected, ConnectError> {
        while !fresh && let Some(stream) = self.idle(now) {
            // Whatever a server says without being asked, its end included, nobody can use.
            let silent = matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            if silent {
                return Ok(Connected { stream: Some(stream), upstream: Arc::clone(self), is_used: true });
            }
        }
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await;
        let error = match connected {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                if self.rests_until.swap(0, Ordering::Relaxed) > 0 {
                    self.lock().rest = Duration::ZERO;
                    self.load.connected(Instant::now().into_std());
                }
                return Ok(Connected { stream: Some(stream), upstream: Arc::clone(self), is_used: false });
            }
            Ok(Err(error)) => Some(error),
            Err(_elapsed) => None,
        };
        if error.is_some_and(|error| is_exhausted(&error)) {
            return Err(ConnectError::Exhausted);
        }
        let mut state = self.lock();
        state.rest = (state.rest * 2).clamp(FIRST_REST, LONGEST_REST);
        self.rest_until(Instant::now() + state.rest);
        Err(ConnectError::Unreachable)
    }

    fn idle(&self, now: Instant) -> Option<TcpStream> {
        let mut state = self.lock();
        // The last that was used is the last that is closed.
        std::iter::from_fn(|| state.idle.pop_back()).find(|(_, until)| *until > now).map(|(stream, _)| stream)
    }

    /// Closes connections that are not in use.
    pub(crate) fn close_idle(&self) {
        self.lock().idle.clear();
    }

    /// Closes connections that have not been used for a while.
    pub(crate) fn tidy(&self, now: Instant) {
        self.lock().tidy(now);
    }

    fn keep(&self, stream: TcpStream, until: Instant) {
        let mut state = self.lock();
        if state.idle.len() < MAX_IDLE {
            state.idle.push_back((stream, until));
        }
    }

    pub(crate) fn rests(&self, now: Instant) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until > 0 && until > self.millis_at(now)
    }

    /// It is on the list.
    pub(crate) fn is_there(&self) {
        self.absent.store(0, Ordering::Relaxed);
    }

    /// It is passed over until then.
    pub(crate) fn rest_until(&self, until: Instant) {
        self.rests_until.store(self.millis_at(until), Ordering::Relaxed);
    }

    /// Whether it was there not long ago: asked whenever it is missed.
    pub(crate) fn is_remembered(&self, now: Instant) -> bool {
        let now = self.millis_at(now);
        let since = self.absent.load(Ordering::Relaxed);
        if since == 0 {
            self.absent.store(now, Ordering::Relaxed);
        }
        since == 0 || Duration::from_millis(now.saturating_sub(since)) < REMEMBERED
    }

    /// From 1: 0 stands for never.
    fn millis_at(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tidy(&mut self, now: Instant) {
        self.idle.retain(|(_, until)| *until > now);
    }
}

/// It is not the server that is at fault, but this machine: no port (EADDRNOTAVAIL), no descriptor, no memory.
fn is_exhausted(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    error.kind() == io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS))
}

impl Connected {
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("it is there until it is kept")
    }

    /// Gives it back to be used again until then.
    pub(crate) fn keep(mut self, until: Instant) {
        if let Some(stream) = self.stream.take() {
            self.upstream.keep(stream, until);
        }
    }
}

/// How long a connection may be kept to a server that has said that it keeps it so long, or nothing.
pub(crate) fn keep_for(said: Option<Duration>) -> Duration {
    said.map_or(KEEP, |said| said.saturating_sub(ON_THE_WAY).min(LONGEST_KEEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_used_again_and_not_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Arc::new(Upstream::new(listener.local_addr().unwrap(), Instant::now()));
        let idle = || upstream.lock().idle.len();
        let (one, two) = (
            upstream.connect(false, Instant::now()).await.unwrap(),
            upstream.connect(false, Instant::now()).await.unwrap(),
        );
        one.keep(Instant::now() + KEEP);
        assert_eq!(idle(), 1);
        assert!(!upstream.connect(true, Instant::now()).await.unwrap().is_used);
        assert_eq!(idle(), 1, "what is fresh leaves the others alone");
        upstream.connect(false, Instant::now()).await.unwrap().keep(Instant::now() + KEEP);
        assert_eq!(idle(), 1);
        drop(two);
        upstream.tidy(Instant::now() + KEEP);
        assert_eq!(idle(), 0);
        upstream.connect(false, Instant::now()).await.unwrap().keep(Instant::now() + KEEP);
        assert_eq!(idle(), 1);
        upstream.close_idle();
        assert_eq!(idle(), 0);
        let kept = [None, Some(1), Some(5), Some(900)].map(|said| keep_for(said.map(Duration::from_secs)).as_secs());
        assert_eq!(kept, [4, 0, 4, 60], "less than the server does, or as it says");
    }
}
