use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, UnixStream};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::queue::MAX_QUEUED;
use super::*;
use crate::Socket;
use crate::socket::ReadNow;

const PATIENCE: Duration = Duration::from_secs(30);

/// The two kinds of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
}

const BOTH: [Kind; 2] = [Kind::Tcp, Kind::Unix];

/// A socket and its peer, which is not asked by the runtime.
async fn sockets(kind: Kind) -> (Socket, File) {
    let (ours, peer): (_, OwnedFd) = match kind {
        Kind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(4096).unwrap();
            let ours = socket.connect(listener.local_addr().unwrap()).await.unwrap();
            (Socket::Tcp(ours), listener.accept().await.unwrap().0.into_std().unwrap().into())
        }
        Kind::Unix => {
            let (ours, peer) = UnixStream::pair().unwrap();
            SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
            (Socket::Unix(ours), peer.into_std().unwrap().into())
        }
    };
    (ours, File::from(peer))
}

async fn pair(kind: Kind) -> (QueuedSocket, File) {
    let (ours, peer) = sockets(kind).await;
    (QueuedSocket::new(ours), peer)
}

/// A queue that has begun, which it does when the other tasks have run.
async fn queue() -> SendQueue {
    let queue = SendQueue::start();
    yield_now().await;
    queue
}

/// What has arrived by now.
fn arrived(peer: &mut File) -> String {
    let mut bytes = [0; 64];
    match peer.read(&mut bytes) {
        Ok(read) => String::from_utf8_lossy(&bytes[..read]).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => "nothing".to_owned(),
        Err(error) => error.kind().to_string(),
    }
}

/// A socket for which the system takes no more, with what it has taken so far.
async fn full(kind: Kind) -> (QueuedSocket, File, usize) {
    let (socket, peer) = sockets(kind).await;
    let mut taken = 0;
    while let Ok(bytes) = socket.try_write(&[b'x'; 4096]) {
        taken += bytes;
    }
    (QueuedSocket::new(socket), peer, taken)
}

async fn flushed(socket: &QueuedSocket) -> io::Result<()> {
    timeout(PATIENCE, poll_fn(|task| socket.poll_flush(task))).await.expect("it is sent in time")
}

#[tokio::test]
async fn messages_leave_when_all_tasks_have_run() {
    let _queue = queue().await;
    let (mut pairs, words) = (Vec::new(), ["one", "two", "three", "four"]);
    for (word, kind) in words.into_iter().zip(BOTH.into_iter().cycle()) {
        let (socket, peer) = pair(kind).await;
        pairs.push((tokio::spawn(async move { (socket.try_write(word.as_bytes()).unwrap(), socket).0 }), peer));
    }
    let (last, mut peer) = pair(Kind::Unix).await;
    assert_eq!(last.try_write(b"a").unwrap() + last.try_write(b"b").unwrap(), 2);
    assert_eq!(arrived(&mut peer), "nothing");
    yield_now().await;
    assert_eq!(arrived(&mut peer), "ab", "in one send");
    for ((task, mut peer), word) in pairs.into_iter().zip(words) {
        assert!(task.is_finished());
        assert_eq!(arrived(&mut peer), word);
    }
}

