//! One caller's connection: all packets of a read are begun, all answers that are ready leave together.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use daemon::{FrameReader, LocalQueues, Look, Socket, Throttle, TimeSlice, at, warn};
use futures::FutureExt;
use futures::future::{AbortHandle, Abortable};
use futures::stream::{FuturesUnordered, StreamExt};
use protocol::{CREDIT_URI, Key, PART_URI, Packet, Part, Request, Side, WindowFull, is_blank, parse_part};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::error::no_room;
use crate::handler::stream::CallStream;
use crate::handler::{Caller, WriteProgress};
use crate::server::dispatch::{LocalService, PolledResponse, StartedCall};
use crate::server::queue_delay::QueueDelay;
use crate::server::response_queue::{ResponseQueue, ResponseTarget, WriteStep};
use crate::transport::budget::{LEAST_BYTES, PeerShare};
use crate::transport::connection::MAX_FRAME_BYTES;

/// Calls of one caller at work at a time; with more, it is not read from until one is done.
const MAX_AT_WORK: usize = 1024;
/// Calls that are streams, or may become some, do not count there: they may last, and are ended and paced by what is read. Of these a
/// caller has so many; more are refused.
const MAX_STREAMS: usize = 4096;
/// Answers of one caller that may wait, in bytes; with more, it is not read from until it reads. What else a caller may have is in
/// [`budget`](crate::transport::budget).
const MAX_WAITING_BYTES: usize = 8 << 20;
/// A caller that has too much looks so often whether it may have more, which others decide.
const ROOM_PERIOD: Duration = Duration::from_millis(50);
/// How long a call may take from its first byte to its last.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller may take nothing of its answers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Broken packets after which a connection is cut; what follows is not likely to be better.
const MAX_STRIKES: u32 = 3;
/// Bytes of a caller's instance id that are kept; ours have 32.
const MAX_INSTANCE_BYTES: usize = 128;
/// Packets that are begun before other connections have their turn; fewer if they take longer than a [`TimeSlice`].
const FRAMES_PER_TURN: usize = 32;

/// Larger packets are begun only with a turn among the callers that keep this node busy.
const LARGE_FRAME_BYTES: usize = 16 * 1024;

/// From so many packets at a time on, all that is ready leaves in one write, which costs as much as a good many answers.
const MANY: usize = 8;

/// What one caller has us do.
struct CallerConnection<'a> {
    service: &'a LocalService,
    caller: Caller,
    reader: FrameReader,
    /// A large packet that waits for its turn.
    large: Option<Bytes>,
    /// When the bytes came that are in the reader.
    received: Instant,
    /// Packets that were begun since there were none left; and before that, since there were none.
    taken: usize,
    taken_before: usize,
    transit: QueueDelay,
    at_work: FuturesUnordered<Abortable<RunningCall>>,
    /// The calls at work that can be taken back.
    handles: RunningCalls,
    outgoing: ResponseQueue,
    strikes: u32,
    slice: TimeSlice,
    share: PeerShare,
    /// Bytes that it may have now.
    may_have: usize,
    /// Bytes of calls at work, as they came.
    at_work_bytes: usize,
    /// Bytes that wait in its streams.
    in_streams: Arc<AtomicUsize>,
    full: Throttle,
    /// The node finishes: streams that have nothing to send end.
    leaving: bool,
}

/// A call at work, with its key if that is a number.
struct RunningCall {
    key: Option<u64>,
    /// As the call came.
    bytes: usize,
    begun: Option<StartedCall>,
}

/// The calls at work that a caller can do something about, by their keys.
#[derive(Default)]
struct RunningCalls {
    by_key: HashMap<u64, CallHandle>,
    /// How many of them are streams, or may become some.
    streams: usize,
}

impl RunningCalls {
    fn put(&mut self, key: u64, at_work: CallHandle) {
        self.streams += usize::from(at_work.flow.is_some());
        if let Some(replaced) = self.by_key.insert(key, at_work) {
            self.streams -= usize::from(replaced.flow.is_some());
        }
    }

    fn take(&mut self, key: u64) -> Option<CallHandle> {
        let taken = self.by_key.remove(&key)?;
        self.streams -= usize::from(taken.flow.is_some());
        Some(taken)
    }

    fn flow(&self, key: u64) -> Option<&CallStream> {
        self.by_key.get(&key)?.flow.as_deref()
    }
}

/// What a caller can do about a call at work.
struct CallHandle {
    abort: AbortHandle,
    flow: Option<Arc<CallStream>>,
    /// As the call came.
    bytes: usize,
}

