//! A node as a provider of one route, as balancing sees it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use protocol::{Advert, Node, Route, RouteAdvert, SocketAdvert, Version, WantedHeaders};
use tokio::time::Instant;

use crate::balance::{Load, MAX_SUBSET, Member, Pool, Readiness, Turns};
use crate::observe::{CallStats, NodeMetrics};
use crate::transport::connection::Connection;

/// The nodes that offer one route and take calls. A pool does not change while a call picks from
/// it.
pub(crate) type Providers = Pool<Provider>;

/// The pools of one route. It dereferences to the pool of the nodes that are called.
#[derive(Clone, Debug)]
pub(crate) struct RouteProviders {
    called: Providers,
    /// Nodes for which the route is internal, in the tables of a process that calls for clients. It
    /// only asks whether they are healthy. Boxed, because most routes have none.
    internal: Option<Box<Providers>>,
    /// The counters of calls of the route, once it is called.
    call_stats: OnceLock<Arc<CallStats>>,
    /// What gateways have to know of the route before they call.
    offer: RouteOffer,
}

/// What gateways have to know of a route before they call one of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOffer {
    /// Maximum bytes of a body: the largest that a node takes, or `u64::MAX` if one states none.
    pub max_body_bytes: u64,
    /// Whether all nodes take any JSON value for arguments. Those of version 1 take objects only.
    pub takes_any_json: bool,
    /// Whether all nodes take the body of a client's request as it was sent.
    pub takes_raw_body: bool,
    /// How the sockets of the route are held, if a node states that they are.
    pub socket: Option<SocketAdvert>,
    /// Whether all nodes take that body in parts.
    pub takes_upload: bool,
    /// Whether a node may answer with a stream of bytes.
    pub gives_download: bool,
}

impl RouteOffer {
    /// What a route without nodes takes and gives.
    const NONE: Self = Self {
        max_body_bytes: u64::MAX,
        takes_any_json: true,
        takes_raw_body: false,
        takes_upload: false,
        gives_download: false,
        socket: None,
    };
}

/// The share of the calls that a node gets: none if it takes no calls now.
pub(super) fn weight(node: &Node) -> u16 {
    let advert = node.advert.as_ref();
    advert.map_or(Advert::DEFAULT_WEIGHT, |advert| if advert.draining { 0 } else { advert.weight })
}

impl RouteProviders {
    /// Pools without nodes. Those that are added are called in `turns`.
    pub(crate) fn new(turns: Turns) -> Self {
        let called = Pool::new(MAX_SUBSET, turns);
        Self { called, internal: None, call_stats: OnceLock::new(), offer: RouteOffer::NONE }
    }

    /// Adds a node that is not in it; afterwards [`rebuild_schedules`](Self::rebuild_schedules).
    pub(super) fn add(&mut self, provider: Provider, is_internal: bool) {
        match is_internal {
            true => {
                self.internal.get_or_insert_with(|| Box::new(Pool::new(MAX_SUBSET, Turns::default()))).push(provider)
            }
            false => self.called.push(provider),
        }
    }

    /// Whether the node at this address was the last that was added to one of the pools.
    pub(super) fn has_last(&self, address: SocketAddr) -> bool {
        let is_last = |pool: &Providers| pool.members().last().is_some_and(|last| last.connection.address == address);
        is_last(&self.called) || self.internal.as_deref().is_some_and(is_last)
    }

    /// Removes the nodes for which `keep` is false; afterwards
    /// [`rebuild_schedules`](Self::rebuild_schedules).
    pub(super) fn retain_all(&mut self, keep: impl Fn(&Provider) -> bool) {
        self.called.retain(&keep);
        if let Some(pool) = &mut self.internal {
            pool.retain(&keep);
        }
    }

    pub(super) fn are_scheduled(&self) -> bool {
        self.called.is_scheduled() && self.internal.as_ref().is_none_or(|pool| pool.is_scheduled())
    }

    pub(super) fn rebuild_schedules(&mut self) {
        self.called.rebuild_schedule();
        let members = self.called.members();
        self.offer = RouteOffer {
            max_body_bytes: members.iter().map(|one| one.max_body_bytes()).max().unwrap_or(u64::MAX),
            takes_any_json: members.iter().all(|one| one.connection.version == Version::V2),
            takes_raw_body: members.iter().all(Provider::takes_raw_body),
            socket: members.iter().find_map(|one| one.advert.as_ref()?.socket),
            takes_upload: members.iter().all(Provider::takes_upload),
            gives_download: members.iter().any(Provider::gives_download),
        };
        self.internal = self.internal.take().filter(|pool| !pool.members().is_empty());
        if let Some(pool) = &mut self.internal {
            pool.rebuild_schedule();
        }
    }

