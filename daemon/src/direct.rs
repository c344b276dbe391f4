//! Reads and writes of a TCP socket that the system is asked for directly: the C library looks, before and after each, whether the
//! thread is to be cancelled, which costs as much as a tenth of what a small message costs outside the system.

use std::io;

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A peer that is gone is told by an error: no signal has to be. Where there is no such flag, Rust ignores the signal.
#[cfg(not(target_vendor = "apple"))]
const FLAGS: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const FLAGS: SendFlags = SendFlags::empty();

/// Reads what is there, without waiting; 0 is the end. Cancel safe.
///
/// # Errors
/// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing.
pub fn recv_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let room = buffer.len();
    let mut taken = Err(io::ErrorKind::WouldBlock.into());
    // Less than there was room for: there is no more, and asking the system for it would cost as much as this read did.
    // A close that came with it is remembered by the reactor.
    let _ = stream.try_io(Interest::READABLE, || {
        let read = retry_on_intr(|| recv(stream, &mut *buffer, RecvFlags::empty()));
        taken = read.map(|(bytes, _)| bytes).map_err(io::Error::from);
        match &taken {
            Ok(bytes) if *bytes == 0 || *bytes == room => Ok(()),
            Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.kind().into()),
        }
    });
    taken
}

/// Writes what is taken, without waiting. Cancel safe.
///
/// # Errors
/// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when it takes nothing.
pub fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || Ok(retry_on_intr(|| send(stream, bytes, FLAGS))?))
}
