//! Options of every TCP connection of the mesh.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::debug;

/// How long a peer's machine may stay silent.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Time between two keep-alive probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// An idle connection is probed after 4 to 8 s; the time differs between connections. Otherwise a
/// change sent to thousands of nodes at one moment would have all of them probed at one moment, and
/// the system drops packets in such bursts.
const FIRST_PROBES: u16 = 5;

/// Sends small packets at once, and has the kernel find out within about 16 s that a peer's machine
/// is gone. Keep-alive does so for an idle connection. The user timeout of Linux (tcp(7)) does so
/// for one with bytes under way, which would take about 15 minutes otherwise. Version 1 peers send
/// no pings that would show it.
pub fn set_tcp_options(stream: &TcpStream) {
    set_tcp_options_with_timeout(stream, DEAD_AFTER);
}

/// As [`set_tcp_options`], for a peer that may read nothing for as long as `user_timeout`. The
/// usual user timeout would end its connection earlier.
pub fn set_tcp_options_with_timeout(stream: &TcpStream, user_timeout: Duration) {
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    let first = PROBE_INTERVAL + Duration::from_secs((port / 2 % FIRST_PROBES).into());
    let keepalive = TcpKeepalive::new().with_time(first).with_interval(PROBE_INTERVAL).with_retries(3);
    let socket = SockRef::from(stream);
    // The next read shows that a connection is broken.
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        debug!(%error, "cannot set options of a connection");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_user_timeout(Some(user_timeout.max(DEAD_AFTER))) {
        debug!(%error, "cannot set the user timeout of a connection");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = user_timeout;
}
