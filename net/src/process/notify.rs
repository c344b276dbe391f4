//! Notifies systemd, as sd_notify(3) does.

use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::warn;

/// The variable with the socket on which systemd listens, if it wants notifications.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Sends a notification to systemd, as sd_notify(3) does: `READY=1` or `MAINPID=7`. Does nothing
/// without systemd, never waits, and never fails. [`stop_on_signals`](crate::stop_on_signals) sends
/// `STOPPING=1`.
pub fn notify_systemd(state: &str) {
    let Some(path) = std::env::var_os(NOTIFY_SOCKET) else { return };
    if let Err(error) = send_state(&path, state) {
        warn!(%error, state, "systemd cannot be notified; it may think that this process has not started");
    }
}

fn send_state(path: &std::ffi::OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // Sending never blocks.
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = path.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;

        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return socket.send_to_addr(state.as_bytes(), &address).map(drop);
    }
    socket.send_to(state.as_bytes(), path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_notified_wherever_it_listens() {
        let folder = std::env::temp_dir().join(format!("notify-{:x}", crate::unique_id()));
        let receiver = UnixDatagram::bind(&folder).unwrap();
        send_state(folder.as_os_str(), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let read = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"READY=1");
        std::fs::remove_file(&folder).unwrap();
        assert!(send_state(folder.as_os_str(), "READY=1").is_err(), "no socket receives it");
    }
}
