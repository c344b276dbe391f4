//! A connection to another node: callers write packets into one buffer, one task owns the socket.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use daemon::{FrameReader, Network, SHOWN_BYTES, Socket, Throttle, TimeSlice, debug, shown, tune, warn};
use futures::task::AtomicWaker;
use protocol::{Packet, Part, Side, Version, parse_part, read_credit, success_parts};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) use self::open_stream::OpenStream;
use crate::balance::{Load, Readiness};
use crate::transport::backoff::Backoff;
use crate::transport::budget::{Budget, LEAST_BYTES, PeerShare};
use crate::transport::in_flight::{CallDeadlines, CallResult, EnqueueError, InFlight, InFlightLimits};
use crate::transport::unexpected::{UnexpectedFrames, cost_of};

/// Most bytes of one packet, either way.
pub(crate) const MAX_FRAME_BYTES: usize = 8 << 20;
/// Calls and bytes that may wait for one node: what it could answer within a deadline at the best of times.
const LIMITS: InFlightLimits =
    InFlightLimits { max_calls: 10_000, max_queued_bytes: 16 << 20, max_packet_bytes: MAX_FRAME_BYTES };
/// A node in the same network answers a connect in well under this, unless it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node may take nothing of what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers given to those who wait before these have their turn: client and server then work at the same time.
const RESPONSES_PER_YIELD: usize = 32;
/// Bytes that a caller writes itself.
const MAX_BYTES_AT_ONCE: usize = 16 * 1024;
/// Reads and writes of one connection before other tasks have their turn; fewer if they take longer than a [`TimeSlice`].
const ROUNDS_PER_YIELD: u32 = 8;

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
    bad_frames: Throttle,
    /// Lines about what the node is cut for.
    cut: Throttle,
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
            bad_frames: Throttle::default(),
            cut: Throttle::default(),
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
        self.instance.as_deref().map(|instance| shown(instance, SHOWN_BYTES).to_string())
    }

    /// Nothing waits inside, and a panic elsewhere leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects and serves the connection until it ends. Returns whether there was one.
    async fn run(&self) -> bool {
        // Leaves the link in order even when this task is dropped with its runtime.
        let down = FailOnDrop(self);
        let mut timer = pin!(sleep_until(Instant::now() + CONNECT_TIMEOUT));
        let connecting = pin!(self.network.connect_to(self.address));
        let stream = match self.run_connected(connecting, timer.as_mut()).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                debug!(node = %self.address, %error, "cannot connect");
                return false;
            }
            None => {
                debug!(node = %self.address, "no answer to a connect within {CONNECT_TIMEOUT:?}");
                return false;
            }
        };
        tune(&stream);
        let stream = Arc::new(stream);
        {
            let mut state = self.lock();
            state.phase = ConnectionPhase::Up;
            state.socket = Some(Arc::clone(&stream));
            state.backoff.succeeded();
        }
        self.load.connected(Instant::now().into_std());
        let mut socket = Driver {
            stream,
            reader: FrameReader::new(MAX_FRAME_BYTES),
            unsent: BytesMut::new(),
            stalled_since: None,
            responses: Vec::new(),
            more: false,
        };
        let reason = loop {
            match poll_fn(|context| self.poll_serve(context, &mut socket, timer.as_mut())).await {
                DriverPause::Yield => yield_now().await,
                DriverPause::End(reason) => break reason,
            }
        };
        debug!(node = %self.address, reason, "connection to node ended");
        drop(down);
        true
    }

    /// Waits for a connection; calls whose time is over by then do not. `None` when it took too long.
    async fn run_connected(
        &self,
        mut connecting: Pin<&mut impl Future<Output = std::io::Result<Socket>>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Option<std::io::Result<Socket>> {
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
                let due = self.pass_time(now).0.map_or(give_up, |due| due.min(give_up));
                if self.sleep_until(context, timer.as_mut(), due).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Writes what callers hand in and gives them their answers, until there is a reason to stop.
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
        let mut begin = None;
        for _ in 0..ROUNDS_PER_YIELD {
            let now = Instant::now();
            if now - *begin.get_or_insert(now) >= TimeSlice::LENGTH {
                break;
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
                // Those who have their answers may call again meanwhile, and the node begins with that.
                break;
            }
            if writing || readable {
                continue;
            }
            let stalls = socket.stalled_since.map(|since| since + WRITE_TIMEOUT);
            if stalls.is_some_and(|at| at <= now) {
                warn!(node = %self.address, "connection closed: the node has taken nothing for {WRITE_TIMEOUT:?}");
                return Poll::Ready(DriverPause::End("stalled"));
            }
            let (due, expired) = self.pass_time(now);
            if expired {
                // The node is to be told.
                continue;
            }
            match due.into_iter().chain(stalls).min() {
                Some(due) if self.sleep_until(context, timer.as_mut(), due).is_ready() => {}
                _ => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends calls whose time is over. Tells when there is more to do, and whether there were any.
    fn pass_time(&self, now: Instant) -> (Option<Instant>, bool) {
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

    /// Calls come and end all the time, and the earliest deadline hardly ever changes: the timer is only moved forward when it
    /// has to be.
    fn sleep_until(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>, due: Instant) -> Poll<()> {
        if timer.is_elapsed() || timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        timer.poll(context)
    }

    /// Writes what waits. Returns whether anything was taken.
    fn write(&self, context: &mut Context<'_>, socket: &mut Driver, now: Instant) -> Result<bool, &'static str> {
        let mut progress = false;
        let mut state = self.lock();
        loop {
            if socket.unsent.is_empty() && !state.fill_write_buffer(now, &mut socket.unsent) {
                if state.retired && state.calls.len() == 0 {
                    // Who calls from now on is told that it was not written.
                    state.socket = None;
                    return Err("retired");
                }
                let stands = state.calls.is_held_back();
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
                    state.calls.wrote(bytes);
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

    /// Reads once, and gives each answer to whoever waits for it.
    fn read(&self, socket: &mut Driver) -> Result<(), &'static str> {
        if !socket.more {
            match socket.reader.fill(&socket.stream) {
                Ok(true) => {}
                Ok(false) => return Err("closed by the node"),
                Err(_broken) => return Err("broken"),
            }
        }
        socket.more = false;
        loop {
            match socket.reader.next_frame() {
                Ok(Some(frame)) if socket.responses.len() + 1 == RESPONSES_PER_YIELD => {
                    socket.responses.push(frame);
                    socket.more = true;
                    break;
                }
                Ok(Some(frame)) => socket.responses.push(frame),
                Ok(None) => break,
                Err(too_large) => {
                    warn!(node = %self.address, "connection closed: an answer: {too_large}");
                    return Err("answer too large");
                }
            }
        }
        let now = Instant::now().into_std();
        let mut state = self.lock();
        // Answers that nobody waits for (too late, doubled, invented) change nothing.
        let (mut useful, mut unexpected) = (0, 0);
        for frame in socket.responses.drain(..) {
            let (key, kind) = match success_parts(&frame) {
                Some((key, _)) => (Some(key), FrameKind::Response),
                None if protocol::is_blank(&frame) => {
                    unexpected += cost_of(frame.len());
                    continue;
                }
                None => read_head(&frame, &state.calls),
            };
            let bytes = frame.len();
            let answered = match (key, kind) {
                (Some(key), FrameKind::Response) => state.calls.handle_response(now, key, frame),
                (Some(key), FrameKind::Part(part)) => state.calls.handle_part(now, key, part, frame),
                (Some(key), FrameKind::Credit(bytes)) => {
                    state.calls.grant(key, bytes).map(|waker| (None, waker)).map_err(|()| frame)
                }
                (None, _) => Err(frame),
            };
            match answered {
                Ok((took, waker)) => {
                    useful += 1;
                    if let Some(took) = took {
                        self.load.record_response(now, took);
                    }
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    socket.stalled_since = None;
                }
                Err(frame) => {
                    let is_late = match (key, kind) {
                        (Some(key), FrameKind::Part(part)) if !part.is_end => state.calls.accept_late_part(key, bytes),
                        (Some(key), FrameKind::Credit(_)) => state.calls.accept_late_part(key, bytes),
                        (Some(_), _) => state.calls.accept_late_response(key),
                        (None, _) => is_null(&frame) && state.calls.accept_late_response(None),
                    };
                    if is_late {
                        // Late, but it answers.
                        self.load.reset();
                    } else {
                        unexpected += cost_of(bytes);
                    }
                    if let Some(held_back) = state.bad_frames.pass(now) {
                        debug!(node = %self.address, key, held_back, "an answer that nobody waits for");
                    }
                }
            }
        }
        let begun = socket.reader.pending().len();
        state.make_room(begun, self.address, now)?.into_iter().for_each(std::task::Waker::wake);
        if unexpected > 0 && !state.unexpected.try_spend(now, unexpected, useful) {
            let cool_down = state.unexpected.close(now);
            state.cooling_down_until = Some(Instant::from_std(now + cool_down));
            let shows = state.cut.pass(now);
            drop(state);
            if let Some(held_back) = shows {
                warn!(
                    node = %self.address, instance = ?self.shown_instance(), rest_s = cool_down.as_secs(), held_back,
                    "connection closed: the node goes on sending what nobody waits for"
                );
            }
            return Err("it sends what nobody waits for");
        }
        Ok(())
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
            if let Some(held_back) = self.cut.pass(now) {
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

/// What a packet from another node is.
#[derive(Clone, Copy)]
enum FrameKind {
    Response,
    Part(Part),
    Credit(u32),
}

/// The key and meaning of what is not a usual answer in our own spelling.
fn read_head(frame: &[u8], calls: &InFlight) -> (Option<u64>, FrameKind) {
    if let Some((key, part, _)) = parse_part(frame, Side::Callee) {
        return (Some(key), FrameKind::Part(part));
    }
    match Packet::parse(frame) {
        Ok(packet) => {
            let part = Part::from_packet(&packet).map(FrameKind::Part);
            let kind = part.or_else(|| read_credit(&packet).map(FrameKind::Credit)).unwrap_or(FrameKind::Response);
            (packet.key.as_ref().and_then(protocol::Key::number), kind)
        }
        // How an old service answers a method that it does not know.
        Err(_) if is_null(frame) => (calls.only_unanswered(), FrameKind::Response),
        Err(_) => (None, FrameKind::Response),
    }
}

fn is_null(frame: &[u8]) -> bool {
    frame.trim_ascii() == b"null"
}

/// A live connection.
struct Driver {
    stream: Arc<Socket>,
    reader: FrameReader,
    /// What the system has not taken yet.
    unsent: BytesMut,
    stalled_since: Option<Instant>,
    /// Of one turn; kept for its room.
    responses: Vec<Bytes>,
    /// What was read may hold more.
    more: bool,
}

/// Why the connection is not served for a moment, or no longer.
enum DriverPause {
    /// Others who are about to be woken may have calls for the next write.
    Yield,
    End(&'static str),
}

/// Fails all calls of a link when its connection ends, however it ends.
struct FailOnDrop<'a>(&'a Connection);

impl Drop for FailOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let wait = state.backoff.failed(fastrand::f64());
        let until = Instant::now() + wait;
        state.phase = ConnectionPhase::Down(state.cooling_down_until.take().map_or(until, |rest| rest.max(until)));
        state.socket = None;
        state.remainder.clear();
        state.is_writing = false;
        let wakers = state.calls.fail_all();
        state.charge(0);
        drop(state);
        wakers.into_iter().for_each(std::task::Waker::wake);
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

mod open_stream;
#[cfg(test)]
mod tests;
