//! The registry as nodes of version 2 see it: changes in order, and who is listed.

use std::sync::Arc;
use std::time::Duration;

use distributor::Config;
use node_sdk::Node;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Cluster, Listener, Peer, Process, patient};
use tokio::time::{Instant, sleep, timeout};

use super::{joined, who};
use crate::programs::{DISTRIBUTOR, NODE};

#[tokio::test]
async fn one_change_is_one_small_packet() {
    let cluster = Cluster::start();
    let mut watcher = joined(&cluster, "watcher").await;
    let mut old = cluster.registered("old").await;
    watcher.list_with("old").await;
    let mut newcomer = cluster.peer().await;
    newcomer.register_v2("new", 2, "new", None).await;
    let change: Value = loop {
        let packet = watcher.next().await.unwrap();
        if packet["uri"] != "$ping" {
            break packet;
        }
    };
    assert_eq!(change["method"], "PATCH");
    assert_eq!(change["params"]["joined"].as_array().unwrap().len(), 1);
    assert_eq!(change["$"]["rev"].as_u64(), change["$"]["base"].as_u64().map(|base| base + 1));
    assert_eq!(old.list_with("new").await, ["watcher", "old", "new"], "version 1 nodes get whole lists");
    newcomer.reset();
    let left = loop {
        let packet = watcher.next().await.unwrap();
        if packet["uri"] != "$ping" {
            break packet["params"]["left"].clone();
        }
    };
    assert_eq!(left, json!([{ "id": 3, "reason": "reset" }]));
}

#[tokio::test]
async fn bc12_without_a_change_nothing_is_sent() {
    let cluster = Cluster::start();
    let mut watcher = joined(&cluster, "watcher").await;
    let mut other = joined(&cluster, "other").await;
    watcher.list_with("other").await;
    let before = other.replica().revision();
    other.register_v2("other", 1, "other", None).await;
    assert_eq!(other.ask(9).await.len(), 2);
    assert_eq!(watcher.replica().revision(), before);
    let mut third = joined(&cluster, "third").await;
    assert_eq!(watcher.next_list().await, ["watcher", "other", "third"], "the next change is the next news");
    third.pong().await;
}

#[tokio::test]
async fn a_node_is_told_only_of_its_interests() {
    let cluster = Cluster::start();
    let goods = cluster.node(Node::builder("goods").route("GET/goods", who)).await;
    let picky = cluster.node(Node::builder("picky").interests(["GET/goods"])).await;
    picky.peers().wait_for(&["GET/goods"]).await;
    let _members = cluster.node(Node::builder("members").route("GET/members", who)).await;
    goods.peers().wait_for(&["GET/members"]).await;
    let more = cluster.node(Node::builder("goods").route("GET/goods", who)).await;
    picky.peers().wait_until(|nodes| nodes.len() == 2).await;
    assert!(picky.peers().nodes().iter().all(|node| node.name == "goods"));
    more.stop().await;
    picky.peers().wait_until(|nodes| nodes.len() == 1).await;
}

#[tokio::test]
async fn a_node_that_needs_more_is_told_of_it_at_once() {
    let cluster = Cluster::start();
    let mut peers = Vec::new();
    for name in ["goods", "members", "gate"] {
        peers.push(joined(&cluster, name).await);
    }
    let mut caller = cluster.peer().await;
    let params = json!({ "port": 9, "name": "caller", "urls": [], "$": { "v": 2, "id": "caller" } });
    // The last ones take something back, and name what no node offers yet.
    for (needs, told) in [
        (vec!["goods"], vec!["goods"]),
        (vec!["goods", "members"], vec!["goods", "members"]),
        (vec!["members"], vec!["members"]),
        (vec!["GET/none"], vec![]),
    ] {
        let registration =
            json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params, "$": { "needs": needs } });
        caller.send_packet(&registration).await;
        assert_eq!(caller.next_list().await, told);
    }
}

