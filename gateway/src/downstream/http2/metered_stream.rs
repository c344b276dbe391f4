//! The bytes of a client on their way to the h2 crate, which are metered.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant};

use super::LINGER;
use super::frames::Frames;
use super::meter::Meter;
use crate::io::poll_slice::{PollSlice, wake_later};
use crate::io::stream::ClientStream;
use crate::io::timer::Timer;

/// A client's bytes on their way to `h2`, which are metered.
pub(super) struct MeteredStream<'a> {
    pub(super) stream: ClientStream,
    pub(super) frames: Frames,
    pub(super) meter: Meter,
    pub(super) activity: Arc<ConnectionActivity>,
    pub(super) slice: PollSlice<'a>,
    /// Everything has been written; the client may read it until this time.
    pub(super) lingers: Option<Timer>,
}

/// What the connection's task observes of its bytes.
pub(super) struct ConnectionActivity {
    /// The client has used up its budget, and is not read from any more.
    pub(super) flood: AtomicBool,
    pub(super) since: Instant,
    /// In milliseconds after `since`.
    pub(super) wrote: AtomicU64,
}

impl Default for ConnectionActivity {
    fn default() -> Self {
        Self { flood: AtomicBool::new(false), since: Instant::now(), wrote: AtomicU64::new(0) }
    }
}

impl ConnectionActivity {
    pub(super) fn last_write(&self) -> Instant {
        self.since + Duration::from_millis(self.wrote.load(Ordering::Relaxed))
    }
}

impl AsyncRead for MeteredStream<'_> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.activity.flood.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let this = &mut *self;
        let now = Instant::now();
        if this.slice.is_over(now) {
            // Endless frames cause no more work in this time slice.
            wake_later(task);
            return Poll::Pending;
        }
        let read = Pin::new(&mut this.stream).poll_read(task, buffer);
        let mut bytes = &buffer.filled()[before..];
        while let Some(head) = this.frames.next(&mut bytes) {
            this.meter.charge(head);
        }
        if !this.meter.has_points(now) {
            this.activity.flood.store(true, Ordering::Relaxed);
            task.waker().wake_by_ref();
        }
        read
    }
}

impl AsyncWrite for MeteredStream<'_> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(task, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.meter.sent(bytes);
            let wrote = u64::try_from(self.activity.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.activity.wrote.store(wrote, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(task))?;
        }
        // The system resets a connection with unread bytes, and the client loses bytes that it has
        // not read. So the client's bytes are read until it closes, or for a while.
        let this = &mut *self;
        let timer = this.lingers.get_or_insert_with(|| Timer::at(Instant::now() + LINGER));
        loop {
            if timer.poll_expired(task).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut scrap = [MaybeUninit::uninit(); 1024];
            let mut scrap = ReadBuf::uninit(&mut scrap);
            match ready!(Pin::new(&mut this.stream).poll_read(task, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
