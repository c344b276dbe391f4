//! A stream on a connection to another node, as whoever has opened it holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::Connection;
use crate::transport::in_flight::{EnqueueError, StreamClosed, StreamEnd};

/// A stream that is open. Dropping it ends it, and tells the node.
#[derive(Debug)]
pub(crate) struct OpenStream {
    link: Arc<Connection>,
    key: u64,
}

impl OpenStream {
    /// Of an open stream's key; it counts as a call until it is dropped.
    pub(super) fn new(link: &Arc<Connection>, key: u64) -> Self {
        link.load.begin(Instant::now().into_std());
        Self { link: Arc::clone(link), key }
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.link.address
    }

    /// The next part; an ending that is no part comes once, and `None` after it.
    pub(crate) fn poll_part(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamEnd>>> {
        let mut shared = self.link.lock();
        let polled = shared.calls.poll_part(self.key, context);
        shared.settle(0);
        let has_more = shared.calls.has_outgoing();
        drop(shared);
        if has_more {
            self.link.task.wake();
        }
        polled
    }

    /// Whether a part may be sent.
    pub(crate) fn poll_send(&self, context: &mut Context<'_>) -> Poll<Result<(), StreamClosed>> {
        self.link.lock().calls.poll_send(self.key, context)
    }

    /// Sends a part, which `write` makes for a given number; `false` when another was first, and there is no credit left.
    pub(crate) fn send(&self, write: impl FnOnce(u64, &mut BytesMut)) -> Result<bool, EnqueueError> {
        let sent = self.link.lock().calls.send_part(self.key, write)?;
        self.link.task.wake();
        Ok(sent)
    }

    /// Sends that nothing follows; again, it does nothing.
    pub(crate) fn finish(&self) {
        self.link.lock().calls.finish(self.key);
        self.link.task.wake();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut shared = self.link.lock();
        shared.calls.cancel(self.key);
        shared.settle(0);
        drop(shared);
        self.link.load.end();
        self.link.task.wake();
    }
}
