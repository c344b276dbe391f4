//! Notices of what a node loses, skips or cuts: a line in the log of its program, and a count.

use std::collections::BTreeMap;
use std::time::Duration;

use node_sdk::{CallError, Node, Params, ServiceError};
use serde_json::json;
use tests::{Cluster, Listener, NodeLog, Peer, eventually, pick_port};

async fn note(Params(number): Params<u32>) -> Result<(), ServiceError> {
    if number < 5 { Ok(()) } else { Err(ServiceError::new(500, "odd", "so many are not expected")) }
}

#[tokio::test]
async fn b8_a_lost_event_is_a_warning_with_its_name_and_is_counted() {
    let (log, _guard) = NodeLog::start();
    let cluster = Cluster::start();
    let callee = Node::builder("callee").subscribe("full", note).max_concurrency(0).subscribe("odd", note);
    let callee = cluster.node(callee).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    // There is no room for it.
    for _ in 0..10 {
        assert_eq!(caller.peers().emit("full", &1).unwrap(), 1);
    }
    let line = log.warning("wait for their turn already").await;
    assert!(line.contains("lost: ") && line.contains("EVENT/full"), "{line}");
    eventually("all are counted", async || callee.lost_events() == 10).await;
    assert_eq!(log.lines("EVENT/full").len(), 1, "one line in ten seconds");
    // Its handler fails.
    for number in [1, 7] {
        caller.peers().emit("odd", &number).unwrap();
    }
    let line = log.warning("so many are not expected").await;
    assert!(line.contains("EVENT/odd"), "{line}");
    eventually("it is counted", async || callee.lost_events() == 11).await;
    // It is listed, and cannot be reached.
    let mut silent = cluster.peer().await;
    silent.register_with(json!({ "port": pick_port(), "name": "silent", "urls": ["EVENT/far"] })).await;
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    let reached = caller.peers().emit("far", &1).unwrap();
    let line = log.warning("EVENT/far").await;
    assert!(line.contains("lost: ") && line.contains("silent"), "{line}");
    assert_eq!((reached, caller.lost_events()), (1, 1));
    assert_eq!(callee.lost_events(), 11);
}

#[tokio::test]
async fn a14_an_answer_that_is_not_a_packet_is_told() {
    let (log, _guard) = NodeLog::start();
    let cluster = Cluster::start();
    let caller = cluster.node(Node::builder("caller")).await;
    for (name, advert) in [("new", json!({ "v": 2, "id": "new" })), ("old", json!(null))] {
        let listener = Listener::bind().await;
        let mut node = cluster.peer().await;
        let mut params = json!({ "port": listener.port(), "name": name, "urls": [format!("GET/{name}")] });
        if !advert.is_null() {
            params["$"] = advert;
        }
        node.register_with(params).await;
        tokio::spawn(async move {
            let mut caller = listener.accept().await;
            while let Some(call) = caller.next().await {
                if call["uri"] != "$hello" {
                    caller.send("<html>¶").await;
                }
            }
        });
        let url = format!("GET/{name}");
        caller.peers().wait_for(&[&url]).await;
        let call = caller.peers().call::<u64>(&url, &()).timeout(Duration::from_millis(300)).await;
        assert!(matches!(call, Err(CallError::Deadline { .. })), "{call:?}");
        let line = log.warning(&format!("name={name}")).await;
        assert!(line.contains("a response of a node is malformed: it is not a packet"), "{line}");
    }
}

#[tokio::test]
async fn a_caller_that_is_cut_is_told_of() {
    let (log, _guard) = NodeLog::start();
    let cluster = Cluster::start();
    let node = cluster.node(Node::builder("node").route("GET/note", note)).await;
    let mut stranger = Peer::connect(node.address()).await;
    for _ in 0..3 {
        stranger.send("{]¶").await;
    }
    assert!(stranger.next().await.is_none());
    let line = log.warning("cut: too many broken packets").await;
    assert!(line.contains(&stranger.port().to_string()), "{line}");
    // A caller that closes is none.
    let gone = Peer::connect(node.address()).await;
    gone.close();
    assert_eq!(log.lines("cut: ").len(), 1);
}

#[tokio::test]
async fn what_a_node_leaves_out_is_told() {
    let (log, _guard) = NodeLog::start();
    let without_json_form = BTreeMap::from([((1, 2), 3)]);
    // A Distributor of version 1 lists what makes no node.
    let listener = Listener::bind().await;
    let distributor = format!("127.0.0.1:{}", listener.port());
    let node = Node::builder("node").meta(&without_json_form).distributor(distributor);
    let _node = node.start().await.unwrap();
    log.warning("meta is left out: it has no JSON form").await;
    let mut session = listener.accept().await;
    let entry = json!({ "host": "127.0.0.1", "name": "x", "urls": [] });
    session.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [entry] })).await;
    log.warning("1 entries of the list make no node").await;
    // A line for one reason does not suppress a line for another.
    for reason in ["held_back", "ignored", "ignored"] {
        let notice = json!({ "s": 202, "r": reason, "m": format!("says {reason}") });
        let packet = json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [], "$": notice });
        session.send_packet(&packet).await;
    }
    for reason in ["held_back", "ignored"] {
        log.warning(&format!("the Distributor says: says {reason}")).await;
    }
    assert_eq!(log.lines("says ignored").len(), 1);
}
