//! One hostile peer of the Distributor does not affect others.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tests::{Flood, Peer, Process, eventually, patient};
use tokio::time::timeout;

use crate::programs::DISTRIBUTOR;

/// How long the Distributor may work until others are told: far more than a change takes, and far
/// less than it took when one peer could keep all others waiting.
const MAX_WORK_TIME: Duration = Duration::from_secs(3);

/// A Distributor in a process of its own, with its own memory and thread.
async fn distributor(arguments: &[&str]) -> (Process, SocketAddr) {
    let process = Process::start(DISTRIBUTOR, &[&["--listen", "127.0.0.1:0"], arguments].concat());
    let address = format!("127.0.0.1:{}", process.port().await).parse().unwrap();
    (process, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn fr14_a_connection_that_never_pauses_delays_no_peer() {
    let pad = |bytes: usize| "1,".repeat(bytes / 2) + "1";
    let old_name = "\u{200b}".repeat(20_000);
    let old: String = (1..=64)
        .map(|port| {
            let params = format!(r#"{{"port":{port},"name":"{port}{old_name}","urls":[]}}"#);
            format!(r#"{{"uri":"/distributes","method":"POST","key":0,"params":{params}}}¶"#)
        })
        .collect();
    let floods = [
        ("registrations with long names of version 1", old),
        ("unknown packets of 60 kB", format!(r#"{{"uri":"/x","method":"GET","params":[{}]}}¶"#, pad(60_000))),
        (
            "large registrations of version 2",
            format!(
                r#"{{"uri":"/distributes","method":"POST","params":{{"port":1,"name":"big","$":{{"meta":[{}]}}}},"$":{{}}}}¶"#,
                pad(60_000)
            ),
        ),
        ("questions for the list", r#"{"uri":"/distributes","method":"GET","key":7}¶"#.repeat(500)),
        (
            "joins and leaves",
            r#"{"uri":"/distributes","method":"POST","params":{"port":1,"name":"a","$":{"id":"x"}},"$":{}}¶{"uri":"/distributes","method":"DELETE","$":{}}¶"#.repeat(100),
        ),
    ];
    let (process, address) = distributor(&[]).await;
    for (flood_number, (what, packets)) in floods.into_iter().enumerate() {
        let mut watcher = Peer::connect(address).await;
        watcher.register_v2("watcher", 9000, "watcher", None).await;
        watcher.list_with("watcher").await;
        let flood = Flood::start(address, b"", packets.as_bytes());
        eventually("the flood has begun", async || flood.bytes() > 1 << 16).await;
        for round in 0..5 {
            let mut node = Peer::connect(address).await;
            // A new node for each change, because a node that comes and goes has to wait.
            let name = format!("n{flood_number}{round}");
            node.register_v2(&name, 9001, &name, None).await;
            let told = process.while_it_works(MAX_WORK_TIME, watcher.list_with(&name)).await;
            assert!(told.is_some(), "{what}: not told of a join\n{}", tail(&process));
            node.send_packet(&json!({ "uri": "/distributes", "method": "DELETE", "$": {} })).await;
            let told = process.while_it_works(MAX_WORK_TIME, watcher.list_without(&name)).await;
            assert!(told.is_some(), "{what}: not told of a leave\n{}", tail(&process));
        }
    }
}

/// A Distributor whose list is nearly as long as allowed: 128 nodes of the service `big`, of 60 kB
/// each, which stay.
async fn full() -> (Process, SocketAddr) {
    let (process, address) = distributor(&[]).await;
    for port in 1..=128 {
        let mut node = Peer::connect(address).await;
        let dollar = json!({ "v": 2, "id": format!("big{port}"), "meta": "x".repeat(60_000) });
        let params = json!({ "port": port, "name": "big", "$": dollar });
        let packet = json!({ "uri": "/distributes", "method": "POST", "params": params, "$": { "needs": ["none"] } });
        node.send_packet(&packet).await;
        // It answers pings.
        tokio::spawn(async move {
            loop {
                node.next_list().await;
            }
        });
    }
    let mut watcher = Peer::connect(address).await;
    watcher.register_v2("watcher", 1, "watcher", None).await;
    while watcher.next_list().await.len() <= 128 {}
    (process, address)
}

fn rss_bytes(process: &Process) -> u64 {
    let stat = procfs::process::Process::new(process.pid().as_raw_nonzero().get()).unwrap().stat().unwrap();
    stat.rss * procfs::page_size()
}

#[tokio::test(flavor = "multi_thread")]
async fn cr6_peers_that_do_not_read_share_a_budget() {
    const PEERS: usize = 100;
    /// Each of them was owed 7.7 MB, so a hundred would take more than 770.
    const MAX_BYTES: u64 = 450 << 20;
    for what in ["key", "needs", "history"] {
        let (process, address) = full().await;
        let mut peers = Vec::new();
        for number in 0..PEERS {
            let mut peer = Peer::connect_narrow(address).await;
            let packet = match what {
                "key" => json!({ "uri": "/distributes", "method": "GET", "key": format!("k{number}"), "$": {} }),
                "needs" => {
                    let params = json!({ "port": 1, "name": "own", "$": { "id": format!("own{number}") } });
                    let needs = json!({ "needs": ["big", format!("u{number}")] });
                    json!({ "uri": "/distributes", "method": "POST", "params": params, "$": needs })
                }
                _history => json!({ "uri": "/distributes/history", "method": "GET", "key": 1, "params": {}, "$": {} }),
            };
            peer.send_packet(&packet).await;
            peers.push(peer);
        }
        // A node that reads is still told of another one.
        let mut node = Peer::connect(address).await;
        let params = json!({ "port": 9, "name": "reads", "$": { "id": "reads" } });
        let packet = json!({ "uri": "/distributes", "method": "POST", "params": params, "$": { "needs": ["late"] } });
        node.send_packet(&packet).await;
        node.next_list().await;
        let mut late = Peer::connect(address).await;
        late.register_v2("late", 10, "late", None).await;
        assert!(
            process.while_it_works(MAX_WORK_TIME, node.list_with("late")).await.is_some(),
            "{what}: {}",
            tail(&process)
        );
        assert!(rss_bytes(&process) < MAX_BYTES, "{what}: {} bytes", rss_bytes(&process));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cr6_unfinished_packets_share_a_budget() {
    const PEERS: usize = 2000;
    /// The packets with room, slightly more than 4 KiB of each other packet, and connections.
    const MAX_BYTES: u64 = 64 << 20;
    let (process, address) = distributor(&["--frame-timeout", "1m", "--max-incoming-bytes", "16777216"]).await;
    let unfinished = format!(r#"{{"uri":"/distributes","method":"POST","params":"{}"#, "x".repeat(60_000));
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = Peer::connect(address).await;
        peer.send(&unfinished).await;
        peers.push(peer);
    }
    // A registration that takes several reads has to wait until some of these are cut, which
    // happens after 2 s now, not after a minute.
    let mut node = Peer::connect(address).await;
    let params = json!({ "port": 9, "name": "long", "$": { "id": "long", "meta": "x".repeat(50_000) } });
    node.send_packet(&json!({ "uri": "/distributes", "method": "POST", "params": params, "$": {} })).await;
    node.list_with("long").await;
    assert!(rss_bytes(&process) < MAX_BYTES, "{} bytes", rss_bytes(&process));
}

#[tokio::test]
async fn cr5_connections_without_a_registration_are_evicted() {
    let config = distributor::Config { max_connections: 20, ..patient() };
    let cluster = tests::Cluster::with(config);
    let mut silent = Vec::new();
    for _ in 0..19 {
        silent.push(cluster.peer().await);
    }
    let mut node = cluster.registered("there").await;
    for name in ["first", "second"] {
        eventually("there is room", async || {
            let mut other = cluster.peer().await;
            other.register(name, 1).await;
            let is_told = timeout(Duration::from_millis(200), node.list_with(name)).await.is_ok();
            silent.push(other);
            is_told
        })
        .await;
    }
    assert!(node.names().contains(&"there".to_owned()), "a registered node stays");
}

/// The last lines of what a process has printed.
fn tail(process: &Process) -> String {
    let output = process.output();
    let lines: Vec<_> = output.lines().rev().take(10).map(|line| line.chars().take(200).collect::<String>()).collect();
    lines.join("\n")
}
