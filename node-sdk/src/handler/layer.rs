//! What stands around a handler: guards before it, layers on both sides of it.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use serde_json::value::RawValue;

use crate::error::ServiceError;
use crate::handler::respond::Respond;
use crate::handler::stream::Parts;
use crate::handler::{AnyHandler, FromCall, IncomingCall, PollHandler, RunningHandler, StateMap, WriteProgress};
use crate::server::response_queue::ResponseSink;

/// Something around a handler, as the builder was given it.
#[derive(Clone)]
pub(crate) enum Layer {
    /// Decides whether a call goes on.
    Guard(Arc<dyn AnyHandler>),
    /// Answers in the place of the handler, which it may ask.
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

/// What comes after a [layer](crate::NodeBuilder::layer): the layers inside it, and the handler. An argument of the layer's
/// function; a layer without it answers in the handler's place. Dropped, the handler is not called.
pub struct Next(Result<RunningHandler, ServiceError>);

/// What a handler has answered, as the layers around it see it: what they return, or replace.
pub struct Outcome {
    status: u16,
    body: OutcomeBody,
}

enum OutcomeBody {
    Json(Box<RawValue>),
    Parts(Parts),
}

impl Next {
    /// Has the call carried out, and gives what it was answered. Cancel safe: the handler is dropped where it stands.
    ///
    /// # Errors
    /// What the handler says, or why it could not begin.
    pub async fn run(self) -> Result<Outcome, ServiceError> {
        let mut running = self.0?;
        poll_fn(|task| running.as_mut().poll_outcome(task)).await
    }
}

impl FromCall for Next {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let next = call.next.borrow_mut().take();
        next.ok_or_else(|| ServiceError::internal("only a layer has something after it, and only once"))
    }
}

impl Outcome {
    /// An answer of a layer's own.
    ///
    /// # Errors
    /// 500 when the result has no JSON form.
    pub fn from_result(result: impl Respond) -> Result<Self, ServiceError> {
        let status = result.status();
        let body = match result.into_parts() {
            Ok(parts) => OutcomeBody::Parts(parts),
            Err(result) => {
                let no_json = |error| ServiceError::internal(format!("the result has no JSON form: {error}"));
                let mut text = Vec::new();
                result.write(&mut text).map_err(no_json)?;
                OutcomeBody::Json(serde_json::from_slice(&text).map_err(no_json)?)
            }
        };
        Ok(Self { status, body })
    }

    /// In HTTP's numbers, 200 to 299.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The result as JSON; `None` when it comes in parts, which are yet to be made.
    pub fn body(&self) -> Option<&RawValue> {
        match &self.body {
            OutcomeBody::Json(body) => Some(body),
            OutcomeBody::Parts(_) => None,
        }
    }
}

impl Respond for Outcome {
    fn status(&self) -> u16 {
        self.status
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        out.extend_from_slice(self.body().map_or("null", RawValue::get).as_bytes());
        Ok(())
    }

    fn into_parts(self) -> Result<Parts, Self> {
        match self.body {
            OutcomeBody::Parts(parts) => Ok(parts),
            OutcomeBody::Json(_) => Err(self),
        }
    }
}

struct Layered {
    layer: Arc<dyn AnyHandler>,
    inner: Box<dyn AnyHandler>,
}

impl AnyHandler for Layered {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        let next = Next(self.inner.begin(call));
        call.next.replace(Some(next));
        let begun = self.layer.begin(call);
        // What a layer does not ask for must not become that of the one around it.
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

/// A call that is being checked, or was.
struct GuardedCall {
    /// Until it has let the call through.
    guard: Option<RunningHandler>,
    /// What the handler has made of its arguments: told only to those who are let through.
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

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body().map_or("parts", RawValue::get);
        f.debug_struct("Outcome").field("status", &self.status).field("body", &body).finish()
    }
}
