//! Bodies of requests and of responses in parts: uploads and downloads of any size.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gateway::Config;
use node_sdk::{
    BodyStream, ByteStream, CallError, Headers, HttpResponse, Node, Params, Path, ServiceError, State, Streaming,
};
use serde_json::{Value, json};
use tests::{Cluster, HttpClient, PATIENCE, eventually, http2, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Bytes of a piece that handlers make.
const PIECE: usize = 10_000;

/// Bytes that are neither text nor JSON, and hold the delimiter of packets and what looks like one.
fn bytes(count: usize) -> Bytes {
    let pattern = [&b"\xC2\xB6{\"bytes\":9,\"key\":7,\"$\":{\"n\":1}}\xC2\xB6\xFF\x00"[..], "상".as_bytes()].concat();
    pattern.into_iter().cycle().take(count).collect::<Vec<u8>>().into()
}

/// A sum by which bodies are told apart.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().zip(1..).fold(0, |sum: u64, (byte, at): (&u8, u64)| sum.wrapping_add(u64::from(*byte) * at))
}

/// What a node sees of the bodies that it is sent.
#[derive(Default)]
struct Seen {
    /// Bytes that have been read.
    read: AtomicUsize,
    /// Bodies that were read to their end, and handlers that have begun.
    whole: AtomicUsize,
    begun: AtomicUsize,
    /// Handlers that have not ended.
    working: AtomicUsize,
    /// Pieces that were made.
    made: AtomicUsize,
    /// Lets a patient handler go on.
    go_on: Notify,
}

/// Counts a handler until it is dropped.
struct Working(Arc<Seen>);

