//! The metrics of the Distributor over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tests::{HttpClient, HttpResponse, Peer, Process, eventually, pick_port};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::programs::DISTRIBUTOR;

/// A Distributor with an address for operators.
struct WatchedDistributor {
    _process: Process,
    at: SocketAddr,
    admin: SocketAddr,
}

impl WatchedDistributor {
    async fn start(arguments: &[&str]) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], pick_port()));
        let own = ["--listen", "127.0.0.1:0", "--admin", &admin.to_string()];
        let process = Process::start(DISTRIBUTOR, &[&own, arguments].concat());
        let at = SocketAddr::from(([127, 0, 0, 1], process.port().await));
        Self { _process: process, at, admin }
    }

    async fn ask(&self, method: &str, path: &str) -> HttpResponse {
        HttpClient::connect(self.admin).await.request(method, path, "").await.unwrap()
    }

    /// The value of a metric; 0 when it is not shown.
    async fn figure(&self, name: &str) -> u64 {
        let text = self.ask("GET", "/metrics").await.body;
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("distributor_{name} ")));
        value.map_or(0, |value| value.parse().unwrap())
    }

    async fn becomes(&self, name: &str, expected: u64) {
        let what = format!("{name} is {expected}");
        eventually(&what, async || self.figure(name).await == expected).await;
    }
}

#[tokio::test]
async fn oe17_metrics_of_the_distributor_follow_events() {
    // Room for one packet that has begun.
    let watched = WatchedDistributor::start(&["--max-incoming-bytes", "1"]).await;
    for (name, expected) in [
        ("connections", 0),
        ("nodes", 0),
        ("updates_sent_total", 0),
        ("memory_bytes{kind=\"incoming\"}", 0),
        ("memory_limit_bytes{kind=\"incoming\"}", 65_536),
        ("memory_limit_bytes{kind=\"unread\"}", 128 << 20),
        ("memory_limit_bytes{kind=\"list\"}", 8 << 20),
        ("memory_limit_bytes{kind=\"needs\"}", 8 << 20),
        ("memory_limit_bytes{kind=\"changes\"}", 16 << 20),
    ] {
        assert_eq!(watched.figure(name).await, expected, "{name}");
    }
    let mut node = Peer::connect(watched.at).await;
    node.register_v2("goods", 1, "goods", None).await;
    node.list_with("goods").await;
    let mut half = Peer::connect(watched.at).await;
    let unfinished = format!(r#"{{"uri":"/distributes","method":"POST","params":"{}"#, "x".repeat(20_000));
    half.send(&unfinished).await;
    watched.becomes("memory_bytes{kind=\"incoming\"}", 65_536).await;
    let mut next = Peer::connect(watched.at).await;
    next.send(&unfinished).await;
    for (name, expected) in [
        ("waiting_for_memory", 1),
        ("connections", 3),
        ("unregistered_connections", 2),
        ("nodes", 1),
        ("suspects", 0),
        ("deferred", 0),
        ("history_events", 1),
        ("refused_total{reason=\"bad_report\"}", 0),
    ] {
        watched.becomes(name, expected).await;
    }
    assert!(watched.figure("updates_sent_total").await > 0 && watched.figure("revision").await > 0);
    assert!(watched.figure("memory_bytes{kind=\"list\"}").await > 0);
    // Its time is over, and the other packet now has its room.
    watched.becomes("cut_total{reason=\"frame_timeout\"}", 1).await;
    watched.becomes("waiting_for_memory", 0).await;
    let report = json!({ "uri": "/distributes", "method": "PATCH", "key": 1, "params": { "failed": 1 }, "$": {} });
    node.send_packet(&report).await;
    watched.becomes("refused_total{reason=\"bad_report\"}", 1).await;
    drop((half, next, node));
    for (name, expected) in [("connections", 0), ("nodes", 0), ("memory_bytes{kind=\"incoming\"}", 0)] {
        watched.becomes(name, expected).await;
    }
}

#[tokio::test]
async fn oe17_metrics_of_the_distributor_tell_of_nodes_that_ask() {
    let watched = WatchedDistributor::start(&["--tell-all-up-to", "0", "--max-list-bytes", "2000"]).await;
    let mut node = Peer::connect(watched.at).await;
    let registration = |uses: &[&str]| {
        let params = json!({ "port": 1, "name": "asker", "urls": [], "$": { "v": 2, "id": "asker" } });
        json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params, "$": { "uses": uses } })
    };
    let question = |routes: &[&str]| json!({ "uri": "$need", "key": 2, "params": { "routes": routes }, "$": {} });
    let long = format!("EVENT/{}", "x".repeat(500));
    let many: Vec<String> = (0..5).map(|number| format!("{long}{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (packet, expected) in [
        (registration(&["GET/goods"]), [1, 0, 0]),
        (question(&["GET/none"]), [1, 1, 0]),
        (question(&many), [1, 2, 1]),
        (registration(&many), [1, 2, 2]),
    ] {
        node.send_packet(&packet).await;
        let names = ["nodes_told_of_part", "questions_total", "uses_refused_total"];
        for (name, expected) in names.into_iter().zip(expected) {
            watched.becomes(name, expected).await;
        }
    }
    drop(node);
    watched.becomes("nodes_told_of_part", 0).await;
}

#[tokio::test]
async fn oe17_idle_operators_of_the_distributor_do_not_block_others() {
    let watched = WatchedDistributor::start(&[]).await;
    let begins = ["GET /metrics HTTP/1.1\r\nHost: d\r\n\r\n", "GET /hea", "", "POST /health HTTP/1.1\r\n"];
    let mut all = Vec::new();
    for at in 0..100 {
        let mut stream = TcpStream::connect(watched.admin).await.unwrap();
        stream.write_all(begins[at % begins.len()].as_bytes()).await.unwrap();
        all.push(stream);
    }
    for (method, path, status) in [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/metrics?of=all", 200),
        ("GET", "/", 404),
        ("POST", "/health", 405),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: d\r\n\r\n");
        let mut client = HttpClient::connect(watched.admin).await;
        if method == "HEAD" {
            // It has the length of a body, but no body.
            let mut stream = TcpStream::connect(watched.admin).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
            continue;
        }
        let answer = timeout(Duration::from_secs(5), client.raw(head.as_bytes())).await.expect("in time").unwrap();
        assert_eq!(answer.status, status, "{method} {path}");
    }
    let mut endless = HttpClient::connect(watched.admin).await;
    let answer = endless.raw("GET /health HTTP/1.1\r\n".repeat(1000).as_bytes()).await;
    assert!(answer.is_none_or(|answer| answer.status == 431));
    // Nodes are not affected.
    let mut node = Peer::connect(watched.at).await;
    node.register_v2("goods", 1, "goods", None).await;
    node.list_with("goods").await;
}
