//! The conversations in docs/PROTOCOL.md are what happens.

use std::net::SocketAddr;

use tests::{Cluster, Peer};

/// The lines of the conversation below a heading.
fn conversation(heading: &str) -> Vec<String> {
    let law = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md")).unwrap();
    let (_, section) = law.split_once(&format!("\n### {heading}\n")).unwrap();
    let (_, lines) = section.split_once("```text\n").unwrap();
    let (lines, _) = lines.split_once("```").unwrap();
    lines.lines().map(str::to_owned).collect()
}

/// Types what the conversation below `heading` has behind `>`, and reads what it has behind `<`.
async fn check(heading: &str, address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    // Raw bytes behind the last packet, which come before the next one.
    let mut raw = String::new();
    for line in conversation(heading) {
        match line.split_at(2) {
            ("> ", typed) => peer.send(format!("{typed}\n")).await,
            ("< ", expected) => {
                let received = String::from_utf8(peer.next_bytes().await).unwrap();
                let (packet, behind) = expected.split_once('¶').unwrap();
                assert_eq!(received.trim_start(), format!("{raw}{packet}¶"), "{heading}");
                behind.clone_into(&mut raw);
            }
            _ => panic!("neither sent nor received: {line}"),
        }
    }
    peer
}

#[tokio::test]
async fn the_conversation_with_a_distributor_can_be_replayed() {
    let cluster = Cluster::start();
    let mut peer = check("Registering", cluster.address).await;
    assert_eq!(peer.next().await, None, "three broken packets, and out");
}

#[tokio::test]
async fn the_conversations_with_a_node_can_be_replayed() {
    let cluster = Cluster::start();
    for heading in ["A call", "A stream", "A body in parts", "An event"] {
        let node = cluster.node(examples::counter::node()).await;
        check(heading, node.address()).await;
        node.stop().await;
    }
}