#[tokio::test]
async fn draining_nodes_stay_listed_and_are_not_called_and_weights_are_kept() {
    let cluster = Cluster::start();
    let service =
        |zone: &str| Node::builder("who").zone(zone).version("1.2").meta(&json!({"a": 1})).route("GET/who", who);
    let (heavy, light) = (cluster.node(service("a")).await, cluster.node(service("b").weight(50)).await);
    let caller = cluster.node(Node::builder("caller")).await;
    let advert = |nodes: &[Arc<protocol::Node>], zone: &str| {
        nodes.iter().filter_map(|node| node.advert.clone()).find(|advert| advert.zone.as_deref() == Some(zone))
    };
    caller.peers().wait_until(|nodes| advert(nodes, "a").is_some() && advert(nodes, "b").is_some()).await;
    let seen = advert(&caller.peers().nodes(), "b").unwrap();
    assert_eq!((seen.weight, seen.version.as_deref(), seen.meta.as_deref()), (50, Some("1.2"), Some("{\"a\":1}")));
    assert_eq!(caller.peers().providers("GET/who").len(), 2);
    heavy.set_draining(true);
    caller.peers().wait_until(|nodes| advert(nodes, "a").is_some_and(|advert| advert.draining)).await;
    assert_eq!(caller.peers().providers("GET/who"), [light.address()]);
    light.set_weight(0);
    caller.peers().wait_until(|nodes| advert(nodes, "b").is_some_and(|advert| advert.weight == 0)).await;
    assert!(caller.peers().call::<u16>("GET/who", &()).await.is_err(), "no node accepts calls");
    heavy.set_draining(false);
    caller.peers().wait_until(|nodes| advert(nodes, "a").is_some_and(|advert| !advert.draining)).await;
    assert_eq!(caller.peers().call::<u16>("GET/who", &()).await.unwrap(), 7);
}

#[tokio::test]
async fn rs7_bc8_cr18_a_frozen_node_is_removed_and_comes_back_as_itself() {
    let cluster = Cluster::start();
    let mut watcher = joined(&cluster, "watcher").await;
    let node = Process::start(NODE, &[&cluster.address.to_string()]);
    watcher.list_with("who").await;
    let instance = |peer: &Peer| {
        let entries: Vec<Value> =
            peer.replica().entries().map(|(_, entry)| serde_json::from_str(entry).unwrap()).collect();
        entries.into_iter().find(|entry| entry["name"] == "who").map(|entry| entry["$"]["id"].clone())
    };
    let before = instance(&watcher);
    node.signal(Signal::STOP);
    watcher.list_without("who").await;
    node.signal(Signal::CONT);
    watcher.list_with("who").await;
    assert_eq!(instance(&watcher), before);
    let why = Process::start(DISTRIBUTOR, &["why", "who", "--at", &cluster.address.to_string()]);
    for event in ["joined", "suspect", "hung"] {
        why.line(event).await;
    }
}

#[tokio::test]
async fn bc13_a_node_asks_for_the_list_when_an_update_does_not_fit() {
    let distributor = Listener::bind().await;
    let node =
        Node::builder("observer").distributor(format!("127.0.0.1:{}", distributor.port())).start().await.unwrap();
    let mut connection = distributor.accept().await;
    assert_eq!(connection.next().await.unwrap()["params"]["name"], "observer");
    let entry = |port: u16| json!({ "port": port, "name": "n", "urls": [], "host": "::1" });
    let digest = |ports: &[u16]| {
        let mut digest = protocol::Digest::default();
        ports.iter().for_each(|port| digest.add((*port).into(), &entry(*port).to_string()));
        digest.0
    };
    let list = |ports: &[u16], rev: u64, digest: u32| {
        let entries: Vec<_> = ports.iter().map(|port| entry(*port)).collect();
        let stamp = json!({ "epoch": 5, "rev": rev, "digest": digest, "ids": ports });
        json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": entries, "$": stamp })
    };
    connection.send_packet(&list(&[1, 2], 1, digest(&[1, 2]))).await;
    node.peers().wait_until(|nodes| nodes.len() == 2).await;
    // A flipped bit, then a gap: in both cases the last list stays, and the node asks for the list.
    connection.send_packet(&list(&[1, 3], 2, digest(&[1, 2]))).await;
    let question = connection.next().await.unwrap();
    assert_eq!((&question["uri"], &question["method"]), (&json!("/distributes"), &json!("GET")));
    assert_eq!(node.peers().nodes().len(), 2);
    connection.send_packet(&list(&[1, 2, 4], 3, digest(&[1, 2, 4]))).await;
    node.peers().wait_until(|nodes| nodes.len() == 3).await;
    // An older list, late: the state does not go back.
    connection.send_packet(&list(&[1], 2, digest(&[1]))).await;
    connection
        .send_packet(&json!({ "uri": "$ping", "$": { "epoch": 5, "rev": 3, "digest": digest(&[1, 2, 4]) } }))
        .await;
    let pong = connection.next().await.unwrap();
    assert_eq!((&pong["uri"], &pong["$"]["rev"]), (&json!("$pong"), &json!(3)));
    assert_eq!(node.peers().nodes().len(), 3);
}

