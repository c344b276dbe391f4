//! How a service is tested: with a Distributor and nodes in this process, on a clock that stands
//! still while all of them wait.

use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{Node, ServiceError};
use tokio::time::{Instant, sleep};

async fn slow() -> Result<&'static str, ServiceError> {
    sleep(Duration::from_secs(60)).await;
    Ok("done")
}

#[tokio::test(start_paused = true)]
async fn c10_a_service_is_tested_with_what_its_manifest_names() {
    let begin = Instant::now();
    let mesh = TestMesh::start();
    let _service = mesh.node(Node::builder("slow").route("GET/slow", slow)).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    let peers = caller.peers();
    peers.wait_for(&["GET/slow"]).await;
    let answer = peers.call::<String>("GET/slow", &()).timeout(Duration::from_secs(90)).await.unwrap();
    assert_eq!(answer, "done");
    assert!(begin.elapsed() >= Duration::from_secs(60), "a minute of the paused clock");
}
