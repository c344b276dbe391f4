//! The connection of one caller: it begins all calls of a read, and writes all ready responses
//! together.
//!
//! It must not look up routes or read arguments: `dispatch` does.

mod bad_frames;
mod held_bytes;
mod hello;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use net::{BacklogPoller, FrameReader, LogThrottle, PeerBacklog, Socket, TimeSlice, sleep_until_opt};
use protocol::{
    CREDIT_URI, HELLO_URI, Key, PART_URI, Packet, Part, Request, Side, Version, is_blank, parse_part, parse_raw_part,
    split_attachment,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::bad_frames::BadFrames;
use crate::handler::Caller;
use crate::handler::response_sink::WriteProgress;
use crate::server::caller_socket::{CallerEnd, wait_for_read_room, write};
use crate::server::dispatch::{LocalService, StartedCall};
use crate::server::queue_delay::QueueDelay;
use crate::server::response_queue::{ResponseQueue, WriteStep};
use crate::server::route_pace::PollWatch;
use crate::server::running_calls::{CallRunner, Polled, RunningCall, RunningCalls};
use crate::transport::budget::{MIN_BYTES, PeerShare};
use crate::transport::limits::MAX_FRAME_BYTES;

/// Maximum number of running calls of one caller. Until one is done, no more are read.
const MAX_RUNNING: usize = 1024;
/// Maximum number of streams of one caller, with calls that may become streams. They do not count
/// as running calls, since they may last long, and the caller's reading paces them. Further ones
/// are refused.
const MAX_STREAMS: usize = 4096;
/// Bytes of a running call beside its packet: the state of its handler, its slot, its stream. A
/// handler that only sleeps took 470 bytes.
const CALL_BYTES: usize = 1024;
/// How often a caller that is over its limit is checked again: other callers free memory.
const ROOM_PERIOD: Duration = Duration::from_millis(50);
/// How long a packet may take from its first byte to its last.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller may read none of its responses.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the list is searched for the read window of a version 1 caller.
const WINDOW_PERIOD: Duration = Duration::from_secs(1);
/// Packets that are begun before other connections run; fewer if they take longer than a
/// [`TimeSlice`].
const FRAMES_PER_YIELD: usize = 32;

/// A larger packet is begun only with a time slice among the busy callers of this node.
const LARGE_FRAME_BYTES: usize = 16 * 1024;

/// With this many packets at a time, all ready responses leave in one write, because a write costs
/// as much as many responses.
const MANY_FRAMES: usize = 8;

/// The state of one caller's connection.
struct CallerConnection<'a> {
    service: &'a LocalService,
    caller: Caller,
    reader: FrameReader,
    /// A large packet that waits for a time slice.
    large: Option<Bytes>,
    /// When the bytes in the reader were received.
    received: Instant,
    /// Packets that were begun since the reader was last empty, and in the period before.
    frames_begun: usize,
    frames_begun_before: usize,
    queue_delay: QueueDelay,
    running: FuturesUnordered<CallRunner>,
    watch: Arc<PollWatch>,
    /// The running calls that the caller can cancel.
    handles: RunningCalls,
    responses: ResponseQueue,
    bad_frames: BadFrames,
    /// Whether the caller wants another instance than this one.
    is_misdirected: bool,
    /// When the read window of a version 1 caller was looked up.
    window_checked: Option<Instant>,
    slice: TimeSlice,
    share: PeerShare,
    /// Bytes that may be held for the caller now.
    allowed_bytes: usize,
    /// Bytes of running calls: their packets, and [`CALL_BYTES`] for each.
    running_bytes: usize,
    /// Bytes that wait in all streams of the caller.
    in_streams: Arc<AtomicUsize>,
    full: LogThrottle,
    /// Whether the node stops. Its streams have been told to end when they have nothing to send.
    is_stopping: bool,
}

