//! The routes of a node, and how a call is begun and answered.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};

use bytes::BytesMut;
use net::{KeyedThrottle, MAX_ESCAPED_BYTES, PeerBacklog, SliceQueue, debug, error, escaped};
use protocol::{
    ClientRequest, EVENT_METHOD, JsonText, Packet, PacketError, Request, Route, Router, Version, WRONG_INSTANCE,
    WRONG_INSTANCE_STATUS, is_idempotent, split_attachment,
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::client::events::key_order::KeyTurns;
use crate::context::tasks::NodeTasks;
use crate::context::{Context, Trace};
use crate::error::ServiceError;
use crate::error::lost::{LostCalls, OneWayCall};
use crate::handler::call_stream::CallStream;
use crate::handler::event::DURABLE_METHOD;
use crate::handler::invocation::RunningHandler;
use crate::handler::response_sink::{ResponseSink, ReturnPath, WriteProgress};
use crate::handler::{Caller, IncomingCall, NodeContext};
use crate::observe::{CallSpan, NodeMetrics, ServedCall};
use crate::server::admission::{LocalRoute, RunPermit, check_hops, check_time, incoming_event, overloaded};
use crate::server::released::ReleasedCalls;
use crate::server::route_pace::RoutePaces;
use crate::transport::budget::Budget;

/// The routes of a node, and the state that all its callers share.
pub(crate) struct LocalService {
    /// The name of the node, and the id of this instance.
    pub(crate) name: Arc<str>,
    pub(crate) instance: Arc<str>,
    pub(crate) router: Router<LocalRoute>,
    pub(crate) node: Arc<NodeContext>,
    /// Observes how much version 1 callers on this machine have read.
    pub(crate) peer_backlog: PeerBacklog,
    /// The time slices of callers that send without a pause.
    pub(crate) slices: SliceQueue,
    /// The bytes that are held for callers.
    pub(crate) budget: Arc<Budget>,
    /// Work that outlasts calls.
    pub(crate) tasks: NodeTasks,
    pub(crate) released: Arc<ReleasedCalls>,
    /// How long the handlers of each route work.
    pub(crate) paces: Arc<RoutePaces>,
    /// Events, and other calls without a response, that were lost because too many waited.
    pub(crate) lost: Arc<LostCalls>,
    /// The events with keys that are at work, and those that wait for them.
    pub(crate) key_turns: Arc<KeyTurns>,
    /// Limits the log about callers, by their address and the kind of line.
    pub(crate) caller_log: Mutex<KeyedThrottle>,
    /// How many unread bytes a caller of version 1 may have, unless it registers that it may have
    /// more.
    pub(crate) legacy_bytes: usize,
    /// The counters of the node, if its author wants them.
    pub(crate) metrics: Option<Arc<NodeMetrics>>,
}

/// A call that has been begun. It is moved several times, so it is kept small.
pub(crate) struct StartedCall {
    pub(crate) return_path: ReturnPath,
    /// The index of its route, if the node offers it.
    pub(super) route: Option<u32>,
    context: Context,
    work: Work,
    /// The route, if the call is not idempotent, has no response, or is of a route that says so: it
    /// is finished even if its caller goes.
    finishes: Option<Route>,
    span: CallSpan,
    served: Option<ServedCall>,
    _permit: RunPermit,
}

/// What is left to do for a call.
enum Work {
    Handler(RunningHandler),
    /// The error that it is answered with.
    Refuse(Box<ServiceError>),
    /// The handler is done.
    Done,
}

impl Work {
    /// Polls the handler, and drops it when it is done or has panicked.
    fn poll(
        &mut self,
        task: &mut TaskContext<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> std::thread::Result<Poll<WriteProgress>> {
        let Self::Handler(handler) = self else { return Ok(Poll::Ready(WriteProgress::Done)) };
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll_response(task, sink)));
        if !matches!(polled, Ok(Poll::Pending | Poll::Ready(WriteProgress::More))) {
            drop_handler(std::mem::replace(self, Self::Done));
        }
        polled
    }
}

