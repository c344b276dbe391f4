//! A Distributor that stops, freezes, or is missing, and what its nodes do meanwhile.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distributor::Config;
use node_sdk::Node;
use rustix::process::Signal;
use serde_json::json;
use tests::{Cluster, Listener, Peer, Process, eventually, log_to, patient, pick_port};
use tokio::time::{Instant, sleep, timeout};

use super::who;
use crate::programs::{DISTRIBUTOR, NODE};

async fn distributor_on(port: u16) -> Process {
    let process = Process::start(DISTRIBUTOR, &["--listen", &format!("127.0.0.1:{port}")]);
    process.line("listening").await;
    process
}

#[tokio::test]
async fn rs5_a_distributor_that_was_stopped_evicts_no_node() {
    /// Longer than a node that answers no ping stays listed.
    const STOP_TIME: Duration = Duration::from_secs(10);
    let distributor = Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0"]);
    let address = format!("127.0.0.1:{}", distributor.port().await);
    let nodes = [Process::start(NODE, &[&address]), Process::start(NODE, &[&address])];
    let mut late = Peer::connect(address.parse().unwrap()).await;
    late.register_v2("late", 1, "late", None).await;
    let mut watcher = Peer::connect(address.parse().unwrap()).await;
    watcher.register_v2("watcher", 1, "watcher", None).await;
    while watcher.next_list().await.len() < 4 {}
    // This ping is answered only when all have been judged, which goes before the next ping.
    while late.next().await.expect("a ping")["uri"] != "$ping" {}
    distributor.signal(Signal::STOP);
    sleep(STOP_TIME).await;
    distributor.signal(Signal::CONT);
    watcher.next_ping().await;
    late.pong().await;
    for _ in 0..3 {
        assert_eq!(late.ask(1).await.len(), 4);
        watcher.next_ping().await;
        assert_eq!(watcher.names().len(), 4);
    }
    assert!(nodes.iter().all(|node| !node.output().contains("lost")), "nor do they give it up");
}

#[tokio::test]
async fn bc5_rs4_a_restarted_distributor_is_rebuilt_from_its_nodes() {
    let port = pick_port();
    let distributor = distributor_on(port).await;
    let address = format!("127.0.0.1:{port}");
    let node = |name: &str| Node::builder(name).distributor(&address);
    let nodes =
        [node("one").start().await.unwrap(), node("two").start().await.unwrap(), node("three").start().await.unwrap()];
    for node in &nodes {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    // All nodes have to be in the same state when it dies.
    let _ = nodes[0].wait_visible(100, Duration::from_secs(20)).await;
    distributor.kill().await;
    eventually("the loss is noticed", async || nodes.iter().all(|node| node.peers().stale_for().is_some())).await;
    let distributor = distributor_on(port).await;
    distributor.line("restored").await;
    // A peer of version 1 or 2 that asks now finds all nodes, though some are still on their way.
    let mut old = Peer::connect(address.parse().unwrap()).await;
    let mut names = old.next_list().await;
    // They have registered in any order.
    names.sort_unstable();
    assert_eq!(names, ["one", "three", "two"]);
    eventually("they are back", async || nodes.iter().all(|node| node.peers().stale_for().is_none())).await;
    assert!(nodes.iter().all(|node| node.peers().nodes().len() == 3));
}

#[tokio::test]
async fn pt1_without_a_distributor_nodes_call_each_other_and_know_since_when() {
    let cluster = Cluster::start();
    let _service = cluster.node(Node::builder("who").route("GET/who", who)).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/who"]).await;
    assert_eq!(caller.peers().stale_for(), None);
    cluster.stop().await;
    eventually("it is noticed", async || caller.peers().stale_for().is_some()).await;
    for _ in 0..100 {
        assert_eq!(caller.peers().call::<u16>("GET/who", &()).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn a_node_with_a_cache_calls_before_it_reaches_a_distributor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peers");
    let cluster = Cluster::start();
    let _service = cluster.node(Node::builder("who").route("GET/who", who)).await;
    let before = cluster.node(Node::builder("caller").cache(&file)).await;
    before.peers().wait_for(&["GET/who"]).await;
    before.stop().await;
    eventually("it is written", async || file.exists()).await;
    let nowhere = format!("127.0.0.1:{}", pick_port());
    let after = Node::builder("caller").distributor(nowhere).cache(&file).start().await.unwrap();
    assert_eq!(after.peers().call::<u16>("GET/who", &()).await.unwrap(), 7);
    // A damaged file counts as none.
    std::fs::write(&file, "{\"v\":1").unwrap();
    let damaged = Node::builder("caller").distributor("127.0.0.1:1").cache(&file).start().await.unwrap();
    assert!(damaged.peers().nodes().is_empty());
}

#[tokio::test]
async fn rs18_a_node_retries_calmly_without_a_distributor() {
    let listener = Listener::bind().await;
    let _node = Node::builder("calm").distributor(format!("127.0.0.1:{}", listener.port())).start().await.unwrap();
    let until = Instant::now() + Duration::from_secs(8);
    let mut attempts = 0;
    while let Some(left) = until.checked_duration_since(Instant::now())
        && let Ok(peer) = timeout(left, listener.accept()).await
    {
        attempts += 1;
        peer.close();
    }
    // Each loss is followed by a random pause within three seconds, and no two attempts overlap.
    assert!((2..=12).contains(&attempts), "{attempts} attempts in 8 s");
}

#[tokio::test]
async fn rs18_the_first_node_of_the_list_retries_calmly_too() {
    let listener = Listener::bind().await;
    let _node = Node::builder("first").distributor(format!("127.0.0.1:{}", listener.port())).start().await.unwrap();
    let until = Instant::now() + Duration::from_secs(6);
    let mut attempts = 0;
    while let Some(left) = until.checked_duration_since(Instant::now())
        && let Ok(mut peer) = timeout(left, listener.accept()).await
    {
        attempts += 1;
        let registration = peer.next().await.unwrap();
        let mut entry = registration["params"].clone();
        entry["host"] = json!("::ffff:127.0.0.1");
        let stamp = json!({ "epoch": 5, "rev": attempts, "ids": [attempts] });
        peer.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [entry], "$": stamp }))
            .await;
        peer.close();
    }
    assert!((2..=6).contains(&attempts), "{attempts} attempts in 6 s");
}