#[tokio::test]
async fn bc6_a_list_that_is_too_long_leaves_the_list_before() {
    let distributor = Listener::bind().await;
    let address = format!("127.0.0.1:{}", distributor.port());
    let node = Node::builder("reader").distributor(address).start().await.unwrap();
    let entry = json!({ "port": 1, "name": "goods", "urls": ["GET/goods"], "host": "::ffff:127.0.0.1" });
    let list = |entries: Vec<&Value>| json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": entries });
    let mut connection = distributor.accept().await;
    connection.send_packet(&list(vec![&entry])).await;
    node.peers().wait_for(&["GET/goods"]).await;
    let huge = json!({ "port": 2, "name": "x".repeat(17 << 20), "urls": [], "host": "::1" });
    connection.send_packet(&list(vec![&huge])).await;
    assert!(
        connection.last_packet().await.is_some(),
        "it gives up the connection; its registration was its last packet"
    );
    let mut connection = distributor.accept().await;
    assert_eq!(node.peers().nodes().len(), 1, "the known nodes stay");
    let other = json!({ "port": 3, "name": "members", "urls": ["GET/members"], "host": "::ffff:127.0.0.1" });
    connection.send_packet(&list(vec![&entry, &other])).await;
    node.peers().wait_for(&["GET/goods", "GET/members"]).await;
}

#[tokio::test]
async fn rg7_a_version_2_peer_registers_at_once_and_an_old_one_may_wait() {
    let cluster = Cluster::with(Config { register_timeout: Duration::from_millis(300), ..Config::default() });
    let mut silent = cluster.peer().await;
    assert_eq!(silent.next_list().await.len(), 0, "greeted");
    let mut new = cluster.peer().await;
    new.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": 1, "$": {} })).await;
    assert_eq!(new.rejection_reason().await, "not_registered");
    assert_eq!(silent.ask(7).await.len(), 0, "still there");
}

#[tokio::test]
async fn bc3_a_flapper_is_told_of_a_few_times_only() {
    let cluster = Cluster::start();
    let mut watcher = joined(&cluster, "watcher").await;
    for _ in 0..30 {
        let mut flapper = cluster.peer().await;
        flapper.register_v2("flapper", 7, "flapper", None).await;
        assert!(flapper.next().await.is_some());
        flapper.close();
    }
    let mut last = joined(&cluster, "last").await;
    let mut changes = 0;
    while !watcher.next_list().await.contains(&"last".to_owned()) {
        changes += 1;
    }
    assert!(changes <= 6, "{changes} changes");
    last.pong().await;
}

#[tokio::test]
async fn fr14_a_flood_from_one_node_does_not_hold_up_the_others() {
    let cluster = Cluster::with(Config { packets_per_second: 50, packet_burst: 50, ..patient() });
    let mut watcher = joined(&cluster, "watcher").await;
    let mut flooder = joined(&cluster, "flooder").await;
    let question = format!("{}¶", json!({ "uri": "/distributes", "method": "GET", "key": 5 }));
    flooder.send(question.repeat(2000)).await;
    for number in 0..10 {
        let name = format!("other-{number}");
        let other = joined(&cluster, &name).await;
        watcher.list_with(&name).await;
        other.close();
    }
    let until = Instant::now() + Duration::from_millis(300);
    let mut answered = 0;
    while let Some(left) = until.checked_duration_since(Instant::now())
        && let Ok(packet) = timeout(left, flooder.next()).await
    {
        answered += usize::from(packet.unwrap()["key"] == 5);
    }
    assert!((50..1000).contains(&answered), "{answered} of 2000 are answered, the others wait");
}

#[tokio::test]
async fn bc9_dead_peers_delay_no_peer() {
    let cluster = Cluster::start();
    let mut dead = Vec::new();
    for number in 0..5 {
        let mut peer = Peer::connect_narrow(cluster.address).await;
        peer.register_v2(&format!("dead-{number}"), 1, &format!("dead-{number}"), None).await;
        dead.push(peer);
    }
    let mut watcher = joined(&cluster, "watcher").await;
    for number in 0..200 {
        let name = format!("n{number}");
        let mut peer = cluster.peer().await;
        peer.register_v2(&name, 1, &name, None).await;
        watcher.list_with(&name).await;
        watcher.pong().await;
    }
    // In the end they are noticed.
    while watcher.next_list().await.iter().any(|name| name.starts_with("dead")) {
        watcher.pong().await;
    }
}

