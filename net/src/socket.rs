//! A connection and what makes one: of the system, or of a network inside this process for tests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use tokio::io::{Interest, Ready};
use tokio::net::{TcpListener, TcpStream};

use crate::tcp::{BindError, bind, recv_now, send_now, set_tcp_options};
#[cfg(feature = "virtual-net")]
use crate::virtual_net::{Host, Pipe, PipeListener};

/// Where connections come from and go to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Network {
    /// The system's.
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
    /// Of the system.
    Tcp(TcpStream),
    /// Inside this process.
    #[cfg(feature = "virtual-net")]
    Pipe(Pipe),
}

/// What accepts connections.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// Of the system.
    Tcp(TcpListener),
    /// Inside this process.
    #[cfg(feature = "virtual-net")]
    Pipe(PipeListener),
}

impl Network {
    /// Connects to `host:port`; a name is looked up. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect(&self, address: &str) -> io::Result<Socket> {
        match self {
            Self::System => TcpStream::connect(address).await.map(Socket::Tcp),
            #[cfg(feature = "virtual-net")]
            Self::Virtual(host) => {
                let address = address.parse().map_err(io::Error::other)?;
                host.connect(address).await.map(Socket::Pipe)
            }
        }
    }

    /// As [`connect`](Self::connect), without a name.
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect_to(&self, address: SocketAddr) -> io::Result<Socket> {
        match self {
            Self::System => TcpStream::connect(address).await.map(Socket::Tcp),
            #[cfg(feature = "virtual-net")]
            Self::Virtual(host) => host.connect(address).await.map(Socket::Pipe),
        }
    }

    /// Listens; a host inside this process does at its own address, whatever `address` says, and at its port.
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
    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(listener) => Ok(listener.address()),
        }
    }

    /// The next connection. Cancel safe.
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
    /// The system's socket; `None` for one inside this process.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(_) => None,
        }
    }

    /// The system's socket, to be had for good.
    pub fn into_tcp(self) -> Option<TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(_) => None,
        }
    }

    /// This end and the other, when they are the system's; IPv4 in the form of IPv4.
    pub fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        let stream = self.tcp()?;
        let (local, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        Some((local.ip().to_canonical(), peer.ip().to_canonical()))
    }

    /// As [`TcpStream::try_read`].
    ///
    /// # Errors
    /// As there.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.try_read(buffer),
        }
    }

    /// Reads what is there, without waiting, and never asks the system twice: see [`recv_now`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => recv_now(stream, buffer),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.try_read(buffer),
        }
    }

    /// As [`TcpStream::try_write`].
    ///
    /// # Errors
    /// As there.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => send_now(stream, bytes),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.try_write(bytes),
        }
    }

    /// As [`TcpStream::ready`]. Cancel safe.
    ///
    /// # Errors
    /// As there.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => Ok(std::future::poll_fn(|context| pipe.poll_ready(interest, context)).await),
        }
    }

    /// As [`TcpStream::readable`]. Cancel safe.
    ///
    /// # Errors
    /// As there.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// As [`TcpStream::writable`]. Cancel safe.
    ///
    /// # Errors
    /// As there.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// As [`TcpStream::poll_read_ready`].
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.poll_ready(Interest::READABLE, context).map(|_| Ok(())),
        }
    }

    /// As [`TcpStream::poll_write_ready`].
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            #[cfg(feature = "virtual-net")]
            Self::Pipe(pipe) => pipe.poll_ready(Interest::WRITABLE, context).map(|_| Ok(())),
        }
    }
}

/// Sets the options of a connection of the system: see [`set_tcp_options`].
pub fn set_options(socket: &Socket) {
    if let Some(stream) = socket.tcp() {
        set_tcp_options(stream);
    }
}
