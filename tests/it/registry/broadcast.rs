//! Changes reach all followers, also beside one that does not read.

use std::io::Write as _;
use std::time::Duration;

use distributor::{Config, OversizedList};
use node_sdk::Node;
use serde_json::{Value, json};
use tests::{Cluster, Listener, Peer, eventually, patient};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A version 2 registration of about 20 kB, so that a few of them make a long list.
fn heavy(name: &str) -> Value {
    json!({ "port": 1, "name": name, "urls": [], "ballast": "x".repeat(20_000), "$": { "v": 2 } })
}

/// One node may change its registration as often as it likes.
fn busy() -> Config {
    Config { update_burst: 1_000_000, packet_burst: 1_000_000, ..patient() }
}

#[tokio::test]
async fn bc1_a_reader_that_stops_delays_no_peer_and_is_cut() {
    // One thread reads for the other peers: on a busy machine each of them waits for its turn.
    let cluster = Cluster::with(Config { write_timeout: Duration::from_secs(5), ..busy() });
    let mut stuck = Peer::connect_narrow(cluster.address).await;
    stuck.register_with(heavy("stuck")).await;
    let mut peers = Vec::new();
    for number in 0..20 {
        let mut peer = cluster.peer().await;
        let name = format!("node-{number}");
        peer.register_with(heavy(&name)).await;
        peer.list_with(&name).await;
        peers.push(peer);
    }
    // All other peers are still told while the kernel's buffers of the stuck one are full.
    let mut gone = false;
    for round in 0.. {
        let name = format!("change-{round}");
        peers[0].register_with(heavy(&name)).await;
        for peer in &mut peers {
            gone = !peer.list_with(&name).await.contains(&"stuck".to_owned());
        }
        if gone {
            break;
        }
    }
    assert!(gone);
    // Its system knows at once, although it has not read the earlier bytes: when it wakes, it
    // notices that it has to connect again.
    eventually("the connection is reset", async || stuck.is_reset()).await;
}

#[tokio::test]
async fn bc1_an_old_reader_that_stops_is_cut_as_well() {
    let cluster = Cluster::with(Config { write_timeout: Duration::from_millis(500), ..busy() });
    let stuck = cluster.registered("stuck").await;
    let mut busy = cluster.peer().await;
    let mut round = 0;
    loop {
        round += 1;
        let name = format!("busy-{round}");
        busy.register_with(heavy(&name)).await;
        if !busy.list_with(&name).await.contains(&"stuck".to_owned()) {
            break;
        }
    }
    eventually("the connection is reset", async || stuck.is_reset()).await;
}

#[tokio::test]
async fn rs22_a_registration_that_is_read_late_does_not_count_as_silence() {
    // There is one thread: when the Distributor first looks, the time for the greeting is over and
    // the registration is there.
    let cluster = Cluster::with(Config { greet_after: Duration::ZERO, ..patient() });
    let mut stream = std::net::TcpStream::connect(cluster.address).unwrap();
    let params = json!({ "port": 1, "name": "late", "urls": [], "$": { "v": 2 } });
    let registration = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params });
    stream.write_all(format!("{registration}¶").as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut peer = Peer::over(TcpStream::from_std(stream).unwrap());
    let list = peer.next().await.unwrap();
    assert!(list["$"]["rev"].is_u64(), "it is not a list for version 1: {list}");
    assert_eq!(list["params"][0]["name"], "late");
}

#[tokio::test]
async fn bc7_half_a_list_is_ignored() {
    let distributor = Listener::bind().await;
    let node =
        Node::builder("observer").distributor(format!("127.0.0.1:{}", distributor.port())).start().await.unwrap();
    let list = |names: &[&str]| {
        let entries: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(port, name)| json!({ "port": port + 1, "name": name, "urls": [], "host": "::ffff:127.0.0.1" }))
            .collect();
        format!("{}¶", json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": entries }))
    };
    let mut connection = distributor.accept().await;
    connection.send(list(&["a", "b"])).await;
    node.peers().wait_until(|nodes| nodes.len() == 2).await;
    let half = list(&["c", "d"]);
    connection.send(&half.as_bytes()[..half.len() - 1]).await;
    connection.reset();
    let mut connection = distributor.accept().await;
    assert_eq!(connection.next().await.unwrap()["params"]["name"], "observer", "it has noticed, and come back");
    let names: Vec<_> = node.peers().nodes().into_iter().map(|node| node.name.clone()).collect();
    assert_eq!(names, ["a", "b"]);
    connection.send(list(&["a", "e"])).await;
    node.peers().wait_until(|nodes| nodes.iter().any(|node| node.name == "e")).await;
}

#[tokio::test]
async fn old_nodes_get_a_readable_list_and_new_nodes_the_whole() {
    for (oversized_list, old_sees) in
        [(OversizedList::Truncate, &["old", "a", "b"][..]), (OversizedList::Send, &["old", "a", "b", "c"])]
    {
        let config = Config { legacy_list_bytes: 50_000, oversized_list, ..patient() };
        let cluster = Cluster::with(config);
        let mut old = cluster.registered("old").await;
        let mut new = JoinSet::new();
        for name in ["a", "b", "c"] {
            let mut peer = cluster.peer().await;
            peer.register_with(heavy(name)).await;
            assert_eq!(peer.list_with(name).await.last().map(String::as_str), Some(name), "new nodes see all");
            // It answers pings: a silent one is gone before a busy machine comes to the end.
            new.spawn(async move { while !peer.next_list().await.is_empty() {} });
        }
        assert_eq!(old.list_with(old_sees[old_sees.len() - 1]).await, old_sees, "{oversized_list:?}");
        assert_eq!(old.ask(1).await.len(), old_sees.len(), "{oversized_list:?}");
    }
}

#[tokio::test]
async fn an_old_reader_that_pauses_finds_one_read_and_the_newest_list() {
    // On one machine nothing is estimated: a time that is over at once makes no difference.
    let cluster = Cluster::with(Config { legacy_read_time: Duration::ZERO, ..busy() });
    let mut old = cluster.registered("old").await;
    let mut busy = cluster.peer().await;
    for round in 0..2000 {
        let params = json!({ "port": 1, "name": format!("busy-{round}"), "urls": [], "$": { "v": 2 } });
        busy.register_with(params).await;
    }
    busy.list_with("busy-1999").await;
    let unread = old.unread();
    assert!((1..=65_536).contains(&unread), "{unread} bytes were written to a reader of 65,536");
    old.list_with("busy-1999").await;
}

#[tokio::test]
async fn after_a_burst_all_nodes_know_the_truth() {
    let cluster = Cluster::start();
    let mut watchers = Vec::new();
    for number in 0..20 {
        watchers.push(cluster.registered(&format!("watcher-{number}")).await);
    }
    let mut burst = Vec::new();
    for number in 0..200 {
        let mut peer = cluster.peer().await;
        peer.register(&format!("burst-{number}"), 1).await;
        burst.push(peer);
    }
    let mut reading = JoinSet::new();
    for mut watcher in watchers {
        reading.spawn(async move {
            while watcher.next_list().await.len() < 220 {}
            watcher
        });
    }
    let watchers = reading.join_all().await;
    drop(burst);
    let mut reading = JoinSet::new();
    for mut watcher in watchers {
        reading.spawn(async move { while watcher.next_list().await.len() > 20 {} });
    }
    reading.join_all().await;
}