/// Serves one caller until it goes, or until `finish` is cancelled and its calls are done. Says why it ended.
pub(crate) async fn run(
    stream: &Socket,
    peer: SocketAddr,
    service: &LocalService,
    finish: &CancellationToken,
) -> &'static str {
    let in_streams = Arc::<AtomicUsize>::default();
    let mut connection = CallerConnection {
        service,
        caller: Caller { instance: None, address: peer, peers: None, held_in_streams: Some(Arc::clone(&in_streams)) },
        reader: FrameReader::new(MAX_FRAME_BYTES),
        large: None,
        received: Instant::now(),
        taken: 0,
        taken_before: 0,
        transit: QueueDelay::default(),
        at_work: FuturesUnordered::new(),
        handles: RunningCalls::default(),
        outgoing: ResponseQueue::new(LocalQueues::can_see(stream)),
        strikes: 0,
        slice: TimeSlice::among(&service.busy),
        share: PeerShare::of(&service.budget),
        may_have: LEAST_BYTES,
        at_work_bytes: 0,
        in_streams,
        full: Throttle::default(),
        leaving: false,
    };
    let mut stalled_since = None;
    let mut closed = false;
    let mut at_caller = Look::default();
    loop {
        connection.settle();
        let more = match poll_fn(|task| Poll::Ready(connection.begin(task))).await {
            Ok(more) => more,
            Err(reason) => return reason,
        };
        while connection.reads()
            && let Some(Some(turn)) = connection.at_work.next().now_or_never()
        {
            let bytes = turn.as_ref().map_or(0, |(_, turn)| turn.packet.len());
            connection.take_turn(turn);
            if connection.slice.is_over_after(bytes) {
                break;
            }
        }
        let (blocked, paced) = match write(stream, &mut connection.outgoing) {
            Ok(WriteStep::WaitFor(unread)) => (false, Some(unread)),
            Ok(WriteStep::Write(_)) => (true, None),
            Ok(WriteStep::Done) => (false, None),
            Err(_broken) => return "broken",
        };
        stalled_since = blocked.then(|| stalled_since.unwrap_or_else(Instant::now));
        if paced.is_none() {
            at_caller.done();
        }
        connection.settle();
        // A caller that never pauses leaves the thread to others all the same, however much its packets cost.
        if connection.slice.is_over() {
            connection.slice.give_way().await;
        } else if connection.large.is_some() {
            connection.slice.take_turn().await;
        } else if more && !blocked && paced.is_none() && connection.are_few() {
            continue;
        } else if more {
            tokio::task::yield_now().await;
        }
        let idle = connection.at_work.is_empty() && connection.outgoing.len() == 0 && !more;
        if idle && closed {
            return "closed by the caller";
        }
        if idle && finish.is_cancelled() {
            return "leaving";
        }
        let written = connection.outgoing.written();
        let (held, may_have) = (connection.held(), connection.may_have);
        let is_full = held >= may_have;
        let (listening, reads) = (!closed && connection.has_room(), connection.reads());
        // A call that has begun has to end, and waits only for what is at work.
        let is_timed = listening && (!is_full || connection.reader.pending().len() > held / 2);
        let leaving = connection.leaving;
        let CallerConnection { reader, at_work, outgoing, received, slice, .. } = &mut connection;
        tokio::select! {
            biased;
            writable = stream.writable(), if blocked => if writable.is_err() { return "broken" },
            () = at(stalled_since.map(|since| since + WRITE_TIMEOUT)) => return "it takes none of its answers",
            () = finish.cancelled(), if !leaving => {
                connection.leaving = true;
                connection.handles.by_key.values().filter_map(|at_work| at_work.flow.as_ref()).for_each(|flow| flow.leave());
            }
            (written, seen) = read_enough(stream, service, paced, &mut at_caller, written) => outgoing.seen(written, seen),
            () = std::future::ready(()), if more => {}
            readable = stream.readable(), if listening && !more && !is_full => {
                match readable.and_then(|()| reader.fill_at_most(stream, may_have - held)) {
                    Ok(true) => *received = Instant::now(),
                    // A caller that closes its side may still read its answers.
                    Ok(false) => closed = true,
                    Err(_broken) => return "broken",
                }
            }
            Some(turn) = at_work.next(), if reads && !at_work.is_empty() => connection.take_turn(turn),
            () = at((is_full && !more).then(|| Instant::now() + ROOM_PERIOD)) => {}
            () = at(reader.deadline(FRAME_TIMEOUT)), if is_timed => return "a call took too long to arrive",
            () = poll_fn(|_| { slice.rest(); Poll::Pending }) => {}
        }
        connection.slice.resume();
        if !is_timed {
            // Before, its time would begin when it was last looked at, and might be over by now.
            connection.reader.put_off();
        }
    }
}

