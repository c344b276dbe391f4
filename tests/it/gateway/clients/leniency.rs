//! Liberal with servers, strict with clients: what a server may say in many ways, and how a client
//! may end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use gateway::{Config, FixedServer, RouteConfig};
use node_sdk::{Node, Params, ServiceError};
use serde_json::{Value, json};
use tests::http2::{self, connect, head};
use tests::streams::offers;
use tests::{Cluster, HttpClient, PATIENCE, RawStream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// A gateway before a server that the test plays.
struct GatewayScene {
    gateway: SocketAddr,
    listener: TcpListener,
    _cluster: Cluster,
}

impl GatewayScene {
    async fn new() -> Self {
        let cluster = Cluster::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let servers = vec![FixedServer { address: listener.local_addr().unwrap().into(), weight: 100 }];
        let routes = vec![RouteConfig { servers, ..RouteConfig::new(vec!["/".to_owned()]) }];
        let gateway = cluster.gateway_with(Config { routes, h2c: true, ..Config::default() }).await;
        Self { gateway, listener, _cluster: cluster }
    }

    async fn client(&self, request: &str) -> RawStream {
        let mut client = RawStream::to(self.gateway).await;
        client.send(request).await;
        client
    }

    async fn accept(&self) -> RawStream {
        RawStream(timeout(PATIENCE, self.listener.accept()).await.expect("a connection").unwrap().0)
    }
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: g\r\n\r\n";

/// The response that a client reads when it sends `GET`, and the server sends this and closes: the
/// head without its date and id, and the rest.
async fn answer(said: &str) -> (String, String) {
    let scene = GatewayScene::new().await;
    let mut client = scene.client("GET /x HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n").await;
    let mut behind = scene.accept().await;
    behind.head().await;
    behind.send(said).await;
    drop(behind);
    let all = client.rest().await;
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let lines =
        head.split("\r\n").filter(|line| !["date: ", "x-request-id: "].iter().any(|name| line.starts_with(name)));
    (lines.collect::<Vec<_>>().join("|"), body.to_owned())
}

#[tokio::test]
async fn a15_a_response_is_read_as_liberally_as_http_allows() {
    let check = async |said: &str, head: &str, body: &str| {
        let expected = (format!("{head}|connection: close"), body.to_owned());
        assert_eq!(answer(said).await, expected, "{said:?}");
    };
    let usual = "HTTP/1.1 200 OK|content-length: 2";
    check("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", usual, "ok").await;
    check("HTTP/1.1 200\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", usual, "ok").await;
    check("HTTP/1.0 200 OK\r\nContent-Length : 2, 2\r\n\r\nok", usual, "ok").await;
    check(
        "HTTP/1.1 200 OK\r\nX: a\r\n b\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK|X: a   b|content-length: 2",
        "ok",
    )
    .await;
    let chunked = "HTTP/1.1 200 OK|transfer-encoding: chunked";
    let chunks = "2\r\nok\r\n0\r\nX-Sum: s\r\n\r\n";
    check("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2  \nok\n0\nX-Sum: s\n\n", chunked, chunks).await;
    check("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", chunked, "2\r\nok\r\n0\r\n\r\n")
        .await;
    check("HTTP/1.1 200 OK\r\n\r\nok", chunked, "2\r\nok\r\n0\r\n\r\n").await;
    check("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 No Content", "").await;
    check(
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 304 Not Modified|Content-Length: 2",
        "",
    )
    .await;
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX Y: a\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let (head, body) = answer(bad).await;
        assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("bad_answer"), "{bad:?}: {head} {body}");
    }
}

#[tokio::test]
async fn a15_a_connection_on_which_a_body_may_follow_is_not_used_again() {
    let scene = GatewayScene::new().await;
    for said in [
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = scene.client(GET).await;
        let mut behind = scene.accept().await;
        behind.head().await;
        behind.send(said).await;
        client.head().await;
        assert_eq!(behind.rest().await, "", "{said}");
    }
}

