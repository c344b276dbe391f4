//! The attempts of a call: where each goes, which failures lead to another attempt, and the result
//! for the caller.

use std::borrow::Cow;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use protocol::{
    BODY_WINDOW, CallMeta, CallUrl, JsonText, STREAM_WINDOW, Version, is_idempotent, write_attached, write_request,
};
use tokio::time::Instant;

use crate::balance::PickOptions;
use crate::client::call::arguments::SubmitError;
use crate::client::call::progress::{CallState, HedgeState};
use crate::client::call::raw_call::RawCall;
use crate::client::call::response::{RawResponse, is_declined, opens_stream};
use crate::client::local_call::LocalCall;
use crate::context::{Context, Trace};
use crate::error::CallError;
use crate::routing::path_params;
use crate::routing::provider::{Provider, RouteProviders};
use crate::routing::table::Lookup;
use crate::transport::connection::PendingCall;
use crate::transport::in_flight::{CallDeadlines, CallFailure, CallResult, StreamOptions};
use crate::transport::response_frame::ResponseFrame;
use crate::transport::write_queue::EnqueueError;

/// Replaces a timeout that no clock can express.
const MAX_CALL_TIME: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl RawCall<'_> {
    /// Makes an attempt. A one-way call is answered at once.
    fn poll_attempt(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RawResponse>, CallError> {
        let now = self.started.take().unwrap_or_else(Instant::now);
        let context = self.context();
        let deadline = self.progress.deadline.unwrap_or_else(|| self.begin(now, &context));
        if deadline <= now {
            let setbacks = self.progress.setbacks.as_ref();
            if setbacks.is_some_and(|setbacks| setbacks.has_waited_for_list) && !self.mesh.view().has_list() {
                return Err(CallError::NoList { url: self.url() });
            }
            return match self.not_asked_error() {
                Some(error) if self.progress.tried().is_empty() => Err(error),
                _ => Err(self.deadline_error()),
            };
        }
        let local = self.local();
        // A key belongs to one of all providers, whichever node calls.
        if let Some(service) = &local
            && self.sticky_key.is_none()
            && self.progress.tried().is_empty()
        {
            return self.call_local(service, deadline, context);
        }
        let found = match self.is_probe {
            true => self.mesh.lookup_all(self.method, self.path),
            false => self.mesh.lookup(self.method, self.path),
        };
        if self.mesh.view().needs().is_partial() && self.asks_first(&found, now, deadline) {
            return Ok(None);
        }
        if let Lookup::Available(providers, _) = &found {
            self.observe_route(providers);
        }
        let (providers, captured) = match (found, &local) {
            (Lookup::Available(providers, captured), _) => (providers, captured),
            (_, Some(service)) => return self.call_local(service, deadline, context),
            (Lookup::Unknown, None) if !self.progress.has_declined() => {
                return self.unknown_route(deadline).map(|()| None);
            }
            (Lookup::Unavailable | Lookup::Unknown, None) => return self.no_provider_error().map(Some),
        };
        loop {
            let picked = self.pick_provider(&providers, now, local.is_some());
            let Some(provider) = picked else { return self.no_provider_error().map(Some) };
            if let Some(service) = local.as_ref().filter(|_| provider.is_local) {
                return self.call_local(service, deadline, context);
            }
            match self.submit(provider, &captured, now, deadline, &context) {
                Ok(None) => return Ok(Some(RawResponse::default())),
                Ok(Some(mut pending)) => {
                    // The call may already be lost, and its response must wake this task.
                    if let Poll::Ready(outcome) = pending.poll(task) {
                        if let Some(response) = self.resolve(pending, outcome)? {
                            return Ok(Some(response));
                        }
                        continue;
                    }
                    self.progress.state = CallState::Waiting(pending);
                    return Ok(None);
                }
                Err(SubmitError::Params(source)) => return Err(CallError::Params { url: self.url(), source }),
                Err(SubmitError::Connection(refusal)) => {
                    let setbacks = self.progress.setbacks_mut();
                    setbacks.has_found_full |= refusal == EnqueueError::Full;
                    // A version 2 provider may accept a packet that a version 1 node cannot read.
                    setbacks.has_found_too_small |= refusal == EnqueueError::TooLarge;
                    setbacks.tried.push(provider.connection.address);
                }
            }
        }
    }

    /// The provider of the next attempt, and begins to connect to it. A node that `answers_itself`
    /// needs no connection for that.
    fn pick_provider<'p>(
        &self,
        providers: &'p RouteProviders,
        now: Instant,
        answers_itself: bool,
    ) -> Option<&'p Provider> {
        let Some(address) = self.address.as_deref() else {
            let options = self.pick_options(providers, self.progress.tried());
            return providers.pick(&options, now, |provider| {
                if !provider.is_local || !answers_itself {
                    self.mesh.connect(&provider.connection);
                }
            });
        };
        let mut members = providers.pools().flat_map(|pool| pool.members());
        let provider = members.find(|provider| provider.connection.address == *address);
        let provider = provider.filter(|_| self.progress.tried().is_empty());
        provider.inspect(|provider| self.mesh.connect(&provider.connection))
    }

    /// How a provider is picked that is none of `tried`.
    pub(super) fn pick_options<'p>(&'p self, providers: &RouteProviders, tried: &'p [SocketAddr]) -> PickOptions<'p> {
        let local = || providers.members().iter().find(|provider| provider.is_local);
        let excluded = if self.progress.has_declined_here() { local() } else { None };
        PickOptions {
            balance: self.balance,
            sticky: self.sticky_key,
            instance: self.instance,
            tried,
            excluded: excluded.map(|provider| provider.connection.address),
        }
    }

    /// The first attempt: returns the deadline of all of them.
    fn begin(&mut self, now: Instant, context: &Context) -> Instant {
        if !self.is_probe {
            self.mesh.retries().deposit();
        }
        let own = now.checked_add(self.timeout).unwrap_or_else(|| now + MAX_CALL_TIME);
        let deadline = context.inner_deadline(now).map_or(own, |inherited| own.min(inherited));
        self.progress.within = deadline.saturating_duration_since(now);
        *self.progress.deadline.insert(deadline)
    }

    /// The context that the call inherits from the one that is being handled.
    pub(super) fn context(&self) -> Context {
        let current = Context::current();
        Context { trace: self.trace().or(current.trace), ..current }
    }

    /// The service of this node, if it may answer the call itself.
    fn local(&self) -> Option<Arc<dyn LocalCall>> {
        // A stream needs a connection, even to this node itself, which must be listed.
        let is_elsewhere = self.address.is_some() || self.instance.is_some() || self.window.is_some();
        if is_elsewhere || self.progress.has_declined_here() {
            return None;
        }
        self.mesh.local().filter(|service| service.offers(self.method, self.path))
    }

    /// Lets this node itself answer the call.
    fn call_local(
        &mut self,
        service: &Arc<dyn LocalCall>,
        deadline: Instant,
        context: Context,
    ) -> Result<Option<RawResponse>, CallError> {
        self.observe_local();
        let (service, url) = (Arc::clone(service), CallUrl::new(self.method, self.path));
        let context = Context { deadline: Some(deadline), ..context };
        let (one_way, idempotent) = (self.one_way, self.idempotent);
        let sent = self.arguments.with_text(|text| {
            if one_way {
                let has_room = service.notify(url, text, context.outlasting());
                return if has_room { Ok(None) } else { Err(SubmitError::Connection(EnqueueError::Full)) };
            }
            Ok(Some(service.call(url, text, context, idempotent)))
        });
        match sent {
            Ok(Some(answer)) => {
                self.progress.state = CallState::Local(answer);
                Ok(None)
            }
            Ok(None) => Ok(Some(RawResponse::default())),
            Err(SubmitError::Params(source)) => Err(CallError::Params { url: self.url(), source }),
            Err(SubmitError::Connection(_)) => Err(CallError::Overloaded { url: self.url() }),
        }
    }

    /// Hands the call to a provider's connection.
    pub(super) fn submit(
        &self,
        provider: &Provider,
        captured: &[&str],
        now: Instant,
        deadline: Instant,
        context: &Context,
    ) -> Result<Option<PendingCall>, SubmitError> {
        let (connection, version) = (&provider.connection, provider.connection.version);
        let lacks_body = self.body().is_some() && !provider.takes_raw_body();
        if lacks_body || (self.body_follows && !provider.takes_upload()) {
            return Err(SubmitError::Connection(EnqueueError::TooLarge));
        }
        // Serializing arguments runs the caller's code, so it must not happen while the connection
        // is locked.
        self.arguments.with_text(|text| {
            let merged = match version {
                Version::V1 => {
                    path_params::merge(text, path_params::names(&provider.route).zip(captured.iter().copied()))
                }
                // A version 2 node reads the path itself.
                Version::V2 => Cow::Borrowed(text),
            };
            let trace = context.trace.map(Trace::child);
            self.observe_attempt(connection.address, trace.as_ref());
            let wanted = provider.wanted().filter(|_| version == Version::V2);
            let request = self.client().zip(wanted).map(|(client, wanted)| client.request(wanted).to_json());
            let meta = |sent| CallMeta {
                time_left: Some(deadline.saturating_duration_since(now)),
                sent,
                trace: trace.as_ref().map(|trace| Cow::Borrowed(trace.traceparent())),
                idempotent: self.idempotent && !is_idempotent(self.method),
                attempt: u8::try_from(self.progress.tried().len()).unwrap_or(u8::MAX),
                credit: self.window,
                hops: context.hops,
                body_follows: self.body_follows,
                request: request.as_deref().map(JsonText),
                ..CallMeta::default()
            };
            let url = CallUrl::new(self.method, self.path);
            if self.one_way {
                connection
                    .send(&self.url().into(), |out| write_request(out, version, url, None, &merged, &meta(None)))
                    .map_err(SubmitError::Connection)?;
                return Ok(None);
            }
            let write = |key, sent, out: &mut _| {
                let meta = meta(Some(sent));
                write_attached(out, self.body(), |out| write_request(out, version, url, Some(key), &merged, &meta));
            };
            // A stream that is opened while another stream is handled may last as long as that one.
            let lasting = context.inner_deadline(now).filter(|_| !context.may_stream).map(Instant::into_std);
            let credit = if self.body_follows { BODY_WINDOW } else { STREAM_WINDOW };
            let stream = self.window.map(|window| StreamOptions { deadline: lasting, window, credit });
            let pending = connection.submit(now, CallDeadlines { response: deadline.into_std(), stream }, write);
            let counted = |pending: PendingCall| Some(if self.is_probe { pending.uncounted() } else { pending });
            pending.map(counted).map_err(SubmitError::Connection)
        })
    }

    /// Decides what follows from an attempt: the response, or `None` for another attempt.
    fn resolve(&mut self, pending: PendingCall, outcome: CallResult) -> Result<Option<RawResponse>, CallError> {
        // Most outcomes do not need the time.
        let now = || Instant::now().into_std();
        let connection = pending.connection();
        if self.is_probe {
            return match outcome {
                Ok(frame) => {
                    let node = Some(connection.address);
                    if self.window.is_some() && opens_stream(&frame) {
                        self.progress.opened = Some(pending);
                    }
                    Ok(Some(RawResponse { frame, node }))
                }
                Err(CallFailure::Lost { .. }) => Err(CallError::Lost { url: self.url(), node: connection.address }),
                Err(CallFailure::Deadline { .. }) => Err(self.deadline_error()),
            };
        }
        let retries = self.mesh.retries();
        match outcome {
            Ok(frame) => {
                // The node has not begun the call, so another one may carry it out.
                let declined = is_declined(&frame);
                if declined && self.address.is_none() && self.instance.is_none() && retries.try_withdraw(now()) {
                    let (node, setbacks) = (connection.address, self.progress.setbacks_mut());
                    setbacks.declined = Some(RawResponse { frame, node: Some(node) });
                    setbacks.tried.push(node);
                    return Ok(None);
                }
                if self.progress.lost().is_some() {
                    self.mesh.record_response(&self.route_name());
                }
                let node = Some(connection.address);
                if self.window.is_some() && opens_stream(&frame) {
                    self.progress.opened = Some(pending);
                }
                Ok(Some(RawResponse { frame, node }))
            }
            Err(CallFailure::Lost { written: false }) => {
                self.progress.setbacks_mut().tried.push(connection.address);
                Ok(None)
            }
            Err(CallFailure::Lost { written: true }) => {
                let was_ejected = connection.load.is_ejected(now());
                connection.load.record_failure(now());
                self.observe_ejection(was_ejected, connection.load.is_ejected(now()));
                self.mesh.record_failed(connection.address);
                let may_retry = self.mesh.record_loss(now(), &self.route_name(), connection.address);
                if may_retry && self.idempotent && self.progress.lost().is_none() && retries.try_withdraw(now()) {
                    let setbacks = self.progress.setbacks_mut();
                    setbacks.lost = Some(connection.address);
                    setbacks.tried.push(connection.address);
                    return Ok(None);
                }
                Err(CallError::Lost { url: self.url(), node: connection.address })
            }
            Err(CallFailure::Deadline { .. }) => {
                let now = now();
                let was_ejected = connection.load.is_ejected(now);
                connection.load.record_timeout(now);
                self.observe_ejection(was_ejected, connection.load.is_ejected(now));
                // A node that has answered another call meanwhile is alive: only this call took too
                // long.
                if connection.load.silent_for(now) >= self.progress.within {
                    self.mesh.record_failed(connection.address);
                }
                Err(self.deadline_error())
            }
        }
    }

    /// The route that is called, as nodes register it.
    fn route_name(&self) -> String {
        match self.mesh.lookup(self.method, self.path) {
            Lookup::Available(providers, _) => {
                let first = providers.members().first();
                first.map_or_else(|| self.url(), |provider| provider.route.as_str().to_owned())
            }
            Lookup::Unavailable | Lookup::Unknown => self.url(),
        }
    }
}