impl CallerConnection<'_> {
    fn has_room(&self) -> bool {
        self.at_work.len().saturating_sub(self.handles.streams) < MAX_AT_WORK
            && self.reads()
            && self.at_work_bytes + self.in_streams.load(Ordering::Relaxed) < self.may_have
    }

    /// Bytes that are kept for it.
    fn held(&self) -> usize {
        let (come, large) = (self.reader.pending().len(), self.large.as_ref().map_or(0, Bytes::len));
        come + large + self.at_work_bytes + self.in_streams.load(Ordering::Relaxed) + self.outgoing.kept()
    }

    /// Takes what it has from the budget, and says what it may have.
    fn settle(&mut self) {
        let held = self.held();
        self.may_have = self.share.settle(held);
        if held >= self.may_have {
            self.crowd_out();
        }
    }

    /// Parts that nobody takes do not keep a caller from being read for long: the stream with the most of them ends, while all of them are
    /// most of what the caller may have.
    fn crowd_out(&mut self) {
        while self.in_streams.load(Ordering::Relaxed) > self.may_have / 2 {
            let waiting = |at_work: &CallHandle| at_work.flow.as_ref().map_or(0, |flow| flow.waiting_bytes());
            let most = self.handles.by_key.values().max_by_key(|at_work| waiting(at_work));
            // What is left is of calls that are over.
            let Some(flow) = most.filter(|most| waiting(most) > 0).and_then(|most| most.flow.clone()) else { break };
            flow.crowd_out();
            self.note_full("the parts of a stream");
        }
    }

    /// Something of it is refused for want of room.
    fn note_full(&mut self, what: &str) {
        self.share.refuse();
        if let Some(held_back) = self.full.pass(Instant::now().into_std()) {
            let (held, may_have) = (self.held(), self.may_have);
            warn!(peer = %self.caller.address, held, may_have, held_back, "no room for {what}");
        }
    }

    /// What was written since there were `before` bytes, unless there is no room for it: then an error is in its place.
    fn keeps(&mut self, before: usize, to: &ResponseTarget) -> bool {
        let waiting = self.outgoing.len();
        if waiting == before || self.share.fits(waiting) {
            if waiting - before > LEAST_BYTES {
                // At once: others may be answered before this one is looked at again.
                self.settle();
            }
            return true;
        }
        self.outgoing.replace(before, to, &no_room("this answer"));
        self.note_full("an answer");
        false
    }

    /// The caller reads its answers; for one that does not, nothing is worked on.
    fn reads(&self) -> bool {
        self.outgoing.len() < MAX_WAITING_BYTES.min(self.may_have)
    }

    /// Each of few is answered by itself: the caller goes on with the first answer while the next call is handled.
    fn are_few(&self) -> bool {
        self.taken_before < MANY && self.taken < MANY
    }

    /// Begins what has come; most handlers are done at once and never need a place of their own. Returns whether there may be
    /// more.
    fn begin(&mut self, task: &mut TaskContext<'_>) -> Result<bool, &'static str> {
        let now = Instant::now();
        for _ in 0..if self.are_few() { 1 } else { FRAMES_PER_TURN } {
            if !self.has_room() {
                return Ok(false);
            }
            let next = match self.large.take() {
                Some(frame) => Some(frame),
                None => self.reader.next_frame().map_err(|_too_large| "a call larger than 8 MiB")?,
            };
            let Some(frame) = next else {
                if self.taken > 0 {
                    self.taken_before = std::mem::take(&mut self.taken);
                }
                return Ok(false);
            };
            if frame.len() > LARGE_FRAME_BYTES && !self.slice.has_turn() {
                self.large = Some(frame);
                return Ok(true);
            }
            self.taken += 1;
            if !is_blank(&frame) {
                self.take(&frame, now, task)?;
            }
            if self.slice.is_over_after(frame.len()) {
                break;
            }
        }
        Ok(true)
    }

    fn take(&mut self, frame: &Bytes, now: Instant, task: &mut TaskContext<'_>) -> Result<(), &'static str> {
        if let Some((key, part, _)) = parse_part(frame, Side::Caller) {
            return self.take_part(key, part, frame);
        }
        let begun = match Request::parse(frame) {
            Ok(request) if request.uri == PART_URI => {
                let part = Packet::parse(frame).ok().as_ref().and_then(Part::from_packet);
                let Some((key, part)) = request.key.as_ref().and_then(Key::number).zip(part) else { return Ok(()) };
                return self.take_part(key, part, frame);
            }
            Ok(request) if request.uri.starts_with('$') => {
                self.control(&request);
                return Ok(());
            }
            Ok(request) => {
                let delay = request.meta.sent.map_or(Duration::ZERO, |sent| self.transit.delay(self.received, sent));
                let made = self.received.checked_sub(delay).unwrap_or(self.received);
                let may_stream = self.handles.streams < MAX_STREAMS;
                self.service.begin(frame, request, &self.caller, may_stream, made, now)
            }
            Err(error) => Err(error),
        };
        let Ok(mut begun) = begun else {
            self.strikes += 1;
            return if self.strikes == MAX_STRIKES { Err("too many broken packets") } else { Ok(()) };
        };
        let (to, before) = (begun.take_reply_to(), self.outgoing.len());
        let polled = self.outgoing.answer(&to, |sink| begun.poll_answer(task, sink));
        if !self.keeps(before, &to) || polled == Poll::Ready(WriteProgress::Done) {
            return Ok(());
        }
        begun.put_reply_to(to);
        self.put_to_work(begun, frame.len());
        Ok(())
    }

    fn put_to_work(&mut self, begun: StartedCall, bytes: usize) {
        self.at_work_bytes += bytes;
        let (abort, registration) = AbortHandle::new_pair();
        let key = begun.to.key.as_ref().and_then(Key::number);
        if self.leaving
            && let Some(flow) = &begun.to.flow
        {
            flow.leave();
        }
        if let Some(key) = key {
            self.handles.put(key, CallHandle { abort, flow: begun.to.flow.clone(), bytes });
        }
        self.at_work.push(Abortable::new(RunningCall { key, bytes, begun: Some(begun) }, registration));
    }

    /// A part of what the caller sends after its call; one of a call that is over is nobody's.
    fn take_part(&mut self, key: u64, part: Part, frame: &Bytes) -> Result<(), &'static str> {
        let Some(flow) = self.handles.flow(key) else { return Ok(()) };
        flow.put(part, frame.clone()).map_err(|_abuse| "parts of a stream that it must not send")
    }

    /// A packet that is no call: what nobody knows is passed over.
    fn control(&mut self, request: &Request<'_>) {
        match &*request.uri {
            "$hello" => {
                let instance = request.meta.from.as_deref().filter(|from| from.len() <= MAX_INSTANCE_BYTES);
                self.caller.instance = instance.map(Arc::from);
            }
            "$cancel" => {
                let at_work = request.key.as_ref().and_then(Key::number).and_then(|key| self.handles.take(key));
                if let Some(CallHandle { abort, bytes, .. }) = at_work {
                    // Its work is dropped at the next turn.
                    abort.abort();
                    self.at_work_bytes -= bytes;
                }
            }
            CREDIT_URI => {
                if let Some(flow) = request.key.as_ref().and_then(Key::number).and_then(|key| self.handles.flow(key)) {
                    flow.grant(request.meta.credit.unwrap_or(0));
                }
            }
            _unknown => {}
        }
    }

    fn take_turn(&mut self, turn: <Abortable<RunningCall> as Future>::Output) {
        // Of what was taken back nothing counts any more.
        let Ok((RunningCall { key, bytes, begun }, turn)) = turn else { return };
        self.at_work_bytes -= bytes;
        let before = self.outgoing.len();
        self.outgoing.push(turn.version, turn.packet);
        let kept = begun.as_ref().is_none_or(|begun| self.keeps(before, &begun.to));
        match begun.filter(|_| kept && turn.progress == WriteProgress::More) {
            Some(begun) => self.put_to_work(begun, bytes),
            None => drop(key.and_then(|key| self.handles.take(key))),
        }
    }
}

