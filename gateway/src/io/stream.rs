//! The bytes of a connection: over plain TCP, or inside TLS.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use net::{QueuedSocket, buffers};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::io::client_pace::ClientPace;

/// A connection, with TLS or without.
#[derive(Debug)]
pub(crate) enum MaybeTlsStream {
    Plain(QueuedSocket),
    /// The lock is for its two halves, which one task holds, so it is never contended.
    Tls(Box<Mutex<TlsStream<QueuedSocket>>>),
}

/// Unsent bytes of a connection above which the system takes no more: enough to keep sending while
/// we sleep.
const MAX_UNSENT_BYTES: u32 = 64 * 1024;

/// Unused room in a buffer that makes a smaller one worthwhile.
const LARGE_ROOM_BYTES: usize = 1024;

/// The half that reads, while the other one writes.
#[derive(Debug)]
pub(crate) enum ReadHalf<'a> {
    Plain(&'a QueuedSocket),
    Tls(&'a Mutex<TlsStream<QueuedSocket>>),
}

/// The half that writes, while the other one reads.
#[derive(Debug)]
pub(crate) enum WriteHalf<'a> {
    Plain(&'a QueuedSocket),
    Tls(&'a Mutex<TlsStream<QueuedSocket>>),
}

/// Why bytes cannot be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The client does not read.
    Stalled,
    Broken,
}

impl From<TlsStream<QueuedSocket>> for MaybeTlsStream {
    fn from(stream: TlsStream<QueuedSocket>) -> Self {
        Self::Tls(Box::new(Mutex::new(stream)))
    }
}

impl From<TcpStream> for MaybeTlsStream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream.into())
    }
}

impl MaybeTlsStream {
    /// Splits the stream into its two directions, which one task may use at the same time.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Plain(socket) => (ReadHalf::Plain(socket), WriteHalf::Plain(socket)),
            Self::Tls(stream) => (ReadHalf::Tls(stream), WriteHalf::Tls(stream)),
        }
    }

    /// Reads the available bytes; 0 is the end.
    pub(crate) fn poll_recv(&mut self, task: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_recv(task, room),
            Self::Tls(stream) => {
                let mut read = ReadBuf::new(room);
                ready!(poll_read_tls(get_mut_of(stream), task, &mut read))?;
                Poll::Ready(Ok(read.filled().len()))
            }
        }
    }

    /// Has the stream reset when it is dropped, so that the client sees a cut and not an end.
    pub(crate) fn reset_on_drop(&mut self) {
        match self {
            Self::Plain(socket) => socket.reset_on_drop(),
            Self::Tls(stream) => get_mut_of(stream).get_ref().0.reset_on_drop(),
        }
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
    fn plain(&self) -> Option<&QueuedSocket>;

    /// A duplicate of the socket, for a task that cannot wait for this one.
    fn duplicate(&self) -> io::Result<TcpStream>;

    /// Reads available bytes into the free room of `buffer`; 0 at the end, `None` for nothing yet.
    ///
    /// Unlike `try_read`, it knows after a short read that there are no more bytes, and spares a
    /// system call.
    fn recv(&mut self, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
        debug_assert!(buffer.capacity() > buffer.len(), "without free room, nothing to read would look like the end");
        match self.plain() {
            Some(socket) => match socket.recv_into(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                read => read.map(Some),
            },
            None => self.read_buf(buffer).now_or_never().transpose(),
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

/// Completes when the connection is reset: its client is gone in both directions. A client that has
/// only closed its sending side has not reset it. Cancel safe.
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

impl Readable for MaybeTlsStream {
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Cheaper than tokio's `readable`, which supports any number of waiting tasks.
            Self::Plain(socket) => socket.poll_read_ready(task),
            Self::Tls(stream) => poll_readable_tls(get_mut_of(stream), task),
        }
    }

    fn plain(&self) -> Option<&QueuedSocket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    fn duplicate(&self) -> io::Result<TcpStream> {
        match self {
            Self::Plain(socket) => socket.duplicate(),
            Self::Tls(stream) => lock(stream).get_ref().0.duplicate(),
        }
    }
}

impl Readable for ReadHalf<'_> {
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(task),
            Self::Tls(stream) => poll_readable_tls(&lock(stream), task),
        }
    }

    fn plain(&self) -> Option<&QueuedSocket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    fn duplicate(&self) -> io::Result<TcpStream> {
        match self {
            Self::Plain(socket) => socket.duplicate(),
            Self::Tls(stream) => lock(stream).get_ref().0.duplicate(),
        }
    }
}

fn poll_readable_tls(stream: &TlsStream<QueuedSocket>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
    let (socket, session) = stream.get_ref();
    // No socket reports bytes that were read from the system but not yet from the session.
    if session.wants_read() { socket.poll_read_ready(task) } else { Poll::Ready(Ok(())) }
}

/// Whether all bytes were taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteTiming {
    Full,
    /// The write had to wait for the client.
    Late,
}