impl LocalService {
    /// Finds the handler of a call that was made at `made`, and begins it. An error of the call
    /// becomes its response.
    ///
    /// # Errors
    /// When `frame`, from which `request` was split without parsing, is not a packet after all.
    pub(crate) fn begin(
        &self,
        frame: &[u8],
        request: &mut Request<'_>,
        caller: &Caller,
        may_stream: bool,
        made: Instant,
        now: Instant,
    ) -> Result<StartedCall, PacketError> {
        let (verified, params) = (request.verified, request.params);
        let started = self.begin_in(request, made, caller, may_stream, now);
        if verified || request.verified || serde_json::from_str::<&RawValue>(params.unwrap_or("null")).is_ok() {
            return Ok(started);
        }
        // The request was split without parsing, and its arguments turned out not to be JSON.
        let (packet, attachment) = split_attachment(frame);
        let mut request = Request { attachment, ..Request::from_packet(Packet::parse(packet)?) };
        Ok(self.begin_in(&mut request, made, caller, may_stream, now))
    }

    /// Whether something may be logged of this caller now: how many lines about callers were
    /// suppressed since the last one.
    pub(super) fn allow_log_of(&self, peer: IpAddr, what: &'static str) -> Option<u64> {
        let mut log = self.caller_log.lock().unwrap_or_else(PoisonError::into_inner);
        log.allow((peer, what), Instant::now().into_std())
    }

    /// The instance that this is.
    pub(crate) fn instance(&self) -> &str {
        &self.node.peers.mesh.local_node().instance
    }

    /// Refuses a call that is meant for another instance, whatever it asks for.
    pub(crate) fn misdirected(&self, request: &mut Request<'_>) -> StartedCall {
        let legacy_bytes = self.legacy_bytes;
        let one_way = self.one_way(request);
        let key = request.key.take();
        let to = ReturnPath { version: request.version, key, legacy_bytes, call_stream: None, one_way, http: None };
        let message = format!("this is another instance of {}, or another service, than the call is for", self.name);
        let error = ServiceError::new(WRONG_INSTANCE_STATUS, WRONG_INSTANCE, message);
        StartedCall::failed(to, Context::default(), error)
    }

    /// Begins a call. Afterwards `request.verified` says whether its arguments were parsed, and so
    /// are JSON.
    pub(super) fn begin_in(
        &self,
        request: &mut Request<'_>,
        made: Instant,
        caller: &Caller,
        may_stream: bool,
        now: Instant,
    ) -> StartedCall {
        let mut to = self.return_path(request, caller);
        let mut context = Context {
            deadline: request.meta.time_left.and_then(|left| made.checked_add(left)),
            trace: request.meta.trace.as_deref().and_then(Trace::parse),
            hops: request.meta.hops.saturating_add(1),
            may_stream: to.call_stream.is_some(),
            is_finished: false,
        };
        let Some(found) = self.router.find(&request.method, &request.uri) else {
            let message = format!("this node does not offer {}{}", request.method, request.uri);
            return StartedCall::failed(to, context, ServiceError::not_found("no_route", message));
        };
        let offer = found.value;
        let served = self.metrics.as_ref().map(|metrics| ServedCall::begin(metrics, offer.index, now));
        let span = match CallSpan::records_served() {
            false => CallSpan::default(),
            true => served_span(offer, caller, &mut context),
        };
        // An emitter that wants an acknowledgement says which event it is.
        let is_event = [EVENT_METHOD, DURABLE_METHOD].contains(&&*request.method);
        let is_acknowledged = is_event && to.key.is_some() && request.meta.event.is_some();
        if offer.one_way && !is_acknowledged && to.key.take().is_some() {
            to.one_way = self.one_way(request);
        }
        let admit = || {
            check_hops(context.hops)?;
            check_time(now.saturating_duration_since(made), request.meta.time_left)?;
            if to.call_stream.is_some() && !may_stream {
                return Err(overloaded("this caller has too many open streams"));
            }
            let key = request.meta.event_key.as_deref().filter(|_| is_acknowledged);
            self.admit(offer, to.key.is_some(), key)
        };
        let run = match admit() {
            Ok(run) => run,
            Err(error) => {
                let mut failed = StartedCall::failed(to, context, error);
                (failed.span, failed.served) = (span, served);
                return failed;
            }
        };
        let is_finished =
            to.key.is_none() || offer.to_the_end || !(request.meta.idempotent || is_idempotent(&request.method));
        let context = Cell::new(Context { is_finished, ..context });
        let event = is_event.then(|| incoming_event(&request.method, &request.uri, &request.meta));
        let client = request.meta.request.and_then(|JsonText(text)| ClientRequest::parse(text));
        to.http = client.as_ref().map(|client| client.is_https);
        let call = IncomingCall {
            version: request.version,
            params: request.params,
            verified: Cell::new(request.verified),
            route: &offer.route,
            captured: &found.captured,
            context: &context,
            caller,
            call_stream: to.call_stream.as_ref(),
            client: client.as_ref(),
            wanted: offer.wanted.as_ref(),
            body: request.attachment,
            event,
            body_follows: request.meta.body_follows,
            max_body: offer.max_body,
            next: RefCell::new(None),
            extensions: RefCell::default(),
            node: &self.node,
        };
        // A panic while arguments are read must cost only this call, as one in the handler does.
        let begin = || span.in_scope(|| offer.begin(&call, run));
        let begun = std::panic::catch_unwind(AssertUnwindSafe(begin));
        let (work, permit) = match begun.unwrap_or_else(|panic| Err(panicked(&*panic, ANSWERED))) {
            Ok((handler, permit)) => (Work::Handler(handler), permit),
            Err(error) => (Work::Refuse(Box::new(error)), RunPermit::default()),
        };
        request.verified = call.verified.get();
        let finishes = is_finished.then(|| offer.route.clone());
        let route = u32::try_from(offer.index).ok();
        StartedCall { return_path: to, route, context: context.get(), work, finishes, span, served, _permit: permit }
    }