impl RawCall<'_> {
    /// Polls what the call waits for. `None` when that is over and the call goes on: poll it again.
    #[inline]
    fn poll_state(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<Option<RawResponse>, CallError>> {
        match &mut self.progress.state {
            CallState::Due => {
                let response = self.poll_attempt(task)?;
                let hedges = matches!(self.progress.hedge, HedgeState::Idle) && self.hedges();
                let waits = matches!(self.progress.state, CallState::Waiting(_)) && !hedges;
                if response.is_none() && waits { Poll::Pending } else { Poll::Ready(Ok(response)) }
            }
            CallState::Local(response) => match ready!(response.as_mut().poll(task)).map(ResponseFrame::from) {
                Some(frame) if is_declined(&frame) => {
                    // Another node may carry it out.
                    let setbacks = self.progress.setbacks_mut();
                    setbacks.declined = Some(RawResponse { frame, node: None });
                    setbacks.has_declined_here = true;
                    self.progress.state = CallState::Due;
                    Poll::Ready(Ok(None))
                }
                Some(frame) => Poll::Ready(Ok(Some(RawResponse { frame, node: None }))),
                None => Poll::Ready(Err(self.deadline_error())),
            },
            CallState::Asking(answer) => {
                let answer = ready!(answer.as_mut().poll(task));
                self.progress.setbacks_mut().asked = Some(answer);
                self.progress.state = CallState::Due;
                Poll::Ready(Ok(None))
            }
            CallState::AwaitingList(listed) => {
                ready!(listed.as_mut().poll(task));
                self.progress.state = CallState::Due;
                Poll::Ready(Ok(None))
            }
            CallState::Waiting(pending) => {
                let mut polled = pending.poll(task);
                if polled.is_pending() && self.hedges() {
                    polled = self.poll_hedge(task);
                }
                Poll::Ready(self.settle(ready!(polled)))
            }
        }
    }

    /// Handles the outcome of the attempt that the call waits for. `None` when the hedge may still
    /// succeed, or another attempt is due.
    fn settle(&mut self, outcome: CallResult) -> Result<Option<RawResponse>, CallError> {
        let CallState::Waiting(pending) = std::mem::take(&mut self.progress.state) else { return Ok(None) };
        let settled = self.resolve(pending, outcome);
        if !matches!(settled, Ok(Some(_)))
            && let HedgeState::Asked(other) = std::mem::replace(&mut self.progress.hedge, HedgeState::Done)
        {
            self.progress.state = CallState::Waiting(other);
            return Ok(None);
        }
        settled
    }
}

impl Future for RawCall<'_> {
    type Output = Result<RawResponse, CallError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.progress.deadline.is_none() && !this.is_probe {
            this.observe_begin();
        }
        let polled = match this.progress.observed.span.seen() {
            None => this.poll_response(task),
            Some(span) => span.in_scope(|| this.poll_response(task)),
        };
        if let Poll::Ready(result) = &polled {
            this.observe_end(result);
        }
        polled
    }
}

impl RawCall<'_> {
    /// Polls one state after the other, up to the response.
    #[inline]
    fn poll_response(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<RawResponse, CallError>> {
        loop {
            if let Some(response) = ready!(self.poll_state(task))? {
                self.progress.state = CallState::Due;
                return Poll::Ready(Ok(response));
            }
        }
    }
}
