//! One caller's connection: all packets of a read are begun, all answers that are ready leave together.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::task::Poll;
use std::time::Duration;

use daemon::{FrameReader, LocalQueues, Look, at};
use futures::FutureExt;
use futures::future::CatchUnwind;
use futures::stream::{FuturesUnordered, StreamExt};
use protocol::{Key, Packet, Reply, Request, Route, Unread, Version, is_blank};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::error::ServiceError;
use crate::handler::{self, AnyHandler, Incoming, Running, Surroundings};
use crate::link::MAX_FRAME_BYTES;
use crate::outgoing::{Outgoing, Step};
use crate::params;
use crate::router::Router;

/// Calls of one caller at work at a time; with more, it is not read from until one is done.
const MAX_AT_WORK: usize = 1024;
/// Answers of one caller that may wait, in bytes; with more, it is not read from until it reads.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// How long a call may take from its first byte to its last.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller may take nothing of its answers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Broken packets after which a connection is cut; what follows is not likely to be better.
const MAX_STRIKES: u32 = 3;
/// Packets that are begun before other connections have their turn.
const FRAMES_PER_TURN: usize = 64;

/// What a node offers.
pub(crate) struct Service {
    pub(crate) router: Router<(Route, Box<dyn AnyHandler>)>,
    pub(crate) surroundings: Surroundings,
    /// What old callers on this machine have read.
    pub(crate) local_queues: LocalQueues,
}

/// Serves one caller until it goes, or until `finish` is cancelled and its calls are done. Says why it ended.
pub(crate) async fn run(stream: &TcpStream, service: &Service, finish: &CancellationToken) -> &'static str {
    let mut reader = FrameReader::new(MAX_FRAME_BYTES);
    let mut at_work = FuturesUnordered::new();
    let mut outgoing = Outgoing::new(LocalQueues::can_see(stream));
    let mut strikes = 0;
    let mut stalled_since = None;
    let mut closed = false;
    let mut at_caller = Look::default();
    loop {
        let mut begun = 0;
        while at_work.len() < MAX_AT_WORK && outgoing.len() < MAX_WAITING_BYTES && begun < FRAMES_PER_TURN {
            let frame = match reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_too_large) => return "a call larger than 8 MiB",
            };
            begun += 1;
            if is_blank(&frame) {
                continue;
            }
            let Ok(packet) = Packet::parse(&frame) else {
                strikes += 1;
                if strikes == MAX_STRIKES {
                    return "too many broken packets";
                }
                continue;
            };
            let (to, running) = begin(packet, service);
            let mut work = Work { to, running: AssertUnwindSafe(running).catch_unwind() };
            // Most handlers are done at once and never need a place of their own.
            match poll_fn(|context| Poll::Ready(work.running.poll_unpin(context))).await {
                Poll::Ready(reply) => work.to.answer(&mut outgoing, settle(reply)),
                Poll::Pending => at_work.push(work.finish()),
            }
        }
        let more = begun == FRAMES_PER_TURN;
        while let Some(Some((to, reply))) = at_work.next().now_or_never() {
            to.answer(&mut outgoing, reply);
        }
        let (blocked, paced) = match write(stream, &mut outgoing) {
            Ok(Step::WaitFor(unread)) => (false, Some(unread)),
            Ok(Step::Write(_)) => (true, None),
            Ok(Step::Done) => (false, None),
            Err(_broken) => return "broken",
        };
        let idle = at_work.is_empty() && outgoing.len() == 0 && !more;
        if idle && closed {
            return "closed by the caller";
        }
        if idle && finish.is_cancelled() {
            return "leaving";
        }
        stalled_since = blocked.then(|| stalled_since.unwrap_or_else(Instant::now));
        if paced.is_none() {
            at_caller.done();
        }
        let written = outgoing.written();
        let listening = !closed && at_work.len() < MAX_AT_WORK && outgoing.len() < MAX_WAITING_BYTES;
        tokio::select! {
            () = tokio::task::yield_now(), if more => {}
            readable = stream.readable(), if listening && !more => {
                match readable.and_then(|()| reader.fill(stream)) {
                    Ok(true) => {}
                    // A caller that closes its side may still read its answers.
                    Ok(false) => closed = true,
                    Err(_broken) => return "broken",
                }
            }
            Some((to, reply)) = at_work.next(), if !at_work.is_empty() => to.answer(&mut outgoing, reply),
            writable = stream.writable(), if blocked => if writable.is_err() { return "broken" },
            (written, seen) = read_enough(stream, service, paced, &mut at_caller, written) => outgoing.seen(written, seen),
            () = at(reader.deadline(FRAME_TIMEOUT)), if listening => return "a call took too long to arrive",
            () = at(stalled_since.map(|since| since + WRITE_TIMEOUT)) => return "it takes none of its answers",
            () = finish.cancelled(), if !finish.is_cancelled() => {}
        }
    }
}