    /// What gateways have to know of the route; `None` if no node is called for it.
    pub(super) fn offer(&self) -> Option<RouteOffer> {
        (!self.called.members().is_empty()).then_some(self.offer)
    }

    /// Whether no node offers the route any more.
    pub(super) fn are_empty(&self) -> bool {
        self.called.members().is_empty() && self.internal.as_ref().is_none_or(|pool| pool.members().is_empty())
    }

    /// The counters of calls of the route.
    pub(crate) fn call_stats(&self, metrics: &NodeMetrics) -> Arc<CallStats> {
        let find = || match self.pools().find_map(|pool| pool.members().first()) {
            Some(provider) => metrics.calls_of(provider.route.as_str()),
            None => metrics.other_calls(),
        };
        Arc::clone(self.call_stats.get_or_init(find))
    }

    /// All pools.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Providers> {
        std::iter::once(&self.called).chain(self.internal.as_deref())
    }
}

impl Deref for RouteProviders {
    type Target = Providers;

    fn deref(&self) -> &Providers {
        &self.called
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) connection: Arc<Connection>,
    pub(crate) route: Route,
    /// What it states of the route.
    pub(super) advert: Option<RouteAdvert>,
    pub(super) weight: u16,
    /// Whether the Distributor has listed it as suspect.
    pub(super) suspect: bool,
    /// Whether the provider runs in this process's zone.
    pub(super) same_zone: bool,
    /// Whether the provider is this very node, which calls itself without a connection.
    pub(crate) is_local: bool,
}

impl Provider {
    /// The header fields that it wants of a client's request, if it asks for that.
    pub(crate) fn wanted(&self) -> Option<&WantedHeaders> {
        self.advert.as_ref()?.headers.as_ref()
    }

    /// Whether it takes the body of a client's request as it was sent.
    pub(crate) fn takes_raw_body(&self) -> bool {
        self.advert.as_ref().is_some_and(|advert| advert.raw_body)
    }

    /// Whether it acknowledges the events of the subscription.
    pub(crate) fn acks(&self) -> bool {
        self.advert.as_ref().is_some_and(|advert| advert.acks)
    }

    /// Whether it takes the body of a client's request in parts.
    pub(crate) fn takes_upload(&self) -> bool {
        let is_stated = |advert: &RouteAdvert| advert.upload && advert.headers.is_some();
        self.connection.version == Version::V2 && self.advert.as_ref().is_some_and(is_stated)
    }

    /// Whether it may answer with a stream of bytes.
    fn gives_download(&self) -> bool {
        let is_stated = |advert: &RouteAdvert| advert.download && advert.headers.is_some();
        self.connection.version == Version::V2 && self.advert.as_ref().is_some_and(is_stated)
    }

    /// Maximum bytes of a body, as far as it limits them.
    fn max_body_bytes(&self) -> u64 {
        self.advert.as_ref().and_then(|advert| advert.max_body).unwrap_or(u64::MAX)
    }
}

impl Member for Provider {
    type Address = SocketAddr;

    fn address(&self) -> &SocketAddr {
        &self.connection.address
    }

    fn candidate_address(&self) -> (SocketAddr, Option<&Path>) {
        (self.connection.address, None)
    }

    fn load(&self) -> &Load {
        &self.connection.load
    }

    fn readiness(&self, now: Instant) -> Readiness {
        let readiness = self.connection.readiness(now);
        if self.suspect { readiness.max(Readiness::Ejected) } else { readiness }
    }

    /// A key stays with its provider while the connection is made: other nodes, which are
    /// connected, would call that provider.
    fn sticky_readiness(&self, readiness: Readiness) -> Readiness {
        match readiness {
            Readiness::Connecting | Readiness::Reconnect => Readiness::Ready,
            Readiness::Ready | Readiness::Ejected | Readiness::CoolingDown if self.is_local => Readiness::Ready,
            Readiness::Ready | Readiness::Ejected | Readiness::CoolingDown => readiness,
        }
    }

    fn weight(&self) -> u16 {
        self.weight
    }

    fn same_zone(&self) -> bool {
        self.same_zone
    }

    fn instance(&self) -> Option<&str> {
        self.connection.instance()
    }

    fn rendezvous_score(&self) -> u64 {
        self.connection.target.rendezvous_score
    }
}
