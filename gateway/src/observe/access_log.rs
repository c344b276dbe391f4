//! A line for each request, on standard output. Requests do not wait for it: lines that it cannot
//! take are lost and counted.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use net::{LineWriter, LogThrottle, escaped, escaped_json, time_of_day};
use tracing::{error, warn};

/// How long lines are gathered before they are written together: waking a thread for each costs
/// more than everything else.
const BATCH_DELAY: Duration = Duration::from_millis(50);
/// How long the end of the process waits for a slow disk.
const MAX_FLUSH_TIME: Duration = Duration::from_secs(1);
/// Maximum bytes of a target, or of a method and a target, that are logged.
const MAX_TARGET_BYTES: usize = 1024;
/// Bytes of a host that are logged: DNS has none that are longer.
const MAX_HOST_BYTES: usize = 255;

/// The form of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    /// No lines.
    #[default]
    Off,
    /// `time client "METHOD target" status milliseconds id`.
    Text,
    /// One JSON object per line.
    Json,
}

/// Takes lines from all workers.
#[derive(Debug)]
pub(crate) struct AccessLog {
    format: AccessLogFormat,
    lines: LineWriter,
}

/// A finished request.
#[derive(Debug)]
pub(crate) struct AccessLogEntry<'a> {
    pub(crate) client: IpAddr,
    /// The scheme in which the client speaks to us, or to a trusted proxy.
    pub(crate) scheme: &'a str,
    pub(crate) host: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    /// `None` when it ended without a response.
    pub(crate) status: Option<u16>,
    pub(crate) took: Duration,
    /// The id of the request; `None` if its head was malformed.
    pub(crate) id: Option<&'a str>,
}

impl AccessLog {
    /// Starts a log on standard output; `None` when no lines are wanted, or, with an error in the
    /// log, when the system cannot start its thread.
    pub(crate) fn start(format: AccessLogFormat) -> Option<Self> {
        if format == AccessLogFormat::Off {
            return None;
        }
        let throttle = Mutex::new(LogThrottle::default());
        // The metrics show how many lines were lost.
        let warn_of_loss = move |lost| {
            #[expect(clippy::disallowed_methods, reason = "the thread of the log has no other clock")]
            let now = std::time::Instant::now();
            if let Some(suppressed) = throttle.lock().unwrap_or_else(PoisonError::into_inner).allow(now) {
                warn!(
                    lost,
                    suppressed,
                    "lines of the access log were lost: standard output takes them too slowly, or not at all"
                );
            }
        };
        match LineWriter::start("access-log", io::stdout(), BATCH_DELAY, warn_of_loss) {
            Ok(lines) => Some(Self { format, lines }),
            Err(error) => {
                error!(%error, "no request is logged: the thread of the access log cannot be started");
                None
            }
        }
    }

    pub(crate) fn write(&self, entry: &AccessLogEntry<'_>) {
        self.lines.push(entry.line(self.format, time_of_day()));
    }

    /// Waits until everything is written, at most for a second.
    pub(crate) fn flush(&self) {
        self.lines.flush(MAX_FLUSH_TIME);
    }

    /// Lines that were lost because they were not written as fast as they came.
    pub(crate) fn lost(&self) -> u64 {
        self.lines.lost()
    }
}

impl AccessLogEntry<'_> {
    fn line(&self, format: AccessLogFormat, time: SystemTime) -> String {
        let Self { client, scheme, host, method, target, status, took, id } = self;
        let time = humantime::format_rfc3339_millis(time);
        let us = took.as_micros();
        let (ms, us) = (us / 1000, us % 1000);
        if format == AccessLogFormat::Json {
            let text = |text: &str| escaped_json(&serde_json::Value::from(text).to_string()).to_string();
            let target = &target[..target.floor_char_boundary(MAX_TARGET_BYTES)];
            let host = host.map_or_else(
                || "null".to_owned(),
                |host: &str| text(&host[..host.floor_char_boundary(MAX_HOST_BYTES)]),
            );
            let status = status.map_or_else(|| "null".to_owned(), |status| status.to_string());
            return format!(
                "{{\"time\":\"{time}\",\"client\":\"{client}\",\"scheme\":\"{scheme}\",\"host\":{host},\"method\":{},\"target\":{},\"status\":{status},\"ms\":{ms}.{us:03},\"id\":{}}}\n",
                text(method),
                text(target),
                id.map_or_else(|| "null".to_owned(), text),
            );
        }
        let mut line = String::with_capacity(96 + target.len().min(MAX_TARGET_BYTES));
        let _ = write!(line, "{time} {client} {:?}", escaped(format_args!("{method} {target}"), MAX_TARGET_BYTES));
        let _ = match status {
            Some(status) => writeln!(line, " {status} {ms}.{us:03} {}", id.unwrap_or("-")),
            None => writeln!(line, " - {ms}.{us:03} {}", id.unwrap_or("-")),
        };
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_one_line() {
        let check = |target: &str, status: Option<u16>, format, expected: &str| {
            let entry = AccessLogEntry {
                client: [10, 0, 0, 1].into(),
                scheme: "https",
                host: status.map(|_| "a\"b"),
                method: "GET",
                target,
                status,
                took: Duration::from_micros(1234),
                id: status.map(|_| "a\"7"),
            };
            assert_eq!(entry.line(format, SystemTime::UNIX_EPOCH), format!("{expected}\n"));
        };
        let (text, json) = (AccessLogFormat::Text, AccessLogFormat::Json);
        check("/a?b", Some(200), text, "1970-01-01T00:00:00.000Z 10.0.0.1 \"GET /a?b\" 200 1.234 a\"7");
        check("/\"\\", None, text, "1970-01-01T00:00:00.000Z 10.0.0.1 \"GET /\\\"\\\\\" - 1.234 -");
        check(
            "/\"한",
            Some(404),
            json,
            r#"{"time":"1970-01-01T00:00:00.000Z","client":"10.0.0.1","scheme":"https","host":"a\"b","method":"GET","target":"/\"한","status":404,"ms":1.234,"id":"a\"7"}"#,
        );
        let long = "한".repeat(1000);
        check(
            &long,
            None,
            text,
            &format!("1970-01-01T00:00:00.000Z 10.0.0.1 \"GET {}… (3004 bytes)\" - 1.234 -", "한".repeat(340)),
        );
        check(
            "/a\u{9b}31m\u{85}\u{202e}\u{1b}",
            None,
            text,
            r#"1970-01-01T00:00:00.000Z 10.0.0.1 "GET /a\u{9b}31m\u{85}\u{202e}\u{1b}" - 1.234 -"#,
        );
        check(
            "/a\u{9b}31m\u{85}\u{202e}\u{1b}",
            None,
            json,
            r#"{"time":"1970-01-01T00:00:00.000Z","client":"10.0.0.1","scheme":"https","host":null,"method":"GET","target":"/a\u009b31m\u0085\u202e\u001b","status":null,"ms":1.234,"id":null}"#,
        );
    }
}
