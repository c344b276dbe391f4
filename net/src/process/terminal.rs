//! The terminal that a program was started from, and the meaning of a SIGHUP.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::SIGHUP;
use signal_hook::low_level::raise;
use tokio::time::Instant;

/// A SIGHUP this long before or after the end of a terminal is about that terminal. A later one has
/// another reason.
const SAME_EVENT_WINDOW: Duration = Duration::from_secs(2);
/// The timeout of a poll that does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The value of a time at which no SIGHUP has come yet.
const NEVER: u64 = u64::MAX;

/// The meaning of a SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// The terminal that the program was started from has just been closed.
    TerminalClosed,
    /// The terminal is still there: another process has sent the signal.
    AtTerminal,
    /// The program was started from no terminal, or has outlived it.
    NoTerminal,
}

/// Whether SIGHUP was ignored when this program was started, as `nohup` does: the program shall
/// outlive its terminal. `false` once there is a handler, and on systems other than Linux, which
/// do not tell.
pub fn ignores_hang_ups() -> bool {
    #[cfg(target_os = "linux")]
    {
        let status = procfs::process::Process::myself().and_then(|process| process.status());
        status.is_ok_and(|status| status.sigign & (1 << (SIGHUP - 1)) != 0)
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The controlling terminal of this process: whether there is one, and since when there is none.
#[derive(Clone, Debug)]
pub(super) struct Terminal {
    /// Open, so that the system tells when it is closed. `None` if there has never been one.
    file: Option<Arc<File>>,
    closed_at: Arc<OnceLock<Instant>>,
    began: Instant,
    /// When the last SIGHUP came, in milliseconds after `began`.
    hang_up_at: Arc<AtomicU64>,
}

impl Terminal {
    /// Begins to watch it, in a thread of its own.
    pub(super) fn watch() -> Self {
        let file = File::open("/dev/tty").ok().map(Arc::new);
        let (closed_at, hang_up_at) = (Arc::default(), Arc::new(AtomicU64::new(NEVER)));
        let terminal = Self { file, closed_at, began: Instant::now(), hang_up_at };
        if terminal.file.is_some() {
            let watched = terminal.clone();
            // Without the thread, a terminal counts as closed when a SIGHUP finds it so.
            let _ = std::thread::Builder::new().name("terminal".to_owned()).spawn(move || watched.wait_closed());
        }
        terminal
    }

    /// The meaning of the SIGHUP that has just arrived.
    pub(super) fn hang_up(&self) -> HangUp {
        let Some(file) = &self.file else { return HangUp::NoTerminal };
        let now = Instant::now();
        self.hang_up_at.store(self.millis(now), Ordering::SeqCst);
        if is_closed(file, Some(&AT_ONCE)) == Some(true) {
            self.closed_at.get_or_init(|| now);
        }
        match self.closed_at.get() {
            None => HangUp::AtTerminal,
            Some(closed_at) if now.saturating_duration_since(*closed_at) <= SAME_EVENT_WINDOW => HangUp::TerminalClosed,
            Some(_) => HangUp::NoTerminal,
        }
    }

    /// Waits until it is closed.
    fn wait_closed(&self) {
        let Some(file) = &self.file else { return };
        loop {
            match is_closed(file, None) {
                Some(true) => break,
                Some(false) => {}
                // The system cannot wait for that.
                None => return,
            }
        }
        let now = Instant::now();
        self.closed_at.get_or_init(|| now);
        let hang_up_at = self.hang_up_at.load(Ordering::SeqCst);
        // A shell that ends by a SIGHUP passes it on before the terminal is closed: the signal was
        // taken for another, and is now looked at again.
        if hang_up_at != NEVER && self.millis(now).saturating_sub(hang_up_at) <= SAME_EVENT_WINDOW.as_millis() as u64 {
            let _ = raise(SIGHUP);
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from((now - self.began).as_millis()).unwrap_or(NEVER - 1)
    }
}

/// Whether a terminal is closed, at the latest after `within`. `None` if the system cannot say.
fn is_closed(file: &File, within: Option<&Timespec>) -> Option<bool> {
    let mut watched = [PollFd::new(file, PollFlags::empty())];
    match poll(&mut watched, within) {
        Ok(_) if watched[0].revents().contains(PollFlags::NVAL) => None,
        Ok(_) => Some(watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)),
        Err(rustix::io::Errno::INTR) => Some(false),
        Err(_other) => None,
    }
}