/// Local ports from which a process connects to `port` without an answer yet.
fn unanswered(port: u16) -> Vec<u16> {
    let sockets = procfs::net::tcp().unwrap().into_iter();
    let is_one = |socket: &procfs::net::TcpNetEntry| {
        socket.remote_address.port() == port && socket.state == procfs::net::TcpState::SynSent
    };
    sockets.filter(is_one).map(|socket| socket.local_address.port()).collect()
}

#[tokio::test]
async fn pt12_an_unanswered_connect_is_given_up_and_retried() {
    let (hole, port, fillers) = Listener::black_hole().await;
    let before = unanswered(port);
    let node = Node::builder("patient").distributor(format!("127.0.0.1:{port}")).start().await.unwrap();
    let mut attempts = BTreeSet::new();
    while attempts.len() < 3 {
        // The system's table changes while it is read, so a line may occur twice.
        let now: BTreeSet<_> = unanswered(port).into_iter().filter(|port| !before.contains(port)).collect();
        assert!(now.len() <= 1, "one attempt at a time: {now:?}");
        attempts.extend(now);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(node.peers().stale_for().is_some());
    drop((hole, fillers));
    let cluster = Cluster::on(format!("127.0.0.1:{port}").parse().unwrap(), patient());
    node.peers().wait_until(|nodes| nodes.len() == 1).await;
    drop(cluster);
}

#[tokio::test]
async fn rg9_a_node_that_registers_during_a_stop_is_told_to_come_back() {
    let cluster = Cluster::start();
    let mut late = cluster.peer().await;
    assert_eq!(late.next_list().await.len(), 0);
    let stopping = tokio::spawn(cluster.stop());
    let mut refused = None;
    while let Some(packet) = {
        late.register_v2("late", 1, "late", None).await;
        late.next().await
    } {
        if packet["$"]["r"] == "draining" {
            refused = packet["$"]["ra"].as_u64();
        }
    }
    assert_eq!(refused, Some(3000));
    stopping.await.unwrap();
}

#[tokio::test]
async fn rs13_rejected_nodes_come_again_and_all_join() {
    let config = Config { registrations_per_second: 20, registration_burst: 5, ..patient() };
    let cluster = Cluster::with(config);
    let mut nodes = Vec::new();
    for _ in 0..20 {
        nodes.push(cluster.node(Node::builder("many")).await);
    }
    nodes[0].peers().wait_until(|nodes| nodes.len() == 20).await;
}

/// A log that panics at the first line with all of these texts, and keeps the lines.
#[derive(Clone)]
struct PanickingLog(&'static [&'static str], Arc<Mutex<String>>);

impl io::Write for PanickingLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let is_first = {
            let mut lines = self.1.lock().unwrap();
            let is_there = |lines: &str| lines.lines().any(|line| self.0.iter().all(|text| line.contains(text)));
            let was_there = is_there(&lines);
            lines.push_str(&text);
            !was_there && is_there(&lines)
        };
        assert!(!is_first, "a fault of this test");
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PanickingLog {
    fn start(texts: &'static [&'static str]) -> (Arc<Mutex<String>>, impl Drop) {
        let log = Self(texts, Arc::default());
        let lines = Arc::clone(&log.1);
        (lines, log_to("distributor=info", move || log.clone()))
    }
}

#[tokio::test]
async fn rs9_a_panic_in_the_task_of_a_connection_costs_that_node_only() {
    let (lines, _log) = PanickingLog::start(&["joined", "name=bomb"]);
    let cluster = Cluster::start();
    let mut other = cluster.registered("other").await;
    let mut bomb = cluster.peer().await;
    bomb.register("bomb", 2).await;
    while bomb.next().await.is_some() {}
    other.ask_until("its node has left", |names| names.len() == 1).await;
    eventually("the log says so", async || lines.lock().unwrap().contains("the task of a connection panicked")).await;
    let _third = cluster.registered("third").await;
    assert_eq!(other.list_with("third").await, ["other", "third"]);
}

#[tokio::test]
async fn rs9_a_panic_in_a_task_of_the_registry_ends_the_distributor() {
    let (_lines, _log) = PanickingLog::start(&["suspect: "]);
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let distributor = tokio::spawn(distributor::serve(vec![listener], Config::default(), stop));
    // It answers no ping. The task that sees that cannot go on, and nothing would see the next.
    let mut silent = Peer::connect(address).await;
    silent.register_v2("silent", 1, "i", None).await;
    let ended = timeout(tests::PATIENCE, distributor).await.expect("it ends");
    assert!(ended.unwrap_err().is_panic(), "rather than serve half");
    while silent.next().await.is_some() {}
}
