//! Nodes that refuse, are silent, leave, or answer too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway::Config;
use node_sdk::{Node, ServiceError};
use serde_json::{Value, json};
use tests::{Cluster, HttpClient, Listener, Peer, RawNode, answer_to, eventually, request, spawn_request};

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

/// One of two nodes registers a port that cannot be reached. No call fails, of any method.
async fn check_skipped(port: u16) {
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
async fn gu1_a_node_that_refuses_is_skipped() {
    check_skipped(tests::pick_port()).await;
}

#[tokio::test]
async fn gu2_a_node_in_a_black_hole_is_skipped() {
    let (_socket, port, _fillers) = Listener::black_hole().await;
    check_skipped(port).await;
}

#[tokio::test]
async fn gu3_gu5_a_late_answer_belongs_to_no_call() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway =
        cluster.gateway_with(Config { request_timeout: Duration::from_millis(300), ..Config::default() }).await;
    let late = spawn_request(gateway, "/x?n=late");
    let mut caller = node.listener.accept().await;
    let first = caller.next().await.unwrap();
    let response = late.await.unwrap();
    assert_eq!((response.status, response.problem()), (504, "deadline".to_owned()));
    let next = spawn_request(gateway, "/x?n=next");
    let second = caller.next().await.expect("the connection is the same: only that call was given up");
    caller.send_packet(&answer_to(&first)).await;
    caller.send_packet(&answer_to(&second)).await;
    assert_eq!(next.await.unwrap().json()["results"], "next");
}

#[tokio::test]
async fn gu6_unknown_keys_are_ignored() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let first = spawn_request(gateway, "/x?n=first");
    let mut caller = node.listener.accept().await;
    let call = caller.next().await.unwrap();
    caller.send("{\"key\":999}¶{\"key\":\"x\"}¶{}¶[]¶nonsense¶¶{\"key\":-1}¶{\"uri\":\"/x\"}¶").await;
    caller.send_packet(&answer_to(&call)).await;
    caller.send_packet(&answer_to(&call)).await;
    assert_eq!(first.await.unwrap().json()["results"], "first");
    let second = spawn_request(gateway, "/x?n=second");
    caller.send_packet(&answer_to(&call)).await;
    let call = caller.next().await.unwrap();
    caller.send_packet(&answer_to(&call)).await;
    assert_eq!(second.await.unwrap().json()["results"], "second");
}

