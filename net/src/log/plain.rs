//! Log lines of programs that have no tracing subscriber: they go to standard error.

use std::fmt::{Debug, Write};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::dispatcher::{Dispatch, get_default, with_default};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, NoSubscriber};
use tracing::{Event, Level, Metadata, Subscriber};

use super::{LineWriter, escaped};

/// The printer of this process, if it has one.
static PRINTER: OnceLock<Printer> = OnceLock::new();
/// The crates whose lines are printed.
const CRATES: [&str; 2] = ["net", "node_sdk"];
/// Bytes of a line that are printed.
const LINE_BYTES: usize = 2048;

/// Prints lines of this crate and of node-sdk, from info on, to standard error from now on,
/// whenever the program has no tracing subscriber. No task waits for that, and nothing fails.
pub fn print_without_subscriber() {
    if PRINTER.get().is_none() {
        let on_lost = |lost| crate::warn!(lost, "log lines were lost, because they could not be written");
        // Without a thread there are no lines, and the process goes on.
        if let Ok(lines) = LineWriter::start("log", io::stderr(), Duration::ZERO, on_lost) {
            let lines = Arc::new(lines);
            let dispatch = Dispatch::new(PlainSubscriber { lines: Arc::clone(&lines) });
            let _ = PRINTER.set(Printer { dispatch, lines });
        }
    }
}

/// Runs a log call with the subscriber of the program, or else with the printer.
pub(super) fn with_subscriber(line: impl FnOnce()) {
    match PRINTER.get() {
        Some(printer) if get_default(Dispatch::is::<NoSubscriber>) => with_default(&printer.dispatch, line),
        _ => line(),
    }
}

/// Waits until the printed lines are written, at most for `within`.
pub(crate) fn flush_printed(within: Duration) {
    if let Some(printer) = PRINTER.get() {
        printer.lines.flush(within);
    }
}

/// The hint for the first lost line.
static HINT: OnceLock<&str> = OnceLock::new();
/// Whether the hint was printed.
static HAS_HINTED: AtomicBool = AtomicBool::new(false);

/// From now on, prints the first warning or error that no subscriber takes to standard error,
/// followed by `hint`, which says how to see more. Lines of this crate and of node-sdk count.
/// Nothing is printed if the program has a tracing subscriber by then, or prints all lines. Does
/// not wait. The first hint stays.
pub fn hint_without_subscriber(hint: &'static str) {
    let _ = HINT.set(hint);
}

/// As [`with_subscriber`], for a line that would be lost otherwise.
pub(super) fn with_subscriber_or_hint(line: impl FnOnce()) {
    let Some(hint) = HINT.get().filter(|_| is_first_unheard()) else { return with_subscriber(line) };
    // Without a thread there is no line, and the process goes on.
    let Ok(lines) = LineWriter::start("log", io::stderr(), Duration::ZERO, |_| {}) else { return };
    print_with_hint(&Arc::new(lines), hint, line);
}

/// Whether no subscriber gets a line of this thread, and this is the first such line.
fn is_first_unheard() -> bool {
    let is_unheard = PRINTER.get().is_none() && get_default(Dispatch::is::<NoSubscriber>);
    is_unheard && !HAS_HINTED.load(Ordering::Relaxed) && !HAS_HINTED.swap(true, Ordering::Relaxed)
}

fn print_with_hint(lines: &Arc<LineWriter>, hint: &str, line: impl FnOnce()) {
    with_default(&Dispatch::new(PlainSubscriber { lines: Arc::clone(lines) }), line);
    lines.push(format!("      {hint}\n"));
}

#[derive(Debug)]
struct Printer {
    dispatch: Dispatch,
    lines: Arc<LineWriter>,
}

/// Turns events into lines. It knows no spans.
#[derive(Debug)]
struct PlainSubscriber {
    lines: Arc<LineWriter>,
}

impl Subscriber for PlainSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let name = metadata.target().split("::").next().unwrap_or_default();
        metadata.is_event() && *metadata.level() <= Level::INFO && CRATES.contains(&name)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let text = format!("{}{}", fields.message, fields.others);
        self.lines.push(format!("{:>5} {}\n", event.metadata().level().as_str(), escaped(text, LINE_BYTES)));
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// The parts of an event.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // Only a number of lines that there are tells a person something.
            "suppressed" if format!("{value:?}") == "0" => Ok(()),
            name => write!(self.others, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Output(Arc<std::sync::Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output {
        fn lines(&self) -> Arc<LineWriter> {
            Arc::new(LineWriter::start("test", self.clone(), Duration::ZERO, |_| {}).unwrap())
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn m8_the_first_line_that_nobody_hears_is_printed_with_a_hint() {
        let output = Output::default();
        let lines = output.lines();
        print_with_hint(&lines, "see init_log", || tracing::warn!("nobody answers"));
        lines.flush(Duration::from_secs(20));
        assert_eq!(output.text(), " WARN nobody answers\n      see init_log\n");
        let unheard = || with_default(&Dispatch::none(), is_first_unheard);
        // Other tests of this process have no subscriber either, and no hint.
        let heard = with_default(&Dispatch::new(PlainSubscriber { lines }), is_first_unheard);
        assert_eq!((heard, unheard(), unheard()), (false, true, false));
    }

    #[test]
    fn an_event_is_a_line_of_words() {
        let output = Output::default();
        let lines = output.lines();
        with_default(&Dispatch::new(PlainSubscriber { lines: Arc::clone(&lines) }), || {
            let error = "refused\n";
            tracing::warn!(port = 7, error, suppressed = 0, "no {} there", "one");
            tracing::debug!("of no interest");
            tracing::info!(target: "other", "of another crate");
            tracing::info!(address = %"here", "listening");
        });
        lines.flush(Duration::from_secs(20));
        assert_eq!(output.text(), " WARN no one there port=7 error=refused\\n\n INFO listening address=here\n");
    }
}
