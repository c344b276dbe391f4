//! A socket whose small messages wait until other tasks have run.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::outgoing::{BytesState, Outgoing};
use super::queue;
use crate::Socket;
use crate::buffers::with_read_buffer;
use crate::socket::ReadNow;

/// Maximum room of a buffer that bytes are copied into: copying costs less than a read by way of
/// the C library does.
const MAX_COPIED_BYTES: usize = 8 * 1024;

/// A socket whose small messages are sent when the thread's other tasks have run, if it has a
/// [`SendQueue`](crate::SendQueue), and otherwise at once. All that is written goes out in the
/// order in which it was accepted.
///
/// A message that was accepted is sent even if the socket is dropped then, unless the system does
/// not take it: then the connection is reset, and a Unix socket, which cannot be reset, ends. An
/// error in sending it is that of the next write, and of the next read that would find the end. One
/// task may read and one may write.
#[derive(Debug)]
pub struct QueuedSocket(Arc<SocketState>);

/// The state that a socket shares with its queue.
#[derive(Debug)]
pub(super) struct SocketState {
    socket: Socket,
    /// Whether each write leaves at once.
    is_direct: bool,
    /// Held for a system call at most.
    writes: Mutex<Writes>,
    /// Whether a queued message could not be sent.
    is_lost: AtomicBool,
}

#[derive(Debug, Default)]
struct Writes {
    outgoing: Outgoing,
    /// Waits until nothing is held.
    writer: Option<Waker>,
    /// Sends what is held.
    sender: Option<Waker>,
    /// Whether the socket was dropped.
    is_abandoned: bool,
}

impl QueuedSocket {
    /// A socket to which no other task writes.
    pub fn new(socket: Socket) -> Self {
        Self::with(socket, false)
    }

    /// As [`new`](Self::new), for a peer that has to be given each message in a send of its own. No
    /// message waits.
    pub fn direct(socket: Socket) -> Self {
        Self::with(socket, true)
    }

    fn with(socket: Socket, is_direct: bool) -> Self {
        let (writes, is_lost) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(SocketState { socket, is_direct, writes, is_lost }))
    }

    /// Accepts bytes without waiting: see [`TcpStream::try_write`].
    ///
    /// # Errors
    /// As for that method, and the error in which a queued message was lost.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_pieces(&[IoSlice::new(bytes)])
    }

    fn try_write_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let (state, may_queue) = (&self.0, !self.0.is_direct && queue::is_served());
        state.change(|outgoing| outgoing.write(pieces, may_queue, |pieces| state.socket.try_write_pieces(pieces)))
    }

    /// Completes when [`try_write`](Self::try_write) may accept bytes. One task may wait.
    ///
    /// # Errors
    /// As for [`TcpStream::poll_write_ready`].
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_unheld(context))?;
        self.0.socket.poll_write_ready(context)
    }

    /// Accepts bytes: see [`AsyncWrite::poll_write`].
    pub fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_pieces(&self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write_pieces(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_write_ready(context))?,
                written => return Poll::Ready(written),
            }
        }
    }

    /// Completes when all that was accepted is on its way, or will be when other tasks have run.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_unheld(context)
    }

    /// Completes when the system has taken all that was accepted.
    ///
    /// # Errors
    /// The one in which a queued message was lost.
    pub fn poll_sent(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.send_queued();
        self.0.poll_unheld(context)
    }

    /// Sends all that was accepted, and then closes the socket for writing.
    pub fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &self.0;
        let ended = state.change(|outgoing| outgoing.poll_end(|pieces| state.socket.try_write_pieces(pieces)));
        match ended {
            Poll::Pending if state.poll_unheld(context).is_pending() => Poll::Pending,
            // It was sent in between.
            Poll::Pending => self.poll_shutdown(context),
            Poll::Ready(ended) => Poll::Ready(ended.and_then(|()| state.socket.shutdown(Shutdown::Write))),
        }
    }

    /// Completes when the system would take more bytes than it has. Unlike
    /// [`poll_write_ready`](Self::poll_write_ready), it asks the system. One task may wait.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_unheld(context))?;
        self.0.socket.poll_writable(context)
    }

    /// See [`Socket::poll_read_ready`].
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.socket.poll_read_ready(context)
    }

    /// See [`AsyncRead::poll_read`].
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.poll_read_ready(context))?;
            match self.recv_buf_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }

    /// Reads the available bytes; 0 is the end.
    pub fn poll_recv(&self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(context))?;
            match self.recv_now(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// As [`recv_now`](ReadNow::recv_now), into the free room of `buffer`. It must have room: a
    /// read without room looks like the end.
    ///
    /// # Errors
    /// As for that method.
    pub fn recv_into(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        if room > MAX_COPIED_BYTES {
            return self.recv_buf_now(buffer);
        }
        with_read_buffer(|scratch| {
            let bytes = self.recv_now(&mut scratch[..room])?;
            buffer.extend_from_slice(&scratch[..bytes]);
            Ok(bytes)
        })
    }

    /// See [`Socket::try_read`].
    ///
    /// # Errors
    /// As for that method.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.or_lost(self.0.socket.try_read(buffer))
    }

    /// See [`Socket::ready`]. Cancel safe.
    ///
    /// # Errors
    /// As for that method.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.0.socket.ready(interest).await
    }

    /// Another descriptor of the TCP socket, to learn of its state.
    ///
    /// # Errors
    /// The system has none, or the socket is not one of TCP.
    pub fn duplicate(&self) -> io::Result<TcpStream> {
        use std::os::fd::AsFd;

        let socket = self.0.socket.tcp().ok_or(io::ErrorKind::Unsupported)?;
        TcpStream::from_std(std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?))
    }

    /// Has the connection reset when the socket is dropped, so that the peer sees a cut and not an
    /// end. A Unix socket cannot be reset: its peer sees an end.
    pub fn reset_on_drop(&self) {
        self.0.reset_on_drop();
    }
}

