//! The means to connect to a server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use net::{ServerAddress, Socket};
use protocol::HostPort;
use tokio::net::TcpStream;

use crate::upstream::names::advertised::AdvertisedName;
use crate::upstream::unix_socket::UnixSocket;

/// The means to connect to a server.
#[derive(Clone, Debug)]
pub(crate) enum Connector {
    /// Connects to the address of the server.
    Address(SocketAddr),
    /// Connects to an address of the name that the server advertises, or to the listed one.
    Name(SocketAddr, Arc<AdvertisedName>),
    /// Connects to the Unix socket of the server.
    Unix(Arc<UnixSocket>),
}

impl Connector {
    /// The address that lists, or the configuration, give the server.
    pub(crate) fn address(&self) -> ServerAddress {
        match self {
            Self::Address(address) | Self::Name(address, _) => ServerAddress::Tcp(*address),
            Self::Unix(socket) => ServerAddress::Unix(socket.path.clone()),
        }
    }

    /// The name that the server advertises, if it does.
    pub(crate) fn name(&self) -> Option<&AdvertisedName> {
        match self {
            Self::Name(_, name) => Some(name),
            Self::Address(_) | Self::Unix(_) => None,
        }
    }

    /// The Unix socket of the server, if it has one.
    pub(crate) fn unix(&self) -> Option<&UnixSocket> {
        match self {
            Self::Unix(socket) => Some(socket),
            Self::Address(_) | Self::Name(..) => None,
        }
    }

    /// The identity of the server. The Distributor may list two servers at one address, with two
    /// names.
    pub(crate) fn key(&self) -> (ServerAddress, Option<HostPort>) {
        (self.address(), self.name().map(|name| name.server.clone()))
    }

    /// Connects. Cancel safe.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) async fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Address(address) => TcpStream::connect(address).await.map(Socket::Tcp),
            Self::Name(listed, name) => name.connect(*listed).await.map(Socket::Tcp),
            Self::Unix(socket) => socket.connect().await,
        }
    }
}
