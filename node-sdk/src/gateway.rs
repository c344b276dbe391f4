//! What gateways use of this crate, and services do not: calls whose packets pass through unread,
//! health, and how one of several servers is picked.
//!
//! ```no_run
//! use node_sdk::gateway::{GatewayPeers, Identity};
//! use node_sdk::Peers;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), node_sdk::CallError> {
//! let identity = Identity::new("gate", 8000, Vec::new());
//! let peers = Peers::join(identity, "127.0.0.1:9000".to_owned(), CancellationToken::new());
//! peers.wait_for(&["GET/members"]).await;
//! let response = peers.call_raw("GET", "/members", "{}").await?;
//! println!("{:?}", response.packet());
//! # Ok(()) }
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::Route;
use tokio_util::sync::CancellationToken;

pub use crate::balance::{Load, Member, PickOptions, Pool, Readiness, RetryBudget, affinity};
use crate::client::CallArguments;
pub use crate::client::raw_call::RawCall;
pub use crate::client::response::RawResponse;
pub use crate::client::stream::RawReply;
pub use crate::discovery::registration::Identity;
use crate::peers::{Peers, split_url};
use crate::routing::table::Lookup;

/// What gateways do with [`Peers`].
pub trait GatewayPeers: Sized {
    /// Registers `identity` at the Distributor at `address` (`host:port`), and keeps registered and informed until
    /// `stop` is cancelled. Returns at once; before the first list there are the peers of the cache, if there is one.
    ///
    /// While the Distributor cannot be reached, what is known stays, and an attempt to connect is made every
    /// [`RECONNECT_PERIOD`](crate::RECONNECT_PERIOD), a tenth more or less. The first after a loss comes at a moment of that
    /// period which is this node's own, so that all nodes together come back as an even stream.
    fn join(identity: Identity, address: String, stop: CancellationToken) -> Peers;

    /// The same nodes over connections of their own, for another runtime: a connection belongs to the runtime of the task that
    /// first calls over it. The returned peers know what these know, at the same moment.
    fn for_thread(&self) -> Peers;

    /// Calls with JSON text in and a packet out, unread: for gateways. `params` must be a JSON object if any provider may
    /// be of version 1. Fails as [`Peers::call`] does, but never with `Refused` or `Answer`: what the node answered is in
    /// the [`RawResponse`].
    fn call_raw<'a>(&'a self, method: &'a str, path: &'a str, params: &'a str) -> RawCall<'a>;

    /// Calls `url` of the node at `address` and of nobody else, to find out how it does; with JSON text in and a packet out, as
    /// [`call_raw`](Self::call_raw). What comes of it is for the caller to judge: no other call goes elsewhere for it.
    fn probe<'a>(&'a self, url: &'a str, address: SocketAddr) -> RawCall<'a>;

    /// Whether some node offers this, or has offered it once.
    fn has_known(&self, method: &str, path: &str) -> bool;

    /// Which of the nodes that offer `url` calls of it go to: where they are, and which process of those that were there it is, if
    /// they say. Of very many they are some, others for each caller.
    fn balanced_providers(&self, url: &str) -> Vec<(SocketAddr, Option<String>)>;

    /// Says how the node at this address does: one that is not healthy is called only if most others are no better, as it is with
    /// nodes that calls are lost at. That holds for all who [follow](Self::for_thread) the same news, until the opposite is said or
    /// another process is there. Returns whether it is a change. For whoever looks after nodes beside calling them, as
    /// gateways do.
    fn set_health(&self, address: SocketAddr, healthy: bool) -> bool;

    /// Whether nobody has [said](Self::set_health) otherwise.
    fn is_healthy(&self, address: SocketAddr) -> bool;

    /// Why the node at this address is never called, whatever it registers, if it is not: what it listens on is ours, of no host,
    /// or of the link only. For whoever calls nodes by other means.
    fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str>;

    /// Whether the node at this address registers `route`, and is not called for it, because there are too many routes like it with
    /// parameters elsewhere: looking for one of them would take too long.
    fn is_refused(&self, address: SocketAddr, route: &Route) -> bool;
}

impl GatewayPeers for Peers {
    fn join(identity: Identity, address: String, stop: CancellationToken) -> Peers {
        Peers::register(identity, address, stop)
    }

    fn for_thread(&self) -> Peers {
        Peers { mesh: Arc::new(self.mesh.for_thread()), registration: Arc::clone(&self.registration) }
    }

    fn call_raw<'a>(&'a self, method: &'a str, path: &'a str, params: &'a str) -> RawCall<'a> {
        RawCall::new(&self.mesh, method, path, CallArguments::Text(params))
    }

    fn probe<'a>(&'a self, url: &'a str, address: SocketAddr) -> RawCall<'a> {
        let (method, path) = split_url(url);
        RawCall::new(&self.mesh, method, path, CallArguments::Text("{}")).to_address(address).without_health_effect()
    }

    fn has_known(&self, method: &str, path: &str) -> bool {
        !matches!(self.mesh.lookup(method, path), Lookup::Unknown)
    }

    fn balanced_providers(&self, url: &str) -> Vec<(SocketAddr, Option<String>)> {
        let (method, path) = split_url(url);
        let Lookup::Available(providers, _) = self.mesh.lookup(method, path) else { return Vec::new() };
        providers
            .members()
            .map(|provider| (provider.connection.address, provider.connection.instance.clone()))
            .collect()
    }

    fn set_health(&self, address: SocketAddr, healthy: bool) -> bool {
        self.mesh.view().set_health(address, healthy)
    }

    fn is_healthy(&self, address: SocketAddr) -> bool {
        self.mesh.table().read().connection(address).is_none_or(|connection| connection.is_healthy())
    }

    fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str> {
        self.mesh.table().read().blocked_reason(address)
    }

    fn is_refused(&self, address: SocketAddr, route: &Route) -> bool {
        self.mesh.table().read().is_refused(address, route)
    }
}
