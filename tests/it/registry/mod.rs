//! The port of the Distributor, addressed with raw packets. Tests of the SDK's side are in `sdk`.

mod broadcast;
mod framing;
mod hostile;
mod json;
mod legacy;
mod outages;
mod registration;
mod scale;
mod version_2;
mod visibility;

use node_sdk::ServiceError;
use tests::{Cluster, Peer};

async fn who() -> Result<u16, ServiceError> {
    Ok(7)
}

/// A raw version 2 node that has joined.
async fn joined(cluster: &Cluster, name: &str) -> Peer {
    let mut peer = cluster.peer().await;
    peer.register_v2(name, 1, name, None).await;
    peer.list_with(name).await;
    peer
}
