//! What browsers need of a gateway: pages of other origins, ids of requests, bodies within limits.

use std::time::Duration;

use gateway::{Config, Cors, FixedServer, RouteConfig};
use node_sdk::{HttpResponse, Node, Params, Path, ServiceError};
use serde_json::{Value, json};
use tests::{Cluster, CountingServer, HttpClient, HttpResponse as Response, RawNode, request};

async fn echo(Params(params): Params<Value>) -> Result<Value, ServiceError> {
    Ok(params)
}

async fn shelf(Path(id): Path<u64>, Params(goods): Params<Vec<u64>>) -> Result<u64, ServiceError> {
    Ok(id + goods.iter().sum::<u64>())
}

async fn own_cors() -> Result<HttpResponse<u64>, ServiceError> {
    Ok(HttpResponse::new(7).header("access-control-allow-origin", "https://evil.test").header("etag", "1"))
}

/// The values of a field.
fn values<'r>(response: &'r Response, name: &str) -> Vec<&'r str> {
    let of_name = response.headers.iter().filter(|(other, _)| other == name);
    of_name.map(|(_, value)| value.as_str()).collect()
}

#[tokio::test]
async fn bodies_are_any_json_within_the_limits_of_their_routes() {
    let cluster = Cluster::start();
    let node = Node::builder("echo")
        .public_routes()
        .route("GET/echo", echo)
        .route("POST/echo", echo)
        .route("DELETE/echo", echo)
        .route("PUT/shelves/{id}", shelf)
        .route("POST/short", echo)
        .max_body(10)
        .route("POST/long", echo)
        .max_body(u64::MAX);
    let _node = cluster.node(node).await;
    let old = RawNode::join(&cluster).await;
    old.answer_all();
    let gateway = cluster.gateway_with(Config { max_body_bytes: 1000, ..Config::default() }).await;
    Cluster::wait_routed(gateway, "/echo").await;
    Cluster::wait_routed(gateway, "/x").await;
    let long = format!("\"{}\"", "x".repeat(1000));
    for (url, body, status, expected) in [
        ("POST /echo", "[1,{\"a\":2}]", 200, json!([1, { "a": 2 }])),
        ("POST /echo", "\"text\"", 200, json!("text")),
        ("POST /echo", "null", 200, json!(null)),
        ("POST /echo", "[1", 400, json!("bad_json")),
        ("PUT /shelves/1", "[2,3]", 200, json!(6)),
        ("PUT /shelves/1", "{}", 400, json!("bad_params")),
        ("DELETE /echo?a=1", "", 200, json!({ "a": "1" })),
        ("DELETE /echo?a=1", "[7]", 200, json!([7])),
        ("GET /echo?a=1", "[7]", 200, json!({ "a": "1" })),
        // A node of version 1 offers it.
        ("POST /x", "[7]", 400, json!("bad_json")),
        ("POST /short", "[1,2,3,45]", 200, json!([1, 2, 3, 45])),
        ("POST /short", "[1,2,3,456]", 413, json!("body_too_large")),
        ("POST /long", &long, 413, json!("body_too_large")),
    ] {
        let (method, path) = url.split_once(' ').unwrap();
        let response = request(gateway, method, path, body).await;
        let seen = if status == 200 { response.json() } else { json!(response.problem()) };
        assert_eq!((response.status, seen), (status, expected), "{url} {body}");
    }
    let refused = request(gateway, "POST", "/short", "[1,2,3,456]").await;
    assert!(refused.json()["detail"].as_str().unwrap().contains("10 bytes"), "{refused:?}");
}

