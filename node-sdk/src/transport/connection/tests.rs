use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use net::Network;
use protocol::write_cancel;
use tokio::task::yield_now;

use super::*;
use crate::transport::in_flight::MANY_IN_FLIGHT;
use crate::transport::response_frame::ResponseFrame;

const PATIENCE: Duration = Duration::from_secs(30);
const HELLO: &[u8] = "{\"uri\":\"$hello\",\"$\":{\"f\":\"here\",\"n\":\"n\",\"to\":\"*\"}}¶".as_bytes();
const HELLO_ANSWER: &[u8] = "{\"uri\":\"$hello\",\"$\":{\"f\":\"there\"}}¶".as_bytes();

fn target(address: SocketAddr) -> Target {
    let version = Version::V2;
    Target {
        address,
        name: "goods".into(),
        advertised: None,
        version,
        read_window: LEGACY_READ_BYTES,
        instance: None,
        is_shared: false,
        rendezvous_score: 0,
    }
}

fn connector() -> Connector {
    Connector {
        network: Network::System,
        instance: "here".into(),
        name: "n".into(),
        blocked: Arc::default(),
        lost: Arc::default(),
        malformed: Arc::default(),
    }
}

/// A connection, and the node's end of its socket, after the first packet. The task of the
/// connection runs only while the test awaits something.
async fn connected() -> (Arc<Connection>, TcpStream) {
    connected_within(&Budget::for_connections()).await
}

/// A connection and its other end, with a budget of this many bytes for received parts.
async fn connected_within(budget: &Arc<Budget>) -> (Arc<Connection>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connection = Connection::new(target(address), connector(), budget);
    connection.connect(|address, reached| assert!(reached.is_ok(), "{address} is there"));
    while connection.readiness(Instant::now()) == Readiness::Connecting {
        yield_now().await;
    }
    assert_eq!(connection.readiness(Instant::now()), Readiness::Ready);
    let (mut node, _) = listener.accept().unwrap();
    node.set_nonblocking(true).unwrap();
    reads(&node, HELLO).await;
    assert!(connection.is_unproven());
    node.write_all(HELLO_ANSWER).unwrap();
    while connection.is_unproven() {
        yield_now().await;
    }
    (connection, node)
}

/// The bytes that have arrived, possibly none.
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

/// Lets the task of the connection run until the expected bytes have arrived.
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

fn call(connection: &Arc<Connection>, packet: &[u8]) -> PendingCall {
    let now = Instant::now();
    let deadlines = CallDeadlines { response: (now + PATIENCE).into_std(), stream: None };
    connection.submit(now, deadlines, |_key, _sent, out| out.extend_from_slice(packet)).unwrap()
}

#[tokio::test]
async fn a_single_call_leaves_at_once_and_others_with_the_next_write() {
    let (connection, node) = connected().await;
    let _first = call(&connection, b"first");
    // No task has run: the caller has written it.
    let (mut bytes, give_up) = (Vec::new(), Instant::now() + PATIENCE);
    while bytes.is_empty() && Instant::now() < give_up {
        bytes = there(&node);
        std::thread::yield_now();
    }
    assert_eq!(bytes, b"first");
    let _others = [call(&connection, b"second"), call(&connection, b"third")];
    assert!(connection.lock().calls.has_outgoing());
    reads(&node, b"secondthird").await;
}

#[tokio::test]
async fn after_many_calls_a_single_one_waits_for_others() {
    let (connection, node) = connected().await;
    let mut many: Vec<_> = (0..MANY_IN_FLIGHT).map(|_| call(&connection, b"x")).collect();
    reads(&node, &[b'x'; MANY_IN_FLIGHT]).await;
    for pending in &mut many {
        let answered = connection
            .lock()
            .calls
            .handle_response(Instant::now().into_std(), pending.key, ResponseFrame::default())
            .is_ok();
        assert!(answered && poll_fn(|context| pending.poll(context)).await.is_ok());
    }
    let _alone = call(&connection, b"alone");
    assert!(connection.lock().calls.has_outgoing());
    reads(&node, b"alone").await;
}

