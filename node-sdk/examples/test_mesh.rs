//! A mesh inside a test: a Distributor and nodes in one process, on a clock that can be paused.
//! This program could be the body of a `#[tokio::test(start_paused = true)]`.
//!
//! `cargo run -p node-sdk --features testing --example test_mesh`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{CallError, Node, ServiceError};

async fn hello() -> Result<String, ServiceError> {
    Ok("Hello!".to_owned())
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut mesh = TestMesh::start();
    let one = mesh.node(Node::builder("greeter").route("GET/hello", hello)).await?;
    let two = mesh.node(Node::builder("greeter").route("GET/hello", hello)).await?;
    let caller = mesh.node(Node::builder("caller")).await?;
    let peers = caller.peers();
    peers.wait_until(|nodes| nodes.len() == 3).await;
    let greets = async || peers.call::<String>("GET/hello", &()).timeout(Duration::from_secs(2)).await;
    assert_eq!(greets().await?, "Hello!");

    // A node is killed: the other answers.
    one.kill();
    assert_eq!(greets().await?, "Hello!");
    println!("one of two nodes is gone, and calls are answered");

    // The Distributor is killed: nodes go on with what they know.
    mesh.kill_distributor();
    assert_eq!(greets().await?, "Hello!");
    println!("the Distributor is gone, and calls are answered");

    // A cable is cut: the call ends by its timeout. With paused time this takes no time.
    two.partition(&caller, true);
    let lost = greets().await;
    println!("the last node cannot be reached: {lost:?}");
    assert!(matches!(lost, Err(CallError::Deadline { .. })), "{lost:?}");

    // It is mended, and all find each other again.
    two.partition(&caller, false);
    mesh.start_distributor();
    while greets().await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("all is as before");
    Ok(())
}
