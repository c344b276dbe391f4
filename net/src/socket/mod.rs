//! Connections and listeners: those of the system, or of a network inside this process, for tests.
//!
//! It must not read what a frame says. Of this crate it must import only `log` and `tcp`.

mod accept;
mod frames;
mod peer_backlog;
#[cfg(feature = "virtual-net")]
mod virtual_net;

use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use protocol::{HostName, HostPort};
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

pub use self::accept::Acceptor;
pub use self::frames::FrameReader;
pub use self::peer_backlog::{BacklogPoller, PeerBacklog};
#[cfg(feature = "virtual-net")]
pub use self::virtual_net::{Host, Pipe, PipeListener, VirtualNet};
use crate::tcp::{
    BindError, bind, connect_any, look_up, poll_writable, recv_buf_now, recv_now, send_now, send_pieces_now,
    set_tcp_options,
};

/// Bytes of one read from a socket that is being closed.
const CLOSING_READ_BYTES: usize = 4096;

/// The network that connections are made in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Network {
    /// The network of the system.
    #[default]
    System,
    /// A host of a network inside this process.
    #[cfg(feature = "virtual-net")]
    Virtual(Host),
}

/// A connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// A TCP socket of the system.
    Tcp(TcpStream),
    /// A Unix socket of the system.
    Unix(UnixStream),
    /// A connection inside this process.
    #[cfg(feature = "virtual-net")]
    Pipe(Pipe),
}

/// A listener, which accepts connections.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// A TCP socket of the system.
    Tcp(TcpListener),
    /// A listener inside this process.
    #[cfg(feature = "virtual-net")]
    Pipe(PipeListener),
}

impl Network {
    /// Looks up the host, and connects to the first of its addresses that takes the connection.
    /// Those that `skips` names are not tried. Cancel safe.
    ///
    /// # Errors
    /// The error of the system; `NotFound` when the name has no address, and `PermissionDenied`
    /// when all are skipped.
    pub async fn connect(&self, address: &HostPort, skips: impl Fn(SocketAddr) -> bool) -> io::Result<Socket> {
        let addresses = match &address.host {
            HostName::Ip(ip) => vec![SocketAddr::new(*ip, address.port)],
            HostName::Name(name) => look_up(name, address.port).await?,
        };
        let addresses: Vec<_> = addresses.into_iter().filter(|address| !skips(*address)).collect();
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the name has only addresses that are never called",
            ));
        }
        match self {
            Self::System => connect_any(&addresses).await.map(Socket::Tcp),
            #[cfg(feature = "virtual-net")]
            Self::Virtual(host) => {
                let first = addresses.first().ok_or(io::ErrorKind::NotFound)?;
                host.connect(*first).await.map(Socket::Pipe)
            }
        }
    }

    /// Connects to an address. Cancel safe.
    ///
    /// # Errors
    /// The error of the system.
    pub async fn connect_to(&self, address: SocketAddr) -> io::Result<Socket> {
        match self {
            Self::System => TcpStream::connect(address).await.map(Socket::Tcp),
            #[cfg(feature = "virtual-net")]
            Self::Virtual(host) => host.connect(address).await.map(Socket::Pipe),
        }
    }

    /// Listens on `address`. A host inside this process listens on its own address, with the port
    /// of `address`.
    ///
    /// # Errors
    /// [`BindError`] says what to do.
    pub fn bind(&self, address: SocketAddr) -> Result<Listener, BindError> {
        match self {
            Self::System => bind(address).map(Listener::Tcp),
            #[cfg(feature = "virtual-net")]
            Self::Virtual(host) => Ok(Listener::Pipe(host.listen(address.port()))),
        }
    }
}

