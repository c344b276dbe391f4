//! Reads and writes of a stream's socket by system calls, without the C library. The library checks
//! before and after each call whether the thread should be cancelled. That is a tenth of the time
//! that a small message spends outside the kernel.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A stream of the system, as the runtime knows it. The methods are those of [`TcpStream`].
pub(crate) trait SystemStream: AsFd {
    fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R>;

    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize>;

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! system_stream {
    ($($Stream:ty),*) => { $(
        impl SystemStream for $Stream {
            fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, io)
            }

            fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
                self.try_read_buf(buffer)
            }

            fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(pieces)
            }

            fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(context)
            }
        }
    )* };
}
system_stream!(TcpStream, UnixStream);

/// A closed connection gives an error, and no signal. Where this flag does not exist, Rust ignores
/// the signal.
#[cfg(not(target_vendor = "apple"))]
const FLAGS: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const FLAGS: SendFlags = SendFlags::empty();

/// Reads the available bytes, without waiting. 0 is the end of the stream.
///
/// # Errors
/// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing to read.
pub(crate) fn recv_now(stream: &impl SystemStream, buffer: &mut [u8]) -> io::Result<usize> {
    let room = buffer.len();
    read_once(stream, room, || {
        Ok(retry_on_intr(|| recv(stream, &mut *buffer, RecvFlags::empty())).map(|(bytes, _)| bytes)?)
    })
}

/// As [`recv_now`], into the free room of `buffer`. It must have room: a read without room looks
/// like the end.
pub(crate) fn recv_buf_now(stream: &impl SystemStream, buffer: &mut impl BufMut) -> io::Result<usize> {
    read_once(stream, buffer.chunk_mut().len(), || stream.try_read_buf(buffer))
}

/// A read that does not fill the `room` has taken everything. Another read would cost as much and
/// find nothing. The reactor remembers a close that came with these bytes. A Unix socket may have
/// more where its peer has sent descriptors beside the bytes. No peer of HTTP or packets does that.
fn read_once(stream: &impl SystemStream, room: usize, read: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
    let mut taken = Err(io::ErrorKind::WouldBlock.into());
    let _ = stream.try_io(Interest::READABLE, || {
        taken = read();
        match &taken {
            Ok(bytes) if *bytes == 0 || *bytes == room => Ok(()),
            Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.kind().into()),
        }
    });
    taken
}

/// Writes as much as the socket takes, without waiting.
///
/// # Errors
/// Those of the socket; [`WouldBlock`](io::ErrorKind::WouldBlock) when it takes nothing now.
pub(crate) fn send_now(stream: &impl SystemStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || Ok(retry_on_intr(|| send(stream, bytes, FLAGS))?))
}

/// As [`send_now`], of several pieces.
pub(crate) fn send_pieces_now(stream: &impl SystemStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    match pieces {
        [piece] => send_now(stream, piece),
        pieces => stream.try_write_vectored(pieces),
    }
}

/// Completes when the system would take more bytes. The runtime takes a socket as writable until a
/// write fails, and the bytes then have to be held. So the system is asked.
pub(crate) fn poll_writable(stream: &impl SystemStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    let ask = || match retry_on_intr(|| poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&Timespec::default())))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    };
    loop {
        ready!(stream.poll_write_ready(context))?;
        match stream.try_io(Interest::WRITABLE, ask) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            asked => return Poll::Ready(asked),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn available_bytes_are_read_into_the_free_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = listener.accept().await.unwrap().0;
        let mut buffer = BytesMut::with_capacity(8000);
        buffer.extend_from_slice(b"before ");
        let nothing = recv_buf_now(&stream, &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send_pieces_now(&stream, &[IoSlice::new(b"ab"), IoSlice::new(b"c")]).unwrap(), 3);
        peer.write_all(&vec![b'x'; 10_000]).await.unwrap();
        peer.shutdown().await.unwrap();
        loop {
            stream.readable().await.unwrap();
            buffer.reserve(1);
            match recv_buf_now(&stream, &mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(buffer, [&b"before "[..], &[b'x'; 10_000]].concat());
    }
}
