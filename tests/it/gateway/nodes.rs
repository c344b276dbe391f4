//! The front door, whatever clients and nodes do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway::Config;
use node_sdk::{Node, Params, ServiceError};
use serde_json::{Value, json};
use tests::{Cluster, HttpClient, Listener, Peer, Process, eventually, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node made of raw sockets that offers `GET/x` and `POST/x` in version 1.
struct RawNode {
    listener: Listener,
    registered: Peer,
}

impl RawNode {
    async fn join(cluster: &Cluster) -> Self {
        let listener = Listener::bind().await;
        let registered = Self::register(cluster, listener.port()).await;
        Self { listener, registered }
    }

    async fn register(cluster: &Cluster, port: u16) -> Peer {
        let mut registered = cluster.peer().await;
        registered.register_with(json!({ "port": port, "name": "raw", "urls": ["GET/x", "POST/x"] })).await;
        registered.list_with("raw").await;
        registered
    }

    /// Answers every call from now on.
    fn answer_all(self) {
        tokio::spawn(async move {
            let _registered = self.registered;
            loop {
                let mut caller = self.listener.accept().await;
                tokio::spawn(async move {
                    while let Some(call) = caller.next().await {
                        caller.send_packet(&answer(&call)).await;
                    }
                });
            }
        });
    }

    /// Breaks every connection on which a call comes, and counts the calls.
    fn reset_all(self, calls: Arc<AtomicUsize>) {
        tokio::spawn(async move {
            let _registered = self.registered;
            loop {
                let mut caller = self.listener.accept().await;
                let calls = Arc::clone(&calls);
                tokio::spawn(async move {
                    if caller.next().await.is_some() {
                        calls.fetch_add(1, Ordering::Relaxed);
                        caller.reset();
                    }
                });
            }
        });
    }
}

fn answer(call: &Value) -> Value {
    json!({ "key": call["params"]["key"], "errorcode": 0, "errormessage": "success", "results": call["params"]["n"] })
}

/// The gateway's request, sent in the background.
fn ask(gateway: std::net::SocketAddr, path: &'static str) -> tokio::task::JoinHandle<tests::HttpResponse> {
    tokio::spawn(async move { request(gateway, "GET", path, "").await })
}

#[tokio::test]
async fn a_call_to_an_old_node_has_the_key_in_both_places_and_params() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let mut connection = None;
    for (method, path, body, params) in [
        ("GET", "/x", "", json!({})),
        ("GET", "/x?a=1&a=2&key=mine&b=%C2%B6", "", json!({ "a": ["1", "2"], "b": "¶" })),
        ("POST", "/x?ignored=1", r#"{"a": [1, {"b": null}]}"#, json!({ "a": [1, { "b": null }] })),
        ("POST", "/x", "", json!({})),
    ] {
        let (method, path) = (method.to_owned(), path.to_owned());
        let response =
            tokio::spawn(async move { HttpClient::connect(gateway).await.request(&method, &path, body).await });
        if connection.is_none() {
            connection = Some(node.listener.accept().await);
        }
        let caller = connection.as_mut().unwrap();
        let mut call = caller.next().await.unwrap();
        let key = call["key"].clone();
        assert_eq!(call["params"].as_object_mut().unwrap().remove("key"), Some(key.clone()));
        assert_eq!((&call["uri"], &call["params"], call.get("$")), (&json!("/x"), &params, None));
        caller.send(format!(r#"{{"key":"{key}","errorcode":0,"errormessage":"success","userid":7}}¶"#)).await;
        let response = response.await.unwrap().unwrap();
        assert_eq!(
            response.json(),
            json!({ "key": key.to_string(), "errorcode": 0, "errormessage": "success", "userid": 7 })
        );
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    }
}

async fn double(Params(params): Params<Value>) -> Result<Value, ServiceError> {
    match params["n"].as_i64().or_else(|| params["n"].as_str()?.parse().ok()) {
        Some(n) => Ok(json!({ "double": n * 2 })),
        None => Err(ServiceError::new(422, "no_number", "n must be a number")),
    }
}

async fn item(Params(params): Params<Value>) -> Result<Value, ServiceError> {
    Ok(params)
}

async fn panics() -> Result<(), ServiceError> {
    panic!("on purpose")
}

#[tokio::test]
async fn answers_of_our_nodes_become_responses() {
    let cluster = Cluster::start();
    let node = Node::builder("math")
        .route("GET/double", double)
        .route("POST/double", double)
        .route("GET/items/{id}/{part}", item)
        .route("GET/상품/{id}", item)
        .route("GET/panics", panics);
    let _node = cluster.node(node).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    for (method, path, body, status, expected) in [
        ("GET", "/double?n=4", "", 200, json!({ "double": 8 })),
        ("POST", "/double", r#"{"n":5}"#, 200, json!({ "double": 10 })),
        ("GET", "/items/%ED%95%9C%3F/b?id=mine&x=1", "", 200, json!({ "id": "한?", "part": "b", "x": "1" })),
        ("GET", "//items/./x/../%ed%95%9c/b", "", 200, json!({ "id": "한", "part": "b" })),
        ("GET", "/items/a%2Fb/c", "", 400, json!("bad_path")),
        ("GET", "/%EC%83%81%ED%92%88/%EA%B0%80%201", "", 200, json!({ "id": "가 1" })),
        ("GET", "/double?n=x", "", 422, json!("no_number")),
        ("GET", "/panics", "", 500, json!("internal")),
        ("GET", "/nowhere", "", 404, json!("no_route")),
        ("DELETE", "/double", "", 404, json!("no_route")),
        ("POST", "/double", "{", 400, json!("bad_json")),
        ("POST", "/double", "[]", 400, json!("bad_json")),
    ] {
        let mut client = HttpClient::connect(gateway).await;
        let response = client.request(method, path, body).await.unwrap();
        let seen = if status == 200 { response.json() } else { json!(response.problem()) };
        assert_eq!((response.status, seen), (status, expected), "{method} {path}");
    }
}

#[tokio::test]
async fn what_has_get_has_head() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("math").route("GET/double", double)).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(b"HEAD /double?n=4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "no body: {answer}");
    assert!(answer.contains("content-length: 12\r\n"), "the length that GET's would have: {answer}");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("math").route("POST/double", double).route("GET/double", double)).await;
    let config = Config { max_body_bytes: 1000, request_timeout: Duration::from_millis(500), ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let post = |length: usize, media_type: &str, body: &str| {
        format!(
            "POST /double HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let json_of = |bytes: usize| format!("{{\"n\":1{}}}", " ".repeat(bytes - 7));
    for (raw, status, kind) in [
        (post(1000, "application/json", &json_of(1000)), 200, ""),
        (post(1001, "application/json", &json_of(1001)), 413, "body_too_large"),
        (post(5, "text/plain", "hello"), 415, "unsupported_media_type"),
        (post(10, "application/json", "{"), 408, "slow_body"),
        ("GET /double?n=1 HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_host"),
        ("GET /double?n=1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, "bad_host"),
        (
            "POST /double HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\nn=4".to_owned(),
            200,
            "",
        ),
    ] {
        let response = HttpClient::connect(gateway).await.raw(raw.as_bytes()).await.unwrap();
        assert_eq!(response.status, status, "{raw}");
        if status != 200 {
            assert_eq!(response.problem(), kind);
        }
    }
}

#[tokio::test]
async fn clients_that_are_slow_or_idle_are_closed_and_others_are_not() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("math").route("GET/double", double)).await;
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

#[tokio::test]
async fn old_clients_may_have_their_empty_404() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway_with(Config { empty_404: true, ..Config::default() }).await;
    let response = request(gateway, "GET", "/nowhere", "").await;
    assert_eq!((response.status, response.body.as_str()), (404, ""));
}

/// One of two nodes registers a port where nobody can be reached; no call fails, whatever its method.
async fn check_passed_over(port: u16) {
    let cluster = Cluster::start();
    let _unreachable = RawNode::register(&cluster, port).await;
    RawNode::join(&cluster).await.answer_all();
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/x").await;
    for _ in 0..20 {
        assert_eq!(request(gateway, "POST", "/x", "{}").await.status, 200);
    }
}

#[tokio::test]
async fn gu1_a_node_that_refuses_is_passed_over() {
    check_passed_over(tests::pick_port()).await;
}

#[tokio::test]
async fn gu2_a_node_in_a_black_hole_is_passed_over() {
    let (_socket, port, _fillers) = Listener::black_hole().await;
    check_passed_over(port).await;
}

#[tokio::test]
async fn gu3_gu5_an_answer_that_comes_too_late_is_nobodys() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway =
        cluster.gateway_with(Config { request_timeout: Duration::from_millis(300), ..Config::default() }).await;
    let late = ask(gateway, "/x?n=late");
    let mut caller = node.listener.accept().await;
    let first = caller.next().await.unwrap();
    let response = late.await.unwrap();
    assert_eq!((response.status, response.problem()), (504, "deadline".to_owned()));
    let next = ask(gateway, "/x?n=next");
    let second = caller.next().await.expect("the connection is the same: only that call was given up");
    caller.send_packet(&answer(&first)).await;
    caller.send_packet(&answer(&second)).await;
    assert_eq!(next.await.unwrap().json()["results"], "next");
}

#[tokio::test]
async fn gu6_keys_that_nobody_waits_for_are_ignored() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let first = ask(gateway, "/x?n=first");
    let mut caller = node.listener.accept().await;
    let call = caller.next().await.unwrap();
    caller.send("{\"key\":999}¶{\"key\":\"x\"}¶{}¶[]¶nonsense¶¶{\"key\":-1}¶{\"uri\":\"/x\"}¶").await;
    caller.send_packet(&answer(&call)).await;
    caller.send_packet(&answer(&call)).await;
    assert_eq!(first.await.unwrap().json()["results"], "first");
    let second = ask(gateway, "/x?n=second");
    caller.send_packet(&answer(&call)).await;
    let call = caller.next().await.unwrap();
    caller.send_packet(&answer(&call)).await;
    assert_eq!(second.await.unwrap().json()["results"], "second");
}

#[tokio::test]
async fn a_bare_null_is_the_answer_to_the_only_call() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let response = ask(gateway, "/x");
    let mut caller = node.listener.accept().await;
    caller.next().await.unwrap();
    caller.send("null¶").await;
    assert_eq!(response.await.unwrap().problem(), "method_not_known");
}

#[tokio::test]
async fn gu8_gu9_a_call_that_may_have_been_carried_out_is_not_made_twice() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let post = tokio::spawn(async move { request(gateway, "POST", "/x", r#"{"n":1}"#).await });
    let mut caller = node.listener.accept().await;
    let call = caller.next().await.unwrap();
    let half = answer(&call).to_string();
    caller.send(&half[..half.len() / 2]).await;
    caller.reset();
    let response = post.await.unwrap();
    assert_eq!((response.status, response.problem()), (502, "node_lost".to_owned()));
    // An idempotent one is tried once more where there is another, and no third time.
    let calls = Arc::new(AtomicUsize::new(0));
    for raw in [node, RawNode::join(&cluster).await, RawNode::join(&cluster).await] {
        raw.reset_all(Arc::clone(&calls));
    }
    let response = request(gateway, "GET", "/x?n=2", "").await;
    assert_eq!((calls.load(Ordering::Relaxed), response.problem()), (2, "node_lost".to_owned()));
}

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

#[tokio::test]
async fn gu10_one_of_three_leaves_and_nobody_notices() {
    let cluster = Cluster::start();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(cluster.node(Node::builder("hello").route("POST/hello", hello).route("GET/hello", hello)).await);
    }
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/hello").await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(tokio::spawn(async move {
            let mut client = HttpClient::connect(gateway).await;
            for _ in 0..300 {
                assert_eq!(client.request("POST", "/hello", "{}").await.unwrap().status, 200);
            }
        }));
    }
    assert_eq!(nodes.pop().unwrap().stop().await, 0);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn gu11_gone_is_503_and_never_there_is_404() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway().await;
    assert_eq!(request(gateway, "GET", "/hello", "").await.problem(), "no_route");
    for _ in 0..2 {
        let node = cluster.node(Node::builder("hello").route("GET/hello", hello)).await;
        assert_eq!(Cluster::wait_routed(gateway, "/hello").await.status, 200);
        node.stop().await;
        eventually("the gateway has heard", async || request(gateway, "GET", "/hello", "").await.status != 200).await;
        let response = request(gateway, "GET", "/hello", "").await;
        assert_eq!((response.status, response.problem()), (503, "no_provider".to_owned()));
        assert_eq!(response.header("retry-after"), Some("3"));
    }
}