#[tokio::test]
async fn each_answer_has_the_id_of_its_request() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let _node = cluster.node(Node::builder("echo").public_routes().route("GET/echo", echo)).await;
    let servers = vec![FixedServer { address: server.address.into(), weight: 100 }];
    let route = RouteConfig { servers, ..RouteConfig::new(vec!["/files".to_owned()]) };
    let gateway = cluster.gateway_with(Config { routes: vec![route], ..Config::default() }).await;
    Cluster::wait_routed(gateway, "/echo").await;
    let mut client = HttpClient::connect(gateway).await;
    for (path, field, expected) in [
        ("/echo", "X-Request-Id: mine-1\r\n", Some("mine-1")),
        ("/echo", "", None),
        ("/nowhere", "x-request-id: mine-2\r\n", Some("mine-2")),
        ("/files", "X-Request-ID: mine-3\r\n", Some("mine-3")),
        ("/files", "", None),
        ("/echo", "X-Request-Id: a b\r\n", None),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n");
        let answer = client.raw(head.as_bytes()).await.unwrap();
        let ids = values(&answer, "x-request-id");
        assert!(ids.len() == 1 && expected.map_or(ids[0].len() == 32, |id| id == ids[0]), "{path} {field}: {ids:?}");
    }
}

#[tokio::test]
async fn pages_of_named_origins_may_read_answers_of_nodes_and_servers() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let node = Node::builder("echo").public_routes().route("GET/api/own", own_cors).route("POST/api/echo", echo);
    let _node = cluster.node(node).await;
    let cors = Cors {
        origins: vec!["https://shop.test".to_owned()],
        credentials: true,
        headers: vec!["content-type".to_owned(), "x-a".to_owned()],
        expose: vec!["etag".to_owned()],
        max_age: Duration::from_secs(60),
    };
    let servers = vec![FixedServer { address: server.address.into(), weight: 100 }];
    let files = RouteConfig { servers, cors: Some(cors.clone()), ..RouteConfig::new(vec!["/files".to_owned()]) };
    let api = RouteConfig { cors: Some(cors), ..RouteConfig::new(vec!["/api".to_owned()]) };
    let gateway = cluster.gateway_with(Config { routes: vec![files, api], ..Config::default() }).await;
    Cluster::wait_routed(gateway, "/api/own").await;
    let allow = "access-control-allow-origin";
    for (line, origin, status, expected) in [
        ("GET /api/own", "https://shop.test", 200, &["https://shop.test"][..]),
        ("GET /api/own", "https://evil.test", 200, &[]),
        ("GET /files/a", "https://shop.test", 200, &["https://shop.test"]),
        ("GET /api/nowhere", "https://shop.test", 404, &["https://shop.test"]),
        ("GET /nowhere", "https://shop.test", 404, &[]),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\r\n");
        let answer = HttpClient::connect(gateway).await.raw(head.as_bytes()).await.unwrap();
        assert_eq!((answer.status, &values(&answer, allow)[..]), (status, expected), "{line} {origin}");
        let varies = values(&answer, "vary").contains(&"Origin");
        assert_eq!(varies, !line.ends_with(" /nowhere"), "{line} {origin}");
    }
    // The question of a browser is answered for any path, and reaches no node and no server.
    let before = server.asked();
    for (path, asks) in [("/api/echo", true), ("/api/nowhere", true), ("/files/a", true), ("/nowhere", false)] {
        let head = format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: https://shop.test\r\n\
             Access-Control-Request-Method: DELETE\r\nAccess-Control-Request-Headers: x-a\r\n\r\n"
        );
        let answer = HttpClient::connect(gateway).await.raw(head.as_bytes()).await.unwrap();
        let methods = values(&answer, "access-control-allow-methods");
        assert_eq!((answer.status == 204, methods == ["DELETE"]), (asks, asks), "{path}: {answer:?}");
        if asks {
            assert_eq!(values(&answer, "access-control-allow-headers"), ["content-type, x-a"]);
            assert_eq!(values(&answer, "access-control-allow-credentials"), ["true"]);
            assert_eq!(values(&answer, "access-control-max-age"), ["60"]);
        }
    }
    assert_eq!(server.asked(), before);
}