impl Working {
    fn new(State(seen): State<Seen>) -> Self {
        seen.begun.fetch_add(1, Ordering::SeqCst);
        seen.working.fetch_add(1, Ordering::SeqCst);
        Self(seen)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn upload(mut body: BodyStream, Params(query): Params<Value>, seen: State<Seen>) -> Result<Value, ServiceError> {
    let working = Working::new(seen);
    let (media_type, length) = (body.content_type().map(str::to_owned), body.length());
    let mut all = Vec::new();
    while let Some(piece) = body.try_next().await? {
        working.0.read.fetch_add(piece.len(), Ordering::SeqCst);
        all.extend_from_slice(&piece);
    }
    working.0.whole.fetch_add(1, Ordering::SeqCst);
    Ok(json!({ "sum": sum(&all), "bytes": all.len(), "type": media_type, "length": length, "query": query }))
}

/// Reads a piece, and no more before it may go on.
async fn patient(mut body: BodyStream, seen: State<Seen>) -> Result<usize, ServiceError> {
    let working = Working::new(seen);
    let first = body.try_next().await?.map_or(0, |piece| piece.len());
    working.0.go_on.notified().await;
    body.try_fold(first, async |sum, piece| Ok(sum + piece.len())).await
}

/// Has work to do after the body is whole.
async fn commit(body: BodyStream, seen: State<Seen>) -> Result<usize, ServiceError> {
    let working = Working::new(seen);
    let read = body.try_fold(0, async |sum, piece| Ok(sum + piece.len())).await?;
    working.0.read.fetch_add(read, Ordering::SeqCst);
    working.0.go_on.notified().await;
    working.0.whole.fetch_add(1, Ordering::SeqCst);
    Ok(read)
}

/// Refuses what does not state the right media type, before it reads any of it.
async fn choosy(headers: Headers, body: BodyStream) -> Result<usize, ServiceError> {
    match headers.get("content-type") {
        Some("text/csv") => body.try_fold(0, async |sum, piece| Ok(sum + piece.len())).await,
        _ => Err(ServiceError::new(415, "csv", "send text/csv")),
    }
}

fn pieces(count: usize) -> impl Iterator<Item = Bytes> {
    let all = bytes(count);
    (0..count.div_ceil(PIECE)).map(move |at| all.slice(at * PIECE..count.min((at + 1) * PIECE)))
}

#[derive(serde::Deserialize)]
struct Wish {
    length: Option<u64>,
    fails: Option<bool>,
}

async fn download(
    Path(count): Path<usize>,
    Params(Wish { length, fails }): Params<Wish>,
    seen: State<Seen>,
) -> Result<HttpResponse<ByteStream>, ServiceError> {
    let working = Working::new(seen);
    let fault = fails.map(|_| Err(ServiceError::new(507, "full", "no more")));
    let pieces = pieces(count).map(Ok).chain(fault).inspect(move |_| {
        working.0.made.fetch_add(1, Ordering::SeqCst);
    });
    let body = ByteStream::new(stream::iter(pieces));
    let body = match length {
        Some(length) => body.length(length),
        None => body,
    };
    Ok(HttpResponse::new(body).content_type("image/png").header("etag", "\"1\"").status(203))
}

async fn unmodified() -> Result<HttpResponse<ByteStream>, ServiceError> {
    Ok(HttpResponse::new(ByteStream::empty()).status(304).header("etag", "\"1\""))
}

/// Sends back what it is sent, each byte inverted.
async fn invert(body: BodyStream) -> Result<ByteStream, ServiceError> {
    Ok(ByteStream::new(body.map_ok(|piece| piece.iter().map(|byte| !byte).collect::<Vec<u8>>())))
}

/// Says how much has come while it comes.
async fn progress(
    body: BodyStream,
) -> Result<Streaming<impl futures::Stream<Item = Result<bool, ServiceError>>>, ServiceError> {
    let ended = stream::once(async { Ok(true) });
    Ok(Streaming(body.map_ok(|_| false).chain(ended)))
}

fn files() -> node_sdk::NodeBuilder {
    Node::builder("files")
        .public_routes()
        .route("POST/upload", upload)
        .max_body(50_000_000)
        .route("PUT/upload", upload)
        .max_body(50_000_000)
        .route("POST/patient", patient)
        .max_body(500_000_000)
        .route("POST/commit", commit)
        .route("POST/choosy", choosy)
        .route("POST/small", upload)
        .max_body(100_000)
        .route("POST/usual", upload)
        .route("POST/invert", invert)
        .max_body(50_000_000)
        .route("POST/progress", progress)
        .route("GET/download/{count}", download)
        .route("GET/unmodified", unmodified)
}

async fn start() -> (Cluster, Node, SocketAddr, Arc<Seen>) {
    start_with(Config::default()).await
}

async fn start_with(config: Config) -> (Cluster, Node, SocketAddr, Arc<Seen>) {
    let (cluster, seen) = (Cluster::start(), Arc::<Seen>::default());
    let node = cluster.node(files().shared_state(Arc::clone(&seen))).await;
    let gateway = cluster.gateway_with(Config { h2c: true, ..config }).await;
    Cluster::wait_routed(gateway, "/unmodified").await;
    (cluster, node, gateway, seen)
}

/// A request over HTTP/1, on a connection of its own.
async fn send(gateway: SocketAddr, line: &str, fields: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(format!("{line}\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").as_bytes()).await.unwrap();
    // The gateway may answer before it has all of it.
    let _ = stream.write_all(body).await;
    stream
}

/// The head and the body of an answer, and whether it ends in order.
async fn answer(mut stream: TcpStream) -> (String, Vec<u8>, bool) {
    let mut all = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the end");
    let at = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("{ended:?}: {all:?}"));
    let head = String::from_utf8(all[..at].to_vec()).unwrap().to_ascii_lowercase();
    let body = all.split_off(at + 4);
    if !head.contains("transfer-encoding: chunked") {
        return (head, body, ended.is_ok());
    }
    let (mut whole, mut rest) = (Vec::new(), &body[..]);
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return (head, whole, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return (head, whole, true);
        }
        if rest.len() < end + 2 + size {
            return (head, whole, false);
        }
        whole.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

fn length(body: &[u8]) -> String {
    format!("Content-Length: {}\r\n", body.len())
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let chunks =
        body.chunks(7001).flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    chunks.chain(*b"0\r\n\r\n").collect()
}

/// A request over HTTP/2 with a body that is sent as fast as the gateway takes it.
async fn over_2(
    gateway: SocketAddr,
    method: &str,
    path: &str,
    mut body: Bytes,
) -> Result<(u16, http::HeaderMap, Vec<u8>), h2::Error> {
    let mut client = http2::connect(gateway).await;
    let request = http2::head(method, path).body(()).unwrap();
    let (response, mut to_gateway) = client.send_request(request, body.is_empty())?;
    let sends = async {
        while !body.is_empty() {
            to_gateway.reserve_capacity(body.len());
            let Some(Ok(room)) = std::future::poll_fn(|task| to_gateway.poll_capacity(task)).await else { return };
            let part = body.split_to(room.min(body.len()));
            if to_gateway.send_data(part, body.is_empty()).is_err() {
                return;
            }
        }
    };
    let reads = async {
        let (parts, mut incoming) = timeout(PATIENCE, response).await.expect("an answer")?.into_parts();
        let mut whole = Vec::new();
        while let Some(data) = timeout(PATIENCE, incoming.data()).await.expect("more, or the end") {
            let data = data?;
            incoming.flow_control().release_capacity(data.len())?;
            whole.extend_from_slice(&data);
        }
        Ok((parts.status.as_u16(), parts.headers, whole))
    };
    tokio::join!(sends, reads).1
}

#[tokio::test]
async fn a_body_of_any_size_arrives_byte_for_byte() {
    let (_cluster, _node, gateway, _) = start().await;
    for count in [0, 1, 30, 5_000, 70_000, 3_000_000] {
        let body = bytes(count);
        let expected = |length: Value| json!({ "sum": sum(&body), "bytes": count, "type": "a/b", "length": length, "query": { "a": "1" } });
        let fields = format!("Content-Type: a/b\r\n{}", length(&body));
        let (head, seen, _) = answer(send(gateway, "POST /upload?a=1 HTTP/1.1", &fields, &body).await).await;
        let seen: Value = serde_json::from_slice(&seen).unwrap_or_else(|error| panic!("{error}: {head}"));
        assert_eq!(seen, expected(json!(count)));
        let fields = "Content-Type: a/b\r\nTransfer-Encoding: chunked\r\n";
        let (head, seen, _) = answer(send(gateway, "PUT /upload?a=1 HTTP/1.1", fields, &chunked(&body)).await).await;
        let seen: Value = serde_json::from_slice(&seen).unwrap_or_else(|error| panic!("{error}: {head}"));
        assert_eq!(seen, expected(Value::Null));
        let (status, _, seen) = over_2(gateway, "POST", "/upload", body.clone()).await.unwrap();
        let seen: Value = serde_json::from_slice(&seen).unwrap();
        assert_eq!((status, &seen["sum"], &seen["bytes"]), (200, &json!(sum(&body)), &json!(count)));
    }
}

#[tokio::test]
async fn a_response_of_any_size_is_sent_byte_for_byte() {
    let (_cluster, _node, gateway, _) = start().await;
    for count in [0, 1, 30, 10_000, 70_000, 6_000_000] {
        let (head, body, whole) =
            answer(send(gateway, &format!("GET /download/{count} HTTP/1.1"), "", b"").await).await;
        assert!(head.starts_with("http/1.1 203") && head.contains("\r\ncontent-type: image/png\r\n"), "{head}");
        assert!(head.contains("\r\netag: \"1\"\r\n") && head.contains("chunked"), "{head}");
        assert!(whole && body == bytes(count), "{count}: {}", body.len());
        let stated = format!("/download/{count}?length={count}");
        let (head, body, whole) = answer(send(gateway, &format!("GET {stated} HTTP/1.1"), "", b"").await).await;
        assert!(head.contains(&format!("\r\ncontent-length: {count}\r\n")) && !head.contains("chunked"), "{head}");
        assert!(whole && body == bytes(count), "{count}: {}", body.len());
        let (head, body, _) = answer(send(gateway, &format!("HEAD {stated} HTTP/1.1"), "", b"").await).await;
        assert!(head.contains(&format!("\r\ncontent-length: {count}\r\n")) && body.is_empty(), "{head}");
        let (head, body, whole) =
            answer(send(gateway, &format!("GET /download/{count} HTTP/1.0"), "", b"").await).await;
        assert!(whole && body == bytes(count) && !head.contains("chunked"), "{head}");
        let (status, fields, body) = over_2(gateway, "GET", &stated, Bytes::new()).await.unwrap();
        assert!(status == 203 && body == bytes(count), "{count}");
        let text = |name: &str| fields[name].to_str().unwrap().to_owned();
        assert_eq!((text("content-length"), text("etag")), (count.to_string(), "\"1\"".to_owned()));
    }
    let (head, body, _) = answer(send(gateway, "GET /unmodified HTTP/1.1", "", b"").await).await;
    assert!(head.starts_with("http/1.1 304") && head.contains("etag") && body.is_empty(), "{head}");
}

#[tokio::test]
async fn bytes_pass_both_ways_at_once() {
    let (_cluster, _node, gateway, _) = start().await;
    let inverted = |body: &[u8]| body.iter().map(|byte| !byte).collect::<Vec<u8>>();
    for count in [1, 3_000_000] {
        let body = bytes(count);
        let (status, _, seen) = over_2(gateway, "POST", "/invert", body.clone()).await.unwrap();
        assert!(status == 200 && seen == inverted(&body), "{count}: {status} {}", seen.len());
        let stream = TcpStream::connect(gateway).await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let head = format!("POST /invert HTTP/1.1\r\nHost: a\r\n{}\r\n", length(&body));
        let sent = body.clone();
        let sends = tokio::spawn(async move {
            writer.write_all(head.as_bytes()).await.unwrap();
            writer.write_all(&sent).await.unwrap();
            writer
        });
        let mut reader = tokio::io::BufReader::new(reader);
        let mut all = Vec::new();
        let _ = timeout(PATIENCE, reader.read_to_end(&mut all)).await.expect("the end");
        drop(sends.await);
        assert!(all.starts_with(b"HTTP/1.1 200") && all.ends_with(b"0\r\n\r\n"), "{count}: {}", all.len());
    }
    // JSON texts while the body arrives.
    let fields = format!("Accept: application/x-ndjson\r\n{}", length(&bytes(900_000)));
    let (head, body, whole) = answer(send(gateway, "POST /progress HTTP/1.1", &fields, &bytes(900_000)).await).await;
    let lines = String::from_utf8(body).unwrap();
    assert!(whole && lines.starts_with("false\n") && lines.ends_with("true\n"), "{head}\n{lines}");
}

#[tokio::test]
async fn a_handler_reads_a_body_while_it_arrives() {
    let (_cluster, _node, gateway, seen) = start().await;
    let mut stream = send(gateway, "POST /upload HTTP/1.1", "Content-Length: 10\r\n", b"").await;
    eventually("the handler has begun", async || seen.begun.load(Ordering::SeqCst) == 1).await;
    for part in 1..=5 {
        stream.write_all(b"ab").await.unwrap();
        eventually("it has read a part", async || seen.read.load(Ordering::SeqCst) == 2 * part).await;
    }
    let (_, body, _) = answer(stream).await;
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["bytes"], 10);
}

#[tokio::test]
async fn gh37_a_body_that_is_too_long_is_refused() {
    let (_cluster, _node, gateway, seen) = start().await;
    let check = async |path: &str, count: usize, expected: u16| {
        let body = bytes(count);
        let (head, text, _) =
            answer(send(gateway, &format!("POST {path} HTTP/1.1"), &length(&body), &body).await).await;
        assert!(head.starts_with(&format!("http/1.1 {expected}")), "{path} {count}: {head} {}", text.len());
        let begun = seen.begun.load(Ordering::SeqCst);
        let fields = "Transfer-Encoding: chunked\r\n";
        let (head, text, _) =
            answer(send(gateway, &format!("POST {path} HTTP/1.1"), fields, &chunked(&body)).await).await;
        assert!(head.starts_with(&format!("http/1.1 {expected}")), "{path} {count}: {head} {}", text.len());
        if expected == 413 {
            assert!(String::from_utf8(text).unwrap().contains("/problems/body_too_large"), "{path} {count}");
            assert_eq!(seen.begun.load(Ordering::SeqCst), begun + 1, "it is found out in the middle");
        }
        eventually("no handler is left", async || seen.working.load(Ordering::SeqCst) == 0).await;
    };
    check("/small", 100_000, 200).await;
    check("/small", 100_001, 413).await;
    // Without a limit of its own a route has that of the gateway.
    check("/usual", 1 << 20, 200).await;
    check("/usual", (1 << 20) + 1, 413).await;
    check("/upload", 2 << 20, 200).await;
}

#[tokio::test]
async fn gh38_a_client_that_cuts_its_body_ends_the_call() {
    let (_cluster, _node, gateway, seen) = start().await;
    for (path, fields) in [
        ("POST /upload HTTP/1.1", "Content-Length: 1000000\r\n"),
        ("PUT /upload HTTP/1.1", "Content-Length: 1000000\r\n"),
        ("POST /commit HTTP/1.1", "Content-Length: 1000000\r\n"),
        ("POST /upload HTTP/1.1", "Transfer-Encoding: chunked\r\n"),
    ] {
        let body = if fields.contains("chunked") { &b"5\r\nabcde\r\n5\r\nab"[..] } else { b"abcde" };
        let stream = send(gateway, path, fields, body).await;
        eventually("a handler has begun", async || seen.working.load(Ordering::SeqCst) == 1).await;
        drop(stream);
        eventually("it is dropped", async || seen.working.load(Ordering::SeqCst) == 0).await;
    }
    assert_eq!(seen.whole.load(Ordering::SeqCst), 0, "no half is taken for the whole");
    let mut client = http2::connect(gateway).await;
    let (response, mut to_gateway) =
        client.send_request(http2::head("POST", "/upload").body(()).unwrap(), false).unwrap();
    to_gateway.send_data(Bytes::from_static(b"abcde"), false).unwrap();
    eventually("a handler has begun", async || seen.working.load(Ordering::SeqCst) == 1).await;
    to_gateway.send_reset(h2::Reason::CANCEL);
    drop(response);
    eventually("it is dropped", async || seen.working.load(Ordering::SeqCst) == 0).await;
    assert_eq!(seen.whole.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn gh38_a_call_whose_body_is_whole_is_finished() {
    let (_cluster, _node, gateway, seen) = start().await;
    let stream = send(gateway, "POST /commit HTTP/1.1", "Content-Length: 5\r\n", b"abcde").await;
    eventually("the body is read", async || seen.read.load(Ordering::SeqCst) == 5).await;
    drop(stream);
    // A further request shows that the node knows of it.
    request(gateway, "GET", "/unmodified", "").await;
    seen.go_on.notify_one();
    eventually("it is finished", async || seen.whole.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn gh39_a_node_that_does_not_read_stops_its_client() {
    let (_cluster, _node, gateway, seen) = start().await;
    let mut stream = send(gateway, "POST /patient HTTP/1.1", "Content-Length: 100000000\r\n", b"").await;
    let (mut sent, part) = (0, vec![7; 1 << 20]);
    while let Ok(written) = timeout(Duration::from_secs(1), stream.write(&part)).await {
        sent += written.unwrap();
        assert!(sent < 50 << 20, "all of it is taken");
    }
    assert!(sent > 0 && seen.working.load(Ordering::SeqCst) == 1, "{sent}");
    seen.go_on.notify_one();
    stream.write_all(&vec![7; 100_000_000 - sent]).await.unwrap();
    assert_eq!(answer(stream).await.1, b"100000000");
}

#[tokio::test]
async fn gh39_a_node_that_never_reads_is_given_up() {
    let config = Config { request_timeout: Duration::from_secs(1), ..Config::default() };
    let (_cluster, _node, gateway, seen) = start_with(config).await;
    let stream = send(gateway, "POST /patient HTTP/1.1", "Content-Length: 400000\r\n", &bytes(400_000)).await;
    let (head, body, _) = answer(stream).await;
    assert!(head.starts_with("http/1.1 504"), "{head}: {}", String::from_utf8_lossy(&body));
    eventually("it is dropped", async || seen.working.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn gh41_a_download_waits_for_a_client_that_does_not_read() {
    let config = Config { write_timeout: Duration::from_secs(1), ..Config::default() };
    let (_cluster, _node, gateway, seen) = start_with(config).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(gateway).await.unwrap();
    stream.write_all(b"GET /download/30000000 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("something is sent", async || seen.made.load(Ordering::SeqCst) > 2).await;
    eventually("it is given up", async || seen.working.load(Ordering::SeqCst) == 0).await;
    let made = seen.made.load(Ordering::SeqCst);
    assert!(made < 300, "{made} of 3000 pieces");
    drop(stream);
}

#[tokio::test]
async fn gh41_a_download_ends_with_its_client() {
    let (_cluster, _node, gateway, seen) = start().await;
    let mut stream = send(gateway, "GET /download/30000000 HTTP/1.1", "", b"").await;
    stream.read_exact(&mut [0; 1000]).await.unwrap();
    drop(stream);
    eventually("it is dropped", async || seen.working.load(Ordering::SeqCst) == 0).await;
    assert!(seen.made.load(Ordering::SeqCst) < 3000);
}

#[tokio::test]
async fn gh42_a_cut_download_does_not_look_complete() {
    let (_cluster, _node, gateway, _) = start().await;
    for (path, version) in [
        ("/download/500000?fails=true", "1.1"),
        ("/download/500000?fails=true&length=600000", "1.1"),
        // More or less than was stated.
        ("/download/500000?length=600000", "1.1"),
        ("/download/500000?length=400000", "1.1"),
        ("/download/500000?fails=true", "1.0"),
    ] {
        let (head, body, whole) = answer(send(gateway, &format!("GET {path} HTTP/{version}"), "", b"").await).await;
        let stated =
            head.split("content-length: ").nth(1).map(|rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let looks_whole = whole && stated.is_none_or(|stated: usize| body.len() == stated);
        assert!(!looks_whole, "{path}: {head} {}", body.len());
        let error = over_2(gateway, "GET", path, Bytes::new()).await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{path}");
    }
}

#[tokio::test]
async fn gh40_a_client_that_expects_100_sends_its_body_after_that() {
    let (_cluster, _node, gateway, seen) = start().await;
    let expects = "Expect: 100-continue\r\nContent-Length: 5\r\nContent-Type: text/csv\r\n";
    let mut stream = send(gateway, "POST /choosy HTTP/1.1", expects, b"").await;
    let mut leave = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut leave)).await.expect("100").unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abcde").await.unwrap();
    assert_eq!(answer(stream).await.1, b"5");
    // A node that refuses before it reads spares the client the body.
    let expects = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    let (head, ..) = answer(send(gateway, "POST /choosy HTTP/1.1", expects, b"").await).await;
    assert!(head.starts_with("http/1.1 415"), "{head}");
    let expects = "Expect: 100-continue\r\nContent-Length: 100001\r\n";
    let (head, ..) = answer(send(gateway, "POST /small HTTP/1.1", expects, b"").await).await;
    assert!(head.starts_with("http/1.1 413") && seen.begun.load(Ordering::SeqCst) == 0, "{head}");
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_whole_body() {
    let (_cluster, _node, gateway, _) = start().await;
    let mut client = HttpClient::connect(gateway).await;
    for count in [10, 300_000, 10] {
        let body = "x".repeat(count);
        let request = format!("POST /upload HTTP/1.1\r\nHost: a\r\n{}\r\n{body}", length(body.as_bytes()));
        let response = client.raw(request.as_bytes()).await.unwrap();
        assert_eq!((response.status, &response.json()["bytes"]), (200, &json!(count)));
    }
}

#[tokio::test]
async fn gh43_a_node_that_dies_is_told_as_lost_or_cuts_the_response() {
    let (cluster, node, gateway, seen) = start().await;
    let mut uploading = send(gateway, "POST /upload HTTP/1.1", "Content-Length: 1000000\r\n", b"abc").await;
    let mut downloading = send(gateway, "GET /download/30000000?length=30000000 HTTP/1.1", "", b"").await;
    downloading.read_exact(&mut [0; 1000]).await.unwrap();
    eventually("both are at work", async || seen.working.load(Ordering::SeqCst) == 2).await;
    // Its connections are cut.
    drop(timeout(Duration::from_millis(1), node.stop()).await);
    let _ = uploading.write_all(b"def").await;
    let (head, body, _) = answer(uploading).await;
    assert!(head.starts_with("http/1.1 502"), "{head}: {}", String::from_utf8_lossy(&body));
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, downloading.read_to_end(&mut rest)).await.expect("the end");
    assert!(rest.len() < 30_000_000);
    drop(cluster);
}

#[tokio::test]
async fn a_node_that_calls_gets_no_bytes_and_sends_arguments() {
    let (cluster, _node, _gateway, _) = start().await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["POST/upload", "GET/download/{count}"]).await;
    let seen: Value = caller.peers().call("POST/upload", &json!({ "a": 1 })).await.unwrap();
    assert_eq!(seen["sum"], sum(b"{\"a\":1}"));
    let refused = |error: CallError| match error {
        CallError::Refused { status, reason, .. } => (status, reason),
        other => panic!("{other}"),
    };
    let error = caller.peers().call::<Value>("GET/download/7", &json!({})).await.unwrap_err();
    assert_eq!(refused(error), (406, "bytes".to_owned()));
    let error = caller.peers().stream::<Value>("GET/download/7", &json!({})).await.unwrap_err();
    assert_eq!(refused(error), (406, "bytes".to_owned()));
}
