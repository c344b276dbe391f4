//! The chat: members hear each other, whichever node and gateway have their sockets.

use futures::StreamExt;
use serde_json::{Value, json};
use tests::web_socket::{Client, closed, hear, open, say};
use tests::{Cluster, eventually, request};
use tokio_tungstenite::tungstenite::Message;

/// Reads until somebody has said `text`.
async fn hear_text(client: &mut Client, text: &str) -> Value {
    loop {
        let message = hear(client).await;
        if message["text"] == text {
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
    for node in [&first, &second] {
        node.peers().wait_until(|nodes| nodes.iter().filter(|node| node.name == "chat").count() == 2).await;
    }
    let mut members = Vec::new();
    for at in 0..8 {
        members.push(open(gateways[at % 2], &format!("/chat/%EB%B0%A9?name=m{at}")).await);
    }
    let mut outsider = open(gateways[0], "/chat/other?name=x").await;
    // A member is in the room when it hears itself.
    for (at, member) in members.iter_mut().enumerate() {
        say(member, &json!(format!("I am {at}"))).await;
        let heard = hear_text(member, &format!("I am {at}")).await;
        assert_eq!(heard, json!({ "room": "방", "name": format!("m{at}"), "text": format!("I am {at}") }));
    }
    say(&mut members[0], &json!("안녕 ¶")).await;
    for member in &mut members {
        hear_text(member, "안녕 ¶").await;
    }

    // One node is replaced: its members come again, and all hear each other.
    first.stop().await;
    let mut asker = open(gateways[0], "/chat/%EB%B0%A9?name=asker").await;
    say(&mut asker, &json!("still here?")).await;
    for (at, member) in members.iter_mut().enumerate() {
        let is_closed = loop {
            match member.next().await {
                Some(Ok(Message::Text(text))) if text.contains("still here?") => break false,
                Some(Ok(Message::Text(_) | Message::Ping(_))) => {}
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code) == 1012,
                other => panic!("{other:?}"),
            }
        };
        if is_closed {
            *member = open(gateways[at % 2], &format!("/chat/%EB%B0%A9?name=m{at}")).await;
        }
    }
    say(&mut outsider, &json!("nobody hears this")).await;
    for member in &mut members {
        say(member, &json!("again")).await;
        assert_eq!(hear_text(member, "again").await["room"], "방");
    }
}

#[tokio::test]
async fn a_member_that_says_too_much_is_told_so() {
    let cluster = Cluster::start();
    let _node = cluster.node(examples::chat::node()).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/chat").await;
    let page = request(gateway, "GET", "/chat", "").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.body.starts_with("<!doctype html>"));
    let mut member = open(gateway, "/chat/a?name=b").await;
    say(&mut member, &json!("상".repeat(1000))).await;
    eventually("it is heard", async || hear(&mut member).await["text"].as_str().unwrap().chars().count() == 1000).await;
    say(&mut member, &json!("x".repeat(1001))).await;
    assert_eq!(closed(&mut member).await, (4400, "too_long".to_owned()));
}
