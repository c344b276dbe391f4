//! Many nodes at once.

use serde_json::json;
use tests::Cluster;
use tokio::task::JoinSet;

/// All nodes connect and register at once; each is done when its list has everybody. Gives the bytes they read together.
async fn cold_start(nodes: usize) -> usize {
    let cluster = Cluster::start();
    let mut tasks = JoinSet::new();
    for number in 0..nodes {
        let address = cluster.address;
        tasks.spawn(async move {
            let mut peer = tests::Peer::connect(address).await;
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
    // The old Distributor sent 9.3 GB. A list for everybody is 500 × 500 records of 120 bytes.
    let one_list_each = 500 * 500 * 120;
    assert!(bytes <= 3 * one_list_each, "{bytes} bytes");
}

#[tokio::test]
async fn bc2_new_nodes_that_start_at_once_are_told_of_each_other_once() {
    const NODES: usize = 300;
    let cluster = Cluster::start();
    let mut tasks = JoinSet::new();
    for number in 0..NODES {
        let address = cluster.address;
        tasks.spawn(async move {
            let mut peer = tests::Peer::connect(address).await;
            let name = format!("node-{number}");
            peer.register_v2(&name, 1000 + u16::try_from(number).unwrap(), &name, None).await;
            let mut news = 1;
            while peer.next_list().await.len() < NODES {
                news += 1;
            }
            (peer, news)
        });
    }
    // Whoever came first is told of the others in a few rounds, not one by one.
    let most = tasks.join_all().await.into_iter().map(|(_, news)| news).max().unwrap();
    assert!(most < NODES / 2, "{most} lists and changes for {NODES} joins");
}
