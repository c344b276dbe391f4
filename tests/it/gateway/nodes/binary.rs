//! Bodies of requests as they were sent, and responses that are bytes.

use std::net::SocketAddr;
use std::time::Duration;

use gateway::Config;
use node_sdk::{Binary, CallError, Headers, HttpResponse, Next, Node, Outcome, Params, Path, RawBody, ServiceError};
use serde_json::{Value, json};
use tests::{Cluster, Listener, eventually, http2, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that are neither text nor JSON, and hold the delimiter of packets and what looks like one.
fn bytes(count: usize) -> Vec<u8> {
    let pattern = [&b"\xC2\xB6{\"bytes\":9,\"$\":{}}\xC2\xB6\xFF\x00"[..], "상".as_bytes()].concat();
    pattern.into_iter().cycle().take(count).collect()
}

/// A sum by which bodies are told apart.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().zip(1..).map(|(byte, at): (&u8, u64)| u64::from(*byte) * at).sum()
}

async fn hook(RawBody(body): RawBody, headers: Headers, Params(query): Params<Value>) -> Result<Value, ServiceError> {
    let signature = headers.get("x-signature").unwrap_or_default().to_owned();
    Ok(json!({ "sum": sum(&body), "bytes": body.len(), "signature": signature, "query": query }))
}

async fn later() -> Result<(), ServiceError> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(())
}

async fn around(next: Next) -> Result<Outcome, ServiceError> {
    Ok(next.run().await?.header("x-layer", "1"))
}

async fn reverse(RawBody(body): RawBody) -> Result<HttpResponse<Binary>, ServiceError> {
    let reversed: Vec<u8> = body.iter().rev().copied().collect();
    Ok(HttpResponse::new(Binary(reversed.into())).content_type("image/png"))
}

async fn image(Path(count): Path<usize>) -> Result<Binary, ServiceError> {
    Ok(Binary(bytes(count).into()))
}

/// The answer to a request over HTTP/1: its head and its body.
async fn over_1(gateway: SocketAddr, line: &str, fields: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..at].to_vec()).unwrap().to_ascii_lowercase(), answer[at + 4..].to_vec())
}

async fn start() -> (Cluster, Node, SocketAddr) {
    let cluster = Cluster::start();
    let node = Node::builder("files")
        .public_routes()
        .route("POST/hook", hook)
        .headers(["x-signature"])
        .max_body(2_000_000)
        .route("GET/images/{count}", image)
        .group(|group| group.guard(later).layer(around).route("PUT/reversed", reverse));
    let node = cluster.node(node).await;
    let config = Config { h2c: true, max_body_bytes: 1_000_000, ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    Cluster::wait_routed(gateway, "/images/0").await;
    (cluster, node, gateway)
}

#[tokio::test]
async fn a_handler_gets_a_body_byte_for_byte() {
    let (_cluster, _node, gateway) = start().await;
    for body in [bytes(0), bytes(1), bytes(30), bytes(70_000), bytes(999_999), b" {\"a\": 1}\n".to_vec()] {
        let fields = "X-Signature: s\r\nContent-Type: application/json\r\n";
        let (head, answer) = over_1(gateway, "POST /hook?a=1", fields, &body).await;
        let seen: Value = serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}: {head}"));
        let expected = json!({ "sum": sum(&body), "bytes": body.len(), "signature": "s", "query": { "a": "1" } });
        assert_eq!(seen, expected);
    }
    let (head, _) = over_1(gateway, "POST /hook", "Content-Type: text/csv\r\n", b"a,b").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let (head, answer) = over_1(gateway, "POST /hook", "", &bytes(1_000_001)).await;
    assert!(head.starts_with("http/1.1 413"), "{head}: {}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_response_is_bytes_of_any_media_type() {
    let (_cluster, _node, gateway) = start().await;
    for count in [0, 1, 30, 100_000, 3_000_000] {
        let (head, body) = over_1(gateway, &format!("GET /images/{count}"), "", b"").await;
        assert!(body == bytes(count) && head.contains("\r\ncontent-type: application/octet-stream\r\n"), "{head}");
        let mut client = http2::connect(gateway).await;
        let head = http2::head("GET", &format!("/images/{count}")).body(()).unwrap();
        let (status, fields, body, _) = http2::ask(&mut client, head, &[]).await.unwrap();
        assert!(status == 200 && body == bytes(count), "{count}");
        assert_eq!(
            (fields["content-type"].as_bytes(), fields.contains_key("x-layer")),
            (&b"application/octet-stream"[..], false)
        );
    }
    let body = bytes(50_000);
    let (head, answer) = over_1(gateway, "PUT /reversed", "", &body).await;
    assert!(head.contains("\r\ncontent-type: image/png\r\n") && head.contains("\r\nx-layer: 1\r\n"), "{head}");
    assert!(answer.iter().rev().eq(&body));
    let (head, answer) = over_1(gateway, "GET /images/9000000", "", b"").await;
    assert!(head.starts_with("http/1.1 500"), "{head}: {}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_node_that_calls_sends_arguments_and_gets_no_bytes() {
    let (cluster, _node, _gateway) = start().await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["POST/hook", "GET/images/{count}"]).await;
    let seen: Value = caller.peers().call("POST/hook", &json!({ "a": 1 })).await.unwrap();
    assert_eq!(seen["sum"], sum(b"{\"a\":1}"));
    let error = caller.peers().call::<Value>("GET/images/7", &()).await.unwrap_err();
    assert!(matches!(&error, CallError::Refused { status: 406, reason, .. } if reason == "bytes"), "{error}");
}

/// A node that the test plays by hand: it answers each call of `GET/x` with these bytes after the
/// key.
async fn lying_node(cluster: &Cluster, answer: &'static [u8]) -> tests::Peer {
    let (listener, mut registered) = (Listener::bind().await, cluster.peer().await);
    let routes = json!([{ "at": [0], "public": true, "headers": [] }]);
    let params =
        json!({ "port": listener.port(), "name": "liar", "urls": ["GET/x"], "$": { "v": 2, "routes": routes } });
    registered.register_with(params).await;
    registered.list_with("liar").await;
    tokio::spawn(async move {
        loop {
            let mut caller = listener.accept().await;
            tokio::spawn(async move {
                while let Some(call) = caller.next().await {
                    if let Some(key) = call.get("key") {
                        let text = String::from_utf8_lossy(answer).replace("KEY", &key.to_string());
                        caller.send(text.as_bytes()).await;
                    }
                }
            });
        }
    });
    registered
}

#[tokio::test]
async fn a_node_that_lies_about_its_bytes_gets_no_client_stuck() {
    for (answer, status) in [
        ("{\"bytes\":3,\"key\":KEY,\"$\":{},\"params\":null}¶abc", 200),
        ("{\"bytes\":999999999999,\"key\":KEY,\"$\":{},\"params\":null}¶abc", 502),
        ("{\"bytes\":3,\"key\":KEY,\"$\":{\"s\":99},\"params\":null}¶abc", 502),
        ("{\"bytes\":3,\"key\":KEY,\"$\":{\"h\":7},\"params\":null}¶abc", 200),
    ] {
        let cluster = Cluster::start();
        let _node = lying_node(&cluster, answer.as_bytes()).await;
        let gateway = cluster.gateway().await;
        let mut seen = request(gateway, "GET", "/x", "").await;
        eventually("the gateway has called it", async || {
            seen = request(gateway, "GET", "/x", "").await;
            ![404, 503].contains(&seen.status)
        })
        .await;
        assert_eq!(seen.status, status, "{answer}: {seen:?}");
    }
}
