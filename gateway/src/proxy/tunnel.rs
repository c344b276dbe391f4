//! Relays bytes both ways between a client and a server that have agreed to speak another protocol
//! than HTTP.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use net::QueuedSocket;
use net::buffers::with_read_buffer;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::io::poll_slice::wake_later;
use crate::io::stream::MaybeTlsStream;
use crate::io::timer::Timer;
use crate::upstream::concurrency::holders::Holder;

/// Reads of one direction in one poll. Then other tasks of the thread run.
const MAX_READS: u32 = 8;

/// How often idleness is checked within the time-out of a tunnel: an idle tunnel may stay longer by
/// an eighth (1 / this) of that time.
const CHECKS_PER_TIMEOUT: u32 = 8;

/// Relays bytes both ways until both sides have shut down, neither has sent anything for `idle`, or
/// the tunnel is evicted for another one. While one side does not read, the other side is not read
/// from. A tunnel in which nothing waits holds no buffer.
///
/// # Errors
/// Those of either connection, [`io::ErrorKind::TimedOut`] for an idle tunnel, and
/// [`io::ErrorKind::QuotaExceeded`] for an evicted one. Bytes that were on their way are lost.
pub(crate) async fn run(
    mut client: MaybeTlsStream,
    server: QueuedSocket,
    holder: &Holder,
    idle: Duration,
) -> io::Result<()> {
    let mut server = MaybeTlsStream::Plain(server);
    let (mut up, mut down) = (TunnelDirection::default(), TunnelDirection::default());
    let mut down_first = false;
    let check_interval = (idle / CHECKS_PER_TIMEOUT).max(Duration::from_millis(1));
    let (mut timer, mut moved, mut silent) = (Timer::at(Instant::now() + check_interval), 0, 0);
    poll_fn(|task| {
        // Each direction may use up the work that a task may do in one poll, so they alternate.
        down_first = !down_first;
        let (mut up, mut down) = (up.begin_poll(holder), down.begin_poll(holder));
        let (up, down) = if down_first {
            let down = down.poll(task, &mut server, &mut client)?;
            (up.poll(task, &mut client, &mut server)?, down)
        } else {
            (up.poll(task, &mut client, &mut server)?, down.poll(task, &mut server, &mut client)?)
        };
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if holder.poll_evicted(task).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        // The clock is not read for each message: the number of moved bytes shows whether anything
        // was sent.
        while timer.poll_expired(task).is_ready() {
            let before = std::mem::replace(&mut moved, holder.bytes());
            silent = if before == moved { silent + 1 } else { 0 };
            if silent >= CHECKS_PER_TIMEOUT {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.set(Instant::now() + check_interval);
        }
        Poll::Pending
    })
    .await
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct TunnelDirection {
    /// Bytes that were read, and that the other side did not accept at once.
    waiting: Vec<u8>,
    /// How many of them have been written since.
    written: usize,
    state: DirectionState,
}

#[derive(Clone, Copy, Debug, Default)]
enum DirectionState {
    #[default]
    Reads,
    /// The last written bytes may still be in a TLS session.
    Unflushed,
    /// No more bytes follow; the other side has not been told yet.
    Ends,
    Done,
}

/// One direction of a tunnel in one poll.
struct DirectionPoll<'a> {
    direction: &'a mut TunnelDirection,
    reads: u32,
    holder: &'a Holder,
}

impl TunnelDirection {
    fn begin_poll<'a>(&'a mut self, holder: &'a Holder) -> DirectionPoll<'a> {
        DirectionPoll { direction: self, reads: 0, holder }
    }
}

impl DirectionPoll<'_> {
    /// Passes on as many bytes as possible. Ready when no more follow, and the other side has been
    /// told.
    fn poll(
        &mut self,
        task: &mut Context<'_>,
        from: &mut MaybeTlsStream,
        to: &mut MaybeTlsStream,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.direction.written < self.direction.waiting.len() {
                self.direction.written +=
                    ready!(poll_write(task, to, &self.direction.waiting[self.direction.written..]))?;
            }
            if self.direction.written > 0 {
                (self.direction.waiting, self.direction.written) = (Vec::new(), 0);
            }
            self.direction.state = match self.direction.state {
                DirectionState::Reads => ready!(self.poll_pass_on(task, from, to))?,
                DirectionState::Unflushed => {
                    ready!(Pin::new(&mut *to).poll_flush(task))?;
                    DirectionState::Reads
                }
                DirectionState::Ends => {
                    ready!(Pin::new(&mut *to).poll_shutdown(task))?;
                    DirectionState::Done
                }
                DirectionState::Done => return Poll::Ready(Ok(())),
            };
        }
    }

    /// Reads once, and writes as many of the bytes as are taken. The others wait: at most one read,
    /// of [`READ_BYTES`](net::buffers::READ_BYTES).
    fn poll_pass_on(
        &mut self,
        task: &mut Context<'_>,
        from: &mut MaybeTlsStream,
        to: &mut MaybeTlsStream,
    ) -> Poll<io::Result<DirectionState>> {
        if self.reads == MAX_READS {
            wake_later(task);
            return Poll::Pending;
        }
        self.reads += 1;
        with_read_buffer(|scratch| {
            let read = ready!(from.poll_recv(task, scratch))?;
            self.holder.record_bytes(read as u64);
            if read == 0 {
                return Poll::Ready(Ok(DirectionState::Ends));
            }
            let written = match poll_write(task, to, &scratch[..read]) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.direction.waiting.extend_from_slice(&scratch[written..read]);
            Poll::Ready(Ok(DirectionState::Unflushed))
        })
    }
}

