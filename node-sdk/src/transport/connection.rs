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
const ANSWERS_PER_TURN: usize = 32;
/// Bytes that a caller writes itself.
const MAX_BYTES_AT_ONCE: usize = 16 * 1024;
/// Reads and writes of one connection before other tasks have their turn; fewer if they take longer than a [`TimeSlice`].
const TURNS: u32 = 8;

/// The one connection to another node, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    /// Which process it is; nodes of version 1 do not say.
    pub(crate) instance: Option<String>,
    /// How close it is to this node, for whoever has to choose some of many.
    pub(crate) closeness: u64,
    /// How much it has to do, and how it does.
    pub(crate) load: Load,
    /// Somebody who looks after it says that it should be passed over.
    unhealthy: AtomicBool,
    shared: Mutex<ConnectionState>,
    /// The task that owns the socket: there is something to write, or the link is retired.
    task: AtomicWaker,
    /// What a node of version 2 is told first: who we are.
    hello: Bytes,
    network: Network,
}

#[derive(Debug)]
struct ConnectionState {
    state: ConnectionPhase,
    calls: InFlight,
    backoff: Backoff,
    retired: bool,
    /// The live connection.
    socket: Option<Arc<Socket>>,
    /// Bytes that a caller began to write, and the system has not taken: they leave before all others.
    rest: BytesMut,
    /// The task holds bytes that the system has not taken.
    is_writing: bool,
    /// When the connection that is there, or comes, was told who we are.
    hello_at: Instant,
    /// What the node sends that nobody waits for.
    strays: UnexpectedFrames,
    strange: Throttle,
    /// Lines about what the node is cut for.
    cut: Throttle,
    /// Since it was too much, the node is not called before this.
    rests_until: Option<Instant>,
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
    link: Arc<Connection>,
    key: u64,
    done: bool,
    /// It is a part of what the node has to do.
    counts: bool,
}

impl Connection {
    pub(crate) fn new(
        address: SocketAddr,
        version: Version,
        instance: Option<String>,
        closeness: u64,
        hello: Bytes,
        network: Network,
        budget: &Arc<Budget>,
    ) -> Arc<Self> {
        let calls = InFlight::new(version, LIMITS);
        let (backoff, hello_at) = (Backoff::new(), Instant::now());
        let shared = ConnectionState {
            state: ConnectionPhase::Idle,
            calls,
            backoff,
            retired: false,
            socket: None,
            rest: BytesMut::new(),
            is_writing: false,
            hello_at,
            strays: UnexpectedFrames::new(hello_at.into_std()),
            strange: Throttle::default(),
            cut: Throttle::default(),
            rests_until: None,
            share: PeerShare::of(budget),
        };
        let load = Load::new(Instant::now().into_std());
        let (shared, task) = (Mutex::new(shared), AtomicWaker::new());
        let unhealthy = AtomicBool::new(false);
        Arc::new(Self { address, version, instance, closeness, load, unhealthy, shared, task, hello, network })
    }

