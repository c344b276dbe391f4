//! A terminal for programs that behave otherwise there, and that can be closed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::machine::hermetic::isolate;

/// How long closing a terminal may wait for the thread that reads it.
const READ_PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// A terminal whose output is read. It is closed when dropped, as when its window is.
#[derive(Debug)]
pub struct Terminal {
    /// The side of the window.
    window: Arc<OwnedFd>,
    programs: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Opens one.
    pub fn open() -> Self {
        let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&window).unwrap();
        unlockpt(&window).unwrap();
        let path = ptsname(&window, Vec::new()).unwrap().into_string().unwrap();
        let flags = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
        let programs = File::options().read(true).write(true).custom_flags(flags).open(path).unwrap();
        let (window, shown) = (Arc::new(window), Arc::default());
        std::thread::spawn({
            let (window, shown) = (Arc::downgrade(&window), Arc::clone(&shown));
            move || read(&window, &shown)
        });
        Self { window, programs, shown }
    }

    /// A program that this is the terminal of, in a session of its own.
    pub fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
        let mut command = Command::new("setsid");
        isolate(&mut command, arguments);
        let end = || self.programs.try_clone().unwrap();
        command.arg("--ctty").arg(program.as_ref()).args(arguments).stdin(end()).stdout(end()).stderr(end());
        command
    }

    /// Everything that was written to it.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Presses keys, such as Ctrl-C: `"\x03"`.
    pub fn press(&self, keys: &str) {
        rustix::io::write(&self.window, keys.as_bytes()).unwrap();
    }

    /// Closes its window.
    pub fn close(self) {
        let window = Arc::downgrade(&self.window);
        drop(self);
        while window.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}

fn read(window: &Weak<OwnedFd>, shown: &Mutex<Vec<u8>>) {
    while let Some(window) = window.upgrade() {
        if poll(&mut [PollFd::new(&window, PollFlags::IN)], Some(&READ_PERIOD)).is_ok_and(|ready| ready > 0) {
            let mut buffer = [0; 4096];
            // An error says that no program has it open at the moment.
            match rustix::io::read(&window, &mut buffer) {
                Ok(bytes) => shown.lock().unwrap().extend_from_slice(&buffer[..bytes]),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}
