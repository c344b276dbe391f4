//! How a connection ends: the peer is told the reason, or the connection is reset if the peer would
//! not read it.

use std::net::Shutdown;
use std::time::Duration;

use bytes::BytesMut;
use net::{Socket, TimeSlice};
use protocol::write_refusal;
use socket2::SockRef;
use tokio::time::timeout;
use tracing::debug;

use crate::registry::Rejection;
use crate::shell::session::SessionGuard;

/// After a peer was told why it is cut, its bytes are read for this time and up to this amount. A
/// socket that is closed with unread bytes resets the connection, and the message would be lost.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 << 20;
/// Bytes of one such read.
const LINGER_READ_BYTES: usize = 16 * 1024;

/// Tells the peer the `reason`, if there is one, once and without waiting for a peer that does not
/// read, and closes. Returns whether the peer has closed too.
pub(super) async fn close_with_reason(guard: &SessionGuard, reason: Option<&Rejection>) -> bool {
    let socket = &guard.session.socket;
    let mut out = BytesMut::new();
    if let Some(Rejection { status, reason, message, .. }) = reason {
        write_refusal(&mut out, None, *status, reason, message, None);
    }
    let shut = |tcp| SockRef::from(tcp).shutdown(Shutdown::Write);
    let is_told = || out.is_empty() || socket.try_write(&out).is_ok();
    if !is_told() || socket.tcp().is_none_or(|tcp| shut(tcp).is_err()) {
        return false;
    }
    let mut left = LINGER_BYTES;
    let mut slice = TimeSlice::new();
    let closed = timeout(LINGER_TIMEOUT, async {
        while left > 0 && slice.idle_while(socket.readable()).await.is_ok() {
            slice.yield_if_over().await;
            match discard_received(socket) {
                Ok(0) => return true,
                Ok(bytes) => left = left.saturating_sub(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
        }
        false
    });
    closed.await.unwrap_or(false)
}

/// Reads bytes and drops them. The buffer is on the stack: thousands of connections that are cut
/// need no buffer each.
fn discard_received(socket: &Socket) -> std::io::Result<usize> {
    socket.try_read(&mut [0; LINGER_READ_BYTES])
}

/// Closes with a reset. An orderly close would wait behind the bytes that the peer has not read.
/// The system later drops those without notice, and a peer that reads again would wait for ever on
/// a connection that is gone.
pub(super) fn abort(socket: &Socket) {
    let Some(tcp) = socket.tcp() else { return };
    if let Err(error) = SockRef::from(tcp).set_linger(Some(Duration::ZERO)) {
        debug!(%error, "cannot reset a connection");
    }
}
