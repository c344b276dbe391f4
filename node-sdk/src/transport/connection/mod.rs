//! A connection to another node: callers write packets into one buffer, and one task owns the
//! socket.
//!
//! It must not decide which call goes to which node, or try a call again: `client` does.

mod backoff;
mod driver;
mod open_stream;
mod received;
mod unexpected;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::task::AtomicWaker;
use net::{LogThrottle, MAX_ESCAPED_BYTES, QueuedSocket, escaped, warn};
use protocol::{LEGACY_READ_BYTES, Unreachable, Version};
use tokio::time::Instant;

use self::backoff::Backoff;
pub(crate) use self::open_stream::OpenStream;
use self::unexpected::UnexpectedFrames;
use crate::balance::{Load, Readiness};
use crate::transport::budget::{Budget, MIN_BYTES, PeerShare};
use crate::transport::in_flight::{CallDeadlines, CallResult, InFlight};
use crate::transport::limits::{InFlightLimits, MAX_FRAME_BYTES};
use crate::transport::target::{Connector, Target};
use crate::transport::write_queue::EnqueueError;

/// Maximum calls and bytes that wait for one node: more than it can answer within a deadline.
const LIMITS: InFlightLimits = InFlightLimits {
    max_calls: 10_000,
    max_queued_bytes: 16 << 20,
    max_packet_bytes: MAX_FRAME_BYTES,
    read_window: LEGACY_READ_BYTES,
};
/// Maximum bytes that a caller writes itself.
const MAX_BYTES_AT_ONCE: usize = 16 * 1024;

/// The connection to another node, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The address that lists give it.
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    pub(crate) target: Target,
    /// The load and health of the node, as balancing sees them.
    pub(crate) load: Load,
    /// Whether a health check has failed.
    is_unhealthy: AtomicBool,
    /// Whether the node has answered something over the live connection, if only its hello.
    has_answered: AtomicBool,
    state: Mutex<ConnectionState>,
    /// Wakes the task that owns the socket when there is something to write, or the connection is
    /// retired.
    task: AtomicWaker,
    connector: Connector,
}

#[derive(Debug)]
struct ConnectionState {
    phase: ConnectionPhase,
    calls: InFlight,
    backoff: Backoff,
    is_retired: bool,
    /// The live connection.
    socket: Option<Arc<QueuedSocket>>,
    /// The remainder of a write that a caller began: it leaves before all other bytes.
    remainder: BytesMut,
    /// Whether the task holds bytes that the system has not taken.
    is_writing: bool,
    /// When the first packet of the connection was queued.
    hello_at: Instant,
    /// The budget for frames that no call waits for.
    unexpected: UnexpectedFrames,
    /// Whether another instance listens there, and has begun no call.
    is_misdirected: bool,
    bad_frames: LogThrottle,
    /// Limits the log about why the connection was closed.
    cut: LogThrottle,
    /// The node has sent too many unexpected frames, and is not called before this.
    cooling_down_until: Option<Instant>,
    /// The share of this node in the bytes that are held for all nodes.
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
    /// The last connection or attempt failed; the next may be made at this time.
    Down(Instant),
}

/// A call that was accepted. Dropping it cancels the call: an unwritten packet is never written,
/// and otherwise the node is told.
#[derive(Debug)]
pub(crate) struct PendingCall {
    connection: Arc<Connection>,
    key: u64,
    is_done: bool,
    /// Whether the call counts as in flight.
    is_counted: bool,
}

