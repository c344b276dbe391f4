//! Reads and writes of a TCP socket by system calls, without the C library. The library checks
//! before and after each call whether the thread is to be cancelled. That is a tenth of the time
//! that a small message spends outside the kernel.

use std::io;

use bytes::BytesMut;
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::buffers::with_read_buffer;

/// A closed connection gives an error, and no signal. Where this flag does not exist, Rust ignores
/// the signal.
#[cfg(not(target_vendor = "apple"))]
const FLAGS: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const FLAGS: SendFlags = SendFlags::empty();

/// Reads what is there, without waiting. 0 is the end of the stream.
///
/// # Errors
/// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing to read.
pub fn recv_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let room = buffer.len();
    let mut taken = Err(io::ErrorKind::WouldBlock.into());
    // A read that does not fill the buffer has taken everything. Another read would cost as much
    // and find nothing. The reactor remembers a close that came with these bytes.
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

/// Most bytes that [`recv_into`] reads.
pub const MAX_RECV_BYTES: usize = 8 * 1024;

/// As [`recv_now`], into the free room of `buffer`, at most [`MAX_RECV_BYTES`]. `buffer` must have
/// room: a read without room looks like the end.
///
/// # Errors
/// As for [`recv_now`].
pub fn recv_into(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    with_read_buffer(|scratch| {
        let room = (buffer.capacity() - buffer.len()).min(MAX_RECV_BYTES);
        let bytes = recv_now(stream, &mut scratch[..room])?;
        buffer.extend_from_slice(&scratch[..bytes]);
        Ok(bytes)
    })
}

/// Writes as much as the socket takes, without waiting.
///
/// # Errors
/// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when it takes nothing now.
pub fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || Ok(retry_on_intr(|| send(stream, bytes, FLAGS))?))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn available_bytes_are_read_into_the_free_room() {
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
