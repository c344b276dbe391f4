//! The log of a program: lines on standard error, as text or as JSON.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use super::{LineWriter, escaped};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
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
    #[cfg(feature = "cli")]
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("write text or json".to_owned()),
        }
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

/// Waits for the last lines of the log when it is dropped, at most a second.
#[derive(Debug)]
#[must_use = "it has to live until the end of main"]
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        flush_log();
    }
}

/// Waits for the last lines of the log, at most a second.
pub(crate) fn flush_log() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_TIMEOUT);
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