/// Writes all bytes, unless none are taken for `write_timeout`.
pub(crate) async fn write_all(
    to: &mut (impl AsyncWrite + Unpin),
    output: &mut BytesMut,
    write_timeout: Duration,
    pace: &ClientPace,
) -> Result<WriteTiming, WriteError> {
    let mut outcome = WriteTiming::Full;
    if output.is_empty() {
        return Ok(outcome);
    }
    while !output.is_empty() {
        // Usually the bytes are taken at once, and the clock need not be read.
        let written = match to.write(output).now_or_never() {
            Some(written) => written,
            None => {
                outcome = WriteTiming::Late;
                shrink(output);
                let _wait = pace.wait();
                timeout(write_timeout, to.write(output)).await.map_err(|_elapsed| WriteError::Stalled)?
            }
        };
        match written {
            Ok(0) | Err(_) => return Err(WriteError::Broken),
            Ok(bytes) => {
                if outcome == WriteTiming::Late {
                    pace.record_bytes(bytes);
                }
                output.advance(bytes);
            }
        }
    }
    // A TLS session may hold some bytes back.
    let flushed = match to.flush().now_or_never() {
        Some(flushed) => flushed,
        None => {
            outcome = WriteTiming::Late;
            let _wait = pace.wait();
            timeout(write_timeout, to.flush()).await.map_err(|_elapsed| WriteError::Stalled)?
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

fn get_mut_of<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for MaybeTlsStream {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Tls(stream) => poll_read_tls(get_mut_of(stream), task, buffer),
        }
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => socket.poll_read(task, buffer),
            Self::Tls(stream) => poll_read_tls(&mut lock(stream), task, buffer),
        }
    }
}

/// Reads from a client over TLS. One that closes without TLS's close_notify, as most do, counts as
/// closed: HTTP says where a message ends.
fn poll_read_tls(
    stream: &mut TlsStream<QueuedSocket>,
    task: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    match Pin::new(stream).poll_read(task, buffer) {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        read => read,
    }
}

impl MaybeTlsStream {
    /// Completes when the system has taken all that was written. To be awaited before a close that
    /// waits for nothing. Cancel safe.
    ///
    /// # Errors
    /// [`WriteError::Stalled`] after `write_timeout`.
    pub(crate) async fn wait_sent(&mut self, write_timeout: Duration, pace: &ClientPace) -> Result<(), WriteError> {
        let sent = poll_fn(|task| match self {
            Self::Plain(socket) => socket.poll_sent(task),
            Self::Tls(stream) => get_mut_of(stream).get_ref().0.poll_sent(task),
        });
        within(write_timeout, pace, sent).await
    }
}

/// Waits for the client for `write_timeout` at most.
async fn within(
    write_timeout: Duration,
    pace: &ClientPace,
    mut waits: impl Future<Output = io::Result<()>> + Unpin,
) -> Result<(), WriteError> {
    let waited = match (&mut waits).now_or_never() {
        Some(waited) => waited,
        None => {
            let _wait = pace.wait();
            timeout(write_timeout, waits).await.map_err(|_elapsed| WriteError::Stalled)?
        }
    };
    waited.map_err(|_broken| WriteError::Broken)
}

impl WriteHalf<'_> {
    /// Completes when the system would take more bytes. Until then it is better not to fetch them.
    ///
    /// # Errors
    /// [`WriteError::Stalled`] after `write_timeout`.
    pub(crate) async fn writable(&mut self, write_timeout: Duration, pace: &ClientPace) -> Result<(), WriteError> {
        let writable = poll_fn(|task| match self {
            Self::Plain(socket) => socket.poll_writable(task),
            Self::Tls(stream) => lock(stream).get_ref().0.poll_writable(task),
        });
        within(write_timeout, pace, writable).await
    }
}

macro_rules! forward_writes {
    ($of:ty, $session:ident => $get:expr) => {
        impl AsyncWrite for $of {
            fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match &mut *self {
                    Self::Plain(socket) => socket.poll_write(task, bytes),
                    Self::Tls($session) => Pin::new(&mut *$get).poll_write(task, bytes),
                }
            }

            fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self {
                    Self::Plain(socket) => socket.poll_flush(task),
                    Self::Tls($session) => Pin::new(&mut *$get).poll_flush(task),
                }
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self {
                    Self::Plain(socket) => socket.poll_shutdown(task),
                    Self::Tls($session) => Pin::new(&mut *$get).poll_shutdown(task),
                }
            }
        }
    };
}

forward_writes!(MaybeTlsStream, session => get_mut_of(session));
forward_writes!(WriteHalf<'_>, session => lock(session));

#[cfg(test)]
mod tests {
    use std::io::Write;

    use net::SendQueue;
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
        let inner = listener.accept().await.unwrap().0;
        limit_unsent(&inner);
        let mut stream = MaybeTlsStream::from(inner);
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

    #[tokio::test]
    async fn a_slow_client_has_its_time_for_the_last_message() {
        let _queue = SendQueue::start();
        tokio::task::yield_now().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = MaybeTlsStream::from(listener.accept().await.unwrap().0);
        let (mut taken, mut other) = (4, stream.duplicate().unwrap().into_std().unwrap());
        while let Ok(bytes) = other.write(&[b'x'; 8192]) {
            taken += bytes;
        }
        let (limit, pace) = (Duration::from_millis(100), ClientPace::new(tokio::time::Instant::now()));
        let mut output = BytesMut::from("last");
        assert_eq!(write_all(&mut stream, &mut output, limit, &pace).await.unwrap(), WriteTiming::Full);
        assert!(matches!(stream.wait_sent(limit, &pace).await, Err(WriteError::Stalled)));
        let mut read = vec![0; taken];
        let (sent, _) = tokio::join!(stream.wait_sent(Duration::from_secs(30), &pace), client.read_exact(&mut read));
        sent.unwrap();
        assert!(read.ends_with(b"xlast"));
    }

    #[test]
    fn a_buffer_shrinks_to_its_contents() {
        let mut buffer = BytesMut::with_capacity(8192);
        buffer.extend_from_slice(b"abc");
        shrink(&mut buffer);
        assert!(buffer == "abc" && buffer.capacity() < LARGE_ROOM_BYTES, "{}", buffer.capacity());
    }
}
