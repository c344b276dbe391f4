//! Lines written by a thread of their own, so that no task waits for the disk, terminal or pipe
//! that they go to.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Bytes that are written in one system call.
const BATCH_BYTES: usize = 64 * 1024;
/// How often a flush is tried again while the queue is full.
const FLUSH_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Takes lines from all threads, and never blocks or fails. Lines that cannot be written as fast as
/// they come, or at all, are lost and counted. Dropping it ends the thread once all lines are
/// written.
#[derive(Debug)]
pub struct LineWriter {
    messages: SyncSender<WriterMessage>,
    counts: Arc<LineCounts>,
}

#[derive(Debug, Default)]
struct LineCounts {
    /// Lines that were lost.
    lost: AtomicU64,
    /// Bytes that wait to be written.
    waiting: AtomicUsize,
}

/// A message to the writing thread.
#[derive(Debug)]
enum WriterMessage {
    Line(String),
    /// Dropped when everything before it is written, which tells the sender.
    Flush(SyncSender<()>),
}

impl LineWriter {
    /// Maximum number of lines that wait to be written: a few tenths of a second of an access log
    /// at full speed.
    pub const MAX_LINES: usize = 16 * 1024;
    /// Maximum bytes that wait to be written, so that long lines cost no more memory than short
    /// ones.
    pub const MAX_BYTES: usize = 4 << 20;

    /// Starts a thread that writes to `out`. It writes `batch_delay` after the first line, all
    /// lines at once, because waking a thread for each line costs more than everything else. When
    /// lines were lost and later ones are written, the thread calls `on_lost` with their number.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(
        name: &str,
        out: impl Write + Send + 'static,
        batch_delay: Duration,
        on_lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (messages, waiting) = sync_channel(Self::MAX_LINES);
        let counts = Arc::<LineCounts>::default();
        let mut writing =
            WriterThread { out, counts: Arc::clone(&counts), batch: Vec::new(), lines: 0, is_torn: false };
        let run = move || writing.run(&waiting, batch_delay, on_lost);
        std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { messages, counts })
    }

    /// Takes a line, which includes its line end. Returns at once.
    pub fn push(&self, line: String) {
        let bytes = line.len();
        let waiting = &self.counts.waiting;
        let has_room = waiting.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= Self::MAX_BYTES;
        if !has_room || self.messages.try_send(WriterMessage::Line(line)).is_err() {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines that were taken are written or lost, at most for `within`.
    #[expect(clippy::disallowed_methods, reason = "it is for threads that have nothing else to do")]
    pub fn flush(&self, within: Duration) {
        let until = std::time::Instant::now() + within;
        let (written, is_written) = sync_channel::<()>(0);
        let mut flush = WriterMessage::Flush(written);
        loop {
            match self.messages.try_send(flush) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => flush = back,
            }
            if std::time::Instant::now() >= until {
                return;
            }
            std::thread::sleep(FLUSH_RETRY_INTERVAL);
        }
        let left = until.saturating_duration_since(std::time::Instant::now());
        let _: Result<(), RecvTimeoutError> = is_written.recv_timeout(left);
    }

    /// Lines that were lost because they could not be written, or not as fast as they came.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }
}

/// The state of the writing thread.
struct WriterThread<W> {
    out: W,
    counts: Arc<LineCounts>,
    batch: Vec<u8>,
    /// Lines in `batch`.
    lines: u64,
    /// Whether the last write ended within a line.
    is_torn: bool,
}

impl<W: Write> WriterThread<W> {
    /// Writes until all senders are dropped.
    fn run(&mut self, messages: &Receiver<WriterMessage>, batch_delay: Duration, on_lost: impl Fn(u64)) {
        let mut known_as_lost = 0;
        while let Ok(first) = messages.recv() {
            if matches!(first, WriterMessage::Line(_)) && !batch_delay.is_zero() {
                #[expect(clippy::disallowed_methods, reason = "this thread is of no runtime")]
                std::thread::sleep(batch_delay);
            }
            let mut asked = Vec::new();
            for message in std::iter::once(first).chain(messages.try_iter().take(LineWriter::MAX_LINES - 1)) {
                match message {
                    WriterMessage::Line(line) => self.append(&line),
                    WriterMessage::Flush(written) => asked.push(written),
                }
            }
            let is_written = self.write();
            drop(asked);
            let lost = self.counts.lost.load(Ordering::Relaxed);
            if is_written && lost > known_as_lost {
                on_lost(lost - known_as_lost);
                known_as_lost = lost;
            }
        }
    }

