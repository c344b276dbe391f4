//! A node: how it is described, started and stopped.
//!
//! It must not handle packets. Other folders must not import it.

mod admin;
mod builder;
mod environment;
#[cfg(feature = "event-log")]
mod event_log;
mod hooks;
mod http_offer;
#[cfg(feature = "log")]
mod log;
mod own_route;
mod route_settings;
mod sockets;
mod start;
mod states;
#[cfg(feature = "testing")]
pub mod testing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::{error, info, warn};
use protocol::{Advert, Visibility};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::admin::AdminServer;
pub use self::builder::NodeBuilder;
use self::hooks::{Hook, run_stop_hooks};
pub use self::http_offer::HttpOffer;
#[cfg(feature = "log")]
pub use self::log::init_log;
use crate::context::Stop;
use crate::error::StartError;
use crate::error::lost::LostCalls;
use crate::peers::Peers;
use crate::transport::budget::{Budget, BufferUsage};

/// A running node. Dropping it stops it at once; [`stop`](Self::stop) lets calls in flight finish.
///
/// ```no_run
/// # async fn example() -> Result<(), node_sdk::StartError> {
/// use node_sdk::Node;
///
/// let node = Node::builder("report").start().await?;
/// node.ready().await;
/// println!("{} knows {} nodes", node.address(), node.peers().nodes().len());
/// node.stop().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    peers: Peers,
    interests: Vec<String>,
    budget: Arc<Budget>,
    lost: Arc<LostCalls>,
    leaving: CancellationToken,
    server: JoinHandle<usize>,
    stop_hooks: Vec<Hook>,
    admin: Option<AdminServer>,
}

impl Node {
    /// Describes a node. `name` is 1 to 128 of `A-Z a-z 0-9 . _ -`; instances of one service share
    /// it.
    pub fn builder(name: impl Into<String>) -> NodeBuilder {
        NodeBuilder::new(name.into())
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address at which it answers operators: see [`NodeBuilder::admin`].
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    /// The other nodes.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Says when the node begins to stop, for work beside it.
    pub fn stopping(&self) -> Stop {
        Stop::new(self.leaving.clone())
    }

    /// Drains this node: it stays listed and serves the calls that come, and other nodes stop
    /// picking it. `false` ends the drain. Returns at once.
    pub fn set_draining(&self, draining: bool) {
        self.peers.advertise(|advert| advert.draining = draining);
    }

    /// This node's share of the calls among the providers of its routes, in hundredths of the usual
    /// one: 50 gets half as many, 0 none, and more than 1000 counts as 1000. Returns at once.
    pub fn set_weight(&self, weight: u16) {
        self.peers.advertise(|advert| advert.weight = weight.min(Advert::MAX_WEIGHT));
    }

    /// Waits until `percent` of the version 2 nodes that are told of this one (see
    /// [`interests`](NodeBuilder::interests)) have acknowledged that they know it as it is now, or
    /// `within` is over. Returns how many have, and names some that have not. A Distributor of
    /// version 1, or none, does not answer: then no node counts, after one second more than
    /// `within`. Cancel safe.
    pub async fn wait_visible(&self, percent: u8, within: Duration) -> Visibility {
        self.peers.wait_visible(percent, within).await
    }

    /// How many bytes this node holds for its callers now. [`Peers::buffer_usage`] is the same for
    /// the nodes that it calls.
    pub fn buffer_usage(&self) -> BufferUsage {
        self.budget.usage()
    }

    /// How many events, and other calls without a response, this node has lost. Received ones are
    /// lost if too many wait for a route with a limit (see [`NodeBuilder::max_concurrency`]), or if
    /// the handler fails. Sent ones are lost if no node of a group can take them, or if the
    /// connection ends before they are written. Each is a warning in the log, one for a route in
    /// ten seconds.
    pub fn lost_events(&self) -> u64 {
        self.lost.count()
    }

    /// Completes when there is a provider for each of the builder's
    /// [`interests`](NodeBuilder::interests); at once if there are none. After 5 s, a line of the
    /// log says for which there is none. Cancel safe.
    pub async fn ready(&self) {
        let is_there = |need: &String, nodes: &[Arc<protocol::Node>]| {
            nodes.iter().any(|node| node.name == *need || node.routes.iter().any(|route| route.as_str() == need))
        };
        let missing =
            |nodes: &[_]| self.interests.iter().filter(|need| !is_there(need, nodes)).cloned().collect::<Vec<_>>();
        self.peers.wait_noticed(missing).await;
    }

    /// Stops in order. The node leaves the registry, and serves callers until they have gone, for
    /// 2 s at most. Then calls in flight, and tasks of [`detach`](crate::detach), have 10 s to
    /// finish. Then the [hooks](NodeBuilder::on_stop) of the stop run. Returns how many connections
    /// were cut with calls in flight, and how many tasks were left at work, together. Dropping the
    /// future stops at once.
    pub async fn stop(self) -> usize {
        self.stop_in_order().await.0
    }

    /// Stops, and returns what was cut or left, and which hooks have failed.
    async fn stop_in_order(mut self) -> (usize, Vec<StartError>) {
        self.leaving.cancel();
        let cut = (&mut self.server).await.unwrap_or_default();
        self.peers.registration.wait_left().await;
        let failed = run_stop_hooks(std::mem::take(&mut self.stop_hooks), &self.peers, &self.stopping()).await;
        for failure in &failed {
            let failure = format!("{failure:?}");
            net::log_last_line(move || error!("{failure}"));
        }
        if cut > 0 {
            net::log_last_line(move || {
                warn!(connections = cut, "stopped before all work was done: connections were cut, or tasks left")
            });
        } else {
            net::log_last_line(|| info!("stopped"));
        }
        (cut, failed)
    }
}

impl Node {
    /// Stops, and returns whether anything was cut or has failed.
    async fn end(self) -> Result<(), StartError> {
        match self.stop_in_order().await {
            (0, failed) => failed.into_iter().next().map_or(Ok(()), Err),
            (connections, _) => Err(StartError::Cut { connections }),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.leaving.cancel();
        self.server.abort();
    }
}
