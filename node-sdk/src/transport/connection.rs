//! A connection to another node: callers write packets into one buffer, one task owns the socket.

mod driver;
mod open_stream;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use net::{LogThrottle, MAX_ESCAPED_BYTES, Network, Socket, escaped, warn};
use protocol::Version;
use tokio::time::Instant;

pub(crate) use self::open_stream::OpenStream;
use crate::balance::{Load, Readiness};
use crate::transport::backoff::Backoff;
use crate::transport::budget::{Budget, LEAST_BYTES, PeerShare};
use crate::transport::in_flight::{CallDeadlines, CallResult, InFlight};
use crate::transport::limits::{InFlightLimits, MAX_FRAME_BYTES};
use crate::transport::unexpected::UnexpectedFrames;
use crate::transport::write_queue::EnqueueError;

/// Calls and bytes that may wait for one node: what it could answer within a deadline at the best of times.
const LIMITS: InFlightLimits =
    InFlightLimits { max_calls: 10_000, max_queued_bytes: 16 << 20, max_packet_bytes: MAX_FRAME_BYTES };
/// Bytes that a caller writes itself.
const MAX_BYTES_AT_ONCE: usize = 16 * 1024;

/// The one connection to another node, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    /// Which process it is; nodes of version 1 do not say.
    pub(crate) instance: Option<String>,
    /// How close it is to this node, for whoever has to choose some of many.
    pub(crate) rendezvous_score: u64,
    /// How much it has to do, and how it does.
    pub(crate) load: Load,
    /// Somebody who looks after it says that it should be passed over.
    unhealthy: AtomicBool,
    state: Mutex<ConnectionState>,
    /// The task that owns the socket: there is something to write, or the link is retired.
    task: AtomicWaker,
    /// What a node of version 2 is told first: who we are.
    hello: Bytes,
    network: Network,
}

#[derive(Debug)]
struct ConnectionState {
    phase: ConnectionPhase,
    calls: InFlight,
    backoff: Backoff,
    retired: bool,
    /// The live connection.
    socket: Option<Arc<Socket>>,
    /// Bytes that a caller began to write, and the system has not taken: they leave before all others.
    remainder: BytesMut,
    /// The task holds bytes that the system has not taken.
    is_writing: bool,
    /// When the connection that is there, or comes, was told who we are.
    hello_at: Instant,
    /// What the node sends that nobody waits for.
    unexpected: UnexpectedFrames,
    bad_frames: LogThrottle,
    /// Lines about what the node is cut for.
    cut: LogThrottle,
    /// Since it was too much, the node is not called before this.
    cooling_down_until: Option<Instant>,
    /// Of what all nodes that are called may have here.
    share: PeerShare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionPhase {
    /// Never connected.
    Idle,
    /// A task is connecting.
    Connecting,
    /// A task owns a live connection.
    Up,
    /// The last connection, or try, failed; due again at this time.
    Down(Instant),
}

/// A call that was taken. Dropping it takes the call back: what is not written never will be, and of what is, the node is told.
#[derive(Debug)]
pub(crate) struct PendingCall {
    connection: Arc<Connection>,
    key: u64,
    done: bool,
    /// It is a part of what the node has to do.
    is_counted: bool,
}

impl Connection {
    pub(crate) fn new(
        address: SocketAddr,
        version: Version,
        instance: Option<String>,
        rendezvous_score: u64,
        hello: Bytes,
        network: Network,
        budget: &Arc<Budget>,
    ) -> Arc<Self> {
        let calls = InFlight::new(version, LIMITS);
        let (backoff, hello_at) = (Backoff::new(), Instant::now());
        let state = ConnectionState {
            phase: ConnectionPhase::Idle,
            calls,
            backoff,
            retired: false,
            socket: None,
            remainder: BytesMut::new(),
            is_writing: false,
            hello_at,
            unexpected: UnexpectedFrames::new(hello_at.into_std()),
            bad_frames: LogThrottle::default(),
            cut: LogThrottle::default(),
            cooling_down_until: None,
            share: PeerShare::new(budget),
        };
        let load = Load::new(Instant::now().into_std());
        let (state, task) = (Mutex::new(state), AtomicWaker::new());
        let unhealthy = AtomicBool::new(false);
        Arc::new(Self { address, version, instance, rendezvous_score, load, unhealthy, state, task, hello, network })
    }

    pub(crate) fn readiness(&self, now: Instant) -> Readiness {
        match self.lock().phase {
            ConnectionPhase::Up if !self.is_healthy() || self.load.is_ejected(now.into_std()) => Readiness::Ejected,
            ConnectionPhase::Up => Readiness::Ready,
            ConnectionPhase::Connecting if !self.is_healthy() => Readiness::Ejected,
            ConnectionPhase::Connecting => Readiness::Connecting,
            ConnectionPhase::Idle => Readiness::Reconnect,
            ConnectionPhase::Down(until) if now >= until => Readiness::Reconnect,
            ConnectionPhase::Down(_) => Readiness::CoolingDown,
        }
    }

    pub(crate) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// Whether that is a change.
    pub(crate) fn set_health(&self, healthy: bool) -> bool {
        self.unhealthy.swap(!healthy, Ordering::Relaxed) == healthy
    }

