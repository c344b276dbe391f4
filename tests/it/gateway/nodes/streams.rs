//! Streams of nodes, as clients of the gateway see them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use gateway::Config;
use node_sdk::{LastEventId, Node, ServerEvent, ServiceError, State, Streaming};
use serde_json::json;
use tests::http2;
use tests::streams::{Parts, offers};
use tests::{Cluster, HttpClient, PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A response in events.
type EventParts =
    Result<Streaming<stream::BoxStream<'static, Result<ServerEvent<serde_json::Value>, ServiceError>>>, ServiceError>;

const LINES: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";

/// A gateway in front of a node with streams, and how many idle streams are open.
async fn served() -> (Cluster, Node, SocketAddr, Arc<AtomicUsize>) {
    let cluster = Cluster::start();
    let working = Arc::new(AtomicUsize::new(0));
    let node = cluster.node(offers("callee").shared_state(Arc::clone(&working))).await;
    let gateway = cluster.gateway_with(Config { h2c: true, ..Config::default() }).await;
    Cluster::wait_routed(gateway, "/plain").await;
    (cluster, node, gateway, working)
}

fn get(path: &str, accept: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: g.test\r\nAccept: {accept}\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_client_that_accepts_a_stream_gets_lines_or_events() {
    let (_cluster, _node, gateway, _) = served().await;
    let mut http1 = HttpClient::connect(gateway).await;
    let mut http2 = http2::connect(gateway).await;
    let mut check = async |path: &str, accept: &str, status: u16, media_type: &str, body: &str| {
        let response = http1.raw(&get(path, accept)).await.unwrap();
        let seen = (response.status, response.header("content-type"), &*response.body);
        assert_eq!(seen, (status, Some(media_type), body), "{path} {accept}");
        let request = http2::head("GET", path).header("accept", accept).body(()).unwrap();
        let (seen_status, fields, seen, _) = http2::ask(&mut http2, request, &[]).await.unwrap();
        assert_eq!((seen_status, fields["content-type"].to_str().unwrap()), (status, media_type), "{path} {accept}");
        assert_eq!(seen, body.as_bytes(), "{path} {accept}");
    };
    check("/count?upto=3", LINES, 200, LINES, "1\n2\n3\n").await;
    check("/count?upto=2", EVENTS, 200, EVENTS, "data: 1\n\ndata: 2\n\n").await;
    let many: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    check("/count?upto=50000", LINES, 200, LINES, &many).await;
    // An answer in one piece is unchanged.
    check("/plain", LINES, 200, "application/json", "7").await;
    let problem = |kind: &str, title: &str, status: u16, detail: &str| {
        format!(r#"{{"type":"/problems/{kind}","title":"{title}","status":{status},"detail":"{detail}"}}"#)
    };
    let nothing = problem("nothing", "Bad Request", 400, "there is nothing to count");
    check("/count?upto=0", EVENTS, 400, "application/problem+json", &nothing).await;
    let detail =
        "the answer is a stream; request it with 'Accept: application/x-ndjson' or 'Accept: text/event-stream'";
    let stream = problem("stream", "Not Acceptable", 406, detail);
    check("/count?upto=3", "*/*", 406, "application/problem+json", &stream).await;
}

/// All bytes until the connection ends.
async fn to_the_end(gateway: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut all = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the end");
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn http_1_0_has_no_chunks() {
    let (_cluster, _node, gateway, _) = served().await;
    let request = format!("GET /count?upto=3 HTTP/1.0\r\nAccept: {LINES}\r\n\r\n");
    let all = to_the_end(gateway, request.as_bytes()).await;
    assert!(all.ends_with("\r\n\r\n1\n2\n3\n") && !all.contains("chunked"), "{all}");
}

#[tokio::test]
async fn gu8_a_cut_stream_does_not_look_complete() {
    let (_cluster, _node, gateway, _) = served().await;
    let path = "/count?upto=9&fails_at=5";
    let all = to_the_end(gateway, &get(path, LINES)).await;
    assert!(all.contains("4\n") && !all.ends_with("0\r\n\r\n"), "{all}");
    // Without chunks the end of the connection would be that of the body, so it is reset.
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nAccept: {LINES}\r\n\r\n").as_bytes()).await.unwrap();
    let read = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("the end");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let mut client = http2::connect(gateway).await;
    let request = http2::head("GET", path).header("accept", LINES).body(()).unwrap();
    let error = http2::ask(&mut client, request, &[]).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn gu19_parts_arrive_at_once_and_the_stream_ends_with_its_client() {
    let (_cluster, _node, gateway, working) = served().await;
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(&get("/forever", EVENTS)).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("data: 1\n\n") {
        let mut part = [0; 1024];
        let bytes = timeout(PATIENCE, stream.read(&mut part)).await.expect("the first part").unwrap();
        assert!(bytes > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&part[..bytes]).unwrap());
    }
    assert_eq!(working.load(Ordering::Relaxed), 1);
    drop(stream);
    eventually("it is dropped at the node", async || working.load(Ordering::Relaxed) == 0).await;
    let mut client = http2::connect(gateway).await;
    let request = http2::head("GET", "/forever").header("accept", EVENTS).body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    assert_eq!(timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap(), "data: 1\n\n");
    assert_eq!(working.load(Ordering::Relaxed), 1);
    drop(body);
    eventually("it is dropped at the node", async || working.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a_node_that_takes_parts_is_told_that_there_are_none() {
    let (_cluster, _node, gateway, _) = served().await;
    let request = format!("POST /sum HTTP/1.1\r\nHost: g.test\r\nAccept: {LINES}\r\nContent-Length: 0\r\n\r\n");
    let response = HttpClient::connect(gateway).await.raw(request.as_bytes()).await.unwrap();
    assert_eq!((response.status, &*response.body), (200, "0\n"));
}

#[tokio::test]
async fn gu19_a_client_that_floods_during_a_stream_loses_it() {
    let (_cluster, _node, gateway, working) = served().await;
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(&get("/forever", EVENTS)).await.unwrap();
    eventually("it is there", async || working.load(Ordering::Relaxed) == 1).await;
    let _ = stream.write_all(&get("/forever", EVENTS).repeat(1000)).await;
    eventually("it is dropped at the node", async || working.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn gh8_a_stream_waits_for_a_client_that_does_not_read() {
    async fn large(State(made): State<AtomicUsize>) -> Parts<String> {
        let next = move |_| {
            made.fetch_add(1, Ordering::Relaxed);
            Ok::<_, ServiceError>("x".repeat(10_000))
        };
        Ok(Streaming(stream::iter(0..10_000).map(next).boxed()))
    }
    let cluster = Cluster::start();
    let made = Arc::new(AtomicUsize::new(0));
    let node = Node::builder("callee")
        .public_routes()
        .route("GET/large", large)
        .route("GET/plain", async || Ok::<_, ServiceError>(7));
    let _node = cluster.node(node.shared_state(Arc::clone(&made))).await;
    let config = Config { write_timeout: Duration::from_secs(1), ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    assert_eq!(Cluster::wait_routed(gateway, "/plain").await.json(), json!(7));
    let idle = Arc::strong_count(&made);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(gateway).await.unwrap();
    stream.write_all(&get("/large", LINES)).await.unwrap();
    eventually("something is sent", async || made.load(Ordering::Relaxed) > 2).await;
    eventually("it is given up", async || Arc::strong_count(&made) == idle).await;
    // Less than 1 of 100 MB was made: a small window on the way from the node, and the bytes that
    // the system takes.
    let made = made.load(Ordering::Relaxed);
    let mut all = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the end");
    assert!(made < 100 && !all.ends_with(b"0\r\n\r\n"), "{made} parts, {} bytes", all.len());
}

#[tokio::test]
async fn a_browser_gets_events_with_ids_and_goes_on_after_the_last() {
    async fn ticks(LastEventId(last): LastEventId) -> EventParts {
        let first = last.and_then(|id| id.parse::<u64>().ok()).map_or(1, |last| last + 1);
        let event = move |n: u64| {
            let event = ServerEvent::new(json!([n])).id(n.to_string());
            Ok(if n == 2 { event.event("two").retry(Duration::from_millis(1500)) } else { event })
        };
        Ok(Streaming(stream::iter((first..=3).map(event)).boxed()))
    }
    let cluster = Cluster::start();
    let node = cluster.node(Node::builder("ticks").public_routes().route("GET/ticks", ticks)).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/ticks").await;
    let mut client = HttpClient::connect(gateway).await;
    let mut check = async |accept: &str, fields: &str, expected: &str| {
        let request = format!("GET /ticks HTTP/1.1\r\nHost: g.test\r\nAccept: {accept}\r\n{fields}\r\n");
        let response = client.raw(request.as_bytes()).await.unwrap();
        assert_eq!((response.status, &*response.body), (200, expected), "{accept} {fields}");
    };
    let rest = "id: 2\nevent: two\nretry: 1500\ndata: [2]\n\nid: 3\ndata: [3]\n\n";
    check(EVENTS, "", &format!("id: 1\ndata: [1]\n\n{rest}")).await;
    check(EVENTS, "Last-Event-ID: 1\r\n", rest).await;
    check(LINES, "Last-Event-ID: 1\r\n", "[2]\n[3]\n").await;
    // A node that calls gets the data.
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/ticks"]).await;
    let seen: Vec<_> = caller.peers().stream::<[u64; 1]>("GET/ticks", &()).await.unwrap().collect().await;
    assert_eq!(seen.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [[1], [2], [3]]);
    drop(node);
}
