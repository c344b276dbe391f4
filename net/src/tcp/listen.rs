//! Listening sockets, with errors that say what to do.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;

/// Connections that may wait to be accepted. Linux lowers it to `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address that failed.
    pub address: SocketAddr,
    /// The setting of the address, for advice: `--listen` unless [`set_by`](Self::set_by) says
    /// something else.
    pub setting: &'static str,
    /// The error of the system.
    #[source]
    pub source: io::Error,
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        Self { address, setting: "--listen", source }
    }

    /// A copy of the error that names `setting` as the setting of the address.
    #[must_use]
    pub fn set_by(self, setting: &'static str) -> Self {
        Self { setting, ..self }
    }
}

/// Listens on `address`; `[::]` takes IPv4 connections too.
///
/// # Errors
/// [`BindError`] with the address; nothing stays open.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    open(address, false).map_err(|source| BindError::new(address, source))
}

/// Listens on all `addresses`. `[::]` takes IPv4 connections too, unless an IPv4 address of the
/// same port is among them.
///
/// # Errors
/// [`BindError`] with the first address that failed; nothing stays open.
pub fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let open = |&address: &SocketAddr| {
        let only_v6 = addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        open(address, only_v6).map_err(|source| BindError::new(address, source))
    };
    // An address that is given twice is listened on once.
    let distinct = addresses.iter().enumerate().filter(|&(at, address)| !addresses[..at].contains(address));
    distinct.map(|(_, address)| open(address)).collect()
}

/// Listens on `address` with `count` listeners, over which the system spreads connections. Each may
/// be moved to a runtime of its own. A process that already listens on the address is an error,
/// though other processes of the same user could share it later (SO_REUSEPORT).
///
/// # Errors
/// [`BindError`] with the address; nothing stays open.
pub fn bind_shared(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let wrong = |source| BindError::new(address, source);
    // A process that also sets SO_REUSEPORT would share the port without an error, so a socket
    // without it tries first. It does not listen, because it would lose the clients that it
    // accepted.
    let first = bound(address, false, false).map_err(wrong)?;
    let address = first.local_addr().map_err(wrong)?.as_socket().unwrap_or(address);
    drop(first);
    (0..count).map(|_| open_as(address, false, true)).collect::<io::Result<_>>().map_err(wrong)
}

fn open(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    open_as(address, only_v6, false)
}

fn open_as(address: SocketAddr, only_v6: bool, shared: bool) -> io::Result<TcpListener> {
    let socket = bound(address, only_v6, shared)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bound(address: SocketAddr, only_v6: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // A restart must not wait until connections of the earlier process leave TIME_WAIT. Two running
    // processes still cannot share the address.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
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
    async fn a_port_is_shared_by_listeners_that_were_opened_together() {
        let listeners = bind_shared("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert!(listeners.len() == 3 && listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        let error = bind_shared(address, 2).unwrap_err();
        assert_eq!((error.address, error.source.kind()), (address, io::ErrorKind::AddrInUse));
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert_eq!((error.address, error.source.kind()), (address, io::ErrorKind::AddrInUse));
    }
}