    fn append(&mut self, line: &str) {
        self.batch.extend_from_slice(line.as_bytes());
        self.lines += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.write();
        }
    }

    /// Writes the batch, and returns whether that succeeded. A failed line is not retried.
    fn write(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        let bytes = self.batch.len();
        if self.is_torn {
            self.batch.insert(0, b'\n');
        }
        let (written, result) = write_all(&mut self.out, &self.batch);
        if let Some(last) = written.checked_sub(1) {
            self.is_torn = self.batch[last] != b'\n';
        }
        if result.is_err() {
            let ends = self.batch[..written].iter().filter(|byte| **byte == b'\n').count();
            self.counts.lost.fetch_add(self.lines.saturating_sub(ends as u64), Ordering::Relaxed);
        }
        self.batch.clear();
        self.lines = 0;
        self.counts.waiting.fetch_sub(bytes, Ordering::Relaxed);
        result.is_ok()
    }
}

/// As [`Write::write_all`], and returns how many bytes were written.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, out.flush())
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// An output that fails a few times after some bytes, and can be stopped for a while.
    #[derive(Clone, Default)]
    struct TestOutput(Arc<(Mutex<OutputState>, Condvar)>);

    #[derive(Default)]
    struct OutputState {
        written: Vec<u8>,
        is_stopped: bool,
        fails_after: Option<usize>,
        fails: u32,
    }

    impl TestOutput {
        fn change<T>(&self, change: impl FnOnce(&mut OutputState) -> T) -> T {
            let changed = change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
            changed
        }

        fn text(&self) -> String {
            self.change(|state| String::from_utf8(state.written.clone()).unwrap())
        }
    }

    impl Write for TestOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |state| state.is_stopped).unwrap();
            let room = state.fails_after.map_or(usize::MAX, |after| after.saturating_sub(state.written.len()));
            if room == 0 && state.fails > 0 {
                state.fails -= 1;
                if state.fails == 0 {
                    state.fails_after = None;
                }
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = &bytes[..bytes.len().min(room)];
            state.written.extend_from_slice(taken);
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(output: &TestOutput) -> (LineWriter, Arc<AtomicU64>) {
        let on_lost = Arc::new(AtomicU64::new(0));
        let also = Arc::clone(&on_lost);
        let record_lost = move |lost| {
            also.fetch_add(lost, Ordering::SeqCst);
        };
        (LineWriter::start("test", output.clone(), Duration::ZERO, record_lost).unwrap(), on_lost)
    }

    #[test]
    fn lines_are_written_in_order() {
        let output = TestOutput::default();
        let (lines, on_lost) = start(&output);
        let all: Vec<String> = (0..1000).map(|number| format!("{number}\n")).collect();
        all.iter().for_each(|line| lines.push(line.clone()));
        lines.flush(LONG);
        assert_eq!((output.text(), lines.lost(), on_lost.load(Ordering::SeqCst)), (all.concat(), 0, 0));
    }

    #[test]
    fn cr13_lost_lines_are_counted_and_no_half_line_is_written() {
        let output = TestOutput::default();
        let (lines, on_lost) = start(&output);
        output.change(|state| (state.fails_after, state.fails) = (Some(6), 2));
        for line in ["one\n", "two\n", "three\n", "four\n", "five\n"] {
            lines.push(line.to_owned());
            lines.flush(LONG);
        }
        assert_eq!(output.text(), "one\ntw\nfour\nfive\n");
        assert_eq!((lines.lost(), on_lost.load(Ordering::SeqCst)), (2, 2));
    }

    #[test]
    fn waiting_lines_are_limited_and_a_blocked_output_blocks_no_caller() {
        for (line, most) in [("\n".to_owned(), LineWriter::MAX_LINES), (format!("{}\n", "x".repeat((1 << 20) - 1)), 4)]
        {
            let output = TestOutput::default();
            output.change(|state| state.is_stopped = true);
            let (lines, on_lost) = start(&output);
            let taken = 2 * most + 10;
            (0..taken).for_each(|_| lines.push(line.clone()));
            lines.flush(Duration::from_millis(10));
            let lost = usize::try_from(lines.lost()).unwrap();
            // The thread may have taken some already.
            assert!((taken - 2 * most..=taken - most).contains(&lost), "{lost} of {taken}");
            output.change(|state| state.is_stopped = false);
            lines.flush(LONG);
            lines.push("\n".to_owned());
            lines.flush(LONG);
            assert_eq!(lines.counts.waiting.load(Ordering::Relaxed), 0);
            assert_eq!(usize::try_from(on_lost.load(Ordering::SeqCst)).unwrap(), lost);
            assert_eq!(output.text().len(), (taken - lost) * line.len() + 1);
        }
    }
}
