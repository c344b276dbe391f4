//! Registering: which nodes are listed, in what order, and which followers are told.

use serde_json::json;
use tests::{Cluster, Peer, eventually, patient};

use crate::programs::DISTRIBUTOR;

#[tokio::test]
async fn the_bytes_for_old_nodes_never_change() {
    let cluster = Cluster::start();
    let mut gate = cluster.peer().await;
    let empty = "{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":0,\"params\":[]}¶";
    assert_eq!(gate.next_bytes().await, empty.as_bytes());
    assert_eq!(empty.len(), 59);
    gate.send("{\"uri\":\"/distributes\",\"method\":\"POST\",\"key\":0,\"params\":{\"port\":8000,\"name\":\"gate\",\"urls\":[]}}¶").await;
    let gate_entry = r#"{"port":8000,"name":"gate","urls":[],"host":"::ffff:127.0.0.1"}"#;
    let list = |entries: &str| format!(r#"{{"uri":"/distributes","method":"GET","key":0,"params":[{entries}]}}¶"#);
    assert_eq!(gate.next_bytes().await, list(gate_entry).as_bytes());

    let mut goods = cluster.peer().await;
    assert_eq!(goods.next_bytes().await, list(gate_entry).as_bytes(), "a newcomer is greeted with the list");
    goods.send(r#"{"uri":"/distributes","method":"POST","key":0,"params":{"port":9010,"name":"goods","urls":["POST/goods","GET/goods","DELETE/goods"]}}¶"#).await;
    let goods_entry =
        r#"{"port":9010,"name":"goods","urls":["POST/goods","GET/goods","DELETE/goods"],"host":"::ffff:127.0.0.1"}"#;
    let both = list(&format!("{gate_entry},{goods_entry}"));
    assert_eq!(goods.next_bytes().await, both.as_bytes());
    assert_eq!(gate.next_bytes().await, both.as_bytes());
    goods.close();
    assert_eq!(gate.next_bytes().await, list(gate_entry).as_bytes());
}

#[tokio::test]
async fn extra_members_are_kept_and_the_host_is_observed() {
    let cluster = Cluster::start();
    let mut peer = cluster.peer().await;
    peer.next_list().await;
    peer.send(r#"{"uri":"/distributes","method":"POST","x":1,"params":{"zone":"서울","host":"10.0.0.1","port":"9010","name":"n","meta":{"a":[1, 2]}}}¶"#).await;
    let list = String::from_utf8(peer.next_bytes().await).unwrap();
    let entry = r#"[{"zone":"서울","host":"::ffff:127.0.0.1","port":9010,"name":"n","meta":{"a":[1,2]},"urls":[]}]"#;
    assert!(list.contains(entry), "{list}");
}

#[tokio::test]
async fn ipv6_nodes_are_spelled_as_they_are() {
    let cluster = Cluster::on("[::]:0".parse().unwrap(), patient());
    for (address, host) in [("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")] {
        let mut peer =
            Peer::connect((address.parse::<std::net::IpAddr>().unwrap(), cluster.address.port()).into()).await;
        peer.register("n", 1).await;
        peer.list_with("n").await;
        assert!(peer.ask(1).await.iter().any(|entry| entry["host"] == host), "{host}");
    }
}

#[tokio::test]
async fn forked_workers_may_register_one_address_twice() {
    let cluster = Cluster::start();
    let _first = cluster.registered("worker").await;
    let mut second = cluster.peer().await;
    second.register("worker", 1).await;
    second.next_list().await;
    assert_eq!(second.next_list().await, ["worker", "worker"]);
}

#[tokio::test]
async fn rg3_registering_again_replaces_in_place_and_is_told_once() {
    let cluster = Cluster::start();
    let mut first = cluster.registered("first").await;
    let mut second = cluster.registered("second").await;
    assert_eq!(first.next_list().await, ["first", "second"]);
    first.register("renamed", 2).await;
    assert_eq!(second.next_list().await, ["renamed", "second"]);
    assert_eq!(first.next_list().await, ["renamed", "second"]);
    assert_eq!(first.ask(1).await.len(), 2);
    second.register("last", 1).await;
    assert_eq!(first.next_list().await, ["renamed", "last"], "nothing in between");
}

#[tokio::test]
async fn rg4_the_newer_connection_of_an_instance_takes_over() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let instance = |name: &str| json!({ "port": 1, "name": name, "urls": [], "$": { "v": 2, "id": "same" } });
    let mut zombie = cluster.peer().await;
    zombie.register_with(instance("zombie")).await;
    bystander.list_with("zombie").await;
    let mut newer = cluster.peer().await;
    newer.register_with(instance("newer")).await;
    assert_eq!(bystander.next_list().await, ["bystander", "newer"], "never both, and in one change");
    // Its later packets undo nothing.
    zombie.register_with(instance("zombie")).await;
    assert_eq!(zombie.rejection_reason().await, "superseded");
    zombie.reset();
    newer.list_with("newer").await;
    bystander.register("again", 1).await;
    assert_eq!(bystander.next_list().await, ["again", "newer"], "the late end has removed nothing");
}

#[tokio::test]
async fn rg8_a_peer_that_never_registered_is_never_listed() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    for round in 0..1000 {
        let peer = cluster.peer().await;
        if round % 2 == 0 { peer.close() } else { peer.reset() }
    }
    bystander.register("bystander", 2).await;
    assert_eq!(bystander.next_list().await, ["bystander"], "the first thing it hears is its own change");
    assert_eq!(bystander.ask(1).await[0]["port"], 2);
}

#[tokio::test]
async fn rg14_a_late_end_does_not_affect_a_newer_node_at_its_address() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let mut first = Peer::connect_from_own_port(cluster.address).await;
    first.register("first", 1).await;
    bystander.list_with("first").await;
    let port = first.port();
    first.register("first", 3).await;
    first.reset();
    let mut second = Peer::connect_from(port, cluster.address).await;
    second.register("second", 1).await;
    second.list_with("second").await;
    eventually("the first has left", async || {
        let names: Vec<_> = second.ask(1).await.iter().map(|entry| entry["name"].clone()).collect();
        names == [json!("bystander"), json!("second")]
    })
    .await;
}

