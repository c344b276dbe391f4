//! An open stream on a connection to another node, on the caller's side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::Connection;
use crate::transport::in_flight::{StreamClosed, StreamEnd};
use crate::transport::write_queue::EnqueueError;

/// An open stream. Dropping it ends the stream, and the node is told.
#[derive(Debug)]
pub(crate) struct OpenStream {
    connection: Arc<Connection>,
    key: u64,
}

impl OpenStream {
    /// An open stream with this key. It counts as in flight until it is dropped.
    pub(super) fn new(connection: &Arc<Connection>, key: u64) -> Self {
        connection.load.begin(Instant::now().into_std());
        Self { connection: Arc::clone(connection), key }
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.connection.address
    }

    /// The next part. An end that is not a part is returned once, and `None` after it.
    pub(crate) fn poll_part(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamEnd>>> {
        let mut state = self.connection.lock();
        let polled = state.calls.poll_part(self.key, context);
        state.charge(0);
        let has_more = state.calls.has_outgoing();
        drop(state);
        if has_more {
            self.connection.task.wake();
        }
        polled
    }

    /// The credit for the next part, as soon as there is any.
    pub(crate) fn poll_send(&self, context: &mut Context<'_>) -> Poll<Result<i64, StreamClosed>> {
        self.connection.lock().calls.poll_send(self.key, context)
    }

    /// Lets the node send this many more bytes ahead.
    pub(crate) fn widen(&self, bytes: u32) {
        self.connection.lock().calls.widen(self.key, bytes);
        self.connection.task.wake();
    }

    /// Sends a part, which `write` makes for a given number, and of which it returns the credit;
    /// `false` when another sender has used up the credit.
    pub(crate) fn send(&self, write: impl FnOnce(u64, &mut BytesMut) -> usize) -> Result<bool, EnqueueError> {
        let sent = self.connection.lock().calls.send_part(self.key, write)?;
        self.connection.task.wake();
        Ok(sent)
    }

    /// Says that no part follows. Calling it again does nothing.
    pub(crate) fn finish(&self) {
        self.connection.lock().calls.finish(self.key);
        self.connection.task.wake();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.calls.cancel(self.key);
        state.charge(0);
        drop(state);
        self.connection.load.end();
        self.connection.task.wake();
    }
}
