//! The bytes of a WebSocket, counted while they belong to a message that has not come as a whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::budget::Reservation;

/// A connection whose reads are counted against the budget for clients. A buffer that has grown
/// for a large message stays as large, and so does the reservation.
#[derive(Debug)]
pub(super) struct CountedStream<S> {
    inner: S,
    /// Bytes that were read since the last whole message.
    since_message: usize,
    reserved: usize,
    held: Reservation,
}

impl<S> CountedStream<S> {
    /// Counts with `held`, which has been reserved for `reserved` bytes.
    pub(super) fn new(inner: S, held: Reservation, reserved: usize) -> Self {
        Self { inner, since_message: 0, reserved, held }
    }

    /// A whole message has been taken.
    pub(super) fn end_message(&mut self) {
        self.since_message = 0;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    /// # Errors
    /// Those of the connection, and [`io::ErrorKind::QuotaExceeded`] when the client may hold no
    /// more bytes.
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(task, buffer))?;
        self.since_message += buffer.filled().len() - before;
        if self.since_message > self.reserved {
            let wanted = self.since_message;
            self.held.grow_to(wanted).map_err(|_over| io::ErrorKind::QuotaExceeded)?;
            self.reserved = wanted;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(task)
    }
}