/// Serves one caller until it closes, or until `finish` is cancelled and its calls are done.
/// Returns why it ended.
pub(crate) async fn run(
    socket: &Socket,
    peer: SocketAddr,
    service: &LocalService,
    finish: &CancellationToken,
) -> CallerEnd {
    let in_streams = Arc::<AtomicUsize>::default();
    let mut connection = CallerConnection {
        service,
        caller: Caller {
            instance: None,
            stated_name: None,
            address: peer,
            peers: None,
            read_window: service.legacy_bytes,
            held_in_streams: Some(Arc::clone(&in_streams)),
        },
        reader: FrameReader::new(MAX_FRAME_BYTES),
        large: None,
        received: Instant::now(),
        frames_begun: 0,
        frames_begun_before: 0,
        queue_delay: QueueDelay::default(),
        running: FuturesUnordered::new(),
        watch: PollWatch::new(&service.paces),
        handles: RunningCalls::default(),
        responses: ResponseQueue::new(PeerBacklog::can_see(socket), service.legacy_bytes),
        bad_frames: BadFrames::new(peer),
        is_misdirected: false,
        window_checked: None,
        slice: TimeSlice::with_queue(&service.slices),
        share: PeerShare::new(&service.budget),
        allowed_bytes: MIN_BYTES,
        running_bytes: 0,
        in_streams,
        full: LogThrottle::default(),
        is_stopping: false,
    };
    // Until it shows version 2, whose writers escape `¶`.
    connection.reader.join_pieces(true);
    connection.reader.take_attachments();
    let reason = connection.serve(socket, finish).await;
    for call in std::mem::take(&mut connection.running) {
        call.release(service);
    }
    reason
}