impl Connection {
    pub(crate) fn new(target: Target, connector: Connector, budget: &Arc<Budget>) -> Arc<Self> {
        let (address, version) = (target.address, target.version);
        let calls = InFlight::new(version, InFlightLimits { read_window: target.read_window, ..LIMITS });
        let (backoff, hello_at) = (Backoff::new(), Instant::now());
        let state = ConnectionState {
            phase: ConnectionPhase::Idle,
            calls,
            backoff,
            is_retired: false,
            socket: None,
            remainder: BytesMut::new(),
            is_writing: false,
            hello_at,
            unexpected: UnexpectedFrames::new(hello_at.into_std()),
            is_misdirected: false,
            bad_frames: LogThrottle::default(),
            cut: LogThrottle::default(),
            cooling_down_until: None,
            share: PeerShare::new(budget),
        };
        let load = Load::new(Instant::now().into_std());
        let (state, task) = (Mutex::new(state), AtomicWaker::new());
        let (is_unhealthy, has_answered) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { address, version, target, load, is_unhealthy, has_answered, state, task, connector })
    }

    pub(crate) fn readiness(&self, now: Instant) -> Readiness {
        match self.lock().phase {
            ConnectionPhase::Up if !self.is_healthy() || self.load.is_ejected(now.into_std()) => Readiness::Ejected,
            // It has answered nothing yet, so it carries one call, and others are not lost with it.
            ConnectionPhase::Up if self.is_unproven() && self.load.in_flight() > 0 => Readiness::Connecting,
            ConnectionPhase::Up => Readiness::Ready,
            ConnectionPhase::Connecting if !self.is_healthy() => Readiness::Ejected,
            ConnectionPhase::Connecting => Readiness::Connecting,
            ConnectionPhase::Idle => Readiness::Reconnect,
            ConnectionPhase::Down(until) if now >= until => Readiness::Reconnect,
            ConnectionPhase::Down(_) => Readiness::CoolingDown,
        }
    }

    /// Whether the node has answered nothing over this connection. The process that accepted it may
    /// not be the one that answers.
    pub(crate) fn is_unproven(&self) -> bool {
        !self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether there is a connection.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.lock().phase, ConnectionPhase::Up)
    }

    pub(crate) fn is_healthy(&self) -> bool {
        !self.is_unhealthy.load(Ordering::Relaxed)
    }

    /// Returns whether that is a change.
    pub(crate) fn set_health(&self, healthy: bool) -> bool {
        self.is_unhealthy.swap(!healthy, Ordering::Relaxed) == healthy
    }

    /// The id of the instance that listens there; nodes of version 1 do not say.
    pub(crate) fn instance(&self) -> Option<&str> {
        self.target.instance.as_deref()
    }

    /// Begins to connect, unless that is under way or done. `report` is called with `Ok` once there
    /// is a connection, and with the reason if there is none or another instance listens there.
    pub(crate) fn connect(
        self: &Arc<Self>,
        report: impl Fn(SocketAddr, Result<(), Unreachable>) + Send + Sync + 'static,
    ) {
        let mut state = self.lock();
        match state.phase {
            ConnectionPhase::Connecting | ConnectionPhase::Up => return,
            ConnectionPhase::Idle | ConnectionPhase::Down(_) => state.phase = ConnectionPhase::Connecting,
        }
        if self.version == Version::V2 {
            if !self.target.has_to_answer() {
                // The queue is empty, so this packet is the first and always fits.
                let _ = state.calls.send(None, |out| self.target.write_hello(out, &self.connector));
            }
            state.hello_at = Instant::now();
        }
        drop(state);
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            let address = connection.address;
            if let Err(why) = connection.run(|| report(address, Ok(()))).await {
                report(address, Err(why));
            }
        });
    }

    /// Accepts a call whose packet `write` makes for a given key and the time since the first
    /// packet. Begin to connect first: the call is written as soon as there is a connection.
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
            // The connection was lost in between: no response will come.
            calls.fail_all()
        } else {
            Vec::new()
        };
        state.write_at_once(now);
        let lost = state.calls.take_lost();
        drop(state);
        self.record_lost(&lost);
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.load.begin(now.into_std());
        self.task.wake();
        Ok(PendingCall { connection: Arc::clone(self), key, is_done: false, is_counted: true })
    }

    /// Queues a call of this route that has no response. Begin to connect first.
    ///
    /// # Errors
    /// There is no room for it, or the connection was lost in between.
    pub(crate) fn send(&self, route: &Arc<str>, write: impl FnOnce(&mut BytesMut)) -> Result<(), EnqueueError> {
        let mut state = self.lock();
        if let ConnectionPhase::Idle | ConnectionPhase::Down(_) = state.phase {
            return Err(EnqueueError::Full);
        }
        state.calls.send(Some(route), write)?;
        drop(state);
        self.task.wake();
        Ok(())
    }

    /// Calls without a response were lost with the connection.
    fn record_lost(&self, routes: &[Arc<str>]) {
        for route in routes {
            let (name, address) = (&self.target.name, self.address);
            self.connector
                .lost
                .record(route, format_args!("the connection to {name} at {address} ended before it was sent"));
        }
    }

    /// Takes no more calls: the connection closes when those in flight are done.
    pub(crate) fn retire(&self) {
        self.lock().is_retired = true;
        self.task.wake();
    }

    /// The instance id for the log, escaped because it is foreign text.
    fn shown_instance(&self) -> Option<String> {
        self.instance().map(|instance| escaped(instance, MAX_ESCAPED_BYTES).to_string())
    }

    /// Locks the state. Nothing waits while it is locked, and a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    /// Charges the bytes of parts, and the `unfinished` bytes of a packet that was received in
    /// part. Returns how many bytes may be held, if there are many.
    fn charge(&mut self, unfinished: usize) -> Option<usize> {
        let held = self.calls.parts_bytes() + unfinished;
        // Small amounts are not charged to the shared budget.
        (held > MIN_BYTES || self.share.is_charged()).then(|| self.share.charge(held))
    }

    /// Ends the stream with the most bytes of parts, while too much is held. Returns the tasks to
    /// wake.
    ///
    /// # Errors
    /// There is no memory for a packet that was received in part.
    fn make_room(
        &mut self,
        unfinished: usize,
        address: SocketAddr,
        now: std::time::Instant,
    ) -> Result<Vec<std::task::Waker>, &'static str> {
        let mut wakers = Vec::new();
        while let Some(allowed_bytes) =
            self.charge(unfinished).filter(|allowed| self.calls.parts_bytes() + unfinished > *allowed)
        {
            self.share.count_refusal();
            let crowded = self.calls.discard_parts();
            let what = if crowded.is_some() { "the parts of a stream" } else { "a response" };
            if let Some(suppressed) = self.cut.allow(now) {
                warn!(
                    node = %address, allowed_bytes, suppressed,
                    "cut: no room for {what} of this node (the budget is that of all nodes)"
                );
            }
            match crowded {
                Some(waker) => wakers.extend(waker),
                None => return Err("no room for a response"),
            }
        }
        Ok(wakers)
    }

    /// Fills the task's next write; `false` when there is nothing to write.
    fn fill_write_buffer(&mut self, now: Instant, into: &mut BytesMut) -> bool {
        std::mem::swap(&mut self.remainder, into);
        self.is_writing = !into.is_empty() || self.calls.fill_write_buffer(now.into_std(), into);
        self.is_writing
    }

    /// Writes a single call at once, before the task runs, so that the node begins it while other
    /// calls are made. The lock is hardly contended then, and most of a large packet is left to the
    /// task.
    fn write_at_once(&mut self, now: Instant) {
        let is_alone = self.calls.is_quiet() && self.remainder.is_empty() && !self.is_writing;
        let Some(socket) = self.socket.as_ref().filter(|_| is_alone) else { return };
        if self.calls.fill_write_buffer(now.into_std(), &mut self.remainder) {
            // The task will notice if the connection is broken.
            let small = &self.remainder[..self.remainder.len().min(MAX_BYTES_AT_ONCE)];
            let taken = socket.try_write(small).unwrap_or(0);
            self.calls.record_write(taken);
            self.remainder.advance(taken);
        }
    }
}

impl PendingCall {
    /// The result of the call, once.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<CallResult> {
        let outcome = self.connection.lock().calls.poll(self.key, context);
        if outcome.is_ready() {
            self.is_done = true;
            self.stop_counting();
        }
        outcome
    }

    /// Does not count the call as in flight: it only checks the node.
    pub(crate) fn uncounted(mut self) -> Self {
        self.stop_counting();
        self
    }

    fn stop_counting(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.connection.load.end();
        }
    }

    /// The node that was called.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The stream that the call has become, if its result says so.
    pub(crate) fn into_stream(self) -> OpenStream {
        OpenStream::new(&self.connection, self.key)
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if !self.is_done {
            self.connection.lock().calls.cancel(self.key);
            self.stop_counting();
            // The node may have to be told, and a retired connection closes after its last call.
            self.connection.task.wake();
        }
    }
}

#[cfg(test)]
mod tests;