#[tokio::test]
async fn gu19_what_a_client_no_longer_waits_for_is_not_sent() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    // Two such calls do not fit into what an old node can read at once, so the second waits for the first's answer.
    let big = |n: &str| json!({ "n": n, "x": "x".repeat(40_000) }).to_string();
    let first = big("first");
    let first = tokio::spawn(async move { request(gateway, "POST", "/x", &first).await });
    let mut caller = node.listener.accept().await;
    let call = caller.next().await.unwrap();
    let abandoned = big("abandoned");
    let mut client = HttpClient::connect(gateway).await;
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        abandoned.len()
    );
    client.send(format!("{head}{abandoned}").as_bytes()).await;
    let last = big("last");
    let last = tokio::spawn(async move { request(gateway, "POST", "/x", &last).await });
    // The gateway has read both when it has answered something that came after them.
    for _ in 0..20 {
        request(gateway, "GET", "/nowhere", "").await;
    }
    drop(client);
    for _ in 0..20 {
        request(gateway, "GET", "/nowhere", "").await;
    }
    caller.send_packet(&answer(&call)).await;
    assert_eq!(first.await.unwrap().json()["results"], "first");
    let call = caller.next().await.unwrap();
    assert_eq!(call["params"]["n"], "last", "the one in between was taken back");
    caller.send_packet(&answer(&call)).await;
    assert_eq!(last.await.unwrap().status, 200);
}

