//! Closing a listener so that no client is reset that has connected already.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::listen::BACKLOG;
use crate::debug;

/// Closes a listener, and gives the connections that the system has accepted: they may carry
/// requests, and closing alone would reset them.
///
/// On Linux no connection is accepted any more while they are taken; one that comes meanwhile is
/// not answered, tries again after a second, and is refused then. Elsewhere a client that connects
/// in this very moment may be reset. With `is_shared`, another process accepts from this socket
/// too, so that none is reset in any case.
pub(crate) fn close(listener: TcpListener, is_shared: bool) -> Vec<(TcpStream, SocketAddr)> {
    let mut accepted = Vec::new();
    // The runtime learns of connections later than the system.
    let Ok(listener) = listener.into_std() else { return accepted };
    if !is_shared {
        refuse_new(&listener);
    }
    // A connection that fails here ended in the backlog.
    for _ in 0..BACKLOG {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                accepted.extend(stream.ok().map(|stream| (stream, peer)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => debug!(%error, "a connection was lost while its listener closed"),
        }
    }
    accepted
}

/// Makes the system drop new requests for connections, and nothing else: those that it has begun to
/// accept are accepted.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn refuse_new(listener: &std::net::TcpListener) {
    use socket2::{SockFilter, SockRef};

    // A program of BPF, which sees a segment from its TCP header on.
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    /// Where the flags are, and the one that asks for a connection.
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 2;
    let program = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(listener).attach_filter(&program) {
        debug!(%error, "a client that connects while the listener closes may be reset");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn refuse_new(_: &std::net::TcpListener) {}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::super::bind;
    use super::*;

    #[tokio::test]
    async fn rs2_a_client_that_has_connected_is_not_reset_by_a_listener_that_closes() {
        const ROUNDS: usize = 50;
        let connected = Arc::new(AtomicUsize::new(0));
        for _ in 0..ROUNDS {
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let (before, stop) = (connected.load(Ordering::SeqCst), Arc::new(AtomicBool::new(false)));
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let (connected, stop) = (Arc::clone(&connected), Arc::clone(&stop));
                    std::thread::spawn(move || {
                        let mut streams = Vec::new();
                        while !stop.load(Ordering::SeqCst) {
                            // One that is not answered any more is not waited for.
                            let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(20));
                            let Ok(stream) = stream else { continue };
                            connected.fetch_add(1, Ordering::SeqCst);
                            streams.push(stream);
                        }
                        streams.iter_mut().all(|stream| stream.read_exact(&mut [0]).is_ok())
                    })
                })
                .collect();
            while connected.load(Ordering::SeqCst) < before + 10 {
                std::thread::yield_now();
            }
            let accepted = close(listener, false);
            stop.store(true, Ordering::SeqCst);
            for (stream, _) in accepted {
                let mut stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                stream.write_all(b"x").unwrap();
            }
            for client in clients {
                assert!(client.join().unwrap(), "a client was reset");
            }
        }
    }

    #[tokio::test]
    async fn a_shared_listener_goes_on() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = listener.into_std().unwrap();
        let other = TcpListener::from_std(shared.try_clone().unwrap()).unwrap();
        let first = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(close(TcpListener::from_std(shared).unwrap(), true)[0].1, first.local_addr().unwrap());
        let second = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(other.accept().await.unwrap().1, second.local_addr().unwrap());
    }
}
