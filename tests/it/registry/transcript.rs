//! The conversation in docs/PROTOCOL.md is what happens.

use tests::Cluster;

#[tokio::test]
async fn the_conversation_in_the_protocol_can_be_replayed() {
    let law = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md")).unwrap();
    let (_, conversation) = law.split_once("```text\n").unwrap();
    let (conversation, _) = conversation.split_once("```").unwrap();
    let cluster = Cluster::start();
    let mut peer = cluster.peer().await;
    for line in conversation.lines() {
        match line.split_at(2) {
            ("> ", typed) => peer.send(format!("{typed}\n")).await,
            ("< ", expected) => assert_eq!(String::from_utf8(peer.next_bytes().await).unwrap().trim_start(), expected),
            _ => panic!("neither sent nor received: {line}"),
        }
    }
    assert_eq!(peer.next().await, None, "three broken packets, and out");
}