    /// The way back to the caller. Takes the key from the request.
    fn return_path(&self, request: &mut Request<'_>, caller: &Caller) -> ReturnPath {
        let key = request.key.take();
        let streams = request.version == Version::V2 && key.as_ref().is_some_and(|key| key.number().is_some());
        let held = caller.held_in_streams.as_ref();
        let call_stream = request
            .meta
            .credit
            .filter(|_| streams)
            .map(|credit| CallStream::new(credit, request.meta.body_follows, held.cloned().unwrap_or_default()));
        let one_way = if key.is_none() { self.one_way(request) } else { None };
        ReturnPath { version: request.version, key, legacy_bytes: caller.read_window, call_stream, one_way, http: None }
    }

    /// The record of a call without a response, for the log if it fails.
    fn one_way(&self, request: &Request<'_>) -> Option<Box<OneWayCall>> {
        let route = format!("{}{}", request.method, request.uri);
        Some(Box::new(OneWayCall { route, lost: Arc::clone(&self.lost) }))
    }
}

/// The span of a call of a route, if a subscriber listens. A call that is seen and is of no trace
/// begins one.
#[cold]
fn served_span(offer: &LocalRoute, caller: &Caller, context: &mut Context) -> CallSpan {
    let span = match &caller.stated_name {
        Some(name) => CallSpan::of_served(offer.route.as_str(), escaped(name, MAX_ESCAPED_BYTES)),
        None => CallSpan::of_served(offer.route.as_str(), caller.address),
    };
    if span.is_seen() {
        span.record("traceparent", context.trace.get_or_insert_with(Trace::begin).traceparent());
    }
    span
}

impl StartedCall {
    fn failed(to: ReturnPath, context: Context, error: ServiceError) -> Self {
        let (work, span, served) = (Work::Refuse(Box::new(error)), CallSpan::default(), None);
        let permit = RunPermit::default();
        Self { return_path: to, route: None, context, work, finishes: None, span, served, _permit: permit }
    }

    /// The route, if the work is finished even if its caller goes. An open stream ends with its
    /// caller.
    pub(crate) fn route_to_finish(&self) -> Option<&Route> {
        let call_stream = self.return_path.call_stream.as_ref();
        let ends = call_stream.is_some_and(|call_stream| call_stream.ends_with_caller());
        self.finishes.as_ref().filter(|_| self.is_running() && !ends)
    }

    /// Whether the handler has to be run by a task of its own.
    pub(super) fn computes(&self, paces: &RoutePaces) -> bool {
        self.is_running() && self.route.is_some_and(|route| paces.computes(route))
    }

    fn is_running(&self) -> bool {
        matches!(self.work, Work::Handler(_))
    }

    /// Refuses the call instead of beginning it, if it has waited since `began` for most of its
    /// time.
    pub(super) fn refuse_if_late(&mut self, began: Instant, now: Instant) {
        let time = self.context.deadline.map(|deadline| deadline.saturating_duration_since(began));
        if let Err(error) = check_time(now.saturating_duration_since(began), time) {
            self.end_handler(Work::Refuse(Box::new(error)));
        }
    }

