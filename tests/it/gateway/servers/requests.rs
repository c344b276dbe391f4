//! HTTP servers behind the gateway: requests and responses that pass through.

use std::net::SocketAddr;
use std::time::Duration;

use gateway::Config;
use serde_json::json;
use tests::{
    Cluster, HttpClient, PATIENCE, Process, RawStream, Server, eventually, example, legacy_peers_can_run, request,
    serve_prefixes, try_request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::programs::GATEWAY;

#[tokio::test]
async fn a_request_and_its_response_pass_through() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    let fields =
        "Host: shop.example:8000\r\nX-CamelCase: 한\r\nCookie: a=b\r\nX-Request-Id: i-7\r\nX-Forwarded-For: 6.6.6.6";
    client
        .send(&format!("GET //api/./x%7e?q=%2F&r HTTP/1.1\r\n{fields}\r\nConnection: X-Secret\r\nX-Secret: s\r\n\r\n"))
        .await;
    let mut upstream = server.accept().await;
    assert_eq!(
        upstream.head().await,
        "GET /api/x~?q=%2F&r HTTP/1.1\r\nHost: shop.example:8000\r\nX-CamelCase: 한\r\nCookie: a=b\r\n\
         x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: shop.example:8000\r\n\
         forwarded: for=127.0.0.1;host=\"shop.example:8000\";proto=http\r\nx-gateway-hops: 1\r\nx-request-id: i-7\r\n\r\n"
    );
    upstream.send("HTTP/1.1 404 Gone Fishing\r\nDate: then\r\nX-Case: Kept\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nno").await;
    let head = client.head().await;
    assert_eq!(
        head,
        "HTTP/1.1 404 Not Found\r\nDate: then\r\nX-Case: Kept\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         x-request-id: i-7\r\ncontent-length: 2\r\n\r\n"
    );
    assert_eq!(client.read_to("no").await, "no");
    // Both connections are used again.
    client.send("HEAD /api HTTP/1.1\r\nHost: g\r\nX-Request-Id: i-8\r\n\r\n").await;
    assert!(upstream.head().await.starts_with("HEAD /api HTTP/1.1\r\n"));
    upstream.send("HTTP/1.1 200 OK\r\nDate: then\r\nX-Request-Id: theirs\r\nContent-Length: 1000\r\n\r\n").await;
    assert_eq!(
        client.head().await,
        "HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 1000\r\nx-request-id: i-8\r\n\r\n"
    );
}

#[tokio::test]
async fn bodies_pass_unbuffered_with_trailers() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    client.send("POST /api HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n").await;
    let mut upstream = server.accept().await;
    assert!(upstream.head().await.contains("\r\ntransfer-encoding: chunked\r\n"));
    assert_eq!(upstream.read_to("abc\r\n").await, "3\r\nabc\r\n", "before the rest is there");
    client.send("0\r\nDigest: d\r\nCookie: c\r\n\r\n").await;
    assert_eq!(upstream.read_to("\r\n\r\n").await, "0\r\nDigest: d\r\n\r\n");
    // Server-sent events: each when it comes.
    upstream
        .send("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    assert!(client.head().await.ends_with("transfer-encoding: chunked\r\n\r\n"));
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        upstream.send(&chunk).await;
        assert_eq!(client.read_to("\n\n\r\n").await, chunk);
    }
    upstream.send("0\r\nX-Sum: s\r\nContent-Length: 7\r\n\r\n").await;
    assert_eq!(client.read_to("\r\n\r\n").await, "0\r\nX-Sum: s\r\n\r\n");
    // A body that ends with its connection ends in order for the client, in HTTP/1.0 with the
    // connection.
    client.send("GET /api HTTP/1.1\r\nHost: g\r\nX-Request-Id: i\r\n\r\n").await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nDate: then\r\nConnection: close\r\n\r\nabc").await;
    drop(upstream);
    assert_eq!(
        client.read_to("0\r\n\r\n").await,
        "HTTP/1.1 200 OK\r\nDate: then\r\nx-request-id: i\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    let mut old = RawStream::to(gateway).await;
    old.send("GET /api HTTP/1.0\r\nX-Request-Id: i\r\nConnection: keep-alive\r\n\r\n").await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nDate: then\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!(old.rest().await, "HTTP/1.1 200 OK\r\nDate: then\r\nx-request-id: i\r\nconnection: close\r\n\r\nabc");
}