/// Waits for what an old caller's window waits for, and gives what its end showed; for ever when it waits for nothing.
async fn read_enough(
    stream: &TcpStream,
    service: &Service,
    unread: Option<Unread>,
    look: &mut Look,
    written: u64,
) -> (u64, Option<usize>) {
    match unread {
        None => std::future::pending().await,
        Some(Unread::Until(time)) => {
            sleep_until(Instant::from_std(time)).await;
            (written, None)
        }
        Some(Unread::Look) => look.unread(&service.local_queues, stream, written).await,
    }
}

/// Writes what the socket takes; the step says what is in the way of the rest.
fn write(stream: &TcpStream, outgoing: &mut Outgoing) -> std::io::Result<Step> {
    loop {
        let now = Instant::now().into_std();
        let step = outgoing.next(now);
        let Step::Write(bytes) = &step else { return Ok(step) };
        match stream.try_write(bytes) {
            Ok(taken) => outgoing.wrote(now, taken),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(step),
            Err(error) => return Err(error),
        }
    }
}

/// Where an answer goes; nowhere for a call without a key.
struct ReplyTo {
    version: Version,
    key: Option<Key>,
}

impl ReplyTo {
    fn answer(&self, outgoing: &mut Outgoing, reply: handler::Reply) {
        let Some(key) = &self.key else { return };
        match reply {
            Ok(result) => outgoing.push(self.version, key, Reply::Success(&result)),
            Err(ServiceError { status, reason, message }) => {
                outgoing.push(self.version, key, Reply::Failure { status, reason: &reason, message: &message });
            }
        }
    }
}

/// A call at work.
struct Work {
    to: ReplyTo,
    running: CatchUnwind<AssertUnwindSafe<Running>>,
}

impl Work {
    async fn finish(self) -> (ReplyTo, handler::Reply) {
        (self.to, settle(self.running.await))
    }
}

/// Finds the handler of a call and begins it. What is wrong with the call becomes its answer.
fn begin(packet: Packet<'_>, service: &Service) -> (ReplyTo, Running) {
    let mut request = Request::from_packet(packet);
    let to = ReplyTo { version: request.version, key: request.key.take() };
    let begun = match service.router.find(&request.method, &request.uri) {
        Some(found) => {
            let (route, handler) = found.value;
            // A panic while arguments are taken must cost this call only, like one in the handler.
            let begin = || {
                let params = params::of_call(&request, route, &found.captured);
                handler.begin(&Incoming::new(params.as_deref(), &service.surroundings))
            };
            std::panic::catch_unwind(AssertUnwindSafe(begin)).unwrap_or_else(|panic| Err(panicked(&*panic)))
        }
        None => Err(ServiceError::not_found(
            "no_route",
            format!("this node does not offer {}{}", request.method, request.uri),
        )),
    };
    (to, begun.unwrap_or_else(|error| Box::pin(std::future::ready(Err(error)))))
}

fn settle(reply: Result<handler::Reply, Box<dyn Any + Send>>) -> handler::Reply {
    reply.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// The details are for the log; the caller only learns that it was not its fault.
fn panicked(panic: &(dyn Any + Send)) -> ServiceError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = text.unwrap_or("no text"), "a handler panicked; its call was answered with an error");
    debug!("set RUST_BACKTRACE=1 to see where");
    ServiceError::internal("the handler failed")
}
