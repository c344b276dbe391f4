//! The log lines of a test's nodes.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::eventually;

/// The log of this thread, and so of all nodes of a test.
#[derive(Clone, Debug, Default)]
pub struct NodeLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for NodeLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has what the current thread logs at these levels per module go to `writer`, as lines of text,
/// until the value is dropped.
pub fn log_to<W: io::Write>(levels: &str, writer: impl Fn() -> W + Send + Sync + 'static) -> impl Drop {
    let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false).with_writer(writer);
    lines.finish().with(levels.parse::<Targets>().unwrap()).set_default()
}

impl NodeLog {
    /// Keeps lines from `INFO` on until the second value is dropped.
    pub fn start() -> (Self, impl Drop) {
        let log = Self::default();
        let writer = log.clone();
        (log, log_to("node_sdk=info", move || writer.clone()))
    }

    /// The lines with this text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Waits for a warning with this text, and returns it.
    pub async fn warning(&self, text: &str) -> String {
        eventually(text, async || !self.lines(text).is_empty()).await;
        let line = self.lines(text).remove(0);
        assert!(line.contains("WARN"), "{line}");
        line
    }
}
