//! The checks of `nodeconform`, on our nodes, on a version 1 service with one line changed, and on
//! unchanged ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tests::{Cluster, Process, goods, legacy_peers_can_run};

use crate::programs::{NODE, NODECONFORM};

/// How often a check is made that does not show what is known.
const MAX_TRIES: usize = 5;

fn begin(address: SocketAddr, arguments: &[&str]) -> Process {
    let address = address.to_string();
    Process::start(NODECONFORM, &[&[address.as_str()], arguments].concat())
}

/// Verdicts by the name of their check, and the exit code.
async fn end(mut process: Process) -> (BTreeMap<String, String>, Option<i32>) {
    let code = process.ended().await.code();
    // Its last lines may be read after its end.
    process.line(if code == Some(2) { "no process" } else { "total: " }).await;
    let output = process.output();
    let output = output.split("total: ").next().unwrap_or_default();
    let verdicts = output.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    (verdicts.map(|(verdict, name)| (name, verdict)).collect(), code)
}

pub(super) async fn conform(address: SocketAddr, arguments: &[&str]) -> (BTreeMap<String, String>, Option<i32>) {
    end(begin(address, arguments)).await
}

pub(super) fn with<'a>(verdicts: &'a BTreeMap<String, String>, verdict: &str) -> Vec<&'a str> {
    verdicts.iter().filter(|(_, seen)| *seen == verdict).map(|(name, _)| name.as_str()).collect()
}

/// Has the program play the Distributor of a node that `start` starts.
async fn register_with(arguments: &[&str], start: impl AsyncFnOnce(SocketAddr) -> Process) {
    let checker = Process::start(NODECONFORM, &[&["--as-distributor", "127.0.0.1:0"], arguments].concat());
    let distributor = SocketAddr::new("127.0.0.1".parse().unwrap(), checker.port().await);
    let node = start(distributor).await;
    let (verdicts, code) = end(checker).await;
    assert_eq!((with(&verdicts, "FAILED"), code), (Vec::<&str>::new(), Some(0)), "{}", node.output());
    let slow: &[&str] = if arguments.is_empty() { &["silence"] } else { &[] };
    assert_eq!(with(&verdicts, "skipped"), slow);
    assert!(!with(&verdicts, "ok").is_empty());
}

/// Checks the registry half of a node that `start` starts at a Distributor.
pub(super) async fn registry_conform(start: impl AsyncFn(SocketAddr) -> Process) {
    let silence = ["--only", "silence"];
    tokio::join!(register_with(&[], &start), register_with(&silence, &start));
}

#[tokio::test]
async fn our_nodes_keep_the_registry_half() {
    registry_conform(async |distributor| Process::start(NODE, &[&distributor.to_string()])).await;
}

#[tokio::test]
async fn our_nodes_keep_the_protocol() {
    let cluster = Cluster::start();
    let node = Process::start(NODE, &[&cluster.address.to_string()]);
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), node.port().await);
    let (verdicts, code) = conform(address, &["--url", "GET/who"]).await;
    assert_eq!(with(&verdicts, "FAILED"), Vec::<&str>::new());
    assert_eq!((with(&verdicts, "skipped").len(), code), (0, Some(0)));
    assert!(verdicts.len() > 20, "{verdicts:?}");
    // One answer with three parts, and one without end.
    for (params, seen) in [(r#"{"to":3}"#, "the end, as number 4"), ("{}", "5 parts and more")] {
        let mut process = begin(address, &["--url", "GET/count", "--params", params, "--only", "stream"]);
        process.line(seen).await;
        assert_eq!(process.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn c16_an_old_service_with_one_line_changed_keeps_the_protocol() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let (_service, port) = goods(cluster.address).await;
    let (verdicts, code) = conform(([127, 0, 0, 1], port).into(), &["--url", "DELETE/goods"]).await;
    assert_eq!((with(&verdicts, "FAILED"), code), (Vec::<&str>::new(), Some(0)));
}

#[tokio::test]
async fn what_old_services_do_is_known() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let port = cluster.address.port().to_string();
    let start = async || {
        let urls = "POST/goods,GET/goods,DELETE/goods";
        let arguments = ["--name", "goods", "--port", "0", "--urls", urls, "--distributor", &port];
        let service = Process::legacy("service", &arguments);
        let address = SocketAddr::new("127.0.0.1".parse().unwrap(), service.port().await);
        (service, address)
    };
    let (_service, address) = start().await;
    let (all, _) = conform(address, &["--version", "1"]).await;
    let skipped = [
        "client-request",
        "later-packets",
        "mixed-versions",
        "stream",
        "version2-failure",
        "version2-form",
        "wrong-instance",
    ];
    let failed = [
        "blank-frames",
        "broken-json",
        "broken-text",
        "escaped-delimiter",
        "key-at-top",
        "key-long",
        "missing-params",
        "no-object",
        "old-log",
        "one-byte-pieces",
        "one-way",
        "split-anywhere",
        "unknown-uri",
    ];
    assert!(skipped.iter().chain(&failed).all(|name| all.contains_key(*name)), "{all:?}");
    for name in all.keys() {
        let name = name.as_str();
        let expected = match () {
            () if skipped.contains(&name) => "skipped",
            () if failed.contains(&name) => "FAILED",
            () => "ok",
        };
        // A busy machine may answer late, or read in one go what came in pieces: that is not what a
        // service is known for.
        let mut seen = String::new();
        for _ in 0..MAX_TRIES {
            // Some of the checks kill it: each has one of its own.
            let (_service, address) = start().await;
            let arguments = ["--url", "DELETE/goods", "--version", "1", "--only", name];
            seen = conform(address, &arguments).await.0.remove(name).unwrap();
            if seen == expected {
                break;
            }
        }
        assert_eq!(seen, expected, "{name}");
    }
}

#[tokio::test]
async fn e16_of_old_code_it_is_said_what_the_mesh_copes_with() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let port = cluster.address.port().to_string();
    let urls = "POST/goods,GET/goods,DELETE/goods";
    let arguments = ["--name", "goods", "--port", "0", "--urls", urls, "--distributor", &port];
    let service = Process::legacy("service", &arguments);
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), service.port().await);
    // With --only that would be done.
    let mut checked = begin(address, &["--url", "DELETE/goods", "--version", "1"]);
    assert_eq!(checked.ended().await.code(), Some(1));
    checked.line("total: ").await;
    let output = checked.output();
    let first = output.lines().next().unwrap();
    assert!(first.starts_with("FAILED   missing-params") && first.contains("the mesh copes"), "{output}");
    checked.line("the mesh copes with 1 of the failures").await;
    // The example in the old style keeps all of it.
    let cluster_goods = goods(cluster.address).await;
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), cluster_goods.1);
    let mut checked = begin(address, &["--url", "DELETE/goods", "--version", "1"]);
    assert_eq!(checked.ended().await.code(), Some(0));
    let line = checked.line("unknown-uri").await;
    assert!(line.starts_with("ok"), "{line}");
    let log = checked.line("old-log").await;
    assert!(log.starts_with("skipped") && log.contains("carry it out as a POST"), "{log}");
    drop(service);
}

#[tokio::test]
async fn without_a_node_the_exit_code_is_2() {
    let address = ([127, 0, 0, 1], tests::pick_port()).into();
    assert_eq!(conform(address, &[]).await.1, Some(2));
}