#[tokio::test]
async fn messages_leave_although_the_thread_is_never_idle() {
    let _queue = queue().await;
    let spins = tokio::spawn(poll_fn(|task| {
        task.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    let (socket, mut peer) = pair(Kind::Tcp).await;
    socket.try_write(b"abc").unwrap();
    yield_now().await;
    assert_eq!(arrived(&mut peer), "abc");
    spins.abort();
}

#[tokio::test]
async fn a_full_queue_is_sent() {
    let _queue = queue().await;
    let mut pairs = Vec::new();
    for _ in 0..MAX_QUEUED {
        pairs.push(pair(Kind::Tcp).await);
    }
    let (last, others) = pairs.split_last_mut().unwrap();
    for (socket, _) in &*others {
        socket.try_write(b"x").unwrap();
    }
    assert_eq!(arrived(&mut others[0].1), "nothing");
    last.0.try_write(b"x").unwrap();
    assert!(pairs.iter_mut().all(|(_, peer)| arrived(peer) == "x"));
}

#[tokio::test]
async fn a_message_is_sent_although_its_socket_is_dropped() {
    let _queue = queue().await;
    for kind in BOTH {
        let (socket, mut peer) = pair(kind).await;
        socket.try_write(b"abc").unwrap();
        drop(socket);
        yield_now().await;
        assert_eq!(
            (arrived(&mut peer), arrived(&mut peer)),
            ("abc".to_owned(), String::new()),
            "and then it is closed"
        );
    }
}

#[tokio::test]
async fn an_end_and_a_large_write_come_after_what_is_queued() {
    let _queue = queue().await;
    for kind in BOTH {
        let (socket, mut peer) = pair(kind).await;
        socket.try_write(b"abc").unwrap();
        poll_fn(|task| socket.poll_shutdown(task)).await.unwrap();
        assert_eq!((arrived(&mut peer), arrived(&mut peer)), ("abc".to_owned(), String::new()));
        let (socket, mut peer) = pair(kind).await;
        socket.try_write(b"abc").unwrap();
        assert!(socket.try_write(&[b'x'; MAX_QUEUED_BYTES + 1]).unwrap() > 0);
        assert!(arrived(&mut peer).starts_with("abcx"));
    }
}

#[tokio::test]
async fn what_the_system_does_not_take_is_sent_when_it_does() {
    let _queue = queue().await;
    for kind in BOTH {
        let (socket, peer, taken) = full(kind).await;
        socket.try_write(b"abc").unwrap();
        yield_now().await;
        let refused = socket.try_write(b"def").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock, "nothing overtakes it");
        let reads = tokio::task::spawn_blocking(move || {
            SockRef::from(&peer).set_nonblocking(false).unwrap();
            let mut read = vec![0; taken + 3];
            (&peer).read_exact(&mut read).unwrap();
            (peer, read)
        });
        flushed(&socket).await.unwrap();
        let (_peer, read) = reads.await.unwrap();
        assert!(read.ends_with(b"xabc"));
        assert_eq!(socket.try_write(b"def").unwrap(), 3);
    }
}

#[tokio::test]
async fn a_peer_sees_a_cut_if_a_message_is_given_up() {
    let _queue = queue().await;
    for kind in BOTH {
        let (socket, mut peer, _) = full(kind).await;
        socket.try_write(b"abc").unwrap();
        yield_now().await;
        drop(socket);
        let cut = async {
            loop {
                match arrived(&mut peer).as_str() {
                    "connection reset" => break,
                    // It cannot be reset.
                    "" if kind == Kind::Unix => break,
                    "" => panic!("an end looks as if all had been sent"),
                    _ => yield_now().await,
                }
            }
        };
        timeout(PATIENCE, cut).await.expect("it is reset");
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_is_an_error_of_the_next_read_and_write() {
    let _queue = queue().await;
    for kind in BOTH {
        let (socket, peer) = pair(kind).await;
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert_eq!(socket.try_write(b"abc").unwrap(), 3, "it counts as sent");
        yield_now().await;
        let read = timeout(PATIENCE, poll_fn(|task| socket.poll_recv(task, &mut [0; 8]))).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "not the end of the stream");
        assert!(socket.recv_now(&mut [0; 8]).is_err());
        assert!(socket.try_write(b"abc").is_err());
        assert!(flushed(&socket).await.is_err());
    }
}

#[tokio::test]
async fn without_a_queue_messages_leave_at_once() {
    let sends = queue().await;
    let (socket, mut peer) = pair(Kind::Tcp).await;
    socket.try_write(b"abc").unwrap();
    drop(sends);
    assert_eq!(arrived(&mut peer), "abc", "what was queued");
    socket.try_write(b"def").unwrap();
    assert_eq!(arrived(&mut peer), "def");
}

#[tokio::test]
async fn a_direct_socket_does_not_wait() {
    let _queue = queue().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let mut peer = File::from(OwnedFd::from(peer));
    let socket = QueuedSocket::direct(Socket::Tcp(listener.accept().await.unwrap().0));
    socket.try_write(b"abc").unwrap();
    assert_eq!(arrived(&mut peer), "abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_runtime_of_several_threads_has_no_queue() {
    let _queue = queue().await;
    let (socket, mut peer) = pair(Kind::Tcp).await;
    socket.try_write(b"abc").unwrap();
    assert_eq!(arrived(&mut peer), "abc");
}
