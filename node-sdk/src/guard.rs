//! Checks that come before a handler.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::error::ServiceError;
use crate::handler::{Answering, AnyHandler, Incoming, Progress, Running, States};
use crate::outgoing::Sink;

/// A handler, and what has to let a call through first.
pub(crate) struct Guarded {
    pub(crate) guards: Vec<Arc<dyn AnyHandler>>,
    pub(crate) handler: Box<dyn AnyHandler>,
}

/// A call that is being checked, or was.
struct Checked {
    /// In order; those that have let it through are gone.
    guards: Vec<Running>,
    /// What the handler has made of its arguments: told only to those who are let through.
    handler: Result<Running, ServiceError>,
}

impl AnyHandler for Guarded {
    fn begin(&self, call: &Incoming<'_>) -> Result<Running, ServiceError> {
        // The last first: each is taken off the end.
        let guards = self.guards.iter().map(|guard| guard.begin(call)).collect::<Result<Vec<_>, _>>()?;
        let guards = guards.into_iter().rev().collect();
        Ok(Box::pin(Checked { guards, handler: self.handler.begin(call) }))
    }

    fn missing(&self, states: &States) -> Option<&'static str> {
        self.guards.iter().find_map(|guard| guard.missing(states)).or_else(|| self.handler.missing(states))
    }
}

impl Answering for Checked {
    fn poll_answer(mut self: Pin<&mut Self>, task: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Progress> {
        while let Some(guard) = self.guards.last_mut() {
            if let Err(error) = ready!(guard.as_mut().poll_check(task)) {
                sink.failure(&error);
                return Poll::Ready(Progress::Done);
            }
            self.guards.pop();
        }
        match &mut self.handler {
            Ok(handler) => handler.as_mut().poll_answer(task, sink),
            Err(error) => {
                sink.failure(error);
                Poll::Ready(Progress::Done)
            }
        }
    }

    fn poll_check(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<Result<(), ServiceError>> {
        Poll::Ready(Err(ServiceError::internal("a guard has no guards")))
    }
}