impl Listener {
    /// The address that it listens on.
    ///
    /// # Errors
    /// The error of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(listener) => Ok(listener.address()),
        }
    }

    /// Accepts the next connection. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| (Socket::Tcp(stream), peer)),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(listener) => Ok(listener.accept().await).map(|(pipe, peer)| (Socket::Pipe(pipe), peer)),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Socket {
    /// The TCP socket, if it is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
            #[cfg(feature = "virtual-net")]
            Self::Pipe(_) => None,
        }
    }

    /// Turns into the TCP socket, if it is one.
    pub fn into_tcp(self) -> Option<TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
            #[cfg(feature = "virtual-net")]
            Self::Pipe(_) => None,
        }
    }

    /// The addresses of both ends, if it is a TCP socket. A mapped IPv4 address is given
    /// as IPv4.
    pub fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        let stream = self.tcp()?;
        let (local, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        Some((local.ip().to_canonical(), peer.ip().to_canonical()))
    }

    /// As [`TcpStream::try_read`].
    ///
    /// # Errors
    /// As that method.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.try_read(buffer),
        }
    }

    /// As [`TcpStream::try_write`].
    ///
    /// # Errors
    /// As that method.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => send_now(stream, bytes),
            Self::Unix(stream) => send_now(stream, bytes),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.try_write(bytes),
        }
    }

    /// As [`try_write`](Self::try_write), of several pieces.
    pub(crate) fn try_write_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => send_pieces_now(stream, pieces),
            Self::Unix(stream) => send_pieces_now(stream, pieces),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pieces.first().map_or(Ok(0), |piece| pipe.try_write(piece)),
        }
    }

    /// Closes a socket of the system in some direction.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(how),
            Self::Unix(stream) => SockRef::from(stream).shutdown(how),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(_) => Ok(()),
        }
    }

    /// As [`TcpStream::ready`]. Cancel safe.
    ///
    /// # Errors
    /// As that method.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => Ok(std::future::poll_fn(|context| pipe.poll_ready(interest, context)).await),
        }
    }

    /// As [`TcpStream::readable`]. Cancel safe.
    ///
    /// # Errors
    /// As that method.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// As [`TcpStream::writable`]. Cancel safe.
    ///
    /// # Errors
    /// As that method.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Closes a TCP socket for writing, and reads until the peer closes its side, for
    /// `within` at most. A socket that is closed with unread bytes is reset, and then the peer may
    /// lose what it has not read yet. Cancel safe.
    pub async fn close_in_order(&self, within: Duration) {
        let Some(stream) = self.tcp() else { return };
        if SockRef::from(stream).shutdown(Shutdown::Write).is_err() {
            return;
        }
        let drained = async {
            while stream.readable().await.is_ok() {
                match stream.try_read(&mut [0; CLOSING_READ_BYTES]) {
                    Ok(0) => return,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    Ok(_) | Err(_) => {}
                }
            }
        };
        let _ = timeout(within, drained).await;
    }

    /// As [`TcpStream::poll_read_ready`].
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.poll_ready(Interest::READABLE, context).map(|_| Ok(())),
        }
    }

    /// As [`TcpStream::poll_write_ready`].
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.poll_ready(Interest::WRITABLE, context).map(|_| Ok(())),
        }
    }

    /// Completes when it would take more bytes: a socket of the system is asked.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => poll_writable(stream, context),
            Self::Unix(stream) => poll_writable(stream, context),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(_) => self.poll_write_ready(context),
        }
    }
}

/// A socket that can be read without waiting.
pub trait ReadNow {
    /// Reads the available bytes, without waiting, in one system call. 0 is the end of the stream.
    ///
    /// # Errors
    /// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when there are no bytes.
    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// As [`recv_now`](Self::recv_now), into the free room of `buffer`, which must not be empty:
    /// bytes that are written over are not zeroed first.
    ///
    /// # Errors
    /// As for that method.
    fn recv_buf_now(&self, buffer: &mut impl BufMut) -> io::Result<usize>;
}

impl ReadNow for Socket {
    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => recv_now(stream, buffer),
            Self::Unix(stream) => recv_now(stream, buffer),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.try_read(buffer),
        }
    }

    fn recv_buf_now(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => recv_buf_now(stream, buffer),
            Self::Unix(stream) => recv_buf_now(stream, buffer),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => {
                let mut read = vec![0; buffer.chunk_mut().len()];
                let bytes = pipe.try_read(&mut read)?;
                buffer.put_slice(&read[..bytes]);
                Ok(bytes)
            }
        }
    }
}

/// Sets the options of a TCP socket: see [`set_tcp_options`].
pub fn set_socket_options(socket: &Socket) {
    if let Some(stream) = socket.tcp() {
        set_tcp_options(stream);
    }
}
