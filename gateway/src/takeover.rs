//! A new process takes over the listening sockets of an old one: no client is refused in between, and none is lost.
//!
//! The old process starts the new one with a socket as its standard input, and sends its listeners over that, each with a byte that
//! says what it is for. The new one answers when it is ready; then the old one drains.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Says to a process that its standard input is such a socket.
const VARIABLE: &str = "GATEWAY_TAKES_OVER";
/// How long a new process may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// What it says then.
const READY: u8 = b'r';
/// Behind the last listener.
const END: u8 = b'.';
/// More listeners than any gateway has: threads times two, and one.
const MAX_LISTENERS: usize = 4096;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Http,
    Https,
    Admin,
}

/// The listeners of a process that is taken over.
pub(crate) type Inherited = Vec<(Purpose, TcpListener)>;

/// The way back to the process that is taken over.
#[derive(Debug)]
pub(crate) struct Predecessor {
    socket: UnixStream,
}

impl Purpose {
    const ALL: [(Self, u8); 3] = [(Self::Http, b'h'), (Self::Https, b's'), (Self::Admin, b'a')];

    fn byte(self) -> u8 {
        Self::ALL.iter().find(|(purpose, _)| *purpose == self).map_or(END, |(_, byte)| *byte)
    }
}

/// In a new process: the listeners of the old one, if there is one.
///
/// # Errors
/// When what it says makes no sense.
pub(crate) fn inherit() -> io::Result<Option<(Predecessor, Inherited)>> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_read_timeout(Some(PATIENCE))?;
    let listeners = receive(&socket)?;
    Ok(Some((Predecessor { socket }, listeners)))
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
        let purpose = Purpose::ALL.iter().find(|(_, other)| *other == byte[0]).map(|(purpose, _)| *purpose);
        match (received.bytes, purpose, descriptor) {
            (1, Some(purpose), Some(descriptor)) => listeners.push((purpose, TcpListener::from(descriptor))),
            (1, None, None) if byte[0] == END => return Ok(listeners),
            _ => return Err(io::Error::other("the process to be taken over says nothing of use")),
        }
    }
    Err(io::Error::other("the process to be taken over has too many listeners"))
}

impl Predecessor {
    /// Tells it to stop accepting.
    pub(crate) fn ready(mut self) {
        // If it has gone in the meantime, nobody has to be told.
        let _ = self.socket.write_all(&[READY]);
    }
}

/// In an old process: starts the program again, with the same arguments, gives it `listeners`, and returns when it is ready. Blocks.
///
/// # Errors
/// When it cannot be started, ends, or is not ready in time; it is killed then.
pub(crate) fn hand_over(listeners: &[(Purpose, OwnedFd)]) -> io::Result<u32> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut arguments = std::env::args_os();
    // By the name that it was started by: there the new program is, if there is one.
    let program = arguments.next().ok_or(io::ErrorKind::NotFound)?;
    let child =
        Command::new(program).args(arguments).env(VARIABLE, "1").stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    let mut child = Starting(Some(child));
    let given = listeners.iter().try_for_each(|(purpose, one)| send(&ours, purpose.byte(), Some(one.as_fd())));
    // A process that does not take them does not answer either: what comes of it is seen below.
    let _ = given.and_then(|()| send(&ours, END, None));
    ours.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0];
    let ended = || io::Error::other("the new process ended before it was ready; it says why");
    match (&ours).read(&mut answer) {
        Ok(1) if answer[0] == READY => {
            child.0.take().map(|child| child.id()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        Ok(_) => Err(ended()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(ended()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(io::Error::other(format!("the new process was not ready after {PATIENCE:?}")))
        }
        Err(error) => Err(error),
    }
}

fn send(socket: &UnixStream, byte: u8, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(socket, &[IoSlice::new(&[byte])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A process that is killed unless it becomes ready.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_arrive_as_what_they_are() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let purposes = [Purpose::Http, Purpose::Https, Purpose::Admin];
        for (purpose, listener) in purposes.into_iter().zip(&listeners) {
            send(&ours, purpose.byte(), Some(listener.as_fd())).unwrap();
        }
        send(&ours, END, None).unwrap();
        let received = receive(&theirs).unwrap();
        for ((purpose, listener), (expected, original)) in received.iter().zip(purposes.into_iter().zip(&listeners)) {
            assert_eq!((*purpose, listener.local_addr().unwrap()), (expected, original.local_addr().unwrap()));
        }
        assert_eq!(received.len(), 3);
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(receive(&theirs).is_err(), "an end in the middle");
    }
}
