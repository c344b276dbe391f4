//! HTTP/1 at the gateway: clients that are slow, idle or faulty.

use std::time::Duration;

use gateway::Config;
use node_sdk::Node;
use tests::{Cluster, HttpClient, Process, eventually, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::double;
use crate::programs::GATEWAY;

#[tokio::test]
async fn clients_that_are_slow_or_idle_are_closed_and_others_are_not() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("math").public_routes().route("GET/double", double)).await;
    let config = Config {
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    let gateway = cluster.gateway_with(config).await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let mut silent = HttpClient::connect(gateway).await;
    assert_eq!(silent.raw(b"").await, None, "nothing was asked");
    let mut slow = HttpClient::connect(gateway).await;
    let half = slow.raw(b"GET /double?n=1 HTTP/1.1\r\nHost").await.unwrap();
    assert_eq!((half.status, half.problem().as_str()), (408, "slow_head"));
    let mut idle = HttpClient::connect(gateway).await;
    assert_eq!(idle.request("GET", "/double?n=1", "").await.unwrap().status, 200);
    assert_eq!(idle.raw(b"").await, None, "kept alive, then closed");
}

/// All bytes that a connection returns for this request, until it ends.
async fn told(gateway: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut told)).await.expect("the end").unwrap();
    told
}

#[tokio::test]
async fn gh1_gh5_nothing_follows_a_malformed_request() {
    let cluster = Cluster::start();
    let _node = cluster
        .node(Node::builder("math").public_routes().route("GET/double", double).route("POST/double", double))
        .await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let good = "GET /double?n=1 HTTP/1.1\r\nHost: g\r\n\r\n";
    for (bad, statuses) in [
        ("GET /double?n=1 HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "200 400"),
        ("GET /double?n=1 HTTP/1.1\nHost: g\n\n", "200 400"),
        ("POST /double HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", "200 400"),
        ("TRACE / HTTP/1.1\r\nHost: g\r\n\r\n", "200 405"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "200 505"),
        // The other options of that field are ignored.
        (
            "GET /double?n=1 HTTP/1.1\r\nHost: g\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
            "200 200",
        ),
    ] {
        let told = told(gateway, &format!("{good}{bad}{good}")).await;
        let after = told.match_indices("HTTP/1.1 ").map(|(at, line)| &told[at + line.len()..][..3]);
        let seen: Vec<_> = after.filter(|status| status.parse::<u16>().is_ok()).collect();
        assert_eq!(seen.join(" "), statuses, "{bad}");
        assert_eq!(told.matches("connection: close\r\n").count(), 1, "{told}");
    }
}

#[tokio::test]
async fn gh3_an_unwanted_body_is_skipped_or_ends_the_connection() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway().await;
    let post = |bytes: usize| {
        format!("POST /nowhere HTTP/1.1\r\nHost: g\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes))
    };
    let last = "GET /nowhere HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n";
    for (bytes, answers) in [(60_000, 2), (70_000, 1)] {
        let told = told(gateway, &(post(bytes) + last)).await;
        assert_eq!(told.matches("HTTP/1.1 404 ").count(), answers, "{bytes}");
    }
}

#[tokio::test]
async fn gh9_the_client_idle_for_longest_makes_room() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("n").public_routes().route("GET/double", double)).await;
    let gateway = cluster.gateway_with(Config { max_connections: 3, ..Config::default() }).await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = HttpClient::connect(gateway).await;
        assert_eq!(client.request("GET", "/double?n=1", "").await.unwrap().status, 200);
        // Longer than the clock that tells who came first.
        tokio::time::sleep(Duration::from_millis(5)).await;
        clients.push(client);
    }
    // The first sends another request, so the second has been idle for longest.
    assert_eq!(clients[0].request("GET", "/double?n=1", "").await.unwrap().status, 200);
    let mut another = HttpClient::connect(gateway).await;
    assert_eq!(another.request("GET", "/double?n=2", "").await.unwrap().status, 200);
    assert_eq!(clients[1].request("GET", "/double?n=1", "").await, None, "it has made room");
    for at in [0, 2] {
        assert_eq!(clients[at].request("GET", "/double?n=1", "").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn gh29_operators_have_an_address_of_their_own() {
    let cluster = Cluster::start();
    let [at, admin] = [(); 2].map(|()| std::net::SocketAddr::from(([127, 0, 0, 1], tests::pick_port())));
    let (listen, asked, address) = (at.to_string(), admin.to_string(), cluster.address.to_string());
    let arguments = ["--listen", &listen, "--admin", &asked, "--distributor", &address, "--workers", "2"];
    let gateway = Process::start(GATEWAY, &[&arguments[..], &["--access-log", "text"]].concat());
    gateway.line("listening").await;
    let ask = async |path: &str| {
        let response = request(admin, "GET", path, "").await;
        (response.status, response.body)
    };
    assert_eq!(ask("/health").await, (200, "alive\n".to_owned()));
    eventually("it has heard of itself", async || ask("/ready").await.0 == 200).await;
    let _node = cluster.node(Node::builder("math").public_routes().route("GET/double", double)).await;
    Cluster::wait_routed(at, "/double?n=1").await;
    let mut client = HttpClient::connect(at).await;
    for path in ["/double?n=1", "/double?n=2", "/double?n=x"] {
        client.request("GET", path, "").await.unwrap();
    }
    assert_eq!(HttpClient::connect(at).await.raw(b"nonsense\r\n\r\n").await.unwrap().status, 400);
    let (_, metrics) = ask("/metrics").await;
    for line in
        ["gateway_responses_total{status=\"422\"} 1", "gateway_responses_total{status=\"400\"} 1", "gateway_nodes 2"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    eventually("only one client is left", async || {
        ask("/metrics").await.1.lines().any(|line| line == "gateway_connections 1")
    })
    .await;
    gateway.line("127.0.0.1 \"GET /double?n=x\" 422 ").await;
    gateway.line("127.0.0.1 \"- -\" 400 ").await;
    assert_eq!(ask("/nothing").await.0, 404);
    assert_eq!(request(admin, "POST", "/health", "{}").await.status, 405);
    // The public address does not serve it.
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(client.request("GET", path, "").await.unwrap().problem(), "no_route");
    }
    // A configured port that is taken is an error; for the default one the gateway does not fail.
    let other = format!("127.0.0.1:{}", tests::pick_port());
    let mut taken = Process::start(GATEWAY, &["--listen", &other, "--admin", &asked, "--distributor", &address]);
    assert_eq!(taken.ended().await.code(), Some(3));
    drop(client);
    assert_eq!(gateway.terminate().await.code(), Some(0));
}
