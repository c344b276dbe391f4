//! Limits how many calls of one route run at a time. The others wait, or are refused.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::client::events::key_order::Turn;
use crate::error::ServiceError;
use crate::handler::AnyHandler;
use crate::handler::invocation::{PollHandler, RunningHandler};
use crate::handler::kept_call::KeptCall;
use crate::handler::respond::Outcome;
use crate::handler::response_sink::{ResponseSink, WriteProgress};

/// Maximum number of calls without a response that wait for one route: their senders cannot be told
/// to try another node. It is a quarter of the calls of one caller, so that its other calls go on.
pub(crate) const MAX_WAITING: usize = 256;

/// The limit of one route.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// What a call holds while it runs.
type RunPermitGuard = Box<dyn Send>;

/// A call that waits until the limit allows it, or until earlier ones of its key are done.
pub(crate) struct WaitingCall {
    permit: Pin<Box<dyn Future<Output = Result<RunPermitGuard, AcquireError>> + Send>>,
    /// The permit to wait, until the call begins.
    waiting: Option<OwnedSemaphorePermit>,
    handler: Arc<dyn AnyHandler>,
    call: KeptCall,
    /// Once it has begun: its work, and its permit to run.
    running: Option<(RunningHandler, RunPermitGuard)>,
}

impl ConcurrencyLimit {
    pub(crate) fn new(calls: usize) -> Self {
        let running = Arc::new(Semaphore::new(calls.min(Semaphore::MAX_PERMITS)));
        // If no call may run at all, none may wait.
        let waiting = Arc::new(Semaphore::new(if calls == 0 { 0 } else { MAX_WAITING }));
        Self { running, waiting }
    }

    /// A permit to run now; `None` at the limit.
    pub(crate) fn try_run(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.running).try_acquire_owned().ok()
    }

    /// A permit to wait for a permit to run; `None` when [`MAX_WAITING`] wait.
    pub(crate) fn try_wait(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }

    /// A call that waits until it may run, after those that began to wait before.
    pub(crate) fn wait(
        &self,
        waiting: OwnedSemaphorePermit,
        handler: &Arc<dyn AnyHandler>,
        call: KeptCall,
    ) -> RunningHandler {
        let permit = Arc::clone(&self.running).acquire_owned();
        let permit = Box::pin(async move { permit.await.map(|permit| Box::new(permit) as RunPermitGuard) });
        Box::pin(WaitingCall { permit, waiting: Some(waiting), handler: Arc::clone(handler), call, running: None })
    }
}

/// An event that begins when earlier ones of its key are done. Meanwhile it holds its permit to
/// run.
pub(crate) fn wait_for_turn(
    mut turn: Turn,
    permit: Option<OwnedSemaphorePermit>,
    handler: &Arc<dyn AnyHandler>,
    call: KeptCall,
) -> RunningHandler {
    let permit = Box::pin(async move {
        turn.begin().await;
        Ok(Box::new((turn, permit)) as RunPermitGuard)
    });
    Box::pin(WaitingCall { permit, waiting: None, handler: Arc::clone(handler), call, running: None })
}

impl WaitingCall {
    fn poll_turn(&mut self, task: &mut Context<'_>) -> Poll<Result<&mut RunningHandler, ServiceError>> {
        if self.running.is_none() {
            let closed = |_closed| ServiceError::internal("the node has ended");
            let permit = ready!(self.permit.as_mut().poll(task)).map_err(closed)?;
            self.waiting = None;
            self.running = Some((self.call.begin(&*self.handler)?, permit));
        }
        match &mut self.running {
            Some((running, _permit)) => Poll::Ready(Ok(running)),
            None => Poll::Pending,
        }
    }
}

impl PollHandler for WaitingCall {
    fn poll_response(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress> {
        match ready!(self.poll_turn(task)) {
            Ok(running) => running.as_mut().poll_response(task, sink),
            Err(error) => {
                sink.failure(&error);
                Poll::Ready(WriteProgress::Done)
            }
        }
    }

    fn poll_outcome(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Result<Outcome, ServiceError>> {
        ready!(self.poll_turn(task))?.as_mut().poll_outcome(task)
    }
}