    /// Its caller has gone, and the call is finished: see [`Context::finishing`].
    pub(super) fn release(&mut self, now: Instant) {
        self.context = self.context.finishing(now);
    }

    /// Lends the return path of the response, until
    /// [`attach_return_path`](Self::attach_return_path).
    pub(crate) fn detach_return_path(&mut self) -> ReturnPath {
        let ReturnPath { version, key, legacy_bytes, call_stream, one_way, http } = &mut self.return_path;
        ReturnPath {
            version: *version,
            key: key.take(),
            legacy_bytes: *legacy_bytes,
            call_stream: call_stream.take(),
            one_way: one_way.take(),
            http: *http,
        }
    }

    pub(crate) fn attach_return_path(&mut self, to: ReturnPath) {
        self.return_path = to;
    }

    /// Polls the handler, which writes the ready part of the response to `sink`. A panic costs only
    /// this call.
    pub(crate) fn poll_response(
        &mut self,
        task: &mut TaskContext<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress> {
        let polled = self.poll_handler(task, sink);
        if let Some(status) = sink.status().filter(|_| self.served.is_some() || self.span.is_seen()) {
            self.span.record("status", status);
            self.served.iter_mut().for_each(|served| served.answer(status));
        }
        polled
    }

    fn poll_handler(&mut self, task: &mut TaskContext<'_>, sink: &mut ResponseSink<'_>) -> Poll<WriteProgress> {
        let Self { context, work, span, .. } = self;
        if let Work::Refuse(error) = work {
            sink.failure(error);
            return Poll::Ready(WriteProgress::Done);
        }
        if sink.write_stream_control(task) {
            *context = context.outlasting();
        }
        let poll = || work.poll(task, sink);
        match context.enter(|| span.in_scope(poll)) {
            Ok(Poll::Pending) => {
                // A handler behind a guard may just have begun to take items.
                if sink.write_stream_control(task) {
                    *context = context.outlasting();
                }
                if sink.has_written() { Poll::Ready(WriteProgress::More) } else { Poll::Pending }
            }
            Ok(polled) => polled,
            Err(panic) => {
                sink.clear();
                sink.failure(&panicked(&*panic, ANSWERED));
                Poll::Ready(WriteProgress::Done)
            }
        }
    }
}

/// The bytes that a call has written which was not done at once.
#[derive(Debug)]
pub(crate) struct PolledResponse {
    pub(crate) version: Version,
    pub(crate) packet: BytesMut,
    pub(crate) progress: WriteProgress,
}

impl StartedCall {
    /// As [`poll_response`](Self::poll_response), with a packet of its own.
    pub(crate) fn poll_response_packet(&mut self, task: &mut TaskContext<'_>) -> Poll<PolledResponse> {
        let to = self.detach_return_path();
        let mut packet = BytesMut::new();
        let polled = self.poll_response(task, &mut ResponseSink::new(&mut packet, &to));
        let version = to.version;
        self.return_path = to;
        polled.map(|progress| PolledResponse { version, packet, progress })
    }
}

impl StartedCall {
    /// Drops the handler, if there still is one, in the context of its call: what its destructors
    /// do is work for the call. `work` is what is left to do.
    fn end_handler(&mut self, work: Work) {
        let Self { context, span, .. } = self;
        let ended = std::mem::replace(&mut self.work, work);
        if matches!(ended, Work::Handler(_)) {
            context.enter(|| span.in_scope(|| drop_handler(ended)));
        }
    }
}

impl Drop for StartedCall {
    fn drop(&mut self) {
        self.end_handler(Work::Done);
    }
}

/// A panic in a destructor costs no other call.
fn drop_handler(ended: Work) {
    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(ended))) {
        panicked(&*panic, "while it was dropped");
    }
}

/// What became of the call of a handler that panicked.
const ANSWERED: &str = "its call was answered with an error";

/// The details go to the log. The caller only learns that the fault is not its own.
fn panicked(panic: &(dyn Any + Send), end: &str) -> ServiceError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = ?escaped(text.unwrap_or("no text"), 4 * MAX_ESCAPED_BYTES), "a handler panicked: {end}");
    debug!("set RUST_BACKTRACE=1 to see where");
    ServiceError::internal("the handler failed")
}
