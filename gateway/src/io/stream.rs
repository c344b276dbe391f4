//! A client's bytes: over plain TCP, or inside TLS.

use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use net::buffers;
use net::{MAX_RECV_BYTES, recv_into, recv_now, send_now};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, tcp};
use tokio::time::{Duration, timeout};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::io::client_pace::ClientPace;

/// A connection to a client.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Plain(TcpStream),
    /// The lock is for its two halves, which one task holds, so it is never contended.
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

/// Unsent bytes of a connection above which the system takes no more: enough to keep sending while
/// we sleep.
const MAX_UNSENT_BYTES: u32 = 64 * 1024;

/// Unused room in a buffer that makes a smaller one worthwhile.
const LARGE_ROOM_BYTES: usize = 1024;

/// The half that reads, while the other one writes.
#[derive(Debug)]
pub(crate) enum ReadHalf<'a> {
    Plain(tcp::ReadHalf<'a>),
    Tls(&'a Mutex<TlsStream<TcpStream>>),
}

/// The half that writes, while the other one reads.
#[derive(Debug)]
pub(crate) enum WriteHalf<'a> {
    Plain(tcp::WriteHalf<'a>),
    Tls(&'a Mutex<TlsStream<TcpStream>>),
}

/// Why bytes cannot be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The client does not read.
    Stalled,
    Broken,
}

impl From<TlsStream<TcpStream>> for ClientStream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(Mutex::new(stream)))
    }
}

impl ClientStream {
    /// Both directions, to be used at the same time by one task.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Self::Tls(stream) => (ReadHalf::Tls(stream), WriteHalf::Tls(stream)),
        }
    }

    /// Reads what is there; 0 is the end.
    pub(crate) fn poll_recv(&mut self, task: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self::Plain(stream) = self else {
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(self).poll_read(task, &mut read))?;
            return Poll::Ready(Ok(read.filled().len()));
        };
        loop {
            ready!(stream.poll_read_ready(task))?;
            match recv_now(stream, room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// From now on, dropping the stream resets it, so that the client sees a cut and not an end.
    pub(crate) fn reset_on_drop(&mut self) {
        let socket = match self {
            Self::Plain(stream) => &*stream,
            Self::Tls(stream) => own(stream).get_ref().0,
        };
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
}

/// Limits the unsent bytes that the system takes. Otherwise thousands of clients that do not read
/// would fill its memory, 4 MB each. Bytes that are on their way are not limited by this.
pub(crate) fn limit_unsent(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES) {
        debug!(%error, "cannot limit the unsent bytes of a connection");
    }
}

/// A source that says when it is readable, so that waiting needs no buffer, and that is then read
/// without waiting.
pub(crate) trait Readable: AsyncRead + Unpin {
    /// Whether a read would return bytes, or find the end. It may be wrong; the read then returns
    /// nothing. One task may wait.
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The socket, if its bytes are not inside TLS.
    fn plain(&self) -> Option<&TcpStream>;

    /// The socket once more, for what cannot wait for this one.
    fn duplicate(&self) -> io::Result<TcpStream>;

    /// Reads available bytes into the free room of `buffer`; 0 at the end, `None` for nothing yet.
    ///
    /// Unlike `try_read`, it knows after a short read that there are no more bytes, and spares a
    /// system call.
    fn recv(&mut self, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
        debug_assert!(buffer.capacity() > buffer.len(), "without free room, nothing to read would look like the end");
        match self.plain() {
            Some(socket) if buffer.capacity() - buffer.len() <= MAX_RECV_BYTES => match recv_into(socket, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                read => read.map(Some),
            },
            _ => self.read_buf(buffer).now_or_never().transpose(),
        }
    }

    /// Completes when [`poll_readable`](Self::poll_readable) is ready.
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> + Send
    where
        Self: Send,
    {
        poll_fn(|task| self.poll_readable(task))
    }
}

/// Completes when the connection is reset: its client is gone in both directions. The end of what
/// it sends is no reset. Cancel safe.
pub(crate) async fn reset(stream: &(impl Readable + Sync)) {
    let waited = match stream.plain() {
        Some(socket) => socket.ready(Interest::ERROR).await,
        None => match stream.duplicate() {
            Ok(socket) => socket.ready(Interest::ERROR).await,
            // Without a descriptor for it, a reset is seen when something is written.
            Err(_) => pending().await,
        },
    };
    drop(waited);
}

fn duplicate(socket: &TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?))
}

