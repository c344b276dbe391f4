//! Handlers that read the request of a client, and answers with header fields, as clients of both
//! versions of HTTP see them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use gateway::Config;
use node_sdk::{
    Bearer, ClientAddress, Cookie, Cookies, FromCall, Headers, Html, HttpRequest, HttpResponse, IncomingCall,
    NoContent, Node, Outcome, Params, Peers, Redirect, ServiceError, State, Text, Wants,
};
use serde_json::{Value, json};
use tests::{Cluster, HttpClient, HttpResponse as Response, Listener, Peer, eventually, http2, request};

/// The tag of the one version of a document.
const TAG: &str = "\"7\"";

async fn sign_in(Params(name): Params<Value>) -> Result<HttpResponse<Redirect>, ServiceError> {
    let name = name["name"].as_str().ok_or_else(|| ServiceError::bad_request("no_name", "who?"))?.to_owned();
    Ok(HttpResponse::new(Redirect::to("/me")).cookie(Cookie::new("user", name)).cookie(Cookie::removed("guest")))
}

/// Who is signed in.
struct User(String);

impl FromCall for User {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let cookies = Cookies::from_call(call)?;
        cookies.get("user").map(|name| Self(name.to_owned())).ok_or_else(|| {
            ServiceError::new(401, "sign_in", "sign in first")
                .cookie(Cookie::removed("user"))
                .header("x-why", "no user")
        })
    }

    fn wants(wants: &mut Wants) {
        Cookies::wants(wants);
    }
}

async fn me(User(name): User) -> Result<String, ServiceError> {
    Ok(name)
}

/// Reads what its type does not want.
struct Forgetful;

impl FromCall for Forgetful {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Cookies::from_call(call).map(|_| Self)
    }
}

async fn forgetful(_: Forgetful) -> Result<(), ServiceError> {
    Ok(())
}

async fn signed_in(Bearer(token): Bearer) -> Result<(), ServiceError> {
    if token == "good" { Ok(()) } else { Err(Bearer::refuse("the token is not valid")) }
}

async fn secret(token: Option<Bearer>) -> Result<bool, ServiceError> {
    Ok(token.is_some())
}

async fn echo(request: HttpRequest, ClientAddress(address): ClientAddress) -> Result<Value, ServiceError> {
    assert_eq!(request.client_address(), Some(address));
    Ok(json!({
        "method": request.method(), "path": request.path(), "query": request.query(), "host": request.host(),
        "https": request.is_https(), "address": address, "id": request.id(),
        "fields": request.headers().iter().collect::<Vec<_>>(),
    }))
}

async fn read(headers: Headers) -> Result<HttpResponse<&'static str>, ServiceError> {
    let response = HttpResponse::new("the document").header("ETag", TAG);
    Ok(if headers.get("if-none-match") == Some(TAG) { response.status(304) } else { response })
}

async fn replace(headers: Headers) -> Result<HttpResponse<NoContent>, ServiceError> {
    match headers.get("if-match") {
        Some(TAG) => Ok(HttpResponse::new(NoContent).header("etag", "\"8\"")),
        Some(_) => Err(ServiceError::new(412, "changed", "the document has changed").header("etag", TAG)),
        None => Err(ServiceError::new(428, "no_tag", "send If-Match")),
    }
}

/// Payments by their keys.
#[derive(Default)]
struct Payments(Mutex<HashMap<String, usize>>);

async fn pay(headers: Headers, payments: State<Payments>) -> Result<HttpResponse<usize>, ServiceError> {
    let key = headers.get("idempotency-key").ok_or_else(|| ServiceError::bad_request("no_key", "send a key"))?;
    let mut known = payments.0.0.lock().unwrap();
    let (number, before) = (known.len() + 1, known.get(key).copied());
    known.entry(key.to_owned()).or_insert(number);
    Ok(HttpResponse::new(before.unwrap_or(number)).status(if before.is_some() { 200 } else { 201 }))
}

async fn table() -> Result<HttpResponse<Text<&'static str>>, ServiceError> {
    let disposition = "attachment; filename=\"table.csv\"";
    Ok(HttpResponse::new(Text("a,b\r\n\"1\",¶\r\n"))
        .content_type("text/csv")
        .header("content-disposition", disposition))
}

