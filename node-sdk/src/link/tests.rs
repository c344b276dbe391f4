use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};

use protocol::write_cancel;

use super::*;
use crate::in_flight::MANY_IN_FLIGHT;

const PATIENCE: Duration = Duration::from_secs(30);
const HELLO: &[u8] = b"hello";

/// A link, and the node's end of its connection, which knows who calls. The link's task runs only while something is awaited.
async fn connected() -> (Arc<Link>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let link = Link::new(address, Version::V2, None, 0, Bytes::from_static(HELLO), Network::System);
    link.connect(|address| panic!("{address} is there"));
    while link.readiness(Instant::now()) == Readiness::Connecting {
        yield_now().await;
    }
    assert_eq!(link.readiness(Instant::now()), Readiness::Up);
    let (node, _) = listener.accept().unwrap();
    node.set_nonblocking(true).unwrap();
    reads(&node, HELLO).await;
    (link, node)
}

/// What has come; nothing if nothing has.
fn there(mut node: &TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 64 * 1024];
    match node.read(&mut bytes) {
        Ok(0) => panic!("the connection was closed"),
        Ok(read) => bytes.truncate(read),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes.clear(),
        Err(error) => panic!("{error}"),
    }
    bytes
}

/// The link's task has as many turns as it takes.
async fn reads(node: &TcpStream, expected: &[u8]) {
    let (mut bytes, give_up) = (Vec::new(), Instant::now() + PATIENCE);
    while bytes.len() < expected.len() {
        assert!(Instant::now() < give_up, "{} of {} bytes have come", bytes.len(), expected.len());
        bytes.extend(there(node));
        yield_now().await;
    }
    let at = bytes.iter().zip(expected).position(|(one, other)| one != other);
    assert!(
        at.is_none(),
        "{:?}",
        String::from_utf8_lossy(&bytes[at.unwrap_or(0)..]).chars().take(80).collect::<String>()
    );
}

fn call(link: &Arc<Link>, packet: &[u8]) -> Pending {
    let now = Instant::now();
    let deadlines = Deadlines { answer: (now + PATIENCE).into_std(), stream: None };
    link.call(now, deadlines, |_key, _sent, out| out.extend_from_slice(packet)).unwrap()
}

#[tokio::test]
async fn a_call_that_is_alone_leaves_at_once_and_others_with_the_next_write() {
    let (link, node) = connected().await;
    let _first = call(&link, b"first");
    // No task has had a turn: the caller has written it.
    let (mut bytes, give_up) = (Vec::new(), Instant::now() + PATIENCE);
    while bytes.is_empty() && Instant::now() < give_up {
        bytes = there(&node);
        std::thread::yield_now();
    }
    assert_eq!(bytes, b"first");
    let _others = [call(&link, b"second"), call(&link, b"third")];
    assert!(link.lock().calls.has_outgoing());
    reads(&node, b"secondthird").await;
}

#[tokio::test]
async fn after_many_calls_one_that_is_alone_waits_for_others() {
    let (link, node) = connected().await;
    let mut many: Vec<_> = (0..MANY_IN_FLIGHT).map(|_| call(&link, b"x")).collect();
    reads(&node, &[b'x'; MANY_IN_FLIGHT]).await;
    for pending in &mut many {
        let answered = link.lock().calls.answer(Instant::now().into_std(), pending.key, Bytes::new()).is_ok();
        assert!(answered && poll_fn(|context| pending.poll(context)).await.is_ok());
    }
    let _alone = call(&link, b"alone");
    assert!(link.lock().calls.has_outgoing());
    reads(&node, b"alone").await;
}

#[tokio::test]
async fn what_the_system_does_not_take_at_once_leaves_before_what_comes_next() {
    let (link, node) = connected().await;
    let large = vec![b'a'; MAX_FRAME_BYTES];
    // The rest waits for the task, which has had no turn, and then for the system, which does not take all at once.
    for has_turn in [false, true] {
        let first = call(&link, &large);
        assert_eq!(link.lock().rest.len(), MAX_FRAME_BYTES - MAX_BYTES_AT_ONCE);
        if has_turn {
            while !link.lock().is_writing {
                yield_now().await;
            }
        }
        let mut bytes = BytesMut::from(&large[..]);
        write_cancel(&mut bytes, first.key);
        drop(first);
        // It is alone, and not first.
        let second = call(&link, b"second");
        bytes.extend_from_slice(b"second");
        reads(&node, &bytes).await;
        assert!(link.lock().calls.answer(Instant::now().into_std(), second.key, Bytes::new()).is_ok());
    }
}
