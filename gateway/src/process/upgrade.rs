//! A new process takes over the listening sockets of an old one: no client is refused in between,
//! and none is lost.
//!
//! The old process starts the new one with a socket as its standard input, and sends its listeners
//! over that socket, each with a byte that says its kind. The new process answers when it is ready.
//! The old one then tells it to continue alone, and drains. If one of them ends before that, the
//! other one notices the end of the socket: the new one ends too, the old one continues. Whenever
//! the old one gives up, it kills the new one.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use net::{NOTIFY_SOCKET, notify_systemd};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::time::timeout;
use tracing::error;

/// The variable that tells a process that its standard input is such a socket.
pub(crate) const VARIABLE: &str = "GATEWAY_TAKES_OVER";
/// The value that a process sets if it will tell the new one to continue alone. Processes of older
/// versions set 1, and do not tell it.
const VERSION: &str = "2";
/// The variable that tells a process that SIGHUP was ignored when the first one of them was
/// started. A program does not inherit that from one that handles SIGHUP.
pub(crate) const OUTLIVES_TERMINAL: &str = "GATEWAY_OUTLIVES_TERMINAL";
/// How long a new process may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The byte of a new process that is ready.
const READY: u8 = b'r';
/// The byte that tells a new process to continue alone.
const CONTINUE: u8 = b'g';
/// The byte after the last listener.
const END: u8 = b'.';
/// More listeners than any gateway has: two for each thread, and one.
const MAX_LISTENERS: usize = 4096;

/// The kind of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    Http,
    Https,
    Admin,
}

/// The listeners of a process that is replaced.
pub(crate) type Inherited = Vec<(ListenerKind, TcpListener)>;

/// The socket to the process that is replaced.
#[derive(Debug)]
pub(crate) struct OldProcess {
    socket: UnixStream,
}

/// A process that was started to take over. Dropping this before the process may continue alone
/// kills it.
#[derive(Debug)]
pub(crate) struct NewProcess {
    child: Option<Child>,
    socket: tokio::net::UnixStream,
}

impl ListenerKind {
    const ALL: [(Self, u8); 3] = [(Self::Http, b'h'), (Self::Https, b's'), (Self::Admin, b'a')];

    /// The setting of its address.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Http => "--listen",
            Self::Https => "`listen` below [tls] in the file",
            Self::Admin => "--admin",
        }
    }

    fn byte(self) -> u8 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(END, |(_, byte)| *byte)
    }
}

/// Whether this process goes on when its terminal is closed: it, or the first one of those that it
/// has replaced, was started with `nohup`.
pub(crate) fn outlives_terminal() -> bool {
    net::ignores_hang_ups() || std::env::var_os(OUTLIVES_TERMINAL).is_some()
}

/// Takes over the listeners of the old process in a new one, if there is an old one. If the old one
/// ends before it has told this one to continue alone, this one ends, too. The service manager that
/// has stopped the old one, or started another, does not know this process.
///
/// # Errors
/// When the old process sends something unexpected.
pub(crate) fn inherit() -> io::Result<Option<(OldProcess, Inherited)>> {
    let Some(version) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_read_timeout(Some(READY_TIMEOUT))?;
    let listeners = receive(&socket)?;
    socket.set_read_timeout(None)?;
    if version == VERSION {
        let mut watched = socket.try_clone()?;
        let watch = move || {
            let mut said = [0];
            if watched.read_exact(&mut said).is_err() || said[0] != CONTINUE {
                error!("the old process ended before this one could take over; this one ends too");
                net::exit_now(1);
            }
        };
        std::thread::Builder::new().name("predecessor".to_owned()).spawn(watch)?;
    }
    Ok(Some((OldProcess { socket }, listeners)))
}

fn receive(socket: &UnixStream) -> io::Result<Inherited> {
    let mut listeners = Vec::new();
    while listeners.len() < MAX_LISTENERS {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let kind = ListenerKind::ALL.iter().find(|(_, other)| *other == byte[0]).map(|(kind, _)| *kind);
        match (received.bytes, kind, descriptor) {
            (1, Some(kind), Some(descriptor)) => listeners.push((kind, TcpListener::from(descriptor))),
            (1, None, None) if byte[0] == END => return Ok(listeners),
            _ => return Err(io::Error::other("the old process sent something unexpected")),
        }
    }
    Err(io::Error::other("the old process has too many listeners"))
}

