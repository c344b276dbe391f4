//! Guards, which check a call before its handler, and layers, which wrap the handler. A handler
//! begins only when its guards and layers let it.

use std::any::TypeId;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use crate::error::ServiceError;
use crate::handler::http::Wants;
use crate::handler::invocation::{AnyHandler, Next, PollHandler, RunningHandler};
use crate::handler::kept_call::KeptCall;
use crate::handler::respond::Outcome;
use crate::handler::response_sink::{ResponseSink, WriteProgress};
use crate::handler::{IncomingCall, Missing, StateTypes};

/// A guard or a layer, as given to the builder.
#[derive(Clone)]
pub(crate) enum Layer {
    /// Decides whether a call goes on.
    Guard(Arc<dyn AnyHandler>),
    /// Answers in place of the handler, which it may call.
    Around(Arc<dyn AnyHandler>),
}

/// A guard or a layer of a builder.
pub(crate) struct LayerDefinition {
    pub(crate) layer: Layer,
    /// The path of the function, for people.
    pub(crate) name: &'static str,
    /// Whether a route follows.
    pub(crate) covers_route: bool,
}

impl Layer {
    /// The word of the builder for it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Guard(_) => "guard",
            Self::Around(_) => "layer",
        }
    }

    /// `inner` with this around it.
    pub(crate) fn around(self, inner: Arc<dyn AnyHandler>) -> Arc<dyn AnyHandler> {
        match self {
            Self::Guard(guard) => Arc::new(Guarded { guard, inner }),
            Self::Around(layer) => Arc::new(Layered { layer, inner }),
        }
    }
}

struct Layered {
    layer: Arc<dyn AnyHandler>,
    inner: Arc<dyn AnyHandler>,
}

impl AnyHandler for Layered {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        let next = Next::new(Arc::clone(&self.inner), call.keep()?);
        call.next.replace(Some(next));
        let started = self.layer.begin(call);
        // A `Next` that the layer has not used must not reach the layer around it.
        call.next.replace(None);
        started
    }

    fn wants(&self, wants: &mut Wants) {
        self.layer.wants(wants);
        self.inner.wants(wants);
    }

    fn missing(&self, given: &StateTypes<'_>) -> Option<Missing> {
        self.layer.missing(given).or_else(|| self.inner.missing(&given.behind_layer()))
    }

    fn provides(&self) -> Option<TypeId> {
        None
    }
}

struct Guarded {
    guard: Arc<dyn AnyHandler>,
    inner: Arc<dyn AnyHandler>,
}

/// A call whose guard is running, or has let it through.
enum GuardedCall {
    Checking {
        guard: RunningHandler,
        call: Box<KeptCall>,
        inner: Arc<dyn AnyHandler>,
    },
    Running(RunningHandler),
    /// The call was refused, or its arguments are wrong: only callers that are let through learn
    /// the latter.
    Failed(ServiceError),
}

impl AnyHandler for Guarded {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        call.verify()?;
        let mut guard = self.guard.begin(call)?;
        // Most guards decide at once, and then nothing has to be kept. Others are polled again as
        // soon as the call has been begun, with a waker that wakes.
        let polled = call.enter(|| guard.as_mut().poll_outcome(&mut Context::from_waker(Waker::noop())));
        match polled {
            Poll::Ready(passed) => passed.and_then(|result| {
                call.extensions.borrow_mut().extend(result.into_extension());
                self.inner.begin(call)
            }),
            Poll::Pending => Ok(Box::pin(GuardedCall::Checking {
                guard,
                call: Box::new(call.keep()?),
                inner: Arc::clone(&self.inner),
            })),
        }
    }

    fn wants(&self, wants: &mut Wants) {
        self.guard.wants(wants);
        self.inner.wants(wants);
    }

    fn missing(&self, given: &StateTypes<'_>) -> Option<Missing> {
        let behind = || self.inner.missing(&given.behind_guard(self.guard.provides()));
        self.guard.missing(given).or_else(behind)
    }

    fn provides(&self) -> Option<TypeId> {
        None
    }
}

impl GuardedCall {
    /// The handler, once the call is let through.
    fn poll_inner(&mut self, task: &mut Context<'_>) -> Poll<Result<&mut RunningHandler, ServiceError>> {
        if let Self::Checking { guard, call, inner } = self {
            let passed = ready!(guard.as_mut().poll_outcome(task));
            let begin = |result: Outcome| {
                call.extend(result.into_extension());
                call.begin(&**inner)
            };
            *self = match passed.and_then(begin) {
                Ok(running) => Self::Running(running),
                Err(error) => Self::Failed(error),
            };
        }
        Poll::Ready(match self {
            Self::Running(running) => Ok(running),
            Self::Failed(error) => Err(error.clone()),
            Self::Checking { .. } => return Poll::Pending,
        })
    }
}

impl PollHandler for GuardedCall {
    fn poll_response(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress> {
        match ready!(self.poll_inner(task)) {
            Ok(inner) => inner.as_mut().poll_response(task, sink),
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
