//! The task that owns a connection's socket: it connects, writes what callers queue, and hands them
//! their responses.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use net::{FrameReader, QueuedSocket, Socket, TimeSlice, debug, warn};
use protocol::{Unreachable, Version};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Connection, ConnectionPhase};
use crate::transport::limits::MAX_FRAME_BYTES;

/// A node in the same network answers a connect in well under this time, unless it is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an address at which another instance listens is not tried again: by then the
/// Distributor has told of the change, if there was one.
pub(super) const WRONG_INSTANCE_PAUSE: Duration = Duration::from_secs(3);

/// How long a node may read none of the bytes written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Rounds of reading and writing before other tasks run; fewer if they take longer than a
/// [`TimeSlice`].
const ROUNDS_PER_YIELD: u32 = 8;

/// A live connection.
pub(super) struct Driver {
    pub(super) stream: Arc<QueuedSocket>,
    pub(super) reader: FrameReader,
    /// Bytes that the system has not taken yet.
    unsent: BytesMut,
    pub(super) stalled_since: Option<Instant>,
    /// The responses of one read; kept for its capacity.
    pub(super) responses: Vec<Bytes>,
    /// Whether the reader may hold more frames.
    pub(super) more: bool,
    /// Since when the task has always had something to do, and has not yielded.
    working_since: Option<Instant>,
}

/// Why serving the connection pauses or ends.
enum DriverPause {
    /// Tasks that are about to be woken may add calls to the next write.
    Yield,
    End(&'static str),
}

impl Connection {
    /// Connects and serves the connection until it ends. `is_up` is called once the connection is
    /// established.
    ///
    /// # Errors
    /// There was no connection to the node.
    pub(super) async fn run(&self, is_up: impl Fn()) -> Result<(), Unreachable> {
        // Fails all calls even when this task is dropped with its runtime.
        let down = FailOnDrop(self);
        let mut timer = pin!(sleep_until(Instant::now() + CONNECT_TIMEOUT));
        let connecting = pin!(self.connector.connect(&self.target));
        let connected = self.wait_connected(connecting, timer.as_mut()).await.unwrap_or(Err(Unreachable::Timeout));
        let stream = match connected {
            // Nodes of version 1 read each packet at once.
            Ok(socket) if self.version == Version::V1 => Arc::new(QueuedSocket::direct(socket)),
            Ok(socket) => Arc::new(QueuedSocket::new(socket)),
            Err(why) => {
                debug!(node = %self.address, why = why.as_str(), "cannot connect");
                if why == Unreachable::WrongInstance {
                    self.lock().cooling_down_until = Some(Instant::now() + WRONG_INSTANCE_PAUSE);
                }
                return Err(why);
            }
        };
        // A target that has to answer has done so: `connect` waited for its hello.
        self.has_answered.store(self.target.has_to_answer(), Ordering::Relaxed);
        {
            let mut state = self.lock();
            state.phase = ConnectionPhase::Up;
            state.socket = Some(Arc::clone(&stream));
            state.backoff.succeeded();
        }
        self.load.record_connect(Instant::now().into_std());
        is_up();
        let mut reader = FrameReader::new(MAX_FRAME_BYTES);
        reader.join_pieces(self.version == Version::V1);
        if self.version == Version::V2 {
            reader.take_attachments();
        }
        let mut socket = Driver {
            stream,
            reader,
            unsent: BytesMut::new(),
            stalled_since: None,
            responses: Vec::new(),
            more: false,
            working_since: None,
        };
        let reason = loop {
            match poll_fn(|context| self.poll_serve(context, &mut socket, timer.as_mut())).await {
                DriverPause::Yield => yield_now().await,
                DriverPause::End(reason) => break reason,
            }
        };
        debug!(node = %self.address, reason, "connection to node ended");
        let is_misdirected = self.lock().is_misdirected;
        drop(down);
        if is_misdirected { Err(Unreachable::WrongInstance) } else { Ok(()) }
    }

