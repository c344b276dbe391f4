//! The running calls of one caller, and how the caller can affect each.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};

use futures::task::AtomicWaker;
use protocol::Key;

use crate::handler::call_stream::CallStream;
use crate::server::dispatch::{PolledResponse, StartedCall};

/// A running call, with its key if that is a number.
pub(super) struct RunningCall {
    pub(super) key: Option<u64>,
    /// The bytes that it counts against the caller's limit.
    pub(super) bytes: usize,
    pub(super) started: Option<StartedCall>,
    control: Arc<CallControl>,
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
        Self { key, bytes, started: Some(started), control: Arc::default() }
    }

    /// The handle by which its caller reaches it.
    pub(super) fn handle(&self) -> CallHandle {
        let call_stream = self.started.as_ref().and_then(|started| started.return_path.call_stream.clone());
        CallHandle { control: Arc::clone(&self.control), call_stream, bytes: self.bytes }
    }
}

impl CallHandle {
    /// Records that the caller no longer waits. The next poll of the call gives it back.
    pub(super) fn leave(&self) {
        self.control.is_left.store(true, Ordering::Release);
        self.control.task.wake();
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
        let Some(Poll::Ready(polled)) = self.started.as_mut().map(|started| started.poll_response_packet(task)) else {
            return Poll::Pending;
        };
        let Self { key, bytes, .. } = *self;
        let call = Self { key, bytes, started: self.started.take(), control: Arc::clone(&self.control) };
        Poll::Ready(Polled::Response(call, polled))
    }
}
