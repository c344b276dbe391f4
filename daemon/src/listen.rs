//! Listening sockets, with errors that say what to do.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;

/// Connections that may wait to be accepted; Linux cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address at fault.
    pub address: SocketAddr,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Listens on `address`; `[::]` takes IPv4 connections too.
///
/// # Errors
/// [`BindError`] with the address; nothing stays open.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    open(address, false).map_err(|source| BindError { address, source })
}

/// Listens on all `addresses`. `[::]` takes IPv4 connections too, unless an IPv4 address of the same port is among them.
///
/// # Errors
/// [`BindError`] with the first address at fault; nothing stays open.
pub fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let open = |&address: &SocketAddr| {
        let only_v6 = addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        open(address, only_v6).map_err(|source| BindError { address, source })
    };
    // An address that is given twice is listened on once.
    let distinct = addresses.iter().enumerate().filter(|&(at, address)| !addresses[..at].contains(address));
    distinct.map(|(_, address)| open(address)).collect()
}

fn open(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // A restart must not wait for connections of the former process to leave TIME_WAIT. Two that run cannot share it.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_share_a_port() {
        let v4 = bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let v6 = SocketAddr::new("::".parse().unwrap(), v4.port());
        let listeners = bind_all(&[v4, v6, v4]).unwrap();
        assert_eq!(listeners.len(), 2);
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert_eq!((error.address, error.source.kind()), (address, io::ErrorKind::AddrInUse));
    }
}
