//! WebSockets to streams of nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use futures::{FutureExt, SinkExt};
use gateway::{Config, Cors, RouteConfig};
use node_sdk::{Items, Node, NodeBuilder, Params, Path, ServiceError, State, Streaming};
use serde_json::{Value, json};
use tests::web_socket::{Client, closed, hear, open, open_with, say};
use tests::{Cluster, PATIENCE, eventually, request};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

type HandlerResult<T> = Result<T, ServiceError>;
type Parts = HandlerResult<Streaming<BoxStream<'static, HandlerResult<Value>>>>;

#[derive(serde::Deserialize)]
struct Guest {
    name: String,
}

/// Greets, and then says again what the client says. Text `bye` ends the stream, `fail` fails it.
async fn chat(Path(room): Path<String>, Params(guest): Params<Guest>, items: Items<Value>) -> Parts {
    if room == "closed" {
        return Err(ServiceError::new(403, "room_closed", "this room is closed"));
    }
    let greeting = json!({ "room": room, "name": guest.name });
    let said = items.map(|item| match item {
        Ok(item) if item == "bye" => Ok(None),
        Ok(item) if item == "fail" => Err(ServiceError::conflict("too_loud", "too loud")),
        item => item.map(Some),
    });
    let said = said.try_take_while(|item| std::future::ready(Ok(item.is_some()))).try_filter_map(async |item| Ok(item));
    Ok(Streaming(stream::iter([Ok(greeting)]).chain(said).boxed()))
}

