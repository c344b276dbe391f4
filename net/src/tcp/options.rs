//! Options of every TCP connection of the mesh.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::debug;

/// How long a peer's machine may give no sign of life.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Between two keep-alive probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// An idle connection is probed after 4 to 8 s, each connection after a time of its own: a change that was told to thousands
/// at one moment would have all of them probed at one moment otherwise, and the system drops what comes in such bursts.
const FIRST_PROBES: u16 = 5;

/// Sends small packets at once, and lets the kernel find out within about 16 s that a peer's machine is gone, whether the
/// connection is idle (keep-alive) or has something under way (Linux: user timeout, tcp(7); otherwise that takes about
/// 15 minutes). Old peers send nothing that would show it.
pub fn set_tcp_options(stream: &TcpStream) {
    set_tcp_options_with_timeout(stream, DEAD_AFTER);
}

/// As [`set_tcp_options`], for somebody who may take nothing for as long as `patience` and live: the system takes that for a sign of death too.
pub fn set_tcp_options_with_timeout(stream: &TcpStream, patience: Duration) {
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    let first = PROBE_INTERVAL + Duration::from_secs((port / 2 % FIRST_PROBES).into());
    let keepalive = TcpKeepalive::new().with_time(first).with_interval(PROBE_INTERVAL).with_retries(3);
    let socket = SockRef::from(stream);
    // A connection that is dead already shows it when it is read.
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        debug!(%error, "cannot set options of a connection");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_user_timeout(Some(patience.max(DEAD_AFTER))) {
        debug!(%error, "cannot set the user timeout of a connection");
    }
}
