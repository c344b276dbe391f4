//! Stopping on request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use tokio_util::sync::CancellationToken;
use tracing::dispatcher::{get_default, with_default};
use tracing::info;

/// What a shell shows for a program that Ctrl-C ended: 128 + SIGINT.
const FORCED_EXIT_CODE: i32 = 130;
/// What a program ends with that has not stopped in time, as one whose requests were cut.
const LATE_EXIT_CODE: i32 = 1;
/// How long a last line may keep a program from ending.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(500);

/// A token that SIGTERM or SIGINT (Ctrl-C) cancels. A second signal ends the process at once, with status 130. A process that is
/// still there `longest()` after the first is ended with status 1: whatever it waits for has had the time that was announced.
///
/// None of this needs the threads of the program, which may all be in the middle of writing to a log that nobody reads: signals
/// have a thread of their own, which logs nothing; the second is obeyed in the handler itself.
///
/// # Errors
/// When the system refuses the handlers or the thread; then signals may end the process as usual.
pub fn stop_on_signals(longest: impl FnOnce() -> Duration + Send + 'static) -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let was_told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        register_conditional_shutdown(signal, FORCED_EXIT_CODE, Arc::clone(&was_told))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // Whoever waits for signals may have a log of its own.
    let log = get_default(Clone::clone);
    let stopping = token.clone();
    let listen = move || {
        let Some(signal) = signals.forever().next() else { return };
        stopping.cancel();
        was_told.store(true, Ordering::SeqCst);
        let name = low_level::signal_name(signal).unwrap_or("a signal");
        let say = move || with_default(&log, || info!(signal = name, "stopping; once more to stop at once"));
        // In a thread that nobody waits for: it may wait for ever, or panic.
        let _ = std::thread::Builder::new().name("last-words".to_owned()).spawn(say);
        #[expect(clippy::disallowed_methods, reason = "this thread is of no runtime")]
        std::thread::sleep(longest());
        low_level::exit(LATE_EXIT_CODE);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(token)
}

/// Writes a line to the log on the way to the end, from a thread of its own: a log that blocks is waited for for half a second,
/// and one that panics ends nobody.
pub fn log_last_line(line: impl FnOnce() + Send + 'static) {
    let log = get_default(Clone::clone);
    let (done, is_done) = std::sync::mpsc::sync_channel::<()>(0);
    let say = move || {
        let _done = done;
        with_default(&log, line);
    };
    if std::thread::Builder::new().name("last-words".to_owned()).spawn(say).is_ok() {
        let _ = is_done.recv_timeout(LAST_LINE_TIMEOUT);
    }
}
