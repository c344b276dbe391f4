//! Signals that ask the process to stop.

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

/// The exit code of a program that Ctrl-C ended, as shells give it: 128 + SIGINT.
const FORCED_EXIT_CODE: i32 = 130;
/// The exit code of a program that has not stopped in time; the same as when requests were cut.
const LATE_EXIT_CODE: i32 = 1;
/// How long a last log line may delay the end of a program.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(500);

/// A token that SIGTERM or SIGINT (Ctrl-C) cancels. A second signal ends the process at once, with
/// status 130. If the process is still running `longest()` after the first, it is ended with status
/// 1.
///
/// None of this needs the threads of the program, which may all be blocked by a log that is not
/// read. Signals have a thread of their own, which does not log, and the second signal is handled
/// in the signal handler itself.
///
/// # Errors
/// When the system refuses the handlers or the thread. Signals then have their default effect.
pub fn stop_on_signals(longest: impl FnOnce() -> Duration + Send + 'static) -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let was_told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        register_conditional_shutdown(signal, FORCED_EXIT_CODE, Arc::clone(&was_told))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // The calling thread may have a subscriber of its own.
    let log = get_default(Clone::clone);
    let stopping = token.clone();
    let listen = move || {
        let Some(signal) = signals.forever().next() else { return };
        stopping.cancel();
        was_told.store(true, Ordering::SeqCst);
        let name = low_level::signal_name(signal).unwrap_or("a signal");
        let say = move || with_default(&log, || info!(signal = name, "stopping; a second signal stops at once"));
        // In a thread that is not joined, because the log may block for ever, or panic.
        let _ = std::thread::Builder::new().name("last-words".to_owned()).spawn(say);
        #[expect(clippy::disallowed_methods, reason = "this thread is of no runtime")]
        std::thread::sleep(longest());
        low_level::exit(LATE_EXIT_CODE);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(token)
}

/// Writes one of the last lines of a process to the log, from a thread of its own. A log that
/// blocks delays the caller by half a second at most, and one that panics does not end it.
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
