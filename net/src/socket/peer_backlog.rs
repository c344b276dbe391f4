//! How many bytes a peer on this machine has not read yet. Version 1 peers do not report it, and
//! TCP does not show it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::Socket;

/// Shortest time between two snapshots.
const MIN_AGE: Duration = Duration::from_millis(10);
/// Snapshots may take at most a tenth (1 / this) of all time: the system's table lists every socket
/// of the machine.
const COST_DIVISOR: u32 = 10;
/// Snapshots in a row that have to lack a connection before it counts as one that cannot be
/// observed. The system's table is read in pieces while it changes, so one snapshot may lack a
/// connection that is there.
const MAX_MISSES: u32 = 3;

/// Snapshots of the queues of both ends of connections on this machine. One task takes them while
/// any caller waits for one.
#[derive(Debug)]
pub struct PeerBacklog {
    newest: watch::Receiver<Option<BacklogSnapshot>>,
    wanted: Arc<Notify>,
    scanner: JoinHandle<()>,
}

#[derive(Debug)]
struct BacklogSnapshot {
    taken: Instant,
    /// What waits, by the local and the remote end of a socket: bytes that its program has not
    /// read, and bytes that it has not delivered.
    queues: QueueBytes,
}

type QueueBytes = HashMap<(SocketAddr, SocketAddr), (usize, usize)>;

impl PeerBacklog {
    /// Starts the task; it ends when this value is dropped.
    pub fn start() -> Self {
        let (sender, newest) = watch::channel(None);
        let wanted = Arc::new(Notify::new());
        let scanner = tokio::spawn(scan(sender, Arc::clone(&wanted)));
        Self { newest, wanted, scanner }
    }

    /// Whether a [`BacklogPoller`] can probably observe the peer of this connection.
    pub fn can_see(stream: &Socket) -> bool {
        cfg!(target_os = "linux") && Self::ends(stream).is_some()
    }

    /// How many of the bytes written to `stream` before `asked` the peer has not read, or slightly
    /// more. `None` when the peer is not on this machine, or the snapshot lacks the connection.
    /// Cancel safe.
    ///
    /// Waits for the next snapshot.
    async fn unread_bytes(&self, stream: &Socket, asked: Instant) -> Option<usize> {
        let ends = Self::ends(stream)?;
        self.wanted.notify_one();
        let mut newest = self.newest.clone();
        let taken_since = |snapshot: &Option<BacklogSnapshot>| snapshot.as_ref().is_some_and(|it| it.taken >= asked);
        newest.wait_for(taken_since).await.ok()?.as_ref()?.between(ends)
    }

    /// Our end and the peer's, if the peer is on this machine.
    fn ends(stream: &Socket) -> Option<(SocketAddr, SocketAddr)> {
        let stream = stream.tcp()?;
        let (ours, theirs) = (canonical(stream.local_addr().ok()?), canonical(stream.peer_addr().ok()?));
        (theirs.ip().is_loopback() || theirs.ip() == ours.ip()).then_some((ours, theirs))
    }
}

/// Polls how much one peer has not read, until it has read enough. The pause between two polls
/// doubles, so that a frozen peer costs four polls a second.
#[derive(Debug, Default)]
pub struct BacklogPoller {
    in_vain: u32,
    /// Polls in a row that did not find the connection.
    misses: u32,
    /// When the current poll begins, and how much had been written before.
    poll_start: Option<(Instant, u64)>,
}

impl BacklogPoller {
    /// Longest pause between two polls.
    const MAX_WAIT: Duration = Duration::from_millis(250);

    /// Returns how much had been `written` when the poll began, and how much of that the peer has
    /// not read; `None` when that cannot be observed, as several snapshots show. A cancelled poll
    /// continues where it was.
    pub async fn unread(&mut self, backlog: &PeerBacklog, stream: &Socket, written: u64) -> (u64, Option<usize>) {
        loop {
            let (written, unread) = self.poll(backlog, stream, written).await;
            self.misses = if unread.is_some() { 0 } else { self.misses + 1 };
            if unread.is_some() || self.misses >= MAX_MISSES {
                return (written, unread);
            }
        }
    }