impl CallerConnection<'_> {
    async fn serve(&mut self, socket: &Socket, finish: &CancellationToken) -> CallerEnd {
        let service = self.service;
        let mut stalled_since = None;
        let mut closed = false;
        let mut at_caller = BacklogPoller::default();
        loop {
            self.charge();
            let more = match poll_fn(|task| Poll::Ready(self.begin(task))).await {
                Ok(more) => more,
                Err(reason) => return CallerEnd::Cut(reason),
            };
            self.slice.expect_other_steps();
            self.poll_running();
            let (blocked, paced) = match write(socket, &mut self.responses) {
                Ok(WriteStep::WaitFor(unread)) => (false, Some(unread)),
                Ok(WriteStep::Write(_)) => (true, None),
                Ok(WriteStep::Done) => (false, None),
                Err(_broken) => return CallerEnd::Gone("broken"),
            };
            stalled_since = blocked.then(|| stalled_since.unwrap_or_else(Instant::now));
            if paced.is_none() {
                at_caller.reset();
            }
            self.charge();
            if self.yield_after_round(more, !blocked && paced.is_none()).await {
                continue;
            }
            let is_idle = self.running.is_empty() && self.responses.len() == 0 && !more;
            if is_idle && (closed || finish.is_cancelled()) {
                return CallerEnd::Gone(if closed { "closed by the caller" } else { "leaving" });
            }
            let written = self.responses.written();
            let (held, allowed_bytes) = (self.held_bytes(), self.allowed_bytes);
            let is_full = held >= allowed_bytes;
            let (listening, reads) = (!closed && self.has_room(), self.is_reading());
            // A packet that has begun must be completed; only running calls may delay it.
            let is_timed = listening && (!is_full || self.reader.buffered().len() > held / 2);
            let is_stopping = self.is_stopping;
            let CallerConnection { reader, running, responses, received, slice, .. } = &mut *self;
            tokio::select! {
                biased;
                writable = socket.writable(), if blocked => if writable.is_err() { return CallerEnd::Gone("broken") },
                () = sleep_until_opt(stalled_since.map(|since| since + WRITE_TIMEOUT)) => return CallerEnd::Cut("the caller does not read its responses"),
                () = finish.cancelled(), if !is_stopping => {
                    self.is_stopping = true;
                    self.handles.stop_streams();
                }
                (written, seen) = wait_for_read_room(socket, service, paced, &mut at_caller, written) => responses.record_unread(written, seen),
                () = std::future::ready(()), if more => {}
                readable = socket.readable(), if listening && !more && !is_full => {
                    match readable.and_then(|()| reader.fill_at_most(socket, allowed_bytes - held)) {
                        Ok(true) => *received = Instant::now(),
                        // A caller that closes its side may still read its responses.
                        Ok(false) => closed = true,
                        Err(_broken) => return CallerEnd::Gone("broken"),
                    }
                }
                Some(polled) = running.next(), if reads && !running.is_empty() => self.handle_polled(polled),
                () = sleep_until_opt((is_full && !more).then(|| Instant::now() + ROOM_PERIOD)) => {}
                () = sleep_until_opt(reader.deadline(FRAME_TIMEOUT)), if is_timed => {
                    if let Err(reason) = self.handle_late_frame() {
                        return CallerEnd::Cut(reason);
                    }
                }
                () = poll_fn(|_| { slice.pause(); Poll::Pending }) => {}
            }
            self.slice.resume();
            if !is_timed {
                // Otherwise its time would count from the last check, and might already be over.
                self.reader.defer_deadline();
            }
        }
    }

    /// Lets other tasks run after a round: even a caller that never pauses yields the thread,
    /// whatever its packets cost. Returns whether the next round is to begin without a wait.
    async fn yield_after_round(&mut self, more: bool, has_written_all: bool) -> bool {
        if self.slice.is_over() {
            self.watch.begin();
            self.slice.yield_now().await;
        } else if self.large.is_some() {
            self.slice.acquire().await;
        } else if more && has_written_all && self.has_few() {
            return true;
        } else if more {
            tokio::task::yield_now().await;
        }
        false
    }

    /// Takes the responses of running calls that are ready, until the time slice is over.
    fn poll_running(&mut self) {
        while self.is_reading()
            && let Some(Some(polled)) = self.running.next().now_or_never()
        {
            let bytes = if let Polled::Response(_, polled) = &polled { polled.packet.len() } else { 0 };
            self.handle_polled(polled);
            if self.slice.is_over_after(bytes) {
                break;
            }
        }
    }

    /// Handles a packet that took too long to arrive. If a raw `¶` has cut it, its pieces are given
    /// up, because the rest does not come.
    ///
    /// # Errors
    /// Why the connection must be cut.
    fn handle_late_frame(&mut self) -> Result<(), &'static str> {
        if self.reader.give_up_pieces().is_none() {
            return Err("a call took too long to arrive");
        }
        self.bad_frames.reject()
    }

    /// Whether packets are few. Each is then answered by itself, so that the caller works on the
    /// first response while the next call is handled.
    fn has_few(&self) -> bool {
        self.frames_begun_before < MANY_FRAMES && self.frames_begun < MANY_FRAMES
    }

    /// Begins the packets that have arrived. Most handlers are done at once. Returns whether there
    /// may be more packets.
    fn begin(&mut self, task: &mut TaskContext<'_>) -> Result<bool, &'static str> {
        let now = Instant::now();
        for _ in 0..if self.has_few() { 1 } else { FRAMES_PER_YIELD } {
            if !self.has_room() {
                return Ok(false);
            }
            let next = match self.large.take() {
                Some(frame) => Some(frame),
                None => self.reader.next_frame().map_err(|_too_large| "a call larger than 8 MiB")?,
            };
            let Some(frame) = next else {
                if self.frames_begun > 0 {
                    self.frames_begun_before = std::mem::take(&mut self.frames_begun);
                }
                return Ok(false);
            };
            // Raw bytes cost little: nothing looks at them.
            if split_attachment(&frame).0.len() > LARGE_FRAME_BYTES && !self.slice.is_scheduled() {
                self.large = Some(frame);
                return Ok(true);
            }
            self.frames_begun += 1;
            if self.reader.pieces() > 1 {
                self.bad_frames.log_pieces(self.reader.pieces());
            }
            if !is_blank(&frame) {
                self.handle_frame(&frame, now, task)?;
            }
            if self.slice.is_over_after(frame.len()) {
                break;
            }
        }
        Ok(true)
    }

    fn handle_frame(&mut self, frame: &Bytes, now: Instant, task: &mut TaskContext<'_>) -> Result<(), &'static str> {
        let part = parse_part(frame, Side::Caller).or_else(|| parse_raw_part(frame, Side::Caller));
        if let Some((key, part, _)) = part {
            return self.handle_part(key, part, frame);
        }
        let Ok(mut request) = Request::parse(frame) else { return self.bad_frames.reject() };
        self.bad_frames.record_sound(request.version);
        self.reader.join_pieces(request.version == Version::V1);
        if request.uri == PART_URI {
            let part = Packet::parse(split_attachment(frame).0).ok().as_ref().and_then(Part::from_packet);
            let Some((key, part)) = request.key.as_ref().and_then(Key::number).zip(part) else { return Ok(()) };
            return self.handle_part(key, part, frame);
        }
        if request.uri.starts_with('$') {
            self.handle_control(&request, frame);
            return Ok(());
        }
        if self.is_misdirected {
            self.answer_or_run(self.service.misdirected(&mut request), frame.len(), task);
            return Ok(());
        }
        if request.version == Version::V1 {
            self.update_read_window(now);
        }
        let delay = request.meta.sent.map_or(Duration::ZERO, |sent| self.queue_delay.delay(self.received, sent));
        let made = self.received.checked_sub(delay).unwrap_or(self.received);
        let may_stream = self.handles.streams < MAX_STREAMS;
        match self.service.begin(frame, &mut request, &self.caller, may_stream, made, now) {
            Ok(started) => self.answer_or_run(started, frame.len(), task),
            Err(_not_json) => return self.bad_frames.reject(),
        }
        Ok(())
    }

    /// Answers a call that is done at once. Any other goes on beside those that follow.
    fn answer_or_run(&mut self, mut started: StartedCall, frame_bytes: usize, task: &mut TaskContext<'_>) {
        let bytes = CALL_BYTES + frame_bytes;
        if started.computes(&self.service.paces) {
            return self.run_call(RunningCall::new(started, bytes));
        }
        let (to, before) = (started.detach_return_path(), self.responses.len());
        let Self { responses, watch, .. } = self;
        let polled = responses.answer(&to, |sink| watch.poll(started.route, || started.poll_response(task, sink)));
        if self.keep_or_refuse(before, &to) && polled != Poll::Ready(WriteProgress::Done) {
            started.attach_return_path(to);
            self.run_call(RunningCall::new(started, bytes));
        }
    }

    /// Looks up how much a caller of version 1 can read. Any node that registers from its address
    /// may state that, and may register after its first call.
    fn update_read_window(&mut self, now: Instant) {
        if self.window_checked.is_some_and(|at| now < at + WINDOW_PERIOD) {
            return;
        }
        self.window_checked = Some(now);
        let host = self.caller.address.ip().to_canonical();
        let said = self.service.node.peers.mesh.table().read().read_window_of(host);
        let window = said.unwrap_or(0).clamp(self.service.legacy_bytes, MAX_FRAME_BYTES);
        self.caller.read_window = window;
        self.responses.set_read_window(window);
    }

    fn run_call(&mut self, call: RunningCall) {
        self.running_bytes += call.bytes;
        let handle = call.handle();
        if self.is_stopping
            && let Some(call_stream) = &handle.call_stream
        {
            call_stream.stop();
        }
        if let Some(key) = call.key {
            self.handles.put(key, handle);
        }
        self.running.push(call.assign_runner(self.service, &self.watch));
    }

    /// Handles a part of a stream from the caller. A part for a call that is over is ignored.
    fn handle_part(&mut self, key: u64, part: Part, frame: &Bytes) -> Result<(), &'static str> {
        let Some(call_stream) = self.handles.call_stream(key) else { return Ok(()) };
        call_stream.push_part(part, frame.clone()).map_err(|_abuse| "stream parts that break flow control")
    }

    /// Handles a control packet. An unknown one is ignored.
    fn handle_control(&mut self, request: &Request<'_>, frame: &[u8]) {
        match &*request.uri {
            HELLO_URI => self.handle_hello(frame),
            "$cancel" => {
                let call = request.key.as_ref().and_then(Key::number).and_then(|key| self.handles.remove(key));
                if let Some(call) = call {
                    // The next poll drops or releases its work.
                    call.leave();
                    self.running_bytes -= call.bytes;
                }
            }
            CREDIT_URI => {
                if let Some(call_stream) =
                    request.key.as_ref().and_then(Key::number).and_then(|key| self.handles.call_stream(key))
                {
                    call_stream.grant(request.meta.credit.unwrap_or(0));
                }
            }
            _unknown => {}
        }
    }

    fn handle_polled(&mut self, polled: Polled) {
        let (call, polled) = match polled {
            // The caller of a call with a task of its own may have gone meanwhile.
            Polled::Response(call, _) if call.is_left() => return,
            Polled::Response(call, polled) => (call, polled),
            // A cancelled call no longer counts.
            Polled::Left(started) => return started.into_iter().for_each(|started| self.release(started)),
        };
        self.running_bytes -= call.bytes;
        let before = self.responses.len();
        self.responses.push(polled.version, polled.packet);
        let kept = call.started.as_ref().is_none_or(|started| self.keep_or_refuse(before, &started.return_path));
        if kept && polled.progress == WriteProgress::More {
            self.run_call(call);
        } else {
            drop(call.key.and_then(|key| self.handles.remove(key)));
        }
    }

    /// Drops a call whose caller no longer waits, or finishes it if it must be finished.
    fn release(&self, call: StartedCall) {
        self.service.released.finish(call);
    }
}