#[tokio::test]
async fn ten_megabytes_go_out_and_come_back_at_the_same_time() {
    const BYTES: usize = 10 << 20;
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let client = RawStream::to(gateway).await;
    let (mut read, mut write) = client.0.into_split();
    let upload = tokio::spawn(async move {
        let head = format!("POST /api HTTP/1.1\r\nHost: g\r\nContent-Length: {BYTES}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        for at in 0..BYTES / 1024 {
            write.write_all(&[at as u8; 1024]).await.unwrap();
        }
        write
    });
    // It echoes what it reads before it has read everything.
    let mut upstream = server.accept().await;
    assert!(upstream.head().await.contains(&format!("\r\ncontent-length: {BYTES}\r\n")));
    upstream.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n")).await;
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = upstream.0.split();
        tokio::io::copy(&mut (&mut read).take(BYTES as u64), &mut write).await.unwrap();
        upstream
    });
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(read.read_u8().await.unwrap());
    }
    let mut body = vec![0; BYTES];
    timeout(PATIENCE, read.read_exact(&mut body)).await.expect("all of it").unwrap();
    assert!(body.iter().enumerate().all(|(at, byte)| *byte == (at / 1024) as u8));
    upload.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn prefixes_lead_to_servers() {
    let cluster = Cluster::start();
    let stripped = Server::join_with(&cluster, json!({ "prefixes": ["/api/v2"], "strip": true })).await;
    let all = Server::join(&cluster, &["/"]).await;
    let port = all.listener.local_addr().unwrap().port();
    let _all = all.answer_with_port();
    let gateway = cluster.gateway().await;
    eventually("all is known", async || request(gateway, "GET", "/x", "").await.status == 200).await;
    assert_eq!(request(gateway, "GET", "/api/v1", "").await.body, format!("{port:5}"));
    for (path, seen) in [("/api/v2/x?y", "/x?y"), ("/api/v2?y", "/?y"), ("/api/v2/", "/"), ("/api/v2/%2e/a", "/a")] {
        let asked = tokio::spawn(async move { request(gateway, "GET", path, "").await });
        let mut upstream = stripped.accept().await;
        assert!(upstream.head().await.starts_with(&format!("GET {seen} HTTP/1.1\r\n")), "{path}");
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(asked.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn requests_alternate_between_servers_that_come_and_go() {
    let cluster = Cluster::start();
    let mut registered = Vec::new();
    for _ in 0..2 {
        registered.push(Server::join(&cluster, &["/api"]).await.answer_with_port().unwrap());
    }
    let gateway = cluster.gateway().await;
    eventually("it is known", async || request(gateway, "GET", "/api", "").await.status == 200).await;
    let mut client = HttpClient::connect(gateway).await;
    let mut ports = Vec::new();
    for _ in 0..10 {
        ports.push(client.request("GET", "/api", "").await.unwrap().body);
    }
    assert!(ports.windows(2).all(|two| two[0] != two[1]), "{ports:?}");
    registered.clear();
    eventually("the last has left", async || client.request("GET", "/api", "").await.unwrap().status == 503).await;
    assert_eq!(client.request("GET", "/api", "").await.unwrap().problem(), "no_provider");
    assert_eq!(client.request("GET", "/other", "").await.unwrap().status, 404);
    let _back = Server::join(&cluster, &["/api"]).await.answer_with_port();
    eventually("one is back", async || client.request("GET", "/api", "").await.unwrap().status == 200).await;
}

#[tokio::test]
async fn gh10_leave_to_send_a_body_is_given_once_a_server_takes_it() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    client.send("POST /nowhere HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    let refused = client.rest().await;
    assert!(refused.starts_with("HTTP/1.1 404 ") && refused.contains("connection: close\r\n"), "{refused}");
    let mut client = RawStream::to(gateway).await;
    let expects = "X-Request-Id: i\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    client.send(&format!("POST /api HTTP/1.1\r\nHost: g\r\n{expects}")).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    assert_eq!(upstream.read_to("abc").await, "abc");
    upstream.send("HTTP/1.1 204 No Content\r\nDate: d\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 204 No Content\r\nDate: d\r\nx-request-id: i\r\n\r\n");
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_that_outlives_its_registration() {
    let (_cluster, gateway, mut server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k";
    client.send(&format!("GET /api/chat HTTP/1.1\r\nHost: g\r\n{upgrade}\r\n\r\nearly")).await;
    let mut upstream = server.accept().await;
    let head = upstream.head().await;
    assert!(head.contains("\r\nSec-WebSocket-Key: k\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"), "{head}");
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\r\nhello").await;
    let head = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(client.head().await, head);
    assert_eq!(client.read_to("hello").await, "hello");
    assert_eq!(upstream.read_to("early").await, "early");
    server.registered = None;
    eventually("it is gone", async || request(gateway, "GET", "/api", "").await.status == 503).await;
    for text in ["one", "two"] {
        client.send(text).await;
        assert_eq!(upstream.read_to(text).await, text);
        upstream.send(text).await;
        assert_eq!(client.read_to(text).await, text);
    }
    drop(client);
    assert_eq!(upstream.rest().await, "");
}

#[tokio::test]
async fn gh4_a_server_that_wants_another_websocket_says_so() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    client.send("GET /api HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    let more = "Date: d\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n";
    upstream
        .send(&format!("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{more}"))
        .await;
    let head = client.head().await;
    assert!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
}

#[tokio::test]
async fn gh4_only_a_websocket_is_a_tunnel() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    let second = "GET /api/2 HTTP/1.1\r\nHost: g\r\n\r\n";
    client
        .send(&format!("GET /api/1 HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n{second}"))
        .await;
    let mut upstream = server.accept().await;
    assert!(!upstream.head().await.to_lowercase().contains("upgrade"));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1").await;
    assert!(upstream.head().await.starts_with("GET /api/2 "));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2").await;
    assert!(client.read_to("\r\n\r\n1").await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(client.read_to("\r\n\r\n2").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn servers_in_node_js_join_by_a_few_lines_and_a_deploy_costs_no_request() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let start = async |prefix: &str| {
        let (file, distributor) = (example("web.js"), cluster.address.to_string());
        let arguments = [file.to_str().unwrap(), "--port", "0", "--distributor", &distributor, "--prefix", prefix];
        let server = Process::start("node", &arguments);
        server.line("registered as web").await;
        server
    };
    let gateway = cluster.gateway().await;
    let front = start("/").await;
    let mut old = start("/api").await;
    let answers = async |path: &str, server: &Process| {
        let response = request(gateway, "GET", path, "").await;
        response.status == 200 && response.json()["pid"] == json!(server.pid().as_raw_nonzero().get())
    };
    eventually("the longest prefix", async || answers("/api/x", &old).await).await;
    eventually("and all else", async || answers("/apix", &front).await).await;
    // A deploy: the next version starts, and the earlier one leaves.
    let mut clients = Vec::new();
    let (done, _) = tokio::sync::watch::channel(false);
    for _ in 0..8 {
        let is_done = done.subscribe();
        clients.push(tokio::spawn(async move {
            let (mut client, mut count) = (HttpClient::connect(gateway).await, 0);
            while !*is_done.borrow() {
                let response = client.request("POST", "/api/x", "{}").await.expect("the connection stays");
                assert_eq!(response.status, 200, "{response:?}");
                count += 1;
            }
            count
        }));
    }
    for _ in 0..3 {
        let next = start("/api").await;
        assert_eq!(std::mem::replace(&mut old, next).terminate().await.code(), Some(0));
    }
    done.send_replace(true);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    old.kill().await;
    // The other prefix does not answer this path.
    eventually("the last is gone", async || request(gateway, "GET", "/api/x", "").await.status == 503).await;
    let back = start("/api").await;
    eventually("one is back", async || answers("/api/x", &back).await).await;
    assert!(answers("/", &front).await);
}

#[tokio::test]
async fn a_file_names_fixed_servers_and_its_mistakes_are_named() {
    let cluster = Cluster::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let _ = Server { listener, registered: None }.answer_with_port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let (path, at) = (file.to_str().unwrap(), SocketAddr::from(([127, 0, 0, 1], tests::pick_port())));
    let text = format!(
        "listen = \"{at}\"\ndistributor = \"{}\"\n[[route]]\nprefix = \"/old\"\nservers = [\"127.0.0.1:1\", \"{server}\"]\n",
        cluster.address
    );
    std::fs::write(&file, &text).unwrap();
    let check = async |expected: &str, code: i32| {
        let mut check = Process::start(GATEWAY, &["check", path]);
        assert_eq!(check.ended().await.code(), Some(code));
        check.line(expected).await;
    };
    check("is fine; it has 1 routes, and names 2 servers", 0).await;
    let gateway = Process::start(GATEWAY, &["--config", path]);
    gateway.line("listening").await;
    for _ in 0..4 {
        assert_eq!(request(at, "POST", "/old/x", "{}").await.body, format!("{:5}", server.port()));
    }
    assert_eq!(request(at, "GET", "/new", "").await.status, 404);
    assert_eq!(gateway.terminate().await.code(), Some(0));
    std::fs::write(&file, text.replace("distributor", "distributer")).unwrap();
    check(&format!("{path}:2:1: unknown key `distributer`; did you mean `distributor`?"), 2).await;
    let mut broken = Process::start(GATEWAY, &["--config", path]);
    assert_eq!(broken.ended().await.code(), Some(2));
    broken.line("did you mean `distributor`?").await;
}

#[tokio::test]
async fn gh7_a_body_that_comes_too_slowly_is_given_up() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    client.send("POST /api HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\nx").await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    // The server has half a minute for its answer, and the client five seconds for the first
    // kilobyte.
    let told = client.rest().await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("/problems/slow_body"), "{told}");
    assert_eq!(upstream.rest().await, "x");
}

#[tokio::test]
async fn gh8_nothing_is_read_for_a_client_that_does_not_read() {
    let cluster = Cluster::start();
    let server = Server::join(&cluster, &["/api"]).await;
    let config = Config { write_timeout: Duration::from_millis(500), ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    while try_request(gateway).await.starts_with("HTTP/1.1 404") {}
    while timeout(Duration::from_millis(50), server.listener.accept()).await.is_ok() {}
    let mut client = RawStream::to(gateway).await;
    client.send("GET /api HTTP/1.1\r\nHost: g\r\n\r\n").await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let (mut sent, piece) = (0, vec![b'x'; 64 * 1024]);
    // It continues until the gateway closes the client.
    while timeout(PATIENCE, upstream.0.write_all(&piece)).await.expect("the end").is_ok() {
        sent += piece.len();
    }
    // No more than both systems hold for two connections.
    assert!(sent < 64 << 20, "{sent}");
}
