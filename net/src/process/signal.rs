//! Signals that ask the process to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag::{register, register_conditional_shutdown};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use tokio_util::sync::CancellationToken;
use tracing::dispatcher::{get_default, with_default};

use super::notify::notify_systemd;
use super::terminal::{HangUp, Terminal, ignores_hang_ups};
use crate::info;
use crate::log::flush_printed;

/// The exit code of a program that Ctrl-C ended, as shells give it: 128 + SIGINT.
const FORCED_EXIT_CODE: i32 = 130;
/// The exit code of a program that has not stopped in time; the same as when requests were cut.
const LATE_EXIT_CODE: i32 = 1;
/// How long a last log line may delay the end of a program.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(500);

/// A token that SIGTERM, SIGINT (Ctrl-C) or SIGHUP (its terminal is closed) cancels. A second
/// SIGTERM or SIGINT ends the process at once, with status 130. If the process is still running
/// `longest()` after the first signal, it is ended with status 1.
///
/// A second SIGHUP does nothing: the shell and the system both send one when a terminal is closed.
/// A program that was started with `nohup` ignores SIGHUP, see [`ignores_hang_ups`].
///
/// None of this needs the threads of the program, which may all be blocked by a log that is not
/// read. Signals have a thread of their own, which does not log, and the second signal is handled
/// in the signal handler itself.
///
/// # Errors
/// When the system refuses the handlers or the thread. Signals then have their default effect.
pub fn stop_on_signals(longest: impl FnOnce() -> Duration + Send + 'static) -> io::Result<CancellationToken> {
    let hears_hang_ups = !ignores_hang_ups();
    listen(longest, hears_hang_ups, || false)
}

/// As [`stop_on_signals`], for a program that need not stop when SIGHUP comes: it goes on if
/// `survives`. That is called by the thread of the signals, and must not block.
///
/// # Errors
/// As for [`stop_on_signals`].
pub fn stop_on_signals_unless(
    longest: impl FnOnce() -> Duration + Send + 'static,
    mut survives: impl FnMut(HangUp) -> bool + Send + 'static,
) -> io::Result<CancellationToken> {
    let terminal = Terminal::watch();
    listen(longest, true, move || survives(terminal.hang_up()))
}

fn listen(
    longest: impl FnOnce() -> Duration + Send + 'static,
    hears_hang_ups: bool,
    mut survives_hang_up: impl FnMut() -> bool + Send + 'static,
) -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let was_told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        register_conditional_shutdown(signal, FORCED_EXIT_CODE, Arc::clone(&was_told))?;
    }
    // A log or a cache file that may not grow any more must not end the process.
    register(SIGXFSZ, Arc::default())?;
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(hears_hang_ups.then_some(SIGHUP)))?;
    // The calling thread may have a subscriber of its own.
    let log = get_default(Clone::clone);
    let stopping = token.clone();
    let listen = move || {
        let Some(signal) = signals.forever().find(|signal| *signal != SIGHUP || !survives_hang_up()) else { return };
        stopping.cancel();
        was_told.store(true, Ordering::SeqCst);
        notify_systemd("STOPPING=1");
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
        flush_printed(LAST_LINE_TIMEOUT);
    };
    if std::thread::Builder::new().name("last-words".to_owned()).spawn(say).is_ok() {
        let _ = is_done.recv_timeout(LAST_LINE_TIMEOUT);
    }
}