#[tokio::test]
async fn bytes_that_the_system_does_not_take_leave_before_later_ones() {
    let (connection, node) = connected().await;
    let large = vec![b'a'; MAX_FRAME_BYTES];
    // The rest waits for the task, which has not run, and then for the system, which does not take
    // everything at once.
    for has_turn in [false, true] {
        let first = call(&connection, &large);
        assert_eq!(connection.lock().remainder.len(), MAX_FRAME_BYTES - MAX_BYTES_AT_ONCE);
        if has_turn {
            while !connection.lock().is_writing {
                yield_now().await;
            }
        }
        let mut bytes = BytesMut::from(&large[..]);
        write_cancel(&mut bytes, first.key);
        drop(first);
        // It is a single call, but not the first one.
        let second = call(&connection, b"second");
        bytes.extend_from_slice(b"second");
        reads(&node, &bytes).await;
        assert!(
            connection
                .lock()
                .calls
                .handle_response(Instant::now().into_std(), second.key, ResponseFrame::default())
                .is_ok()
        );
    }
}

/// Why a connection ends when its node sends this many packets.
async fn flooded(
    connection: &Arc<Connection>,
    mut node: &TcpStream,
    packets: impl Iterator<Item = String>,
) -> Readiness {
    let bytes: Vec<u8> = packets.flat_map(String::into_bytes).collect();
    let (mut sent, give_up) = (0, Instant::now() + PATIENCE);
    let (mut discarded, mut quiet) = ([0; 4096], 0);
    let mut readiness = connection.readiness(Instant::now());
    while readiness == Readiness::Ready && quiet < 1000 {
        let before = Instant::now();
        assert!(before < give_up);
        match node.write(&bytes[sent..]) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The connection's task has ended, or is about to see it.
            Err(_cut) => {}
        }
        let _ = node.read(&mut discarded);
        quiet += usize::from(sent == bytes.len());
        yield_now().await;
        // As of then: on a busy machine a cool-down may be over before this thread goes on.
        readiness = connection.readiness(before);
    }
    readiness
}

#[tokio::test]
async fn a_node_that_keeps_sending_unexpected_frames_is_not_called_for_a_while() {
    const MANY_PACKETS: usize = 20_000;
    let large = format!("{{\"x\":\"{}\"}}¶", "x".repeat(1 << 20));
    for packet in [
        "¶",
        "null¶",
        "{]¶",
        "{}¶",
        "{\"key\":7,\"$\":{},\"params\":1}¶",
        "{\"key\":99999999999,\"$\":{\"n\":1},\"params\":1}¶",
        "{\"key\":7,\"$\":{\"n\":1,\"end\":true}}¶",
        "{\"key\":\"x\",\"$\":{}}¶",
        "{\"uri\":\"$credit\",\"key\":7,\"$\":{\"c\":1}}¶",
        "{\"uri\":\"/goods\",\"method\":\"GET\"}¶",
        &large,
    ] {
        let (connection, node) = connected().await;
        // A waiting call allows one response, and no more.
        let mut waits = call(&connection, b"call");
        let count = if packet.len() > 1000 { 100 } else { MANY_PACKETS };
        let packets = (0..count).map(|_| packet.to_owned());
        let begin = Instant::now();
        assert_eq!(
            flooded(&connection, &node, packets).await,
            Readiness::CoolingDown,
            "{}",
            &packet[..packet.len().min(80)]
        );
        assert!(poll_fn(|context| waits.poll(context)).await.is_err());
        // This is longer than after a connection that was merely lost.
        let rests = begin + Duration::from_millis(900);
        assert_eq!(connection.readiness(rests), Readiness::CoolingDown, "{}", &packet[..packet.len().min(80)]);
    }
}

#[tokio::test]
async fn a_node_that_is_merely_slow_is_not_cut() {
    let (connection, node) = connected().await;
    let answer = |key: u64| format!("{{\"key\":{key},\"$\":{{}},\"params\":1}}¶");
    for _ in 0..4 {
        // All calls are given up, and then answered.
        let given_up: Vec<_> = (0..5000).map(|_| call(&connection, b"call").key).collect();
        assert_eq!(flooded(&connection, &node, given_up.into_iter().map(answer)).await, Readiness::Ready);
    }
    // Parts of streams that were given up may be on their way for a while.
    let part = |key: u64, n| format!("{{\"key\":{key},\"$\":{{\"n\":{n}}},\"params\":\"{}\"}}¶", "x".repeat(100));
    let now = Instant::now();
    let options = crate::transport::in_flight::StreamOptions {
        deadline: None,
        window: protocol::STREAM_WINDOW,
        credit: protocol::STREAM_WINDOW,
    };
    let deadlines = CallDeadlines { response: (now + PATIENCE).into_std(), stream: Some(options) };
    for _ in 0..4 {
        let stream = connection.submit(now, deadlines, |_key, _sent, out| out.extend_from_slice(b"call")).unwrap().key;
        let parts = protocol::STREAM_WINDOW as usize / part(stream, 1).len();
        assert_eq!(flooded(&connection, &node, (0..parts).map(|n| part(stream, n))).await, Readiness::Ready);
    }
}