async fn page(request: Option<HttpRequest>) -> Result<Outcome, ServiceError> {
    match request.as_ref().and_then(HttpRequest::query) {
        Some("old") => Outcome::from_result(Redirect::permanent("/page")),
        Some("busy") => Err(ServiceError::new(429, "busy", "later").header("retry-after", "17")),
        _ => Ok(Outcome::from_result(Html("<p>상품</p>"))?.header("x-frame-options", "DENY")),
    }
}

async fn hostile() -> Result<HttpResponse<()>, ServiceError> {
    let response =
        HttpResponse::new(()).header("x-a", "1\r\nSet-Cookie: evil=1").header("x b", "1").header("date", "now");
    Ok(response.header("content-length", "7").append_header("Transfer-Encoding", "chunked").header("x-good", "¶ é"))
}

async fn unsound(Params(status): Params<Value>) -> Result<HttpResponse<()>, ServiceError> {
    let status = status["status"].as_str().and_then(|status| status.parse().ok());
    Ok(HttpResponse::new(()).status(status.unwrap_or(200)))
}

/// A node with all of these routes, and a gateway of both versions of HTTP.
struct Shop {
    cluster: Cluster,
    gateway: SocketAddr,
    _node: Node,
}

impl Shop {
    async fn start() -> Self {
        let cluster = Cluster::start();
        let node = Node::builder("shop")
            .public_routes()
            .state(Payments::default())
            .route("POST/session", sign_in)
            .route("GET/me", me)
            .route("GET/forgetful", forgetful)
            .group(|group| group.guard(signed_in).route("GET/secret", secret))
            .route("GET/open", secret)
            .route("GET/echo/{x}", echo)
            .headers(["X-A", "cookie", "x-request-id"])
            .route("GET/doc", read)
            .headers(["if-none-match"])
            .route("PUT/doc", replace)
            .headers(["if-match"])
            .route("POST/pay", pay)
            .headers(["idempotency-key"])
            .route("GET/table", table)
            .route("GET/page", page)
            .route("GET/hostile", hostile)
            .headers(["x-a"])
            .route("GET/unsound", unsound)
            .headers(["x-a"]);
        let _node = cluster.node(node).await;
        let gateway = cluster.gateway_with(Config { h2c: true, ..Config::default() }).await;
        Cluster::wait_routed(gateway, "/doc").await;
        Self { cluster, gateway, _node }
    }