impl Readable for ClientStream {
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Cheaper than tokio's `readable`, which supports any number of waiting tasks.
            Self::Plain(stream) => stream.poll_read_ready(task),
            Self::Tls(stream) => poll_readable_tls(own(stream), task),
        }
    }

    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }

    fn duplicate(&self) -> io::Result<TcpStream> {
        match self {
            Self::Plain(stream) => duplicate(stream),
            Self::Tls(stream) => duplicate(lock(stream).get_ref().0),
        }
    }
}

impl Readable for ReadHalf<'_> {
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.as_ref().poll_read_ready(task),
            Self::Tls(stream) => poll_readable_tls(&lock(stream), task),
        }
    }

    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream.as_ref()),
            Self::Tls(_) => None,
        }
    }

    fn duplicate(&self) -> io::Result<TcpStream> {
        match self {
            Self::Plain(stream) => duplicate(stream.as_ref()),
            Self::Tls(stream) => duplicate(lock(stream).get_ref().0),
        }
    }
}

impl Readable for tcp::ReadHalf<'_> {
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_ref().poll_read_ready(task)
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(self.as_ref())
    }

    fn duplicate(&self) -> io::Result<TcpStream> {
        duplicate(self.as_ref())
    }
}

fn poll_readable_tls(stream: &TlsStream<TcpStream>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
    let (socket, session) = stream.get_ref();
    // No socket reports bytes that were read from the system but not yet from the session.
    if session.wants_read() { socket.poll_read_ready(task) } else { Poll::Ready(Ok(())) }
}

/// Whether all bytes were taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Full,
    /// The write had to wait for the client.
    Late,
}

/// Writes all bytes, unless none are taken for `limit`.
pub(crate) async fn write_all(
    to: &mut (impl AsyncWrite + Unpin),
    output: &mut BytesMut,
    limit: Duration,
    client: &ClientPace,
) -> Result<Written, WriteError> {
    let mut outcome = Written::Full;
    if output.is_empty() {
        return Ok(outcome);
    }
    while !output.is_empty() {
        // Usually the bytes are taken at once, and the clock need not be read.
        let written = match to.write(output).now_or_never() {
            Some(written) => written,
            None => {
                outcome = Written::Late;
                shrink(output);
                let _wait = client.wait();
                timeout(limit, to.write(output)).await.map_err(|_elapsed| WriteError::Stalled)?
            }
        };
        match written {
            Ok(0) | Err(_) => return Err(WriteError::Broken),
            Ok(bytes) => {
                if outcome == Written::Late {
                    client.record_bytes(bytes);
                }
                output.advance(bytes);
            }
        }
    }
    // A TLS session may hold some bytes back.
    let flushed = match to.flush().now_or_never() {
        Some(flushed) => flushed,
        None => {
            outcome = Written::Late;
            let _wait = client.wait();
            timeout(limit, to.flush()).await.map_err(|_elapsed| WriteError::Stalled)?
        }
    };
    flushed.map_err(|_broken| WriteError::Broken)?;
    Ok(outcome)
}

/// Bytes that wait for a slow client should take no more memory than they need: there may be
/// thousands of such clients.
pub(crate) fn shrink(buffer: &mut BytesMut) {
    if buffer.capacity() - buffer.len() >= LARGE_ROOM_BYTES {
        let whole = std::mem::replace(buffer, BytesMut::from(&buffer[..]));
        buffers::release(whole);
    }
}

fn own<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Tls(stream) => poll_read_tls(own(stream), task, buffer),
        }
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Tls(stream) => poll_read_tls(&mut lock(stream), task, buffer),
        }
    }
}