#[tokio::test]
async fn calls_that_fail_make_a_silent_old_node_suspect() {
    let cluster = Cluster::start();
    let silent = Listener::bind().await;
    let mut old = cluster.peer().await;
    old.register_with(json!({ "port": silent.port(), "name": "old", "urls": ["GET/old"] })).await;
    let callers = [cluster.node(Node::builder("a")).await, cluster.node(Node::builder("b")).await];
    let keep = tokio::spawn(async move {
        let mut peers = Vec::new();
        loop {
            peers.push(silent.accept().await);
        }
    });
    for caller in &callers {
        caller.peers().wait_for(&["GET/old"]).await;
        let call = caller.peers().call::<Value>("GET/old", &()).timeout(Duration::from_millis(50));
        assert!(call.await.is_err());
    }
    callers[0].peers().wait_until(|nodes| nodes.iter().any(|node| node.name == "old" && node.suspect)).await;
    callers[0].peers().wait_until(|nodes| nodes.iter().all(|node| !node.suspect)).await;
    keep.abort();
}

#[tokio::test]
async fn e18_a_hung_old_node_is_suspect_by_reports_and_then_gone() {
    let cluster = Cluster::start();
    let silent = [Listener::bind().await, Listener::bind().await];
    // It stands still: it reads neither what it is sent nor what it is asked.
    let mut hung = cluster.peer().await;
    hung.register_with(json!({ "port": silent[0].port(), "name": "hung", "urls": ["GET/hung"] })).await;
    let mut alive = cluster.peer().await;
    alive.register_with(json!({ "port": silent[1].port(), "name": "alive", "urls": ["GET/alive"] })).await;
    let reading = tokio::spawn(async move {
        loop {
            alive.ask(1).await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    let caller = cluster.node(Node::builder("a")).await;
    let peers = caller.peers();
    peers.wait_for(&["GET/hung", "GET/alive"]).await;
    for url in ["GET/hung", "GET/alive"] {
        let call = peers.call::<Value>(url, &()).timeout(Duration::from_millis(50));
        assert!(call.await.is_err());
    }
    peers.wait_until(|nodes| nodes.iter().any(|node| node.name == "hung" && node.suspect)).await;
    peers.wait_until(|nodes| nodes.iter().all(|node| node.name != "hung")).await;
    let names: Vec<_> = cluster.peer().await.ask(1).await.iter().map(|entry| entry["name"].clone()).collect();
    assert_eq!(names, ["alive", "a"], "the other one reads");
    reading.abort();
    drop((hung, silent));
}

/// A way to an address on which every piece takes its time.
async fn slow_way_to(address: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(address).await.unwrap();
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::spawn(relay(near_read, far_write));
            tokio::spawn(relay(far_read, near_write));
        }
    });
    here
}

async fn relay(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 4096];
    // 100, 200, 300 ms in turn.
    for turn in 0.. {
        let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
        sleep(Duration::from_millis(100 + turn % 3 * 100)).await;
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn pt7_a_slow_network_evicts_no_node() {
    let cluster = Cluster::start();
    let mut watcher = joined(&cluster, "watcher").await;
    let slow = slow_way_to(cluster.address).await;
    let _node = Node::builder("slow").distributor(slow.to_string()).start().await.unwrap();
    watcher.list_with("slow").await;
    let until = Instant::now() + Duration::from_secs(12);
    while let Some(left) = until.checked_duration_since(Instant::now())
        && let Ok(names) = timeout(left, watcher.next_list()).await
    {
        assert_eq!(names, ["watcher", "slow"]);
    }
}

#[tokio::test]
async fn bc13_a_copy_that_has_drifted_is_sent_again() {
    let cluster = Cluster::start();
    let mut node = joined(&cluster, "node").await;
    let revision = node.replica().revision().unwrap();
    let digest = node.replica().digest();
    let pong = |digest| {
        let mut out = bytes::BytesMut::new();
        protocol::write_pong(&mut out, protocol::Pong { revision: Some(revision), digest: Some(digest) });
        out
    };
    node.send(pong(digest)).await;
    node.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": 5 })).await;
    assert_eq!(node.next().await.unwrap()["key"], 5, "nothing but the answer");
    node.send(pong(protocol::Digest(digest.0 ^ 1))).await;
    assert_eq!(node.next_list().await, ["node"], "the list again, though nothing has changed");
}