    /// The answers to a request over HTTP/1 and HTTP/2.
    async fn ask(&self, url: &str, fields: &[(&str, &str)], body: &'static str) -> [Response; 2] {
        let (method, path) = url.split_once(' ').unwrap();
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: g.test\r\n{lines}{json}Content-Length: {}\r\n\r\n", body.len());
        let mut client = HttpClient::connect(self.gateway).await;
        let first = client.raw(format!("{head}{body}").as_bytes()).await.expect("an answer");
        let mut head = http2::head(method, path);
        for (name, value) in
            fields.iter().chain([("content-type", "application/json")].iter().filter(|_| !body.is_empty()))
        {
            head = head.header(*name, *value);
        }
        let parts: &[&'static str] = if body.is_empty() { &[] } else { &[body] };
        let mut client = http2::connect(self.gateway).await;
        let (status, fields, body, _) = http2::ask(&mut client, head.body(()).unwrap(), parts).await.unwrap();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = fields.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        [first, Response { status, headers, body: String::from_utf8(body).unwrap() }]
    }

    /// Checks status, body and some fields, each with all of its values, over both versions.
    #[track_caller]
    fn check<'a>(
        &'a self,
        url: &'a str,
        fields: &'a [(&'a str, &'a str)],
        body: &'static str,
        expected: (u16, &'a str, &'a [(&'a str, &'a [&'a str])]),
    ) -> impl Future<Output = ()> + 'a {
        let location = std::panic::Location::caller();
        async move {
            for answer in self.ask(url, fields, body).await {
                let seen = match answer.header("content-type") {
                    Some("application/problem+json") => answer.problem(),
                    _ => answer.body.clone(),
                };
                assert_eq!((answer.status, &*seen), (expected.0, expected.1), "{url} ({location})");
                for (name, values) in expected.2 {
                    let of_name = answer.headers.iter().filter(|(other, _)| other == name);
                    let seen: Vec<_> = of_name.map(|(_, value)| value.as_str()).collect();
                    assert_eq!(seen, *values, "{name} of {url} ({location})");
                }
            }
        }
    }
}

const JSON: (&str, &[&str]) = ("content-type", &["application/json"]);

#[tokio::test]
async fn handlers_read_what_a_client_says() {
    let shop = Shop::start().await;
    shop.check("GET /me", &[("Cookie", "a=1; user=ann")], "", (200, "\"ann\"", &[JSON])).await;
    shop.check("GET /me", &[("cookie", "a=1"), ("cookie", "user=\"bo\"")], "", (200, "\"bo\"", &[])).await;
    let removed: &[&str] = &["user=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly"];
    shop.check(
        "GET /me",
        &[("Cookie", "a=1")],
        "",
        (401, "sign_in", &[("set-cookie", removed), ("x-why", &["no user"])]),
    )
    .await;
    shop.check("GET /secret", &[], "", (401, "no_token", &[("www-authenticate", &["Bearer"])])).await;
    let bad: &[&str] = &["Bearer error=\"invalid_token\""];
    shop.check("GET /secret", &[("Authorization", "Bearer bad")], "", (401, "bad_token", &[("www-authenticate", bad)]))
        .await;
    shop.check("GET /secret", &[("authorization", "bearer good")], "", (200, "true", &[])).await;
    shop.check("GET /open", &[("Authorization", "Basic x")], "", (200, "false", &[])).await;
    shop.check("GET /forgetful", &[("Cookie", "a=1")], "", (500, "internal", &[])).await;
    let long = format!("a={}", "x".repeat(10_000));
    for answer in shop.ask("GET /echo/%C3%A9?b=1&b", &[("X-A", "é¶\""), ("x-a", &long), ("x-b", "2")], "").await {
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut seen = answer.json();
        let id = seen["id"].take();
        assert!(id.as_str().is_some_and(|id| id.len() == 32), "{id}");
        let expected = json!({
            "method": "GET", "path": "/echo/%C3%A9", "query": "b=1&b", "host": "g.test", "https": false,
            "address": "127.0.0.1", "id": null, "fields": [["x-a", "é¶\""], ["x-a", long]],
        });
        assert_eq!(seen, expected);
    }
    // As much as a head of HTTP/1 can have.
    let cookie = format!("a={}", "x".repeat(60_000));
    let fields = "x-a: 1\r\n".repeat(97);
    let head = format!("GET /echo/x HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n{fields}\r\n");
    let answer = HttpClient::connect(shop.gateway).await.raw(head.as_bytes()).await.unwrap();
    let seen = answer.json()["fields"].clone();
    assert_eq!((&seen[0], seen.as_array().unwrap().len()), (&json!(["cookie", cookie]), 98));
    for answer in shop.ask("GET /echo/x", &[("X-Request-Id", "mine-7")], "").await {
        assert_eq!((&answer.json()["id"], &answer.json()["query"]), (&json!("mine-7"), &Value::Null));
    }
}

#[tokio::test]
async fn results_have_a_status_fields_and_bodies_of_any_type() {
    let shop = Shop::start().await;
    let cookies: &[&str] =
        &["user=ann; Path=/; SameSite=Lax; HttpOnly", "guest=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly"];
    let signed_in: &[(&str, &[&str])] = &[("location", &["/me"]), ("set-cookie", cookies), ("content-type", &[])];
    shop.check("POST /session", &[], "{\"name\":\"ann\"}", (303, "", signed_in)).await;
    shop.check("POST /session", &[], "{}", (400, "no_name", &[])).await;
    shop.check("GET /doc", &[], "", (200, "\"the document\"", &[("etag", &[TAG]), JSON])).await;
    shop.check("GET /doc", &[("If-None-Match", TAG)], "", (304, "", &[("etag", &[TAG])])).await;
    shop.check("HEAD /doc", &[("If-None-Match", TAG)], "", (304, "", &[("etag", &[TAG])])).await;
    shop.check("PUT /doc", &[("If-Match", TAG)], "{}", (204, "", &[("etag", &["\"8\""]), ("content-type", &[])])).await;
    shop.check("PUT /doc", &[("If-Match", "\"6\"")], "{}", (412, "changed", &[("etag", &[TAG])])).await;
    shop.check("PUT /doc", &[], "{}", (428, "no_tag", &[])).await;
    let csv: &[(&str, &[&str])] =
        &[("content-type", &["text/csv"]), ("content-disposition", &["attachment; filename=\"table.csv\""])];
    shop.check("GET /table", &[], "", (200, "a,b\r\n\"1\",¶\r\n", csv)).await;
    let html: &[(&str, &[&str])] = &[("content-type", &["text/html; charset=utf-8"]), ("x-frame-options", &["DENY"])];
    shop.check("GET /page", &[], "", (200, "<p>상품</p>", html)).await;
    shop.check("GET /page?old", &[], "", (308, "", &[("location", &["/page"])])).await;
    shop.check("GET /page?busy", &[], "", (429, "busy", &[("retry-after", &["17"])])).await;
    for (key, expected) in [("k1", 201), ("k1", 200)] {
        let mut client = HttpClient::connect(shop.gateway).await;
        let head = format!("POST /pay HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\nContent-Length: 0\r\n\r\n");
        let answer = client.raw(head.as_bytes()).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (expected, "1"));
    }
    for (status, seen) in
        [("202", 202), ("299", 299), ("404", 404), ("599", 599), ("199", 500), ("600", 500), ("0", 500)]
    {
        let answer = request(shop.gateway, "GET", &format!("/unsound?status={status}"), "").await;
        assert_eq!(answer.status, seen, "{status}");
    }
}

#[tokio::test]
async fn hostile_fields_of_answers_are_left_out() {
    let shop = Shop::start().await;
    let clean: &[(&str, &[&str])] =
        &[("x-a", &[]), ("set-cookie", &[]), ("x b", &[]), ("transfer-encoding", &[]), ("x-good", &["¶ é"])];
    shop.check("GET /hostile", &[], "", (200, "null", clean)).await;
    for answer in shop.ask("GET /hostile", &[], "").await {
        assert_ne!(answer.header("date"), Some("now"));
        assert!(answer.header("content-length").is_none_or(|length| length == "4"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_node_that_calls_gets_results_without_fields() {
    let shop = Shop::start().await;
    let caller = shop.cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/page", "GET/echo/{x}"]).await;
    let peers: &Peers = caller.peers();
    assert_eq!(peers.call::<String>("GET/page", &()).await.unwrap(), "<p>상품</p>");
    assert_eq!(peers.call::<String>("GET/table", &()).await.unwrap(), "a,b\r\n\"1\",¶\r\n");
    peers.call::<()>("POST/session", &json!({ "name": "ann" })).await.unwrap();
    assert!(!peers.call::<bool>("GET/open", &()).await.unwrap());
    for (url, word) in [("GET/echo/x", "not_http"), ("GET/secret", "no_token"), ("GET/me", "sign_in")] {
        let error = peers.call::<Value>(url, &()).await.unwrap_err();
        assert!(matches!(&error, node_sdk::CallError::Refused { reason, .. } if reason == word), "{url}: {error}");
    }
}

/// A node of version 2 that the test plays by hand: it offers `GET/x` and gives each call this
/// answer.
async fn raw_node(
    cluster: &Cluster,
    name: &'static str,
    routes: Value,
    answer: Value,
) -> (Peer, Arc<Mutex<Vec<Value>>>) {
    let (listener, calls) = (Listener::bind().await, Arc::new(Mutex::new(Vec::new())));
    let mut registered = cluster.peer().await;
    let params = json!({ "port": listener.port(), "name": name, "urls": ["GET/x"], "$": { "v": 2, "routes": routes } });
    registered.register_with(params).await;
    registered.list_with(name).await;
    let seen = Arc::clone(&calls);
    tokio::spawn(async move {
        loop {
            let (mut caller, seen, answer) = (listener.accept().await, Arc::clone(&seen), answer.clone());
            tokio::spawn(async move {
                while let Some(call) = caller.next().await {
                    if let Some(key) = call.get("key") {
                        caller.send_packet(&json!({ "key": key, "$": answer["$"], "params": answer["params"] })).await;
                        seen.lock().unwrap().push(call);
                    }
                }
            });
        }
    });
    (registered, calls)
}

#[tokio::test]
async fn each_node_of_a_mixed_fleet_gets_what_it_registered() {
    let cluster = Cluster::start();
    let public = |more: Value| {
        let mut route = json!({ "at": [0], "public": true });
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([route])
    };
    let plain = json!({ "$": {}, "params": 1 });
    let (_old, old) = raw_node(&cluster, "old", public(json!({})), plain.clone()).await;
    let (_new, new) =
        raw_node(&cluster, "new", public(json!({ "headers": ["Cookie", "x-a", "x b"] })), plain.clone()).await;
    let (_bare, bare) = raw_node(&cluster, "bare", public(json!({ "headers": [] })), plain).await;
    let first = tests::RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let legacy = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&legacy);
    let _first = first.registered;
    tokio::spawn(async move {
        let mut caller = first.listener.accept().await;
        while let Some(call) = caller.next().await {
            caller.send_packet(&tests::answer_to(&call)).await;
            seen.lock().unwrap().push(call);
        }
    });
    let head = "GET /x?a=1 HTTP/1.1\r\nHost: g.test\r\nX-B: 1\r\nCookie: a=\u{b6}\r\nX-A: caf\u{e9}\r\nx-a: 2\r\n\r\n";
    let bytes: Vec<u8> = head.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let all = [&old, &new, &bare, &legacy];
    eventually("each node has been called", async || {
        HttpClient::connect(gateway).await.raw(&bytes).await;
        all.iter().all(|calls| calls.lock().unwrap().len() > 3)
    })
    .await;
    for call in old.lock().unwrap().iter() {
        assert_eq!(call["$"].get("q"), None, "{call}");
    }
    for call in legacy.lock().unwrap().iter() {
        assert_eq!(call.get("$"), None, "{call}");
        assert!(!call.to_string().contains("caf"), "{call}");
    }
    let fields = json!([["cookie", "a=¶"], ["x-a", "café"], ["x-a", "2"]]);
    for (calls, fields) in [(&new, Some(&fields)), (&bare, None)] {
        for call in calls.lock().unwrap().iter() {
            let client = &call["$"]["q"];
            let said = ["a", "o", "m", "t"].map(|name| client[name].as_str().unwrap());
            assert_eq!(said, ["127.0.0.1", "g.test", "GET", "/x?a=1"]);
            assert_eq!((client.get("h"), client.get("s")), (fields, None), "{call}");
            assert!(client["id"].as_str().is_some_and(|id| id.len() == 32), "{call}");
        }
    }
}

#[tokio::test]
async fn answers_in_any_form_become_responses() {
    let check = async |answer: Value, status: u16, body: &str, fields: &[(&str, Option<&str>)]| {
        let cluster = Cluster::start();
        let routes = json!([{ "at": [0], "public": true, "headers": [] }]);
        let (_node, _) = raw_node(&cluster, "raw", routes, answer.clone()).await;
        let gateway = cluster.gateway().await;
        let seen = Cluster::wait_routed(gateway, "/x").await;
        let text = if seen.header("content-type") == Some("application/problem+json") {
            seen.problem()
        } else {
            seen.body.clone()
        };
        assert_eq!((seen.status, &*text), (status, body), "{answer}");
        for (name, value) in fields {
            assert_eq!(seen.header(name), *value, "{answer}");
        }
    };
    let many: Vec<[String; 2]> = (0..100).map(|n| [format!("x-{n}"), "1".to_owned()]).collect();
    let some: &[(&str, Option<&str>)] = &[("x-63", Some("1")), ("x-64", None)];
    check(json!({ "$": { "h": many }, "params": [1] }), 200, "[1]", some).await;
    let long = json!([["a", "x".repeat(40_000)], ["b", "1"]]);
    check(json!({ "$": { "h": long }, "params": 1 }), 200, "1", &[("a", None), ("b", Some("1"))]).await;
    for wrong in [json!({ "a": "b" }), json!([["a"]]), json!([["a", 7]]), json!("a")] {
        check(json!({ "$": { "h": wrong, "s": 201 }, "params": 1 }), 201, "1", &[("a", None)]).await;
    }
    let text = json!([["content-type", "text/css"]]);
    check(json!({ "$": { "h": text }, "params": "a{}" }), 200, "a{}", &[("content-type", Some("text/css"))]).await;
    check(json!({ "$": { "h": text }, "params": { "a": 1 } }), 502, "bad_answer", &[]).await;
    let problem = json!([["content-type", "application/problem+json"]]);
    check(json!({ "$": { "h": problem, "s": 418 }, "params": { "type": "/problems/tea" } }), 418, "tea", &[]).await;
    for status in [0, 100, 101, 199, 1000] {
        check(json!({ "$": { "h": text, "s": status }, "params": "x" }), 502, "bad_answer", &[]).await;
    }
}