/// Writes at least one byte.
fn poll_write(task: &mut Context<'_>, to: &mut MaybeTlsStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::time::timeout;
    use tokio_rustls::{TlsAcceptor, TlsConnector};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::upstream::concurrency::holders::{Holders, PermitKind};

    const PATIENCE: Duration = Duration::from_secs(30);

    trait Side: AsyncRead + AsyncWrite + Unpin + Send {}
    impl<T: AsyncRead + AsyncWrite + Unpin + Send> Side for T {}

    /// Both ends of a tunnel, that of the client with or without TLS.
    async fn tunnel(is_tls: bool) -> (Box<dyn Side>, TcpStream, AbortOnDropHandle<io::Result<()>>) {
        let (client, inner) = pair().await;
        let (outer, server) = pair().await;
        let (client, inner): (Box<dyn Side>, _) = if is_tls {
            let (client, inner) = secure(client, inner).await;
            (client, inner)
        } else {
            (Box::new(client), MaybeTlsStream::from(inner))
        };
        let task = async move {
            let holder = Holders::default().add([127, 0, 0, 1].into(), Instant::now());
            run(inner, outer.into(), &holder, PATIENCE).await
        };
        (client, server, AbortOnDropHandle::new(tokio::spawn(task)))
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        // Small buffers in the system, so that the bytes in between show.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        let stream = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    async fn secure(client: TcpStream, server: TcpStream) -> (Box<dyn Side>, MaybeTlsStream) {
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
        let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server.into()));
        (Box::new(client.unwrap()), MaybeTlsStream::from(server.unwrap()))
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
    async fn each_side_receives_the_bytes_and_the_end_of_the_other() {
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
            assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "the client has shut down");
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
        // No part of it can be mistaken for another.
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
    async fn a_side_that_does_not_read_stops_the_other() {
        let (client, mut server, tunnel) = tunnel(false).await;
        let mut written = 0;
        // The test waits until the tunnel stops reading, which happens soon.
        while let Ok(bytes) = timeout(Duration::from_millis(300), server.write(&[b'x'; 8192])).await {
            written += bytes.unwrap();
            assert!(written < 32 << 20, "the bytes are held somewhere");
        }
        assert!(written > 0 && !tunnel.is_finished());
        drop(client);
        assert!(tunnel.await.unwrap().is_err(), "bytes on their way are lost, and the server notices");
        assert!(server.read(&mut [0]).await.is_err());
    }

    #[tokio::test]
    async fn only_an_idle_tunnel_is_closed() {
        let idle = Duration::from_millis(400);
        let (mut client, inner) = pair().await;
        let (outer, mut server) = pair().await;
        let holder = Holders::default().add([127, 0, 0, 1].into(), Instant::now());
        let started = Instant::now();
        let task = run(inner.into(), outer.into(), &holder, idle);
        let says = async {
            // For longer than the idle time-out, in either direction.
            while started.elapsed() < 2 * idle {
                say(&mut client, "x").await;
                reads(&mut server, "x").await;
                tokio::time::sleep(idle / 20).await;
            }
            Instant::now()
        };
        let (ended, silent_since) = tokio::join!(task, says);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(silent_since.elapsed() >= idle * 3 / 4, "{:?}", silent_since.elapsed());
    }

    #[tokio::test]
    async fn a_tunnel_ends_when_it_is_evicted() {
        let (_client, inner) = pair().await;
        let (outer, _server) = pair().await;
        let (mut holders, now) = (Holders::default(), Instant::now());
        let holder = holders.add([127, 0, 0, 1].into(), now);
        let task = run(inner.into(), outer.into(), &holder, PATIENCE);
        let evicts = async { holders.evict_slow(PermitKind::Tunnels, now + PATIENCE, 1, 0) };
        let (ended, evicted) = tokio::join!(task, evicts);
        assert_eq!((ended.unwrap_err().kind(), evicted), (io::ErrorKind::QuotaExceeded, 1));
    }

    #[tokio::test]
    async fn others_run_while_a_tunnel_is_pumped() {
        let (client, inner) = pair().await;
        let (outer, server) = pair().await;
        let holder = Holders::default().add([127, 0, 0, 1].into(), Instant::now());
        let polls = crate::io::poll_slice::PollCounter::default();
        let much = 64 << 20;
        // A thread of their own makes sure that there is always something to read, and room to
        // write.
        let pumps = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let streams = (client.into_std().unwrap(), server.into_std().unwrap());
            runtime.block_on(async {
                let mut client = TcpStream::from_std(streams.0).unwrap();
                let mut server = TcpStream::from_std(streams.1).unwrap();
                let (_, mut to) = client.split();
                let writes = async {
                    for _ in 0..much >> 16 {
                        to.write_all(&[b'x'; 1 << 16]).await.unwrap();
                    }
                    to.shutdown().await.unwrap();
                };
                let reads = async {
                    let mut part = vec![0; 1 << 16];
                    while server.read(&mut part).await.unwrap() > 0 {}
                    server.shutdown().await.unwrap();
                };
                tokio::join!(writes, reads);
            });
        });
        polls.count_polls(run(inner.into(), outer.into(), &holder, PATIENCE)).await.unwrap();
        pumps.await.unwrap();
        let most = net::buffers::READ_BYTES * usize::try_from(MAX_READS).unwrap();
        assert!(polls.so_far() >= (much / most) as u64, "{} turns", polls.so_far());
    }
}
