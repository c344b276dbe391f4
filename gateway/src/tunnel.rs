//! Bytes both ways between a client and a server, after both have agreed to speak something else than HTTP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
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
pub(crate) async fn run(mut client: Stream, server: TcpStream) -> io::Result<()> {
    let mut server = Stream::Plain(server);
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut down_first = false;
    poll_fn(|task| {
        // Each may use up what a task may do in one turn: they take turns.
        down_first = !down_first;
        let (up, down) = if down_first {
            let down = down.poll(task, &mut server, &mut client)?;
            (up.poll(task, &mut client, &mut server)?, down)
        } else {
            (up.poll(task, &mut client, &mut server)?, down.poll(task, &mut server, &mut client)?)
        };
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
    fn poll(&mut self, task: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<io::Result<()>> {
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
    fn poll_pass_on(&mut self, task: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<io::Result<State>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let read = ready!(from.poll_recv(task, scratch))?;
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

/// At least one byte.
fn poll_write(task: &mut Context<'_>, to: &mut Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(task, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::{Duration, timeout};
    use tokio_rustls::{TlsAcceptor, TlsConnector};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    trait Side: AsyncRead + AsyncWrite + Unpin + Send {}
    impl<T: AsyncRead + AsyncWrite + Unpin + Send> Side for T {}

    /// Two who speak through a tunnel, the client in clear or with TLS.
    async fn tunnel(is_tls: bool) -> (Box<dyn Side>, TcpStream, AbortOnDropHandle<io::Result<()>>) {
        let (client, inner) = pair().await;
        let (outer, server) = pair().await;
        let (client, inner): (Box<dyn Side>, _) = if is_tls {
            let (client, inner) = secure(client, inner).await;
            (client, inner)
        } else {
            (Box::new(client), Stream::Plain(inner))
        };
        (client, server, AbortOnDropHandle::new(tokio::spawn(run(inner, outer))))
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

    async fn secure(client: TcpStream, server: TcpStream) -> (Box<dyn Side>, Stream) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let knows = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let knows = knows.unwrap().with_root_certificates(roots).with_no_client_auth();
        let shows = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let shows = shows.unwrap().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let (connector, acceptor) = (TlsConnector::from(Arc::new(knows)), TlsAcceptor::from(Arc::new(shows)));
        let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
        (Box::new(client.unwrap()), Stream::from(server.unwrap()))
    }

    async fn say(side: &mut (impl AsyncWrite + Unpin), what: &str) {
        side.write_all(what.as_bytes()).await.unwrap();
        side.flush().await.unwrap();
    }

    async fn reads(side: &mut (impl AsyncRead + Unpin), what: &str) {
        let mut read = vec![0; what.len()];
        side.read_exact(&mut read).await.unwrap();
        assert_eq!(read, what.as_bytes());
    }

    #[tokio::test]
    async fn each_side_hears_the_other_and_when_it_has_no_more_to_say() {
        for is_tls in [false, true] {
            let (mut client, mut server, tunnel) = tunnel(is_tls).await;
            for word in ["ask", "상품", "x"] {
                say(&mut client, word).await;
                reads(&mut server, word).await;
                say(&mut server, word).await;
                reads(&mut client, word).await;
            }
            say(&mut client, "last").await;
            client.shutdown().await.unwrap();
            reads(&mut server, "last").await;
            assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "the client says no more");
            assert!(!tunnel.is_finished());
            say(&mut server, "answer").await;
            reads(&mut client, "answer").await;
            server.shutdown().await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            tunnel.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn much_goes_both_ways_at_once() {
        // No two parts of it are alike where one could be taken for the other.
        let much = |seed: u32| -> Vec<u8> { (0..750_000).flat_map(|at: u32| (at ^ seed).to_le_bytes()).collect() };
        for is_tls in [false, true] {
            let (client, server, tunnel) = tunnel(is_tls).await;
            let side = async |stream: Box<dyn Side>, says: Vec<u8>, hears: Vec<u8>| {
                let (mut from, mut to) = tokio::io::split(stream);
                let writes = async {
                    to.write_all(&says).await.unwrap();
                    to.shutdown().await.unwrap();
                };
                let mut read = Vec::new();
                let (_, bytes) = tokio::join!(writes, from.read_to_end(&mut read));
                assert!(bytes.unwrap() == hears.len() && read == hears);
            };
            tokio::join!(side(client, much(1), much(0)), side(Box::new(server), much(0), much(1)));
            tunnel.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_read_for() {
        let (client, mut server, tunnel) = tunnel(false).await;
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
