//! Bytes both ways between a client and a server, after both have agreed to speak something else than HTTP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use daemon::{recv_now, send_now};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::stream::Stream;

/// Bytes that are read at a time, and so wait in one direction at most.
const MAX_WAITING_BYTES: usize = 16 * 1024;

thread_local! {
    /// What is read goes on at once, mostly: all tunnels of a thread read into the same place.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_WAITING_BYTES].into());
}

/// Carries bytes both ways until both sides have said that no more come. A side that does not take what has come for it is not read
/// for, and a tunnel in which nothing waits holds no buffer.
///
/// # Errors
/// Those of either connection: what was on its way is lost.
pub(crate) async fn run(mut client: Stream, mut server: TcpStream) -> io::Result<()> {
    let (mut up, mut down) = (Way::default(), Way::default());
    poll_fn(|task| {
        let up = up.poll(task, &mut client, &mut server)?;
        let down = down.poll(task, &mut server, &mut client)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// Read, and not taken when it was.
    waiting: Vec<u8>,
    /// Bytes of that which have been written since.
    written: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Reads,
    /// What was written last may still be in a TLS session.
    Unflushed,
    /// No more comes; the other side has not been told.
    Ends,
    Done,
}

impl Way {
    /// Passes on all that can be. Ready when no more comes, and the other side knows.
    fn poll(&mut self, task: &mut Context<'_>, from: &mut impl Side, to: &mut impl Side) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.waiting.len() {
                self.written += ready!(poll_write(task, to, &self.waiting[self.written..]))?;
            }
            if self.written > 0 {
                (self.waiting, self.written) = (Vec::new(), 0);
            }
            self.state = match self.state {
                State::Reads => ready!(self.poll_pass_on(task, from, to))?,
                State::Unflushed => {
                    ready!(Pin::new(&mut *to).poll_flush(task))?;
                    State::Reads
                }
                State::Ends => {
                    ready!(Pin::new(&mut *to).poll_shutdown(task))?;
                    State::Done
                }
                State::Done => return Poll::Ready(Ok(())),
            };
        }
    }

    /// Reads once, and writes what is taken of it.
    fn poll_pass_on(
        &mut self,
        task: &mut Context<'_>,
        from: &mut impl Side,
        to: &mut impl Side,
    ) -> Poll<io::Result<State>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let read = ready!(poll_read(task, from, scratch))?;
            if read == 0 {
                return Poll::Ready(Ok(State::Ends));
            }
            let written = match poll_write(task, to, &scratch[..read]) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.waiting.extend_from_slice(&scratch[written..read]);
            Poll::Ready(Ok(State::Unflushed))
        })
    }
}

/// One end.
trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if its bytes go through the tunnel as they are.
    fn plain(&self) -> Option<&TcpStream>;
}

impl Side for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Side for Stream {
    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
}

/// 0 at the end.
fn poll_read(task: &mut Context<'_>, from: &mut impl Side, room: &mut [u8]) -> Poll<io::Result<usize>> {
    let Some(socket) = from.plain() else {
        let mut read = ReadBuf::new(room);
        ready!(Pin::new(from).poll_read(task, &mut read))?;
        return Poll::Ready(Ok(read.filled().len()));
    };
    loop {
        ready!(socket.poll_read_ready(task))?;
        match recv_now(socket, room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return Poll::Ready(read),
        }
    }
}

/// At least one byte.
fn poll_write(task: &mut Context<'_>, to: &mut impl Side, bytes: &[u8]) -> Poll<io::Result<usize>> {
    let written = match to.plain() {
        Some(socket) => loop {
            ready!(socket.poll_write_ready(task))?;
            match send_now(socket, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => break written,
            }
        },
        None => ready!(Pin::new(to).poll_write(task, bytes)),
    };
    Poll::Ready(
        written.and_then(|written| if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }),
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::{Duration, timeout};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// Two who speak through a tunnel.
    async fn tunnel() -> (TcpStream, TcpStream, AbortOnDropHandle<io::Result<()>>) {
        let (client, inner) = pair().await;
        let (outer, server) = pair().await;
        (client, server, AbortOnDropHandle::new(tokio::spawn(run(Stream::Plain(inner), outer))))
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        // Little is under way in the system, so that what is in between shows.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        let stream = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    async fn reads(stream: &mut TcpStream, what: &str) {
        let mut read = vec![0; what.len()];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, what.as_bytes());
    }

    #[tokio::test]
    async fn each_side_hears_the_other_and_when_it_has_no_more_to_say() {
        let (mut client, mut server, tunnel) = tunnel().await;
        for word in ["ask", "상품", "x"] {
            client.write_all(word.as_bytes()).await.unwrap();
            reads(&mut server, word).await;
            server.write_all(word.as_bytes()).await.unwrap();
            reads(&mut client, word).await;
        }
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        reads(&mut server, "last").await;
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "the client says no more");
        assert!(!tunnel.is_finished());
        server.write_all(b"answer").await.unwrap();
        reads(&mut client, "answer").await;
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        tunnel.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn much_goes_both_ways_at_once() {
        let (client, server, tunnel) = tunnel().await;
        let side = async |stream: TcpStream, byte: u8, other: u8| {
            let (mut from, mut to) = stream.into_split();
            let all = vec![byte; 3_000_000];
            let writes = async {
                to.write_all(&all).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let mut read = Vec::new();
            let (_, bytes) = tokio::join!(writes, from.read_to_end(&mut read));
            assert!(bytes.unwrap() == 3_000_000 && read.iter().all(|byte| *byte == other));
        };
        tokio::join!(side(client, b'c', b's'), side(server, b's', b'c'));
        tunnel.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_read_for() {
        let (client, mut server, tunnel) = tunnel().await;
        let mut written = 0;
        // It stops taking: that is what is waited for, and not for long.
        while let Ok(bytes) = timeout(Duration::from_millis(300), server.write(&[b'x'; 8192])).await {
            written += bytes.unwrap();
            assert!(written < 32 << 20, "it is held somewhere");
        }
        assert!(written > 0 && !tunnel.is_finished());
        drop(client);
        assert!(tunnel.await.unwrap().is_err(), "what was on its way is lost, and the server hears of it");
        assert!(server.read(&mut [0]).await.is_err());
    }
}