#[tokio::test]
async fn a9_a_client_that_has_said_all_is_answered() {
    let scene = GatewayScene::new().await;
    let post = "POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc";
    for request in [GET, post, "GET /x HTTP/1.0\r\n\r\n", &GET.repeat(2)] {
        let mut client = scene.client(request).await;
        client.0.shutdown().await.unwrap();
        let mut told = String::new();
        for _ in 0..request.matches("HTTP/1.").count() {
            let mut behind = scene.accept().await;
            behind.head().await;
            // The end is seen while the server works, and the client asked whether it is there.
            let mut first = [0; 1];
            client.0.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"H");
            behind.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
            told = client.read_to("\r\n\r\nok").await;
            assert!(told.starts_with("TTP/1.1 200 OK\r\n"), "{request}: {told}");
        }
        assert_eq!(client.rest().await, "", "{told}");
    }
    // One that has not said all is not.
    let mut client = scene.client("POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nab").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a9_a_call_of_a_client_that_has_said_all_is_answered_and_of_one_that_is_gone_cancelled() {
    /// Works until it is dropped, or told a number.
    struct Works(Arc<AtomicUsize>);
    impl Drop for Works {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let cluster = Cluster::start();
    let (working, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
    let (count, wait) = (Arc::clone(&working), Arc::clone(&done));
    let work = move |Params(_): Params<Value>| {
        let (count, wait) = (Arc::clone(&count), Arc::clone(&wait));
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            let _works = Works(count);
            wait.notified().await;
            Ok::<_, ServiceError>(json!(7))
        }
    };
    let plain = async || Ok::<_, ServiceError>(1);
    let node = Node::builder("n")
        .public_routes()
        .route("GET/work", work.clone())
        .route("POST/work", work)
        .route("GET/plain", plain);
    let _node = cluster.node(node).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/plain").await;
    let post = "POST /work HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    // An idempotent request is dropped with its client, and any other is finished: B3.
    for (request, is_dropped) in [("GET /work HTTP/1.1\r\nHost: g\r\n\r\n", true), (post, false)] {
        let mut client = RawStream::to(gateway).await;
        client.send(request).await;
        client.0.shutdown().await.unwrap();
        eventually("it is called", async || working.load(Ordering::Relaxed) == 1).await;
        done.notify_one();
        let told = client.rest().await;
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n") && told.ends_with("\r\n\r\n7"), "{told}");
        let mut client = RawStream::to(gateway).await;
        client.send(request).await;
        eventually("it is called", async || working.load(Ordering::Relaxed) == 1).await;
        drop(client);
        if !is_dropped {
            done.notify_one();
        }
        eventually("it is cancelled, or done", async || working.load(Ordering::Relaxed) == 0).await;
    }
}

#[tokio::test]
async fn a22_a_server_is_told_at_once_that_the_client_has_left_its_quiet_stream() {
    let scene = GatewayScene::new().await;
    let events = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n";
    let open = async || {
        let mut client = scene.client(GET).await;
        let mut behind = scene.accept().await;
        behind.head().await;
        behind.send(events).await;
        client.read_to("\r\n\r\n5\r\ndata:\r\n").await;
        (client, behind)
    };
    // Gone before the head, and in mid stream.
    let client = scene.client(GET).await;
    let mut behind = scene.accept().await;
    behind.head().await;
    drop(client);
    assert_eq!(behind.rest().await, "");
    let (client, mut behind) = open().await;
    drop(client);
    assert_eq!(behind.rest().await, "");
    // A client that only says that it sends no more gets all that comes.
    let (mut client, mut behind) = open().await;
    client.0.shutdown().await.unwrap();
    let mut first = [0; 1];
    client.0.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"0", "a chunk's size may begin so");
    behind.send("11\r\n 1\n\ndata: 2\n\nlast\r\n").await;
    assert_eq!(client.read_to("last\r\n").await, "11\r\n 1\n\ndata: 2\n\nlast\r\n");
    behind.send("0\r\n\r\n").await;
    assert_eq!(client.rest().await, "0\r\n\r\n");
    // And goes later.
    let (mut client, mut behind) = open().await;
    client.0.shutdown().await.unwrap();
    client.0.read_exact(&mut first).await.unwrap();
    drop(client);
    assert_eq!(behind.rest().await, "", "when it is asked again");
}

