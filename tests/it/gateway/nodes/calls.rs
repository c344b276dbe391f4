//! Requests that become calls to nodes, and answers that become responses.

use std::time::Duration;

use futures::{Stream, TryStreamExt, stream};
use gateway::{Config, FixedServer, ParamSource, ParamsTemplate, RouteConfig};
use node_sdk::{CallError, Node, Params, Path, Peers, ServiceError, Streaming};
use serde_json::{Value, json};
use tests::{Cluster, CountingServer, HttpClient, Listener, RawNode, answer_to, request, spawn_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::double;

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
        .public_routes()
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
        ("DELETE", "/double", "", 405, json!("method_not_allowed")),
        ("POST", "/double", "{", 400, json!("bad_json")),
        ("POST", "/double", "[]", 422, json!("no_number")),
    ] {
        let mut client = HttpClient::connect(gateway).await;
        let response = client.request(method, path, body).await.unwrap();
        let seen = if status == 200 { response.json() } else { json!(response.problem()) };
        assert_eq!((response.status, seen), (status, expected), "{method} {path}");
    }
}

/// Each error of a call that a handler may have made; they name an inner service.
fn inner_errors() -> Vec<CallError> {
    let url = || "GET/vault/7".to_owned();
    let source = || serde_json::from_str::<u8>("\"vault\"").unwrap_err();
    let refused = |status, reason: &str| CallError::Refused {
        status,
        reason: reason.to_owned(),
        message: "this is vault at 10.11.12.13".to_owned(),
        retry_after: None,
    };
    let mut errors = vec![
        CallError::NoRoute { url: url() },
        CallError::BadUrl { url: url(), reason: "vault" },
        CallError::OutsideInterests { url: url() },
        CallError::NotAsked { url: url(), reason: "vault" },
        CallError::NoList { url: url() },
        CallError::NoProvider { url: url() },
        CallError::Overloaded { url: url() },
        CallError::TooLarge { url: url() },
        CallError::Deadline { url: url(), within: Duration::from_millis(4987) },
        CallError::Lost { url: url(), node: "10.11.12.13:9050".parse().unwrap() },
        CallError::Ended { url: url() },
        CallError::Response { url: url(), source: source() },
        CallError::Params { url: url(), source: source() },
    ];
    errors.extend([400, 401, 404, 409, 429, 500, 502, 503, 504, 508].map(|status| refused(status, "vault_word")));
    // A new variant needs a line above.
    for error in &errors {
        match error {
            CallError::NoRoute { .. }
            | CallError::BadUrl { .. }
            | CallError::OutsideInterests { .. }
            | CallError::NotAsked { .. }
            | CallError::NoList { .. }
            | CallError::NoProvider { .. }
            | CallError::Overloaded { .. }
            | CallError::TooLarge { .. }
            | CallError::Deadline { .. }
            | CallError::Lost { .. }
            | CallError::Ended { .. }
            | CallError::Refused { .. }
            | CallError::Response { .. }
            | CallError::Params { .. } => {}
        }
    }
    errors
}