    /// Waits for the connection, and meanwhile ends calls whose deadline is over. `None` when it
    /// took too long.
    async fn wait_connected(
        &self,
        mut connecting: Pin<&mut impl Future<Output = Result<Socket, Unreachable>>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Option<Result<Socket, Unreachable>> {
        let give_up = timer.deadline();
        poll_fn(|context| {
            self.task.register(context.waker());
            if let Poll::Ready(connected) = connecting.as_mut().poll(context) {
                return Poll::Ready(Some(connected));
            }
            loop {
                let now = Instant::now();
                if now >= give_up {
                    return Poll::Ready(None);
                }
                let due = self.expire_calls(now).0.map_or(give_up, |due| due.min(give_up));
                if self.sleep_until(context, timer.as_mut(), due).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Writes what callers queue and hands them their responses, until there is a reason to stop.
    fn poll_serve(
        &self,
        context: &mut Context<'_>,
        socket: &mut Driver,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<DriverPause> {
        self.task.register(context.waker());
        if socket.unsent.is_empty() && self.lock().calls.yields_for_others() {
            return Poll::Ready(DriverPause::Yield);
        }
        for _ in 0..ROUNDS_PER_YIELD {
            let now = Instant::now();
            if now - *socket.working_since.get_or_insert(now) >= TimeSlice::LENGTH {
                // Unlike a task that only wakes itself, one that yields lets the runtime read the
                // events of the system first.
                socket.working_since = None;
                return Poll::Ready(DriverPause::Yield);
            }
            let writing = match self.write(context, socket, now) {
                Ok(writing) => writing,
                Err(reason) => return Poll::Ready(DriverPause::End(reason)),
            };
            let readable = socket.more || socket.stream.poll_read_ready(context).is_ready();
            if readable && let Err(reason) = self.read(socket) {
                return Poll::Ready(DriverPause::End(reason));
            }
            if socket.more {
                // Callers that have their responses may call again meanwhile, and the node begins
                // these calls.
                break;
            }
            if writing || readable {
                continue;
            }
            let stalls = socket.stalled_since.map(|since| since + WRITE_TIMEOUT);
            if stalls.is_some_and(|at| at <= now) {
                warn!(node = %self.address, "connection closed: the node has not read anything for {WRITE_TIMEOUT:?}");
                return Poll::Ready(DriverPause::End("stalled"));
            }
            let (due, expired) = self.expire_calls(now);
            if expired {
                // The node has to be told.
                continue;
            }
            match due.into_iter().chain(stalls).min() {
                Some(due) if self.sleep_until(context, timer.as_mut(), due).is_ready() => {}
                _ => {
                    socket.working_since = None;
                    return Poll::Pending;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends calls whose deadline is over. Returns the next deadline, and whether any call has
    /// ended.
    fn expire_calls(&self, now: Instant) -> (Option<Instant>, bool) {
        let mut state = self.lock();
        let due = state.calls.next_due().map(Instant::from_std);
        if due.is_none_or(|due| due > now) {
            return (due, false);
        }
        let wakers = state.calls.expire(now.into_std());
        let due = state.calls.next_due().map(Instant::from_std);
        drop(state);
        let expired = !wakers.is_empty();
        wakers.into_iter().for_each(std::task::Waker::wake);
        (due, expired)
    }

    /// The earliest deadline rarely changes, so the timer is moved only when it has to fire
    /// earlier.
    fn sleep_until(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>, due: Instant) -> Poll<()> {
        if timer.is_elapsed() || timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        timer.poll(context)
    }

    /// Writes waiting bytes. Returns whether anything was written.
    fn write(&self, context: &mut Context<'_>, socket: &mut Driver, now: Instant) -> Result<bool, &'static str> {
        let mut progress = false;
        let mut state = self.lock();
        loop {
            if socket.unsent.is_empty() && !state.fill_write_buffer(now, &mut socket.unsent) {
                if state.is_retired && state.calls.len() == 0 {
                    // From now on a call fails as not written.
                    state.socket = None;
                    return Err("retired");
                }
                let stands = state.calls.waits_for_responses();
                socket.stalled_since = stands.then(|| socket.stalled_since.unwrap_or(now));
                return Ok(progress);
            }
            drop(state);
            match socket.stream.try_write(&socket.unsent) {
                Ok(bytes) => {
                    socket.unsent.advance(bytes);
                    socket.stalled_since = None;
                    progress = true;
                    state = self.lock();
                    state.calls.record_write(bytes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if socket.stream.poll_write_ready(context).is_pending() {
                        socket.stalled_since.get_or_insert(now);
                        return Ok(progress);
                    }
                    state = self.lock();
                }
                Err(_broken) => return Err("broken"),
            }
        }
    }
}

/// Fails all calls when the connection ends, for whatever reason.
struct FailOnDrop<'a>(&'a Connection);

impl Drop for FailOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let wait = state.backoff.record_failure(fastrand::f64());
        let until = Instant::now() + wait;
        state.phase = ConnectionPhase::Down(state.cooling_down_until.take().map_or(until, |rest| rest.max(until)));
        state.socket = None;
        state.remainder.clear();
        state.is_writing = false;
        // Another instance begins no call: each can be made elsewhere.
        let wakers = if std::mem::take(&mut state.is_misdirected) {
            state.calls.fail_all_unbegun()
        } else {
            state.calls.fail_all()
        };
        state.charge(0);
        let lost = state.calls.take_lost();
        drop(state);
        self.0.record_lost(&lost);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}