#[tokio::test]
async fn a22_a_stream_of_a_node_ends_when_its_client_goes_and_not_when_it_has_said_all() {
    let cluster = Cluster::start();
    let working = Arc::new(AtomicUsize::new(0));
    let _node = cluster.node(offers("callee").shared_state(Arc::clone(&working))).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/plain").await;
    let mut client = RawStream::to(gateway).await;
    client.send("GET /forever HTTP/1.1\r\nHost: g\r\nAccept: text/event-stream\r\n\r\n").await;
    client.read_to("data: 1\n\n\r\n").await;
    client.0.shutdown().await.unwrap();
    let mut first = [0; 1];
    client.0.read_exact(&mut first).await.unwrap();
    assert_eq!((&first, working.load(Ordering::Relaxed)), (b"0", 1));
    drop(client);
    eventually("it is dropped at the node", async || working.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a17_a_server_gives_leave_to_send_a_body_or_refuses_it() {
    let scene = GatewayScene::new().await;
    let post = "POST /x HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let mut client = scene.client(post).await;
    let mut behind = scene.accept().await;
    let asked = behind.head().await;
    assert!(asked.contains("\r\nexpect: 100-continue\r\n"), "{asked}");
    behind.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    assert_eq!(behind.read_to("abc").await, "abc");
    behind.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.read_to("\r\n\r\nok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    // The connection of a client that has not sent its body is not used again, nor the server's.
    let mut client = scene.client(post).await;
    let mut behind = scene.accept().await;
    behind.head().await;
    behind.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    let told = client.rest().await;
    assert!(told.starts_with("HTTP/1.1 401 ") && told.ends_with("\r\n\r\nno"), "{told}");
    assert!(told.contains("connection: close\r\n") && !told.contains("100 Continue"), "{told}");
    assert_eq!(behind.rest().await, "");
    // A server that does not know the field still gets the body, and so does one whose client does
    // not wait.
    for sends_at_once in [false, true] {
        let mut client = scene.client(post).await;
        let mut behind = scene.accept().await;
        behind.head().await;
        if !sends_at_once {
            assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        }
        client.send("abc").await;
        assert_eq!(behind.read_to("abc").await, "abc");
        behind
            .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
        let told = client.read_to("\r\n\r\nok").await;
        let leave = if sends_at_once { 1 } else { 0 };
        assert_eq!(told.matches("HTTP/1.1 100 Continue\r\n\r\n").count(), leave, "{told}");
    }
    // HTTP/1.0 knows nothing of it either, and is not waited for.
    let mut client = scene.client(&post.replace("HTTP/1.1", "HTTP/1.0")).await;
    client.send("abc").await;
    let mut behind = scene.accept().await;
    assert!(!behind.head().await.contains("xpect"));
    assert_eq!(behind.read_to("abc").await, "abc");
}

#[tokio::test]
async fn a17_over_http2_a_server_gives_leave_too() {
    let scene = GatewayScene::new().await;
    let mut client = connect(scene.gateway).await;
    let post = || head("POST", "/x").header("expect", "100-continue").header("content-length", "3").body(()).unwrap();
    let (response, mut send) = client.send_request(post(), false).unwrap();
    let mut behind = scene.accept().await;
    assert!(behind.head().await.contains("\r\nexpect: 100-continue\r\n"));
    behind.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    send.send_data(Bytes::from_static(b"abc"), true).unwrap();
    assert_eq!(behind.read_to("abc").await, "abc");
    behind.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
    let (response, _send) = client.send_request(post(), false).unwrap();
    let mut behind = scene.accept().await;
    behind.head().await;
    behind.send("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 401);
    let odd = head("POST", "/x").header("expect", "x").body(()).unwrap();
    assert_eq!(http2::ask(&mut client, odd, &["abc"]).await.unwrap().0, 417);
}

#[tokio::test]
async fn a18_early_hints_are_passed_on() {
    let scene = GatewayScene::new().await;
    let said = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Own\r\nX-Own: 1\r\nContent-Length: 7\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let mut client = scene.client(GET).await;
    let mut behind = scene.accept().await;
    behind.head().await;
    behind.send(said).await;
    // Before the response is there.
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.head().await, "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(client.head().await, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
    behind.send(last).await;
    assert!(client.read_to("\r\n\r\nok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    // HTTP/1.0 has none.
    let mut client = scene.client("GET /x HTTP/1.0\r\n\r\n").await;
    let mut behind = scene.accept().await;
    behind.head().await;
    behind.send(&format!("{said}{last}")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 OK\r\n"));
    // But there is an end of them.
    let mut client = scene.client(GET).await;
    let mut behind = scene.accept().await;
    behind.head().await;
    behind.send(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17)).await;
    assert!(client.read_to("}").await.contains("HTTP/1.1 502 Bad Gateway\r\n"));
    // HTTP/2 has frames for them.
    let mut client = connect(scene.gateway).await;
    let (mut response, _) = client.send_request(head("GET", "/x").body(()).unwrap(), true).unwrap();
    let mut behind = scene.accept().await;
    behind.head().await;
    behind.send(said).await;
    for status in [100, 102, 103] {
        let interim = std::future::poll_fn(|task| response.poll_informational(task));
        let interim = timeout(PATIENCE, interim).await.unwrap().unwrap().unwrap();
        assert_eq!(interim.status(), status);
        let links = if status == 103 { 1 } else { 0 };
        assert_eq!((interim.headers().len(), interim.headers().get_all("link").iter().count()), (links, links));
    }
    behind.send(last).await;
    assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a19_a_path_tells_its_methods() {
    let cluster = Cluster::start();
    let plain = async || Ok::<_, ServiceError>(1);
    let node = Node::builder("n")
        .public_routes()
        .route("GET/goods/{id}", plain)
        .route("DELETE/goods/{id}", plain)
        .route("POST/orders", plain);
    let _node = cluster.node(node).await;
    let gateways = [Config { h2c: true, ..Config::default() }, Config { empty_404: true, ..Config::default() }];
    let [gateway, old] = gateways.map(|config| cluster.gateway_with(config));
    let (gateway, old) = (gateway.await, old.await);
    Cluster::wait_routed(gateway, "/goods/7").await;
    Cluster::wait_routed(old, "/goods/7").await;
    let mut client = HttpClient::connect(gateway).await;
    let mut check = async |method: &str, path: &str, status: u16, allow: Option<&str>| {
        let response = client.request(method, path, "").await.unwrap();
        assert_eq!((response.status, response.header("allow")), (status, allow), "{method} {path}");
        if status == 405 {
            assert_eq!(response.problem(), "method_not_allowed");
        }
    };
    let goods = Some("GET, HEAD, DELETE, OPTIONS");
    check("OPTIONS", "/goods/7", 204, goods).await;
    check("PUT", "/goods/7", 405, goods).await;
    check("OPTIONS", "/orders", 204, Some("POST, OPTIONS")).await;
    check("GET", "/orders", 405, Some("POST, OPTIONS")).await;
    check("OPTIONS", "/nothing", 404, None).await;
    check("PUT", "/nothing", 404, None).await;
    check("GET", "/goods/7", 200, None).await;
    assert_eq!(
        http2::ask(&mut connect(gateway).await, head("OPTIONS", "/orders").body(()).unwrap(), &[]).await.unwrap().1["allow"],
        "POST, OPTIONS"
    );
    // Version 1 gateways told no method from another.
    let response = HttpClient::connect(old).await.request("PUT", "/goods/7", "").await.unwrap();
    assert_eq!((response.status, &*response.body), (404, ""));
}

#[tokio::test]
async fn a19_the_head_of_a_stream_is_that_of_its_get() {
    let cluster = Cluster::start();
    let working = Arc::new(AtomicUsize::new(0));
    let _node = cluster.node(offers("callee").shared_state(Arc::clone(&working))).await;
    let gateway = cluster.gateway_with(Config { h2c: true, ..Config::default() }).await;
    Cluster::wait_routed(gateway, "/plain").await;
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let mut client = RawStream::to(gateway).await;
        let ask = |method: &str| format!("{method} /count?upto=2 HTTP/1.1\r\nHost: g\r\nAccept: {accept}\r\n\r\n");
        client.send(&ask("HEAD")).await;
        let told = client.head().await;
        assert!(
            told.starts_with("HTTP/1.1 200 OK\r\n") && told.contains(&format!("content-type: {accept}\r\n")),
            "{told}"
        );
        // It has no body, and the connection goes on.
        client.send(&ask("GET")).await;
        assert!(client.read_to("0\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
        let request = head("HEAD", "/count?upto=2").header("accept", accept).body(()).unwrap();
        let (status, fields, body, _) = http2::ask(&mut connect(gateway).await, request, &[]).await.unwrap();
        assert_eq!((status, fields["content-type"].to_str().unwrap(), body.len()), (200, accept, 0));
    }
    let mut client = RawStream::to(gateway).await;
    client.send("HEAD /count?upto=2 HTTP/1.1\r\nHost: g\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 406 "), "as GET");
}

#[tokio::test]
async fn a20_a_body_whose_end_comes_alone_is_none() {
    let scene = GatewayScene::new().await;
    let mut client = connect(scene.gateway).await;
    for (method, ends_late) in [("GET", false), ("GET", true), ("DELETE", true), ("HEAD", true)] {
        let (response, mut send) = client.send_request(head(method, "/x").body(()).unwrap(), false).unwrap();
        if ends_late {
            // The head has been read before the end comes: what is asked after it is answered.
            let options = head("OPTIONS", "/..").body(()).unwrap();
            assert_eq!(http2::ask(&mut client, options, &[]).await.unwrap().0, 400);
        }
        send.send_data(Bytes::new(), true).unwrap();
        let mut behind = scene.accept().await;
        let asked = behind.head().await;
        assert!(!asked.contains("transfer-encoding"), "{method}: {asked}");
        behind.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 204);
    }
    // A request that is lost on a connection that was used before is sent again.
    let mut behind = None;
    for is_again in [false, true] {
        let (response, mut send) = client.send_request(head("GET", "/x").body(()).unwrap(), false).unwrap();
        send.send_data(Bytes::new(), true).unwrap();
        let mut server = match behind.take() {
            Some(server) => server,
            None => scene.accept().await,
        };
        server.head().await;
        if is_again {
            drop(server);
            server = scene.accept().await;
            server.head().await;
        }
        server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 204);
        behind = Some(server);
    }
    drop(behind);
    // A body is one, also of a GET.
    let request = head("GET", "/x").body(()).unwrap();
    let asked = tokio::spawn(async move { http2::ask(&mut client, request, &["", "abc"]).await.unwrap().0 });
    let mut behind = scene.accept().await;
    assert!(behind.head().await.contains("\r\ntransfer-encoding: chunked\r\n"));
    assert_eq!(behind.read_to("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n");
    behind.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    assert_eq!(timeout(PATIENCE, asked).await.unwrap().unwrap(), 204);
    // HTTP/1.1 can say the same.
    let mut client = scene.client("GET /x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    let mut behind = scene.accept().await;
    assert!(!behind.head().await.contains("chunked"));
    behind.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    client.head().await;
}
