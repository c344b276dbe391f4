//! A call as operators see it: its span, and its counters.

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::client::call::raw_call::RawCall;
use crate::client::call::response::RawResponse;
use crate::context::Trace;
use crate::error::CallError;
use crate::observe::{CallOutcome, CallRecord, CallSpan};
use crate::routing::provider::RouteProviders;
use crate::routing::table::Lookup;

/// What operators see of a call. Nothing, for most.
#[derive(Debug, Default)]
pub(super) struct ObservedCall {
    pub(super) span: CallSpan,
    record: Option<CallRecord>,
}

impl RawCall<'_> {
    /// Before the first attempt. A call that is seen and is of no trace begins one.
    #[inline]
    pub(super) fn observe_begin(&mut self) {
        if let Some(metrics) = self.mesh.metrics() {
            self.progress.observed.record = Some(CallRecord::begin(metrics, self.started.unwrap_or_else(Instant::now)));
        }
        self.progress.observed.span = CallSpan::of_call(self.method, self.path);
        if self.progress.observed.span.is_seen() && self.context().trace.is_none() {
            self.set_trace(Trace::begin());
        }
    }

    /// The call is of the route of these providers.
    #[inline]
    pub(super) fn observe_route(&mut self, providers: &RouteProviders) {
        if let Some(record) = self.progress.observed.record.as_mut().filter(|record| record.lacks_route()) {
            record.set_route(|metrics| providers.call_stats(metrics));
        }
    }

    /// This node itself answers the call.
    pub(super) fn observe_local(&mut self) {
        if self.progress.observed.record.as_ref().is_some_and(CallRecord::lacks_route)
            && let Lookup::Available(providers, _) = self.mesh.lookup_all(self.method, self.path)
        {
            self.observe_route(&providers);
        }
        self.progress.observed.span.record("provider", "itself");
    }

    /// An attempt at a provider begins.
    #[inline]
    pub(super) fn observe_attempt(&self, provider: SocketAddr, trace: Option<&Trace>) {
        let attempt = self.progress.tried().len();
        if attempt > 0
            && let Some(metrics) = self.mesh.metrics()
        {
            metrics.record_retry();
        }
        let span = &self.progress.observed.span;
        if span.is_seen() {
            span.record("provider", provider);
            span.record("attempt", attempt);
            trace.into_iter().for_each(|trace| span.record("traceparent", trace.traceparent()));
        }
    }

    /// Calls to a provider have failed, and it may not be called for a while.
    pub(super) fn observe_ejection(&self, was_ejected: bool, is_ejected: bool) {
        if let Some(metrics) = self.mesh.metrics().filter(|_| is_ejected && !was_ejected) {
            metrics.record_ejection();
        }
    }

    /// The call is over.
    #[inline]
    pub(super) fn observe_end(&mut self, result: &Result<RawResponse, CallError>) {
        let ObservedCall { span, record } = &self.progress.observed;
        if record.is_some() || span.is_seen() {
            self.end_observed(result);
        }
    }

    #[inline(never)]
    fn end_observed(&mut self, result: &Result<RawResponse, CallError>) {
        let ObservedCall { span, record } = std::mem::take(&mut self.progress.observed);
        if let Some(record) = record {
            record.end(outcome(result, self.one_way));
        }
        if span.is_seen() {
            match result {
                Ok(response) if !self.one_way => span.record("status", status(response)),
                Ok(_) => {}
                Err(error) => span.record("error", error),
            }
        }
    }
}

/// The status of a response; 502 for a packet that says none.
fn status(response: &RawResponse) -> u16 {
    response.read().map_or(502, |response| response.status)
}

fn outcome(result: &Result<RawResponse, CallError>, one_way: bool) -> CallOutcome {
    match result {
        Ok(response) if one_way || response.frame.is_success() || status(response) < 400 => CallOutcome::Ok,
        Ok(_) | Err(CallError::Refused { .. }) => CallOutcome::Refused,
        Err(CallError::Lost { .. } | CallError::Ended { .. }) => CallOutcome::Lost,
        Err(CallError::Deadline { .. }) => CallOutcome::Deadline,
        Err(
            CallError::NoRoute { .. }
            | CallError::NoProvider { .. }
            | CallError::NoList { .. }
            | CallError::NotAsked { .. }
            | CallError::OutsideInterests { .. }
            | CallError::Overloaded { .. },
        ) => CallOutcome::NoProvider,
        Err(
            CallError::BadUrl { .. }
            | CallError::TooLarge { .. }
            | CallError::Response { .. }
            | CallError::Params { .. },
        ) => CallOutcome::Failed,
    }
}