#[tokio::test]
async fn gu8_gu9_a_call_that_may_have_been_carried_out_is_not_made_twice() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    let post = tokio::spawn(async move { request(gateway, "POST", "/x", r#"{"n":1}"#).await });
    let mut caller = node.listener.accept().await;
    let call = caller.next().await.unwrap();
    let half = answer_to(&call).to_string();
    caller.send(&half[..half.len() / 2]).await;
    caller.reset();
    let response = post.await.unwrap();
    assert_eq!((response.status, response.problem()), (502, "node_lost".to_owned()));
    // An idempotent call is tried once more at another node, and not a third time.
    let calls = Arc::new(AtomicUsize::new(0));
    for raw in [node, RawNode::join(&cluster).await, RawNode::join(&cluster).await] {
        raw.reset_all(Arc::clone(&calls));
    }
    let response = request(gateway, "GET", "/x?n=2", "").await;
    assert_eq!((calls.load(Ordering::Relaxed), response.problem()), (2, "node_lost".to_owned()));
}

#[tokio::test]
async fn gu10_one_of_three_leaves_without_a_failed_call() {
    let cluster = Cluster::start();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(
            cluster
                .node(Node::builder("hello").public_routes().route("POST/hello", hello).route("GET/hello", hello))
                .await,
        );
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
async fn gu11_gone_is_503_and_unknown_is_404() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway().await;
    assert_eq!(request(gateway, "GET", "/hello", "").await.problem(), "no_route");
    for _ in 0..2 {
        let node = cluster.node(Node::builder("hello").public_routes().route("GET/hello", hello)).await;
        assert_eq!(Cluster::wait_routed(gateway, "/hello").await.status, 200);
        node.stop().await;
        eventually("the gateway has heard", async || request(gateway, "GET", "/hello", "").await.status != 200).await;
        let response = request(gateway, "GET", "/hello", "").await;
        assert_eq!((response.status, response.problem()), (503, "no_provider".to_owned()));
        assert_eq!(response.header("retry-after"), Some("3"));
    }
}

#[tokio::test]
async fn gu19_a_call_whose_client_has_gone_is_not_sent() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    // Two such calls do not fit into what a version 1 node can read at once, so the second waits
    // for the first's answer.
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
    // The gateway has read both once it has answered a later request.
    for _ in 0..20 {
        request(gateway, "GET", "/nowhere", "").await;
    }
    drop(client);
    for _ in 0..20 {
        request(gateway, "GET", "/nowhere", "").await;
    }
    caller.send_packet(&answer_to(&call)).await;
    assert_eq!(first.await.unwrap().json()["results"], "first");
    let call = caller.next().await.unwrap();
    assert_eq!(call["params"]["n"], "last", "the call in between was cancelled");
    caller.send_packet(&answer_to(&call)).await;
    assert_eq!(last.await.unwrap().status, 200);
}

#[tokio::test]
async fn e3_a_call_that_ends_nodes_one_after_the_other_is_not_tried_again() {
    let cluster = Cluster::start();
    let calls = Arc::new(AtomicUsize::new(0));
    let mut nodes = Vec::new();
    for _ in 0..6 {
        nodes.push(RawNode::join(&cluster).await);
    }
    for node in nodes {
        node.reset_all(Arc::clone(&calls));
    }
    let gateway = cluster.gateway().await;
    eventually("the gateway knows the route", async || {
        request(gateway, "GET", "/x?n=1", "").await.problem() == "node_lost"
    })
    .await;
    assert_eq!(calls.load(Ordering::Relaxed), 2, "the first is tried once more");
    for seen in 3..=4 {
        assert_eq!(request(gateway, "GET", "/x?n=2", "").await.problem(), "node_lost");
        assert_eq!(calls.load(Ordering::Relaxed), seen, "the next is not");
    }
}

#[tokio::test]
async fn e15_a_connection_that_answers_nothing_is_not_the_only_try() {
    let cluster = Cluster::start();
    let node = RawNode::join(&cluster).await;
    let gateway = cluster.gateway().await;
    // A worker has just ended: what accepts the first connection reads nothing.
    let first = spawn_request(gateway, "/x?n=1");
    let silent = node.listener.accept().await;
    let mut caller = node.listener.accept().await;
    let call = caller.next().await.unwrap();
    caller.send_packet(&answer_to(&call)).await;
    assert_eq!(first.await.unwrap().json()["results"], "1");
    // The same for what may not be carried out twice: it waits, and others do not.
    drop((silent, caller));
    let post = tokio::spawn(async move { request(gateway, "POST", "/x", r#"{"n":2}"#).await });
    let mut silent = node.listener.accept().await;
    assert_eq!(silent.next().await.unwrap()["params"]["n"], 2);
    let third = spawn_request(gateway, "/x?n=3");
    let mut caller = node.listener.accept().await;
    loop {
        let call = caller.next().await.unwrap();
        assert_eq!(call["method"], "GET", "it is not carried out twice");
        caller.send_packet(&answer_to(&call)).await;
        if call["params"]["n"] == "3" {
            break;
        }
    }
    assert_eq!(third.await.unwrap().json()["results"], "3");
    assert!(!post.is_finished());
}

/// The next packet of a caller of version 2 that is a call.
async fn next_call(caller: &mut Peer) -> Value {
    loop {
        let packet = caller.next().await.unwrap();
        if packet["uri"] != "$hello" {
            return packet;
        }
    }
}

#[tokio::test]
async fn e15_a_version_2_worker_that_greets_nobody_is_not_the_only_try() {
    let cluster = Cluster::start();
    let listener = Listener::bind().await;
    // Workers of a cluster share their port.
    let mut workers = Vec::new();
    for id in ["one", "two"] {
        let mut worker = cluster.peer().await;
        let params =
            json!({ "port": listener.port(), "name": id, "urls": ["GET/x", "POST/x"], "$": { "v": 2, "id": id } });
        worker.register_with(params).await;
        worker.list_with(id).await;
        workers.push(worker);
    }
    let gateway = cluster.gateway().await;
    let answer = |call: &Value| json!({ "key": call["key"], "$": {}, "params": call["params"]["n"] });
    // One has just ended: what accepts the first connection reads nothing.
    let first = spawn_request(gateway, "/x?n=1");
    let silent = listener.accept().await;
    let mut caller = listener.accept().await;
    let hello = caller.next().await.unwrap();
    assert_eq!((&hello["uri"], &hello["$"]["to"]), (&json!("$hello"), &json!("*")), "either may answer");
    let call = next_call(&mut caller).await;
    caller.send_packet(&answer(&call)).await;
    assert_eq!(first.await.unwrap().json(), json!("1"));
    drop((silent, caller));
    // One that greets and then takes its time is asked once.
    let second = spawn_request(gateway, "/x?n=2");
    let mut caller = listener.accept().await;
    caller.send_packet(&json!({ "uri": "$hello", "$": { "f": "two" } })).await;
    let call = next_call(&mut caller).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    caller.send_packet(&answer(&call)).await;
    assert_eq!(second.await.unwrap().json(), json!("2"));
    // It has stayed: no other connection, and no second call.
    let third = spawn_request(gateway, "/x?n=3");
    let call = next_call(&mut caller).await;
    assert_eq!(call["params"]["n"], "3");
    caller.send_packet(&answer(&call)).await;
    assert_eq!(third.await.unwrap().json(), json!("3"));
}