#[tokio::test]
async fn a_version_2_node_may_leave_without_closing() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let mut peer = cluster.peer().await;
    peer.register_with(json!({ "port": 1, "name": "polite", "urls": [], "$": { "v": 2 } })).await;
    bystander.list_with("polite").await;
    peer.send_packet(&json!({ "uri": "/distributes", "method": "DELETE" })).await;
    assert_eq!(bystander.next_list().await, ["bystander"]);
    assert_eq!(peer.ask(1).await.len(), 1, "it may still ask");
}

#[tokio::test]
async fn limits_of_a_registration_are_exact() {
    let cluster = Cluster::start();
    let urls = |count: usize, bytes: usize| vec![format!("GET/{}", "x".repeat(bytes - 4)); count];
    for (urls, fits) in [(urls(1, 512), true), (urls(1, 513), false), (urls(256, 8), true), (urls(257, 8), false)] {
        let mut peer = cluster.peer().await;
        peer.register_with(json!({ "port": 1, "name": "n", "urls": urls })).await;
        assert_eq!(peer.ask(1).await.len(), usize::from(fits));
    }
}

#[tokio::test]
async fn a_refused_old_node_is_logged() {
    let distributor = tests::Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0"]);
    let mut old = Peer::connect(format!("127.0.0.1:{}", distributor.port().await).parse().unwrap()).await;
    old.register_with(json!({ "port": 1, "name": "old", "urls": vec!["GET/x"; 257] })).await;
    distributor.line("is refused: 257 urls; at most 256 are allowed").await;
}

#[tokio::test]
async fn a_list_that_old_nodes_cannot_read_is_reported_once_by_name() {
    let environment = [("DISTRIBUTOR_LISTEN", "127.0.0.1:0"), ("DISTRIBUTOR_LEGACY_LIST_BYTES", "200")];
    let distributor = tests::Process::start_with(DISTRIBUTOR, &[], &environment);
    let address = format!("127.0.0.1:{}", distributor.port().await).parse().unwrap();
    let mut peers = Vec::new();
    for name in ["fits", "also", "too-much", "and-more"] {
        let mut peer = Peer::connect(address).await;
        peer.register_with(json!({ "port": 1, "name": name, "urls": [], "$": {} })).await;
        peer.list_with(name).await;
        peers.push(peer);
    }
    let warning = distributor.line("outgrows what version 1 peers can read").await;
    assert!(warning.contains("name=too-much") && warning.contains("--oversized-list"), "{warning}");
    assert_eq!(distributor.output().matches("outgrows").count(), 1);
}