impl OldProcess {
    /// Tells the old process to stop accepting.
    pub(crate) fn ready(mut self) {
        // If it has ended meanwhile, it need not be told.
        let _ = self.socket.write_all(&[READY]);
    }
}

impl NewProcess {
    /// Starts the program again, with the same arguments, in an old process.
    ///
    /// # Errors
    /// When it cannot be started, or must not be: see [`obstacle`].
    pub(crate) fn start(outlives_terminal: bool) -> io::Result<Self> {
        if let Some(obstacle) = obstacle() {
            return Err(io::Error::other(obstacle));
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut arguments = std::env::args_os();
        // By the name with which it was started: a new version of the program has the same name.
        let program = arguments.next().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(arguments).env(VARIABLE, VERSION).stdin(Stdio::from(OwnedFd::from(theirs)));
        if outlives_terminal {
            command.env(OUTLIVES_TERMINAL, "1");
        }
        let child = command.spawn()?;
        Ok(Self { child: Some(child), socket: tokio::net::UnixStream::from_std(ours)? })
    }

    /// Sends `listeners` to the new process, and returns when it is ready.
    ///
    /// # Errors
    /// When the new process ends, or is not ready in time.
    pub(crate) async fn wait_ready(&self, listeners: &[(ListenerKind, OwnedFd)]) -> io::Result<()> {
        timeout(READY_TIMEOUT, self.hand_over(listeners))
            .await
            .map_err(|_elapsed| io::Error::other(format!("the new process was not ready after {READY_TIMEOUT:?}")))?
    }

    async fn hand_over(&self, listeners: &[(ListenerKind, OwnedFd)]) -> io::Result<()> {
        let all = listeners.iter().map(|(kind, one)| (kind.byte(), Some(one.as_fd())));
        for (byte, descriptor) in all.chain([(END, None)]) {
            let sent = self.socket.async_io(Interest::WRITABLE, || send(&self.socket, byte, descriptor)).await;
            if sent.is_err() {
                // A process that does not read them does not answer either, which is noticed below.
                break;
            }
        }
        let mut answer = [0];
        let ended = || io::Error::other("the new process ended before it was ready; its log says why");
        loop {
            self.socket.readable().await?;
            match self.socket.try_read(&mut answer) {
                Ok(1) if answer[0] == READY => return Ok(()),
                Ok(_) => return Err(ended()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(ended()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells the new process to continue alone, and systemd that it is the service now. Returns its
    /// process id.
    ///
    /// # Errors
    /// When the new process has ended meanwhile.
    pub(crate) fn release(mut self) -> io::Result<u32> {
        self.socket.try_write(&[CONTINUE])?;
        let child = self.child.take().ok_or(io::ErrorKind::NotFound)?;
        notify_systemd(&format!("MAINPID={}", child.id()));
        Ok(child.id())
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Programs that run as the first process of a container, and end it when the process that they
/// have started ends.
const INITS: [&str; 6] = ["tini", "docker-init", "dumb-init", "catatonit", "podman-init", "s6-svscan"];

/// Why this process must not end before the service does, if so.
fn obstacle() -> Option<&'static str> {
    let is_set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    let number = std::process::id();
    if number == 1 {
        return Some(
            "this is the first process of its container, which would end with it; replace the container instead",
        );
    }
    let is_below_init = rustix::process::getppid().is_some_and(|parent| parent.is_init());
    let init = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    if is_below_init && INITS.contains(&init.trim_end()) {
        return Some(
            "the init of this container would end the container with this process; replace the container instead",
        );
    }
    let is_main = std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|main| main == number.to_string());
    if is_main && !is_set(NOTIFY_SOCKET) {
        return Some("systemd would take the end of this process for that of the service; set Type=notify in its unit");
    }
    None
}

fn send(socket: impl AsFd, byte: u8, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(socket, &[IoSlice::new(&[byte])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_arrive_as_what_they_are() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let kinds = [ListenerKind::Http, ListenerKind::Https, ListenerKind::Admin];
        for (kind, listener) in kinds.into_iter().zip(&listeners) {
            send(&ours, kind.byte(), Some(listener.as_fd())).unwrap();
        }
        send(&ours, END, None).unwrap();
        let received = receive(&theirs).unwrap();
        for ((kind, listener), (expected, original)) in received.iter().zip(kinds.into_iter().zip(&listeners)) {
            assert_eq!((*kind, listener.local_addr().unwrap()), (expected, original.local_addr().unwrap()));
        }
        assert_eq!(received.len(), 3);
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(receive(&theirs).is_err(), "the stream ended too early");
    }
}