#[tokio::test]
async fn an_old_node_is_never_given_more_than_it_can_read() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let too_large = json!({ "x": "x".repeat(66_000) }).to_string();
    assert_eq!(request(gateway, "POST", "/x", &too_large).await.problem(), "too_large_for_node");
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let body = json!({ "n": n, "x": "x".repeat(5_000) }).to_string();
            tokio::spawn(async move { request(gateway, "POST", "/x", &body).await })
        })
        .collect();
    let mut caller = node.listener.accept().await;
    for _ in 0..50 {
        let call = caller.next().await.unwrap();
        assert!(caller.unread() <= 65_536, "{} bytes lie before it", caller.unread());
        caller.send_packet(&answer(&call)).await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
}

/// Everything that comes on a connection which is asked this, until it ends.
async fn told(gateway: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut told)).await.expect("the end").unwrap();
    told
}

#[tokio::test]
async fn gh1_gh5_nothing_follows_what_makes_no_sense() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("math").route("GET/double", double).route("POST/double", double)).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let good = "GET /double?n=1 HTTP/1.1\r\nHost: g\r\n\r\n";
    for (bad, statuses) in [
        ("GET /double?n=1 HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "200 400"),
        ("GET /double?n=1 HTTP/1.1\nHost: g\n\n", "200 400"),
        ("POST /double HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", "200 400"),
        ("TRACE / HTTP/1.1\r\nHost: g\r\n\r\n", "200 405"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "200 505"),
        // What is asked for beside it is passed over.
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
async fn gh3_a_body_that_nobody_wants_is_passed_over_or_ends_the_connection() {
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
async fn gh9_whoever_has_been_idle_for_longest_makes_room() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("n").route("GET/double", double)).await;
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
    // The first asks again, so the second has been idle for longest.
    assert_eq!(clients[0].request("GET", "/double?n=1", "").await.unwrap().status, 200);
    let mut another = HttpClient::connect(gateway).await;
    assert_eq!(another.request("GET", "/double?n=2", "").await.unwrap().status, 200);
    assert_eq!(clients[1].request("GET", "/double?n=1", "").await, None, "it has made room");
    for at in [0, 2] {
        assert_eq!(clients[at].request("GET", "/double?n=1", "").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn gh29_operators_have_a_door_of_their_own() {
    const GATEWAY: &str = env!("CARGO_BIN_EXE_gateway_process");
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
    let _node = cluster.node(Node::builder("math").route("GET/double", double)).await;
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
    // The public has no part in it.
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(client.request("GET", path, "").await.unwrap().problem(), "no_route");
    }
    // Whoever asks for a port that is taken is told; the usual one is not worth a front door.
    let other = format!("127.0.0.1:{}", tests::pick_port());
    let mut taken = Process::start(GATEWAY, &["--listen", &other, "--admin", &asked, "--distributor", &address]);
    assert_eq!(taken.ended().await.code(), Some(3));
    drop(client);
    assert_eq!(gateway.terminate().await.code(), Some(0));
}