    async fn poll(&mut self, backlog: &PeerBacklog, stream: &Socket, written: u64) -> (u64, Option<usize>) {
        let wait = match self.in_vain {
            0 => Duration::ZERO,
            times => (MIN_AGE * 2_u32.saturating_pow(times - 1)).min(Self::MAX_WAIT),
        };
        let (begins, written) = *self.poll_start.get_or_insert_with(|| (Instant::now() + wait, written));
        sleep_until(begins).await;
        let unread = backlog.unread_bytes(stream, begins).await;
        self.poll_start = None;
        self.in_vain += 1;
        (written, unread)
    }

    /// Starts again with short pauses, after the peer has read enough.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Drop for PeerBacklog {
    fn drop(&mut self) {
        self.scanner.abort();
    }
}

async fn scan(newest: watch::Sender<Option<BacklogSnapshot>>, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        let taken = Instant::now();
        let Ok((queues, cost)) = tokio::task::spawn_blocking(read_backlogs).await else { return };
        newest.send_replace(Some(BacklogSnapshot { taken, queues }));
        // Callers that ask meanwhile get the next snapshot.
        sleep_until(taken + MIN_AGE.max(cost * COST_DIVISOR)).await;
    }
}

impl BacklogSnapshot {
    fn between(&self, (ours, theirs): (SocketAddr, SocketAddr)) -> Option<usize> {
        let (unread, _) = self.queues.get(&(theirs, ours))?;
        let (_, unsent) = self.queues.get(&(ours, theirs))?;
        Some(unread + unsent)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads the system's table, and returns how long that took.
#[cfg(target_os = "linux")]
fn read_backlogs() -> (QueueBytes, Duration) {
    let begin = Instant::now();
    let sockets = procfs::net::tcp().into_iter().chain(procfs::net::tcp6()).flatten();
    let queues = |socket: procfs::net::TcpNetEntry| {
        let ends = (canonical(socket.local_address), canonical(socket.remote_address));
        (ends, (socket.rx_queue as usize, socket.tx_queue as usize))
    };
    let queues = sockets.map(queues).collect();
    (queues, begin.elapsed())
}

#[cfg(not(target_os = "linux"))]
fn read_backlogs() -> (QueueBytes, Duration) {
    (QueueBytes::new(), Duration::ZERO)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn unread_bytes_of_a_local_peer_are_known_exactly() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let listener = crate::bind(address.parse().unwrap()).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut peer = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let stream = Socket::Tcp(listener.accept().await.unwrap().0);
            let backlog = PeerBacklog::start();
            // The peer's kernel acknowledges only after some time.
            while backlog.unread_bytes(&stream, Instant::now()).await != Some(0) {}
            stream.writable().await.unwrap();
            assert_eq!(stream.try_write(&[0; 1000]).unwrap(), 1000);
            while backlog.unread_bytes(&stream, Instant::now()).await != Some(1000) {}
            peer.read_exact(&mut [0; 400]).await.unwrap();
            while backlog.unread_bytes(&stream, Instant::now()).await != Some(600) {}
        }
    }

    /// Snapshots that show the connection with these unread bytes, or lack it.
    fn snapshots(
        shown: impl Iterator<Item = Option<usize>> + Send + 'static,
        (ours, theirs): (SocketAddr, SocketAddr),
    ) -> PeerBacklog {
        let (sender, newest) = watch::channel(None);
        let wanted = Arc::new(Notify::new());
        let asked = Arc::clone(&wanted);
        let scanner = tokio::spawn(async move {
            for unread in shown {
                asked.notified().await;
                let queues = unread.map(|unread| [((theirs, ours), (unread, 0)), ((ours, theirs), (0, 0))]);
                let queues = queues.into_iter().flatten().collect();
                sender.send_replace(Some(BacklogSnapshot { taken: Instant::now(), queues }));
            }
        });
        PeerBacklog { newest, wanted, scanner }
    }

    #[tokio::test]
    async fn a_snapshot_that_lacks_a_connection_does_not_count() {
        let listener = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Socket::Tcp(listener.accept().await.unwrap().0);
        let ends = PeerBacklog::ends(&stream).unwrap();
        let check = async |shown: &'static [Option<usize>], expected: &[Option<usize>]| {
            let backlog = snapshots(shown.iter().copied(), ends);
            let mut poller = BacklogPoller::default();
            for unread in expected {
                assert_eq!(poller.unread(&backlog, &stream, 9).await, (9, *unread), "{shown:?}");
            }
        };
        check(&[Some(7)], &[Some(7)]).await;
        check(&[None, Some(7), None, None, Some(6)], &[Some(7), Some(6)]).await;
        check(&[None, None, None], &[None]).await;
    }
}