    pub(crate) fn readiness(&self, now: Instant) -> Readiness {
        match self.lock().state {
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
        let mut shared = self.lock();
        match shared.state {
            ConnectionPhase::Connecting | ConnectionPhase::Up => return,
            ConnectionPhase::Idle | ConnectionPhase::Down(_) => shared.state = ConnectionPhase::Connecting,
        }
        if self.version == Version::V2 {
            // Nothing waits yet, so this is first, and never too much.
            let _ = shared.calls.send(|out| out.extend_from_slice(&self.hello));
            shared.hello_at = Instant::now();
        }
        drop(shared);
        let link = Arc::clone(self);
        tokio::spawn(async move {
            let reached = link.run().await;
            if !reached {
                unreachable(link.address);
            }
        });
    }

    /// Takes a call whose packet `write` makes for a given key; it is told how long ago the node was told who we are. Connect first: it is written as soon as there is a connection.
    pub(crate) fn call(
        self: &Arc<Self>,
        now: Instant,
        deadlines: CallDeadlines,
        write: impl FnOnce(u64, Duration, &mut BytesMut),
    ) -> Result<PendingCall, EnqueueError> {
        let mut shared = self.lock();
        let ConnectionState { calls, state, hello_at, .. } = &mut *shared;
        let sent = now.saturating_duration_since(*hello_at);
        let key = calls.admit(now.into_std(), deadlines, |key, out| write(key, sent, out))?;
        let wakers = if let ConnectionPhase::Idle | ConnectionPhase::Down(_) = state {
            // It was lost between connecting and calling: nothing will come.
            calls.fail_all()
        } else {
            Vec::new()
        };
        shared.write_at_once(now);
        drop(shared);
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.load.begin(now.into_std());
        self.task.wake();
        Ok(PendingCall { link: Arc::clone(self), key, done: false, counts: true })
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
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects and serves the connection until it ends. Returns whether there was one.
    async fn run(&self) -> bool {
        // Leaves the link in order even when this task is dropped with its runtime.
        let down = FailOnDrop(self);
        let mut timer = pin!(sleep_until(Instant::now() + CONNECT_TIMEOUT));
        let connecting = pin!(self.network.connect_to(self.address));
        let stream = match self.connected(connecting, timer.as_mut()).await {
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
            let mut shared = self.lock();
            shared.state = ConnectionPhase::Up;
            shared.socket = Some(Arc::clone(&stream));
            shared.backoff.succeeded();
        }
        self.load.connected(Instant::now().into_std());
        let mut socket = Driver {
            stream,
            reader: FrameReader::new(MAX_FRAME_BYTES),
            unsent: BytesMut::new(),
            stalled_since: None,
            answers: Vec::new(),
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
    async fn connected(
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
        if socket.unsent.is_empty() && self.lock().calls.waits_for_others() {
            return Poll::Ready(DriverPause::Yield);
        }
        let mut begin = None;
        for _ in 0..TURNS {
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
        let mut shared = self.lock();
        let due = shared.calls.next_due().map(Instant::from_std);
        if due.is_none_or(|due| due > now) {
            return (due, false);
        }
        let wakers = shared.calls.expire(now.into_std());
        let due = shared.calls.next_due().map(Instant::from_std);
        drop(shared);
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
        let mut shared = self.lock();
        loop {
            if socket.unsent.is_empty() && !shared.take_outgoing(now, &mut socket.unsent) {
                if shared.retired && shared.calls.len() == 0 {
                    // Who calls from now on is told that it was not written.
                    shared.socket = None;
                    return Err("retired");
                }
                let stands = shared.calls.is_held_back();
                socket.stalled_since = stands.then(|| socket.stalled_since.unwrap_or(now));
                return Ok(progress);
            }
            drop(shared);
            match socket.stream.try_write(&socket.unsent) {
                Ok(bytes) => {
                    socket.unsent.advance(bytes);
                    socket.stalled_since = None;
                    progress = true;
                    shared = self.lock();
                    shared.calls.wrote(bytes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if socket.stream.poll_write_ready(context).is_pending() {
                        socket.stalled_since.get_or_insert(now);
                        return Ok(progress);
                    }
                    shared = self.lock();
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
                Ok(Some(frame)) if socket.answers.len() + 1 == ANSWERS_PER_TURN => {
                    socket.answers.push(frame);
                    socket.more = true;
                    break;
                }
                Ok(Some(frame)) => socket.answers.push(frame),
                Ok(None) => break,
                Err(too_large) => {
                    warn!(node = %self.address, "connection closed: an answer: {too_large}");
                    return Err("answer too large");
                }
            }
        }
        let now = Instant::now().into_std();
        let mut shared = self.lock();
        // Answers that nobody waits for (too late, doubled, invented) change nothing.
        let (mut useful, mut strays) = (0, 0);
        for frame in socket.answers.drain(..) {
            let (key, meaning) = match success_parts(&frame) {
                Some((key, _)) => (Some(key), FrameKind::Response),
                None if protocol::is_blank(&frame) => {
                    strays += cost_of(frame.len());
                    continue;
                }
                None => read_head(&frame, &shared.calls),
            };
            let bytes = frame.len();
            let answered = match (key, meaning) {
                (Some(key), FrameKind::Response) => shared.calls.answer(now, key, frame),
                (Some(key), FrameKind::Part(part)) => shared.calls.part(now, key, part, frame),
                (Some(key), FrameKind::Credit(bytes)) => {
                    shared.calls.grant(key, bytes).map(|waker| (None, waker)).map_err(|()| frame)
                }
                (None, _) => Err(frame),
            };
            match answered {
                Ok((took, waker)) => {
                    useful += 1;
                    if let Some(took) = took {
                        self.load.answered(now, took);
                    }
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    socket.stalled_since = None;
                }
                Err(frame) => {
                    let is_late = match (key, meaning) {
                        (Some(key), FrameKind::Part(part)) if !part.is_end => shared.calls.takes_late_part(key, bytes),
                        (Some(key), FrameKind::Credit(_)) => shared.calls.takes_late_part(key, bytes),
                        (Some(_), _) => shared.calls.takes_late_answer(key),
                        (None, _) => is_null(&frame) && shared.calls.takes_late_answer(None),
                    };
                    if is_late {
                        // Late, but it answers.
                        self.load.trust();
                    } else {
                        strays += cost_of(bytes);
                    }
                    if let Some(held_back) = shared.strange.pass(now) {
                        debug!(node = %self.address, key, held_back, "an answer that nobody waits for");
                    }
                }
            }
        }
        let begun = socket.reader.pending().len();
        shared.make_room(begun, self.address, now)?.into_iter().for_each(std::task::Waker::wake);
        if strays > 0 && !shared.strays.take(now, strays, useful) {
            let rest = shared.strays.close(now);
            shared.rests_until = Some(Instant::from_std(now + rest));
            let shows = shared.cut.pass(now);
            drop(shared);
            if let Some(held_back) = shows {
                warn!(
                    node = %self.address, instance = ?self.shown_instance(), rest_s = rest.as_secs(), held_back,
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
    fn settle(&mut self, begun: usize) -> Option<usize> {
        let held = self.calls.parts_bytes() + begun;
        // What is little is nobody else's business.
        (held > LEAST_BYTES || self.share.is_charged()).then(|| self.share.settle(held))
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
        while let Some(may_have) = self.settle(begun).filter(|may_have| self.calls.parts_bytes() + begun > *may_have) {
            self.share.refuse();
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
    fn take_outgoing(&mut self, now: Instant, into: &mut BytesMut) -> bool {
        std::mem::swap(&mut self.rest, into);
        self.is_writing = !into.is_empty() || self.calls.take_outgoing(now.into_std(), into);
        self.is_writing
    }

    /// A call that is alone does not wait for the task's turn: the node begins with it while others are made. Hardly anybody else wants
    /// the lock meanwhile, and of what is large most is left to the task.
    fn write_at_once(&mut self, now: Instant) {
        let is_alone = self.calls.is_calm() && self.rest.is_empty() && !self.is_writing;
        let Some(socket) = self.socket.as_ref().filter(|_| is_alone) else { return };
        if self.calls.take_outgoing(now.into_std(), &mut self.rest) {
            // That it is broken, the task finds out.
            let small = &self.rest[..self.rest.len().min(MAX_BYTES_AT_ONCE)];
            let taken = socket.try_write(small).unwrap_or(0);
            self.calls.wrote(taken);
            self.rest.advance(taken);
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
            let meaning = part.or_else(|| read_credit(&packet).map(FrameKind::Credit)).unwrap_or(FrameKind::Response);
            (packet.key.as_ref().and_then(protocol::Key::number), meaning)
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
    answers: Vec<Bytes>,
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
        let mut shared = self.0.lock();
        let wait = shared.backoff.failed(fastrand::f64());
        let until = Instant::now() + wait;
        shared.state = ConnectionPhase::Down(shared.rests_until.take().map_or(until, |rest| rest.max(until)));
        shared.socket = None;
        shared.rest.clear();
        shared.is_writing = false;
        let wakers = shared.calls.fail_all();
        shared.settle(0);
        drop(shared);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}

impl PendingCall {
    /// The outcome of the call, once.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<CallResult> {
        let outcome = self.link.lock().calls.poll(self.key, context);
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
        if std::mem::take(&mut self.counts) {
            self.link.load.end();
        }
    }

    /// Who was called.
    pub(crate) fn link(&self) -> &Arc<Connection> {
        &self.link
    }

    /// The stream that the call has become, once its outcome says so.
    pub(crate) fn into_stream(self) -> OpenStream {
        OpenStream::new(&self.link, self.key)
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if !self.done {
            self.link.lock().calls.cancel(self.key);
            self.stop_counting();
            // There may be something to tell; and a retired link closes with its last call.
            self.link.task.wake();
        }
    }
}

mod open_stream;
#[cfg(test)]
mod tests;
