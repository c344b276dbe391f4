//! A connection to another node: callers hand in packets, one task owns the socket.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use daemon::{FrameReader, Throttle, at, tune};
use protocol::{Packet, Version};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::in_flight::{InFlight, Limits, Refusal};

/// Most bytes of one packet, either way.
pub(crate) const MAX_FRAME_BYTES: usize = 8 << 20;
/// Calls and bytes that may wait for one node: what it could answer within a deadline at the best of times.
const LIMITS: Limits = Limits { max_calls: 10_000, max_queued_bytes: 16 << 20, max_packet_bytes: MAX_FRAME_BYTES };
/// A node in the same network answers a connect in well under this, unless it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node that let a call run out of time is passed over.
const SUSPECT_TIME: Duration = Duration::from_secs(1);
/// How long a node may take nothing of what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The one connection to another node, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    shared: Mutex<Shared>,
    /// Wakes the task that owns the socket: there is something to write, or the link is retired.
    wake: Notify,
}

#[derive(Debug)]
struct Shared {
    state: State,
    calls: InFlight<oneshot::Sender<Outcome>>,
    backoff: Backoff,
    retired: bool,
    /// A call ran out of time, and nothing has been answered since: until then others are preferred. After that one call at
    /// a time finds out.
    suspect_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never connected.
    Idle,
    /// A task is connecting.
    Connecting,
    /// A task owns a live connection.
    Up,
    /// The last connection, or try, failed; due again at this time.
    Down(Instant),
}

/// What became of a call: the frame of its answer, or nothing.
pub(crate) type Outcome = Result<Bytes, Lost>;

/// The connection was lost, or never came to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// The call was written, so it may have been carried out.
    pub(crate) written: bool,
}

/// How ready a link is to take a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    /// A live connection.
    Up,
    /// Being connected.
    Connecting,
    /// A live connection to a node that lets calls run out of time.
    Suspect,
    /// Not connected, and worth a try.
    Due,
    /// Failed a moment ago.
    Resting,
}

/// A call that was taken. Dropping it takes the call back: what is not written never will be.
#[derive(Debug)]
pub(crate) struct Pending {
    link: Arc<Link>,
    key: u64,
    answer: oneshot::Receiver<Outcome>,
}

impl Link {
    pub(crate) fn new(address: SocketAddr, version: Version) -> Arc<Self> {
        let calls = InFlight::new(version, LIMITS);
        let shared = Shared { state: State::Idle, calls, backoff: Backoff::new(), retired: false, suspect_until: None };
        Arc::new(Self { address, version, shared: Mutex::new(shared), wake: Notify::new() })
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let shared = self.lock();
        match shared.state {
            State::Up if shared.suspect_until.is_some_and(|until| Instant::now() < until) => Readiness::Suspect,
            State::Up => Readiness::Up,
            State::Connecting => Readiness::Connecting,
            State::Idle => Readiness::Due,
            State::Down(until) if Instant::now() >= until => Readiness::Due,
            State::Down(_) => Readiness::Resting,
        }
    }

    /// Begins to connect unless that is under way or done. `unreachable` is told when it fails.
    pub(crate) fn connect(self: &Arc<Self>, unreachable: impl FnOnce(SocketAddr) + Send + 'static) {
        let mut shared = self.lock();
        match shared.state {
            State::Connecting | State::Up => return,
            State::Idle | State::Down(_) => shared.state = State::Connecting,
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

    /// Takes a call whose packet `write` makes for a given key. Connect first: it is written as soon as there is a connection.
    pub(crate) fn call(self: &Arc<Self>, write: impl FnOnce(u64, &mut BytesMut)) -> Result<Pending, Refusal> {
        let (waiter, answer) = oneshot::channel();
        let mut shared = self.lock();
        if shared.suspect_until.is_some() {
            // This call finds out; the next ones go elsewhere until it has.
            shared.suspect_until = Some(Instant::now() + SUSPECT_TIME);
        }
        let key = shared.calls.admit(waiter, write)?;
        if let State::Idle | State::Down(_) = shared.state {
            // It was lost between connecting and calling: nothing will come.
            for (waiter, _) in shared.calls.fail_all() {
                let _ = waiter.send(Err(Lost { written: false }));
            }
        }
        drop(shared);
        self.wake.notify_one();
        Ok(Pending { link: Arc::clone(self), key, answer })
    }

    /// A call ran out of time. A node that answers nothing is passed over while others are there.
    pub(crate) fn suspect(&self) {
        self.lock().suspect_until = Some(Instant::now() + SUSPECT_TIME);
    }

    /// No calls come any more: the connection closes when those in flight are done.
    pub(crate) fn retire(&self) {
        self.lock().retired = true;
        self.wake.notify_one();
    }

    /// Nothing waits inside, and a panic elsewhere leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects and serves the connection until it ends. Returns whether there was one.
    async fn run(&self) -> bool {
        // Leaves the link in order even when this task is dropped with its runtime.
        let down = GoDown(self);
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                debug!(node = %self.address, %error, "cannot connect");
                return false;
            }
            Err(_elapsed) => {
                debug!(node = %self.address, "no answer to a connect within {CONNECT_TIMEOUT:?}");
                return false;
            }
        };
        tune(&stream);
        {
            let mut shared = self.lock();
            shared.state = State::Up;
            shared.suspect_until = None;
            shared.backoff.succeeded();
        }
        let reason = self.serve(&stream).await;
        debug!(node = %self.address, reason, "connection to node ended");
        drop(down);
        true
    }

