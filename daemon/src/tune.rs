//! Options of every TCP connection of the mesh.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

/// Sends small packets at once, and lets the kernel find out within about 25 s that an idle peer's machine is gone:
/// old peers send nothing that would show it.
pub fn tune(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(3);
    let socket = SockRef::from(stream);
    // A connection that is dead already shows it when it is read.
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        debug!(%error, "cannot set options of a connection");
    }
}
