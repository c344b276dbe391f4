//! The node to which a routing table belongs, as far as routing needs to know it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use net::Network;
use protocol::{Node, Route, RouteAdvert};

use crate::balance::SharedTurns;
use crate::observe::NodeMetrics;
use crate::routing::subscriptions::is_event;
use crate::transport::blocked::BlockedAddresses;
use crate::transport::budget::Budget;
use crate::transport::target::Connector;

/// The node to which the table belongs.
#[derive(Debug)]
pub(crate) struct LocalNode {
    /// The id of this instance.
    pub(crate) instance: String,
    /// The zone of this node.
    pub(crate) zone: Option<String>,
    /// How connections are made.
    pub(crate) connector: Connector,
    /// Bytes that are held for the nodes that are called.
    pub(crate) buffer_budget: Arc<Budget>,
    /// The turns among the providers of each route, in all threads.
    pub(crate) turns: SharedTurns,
    /// Which unstated routes are public, if the node calls for clients, which have public routes
    /// only.
    public_only: Option<UnstatedRoutes>,
    /// The routes of [`UnstatedRoutes::Only`], without the names of their parameters.
    listed: HashSet<String>,
    /// The counters of the node, if its author wants them.
    pub(crate) metrics: OnceLock<Arc<NodeMetrics>>,
}

/// Which routes are public, if their nodes cannot say. Such nodes are of version 1, or of version 2
/// from before routes could be internal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnstatedRoutes {
    /// All routes are public.
    Public,
    /// No route is public.
    Internal,
    /// These routes are public; the names of parameters make no difference.
    Only(Vec<Route>),
}

impl LocalNode {
    pub(crate) fn new(
        instance: String,
        name: &str,
        zone: Option<String>,
        network: Network,
        blocked: BlockedAddresses,
        public_only: Option<UnstatedRoutes>,
    ) -> Arc<Self> {
        let connector = Connector {
            network,
            instance: instance.as_str().into(),
            name: name.into(),
            blocked: Arc::new(blocked),
            lost: Arc::default(),
            malformed: Arc::default(),
        };
        let listed = match &public_only {
            Some(UnstatedRoutes::Only(routes)) => routes.iter().map(|route| route.unnamed().into_owned()).collect(),
            Some(UnstatedRoutes::Public | UnstatedRoutes::Internal) | None => HashSet::new(),
        };
        Arc::new(Self {
            instance,
            zone,
            connector,
            buffer_budget: Budget::for_connections(),
            turns: SharedTurns::default(),
            public_only,
            listed,
            metrics: OnceLock::new(),
        })
    }

    /// Whether this process does not call a route, because it calls for clients and the route is
    /// internal. `advert` is what its node states of it.
    pub(crate) fn is_internal(&self, route: &Route, advert: Option<&RouteAdvert>) -> bool {
        let Some(unstated) = &self.public_only else { return false };
        let is_public = || match unstated {
            UnstatedRoutes::Public => true,
            UnstatedRoutes::Internal => false,
            UnstatedRoutes::Only(_) => self.listed.contains(&*route.unnamed()),
        };
        // No client emits events.
        !is_event(route) && !advert.map_or_else(is_public, |advert| advert.public)
    }

    /// The routes of a node without the internal ones, if these are not called.
    pub(crate) fn callable_routes<'n>(&self, node: &'n Node) -> impl Iterator<Item = &'n Route> {
        let routes = node.stated_routes().filter(|(route, advert)| !self.is_internal(route, *advert));
        routes.map(|(route, _)| route)
    }

    /// Why an address is never called, if it is not.
    pub(crate) fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str> {
        self.connector.blocked.reason(address)
    }
}
