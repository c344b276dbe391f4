//! One session: the messages for its client, and the socket that takes them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use protocol::SocketAdvert;

use crate::sessions::core::outbox::{Full, LIMITS, Outbox};
use crate::sessions::core::session_id::SessionKey;

/// Bytes that wait in all sessions together: each has [its own limit](LIMITS), which few reach at a
/// time.
const MAX_ALL_BYTES: usize = 64 << 20;

/// One session.
#[derive(Debug)]
pub(crate) struct HeldSession {
    pub(crate) key: SessionKey,
    /// The path that its route is called by.
    pub(crate) path: Box<str>,
    pub(crate) user: Option<Box<str>>,
    pub(crate) client: IpAddr,
    pub(crate) advert: SocketAdvert,
    state: Mutex<SessionState>,
    /// Bytes that wait in all sessions.
    all_bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct SessionState {
    outbox: Outbox,
    ending: Option<SessionEnding>,
    /// The number of its present socket. Earlier ones are to close.
    socket: u32,
    waker: Option<Waker>,
}

/// Why a socket of a session is to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnding {
    /// A node has said so.
    ByNode { code: u16, reason: String },
    /// The client does not read.
    Slow,
    /// The client has resumed the session over another socket.
    TakenOver,
}

/// What the socket of a session does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextOfSession {
    /// It sends this message, of this number.
    Message(u64, Bytes),
    /// It is closed.
    End(SessionEnding),
}

impl HeldSession {
    /// A session that waits for its first socket.
    pub(super) fn new(
        key: SessionKey,
        (path, user, client): (&str, Option<&str>, IpAddr),
        advert: SocketAdvert,
        all_bytes: Arc<AtomicUsize>,
    ) -> Self {
        let outbox = Outbox::new(advert.resume > 0, advert.drops_oldest, LIMITS);
        let state = Mutex::new(SessionState { outbox, ending: None, socket: 0, waker: None });
        Self { key, path: path.into(), user: user.map(Into::into), client, advert, state, all_bytes }
    }

    /// Whether its client can resume it.
    pub(crate) fn is_resumable(&self) -> bool {
        self.advert.resume > 0
    }

    /// Queues a message for the client. One that does not read loses its socket, unless its route
    /// drops the oldest messages. Returns how many of these were dropped for it.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn push(&self, message: Bytes) -> Result<u64, Full> {
        let mut state = self.lock();
        let is_over = self.all_bytes.load(Ordering::Relaxed) > MAX_ALL_BYTES && state.outbox.has_waiting();
        let pushed = if is_over { Err(Full) } else { self.counted(&mut state, |outbox| outbox.push(message)) };
        if pushed.is_err() {
            state.ending.get_or_insert(SessionEnding::Slow);
        }
        let dropped = state.outbox.take_dropped();
        wake(state);
        pushed.map(|()| dropped)
    }

    /// Closes the socket once what waits is sent.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        let mut state = self.lock();
        state.ending.get_or_insert_with(|| SessionEnding::ByNode { code, reason: reason.to_owned() });
        wake(state);
    }

    /// The client has all messages up to this number.
    pub(crate) fn acknowledge(&self, number: u64) {
        self.counted(&mut self.lock(), |outbox| outbox.acknowledge(number));
    }

    /// Gives the session to a new socket, whose client has all messages up to `after`. Returns its
    /// number, whether messages are missing, and the number of the last message that the client has
    /// or will not get.
    pub(crate) fn attach(&self, after: u64) -> (u32, bool, u64) {
        let mut state = self.lock();
        state.socket += 1;
        let missed = self.counted(&mut state, |outbox| outbox.resume(after));
        let attached = (state.socket, missed, state.outbox.last_taken());
        wake(state);
        attached
    }

    /// What this socket does next.
    pub(crate) fn poll_next(&self, task: &Context<'_>, socket: u32) -> Poll<NextOfSession> {
        let mut state = self.lock();
        if state.socket != socket {
            return Poll::Ready(NextOfSession::End(SessionEnding::TakenOver));
        }
        if let Some(SessionEnding::Slow) = state.ending {
            return Poll::Ready(NextOfSession::End(SessionEnding::Slow));
        }
        if let Some((number, message)) = self.counted(&mut state, Outbox::take) {
            return Poll::Ready(NextOfSession::Message(number, message));
        }
        if let Some(ending) = state.ending.clone() {
            return Poll::Ready(NextOfSession::End(ending));
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(task.waker())) {
            state.waker = Some(task.waker().clone());
        }
        Poll::Pending
    }

    /// Whether this is the present socket.
    pub(crate) fn is_of(&self, socket: u32) -> bool {
        self.lock().socket == socket
    }

    /// Changes the outbox, and counts the bytes.
    fn counted<T>(&self, state: &mut SessionState, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let before = state.outbox.bytes();
        let changed = change(&mut state.outbox);
        let after = state.outbox.bytes();
        // Both wrap alike, so the sum is right.
        self.all_bytes.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits does not count any more.
impl Drop for HeldSession {
    fn drop(&mut self) {
        let bytes = self.lock().outbox.bytes();
        self.all_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn wake(mut state: MutexGuard<'_, SessionState>) {
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}
