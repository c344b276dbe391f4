//! Hedges: a call that has no response in time is made a second time, at another node. The first
//! response counts.
//!
//! `cargo run -p node-sdk --features testing --example hedges`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{Node, ServiceError, State};
use tokio::time::{Instant, sleep};

/// How long each of two nodes takes for the same answer.
async fn price(takes: State<Duration>) -> Result<u64, ServiceError> {
    sleep(*takes).await;
    Ok(42)
}

// With paused time, a second passes as soon as everything waits for it.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mesh = TestMesh::start();
    let node = |takes: Duration| Node::builder("prices").state(takes).route("GET/price", price);
    let _slow = mesh.node(node(Duration::from_secs(1))).await?;
    let _quick = mesh.node(node(Duration::from_millis(1))).await?;
    let caller = mesh.node(Node::builder("caller")).await?;
    let peers = caller.peers();
    peers.wait_until(|nodes| nodes.len() == 3).await;

    for attempt in 1..=4 {
        let start = Instant::now();
        let price: u64 = peers.call("GET/price", &()).hedge(Duration::from_millis(20)).await?;
        println!("call {attempt}: {price} after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_millis(100), "the quick node has answered");
    }
    Ok(())
}
