//! A node: what it offers, where it listens, and how it starts and stops.

mod builder;
#[cfg(feature = "testing")]
pub mod testing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::{info, warn};
use protocol::{Advert, Visibility};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::builder::NodeBuilder;
use crate::error::StartError;
use crate::peers::Peers;
use crate::transport::budget::{Budget, BufferUsage};

/// A running node. Dropping it stops it at once; [`stop`](Self::stop) lets calls in flight finish.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    peers: Peers,
    interests: Vec<String>,
    budget: Arc<Budget>,
    leaving: CancellationToken,
    server: JoinHandle<usize>,
}

impl Node {
    /// Begins to describe a node. `name` is 1 to 128 of `A-Z a-z 0-9 . _ -`; instances of one service share it.
    pub fn builder(name: impl Into<String>) -> NodeBuilder {
        NodeBuilder::new(name.into())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The other nodes.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Says that this node wants no more calls: it stays listed and serves those that come, and others stop picking it.
    /// Returns at once; `false` for `draining` takes it back.
    pub fn set_draining(&self, draining: bool) {
        self.peers.advertise(|advert| advert.draining = draining);
    }

    /// This node's share of the calls among the providers of its routes, in hundredths of the usual one: 50 gets half as many,
    /// 0 none, and more than 1000 counts as 1000. Returns at once.
    pub fn set_weight(&self, weight: u16) {
        self.peers.advertise(|advert| advert.weight = weight.min(Advert::MAX_WEIGHT));
    }

    /// Waits until `percent` of all version 2 nodes, ourselves included, have acknowledged that they know this node as it is now,
    /// or `within` is over; tells how many have, and names some that have not. A Distributor of version 1, or none, gives no
    /// answer: then nobody counts as having seen it, and that takes a second longer. Cancel safe.
    pub async fn wait_visible(&self, percent: u8, within: Duration) -> Visibility {
        self.peers.wait_visible(percent, within).await
    }

    /// How many bytes are kept for callers now; [`Peers::buffer_usage`] says it of the nodes that are called.
    pub fn buffer_usage(&self) -> BufferUsage {
        self.budget.usage()
    }

    /// Completes when there is a provider of everything that the builder's [`interests`](NodeBuilder::interests) name, at once if they
    /// name nothing. Cancel safe.
    pub async fn ready(&self) {
        let is_there = |need: &String, nodes: &[Arc<protocol::Node>]| {
            nodes.iter().any(|node| node.name == *need || node.routes.iter().any(|route| route.as_str() == need))
        };
        self.peers.wait_until(|nodes| self.interests.iter().all(|need| is_there(need, nodes))).await;
    }

    /// Leaves the registry, serves callers until they have gone or for 2 s, lets calls in flight finish for up to 10 s more, and
    /// returns how many connections were cut while calls were in flight. Dropping the future stops at once.
    pub async fn stop(mut self) -> usize {
        self.leaving.cancel();
        let cut = (&mut self.server).await.unwrap_or_default();
        if cut > 0 {
            net::log_last_line(move || {
                warn!(connections = cut, "stopped; connections were cut while calls were in flight")
            });
        } else {
            net::log_last_line(|| info!("stopped"));
        }
        cut
    }
}

impl Node {
    /// Stops, and tells whether anything was cut.
    async fn end(self) -> Result<(), StartError> {
        match self.stop().await {
            0 => Ok(()),
            connections => Err(StartError::Cut { connections }),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.leaving.cancel();
        self.server.abort();
    }
}
