//! Reads and writes of a TCP socket that the system is asked for directly: the C library looks, before and after each, whether the
//! thread is to be cancelled, which costs as much as a tenth of what a small message costs outside the system.

use std::cell::RefCell;
use std::io;

use bytes::BytesMut;
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

/// Bytes that [`recv_into`] reads at most.
pub const MAX_RECV_BYTES: usize = 8 * 1024;

thread_local! {
    /// What is small is read here and copied, which costs less than to clear room for it in every buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_RECV_BYTES].into());
}

/// As [`recv_now`], into the room that `buffer` has, [`MAX_RECV_BYTES`] of it at most; without room it cannot be told from the end.
///
/// # Errors
/// As there.
pub fn recv_into(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    SCRATCH.with_borrow_mut(|scratch| {
        let room = (buffer.capacity() - buffer.len()).min(MAX_RECV_BYTES);
        let bytes = recv_now(stream, &mut scratch[..room])?;
        buffer.extend_from_slice(&scratch[..bytes]);
        Ok(bytes)
    })
}

/// Writes what is taken, without waiting. Cancel safe.
///
/// # Errors
/// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when it takes nothing.
pub fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || Ok(retry_on_intr(|| send(stream, bytes, FLAGS))?))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_there_is_read_into_the_room_there_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = listener.accept().await.unwrap().0;
        let mut buffer = BytesMut::with_capacity(MAX_RECV_BYTES * 2);
        buffer.extend_from_slice(b"before ");
        let nothing = recv_into(&stream, &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send_now(&stream, b"abc").unwrap(), 3);
        peer.write_all(&vec![b'x'; MAX_RECV_BYTES + 5]).await.unwrap();
        peer.shutdown().await.unwrap();
        let mut taken = Vec::new();
        loop {
            stream.readable().await.unwrap();
            match recv_into(&stream, &mut buffer) {
                Ok(0) => break,
                Ok(bytes) => taken.push(bytes),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(taken.iter().all(|bytes| *bytes <= MAX_RECV_BYTES), "{taken:?}");
        assert_eq!(buffer, [&b"before "[..], &[b'x'; MAX_RECV_BYTES + 5]].concat());
    }
}
