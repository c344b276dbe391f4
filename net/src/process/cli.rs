//! What the two daemons share of their command line: addresses, durations, exit codes.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use tracing::error;

use crate::{BindError, flush_log};

/// Ends the process once the last lines of the log are written, or after a second. Waits for
/// nothing else.
pub fn exit_now(status: i32) -> ! {
    flush_log();
    signal_hook::low_level::exit(status)
}

/// Reads `host:port`, for clap.
///
/// # Errors
/// A sentence that says how an address is written.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let how = "write it like 127.0.0.1:9000, [::1]:9000 or localhost:9000";
    // The system would take the last part of `::1:9000` for the port.
    if text.matches(':').count() > 1 && !text.contains('[') {
        return Err(format!("an IPv6 address stands in brackets; {how}"));
    }
    // A fuzzer asks no name server.
    if cfg!(fuzzing) {
        return text.trim().parse().map_err(|error| format!("{error}; {how}"));
    }
    let addresses: Vec<_> = text.trim().to_socket_addrs().map_err(|error| format!("{error}; {how}"))?.collect();
    // Version 1 nodes connect to 127.0.0.1; the first address of `localhost` may be ::1.
    let preferred = addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first());
    preferred.copied().ok_or_else(|| format!("no address is known for this name; {how}"))
}

/// Longest time-out. A longer one makes no sense, and this one can be added to any time.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a duration such as `10s`, `250ms` or `1m 30s`, for clap.
///
/// # Errors
/// A sentence that says how a duration is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > MAX_DURATION => Err("write a time of at most 1day".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("write a time with its unit, such as 10s or 250ms".to_owned()),
    }
}

/// Logs why the process ends, with causes and advice, and returns its exit code: 3 when a port is
/// taken, 4 when an address cannot be listened on for another reason, 1 for the rest. (clap exits
/// with 2 for a bad command line.)
pub fn exit_code(failure: &(dyn Error + 'static)) -> ExitCode {
    let chain = || std::iter::successors(Some(failure), |error: &&(dyn Error + 'static)| (*error).source());
    let causes: String = chain().skip(1).map(|cause| format!(": {cause}")).collect();
    let Some(BindError { address, setting, source }) = chain().find_map(|error| error.downcast_ref()) else {
        error!("{failure}{causes}");
        return ExitCode::from(1);
    };
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = port_owner(address.port()).map_or_else(
                || "another process has this port".to_owned(),
                |(pid, name)| format!("process {pid} ({name}) has this port"),
            );
            error!("cannot listen on {address}: {owner}; stop it or choose another address with {setting}");
            ExitCode::from(3)
        }
        io::ErrorKind::PermissionDenied => {
            error!("{failure}{causes}: ports below 1024 need root or CAP_NET_BIND_SERVICE");
            ExitCode::from(4)
        }
        io::ErrorKind::AddrNotAvailable => {
            error!("{failure}{causes}: this machine has no such address; choose another one with {setting}");
            ExitCode::from(4)
        }
        _other => {
            error!("{failure}{causes}");
            ExitCode::from(4)
        }
    }
}

/// The process that listens on a TCP port, if the system shows it.
#[cfg(target_os = "linux")]
pub fn port_owner(port: u16) -> Option<(i32, String)> {
    use procfs::net::{TcpState, tcp, tcp6};
    use procfs::process::{FDTarget, all_processes};

    let sockets = tcp().into_iter().chain(tcp6()).flatten();
    let inode = sockets
        .filter(|socket| socket.state == TcpState::Listen)
        .find(|socket| socket.local_address.port() == port)?
        .inode;
    all_processes().ok()?.flatten().find_map(|process| {
        let owns = process.fd().ok()?.flatten().any(|fd| matches!(fd.target, FDTarget::Socket(of) if of == inode));
        if owns { Some((process.pid, process.stat().ok()?.comm)) } else { None }
    })
}

/// The process that listens on a TCP port: not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn port_owner(_port: u16) -> Option<(i32, String)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_on_the_command_line() {
        for (text, expected) in
            [("127.0.0.1:9000", true), ("[::1]:0", true), ("localhost:1", true), ("9000", false), ("::1:9000", false)]
        {
            assert_eq!(listen_address(text).is_ok(), expected, "{text}");
        }
        assert!(listen_address("9000").unwrap_err().contains("write it like"));
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_owner_of_a_port_is_found() {
        let listener = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (pid, _name) = port_owner(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, i32::try_from(std::process::id()).unwrap());
    }
}
