//! The part of this crate that only gateways use: calls whose packets pass through unread, health,
//! and how one of several servers is picked.
//!
//! ```no_run
//! use node_sdk::gateway::{GatewayPeers, NodeDescription};
//! use node_sdk::Peers;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), node_sdk::CallError> {
//! let description = NodeDescription::new("gate", 8000, Vec::new());
//! let peers = Peers::join(description, "127.0.0.1:9000".to_owned(), CancellationToken::new());
//! peers.wait_for(&["GET/members"]).await;
//! let response = peers.call_raw("GET", "/members", "{}").await?;
//! println!("{:?}", response.packet());
//! # Ok(()) }
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

pub use protocol::{ClientRequest, EventFields, WantedHeaders, is_idempotent};
use protocol::{Route, RouteAdvert, Unreachable};
use tokio_util::sync::CancellationToken;

pub use crate::balance::{Load, Member, PickOptions, Pool, Readiness, RetryBudget, SharedTurns, Turns, affinity};
pub use crate::client::call::raw_call::{ClientHead, RawCall};
pub use crate::client::call::response::RawResponse;
use crate::client::mesh::{Mesh, record_reach};
pub use crate::client::raw_stream::{BodySender, RawHead, RawPart, RawReply};
#[cfg(feature = "testing")]
pub(crate) use crate::client::stream::Duplex;
use crate::client::{CallArguments, split_url};
pub use crate::discovery::registration::NodeDescription;
pub use crate::error::malformed::MalformedResponse;
use crate::peers::Peers;
pub use crate::routing::local_node::UnstatedRoutes;
use crate::routing::path_params;
pub use crate::routing::provider::RouteOffer;
use crate::routing::table::Lookup;
pub use crate::transport::blocked::BlockedAddresses;
pub use crate::transport::target::unreachable_because;

/// The value in place of the address of a Distributor, if there is none and no node is known.
pub const NO_DISTRIBUTOR: &str = "off";

/// Functions of [`Peers`] that only gateways need.
pub trait GatewayPeers: Sized {
    /// Registers `description` at the Distributor at `address` (`host:port`), and keeps it
    /// registered and informed until `stop` is cancelled. Returns at once. Before the first list,
    /// the known nodes are those of the cache file, if there is one.
    ///
    /// While the Distributor cannot be reached, the known nodes stay in use, and an attempt to
    /// connect is made every [`RECONNECT_PERIOD`](crate::RECONNECT_PERIOD), a tenth more or less.
    /// The first attempt after a loss comes at a moment of that period which is this node's own, so
    /// that all nodes together come back as an even stream.
    ///
    /// With [`NO_DISTRIBUTOR`] for the address, nothing is registered and no node is known.
    fn join(description: NodeDescription, address: String, stop: CancellationToken) -> Peers;

    /// Completes when the Distributor has been told that this process leaves, after `stop` of
    /// [`join`](Self::join) was cancelled; after a second at most. Cancel safe.
    fn wait_left(&self) -> impl Future<Output = ()> + Send;

    /// A handle to the nodes with connections of its own, for another runtime: a connection belongs
    /// to the runtime of the task that first calls over it. The returned peers always know the same
    /// nodes.
    fn for_thread(&self) -> Peers;

    /// Connects to nodes that are new and offer what these peers call, before it is their turn.
    /// Completes when the peers are dropped, and is to run in the runtime that calls. Peers that
    /// have [joined](Self::join) do it themselves.
    fn connect_newcomers(&self) -> impl Future<Output = ()> + Send + use<Self>;

    /// Calls with JSON text, and returns the packet of the response unread. `params` must be a JSON
    /// object if any provider may be a version 1 node. Fails as [`Peers::call`] does, but never
    /// with `Refused` or `Response`: an answer of the node is in the [`RawResponse`].
    fn call_raw<'a>(&'a self, method: &'a str, path: &'a str, params: &'a str) -> RawCall<'a>;

    /// Calls `url` of the node at `address`, and of no other node, to find out whether it is
    /// healthy. It takes JSON text and returns a packet, as [`call_raw`](Self::call_raw) does. The
    /// result does not change how other calls are balanced: the caller decides about that.
    fn probe<'a>(&'a self, url: &'a str, address: SocketAddr) -> RawCall<'a>;

