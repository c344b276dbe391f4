//! The running calls of one caller, and how the caller can affect each.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, ready};

use futures::task::AtomicWaker;
use protocol::Key;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::handler::call_stream::CallStream;
use crate::server::dispatch::{LocalService, PolledResponse, StartedCall};
use crate::server::route_pace::PollWatch;

/// A running call, with its key if that is a number.
pub(super) struct RunningCall {
    pub(super) key: Option<u64>,
    /// The bytes that it counts against the caller's limit.
    pub(super) bytes: usize,
    pub(super) started: Option<StartedCall>,
    control: Arc<CallControl>,
    /// Of the connection whose task polls it; `None` if it has a task of its own.
    watch: Option<Arc<PollWatch>>,
}

/// A running call, as the task of its caller's connection sees it.
#[expect(clippy::large_enum_variant, reason = "nearly all calls are of the large one")]
pub(super) enum CallRunner {
    /// The task of the connection polls it.
    Connection(RunningCall),
    /// A task of its own does.
    OwnTask(OwnTask),
}

/// A call that has a task of its own. Dropping this drops the call.
pub(super) struct OwnTask {
    task: JoinHandle<Polled>,
    control: Arc<CallControl>,
    is_released: bool,
}

/// The running calls that a caller can reach, by their keys.
#[derive(Default)]
pub(super) struct RunningCalls {
    pub(super) by_key: HashMap<u64, CallHandle>,
    /// How many of the calls are, or may become, streams.
    pub(super) streams: usize,
}

impl RunningCalls {
    pub(super) fn put(&mut self, key: u64, call: CallHandle) {
        self.streams += usize::from(call.call_stream.is_some());
        if let Some(replaced) = self.by_key.insert(key, call) {
            self.streams -= usize::from(replaced.call_stream.is_some());
        }
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<CallHandle> {
        let taken = self.by_key.remove(&key)?;
        self.streams -= usize::from(taken.call_stream.is_some());
        Some(taken)
    }

    /// Tells all streams that the node stops: they end when they have nothing to send.
    pub(super) fn stop_streams(&self) {
        self.by_key.values().filter_map(|call| call.call_stream.as_ref()).for_each(|call_stream| call_stream.stop());
    }

    pub(super) fn call_stream(&self, key: u64) -> Option<&CallStream> {
        self.by_key.get(&key)?.call_stream.as_deref()
    }
}

/// The means by which a caller can affect a running call.
pub(super) struct CallHandle {
    control: Arc<CallControl>,
    pub(super) call_stream: Option<Arc<CallStream>>,
    /// The bytes that it counts against the caller's limit.
    pub(super) bytes: usize,
}

/// Says that the caller of a running call no longer waits.
#[derive(Debug, Default)]
struct CallControl {
    is_left: AtomicBool,
    task: AtomicWaker,
}

/// The result of polling a running call.
pub(super) enum Polled {
    /// A piece of its response, or the whole.
    Response(RunningCall, PolledResponse),
    /// The caller no longer waits.
    Left(Option<StartedCall>),
}

impl RunningCall {
    pub(super) fn new(started: StartedCall, bytes: usize) -> Self {
        let key = started.return_path.key.as_ref().and_then(Key::number);
        Self { key, bytes, started: Some(started), control: Arc::default(), watch: None }
    }

    /// Decides which task polls the call: one of its own, if it is of a route that computes.
    pub(super) fn assign_runner(mut self, service: &LocalService, watch: &Arc<PollWatch>) -> CallRunner {
        let route = self.started.as_ref().and_then(|started| started.route);
        let Some(route) = route.filter(|route| service.paces.computes(*route)) else {
            self.watch = Some(Arc::clone(watch));
            return CallRunner::Connection(self);
        };
        self.watch = None;
        let (control, paces, released) =
            (Arc::clone(&self.control), Arc::clone(&service.paces), Arc::clone(&service.released));
        let began = Instant::now();
        let run = async move {
            match paces.run(route, self, began).await {
                Polled::Response(call, polled) => Polled::Response(call, polled),
                Polled::Left(started) => {
                    started.into_iter().for_each(|started| released.finish(started));
                    Polled::Left(None)
                }
            }
        };
        CallRunner::OwnTask(OwnTask { task: service.tasks.spawn(run), control, is_released: false })
    }

    /// Whether the caller no longer waits.
    pub(super) fn is_left(&self) -> bool {
        self.control.is_left.load(Ordering::Acquire)
    }

    /// Refuses the call instead of beginning it, if it has waited for too long since `began`.
    pub(super) fn refuse_if_late(&mut self, began: Instant, now: Instant) {
        if let Some(started) = &mut self.started {
            started.refuse_if_late(began, now);
        }
    }

    /// The handle by which its caller reaches it.
    pub(super) fn handle(&self) -> CallHandle {
        let call_stream = self.started.as_ref().and_then(|started| started.return_path.call_stream.clone());
        CallHandle { control: Arc::clone(&self.control), call_stream, bytes: self.bytes }
    }
}

impl CallRunner {
    /// The caller has gone: drops the call, or finishes it if it must be finished.
    pub(super) fn release(self, service: &LocalService) {
        match self {
            Self::Connection(call) => call.started.into_iter().for_each(|started| service.released.finish(started)),
            Self::OwnTask(mut own) => {
                // Its task does it.
                own.is_released = true;
                own.control.leave();
            }
        }
    }
}

impl Drop for OwnTask {
    fn drop(&mut self) {
        if !self.is_released {
            self.task.abort();
        }
    }
}

impl Future for CallRunner {
    type Output = Polled;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Polled> {
        match &mut *self {
            Self::Connection(call) => Pin::new(call).poll(task),
            Self::OwnTask(own) => {
                // A task fails only when the runtime ends.
                let polled = ready!(Pin::new(&mut own.task).poll(task)).unwrap_or(Polled::Left(None));
                own.is_released = true;
                Poll::Ready(polled)
            }
        }
    }
}

impl CallControl {
    fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl CallHandle {
    /// Records that the caller no longer waits. The next poll of the call gives it back.
    pub(super) fn leave(&self) {
        self.control.leave();
    }
}

impl Future for RunningCall {
    type Output = Polled;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Polled> {
        // The waker is set before the check, so that a caller that leaves after the check wakes the
        // task.
        self.control.task.register(task.waker());
        if self.control.is_left.load(Ordering::Acquire) {
            return Poll::Ready(Polled::Left(self.started.take()));
        }
        let Self { key, bytes, started, control, watch } = &mut *self;
        let Some(running) = started else { return Poll::Pending };
        let route = running.route;
        let poll = || running.poll_response_packet(task);
        let Poll::Ready(polled) = poll_watched(watch.as_deref(), route, poll) else {
            return Poll::Pending;
        };
        let (control, watch) = (Arc::clone(control), watch.take());
        let call = Self { key: *key, bytes: *bytes, started: started.take(), control, watch };
        Poll::Ready(Polled::Response(call, polled))
    }
}

/// Polls, and measures that if the connection watches its calls.
fn poll_watched<T>(watch: Option<&PollWatch>, route: Option<u32>, poll: impl FnOnce() -> T) -> T {
    match watch {
        Some(watch) => watch.poll(route, poll),
        None => poll(),
    }
}