/// A stream whose node may send this many bytes ahead.
fn open(connection: &Arc<Connection>, window: u32) -> PendingCall {
    let now = Instant::now();
    let options = crate::transport::in_flight::StreamOptions { deadline: None, window, credit: window };
    let deadlines = CallDeadlines { response: (now + PATIENCE).into_std(), stream: Some(options) };
    connection.submit(now, deadlines, |_key, _sent, out| out.extend_from_slice(b"call")).unwrap()
}

#[tokio::test]
async fn nodes_that_fill_streams_have_no_more_than_a_budget() {
    const LIMIT: usize = 4 << 20;
    let budget = Budget::with_max_share(LIMIT, LIMIT);
    let (connection, node) = connected_within(&budget).await;
    let streams: Vec<_> = (0..20).map(|_| open(&connection, 1)).collect();
    let part = |key: u64, n, body: &str| format!("{{\"key\":{key},\"$\":{{\"n\":{n}}},\"params\":\"{body}\"}}¶");
    let large = "x".repeat(1 << 20);
    // Each sends one whole part, as it may.
    let packets = streams.iter().flat_map(|stream| [part(stream.key, 0, ""), part(stream.key, 1, &large)]);
    assert_eq!(flooded(&connection, &node, packets).await, Readiness::Ready);
    let held = connection.lock().calls.parts_bytes();
    assert!((1 << 20..=LIMIT).contains(&held), "{held}");
    assert!(budget.usage().refused >= 16 && budget.usage().bytes >= held - MIN_BYTES);
    // A stream that was not crowded out has its part; the others are told.
    let (mut whole, mut crowded) = (0, 0);
    for mut stream in streams {
        assert!(poll_fn(|context| stream.poll(context)).await.is_ok());
        let stream = stream.into_stream();
        match poll_fn(|context| stream.poll_part(context)).await {
            Some(Ok(_)) => whole += 1,
            Some(Err(ending)) => {
                assert_eq!(ending, crate::transport::in_flight::StreamEnd::OutOfMemory);
                crowded += 1;
            }
            None => panic!("a stream must say how it ended"),
        }
    }
    assert!(whole >= 1 && whole + crowded == 20, "{whole} {crowded}");
    assert_eq!((connection.lock().calls.parts_bytes(), budget.usage().bytes), (0, 0));

    // An endless packet belongs to no stream that could be ended, so the connection is closed.
    let half = format!("{{\"key\":7,\"$\":{{}},\"params\":\"{}", "x".repeat(3 << 20));
    let waits = call(&connection, b"call");
    assert_eq!(flooded(&connection, &node, std::iter::once(half)).await, Readiness::CoolingDown);
    drop(waits);
    assert_eq!(budget.usage().bytes, 0);
}

#[tokio::test]
async fn a_part_without_credit_ends_its_stream() {
    let (connection, node) = connected().await;
    let mut stream = open(&connection, 100);
    let part =
        |n, bytes| format!("{{\"key\":{},\"$\":{{\"n\":{n}}},\"params\":\"{}\"}}¶", stream.key, "x".repeat(bytes));
    let packets = [part(0, 0), part(1, 1), part(2, 1000), part(3, 1)];
    assert_eq!(flooded(&connection, &node, packets.into_iter()).await, Readiness::Ready);
    assert!(poll_fn(|context| stream.poll(context)).await.is_ok());
    let stream = stream.into_stream();
    for _ in 0..2 {
        assert!(matches!(poll_fn(|context| stream.poll_part(context)).await, Some(Ok(_))));
    }
    let ending = poll_fn(|context| stream.poll_part(context)).await;
    assert!(
        matches!(
            &ending,
            Some(Err(crate::transport::in_flight::StreamEnd::Violation(
                crate::transport::flow::FlowViolation::Overrun
            )))
        ),
        "{ending:?}"
    );
}