/// Counts how many of its streams are open, and reads nothing.
async fn deaf(State(open): State<AtomicUsize>, items: Items<Value>) -> Parts {
    struct Open(Arc<AtomicUsize>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    open.fetch_add(1, Ordering::Relaxed);
    let open = (Open(Arc::clone(&open)), items);
    let parts = stream::iter([Ok(json!("open"))]).chain(stream::pending().map(move |()| {
        let _ = &open;
        Ok(Value::Null)
    }));
    Ok(Streaming(parts.boxed()))
}

/// Sends numbers without end.
async fn flood() -> Parts {
    Ok(Streaming(
        stream::iter(0..).map(|number: u64| Ok(json!({ "number": number, "text": "x".repeat(1000) }))).boxed(),
    ))
}

async fn members() -> HandlerResult<()> {
    Err(ServiceError::new(401, "unknown", "sign in first"))
}

fn offers() -> NodeBuilder {
    Node::builder("chats")
        .state(AtomicUsize::new(0))
        .public_routes()
        .route("GET/chats/{room}", chat)
        .route("GET/deaf", deaf)
        .route("GET/flood", flood)
        .group(|group| group.guard(members).route("GET/members", deaf))
        .route("GET/plain", async || HandlerResult::Ok(7_u64))
}

async fn served() -> (Cluster, Node, SocketAddr) {
    let cluster = Cluster::start();
    let node = cluster.node(offers()).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/plain").await;
    (cluster, node, gateway)
}

/// The status and the word of a request that was not accepted.
fn refusal(opened: Result<Client, Error>) -> (u16, String) {
    let Err(Error::Http(response)) = opened else { panic!("{opened:?}") };
    let problem: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    let word = problem["type"].as_str().unwrap().trim_start_matches("/problems/").to_owned();
    (response.status().as_u16(), word)
}

#[tokio::test]
async fn messages_are_parts_of_a_stream_in_both_directions() {
    let (_cluster, _node, gateway) = served().await;
    let mut client = open(gateway, "/chats/%EC%83%81%ED%92%88?name=%ED%99%8D%EA%B8%B8%EB%8F%99").await;
    assert_eq!(hear(&mut client).await, json!({ "room": "상품", "name": "홍길동" }));
    for said in [json!(1), json!({ "text": "¶ 안녕\n" }), json!([null, "x".repeat(300_000)]), json!("")] {
        say(&mut client, &said).await;
        assert_eq!(hear(&mut client).await, said);
    }
    client.send(Message::Ping("alive?".into())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("alive?".into()));
    say(&mut client, &json!("bye")).await;
    assert_eq!(closed(&mut client).await, (1000, String::new()));
}

#[tokio::test]
async fn a_socket_that_is_not_opened_is_answered_as_a_request() {
    let (cluster, _node, gateway) = served().await;
    let check = async |path: &str, fields: &[(&'static str, &str)], expected: (u16, &str)| {
        let (status, word) = refusal(open_with(gateway, path, fields).await);
        assert_eq!((status, word.as_str()), expected, "{path} {fields:?}");
    };
    check("/members", &[], (401, "unknown")).await;
    check("/chats/open", &[], (400, "bad_params")).await;
    check("/nothing", &[], (404, "no_route")).await;
    check("/deaf", &[("sec-websocket-version", "8")], (400, "websocket")).await;
    check("/deaf", &[("sec-websocket-key", "short")], (400, "websocket")).await;
    check("/deaf", &[("origin", "https://evil.test")], (403, "foreign_origin")).await;
    open_with(gateway, "/deaf", &[("origin", &format!("http://{gateway}"))]).await.unwrap();
    // A page of another host that the route names.
    let cors = |origin: &str| RouteConfig {
        cors: Some(Cors {
            origins: vec![origin.to_owned()],
            credentials: false,
            headers: Vec::new(),
            expose: Vec::new(),
            max_age: Cors::MAX_AGE,
        }),
        ..RouteConfig::new(vec!["/deaf".to_owned()])
    };
    for (named, expected) in [("https://shop.test", true), ("*", false)] {
        let config = Config { routes: vec![cors(named)], ..Config::default() };
        let gateway = cluster.gateway_with(config).await;
        Cluster::wait_routed(gateway, "/plain").await;
        let opened = open_with(gateway, "/deaf", &[("origin", "https://shop.test")]).await;
        assert_eq!(opened.is_ok(), expected, "{named}");
    }
    // A route that is not a stream.
    let Err(Error::Http(plain)) = open_with(gateway, "/plain", &[]).await else { panic!("it was opened") };
    assert_eq!((plain.status().as_u16(), plain.body().as_deref()), (200, Some(&b"7"[..])));
}

#[tokio::test]
async fn a_client_is_told_what_is_wrong_with_a_message() {
    let (_cluster, _node, gateway) = served().await;
    let check = async |message: Message, code: u16, text: &str| {
        let mut client = open(gateway, "/deaf").await;
        client.send(message).await.unwrap();
        let (seen, reason) = closed(&mut client).await;
        assert!(seen == code && reason.contains(text), "{seen} {reason}");
    };
    check(Message::text("{a}"), 1007, "a message must be JSON: key must be a string at line 1 column 2").await;
    check(Message::text(""), 1007, "a message must be JSON").await;
    check(Message::text("1 2"), 1007, "trailing characters").await;
    check(Message::binary(vec![1, 2]), 1003, "send text messages").await;
    check(Message::text(format!("\"{}\"", "x".repeat(1 << 20))), 1009, "a message may have 1048576 bytes").await;
}

#[tokio::test]
async fn a_client_is_told_why_its_socket_is_closed() {
    let (cluster, node, gateway) = served().await;
    let mut failing = open(gateway, "/chats/a?name=b").await;
    say(&mut failing, &json!("fail")).await;
    assert_eq!(closed(&mut failing).await, (4409, "too_loud".to_owned()));

    // The handler has asked for the client's messages before it refused.
    let mut refused = open(gateway, "/chats/closed?name=b").await;
    assert_eq!(closed(&mut refused).await, (4403, "room_closed".to_owned()));

    let mut restarting = open(gateway, "/deaf").await;
    hear(&mut restarting).await;
    node.stop().await;
    assert_eq!(closed(&mut restarting).await, (1012, "the service restarts".to_owned()));

    let _node = cluster.node(offers()).await;
    Cluster::wait_routed(gateway, "/plain").await;
    let mut last = open(gateway, "/deaf").await;
    hear(&mut last).await;
    // The gateways of a cluster stop with it.
    drop(cluster);
    assert_eq!(closed(&mut last).await, (1001, "the gateway stops".to_owned()));
}

#[tokio::test]
async fn a_client_that_goes_ends_the_work_of_the_node() {
    let cluster = Cluster::start();
    let open_streams = Arc::new(AtomicUsize::new(0));
    let _node = cluster.node(offers().shared_state(Arc::clone(&open_streams))).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/plain").await;
    let mut polite = open(gateway, "/deaf").await;
    let mut gone = open(gateway, "/deaf").await;
    hear(&mut polite).await;
    hear(&mut gone).await;
    assert_eq!(open_streams.load(Ordering::Relaxed), 2);
    polite.close(None).await.unwrap();
    while let Some(Ok(_)) = polite.next().await {}
    drop(gone);
    eventually("the node's streams have ended", async || open_streams.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn each_side_waits_for_the_other() {
    let (_cluster, _node, gateway) = served().await;
    // The node does not read: what the client sends stops within what is on the way.
    let mut client = open(gateway, "/deaf").await;
    hear(&mut client).await;
    let part = json!("x".repeat(100_000));
    let mut sent = 0;
    while timeout(std::time::Duration::from_millis(500), say(&mut client, &part)).await.is_ok() {
        sent += 1;
        assert!(sent < 640, "64 MB are held somewhere");
    }
    // The client does not read, and then it does: nothing is lost.
    let mut client = open(gateway, "/flood").await;
    for number in 0..20_000_u64 {
        assert_eq!(hear(&mut client).await["number"], number);
    }
    // Both send more than fits, and neither stops.
    let (mut to, mut from) = open(gateway, "/chats/a?name=b").await.split();
    let part = "x".repeat(50_000);
    let says = async {
        for number in 0..200 {
            to.send(Message::text(json!([number, part]).to_string())).await.unwrap();
        }
        to.send(Message::text("\"bye\"")).await.unwrap();
    };
    let hears = async {
        let mut next = 0;
        while let Some(Ok(Message::Text(text))) = timeout(PATIENCE, from.next()).await.unwrap() {
            let heard: Value = serde_json::from_str(&text).unwrap();
            if heard.is_array() {
                assert_eq!(heard[0], next);
                next += 1;
            }
        }
        next
    };
    let ((), heard) = tokio::join!(says, hears);
    assert_eq!(heard, 200);
}

#[tokio::test]
async fn other_requests_are_answered_while_sockets_are_busy() {
    let (_cluster, _node, gateway) = served().await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut client = open(gateway, "/flood").await;
        hear(&mut client).await;
        sockets.push(client);
    }
    let reads = futures::future::join_all(sockets.iter_mut().map(async |client| {
        loop {
            hear(client).await;
        }
    }));
    let asks = async {
        for _ in 0..50 {
            assert_eq!(request(gateway, "GET", "/plain", "").await.body, "7");
        }
    };
    futures::future::select(std::pin::pin!(reads), std::pin::pin!(asks)).await;
    assert!(sockets[0].next().now_or_never().flatten().is_none_or(|message| message.is_ok()));
}
