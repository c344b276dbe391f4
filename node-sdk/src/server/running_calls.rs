//! The running calls of one caller, and how the caller can affect each.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures::future::AbortHandle;

use crate::handler::call_stream::CallStream;
use crate::server::dispatch::{PolledResponse, StartedCall};

/// A running call, with its key if that is a number.
pub(super) struct RunningCall {
    pub(super) key: Option<u64>,
    /// The bytes that it counts against the caller's limit.
    pub(super) bytes: usize,
    pub(super) begun: Option<StartedCall>,
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

    pub(super) fn call_stream(&self, key: u64) -> Option<&CallStream> {
        self.by_key.get(&key)?.call_stream.as_deref()
    }
}

/// The means by which a caller can affect a running call.
pub(super) struct CallHandle {
    pub(super) abort: AbortHandle,
    pub(super) call_stream: Option<Arc<CallStream>>,
    /// The bytes that it counts against the caller's limit.
    pub(super) bytes: usize,
}

impl Future for RunningCall {
    type Output = (Self, PolledResponse);

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let Self { key, bytes, begun } = &mut *self;
        let Some(Poll::Ready(polled)) = begun.as_mut().map(|begun| begun.poll_response(task)) else {
            return Poll::Pending;
        };
        Poll::Ready((Self { key: *key, bytes: *bytes, begun: begun.take() }, polled))
    }
}
