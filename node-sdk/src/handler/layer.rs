//! Guards, which check a call before its handler, and layers, which stand around it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::error::ServiceError;
use crate::handler::invocation::{AnyHandler, Next, PollHandler, RunningHandler};
use crate::handler::respond::Outcome;
use crate::handler::response_sink::{ResponseSink, WriteProgress};
use crate::handler::{IncomingCall, StateMap};

/// A guard or a layer, as given to the builder.
#[derive(Clone)]
pub(crate) enum Layer {
    /// Decides whether a call goes on.
    Guard(Arc<dyn AnyHandler>),
    /// Answers in place of the handler, which it may call.
    Around(Arc<dyn AnyHandler>),
}

impl Layer {
    /// `inner` with this around it.
    pub(crate) fn around(self, inner: Box<dyn AnyHandler>) -> Box<dyn AnyHandler> {
        match self {
            Self::Guard(guard) => Box::new(Guarded { guard, inner }),
            Self::Around(layer) => Box::new(Layered { layer, inner }),
        }
    }
}

struct Layered {
    layer: Arc<dyn AnyHandler>,
    inner: Box<dyn AnyHandler>,
}

impl AnyHandler for Layered {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        let next = Next::new(self.inner.begin(call));
        call.next.replace(Some(next));
        let begun = self.layer.begin(call);
        // A `Next` that the layer has not used must not reach the layer around it.
        call.next.replace(None);
        begun
    }

    fn missing(&self, states: &StateMap) -> Option<&'static str> {
        self.layer.missing(states).or_else(|| self.inner.missing(states))
    }
}

struct Guarded {
    guard: Arc<dyn AnyHandler>,
    inner: Box<dyn AnyHandler>,
}

/// A call whose guard is running, or has let it through.
struct GuardedCall {
    /// Until it has let the call through.
    guard: Option<RunningHandler>,
    /// The handler, or what is wrong with its arguments: only callers that are let through learn
    /// that.
    inner: Result<RunningHandler, ServiceError>,
}

impl AnyHandler for Guarded {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        let guard = Some(self.guard.begin(call)?);
        Ok(Box::pin(GuardedCall { guard, inner: self.inner.begin(call) }))
    }

    fn missing(&self, states: &StateMap) -> Option<&'static str> {
        self.guard.missing(states).or_else(|| self.inner.missing(states))
    }
}

impl GuardedCall {
    /// The handler, once the call is let through.
    fn poll_inner(&mut self, task: &mut Context<'_>) -> Poll<Result<&mut RunningHandler, ServiceError>> {
        if let Some(guard) = &mut self.guard {
            ready!(guard.as_mut().poll_outcome(task))?;
            self.guard = None;
        }
        Poll::Ready(self.inner.as_mut().map_err(|error| error.clone()))
    }
}

impl PollHandler for GuardedCall {
    fn poll_answer(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress> {
        match ready!(self.poll_inner(task)) {
            Ok(inner) => inner.as_mut().poll_answer(task, sink),
            Err(error) => {
                sink.failure(&error);
                Poll::Ready(WriteProgress::Done)
            }
        }
    }

    fn poll_outcome(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Result<Outcome, ServiceError>> {
        ready!(self.poll_inner(task))?.as_mut().poll_outcome(task)
    }
}
