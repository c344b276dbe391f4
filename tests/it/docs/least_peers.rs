//! What docs/PROTOCOL.md calls the least that a peer does is enough.

use node_sdk::{Node, ServiceError};
use serde_json::json;
use tests::{Cluster, Listener, Peer, eventually};

async fn seven() -> Result<u64, ServiceError> {
    Ok(7)
}

#[tokio::test]
async fn a_minimal_caller_finds_and_calls_a_node() {
    let cluster = Cluster::start();
    let node = cluster.node(Node::builder("goods").route("GET/goods/{id}", seven)).await;
    let mut follower = cluster.peer().await;
    let mut entry = json!(null);
    eventually("the node is listed", async || {
        follower.send("{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":1,\"$\":{}}¶").await;
        let answer = follower.next().await.unwrap();
        let listed = answer["params"].as_array().unwrap();
        entry = listed.iter().find(|entry| entry["urls"] == json!(["GET/goods/{id}"])).cloned().unwrap_or_default();
        answer["key"] == 1 && !entry.is_null()
    })
    .await;
    assert_eq!(entry["host"], "::ffff:127.0.0.1");
    let port = u16::try_from(entry["port"].as_u64().unwrap()).unwrap();
    let mut callee = Peer::connect(([127, 0, 0, 1], port).into()).await;
    callee.send("{\"uri\":\"/goods/7\",\"method\":\"GET\",\"key\":1,\"$\":{},\"params\":{}}¶").await;
    assert_eq!(callee.next().await, Some(json!({ "key": 1, "$": {}, "params": 7 })));
    // It follows changes without being listed.
    node.stop().await;
    eventually("the node has gone from the list", async || {
        follower.send("{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":2,\"$\":{}}¶").await;
        let answer = follower.next().await.unwrap();
        assert_eq!(answer["key"], 2);
        answer["params"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn a_minimal_node_stays_listed_and_is_called() {
    let cluster = Cluster::start();
    let (listener, mut node) = (Listener::bind().await, cluster.peer().await);
    let registration =
        json!({ "port": listener.port(), "name": "goods", "urls": ["GET/goods/{id}"], "$": { "v": 2, "id": "one" } });
    node.register_with(registration).await;
    tokio::spawn(async move {
        let mut caller = listener.accept().await;
        while let Some(call) = caller.next().await {
            if call["key"].is_null() || call["uri"].as_str().unwrap().starts_with('$') {
                continue;
            }
            caller.send_packet(&json!({ "key": call["key"], "$": {}, "params": call["uri"] })).await;
        }
    });
    // Of all that the Distributor sends, it answers the pings only, and without a digest.
    for _ in 0..3 {
        loop {
            let packet = node.next().await.expect("the Distributor keeps the connection");
            if packet["uri"] == "$ping" {
                break;
            }
        }
        node.send("{\"uri\":\"$pong\",\"$\":{}}¶").await;
    }
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/goods/7"]).await;
    let uri: String = caller.peers().call("GET/goods/7", &()).await.unwrap();
    assert_eq!(uri, "/goods/7");
    node.send("{\"uri\":\"/distributes\",\"method\":\"DELETE\",\"key\":1,\"$\":{}}¶").await;
    eventually("the node has left", async || caller.peers().call::<()>("GET/goods/7", &()).await.is_err()).await;
}
