//! Waiting until other nodes know of a node.

use std::time::Duration;

use node_sdk::{Node, Visibility};
use tests::{Cluster, Process, eventually};

use super::joined;
use crate::programs::NODE;

#[tokio::test]
async fn a_visibility_wait_counts_nodes_and_names_missing_ones() {
    let cluster = Cluster::start();
    let others = [cluster.node(Node::builder("one")).await, cluster.node(Node::builder("two")).await];
    others[0].peers().wait_until(|nodes| nodes.len() == 2).await;
    let node = cluster.node(Node::builder("new")).await;
    let visibility = node.wait_visible(100, Duration::from_secs(20)).await;
    assert_eq!(visibility, Visibility { seen: 3, of: 3, enough: true, missing: vec![] });
    // It reads, but never acknowledges.
    let _laggard = joined(&cluster, "laggard").await;
    node.peers().wait_until(|nodes| nodes.len() == 4).await;
    node.set_weight(70);
    let missing = vec!["laggard 127.0.0.1:1".to_owned()];
    eventually("only the laggard is missing", async || {
        let visibility = node.wait_visible(100, Duration::from_millis(300)).await;
        visibility == Visibility { seen: 3, of: 4, enough: false, missing: missing.clone() }
    })
    .await;
    assert!(node.wait_visible(75, Duration::from_secs(20)).await.enough);
}

#[tokio::test]
async fn a_process_says_when_all_nodes_know_it() {
    let cluster = Cluster::start();
    let other = cluster.node(Node::builder("other")).await;
    other.peers().wait_until(|nodes| nodes.len() == 1).await;
    let process = Process::start(NODE, &[&cluster.address.to_string(), "100"]);
    process.line(": 2 of 2").await;
    assert!(other.peers().nodes().iter().any(|node| node.name == "who"), "it is not reported too early");
    process.line("visible").await;
    assert_eq!(process.terminate().await.code(), Some(0));
    // A node that does not acknowledge keeps it waiting, and SIGTERM ends that too.
    let _laggard = joined(&cluster, "laggard").await;
    let process = Process::start(NODE, &[&cluster.address.to_string(), "100"]);
    other.peers().wait_until(|nodes| nodes.iter().any(|node| node.name == "who")).await;
    assert!(!process.output().contains("ready at"));
    assert_eq!(process.terminate().await.code(), Some(0));
}