    /// Writes what callers hand in and gives them their answers, until there is a reason to stop.
    async fn serve(&self, stream: &TcpStream) -> &'static str {
        let mut reader = FrameReader::new(MAX_FRAME_BYTES);
        let mut rest = Bytes::new();
        let mut stalled_since = None;
        let mut strange = Throttle::default();
        loop {
            // Everything that waits, in as few writes as the node's version allows.
            let mut blocked = false;
            loop {
                if rest.is_empty() {
                    match self.lock().calls.take_outgoing() {
                        Some(packets) => rest = packets,
                        None => break,
                    }
                }
                match stream.try_write(&rest) {
                    Ok(bytes) => {
                        rest.advance(bytes);
                        stalled_since = None;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        blocked = true;
                        break;
                    }
                    Err(_broken) => return "broken",
                }
            }
            let held_back = {
                let shared = self.lock();
                if shared.retired && shared.calls.len() == 0 && rest.is_empty() {
                    return "retired";
                }
                shared.calls.is_held_back()
            };
            stalled_since = (blocked || held_back).then(|| stalled_since.unwrap_or_else(Instant::now));
            tokio::select! {
                readable = stream.readable() => {
                    match readable.and_then(|()| reader.fill(stream)) {
                        Ok(true) => {}
                        Ok(false) => return "closed by the node",
                        Err(_broken) => return "broken",
                    }
                    loop {
                        match reader.next_frame() {
                            Ok(Some(frame)) => {
                                if self.answer(frame, &mut strange) {
                                    stalled_since = None;
                                }
                            }
                            Ok(None) => break,
                            Err(too_large) => {
                                warn!(node = %self.address, "connection closed: an answer: {too_large}");
                                return "answer too large";
                            }
                        }
                    }
                }
                _ = stream.writable(), if blocked => {}
                () = self.wake.notified() => {}
                () = at(stalled_since.map(|since| since + WRITE_TIMEOUT)) => {
                    warn!(node = %self.address, "connection closed: the node has taken nothing for {WRITE_TIMEOUT:?}");
                    return "stalled";
                }
            }
        }
    }

    /// Gives a frame to whoever waits for it. Answers that nobody waits for (too late, doubled, invented) change nothing.
    fn answer(&self, frame: Bytes, strange: &mut Throttle) -> bool {
        let key = match Packet::parse(&frame) {
            Ok(packet) => packet.key.as_ref().and_then(protocol::Key::number),
            // How an old service answers a method that it does not know.
            Err(_) if frame.trim_ascii() == b"null" => self.lock().calls.only_unanswered(),
            Err(_) => None,
        };
        let waiter = key.and_then(|key| {
            let mut shared = self.lock();
            shared.suspect_until = None;
            shared.calls.answer(key)
        });
        let Some(waiter) = waiter else {
            if !protocol::is_blank(&frame)
                && let Some(held_back) = strange.pass(Instant::now().into_std())
            {
                debug!(node = %self.address, key, held_back, "an answer that nobody waits for");
            }
            return key.is_some();
        };
        // The caller may have gone in this very moment.
        let _ = waiter.send(Ok(frame));
        true
    }
}

/// Fails all calls of a link when its connection ends, however it ends.
struct GoDown<'a>(&'a Link);

impl Drop for GoDown<'_> {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        let wait = shared.backoff.failed(fastrand::f64());
        shared.state = State::Down(Instant::now() + wait);
        let failed = shared.calls.fail_all();
        drop(shared);
        for (waiter, written) in failed {
            let _ = waiter.send(Err(Lost { written }));
        }
    }
}

impl Pending {
    /// Waits for the answer. Dropping the future takes the call back.
    pub(crate) async fn outcome(mut self) -> Outcome {
        // The sender goes without a word only with its runtime.
        (&mut self.answer).await.unwrap_or(Err(Lost { written: true }))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut shared = self.link.lock();
        shared.calls.cancel(self.key);
        if shared.calls.len() == 0 {
            drop(shared);
            // What the link's task waits for may be over: a retired link closes, and nothing is held back.
            self.link.wake.notify_one();
        }
    }
}