#[tokio::test]
async fn f6_a_browser_sees_no_inner_address() {
    async fn fail(Path(at): Path<usize>) -> Result<(), ServiceError> {
        Err(inner_errors().swap_remove(at).into())
    }
    async fn fail_later(Path(at): Path<usize>) -> Result<Streaming<impl Stream<Item = Parts>>, ServiceError> {
        let error = Err(inner_errors().swap_remove(at));
        Ok(Streaming(stream::iter([Ok(1), error]).map_err(ServiceError::from)))
    }
    async fn call_nobody(peers: Peers) -> Result<(), ServiceError> {
        Ok(peers.call("GET/vault/7", &()).await?)
    }
    async fn call_vault(peers: Peers) -> Result<u8, ServiceError> {
        Ok(peers.call("GET/vault/open", &()).await?)
    }
    async fn ready() -> Result<(), ServiceError> {
        Ok(())
    }
    async fn open() -> Result<&'static str, ServiceError> {
        Err(ServiceError::not_found("vault_word", "this is vault at 10.11.12.13"))
    }
    type Parts = Result<u8, ServiceError>;
    let cluster = Cluster::start();
    let _vault = cluster.node(Node::builder("vault").route("GET/vault/open", open)).await;
    let node = Node::builder("front").public_routes().route("GET/fail/{at}", fail).route("GET/stream/{at}", fail_later);
    let node =
        cluster.node(node.route("GET/nobody", call_nobody).route("GET/called", call_vault).route("GET/a", ready)).await;
    node.peers().wait_for(&["GET/vault/open"]).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/a").await;
    let check = async |path: &str, is_whole: bool| {
        // An id that is made may hold any digits.
        let fields = "Host: shop\r\nX-Request-Id: i\r\nAccept: application/x-ndjson\r\nConnection: close";
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A stream that fails is cut.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let is_error = matches!(status, "429" | "500" | "502" | "503" | "504" | "508");
        assert_eq!(is_error, is_whole, "{path}: the client has made no mistake: {answer}");
        let seen = answer.replace(path, "");
        for secret in ["vault", "GET/", "10.11", "9050", "127.0.0.1", "4987", "4.9"] {
            assert!(!seen.contains(secret), "{path}: {secret}: {seen}");
        }
    };
    for at in 0..inner_errors().len() {
        check(&format!("/fail/{at}"), true).await;
        check(&format!("/stream/{at}"), false).await;
    }
    check("/nobody", true).await;
    check("/called", true).await;
}

#[tokio::test]
async fn a_route_with_get_has_head() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("math").public_routes().route("GET/double", double)).await;
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
async fn faults_of_a_request_are_named() {
    let cluster = Cluster::start();
    let _node = cluster
        .node(Node::builder("math").public_routes().route("POST/double", double).route("GET/double", double))
        .await;
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
async fn old_clients_may_have_their_empty_404() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway_with(Config { empty_404: true, ..Config::default() }).await;
    let response = request(gateway, "GET", "/nowhere", "").await;
    assert_eq!((response.status, response.body.as_str()), (404, ""));
}

#[tokio::test]
async fn a_bare_null_is_the_answer_to_the_only_call() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let response = spawn_request(gateway, "/x");
    let mut caller = node.listener.accept().await;
    caller.next().await.unwrap();
    caller.send("null¶").await;
    assert_eq!(response.await.unwrap().problem(), "method_not_known");
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
        caller.send_packet(&answer_to(&call)).await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn e6_an_old_node_that_says_that_it_reads_more_is_given_more() {
    let cluster = Cluster::start();
    let listener = Listener::bind().await;
    let mut registered = cluster.peer().await;
    let params = json!({ "port": listener.port(), "name": "raw", "urls": ["POST/x"], "readWindow": 100_000 });
    registered.register_with(params).await;
    registered.list_with("raw").await;
    let gateway = cluster.gateway().await;
    for (bytes, fits) in [(90_000, true), (110_000, false)] {
        let body = json!({ "n": bytes, "x": "x".repeat(bytes) }).to_string();
        let response = tokio::spawn(async move { request(gateway, "POST", "/x", &body).await });
        if !fits {
            assert_eq!(response.await.unwrap().problem(), "too_large_for_node");
            return;
        }
        let mut caller = listener.accept().await;
        let call = caller.next().await.unwrap();
        caller.send_packet(&answer_to(&call)).await;
        assert_eq!(response.await.unwrap().json()["results"], bytes);
    }
}

/// A route of the configuration.
fn route(prefix: &str, change: impl FnOnce(&mut RouteConfig)) -> Config {
    let mut route = RouteConfig::new(vec![prefix.to_owned()]);
    change(&mut route);
    Config { routes: vec![route], ..Config::default() }
}

fn to(server: &CountingServer) -> Vec<FixedServer> {
    vec![FixedServer { address: server.address.into(), weight: 100 }]
}

