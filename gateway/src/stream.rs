//! A client's bytes: over TCP as they are, or inside TLS.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, tcp};
use tokio::time::{Duration, timeout};
use tokio_rustls::server::TlsStream;

/// A connection to a client.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// The lock is for its halves, which one task holds: it is never waited for.
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

/// What is read from, while something else writes.
#[derive(Debug)]
pub(crate) enum ReadHalf<'a> {
    Plain(tcp::ReadHalf<'a>),
    Tls(&'a Mutex<TlsStream<TcpStream>>),
}

/// What is written to, while something else reads.
#[derive(Debug)]
pub(crate) enum WriteHalf<'a> {
    Plain(tcp::WriteHalf<'a>),
    Tls(&'a Mutex<TlsStream<TcpStream>>),
}

/// Why bytes cannot be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The client takes nothing.
    Stalled,
    Broken,
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(Mutex::new(stream)))
    }
}

impl Stream {
    /// Completes when a read would give something, or find the end. May be wrong: the read gives nothing then. One task may wait.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        let socket = match self {
            Self::Plain(stream) => &*stream,
            Self::Tls(stream) => {
                let (socket, session) = own(stream).get_ref();
                // What has been read from the system, but not from the session, no socket will tell of.
                if !session.wants_read() {
                    return Ok(());
                }
                socket
            }
        };
        // Cheaper than `readable`, which any number of tasks may wait for.
        poll_fn(|task| socket.poll_read_ready(task)).await
    }

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

    /// When it is dropped, the client sees that it was cut, and not that it has ended.
    pub(crate) fn reset_on_drop(&mut self) {
        let socket = match self {
            Self::Plain(stream) => &*stream,
            Self::Tls(stream) => own(stream).get_ref().0,
        };
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
}

/// Writes all of it, unless nothing is taken for as long as `limit`.
pub(crate) async fn write_all(
    to: &mut (impl AsyncWrite + Unpin),
    output: &mut BytesMut,
    limit: Duration,
) -> Result<(), WriteError> {
    if output.is_empty() {
        return Ok(());
    }
    while !output.is_empty() {
        // Mostly it is taken at once, and no time has to be looked at.
        let written = match to.write(output).now_or_never() {
            Some(written) => written,
            None => timeout(limit, to.write(output)).await.map_err(|_elapsed| WriteError::Stalled)?,
        };
        match written {
            Ok(0) | Err(_) => return Err(WriteError::Broken),
            Ok(bytes) => output.advance(bytes),
        }
    }
    // A TLS session may hold some of it back.
    let flushed = match to.flush().now_or_never() {
        Some(flushed) => flushed,
        None => timeout(limit, to.flush()).await.map_err(|_elapsed| WriteError::Stalled)?,
    };
    flushed.map_err(|_broken| WriteError::Broken)
}

fn own<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Stream {
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

/// A client that goes without TLS's farewell, as most do, has gone all the same: where a message ends, HTTP says.
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

macro_rules! forward_writes {
    ($of:ty, $session:ident => $get:expr) => {
        impl AsyncWrite for $of {
            fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match &mut *self {
                    Self::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
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

forward_writes!(Stream, session => own(session));
forward_writes!(WriteHalf<'_>, session => lock(session));
