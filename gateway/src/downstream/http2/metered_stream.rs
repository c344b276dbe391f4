//! The bytes of a client on their way to the h2 crate, which are metered.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::LINGER_TIMEOUT;
use super::field_table::FieldTable;
use super::frames::{FrameEvent, Frames};
use super::meter::Meter;
use crate::io::poll_slice::{PollSlice, wake_later};
use crate::io::stream::MaybeTlsStream;
use crate::io::timer::Timer;

/// Bytes of a client that are read before its requests among them are accepted, and before other
/// clients are served: one frame of the usual size. A single read may exceed it.
const ROUND_BYTES: usize = 16 * 1024;

/// A client's bytes on their way to `h2`, which are metered.
pub(super) struct MeteredStream<'a> {
    stream: MaybeTlsStream,
    frames: Frames,
    meter: Meter,
    table: FieldTable,
    activity: Arc<ConnectionActivity>,
    slice: PollSlice<'a>,
    /// Everything has been written; the client may read it until this time.
    lingers: Option<Timer>,
}

/// The connection's bytes as its task observes them.
pub(super) struct ConnectionActivity {
    /// Whether the client has used up its budget, and is not read from any more.
    pub(super) is_flooding: AtomicBool,
    pub(super) begun_at: Instant,
    /// When bytes were last written, in milliseconds after `begun_at`.
    pub(super) last_write_ms: AtomicU64,
    /// The memory of the table of header fields.
    table_bytes: AtomicUsize,
    /// Bytes that were read since all requests before them were accepted.
    round_bytes: AtomicUsize,
}

impl<'a> MeteredStream<'a> {
    pub(super) fn new(
        stream: MaybeTlsStream,
        activity: &Arc<ConnectionActivity>,
        slice: PollSlice<'a>,
        now: Instant,
    ) -> Self {
        Self {
            stream,
            frames: Frames::new(),
            meter: Meter::new(now),
            table: FieldTable::default(),
            activity: Arc::clone(activity),
            slice,
            lingers: None,
        }
    }
}

impl ConnectionActivity {
    pub(super) fn new(begun_at: Instant) -> Self {
        Self {
            is_flooding: AtomicBool::new(false),
            begun_at,
            last_write_ms: AtomicU64::new(0),
            table_bytes: AtomicUsize::new(0),
            round_bytes: AtomicUsize::new(0),
        }
    }

    pub(super) fn last_write(&self) -> Instant {
        self.begun_at + Duration::from_millis(self.last_write_ms.load(Ordering::Relaxed))
    }

    pub(super) fn table_bytes(&self) -> usize {
        self.table_bytes.load(Ordering::Relaxed)
    }

    /// The next request of `connection`, or its end. The h2 crate reads all that has arrived before
    /// it gives the first request, and keeps the others uncounted: so it is given [`ROUND_BYTES`]
    /// at a time. Cancel safe.
    pub(super) async fn accept(
        &self,
        connection: &mut Connection<&mut MeteredStream<'_>, Bytes>,
    ) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>> {
        poll_fn(|task| {
            let accepted = connection.poll_accept(task);
            if accepted.is_pending() && self.round_bytes.swap(0, Ordering::Relaxed) >= ROUND_BYTES {
                wake_later(task);
            }
            accepted
        })
        .await
    }
}

impl AsyncRead for MeteredStream<'_> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_flooding.load(Ordering::Relaxed) {
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
        if this.activity.round_bytes.load(Ordering::Relaxed) >= ROUND_BYTES {
            // `accept` wakes the task again.
            return Poll::Pending;
        }
        let read = Pin::new(&mut this.stream).poll_read(task, buffer);
        let mut bytes = &buffer.filled()[before..];
        this.activity.round_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        while let Some(event) = this.frames.next(&mut bytes) {
            match event {
                FrameEvent::Head(head) => {
                    this.meter.charge(head);
                    this.table.begin(head);
                }
                FrameEvent::Payload(payload) => this.table.read(payload),
            }
        }
        let table = this.table.bytes();
        if table > this.activity.table_bytes.swap(table, Ordering::Relaxed) {
            task.waker().wake_by_ref();
        }
        if !this.meter.has_points(now) {
            this.activity.is_flooding.store(true, Ordering::Relaxed);
            task.waker().wake_by_ref();
        }
        read
    }
}

impl AsyncWrite for MeteredStream<'_> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(task, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.meter.record_sent(bytes);
            let last_write_ms = u64::try_from(self.activity.begun_at.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.activity.last_write_ms.store(last_write_ms, Ordering::Relaxed);
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
        let timer = this.lingers.get_or_insert_with(|| Timer::at(Instant::now() + LINGER_TIMEOUT));
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