    /// Begins to connect unless that is under way or done. `unreachable` is told when it fails.
    pub(crate) fn connect(self: &Arc<Self>, unreachable: impl FnOnce(SocketAddr) + Send + 'static) {
        let mut state = self.lock();
        match state.phase {
            ConnectionPhase::Connecting | ConnectionPhase::Up => return,
            ConnectionPhase::Idle | ConnectionPhase::Down(_) => state.phase = ConnectionPhase::Connecting,
        }
        if self.version == Version::V2 {
            // Nothing waits yet, so this is first, and never too much.
            let _ = state.calls.send(|out| out.extend_from_slice(&self.hello));
            state.hello_at = Instant::now();
        }
        drop(state);
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            let reached = connection.run().await;
            if !reached {
                unreachable(connection.address);
            }
        });
    }

    /// Takes a call whose packet `write` makes for a given key; it is told how long ago the node was told who we are. Connect first: it is written as soon as there is a connection.
    pub(crate) fn submit(
        self: &Arc<Self>,
        now: Instant,
        deadlines: CallDeadlines,
        write: impl FnOnce(u64, Duration, &mut BytesMut),
    ) -> Result<PendingCall, EnqueueError> {
        let mut state = self.lock();
        let ConnectionState { calls, phase, hello_at, .. } = &mut *state;
        let sent = now.saturating_duration_since(*hello_at);
        let key = calls.admit(now.into_std(), deadlines, |key, out| write(key, sent, out))?;
        let wakers = if let ConnectionPhase::Idle | ConnectionPhase::Down(_) = phase {
            // It was lost between connecting and calling: nothing will come.
            calls.fail_all()
        } else {
            Vec::new()
        };
        state.write_at_once(now);
        drop(state);
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.load.begin(now.into_std());
        self.task.wake();
        Ok(PendingCall { connection: Arc::clone(self), key, done: false, is_counted: true })
    }

    /// Takes a packet that nobody waits for an answer to.
    pub(crate) fn send(&self, write: impl FnOnce(&mut BytesMut)) -> Result<(), EnqueueError> {
        self.lock().calls.send(write)?;
        self.task.wake();
        Ok(())
    }

    /// No calls come any more: the connection closes when those in flight are done.
    pub(crate) fn retire(&self) {
        self.lock().retired = true;
        self.task.wake();
    }

    /// For the log; it is foreign text.
    fn shown_instance(&self) -> Option<String> {
        self.instance.as_deref().map(|instance| escaped(instance, MAX_ESCAPED_BYTES).to_string())
    }

    /// Nothing waits inside, and a panic elsewhere leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    /// Parts have come or gone, and so much of a packet has come. Gives how much there may be of both, if there is much.
    fn charge(&mut self, begun: usize) -> Option<usize> {
        let held = self.calls.parts_bytes() + begun;
        // What is little is nobody else's business.
        (held > LEAST_BYTES || self.share.is_charged()).then(|| self.share.charge(held))
    }

    /// Ends the streams that have the most parts while there is too much. Gives whom to wake.
    ///
    /// # Errors
    /// There is no room for a packet that has begun to come.
    fn make_room(
        &mut self,
        begun: usize,
        address: SocketAddr,
        now: std::time::Instant,
    ) -> Result<Vec<std::task::Waker>, &'static str> {
        let mut wakers = Vec::new();
        while let Some(may_have) = self.charge(begun).filter(|may_have| self.calls.parts_bytes() + begun > *may_have) {
            self.share.count_refusal();
            let crowded = self.calls.crowd_out();
            let what = if crowded.is_some() { "the parts of a stream" } else { "an answer" };
            if let Some(held_back) = self.cut.allow(now) {
                warn!(node = %address, may_have, held_back, "no room for {what}");
            }
            match crowded {
                Some(waker) => wakers.extend(waker),
                None => return Err("no room for an answer"),
            }
        }
        Ok(wakers)
    }

    /// The bytes of the task's next write; `false` when there are none.
    fn fill_write_buffer(&mut self, now: Instant, into: &mut BytesMut) -> bool {
        std::mem::swap(&mut self.remainder, into);
        self.is_writing = !into.is_empty() || self.calls.fill_write_buffer(now.into_std(), into);
        self.is_writing
    }

    /// A call that is alone does not wait for the task's turn: the node begins with it while others are made. Hardly anybody else wants
    /// the lock meanwhile, and of what is large most is left to the task.
    fn write_at_once(&mut self, now: Instant) {
        let is_alone = self.calls.is_quiet() && self.remainder.is_empty() && !self.is_writing;
        let Some(socket) = self.socket.as_ref().filter(|_| is_alone) else { return };
        if self.calls.fill_write_buffer(now.into_std(), &mut self.remainder) {
            // That it is broken, the task finds out.
            let small = &self.remainder[..self.remainder.len().min(MAX_BYTES_AT_ONCE)];
            let taken = socket.try_write(small).unwrap_or(0);
            self.calls.wrote(taken);
            self.remainder.advance(taken);
        }
    }
}

impl PendingCall {
    /// The outcome of the call, once.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<CallResult> {
        let outcome = self.connection.lock().calls.poll(self.key, context);
        if outcome.is_ready() {
            self.done = true;
            self.stop_counting();
        }
        outcome
    }

    /// It finds out how the node does, and says nothing of how much that has to do.
    pub(crate) fn uncounted(mut self) -> Self {
        self.stop_counting();
        self
    }

    fn stop_counting(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.connection.load.end();
        }
    }

    /// Who was called.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The stream that the call has become, once its outcome says so.
    pub(crate) fn into_stream(self) -> OpenStream {
        OpenStream::new(&self.connection, self.key)
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if !self.done {
            self.connection.lock().calls.cancel(self.key);
            self.stop_counting();
            // There may be something to tell; and a retired link closes with its last call.
            self.connection.task.wake();
        }
    }
}

#[cfg(test)]
mod tests;
