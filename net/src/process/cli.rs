//! What the two daemons share of their command line: addresses, durations, the log, exit codes.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::{BindError, LineWriter, escaped};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Aligned lines for people, coloured on a terminal.
    #[default]
    Text,
    /// A JSON object in each line.
    Json,
}

/// The level of the log, or levels per module as in `info,distributor=debug`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLevel {
    text: String,
    targets: Targets,
}

impl Default for LogLevel {
    fn default() -> Self {
        Self { text: "info".to_owned(), targets: Targets::new().with_default(LevelFilter::INFO) }
    }
}

impl LogLevel {
    /// As it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The filter reads an unknown word as the name of a module, and then logs nothing from any
        // other module.
        // It reads filters by span too, and nothing is logged in a span.
        let plain = |part: &str| match part.contains('=') {
            true => !part.contains('['),
            false => part.parse::<LevelFilter>().is_ok(),
        };
        match text.parse::<Targets>() {
            Ok(targets) if !text.is_empty() && text.split(',').map(str::trim).all(plain) => {
                Ok(Self { text: text.to_owned(), targets })
            }
            _ => {
                Err("write off, error, warn, info, debug or trace, or levels per module as in 'info,distributor=debug'"
                    .to_owned())
            }
        }
    }
}

/// The log of this process.
static LOG: OnceLock<LineWriter> = OnceLock::new();
/// How long a process waits at its end for a slow log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How many bytes of a panic's message are logged.
const PANIC_BYTES: usize = 1024;

/// Starts the log on standard error, for panics too. No task waits for it. Lines that cannot be
/// written, or not as fast as they come, are lost and counted. Once the log can be written again,
/// it says how many were lost.
///
/// Keep the guard until the end of `main`: it waits for the last lines.
pub fn init_log(format: LogFormat, level: &LogLevel) -> LogGuard {
    let on_lost = |lost| warn!(lost, "log lines were lost, because they could not be written as fast as they came");
    // Without a thread there is no log, and the process goes on.
    if let Ok(writer) = LineWriter::start("log", io::stderr(), Duration::ZERO, on_lost) {
        let _ = LOG.set(writer);
    }
    let targets = level.targets.clone();
    let builder =
        tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(|| LogLine).log_internal_errors(false);
    let is_coloured = is_coloured(io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    let installed = match format {
        LogFormat::Text => builder.with_ansi(is_coloured).with_target(false).finish().with(targets).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().with(targets).try_init(),
    };
    // Only a second call can fail, and the first log stays then.
    if installed.is_ok() {
        // The default hook writes to standard error itself, and so may wait for ever.
        std::panic::set_hook(Box::new(|panic| {
            let what = panic.payload_as_str().unwrap_or("a value that is not text");
            let at = panic.location().map(ToString::to_string).unwrap_or_default();
            let backtrace = Backtrace::capture();
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or_default();
            let what = escaped(what, PANIC_BYTES);
            match backtrace.status() {
                BacktraceStatus::Captured => error!(%at, thread, %backtrace, "panicked: {what}"),
                _ => error!(%at, thread, "panicked: {what}"),
            }
        }));
    }
    LogGuard(())
}

/// Whether log lines have colours: see <https://no-color.org>.
fn is_coloured(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Lines of the log of this process that were lost.
pub fn log_lines_lost() -> u64 {
    LOG.get().map_or(0, LineWriter::lost)
}

/// Ends the process once the last lines of the log are written, or after a second. Waits for
/// nothing else.
pub fn exit_now(status: i32) -> ! {
    drop(LogGuard(()));
    signal_hook::low_level::exit(status)
}

/// Waits for the last lines of the log when it is dropped, at most a second.
#[derive(Debug)]
#[must_use = "it has to live until the end of main"]
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        if let Some(log) = LOG.get() {
            log.flush(FLUSH_TIMEOUT);
        }
    }
}

/// Hands one line to the log, in one piece.
struct LogLine;

impl io::Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = LOG.get() {
            log.push(String::from_utf8_lossy(line).into_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

    #[test]
    fn log_levels() {
        for (text, expected) in [
            ("info", true),
            ("info,distributor=debug", true),
            ("", false),
            ("a=b=c", false),
            ("info, net=off", true),
            ("info,net=loud", false),
            ("info,[span{field=1}]=debug", false),
            ("info,net[span]=debug", false),
            ("[{field}]=debug", false),
            ("warning", false),
            ("debug,x", false),
        ] {
            assert_eq!(text.parse::<LogLevel>().is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn c16_no_color_means_no_colour() {
        for (is_terminal, no_color, expected) in
            [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (false, None, false)]
        {
            assert_eq!(is_coloured(is_terminal, no_color.map(OsStr::new)), expected, "{no_color:?}");
        }
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_owner_of_a_port_is_found() {
        let listener = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (pid, _name) = port_owner(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, i32::try_from(std::process::id()).unwrap());
    }
}
