//! Many nodes at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Resource, getrlimit};
use serde_json::json;
use tests::{Cluster, Peer, Process, can_run, eventually};
use tokio::task::JoinSet;

use crate::programs::DISTRIBUTOR;

/// All nodes connect and register at once; each is done when its list has all of them. Returns the
/// bytes they read together.
async fn cold_start(nodes: usize) -> usize {
    let cluster = Cluster::start();
    let mut tasks = JoinSet::new();
    for number in 0..nodes {
        let address = cluster.address;
        tasks.spawn(async move {
            let mut peer = Peer::connect(address).await;
            let urls = ["POST/goods", "GET/goods", "DELETE/goods"];
            peer.register_with(json!({ "port": 9010, "name": format!("node-{number}"), "urls": urls })).await;
            let mut bytes = 0;
            loop {
                let list = peer.next_bytes().await;
                bytes += list.len();
                if list.windows(8).filter(|window| window == b"\"port\":9").count() == nodes {
                    return (peer, bytes);
                }
            }
        });
    }
    tasks.join_all().await.into_iter().map(|(_, bytes)| bytes).sum()
}

#[tokio::test]
async fn five_hundred_old_nodes_that_start_at_once_are_soon_complete() {
    let bytes = cold_start(500).await;
    // The version 1 Distributor sent 9.3 GB. A list for each is 500 × 500 records of 120 bytes.
    let one_list_each = 500 * 500 * 120;
    assert!(bytes <= 3 * one_list_each, "{bytes} bytes");
}

#[tokio::test]
async fn bc2_new_nodes_that_start_together_are_told_of_each_other_once() {
    const NODES: usize = 300;
    let cluster = Cluster::start();
    let mut tasks = JoinSet::new();
    for number in 0..NODES {
        let address = cluster.address;
        tasks.spawn(async move {
            let mut peer = Peer::connect(address).await;
            let name = format!("node-{number}");
            peer.register_v2(&name, 1000 + u16::try_from(number).unwrap(), &name, None).await;
            let mut updates = 1;
            while peer.next_list().await.len() < NODES {
                updates += 1;
            }
            (peer, updates)
        });
    }
    // The first nodes are told of the others in a few rounds, not one by one.
    let most = tasks.join_all().await.into_iter().map(|(_, updates)| updates).max().unwrap();
    assert!(most < NODES / 2, "{most} lists and changes for {NODES} joins");
}

const SESSIONS: usize = 10_000;
const MAX_RSS_BYTES: u64 = 200 << 20;
/// So many nodes join, one after the other, and leave.
const CHANGES: u16 = 30;
/// How many changes a reader may not have read yet when the next one is made. One thread reads for
/// all: on a busy machine it would come so late to a ping that its node passed for hung.
const MAX_BEHIND: u16 = 1;

/// How soon all are told is a figure: `drill frozen --nodes 10000` prints it.
#[tokio::test]
async fn ov10_ten_thousand_sessions_are_told_of_a_hundred_changes_a_second() {
    let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if !can_run("open-files", "15,000 have to be allowed (`ulimit -Hn`)", descriptors >= SESSIONS as u64 * 3 / 2) {
        return;
    }
    net::raise_open_files();
    let program = DISTRIBUTOR;
    let mut flags =
        vec!["--listen", "127.0.0.1:0", "--max-connections", "12000", "--registrations-per-second", "100000"];
    // One thread reads for all nodes, beside other tests: a late answer is this test's fault, not
    // that of a hung node.
    flags.extend(["--pings-per-second", "1", "--register-timeout", "1m", "--write-timeout", "1m"]);
    // Nor must a node that registers late be greeted with the whole list: reading it takes the time
    // for which others wait.
    flags.extend(["--greet-after", "1m"]);
    let distributor = Process::start(program, &flags);
    let address = format!("127.0.0.1:{}", distributor.port().await).parse().unwrap();
    // Each node is interested in one service only; otherwise ten thousand long lists would take
    // most of the time.
    let join = async move |name: &str, port: u16, id: String| {
        let mut peer = Peer::connect(address).await;
        let params = json!({ "port": port, "name": name, "urls": [], "$": { "v": 2, "id": id } });
        let packet = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params, "$": { "needs": ["changing"] } });
        peer.send_packet(&packet).await;
        peer
    };
    let last = 65_535;
    let newest: Arc<[AtomicU16]> = (0..SESSIONS).map(|_| AtomicU16::new(0)).collect();
    let mut sessions = JoinSet::new();
    let joined = Arc::new(tokio::sync::Semaphore::new(0));
    for number in 0..SESSIONS {
        let (joined, newest) = (Arc::clone(&joined), Arc::clone(&newest));
        let port = u16::try_from(1 + number).unwrap();
        sessions.spawn(async move {
            let mut peer = join("reader", port, format!("reader-{number}")).await;
            peer.next_list().await;
            joined.add_permits(1);
            loop {
                peer.next_list().await;
                let ports = ports(&peer);
                if ports == [last] {
                    return peer;
                }
                if let Some(port) = ports.into_iter().max() {
                    newest[number].store(port, Ordering::Relaxed);
                }
            }
        });
    }
    let _ = joined.acquire_many(u32::try_from(SESSIONS).unwrap()).await.unwrap();
    let mut changing = std::collections::VecDeque::new();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(10));
    for port in 1..=CHANGES {
        ticks.tick().await;
        let oldest = port.saturating_sub(MAX_BEHIND);
        let all_read = async || newest.iter().all(|newest| newest.load(Ordering::Relaxed) >= oldest);
        eventually("the readers keep up", all_read).await;
        changing.push_back(join("changing", port, format!("changing-{port}")).await);
        if changing.len() > 1 {
            ticks.tick().await;
            changing.pop_front();
        }
    }
    drop(changing);
    let _last = join("changing", last, "last".to_owned()).await;
    assert_eq!(sessions.join_all().await.len(), SESSIONS, "all nodes know the truth in the end");
    let process = procfs::process::Process::new(distributor.pid().as_raw_nonzero().get()).unwrap();
    let rss = process.stat().unwrap().rss * procfs::page_size();
    assert!(rss < MAX_RSS_BYTES, "{rss} bytes");
}

fn ports(peer: &Peer) -> Vec<u16> {
    let port = |entry: &str| serde_json::from_str::<serde_json::Value>(entry).unwrap()["port"].as_u64().unwrap();
    peer.replica().entries().map(|(_, entry)| u16::try_from(port(entry)).unwrap()).collect()
}
