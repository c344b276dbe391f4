//! The chat: members hear each other, whichever gateway has their sockets, and whichever node is
//! called.

use serde_json::{Value, json};
use tests::web_socket::{Client, closed, hear, open, say};
use tests::{Cluster, eventually, request};

/// Enters a room. Returns the client, and the token by which it comes back.
async fn enter(gateway: std::net::SocketAddr, path: &str) -> (Client, String) {
    let mut client = open(gateway, path).await;
    let token = hear(&mut client).await["session"].as_str().unwrap().to_owned();
    (client, token)
}

/// Reads until a member has said `text`. Returns the envelope.
async fn hear_text(client: &mut Client, text: &str) -> Value {
    loop {
        let message = hear(client).await;
        if message["m"]["text"] == text {
            return message;
        }
    }
}

#[tokio::test]
async fn members_hear_each_other_across_nodes_and_gateways() {
    let cluster = Cluster::start();
    let first = cluster.node(examples::chat::node()).await;
    let second = cluster.node(examples::chat::node()).await;
    let gateways = [cluster.gateway().await, cluster.gateway().await];
    for gateway in gateways {
        Cluster::wait_routed(gateway, "/chat").await;
    }
    let mut members = Vec::new();
    for at in 0..8 {
        members.push(enter(gateways[at % 2], &format!("/chat/%EB%B0%A9?name=m{at}")).await);
    }
    let mut outsider = enter(gateways[0], "/chat/other?name=x").await.0;
    for node in [&first, &second] {
        eventually("a node reaches all", async || node.peers().present("chat:방").await.len() == 8).await;
    }
    let names = request(gateways[0], "GET", "/chat/%EB%B0%A9/members", "").await;
    assert_eq!(names.json(), json!((0..8).map(|at| format!("m{at}")).collect::<Vec<_>>()));
    for at in 0..members.len() {
        let text = format!("I am {at}");
        say(&mut members[at].0, &json!({ "m": text })).await;
        for (member, _) in &mut members {
            let heard = hear_text(member, &text).await;
            assert_eq!(heard["m"], json!({ "room": "방", "name": format!("m{at}"), "text": text }));
        }
    }

    // One node is stopped, and the members do not notice.
    first.stop().await;
    say(&mut members[0].0, &json!({ "m": "안녕 ¶" })).await;
    let mut last = Value::Null;
    for (member, _) in &mut members {
        last = hear_text(member, "안녕 ¶").await["n"].clone();
    }
    // One member loses its connection, and misses nothing.
    let (lost, token) = members.pop().unwrap();
    drop(lost);
    say(&mut members[0].0, &json!({ "m": "who is there?" })).await;
    hear_text(&mut members[0].0, "who is there?").await;
    let mut back = open(gateways[1], &format!("/chat/%EB%B0%A9?name=m7&resume={token}&after={last}")).await;
    assert_eq!(hear(&mut back).await["resumed"], true);
    hear_text(&mut back, "who is there?").await;
    // Another room has heard nothing of it.
    say(&mut outsider, &json!({ "m": "nobody hears this" })).await;
    assert_eq!(hear(&mut outsider).await["n"], 1);
}

#[tokio::test]
async fn a_member_that_says_too_much_is_told_so() {
    let cluster = Cluster::start();
    let node = cluster.node(examples::chat::node()).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/chat").await;
    let page = request(gateway, "GET", "/chat", "").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.body.starts_with("<!doctype html>"));
    let (mut member, _) = enter(gateway, "/chat/a?name=b").await;
    eventually("the node reaches it", async || node.peers().present("chat:a").await.len() == 1).await;
    say(&mut member, &json!({ "m": "상".repeat(1000) })).await;
    assert_eq!(hear(&mut member).await["m"]["text"].as_str().unwrap().chars().count(), 1000);
    say(&mut member, &json!({ "m": "x".repeat(1001) })).await;
    assert_eq!(closed(&mut member).await, (4400, "too_long".to_owned()));
}