    /// As [`probe`](Self::probe), with arguments: JSON text.
    fn probe_with<'a>(&'a self, url: &'a str, address: SocketAddr, params: &'a str) -> RawCall<'a>;

    /// The parameters of `path` in the route that answers it, as a JSON object of texts.
    fn path_params(&self, method: &str, path: &str) -> String;

    /// What has to be known of a route before it is called; `None` if no node offers it for clients
    /// now.
    fn offer(&self, method: &str, path: &str) -> Option<RouteOffer>;

    /// Whether a node offers this, or has offered it within the last ten minutes.
    fn has_known(&self, method: &str, path: &str) -> bool;

    /// Whether these peers do not call a route, because they call [for
    /// clients](NodeDescription::public_only) and the route is internal. `advert` is what its node
    /// states of it.
    fn is_internal(&self, route: &Route, advert: Option<&RouteAdvert>) -> bool;

    /// Whether the path belongs to an internal route, which is not called for clients.
    fn has_internal(&self, method: &str, path: &str) -> bool;

    /// The providers of `url` that this node balances over, a subset of large sets, with their
    /// instance ids. Those that offer it internally are among them, because they can be
    /// [probed](Self::probe).
    fn balanced_providers(&self, url: &str) -> Vec<(SocketAddr, Option<String>)>;

    /// Sets whether the node at this address is healthy. Calls go to a node that is not healthy
    /// only if most others are no better, as with nodes that fail calls. This holds for the peers
    /// of [all threads](Self::for_thread) until the opposite is set or another process listens
    /// there. Returns whether that is a change.
    fn set_health(&self, address: SocketAddr, healthy: bool) -> bool;

    /// Whether the node at this address is healthy, which it is unless
    /// [`set_health`](Self::set_health) has said otherwise.
    fn is_healthy(&self, address: SocketAddr) -> bool;

    /// Why the node at this address is never called, if so: the address belongs to this process or
    /// to no host, or is link-local.
    fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str>;

    /// Records that a connection to the node at this address, which is not called with packets, was
    /// made or failed. A failure that lasts is logged and reported as those of calls are. Does
    /// nothing if no node is listed there.
    fn record_reach(&self, address: SocketAddr, reached: Result<(), Unreachable>);

    /// Why the node at this address could not be connected to when that was last tried.
    fn unreachable_reason(&self, address: SocketAddr) -> Option<Unreachable>;

    /// Records that the node at this address has answered in a way that no caller understands. It
    /// is counted and logged, as responses are that are not packets.
    fn record_malformed(&self, address: SocketAddr, why: &str);

    /// The malformed responses of the node at this address, over all threads.
    fn malformed_responses(&self, address: SocketAddr) -> Option<MalformedResponse>;

    /// How many responses of nodes were malformed.
    fn malformed_total(&self) -> u64;

    /// Whether the node at this address registers `route` but is not called for it, because too
    /// many similar routes have parameters at other positions: a look-up among them would take too
    /// long.
    fn is_refused(&self, address: SocketAddr, route: &Route) -> bool;
}

impl GatewayPeers for Peers {
    fn join(description: NodeDescription, address: String, stop: CancellationToken) -> Peers {
        Self::register(description, (address != NO_DISTRIBUTOR).then_some(address), stop)
    }

    async fn wait_left(&self) {
        self.registration.wait_left().await;
    }

    fn for_thread(&self) -> Peers {
        let (registration, push_links) = (Arc::clone(&self.registration), Arc::clone(&self.push_links));
        Self { mesh: Arc::new(self.mesh.for_thread()), registration, push_links }
    }

    fn connect_newcomers(&self) -> impl Future<Output = ()> + Send + use<> {
        Mesh::connect_newcomers(Arc::downgrade(&self.mesh))
    }

    fn call_raw<'a>(&'a self, method: &'a str, path: &'a str, params: &'a str) -> RawCall<'a> {
        RawCall::new(&self.mesh, method, path, CallArguments::Text(params))
    }

    fn probe<'a>(&'a self, url: &'a str, address: SocketAddr) -> RawCall<'a> {
        self.probe_with(url, address, "{}")
    }

    fn probe_with<'a>(&'a self, url: &'a str, address: SocketAddr, params: &'a str) -> RawCall<'a> {
        let (method, path) = split_url(url);
        RawCall::new(&self.mesh, method, path, CallArguments::Text(params))
            .with_address(address)
            .without_health_effect()
    }

    fn record_malformed(&self, address: SocketAddr, why: &str) {
        let name = self.mesh.view().name_of(address).unwrap_or_default();
        self.mesh.local_node().connector.malformed.record(address, &name, why);
    }

    fn malformed_responses(&self, address: SocketAddr) -> Option<MalformedResponse> {
        self.mesh.local_node().connector.malformed.of(address)
    }

    fn malformed_total(&self) -> u64 {
        self.mesh.local_node().connector.malformed.total()
    }

    fn path_params(&self, method: &str, path: &str) -> String {
        match self.mesh.lookup(method, path) {
            Lookup::Available(providers, captured) => {
                let route = providers.members().first().map(|provider| &provider.route);
                let names = route.into_iter().flat_map(path_params::names);
                path_params::merge("{}", names.zip(captured.iter().copied())).into_owned()
            }
            Lookup::Unavailable | Lookup::Unknown => "{}".to_owned(),
        }
    }

    fn offer(&self, method: &str, path: &str) -> Option<RouteOffer> {
        self.mesh.table().read().offer(method, path)
    }

    fn has_known(&self, method: &str, path: &str) -> bool {
        !matches!(self.mesh.lookup(method, path), Lookup::Unknown)
    }

    fn is_internal(&self, route: &Route, advert: Option<&RouteAdvert>) -> bool {
        self.mesh.local_node().is_internal(route, advert)
    }

    fn has_internal(&self, method: &str, path: &str) -> bool {
        matches!(self.mesh.lookup_all(method, path), Lookup::Available(providers, _) if providers.members().is_empty())
    }

    fn balanced_providers(&self, url: &str) -> Vec<(SocketAddr, Option<String>)> {
        let (method, path) = split_url(url);
        let Lookup::Available(providers, _) = self.mesh.lookup_all(method, path) else { return Vec::new() };
        providers
            .pools()
            .flat_map(Pool::subset)
            .map(|provider| (provider.connection.address, provider.connection.instance().map(str::to_owned)))
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

    fn record_reach(&self, address: SocketAddr, reached: Result<(), Unreachable>) {
        record_reach(self.mesh.view(), address, reached);
    }

    fn unreachable_reason(&self, address: SocketAddr) -> Option<Unreachable> {
        self.mesh.view().unreachable_reason(address)
    }

    fn is_refused(&self, address: SocketAddr, route: &Route) -> bool {
        self.mesh.table().read().is_refused(address, route)
    }
}