#[tokio::test]
async fn e3_a_route_can_keep_requests_off_the_nodes() {
    let cluster = Cluster::start();
    let node = Node::builder("math").public_routes().route("GET/double", double).route("GET/a/double", double);
    let _node = cluster.node(node).await;
    let server = CountingServer::start().await;
    let mut config = route("/double", |route| {
        route.nodes = false;
        route.servers = to(&server);
    });
    let mut none = RouteConfig::new(vec!["/a".to_owned()]);
    none.nodes = false;
    config.routes.push(none);
    let gateway = cluster.gateway_with(config).await;
    for _ in 0..20 {
        let response = request(gateway, "GET", "/double?n=2", "").await;
        assert!(response.body.contains("/double?n=2"), "the server says what it was asked: {}", response.body);
        assert_eq!(request(gateway, "GET", "/a/double?n=2", "").await.problem(), "no_route");
    }
}

#[tokio::test]
async fn e3_a_gateway_may_have_no_distributor() {
    let server = CountingServer::start().await;
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gateway = listener.local_addr().unwrap();
    let config = Config { distributor: "off".to_owned(), ..route("/a", |route| route.servers = to(&server)) };
    let stop = tokio_util::sync::CancellationToken::new();
    let served = tokio::spawn(gateway::serve(listener, config, stop.clone()));
    assert_eq!(request(gateway, "GET", "/a/b", "").await.status, 200);
    assert_eq!(request(gateway, "GET", "/b", "").await.problem(), "no_route");
    stop.cancel();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn e3_services_of_another_dialect_get_what_they_know() {
    let cluster = Cluster::start();
    let mut node = RawNode::join(&cluster).await;
    let urls = ["GET/x/{id}", "POST/x/{id}"];
    node.registered.register_with(json!({ "port": node.listener.port(), "name": "raw", "urls": urls })).await;
    node.registered.ask(1).await;
    let template = [
        ("userId", ParamSource::Header("x-user-id".to_owned())),
        ("bodies", ParamSource::Body),
        ("params", ParamSource::Path),
        ("query", ParamSource::Query),
    ];
    let template = ParamsTemplate { members: template.map(|(name, source)| (name.to_owned(), source)).to_vec() };
    let gateway = cluster.gateway_with(route("/x", |route| route.params = Some(template))).await;
    let mut caller = None;
    for (method, body, bodies) in [("GET", "", json!({})), ("POST", r#"{"userId":1}"#, json!({ "userId": 1 }))] {
        let head = format!(
            "{method} /x/7?a=%C2%B6 HTTP/1.1\r\nHost: x\r\nX-User-Id: 42\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = tokio::spawn(async move { HttpClient::connect(gateway).await.raw(head.as_bytes()).await });
        if caller.is_none() {
            caller = Some(node.listener.accept().await);
        }
        let caller = caller.as_mut().unwrap();
        let mut call = caller.next().await.unwrap();
        let params = call["params"].as_object_mut().unwrap();
        assert_eq!(params.remove("key"), Some(call["key"].clone()));
        // The parameters of the path stand where services of version 1 look for them, too.
        call["params"].as_object_mut().unwrap().remove("id");
        let expected = json!({ "userId": "42", "bodies": bodies, "params": { "id": "7" }, "query": { "a": "¶" } });
        assert_eq!(call["params"], expected);
        caller.send_packet(&json!({ "key": call["key"], "errorcode": 0 })).await;
        assert_eq!(response.await.unwrap().unwrap().status, 200);
    }
}

#[tokio::test]
async fn e14_a_route_may_read_bodies_as_old_gateways_did() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("math").public_routes().route("POST/double", double)).await;
    let gateway = cluster.gateway_with(route("/double", |route| route.any_body = true)).await;
    for (header, body) in [
        ("", "n=4"),
        ("Content-Type: text/plain\r\n", "n=4"),
        ("", r#"{"n":4}"#),
        ("Content-Type: text/x\r\n", r#"{"n":4}"#),
    ] {
        let raw = format!("POST /double HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {}\r\n\r\n{body}", body.len());
        tests::eventually(body, async || {
            let response = HttpClient::connect(gateway).await.raw(raw.as_bytes()).await.unwrap();
            response.status == 200 && response.json() == json!({ "double": 8 })
        })
        .await;
    }
}