/// A client that closes without TLS's close_notify, as most do, counts as closed: HTTP says where a
/// message ends.
fn poll_read_tls(
    stream: &mut TlsStream<TcpStream>,
    task: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    match Pin::new(stream).poll_read(task, buffer) {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        read => read,
    }
}

impl WriteHalf<'_> {
    /// Completes when the system would take more bytes. Until then it is better not to fetch them.
    ///
    /// # Errors
    /// [`WriteError::Stalled`] after `limit`.
    pub(crate) async fn writable(&mut self, limit: Duration, client: &ClientPace) -> Result<(), WriteError> {
        let mut writable = poll_fn(|task| match self {
            Self::Plain(stream) => poll_writable(stream.as_ref(), task),
            Self::Tls(stream) => poll_writable(lock(stream).get_ref().0, task),
        });
        let asked = match (&mut writable).now_or_never() {
            Some(asked) => asked,
            None => {
                let _wait = client.wait();
                timeout(limit, writable).await.map_err(|_elapsed| WriteError::Stalled)?
            }
        };
        asked.map_err(|_broken| WriteError::Broken)
    }
}

/// The runtime takes a socket as writable until a write fails, and the bytes then have to be held.
/// So the system is asked.
fn poll_writable(socket: &TcpStream, task: &mut Context<'_>) -> Poll<io::Result<()>> {
    let ask = || match retry_on_intr(|| poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&Timespec::default())))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    };
    loop {
        ready!(socket.poll_write_ready(task))?;
        match socket.try_io(Interest::WRITABLE, ask) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            asked => return Poll::Ready(asked),
        }
    }
}

fn poll_send(stream: &TcpStream, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(task))?;
        match send_now(stream, bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}

macro_rules! forward_writes {
    ($of:ty, $session:ident => $get:expr) => {
        impl AsyncWrite for $of {
            fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match &mut *self {
                    Self::Plain(stream) => poll_send(stream.as_ref(), task, bytes),
                    Self::Tls($session) => Pin::new(&mut *$get).poll_write(task, bytes),
                }
            }

            fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self {
                    Self::Plain(stream) => Pin::new(stream).poll_flush(task),
                    Self::Tls($session) => Pin::new(&mut *$get).poll_flush(task),
                }
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self {
                    Self::Plain(stream) => Pin::new(stream).poll_shutdown(task),
                    Self::Tls($session) => Pin::new(&mut *$get).poll_shutdown(task),
                }
            }
        }
    };
}

forward_writes!(ClientStream, session => own(session));
forward_writes!(WriteHalf<'_>, session => lock(session));

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn few_bytes_are_held_for_a_client_that_does_not_read() {
        const PATIENCE: Duration = Duration::from_secs(30);
        const PIECE: [u8; 8192] = [b'x'; 8192];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = ClientStream::Plain(listener.accept().await.unwrap().0);
        let ClientStream::Plain(socket) = &stream else { unreachable!() };
        limit_unsent(socket);
        let (_, mut to_client) = stream.split();
        let pace = ClientPace::new(tokio::time::Instant::now());
        let mut taken = 0;
        loop {
            match to_client.writable(Duration::from_millis(100), &pace).await {
                Ok(()) => taken += to_client.write(&PIECE).await.unwrap(),
                Err(error) => break assert!(matches!(error, WriteError::Stalled), "{error:?}"),
            }
        }
        assert!(taken > 0 && taken < 1 << 20, "{taken} bytes");
        // Writing continues as soon as the client reads.
        let read = async {
            let mut part = [0; 8192];
            while client.read(&mut part).await.unwrap() > 0 {}
        };
        tokio::select! {
            writable = to_client.writable(PATIENCE, &pace) => writable.unwrap(),
            () = read => unreachable!("no side closes"),
        }
    }

    #[test]
    fn a_buffer_shrinks_to_its_contents() {
        let mut buffer = BytesMut::with_capacity(8192);
        buffer.extend_from_slice(b"abc");
        shrink(&mut buffer);
        assert!(buffer == "abc" && buffer.capacity() < LARGE_ROOM_BYTES, "{}", buffer.capacity());
    }
}