impl Future for RunningCall {
    type Output = (Self, PolledResponse);

    fn poll(mut self: std::pin::Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let Self { key, bytes, begun } = &mut *self;
        let Some(Poll::Ready(turn)) = begun.as_mut().map(|begun| begun.poll_turn(task)) else { return Poll::Pending };
        Poll::Ready((Self { key: *key, bytes: *bytes, begun: begun.take() }, turn))
    }
}

/// Waits for what an old caller's window waits for, and gives what its end showed; for ever when it waits for nothing.
async fn read_enough(
    stream: &Socket,
    service: &LocalService,
    unread: Option<WindowFull>,
    look: &mut Look,
    written: u64,
) -> (u64, Option<usize>) {
    match unread {
        None => std::future::pending().await,
        Some(WindowFull::Until(time)) => {
            sleep_until(Instant::from_std(time)).await;
            (written, None)
        }
        Some(WindowFull::PollPeer) => look.unread(&service.local_queues, stream, written).await,
    }
}

/// Writes what the socket takes; the step says what is in the way of the rest.
fn write(stream: &Socket, outgoing: &mut ResponseQueue) -> std::io::Result<WriteStep> {
    loop {
        let now = Instant::now().into_std();
        let step = outgoing.next(now);
        let WriteStep::Write(bytes) = &step else { return Ok(step) };
        match stream.try_write(bytes) {
            Ok(taken) => outgoing.wrote(now, taken),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                drop(step);
                outgoing.shrink();
                return Ok(outgoing.next(now));
            }
            Err(error) => return Err(error),
        }
    }
}
