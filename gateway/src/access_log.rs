//! A line for each request, on standard output. Requests do not wait for it: what it cannot take is lost, and counted.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;

/// Lines that wait to be written: some tenths of a second's worth at full speed.
const MAX_WAITING: usize = 16 * 1024;
/// Lines are written so long after the first of them, all at once: a thread that is woken for each costs more than the rest.
const GATHER: Duration = Duration::from_millis(50);
/// At the end, how long a slow disk is waited for.
const LONGEST_FLUSH: Duration = Duration::from_secs(1);
/// Bytes of a target that are logged.
const MAX_TARGET_BYTES: usize = 1024;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    /// There are none.
    #[default]
    Off,
    /// `time client "METHOD target" status milliseconds`.
    Text,
    /// One JSON object per line.
    Json,
}

/// Takes lines from all workers.
#[derive(Debug)]
pub(crate) struct AccessLog {
    format: AccessLogFormat,
    lines: SyncSender<Message>,
    lost: AtomicU64,
}

/// What the writing thread is sent.
#[derive(Debug)]
enum Message {
    Line(String),
    /// To be answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) client: IpAddr,
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    /// `None` when it ended without a response.
    pub(crate) status: Option<u16>,
    pub(crate) took: Duration,
}

impl AccessLog {
    /// Begins to write to standard output; `None` when there is nothing to write.
    pub(crate) fn start(format: AccessLogFormat) -> Option<Self> {
        if format == AccessLogFormat::Off {
            return None;
        }
        let (lines, waiting) = sync_channel(MAX_WAITING);
        let write = move || write(&waiting, io::stdout());
        std::thread::Builder::new().name("access-log".to_owned()).spawn(write).ok()?;
        Some(Self { format, lines, lost: AtomicU64::new(0) })
    }

    pub(crate) fn take(&self, entry: &Entry<'_>) {
        if self.lines.try_send(Message::Line(entry.line(self.format, now()))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything is written, or a second is over.
    pub(crate) fn flush(&self) {
        let (written, done) = sync_channel(1);
        if self.lines.try_send(Message::Flush(written)).is_ok() {
            let _ = done.recv_timeout(LONGEST_FLUSH);
        }
    }

    /// Lines that were lost because they were not written as fast as they came.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "a log tells the time of day; nothing is decided by it")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "this thread is of no runtime")]
/// Writes as long as somebody sends. What cannot be written, on a full disk or into a closed pipe, is lost.
fn write(lines: &Receiver<Message>, out: impl Write) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(first) = lines.recv() {
        if matches!(first, Message::Line(_)) {
            std::thread::sleep(GATHER);
        }
        let mut asked = None;
        for message in std::iter::once(first).chain(lines.try_iter().take(MAX_WAITING)) {
            match message {
                Message::Line(line) => drop(out.write_all(line.as_bytes())),
                Message::Flush(written) => asked = Some(written),
            }
        }
        if out.flush().is_err() {
            // Otherwise what is in it would be tried again with every line, and grow.
            let (lost, _) = out.into_parts();
            out = io::BufWriter::with_capacity(64 * 1024, lost);
        }
        drop(asked);
    }
}

impl Entry<'_> {
    fn line(&self, format: AccessLogFormat, time: SystemTime) -> String {
        let Self { client, method, target, status, took } = self;
        let time = humantime::format_rfc3339_millis(time);
        let us = took.as_micros();
        let (ms, us) = (us / 1000, us % 1000);
        // At a character's border.
        let end = (0..=target.len().min(MAX_TARGET_BYTES)).rev().find(|at| target.is_char_boundary(*at)).unwrap_or(0);
        let target = &target[..end];
        if format == AccessLogFormat::Json {
            let text = |text: &str| serde_json::Value::from(text).to_string();
            let status = status.map_or_else(|| "null".to_owned(), |status| status.to_string());
            return format!(
                "{{\"time\":\"{time}\",\"client\":\"{client}\",\"method\":{},\"target\":{},\"status\":{status},\"ms\":{ms}.{us:03}}}\n",
                text(method),
                text(target),
            );
        }
        let mut line = String::with_capacity(96 + target.len());
        let _ = write!(line, "{time} {client} \"{method} ");
        for c in target.chars() {
            if matches!(c, '"' | '\\') {
                line.push('\\');
            }
            line.push(c);
        }
        let _ = match status {
            Some(status) => writeln!(line, "\" {status} {ms}.{us:03}"),
            None => writeln!(line, "\" - {ms}.{us:03}"),
        };
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_one_line() {
        let check = |target: &str, status, format, expected: &str| {
            let entry = Entry {
                client: [10, 0, 0, 1].into(),
                method: "GET",
                target,
                status,
                took: Duration::from_micros(1234),
            };
            assert_eq!(entry.line(format, SystemTime::UNIX_EPOCH), format!("{expected}\n"));
        };
        let (text, json) = (AccessLogFormat::Text, AccessLogFormat::Json);
        check("/a?b", Some(200), text, "1970-01-01T00:00:00.000Z 10.0.0.1 \"GET /a?b\" 200 1.234");
        check("/\"\\", None, text, "1970-01-01T00:00:00.000Z 10.0.0.1 \"GET /\\\"\\\\\" - 1.234");
        check(
            "/\"한",
            Some(404),
            json,
            r#"{"time":"1970-01-01T00:00:00.000Z","client":"10.0.0.1","method":"GET","target":"/\"한","status":404,"ms":1.234}"#,
        );
        let long = "한".repeat(1000);
        check(&long, None, text, &format!("1970-01-01T00:00:00.000Z 10.0.0.1 \"GET {}\" - 1.234", "한".repeat(341)));
    }

    #[test]
    fn cr13_what_cannot_be_written_is_lost_and_nobody_waits() {
        /// A disk that is full for two writes, and then is not.
        struct Full(u32, std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 <= 2 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.1.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = std::sync::Arc::default();
        let (lines, waiting) = sync_channel(8);
        let out = Full(0, std::sync::Arc::clone(&written));
        let writer = std::thread::spawn(move || write(&waiting, out));
        for line in ["1\n", "2\n", "3\n", "4\n"] {
            lines.send(Message::Line(line.to_owned())).unwrap();
            std::thread::yield_now();
        }
        while written.lock().unwrap().is_empty() {
            lines.send(Message::Line("more\n".to_owned())).unwrap();
        }
        let (done, flushed) = sync_channel(1);
        lines.send(Message::Flush(done)).unwrap();
        assert!(flushed.recv().is_err(), "it is answered by being dropped");
        drop(lines);
        writer.join().unwrap();
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let whole = |line: &str| ["2", "3", "4", "more"].contains(&line);
        assert!(!written.is_empty() && written.lines().all(whole), "{written:?}");
    }
}