impl From<TcpStream> for QueuedSocket {
    fn from(stream: TcpStream) -> Self {
        Self::new(Socket::Tcp(stream))
    }
}

impl ReadNow for QueuedSocket {
    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.or_lost(self.0.socket.recv_now(buffer))
    }

    fn recv_buf_now(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        self.0.or_lost(self.0.socket.recv_buf_now(buffer))
    }
}

impl Drop for QueuedSocket {
    /// Sends queued bytes still. Bytes that the system has not taken are lost, because a peer that
    /// does not read would keep them for ever; the peer sees a reset, and the end if the socket is
    /// a Unix socket.
    fn drop(&mut self) {
        let mut writes = self.0.lock();
        writes.is_abandoned = true;
        if let Some(sender) = writes.sender.take() {
            drop(writes);
            sender.wake();
        }
    }
}

impl SocketState {
    /// Sends what is queued.
    pub(super) fn send_queued(self: &Arc<Self>) {
        self.change(|outgoing| outgoing.send_queued(|pieces| self.socket.try_write_pieces(pieces)));
    }

    /// Changes the bytes to send, and queues or spawns their sending.
    fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut Outgoing) -> R) -> R {
        let mut writes = self.lock();
        let before = writes.outgoing.state();
        let changed = change(&mut writes.outgoing);
        let after = writes.outgoing.state();
        if before == after {
            return changed;
        }
        let writer = if before == BytesState::Held { writes.writer.take() } else { None };
        drop(writes);
        match after {
            BytesState::Nothing => {}
            BytesState::Queued => queue::push(self),
            BytesState::Held => self.begin_to_send(),
            BytesState::Lost => self.lose(),
        }
        if let Some(writer) = writer {
            writer.wake();
        }
        changed
    }

    /// Spawns a task that sends the held bytes. This is rare: it happens only when the peer does
    /// not read.
    fn begin_to_send(self: &Arc<Self>) {
        match Handle::try_current() {
            Ok(runtime) => {
                let state = Arc::clone(self);
                runtime.spawn(std::future::poll_fn(move |context| state.poll_send_held(context)));
            }
            // The thread ends, and all its connections with it.
            Err(_none) => self.lose(),
        }
    }

    /// Sends what is held. Ready when nothing is held any more, or the socket is abandoned.
    fn poll_send_held(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut writes = self.lock();
            if writes.outgoing.state() != BytesState::Held {
                return Poll::Ready(());
            }
            if writes.is_abandoned {
                writes.outgoing.abandon();
                drop(writes);
                self.reset_on_drop();
                return Poll::Ready(());
            }
            if self.socket.poll_write_ready(context).is_pending() {
                writes.sender = Some(context.waker().clone());
                return Poll::Pending;
            }
            drop(writes);
            self.change(|outgoing| outgoing.send_held(|pieces| self.socket.try_write_pieces(pieces)));
        }
    }

    /// Completes when nothing is held. One task may wait.
    fn poll_unheld(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writes = self.lock();
        let flushed = writes.outgoing.poll_flush();
        if flushed.is_pending() {
            writes.writer = Some(context.waker().clone());
        }
        flushed
    }

    /// Records that a queued message cannot be sent. The reader has to learn of that.
    fn lose(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        // It would fail only if the connection had ended in both directions.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Replaces an end in order by an error, if the connection was lost in sending.
    fn or_lost(&self, read: io::Result<usize>) -> io::Result<usize> {
        match read {
            Ok(0) if self.is_lost.load(Ordering::Relaxed) => Err(io::ErrorKind::ConnectionReset.into()),
            read => read,
        }
    }

    fn reset_on_drop(&self) {
        // The system ignores this for a Unix socket.
        if let Some(socket) = self.socket.tcp() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for QueuedSocket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_read(&self, context, buffer)
    }
}

impl AsyncWrite for QueuedSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(&self, context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(&self, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(&self, context)
    }
}
