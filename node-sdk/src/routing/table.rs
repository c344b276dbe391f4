//! The routing table: which nodes offer which routes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use net::{KeyedThrottle, MAX_ESCAPED_BYTES, escaped, warn};
use protocol::{KnownNode, Node, Route, Router, RouterError, Version};
use tokio::time::Instant;

use crate::balance::{MAX_SUBSET, affinity};
use crate::routing::known_routes::KnownRoutes;
use crate::routing::local_node::LocalNode;
use crate::routing::provider::{Provider, RouteOffer, RouteProviders, weight};
use crate::routing::subscriptions::{SubscriberGroups, Subscribers, is_event};
use crate::transport::connection::Connection;
use crate::transport::limits::MAX_FRAME_BYTES;
use crate::transport::target::Target;

/// Which nodes offer which routes. A change costs the work of the nodes that it concerns, not of
/// all nodes.
#[derive(Debug)]
pub(crate) struct RoutingTable {
    local_node: Arc<LocalNode>,
    nodes: BTreeMap<SocketAddr, KnownNode>,
    connections: HashMap<SocketAddr, Arc<Connection>>,
    router: Router<Arc<RouteProviders>>,
    /// The subscribers of events and of patterns of events.
    events: Router<Arc<SubscriberGroups>>,
    /// Routes of nodes that take no calls now, each with the number of these nodes.
    inactive: Router<usize>,
    /// Routes that had providers. They are looked up only when `router` has none, because a route
    /// that is gone must not hide a present one.
    known_routes: KnownRoutes,
    /// The nodes that are never called, and why.
    blocked: BTreeMap<SocketAddr, &'static str>,
    /// The nodes some of whose routes were refused.
    refused: BTreeSet<SocketAddr>,
    /// New nodes that offer routes which this thread calls, and are not connected yet; at most
    /// [`MAX_SUBSET`]. Further ones are connected when it is their turn.
    newcomers: Vec<Arc<Connection>>,
    /// `None` for the tables of other threads, so that each warning is logged once.
    log_throttle: Option<KeyedThrottle>,
}

/// An address, and the node that is now there.
pub(crate) type NodeChange = (SocketAddr, Option<KnownNode>);

/// The result of a look-up.
#[derive(Debug)]
pub(crate) enum Lookup<'p> {
    /// The route has providers. With the segments of the path that parameters captured.
    Available(Arc<RouteProviders>, Vec<&'p str>),
    /// No node offers the route any more, or none takes calls.
    Unavailable,
    /// No node has ever offered the route, or it is internal and this process calls for clients.
    Unknown,
}

impl RoutingTable {
    pub(crate) fn new(local_node: Arc<LocalNode>) -> Self {
        Self {
            local_node,
            nodes: BTreeMap::new(),
            connections: HashMap::new(),
            router: Router::default(),
            events: Router::default(),
            inactive: Router::default(),
            known_routes: KnownRoutes::default(),
            blocked: BTreeMap::new(),
            refused: BTreeSet::new(),
            newcomers: Vec::new(),
            log_throttle: Some(KeyedThrottle::default()),
        }
    }

    /// A table with the same nodes for another thread, with connections of its own.
    pub(crate) fn for_thread(&self, now: Instant) -> Self {
        let mut copy = Self::new(Arc::clone(&self.local_node));
        (copy.known_routes, copy.log_throttle) = (self.known_routes.clone(), None);
        let all: Vec<NodeChange> = self.nodes.iter().map(|(address, known)| (*address, Some(known.clone()))).collect();
        copy.apply(&all, now);
        for (address, connection) in &self.connections {
            let same = copy.connections.get(address);
            same.map(|same| same.set_health(connection.is_healthy()));
        }
        copy
    }

    /// The connection to the node at this address, open or not.
    pub(crate) fn connection(&self, address: SocketAddr) -> Option<&Arc<Connection>> {
        self.connections.get(&address)
    }

    /// Why the node at this address is never called, if so.
    pub(crate) fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str> {
        self.blocked.get(&address).copied()
    }

    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.nodes.values().map(|known| &known.node)
    }

    /// How many unread bytes a caller of version 1 from this host may have: the least that any
    /// version 1 peer of that host states, as nothing shows which of them calls. `None` if none is
    /// listed.
    pub(crate) fn read_window_of(&self, host: IpAddr) -> Option<usize> {
        let version_1 = self.nodes().filter(|node| node.host == host && node.version() == Version::V1);
        version_1.map(|node| node.read_window).min()
    }

    /// The ids of the entries that list the node at this address.
    pub(crate) fn entries_at(&self, address: SocketAddr) -> &[u64] {
        self.nodes.get(&address).map_or(&[], |known| &known.ids)
    }

    pub(crate) fn lookup<'p>(&self, method: &str, path: &'p str) -> Lookup<'p> {
        if let Some(found) = self.router.find(method, path) {
            // An internal route hides the others that its path belongs to. A node that offers both
            // would answer a call of such a path by the internal one.
            return match found.value.members().is_empty() {
                false => Lookup::Available(Arc::clone(found.value), found.captured),
                true => Lookup::Unknown,
            };
        }
        // The clock is read only for a route without providers, which is rare.
        let is_known =
            self.inactive.find(method, path).is_some() || self.known_routes.contains(method, path, Instant::now());
        if is_known { Lookup::Unavailable } else { Lookup::Unknown }
    }

    /// Whether the node at this address offers a route but is not called for it: see
    /// [`RouterError`].
    pub(crate) fn is_refused(&self, address: SocketAddr, route: &Route) -> bool {
        self.refused.contains(&address) && !self.router.has(route)
    }

    /// The new nodes that should be connected before their first turn. Where calls are few, a turn
    /// is rare, and would be lost on a node without a connection.
    pub(crate) fn take_newcomers(&mut self) -> Vec<Arc<Connection>> {
        std::mem::take(&mut self.newcomers)
    }

    pub(crate) fn has_newcomers(&self) -> bool {
        !self.newcomers.is_empty()
    }

    /// Passes the routes that were called, and the events that were emitted, with providers now, to
    /// `called`.
    pub(crate) fn called_urls(&self, mut called: impl FnMut(&Route)) {
        let nodes = self.nodes.values().filter_map(callable);
        for (node, route) in nodes.flat_map(routes) {
            let pool = match is_event(route) {
                true => self.events.get(route).and_then(|groups| groups.get(&*node.name)),
                false => self.router.get(route),
            };
            if pool.is_some_and(|pool| pool.is_used()) {
                called(route);
            }
        }
    }

    /// What gateways have to know of a route; `None` if it has no providers.
    pub(crate) fn offer(&self, method: &str, path: &str) -> Option<RouteOffer> {
        self.router.find(method, path)?.value.offer()
    }

    /// As [`lookup`](Self::lookup), and also finds internal routes that are not called for clients.
    pub(crate) fn lookup_all<'p>(&self, method: &str, path: &'p str) -> Lookup<'p> {
        match self.router.find(method, path) {
            Some(found) => Lookup::Available(Arc::clone(found.value), found.captured),
            None => Lookup::Unknown,
        }
    }

    /// The subscribers of an event.
    pub(crate) fn subscribers(&self, path: &str) -> Subscribers {
        Subscribers::find(&self.events, path)
    }

    /// Applies changes. Connections to nodes that stay are kept, and connections to nodes that left
    /// are retired.
    pub(crate) fn apply(&mut self, changes: &[NodeChange], now: Instant) {
        let makes_room = self.change(changes, now);
        if makes_room && !self.refused.is_empty() {
            let again = std::mem::take(&mut self.refused).into_iter();
            let again = again.filter_map(|address| Some((address, Some(self.nodes.get(&address)?.clone()))));
            let again: Vec<NodeChange> = again.collect();
            self.change(&again, now);
        }
        self.known_routes.sweep(now);
    }

    /// Makes a new connection to the node of this one, which is retired. Nothing changes if it is
    /// not the node's connection any more.
    pub(crate) fn renew(&mut self, connection: &Arc<Connection>, now: Instant) {
        let address = connection.address;
        let is_current = self.connections.get(&address).is_some_and(|current| Arc::ptr_eq(current, connection));
        let Some(known) = self.nodes.get(&address).filter(|_| is_current).cloned() else { return };
        self.connections.remove(&address);
        connection.retire();
        self.apply(&[(address, Some(known))], now);
    }

    /// Replaces the nodes at the changed addresses. Returns whether routes that were refused may be
    /// taken now.
    fn change(&mut self, changes: &[NodeChange], now: Instant) -> bool {
        let local_node = Arc::clone(&self.local_node);
        let moved: HashSet<SocketAddr> = changes.iter().map(|(address, _)| *address).collect();
        let old = moved.iter().filter_map(|address| self.nodes.remove(address));
        // A blocked node was in no pool.
        let old: Vec<KnownNode> = old.filter(|known| self.blocked.remove(&known.address).is_none()).collect();
        for (node, route) in old.iter().filter_map(callable).flat_map(routes) {
            // One pass over a pool removes all nodes that have changed.
            if let Some(pools) = self.pools(node, route).filter(|pools| pools.are_scheduled()) {
                Arc::make_mut(pools).retain_all(|provider| !moved.contains(&provider.connection.address));
            }
        }
        for route in old.iter().filter_map(inactive).flat_map(|node| local_node.callable_routes(node)) {
            if let Some(count) = self.inactive.get_mut(route) {
                *count -= 1;
                if *count == 0 {
                    self.inactive.remove(route);
                }
            }
        }
        for (address, known) in changes {
            self.refused.remove(address);
            let connection = self.connections.remove(address);
            if let Some(known) = known {
                self.add(known, connection, now);
            } else if let Some(connection) = connection {
                connection.retire();
            }
        }
        let new = changes.iter().filter_map(|(_, known)| known.as_ref());
        let mut makes_room = false;
        for (node, route) in old.iter().chain(new).filter_map(callable).flat_map(routes) {
            match self.pools(node, route) {
                Some(pools) if pools.are_empty() => makes_room |= self.remove(node, route),
                Some(pools) if !pools.are_scheduled() => Arc::make_mut(pools).rebuild_schedules(),
                Some(_) | None => {}
            }
        }
        self.keep_called_newcomers();
        for known in &old {
            for route in callable(known).into_iter().flat_map(|node| local_node.callable_routes(node)) {
                if !is_event(route) && !self.router.has(route) && !self.inactive.has(route) {
                    self.known_routes.add(route, known.address, now);
                }
            }
        }
        makes_room
    }

    /// Adds a node that is not in the table; `before` is the earlier connection to its address, if
    /// there was one.
    fn add(&mut self, known: &KnownNode, before: Option<Arc<Connection>>, now: Instant) {
        let KnownNode { address, node, .. } = known;
        self.nodes.insert(*address, known.clone());
        let is_callable = !self.block(known, now) && callable(known).is_some();
        let target = target_of(known);
        let stays = |connection: &Arc<Connection>| is_callable && connection.target.is_same(&target);
        let (connection, is_newcomer) = match before {
            Some(connection) if stays(&connection) => (connection, false),
            other => {
                // Another process listens there now.
                other.inspect(|connection| connection.retire());
                if !is_callable {
                    return;
                }
                let LocalNode { instance, connector, buffer_budget, .. } = &*self.local_node;
                let target = Target { rendezvous_score: affinity::score(instance, address), ..target };
                (Connection::new(target, connector.clone(), buffer_budget), true)
            }
        };
        let advert = node.advert.as_ref();
        let (zone, instance) = (advert.and_then(|it| it.zone.as_ref()), advert.and_then(|it| it.id.as_ref()));
        let is_local = instance.is_some_and(|instance| *instance == self.local_node.instance);
        let same_zone = self.local_node.zone.is_some() && self.local_node.zone.as_ref() == zone;
        let (weight, suspect) = (weight(node), node.suspect);
        let mut is_called = false;
        if weight == 0 {
            for route in self.local_node.callable_routes(node).filter(|route| !is_event(route)) {
                // A refused route is not counted.
                if let Ok(count) = self.inactive.entry(route, || 0) {
                    *count += 1;
                }
            }
        } else {
            let provider_of = |route: &Route| Provider {
                connection: Arc::clone(&connection),
                route: route.clone(),
                advert: None,
                weight,
                suspect,
                same_zone,
                is_local,
            };
            is_called = self.add_routes(known, provider_of, now);
        }
        if is_newcomer && is_called && !is_local && self.newcomers.len() < MAX_SUBSET {
            self.newcomers.push(Arc::clone(&connection));
        }
        self.connections.insert(*address, connection);
    }

    /// Adds a node to the pools of its routes. Returns whether one of them is called.
    fn add_routes(&mut self, known: &KnownNode, provider_of: impl Fn(&Route) -> Provider, now: Instant) -> bool {
        let KnownNode { address, node, .. } = known;
        let local_node = Arc::clone(&self.local_node);
        let (mut is_called, mut unguarded) = (false, None);
        // Internal ones first, so that a route that a node states twice is internal.
        for is_internal in [true, false] {
            let routes =
                node.stated_routes().filter(|(route, advert)| local_node.is_internal(route, *advert) == is_internal);
            for (route, advert) in routes {
                if let Some(refused) = unguarded.filter(|_| route.is_pattern()) {
                    // The node might answer it by the internal route that is not in the router.
                    self.refuse(known, route, refused, now);
                    continue;
                }
                match self.pools_or_new(node, route) {
                    Ok(pools) => {
                        is_called |= pools.is_used();
                        // Two routes of one node may differ only in the names of parameters.
                        if !pools.has_last(*address) {
                            let provider = Provider { advert: advert.cloned(), ..provider_of(route) };
                            Arc::make_mut(pools).add(provider, is_internal);
                        }
                    }
                    Err(refused) => {
                        if is_internal {
                            unguarded = Some(refused);
                        }
                        self.refuse(known, route, refused, now);
                    }
                }
            }
        }
        is_called
    }

    /// Records that a node is never called, if so, and returns whether it is.
    fn block(&mut self, known: &KnownNode, now: Instant) -> bool {
        let KnownNode { address, node, .. } = known;
        // The list contains this process too. A gateway offers nothing there.
        let offers = !node.routes.is_empty() || node.advert.as_ref().is_some_and(|advert| advert.http.is_some());
        let Some(why) = offers.then(|| self.local_node.blocked_reason(*address)).flatten() else { return false };
        self.blocked.insert(*address, why);
        if let Some(suppressed) = self.log_throttle.as_mut().and_then(|log| log.allow(*address, now.into_std())) {
            warn!(node = %address, name = ?escaped(&node.name, MAX_ESCAPED_BYTES), suppressed, "a node is not called: {why}");
        }
        true
    }

    /// Records that a route of a node is not called.
    fn refuse(&mut self, known: &KnownNode, route: &Route, refused: RouterError, now: Instant) {
        let KnownNode { address, node, .. } = known;
        self.refused.insert(*address);
        let log_throttle = self.log_throttle.as_mut();
        if let Some(suppressed) = log_throttle.and_then(|log| log.allow((*address, route), now.into_std())) {
            let (name, route) = (escaped(&node.name, MAX_ESCAPED_BYTES), escaped(route, MAX_ESCAPED_BYTES));
            let reason = refused.reason();
            warn!(node = %address, ?name, ?route, suppressed, "a route is not called: {reason}");
        }
    }

    /// Drops newcomers that are not members of a used pool: they are never picked.
    fn keep_called_newcomers(&mut self) {
        let mut newcomers = std::mem::take(&mut self.newcomers);
        newcomers.retain(|connection| {
            let address = connection.address;
            let Some(KnownNode { node, .. }) = self.nodes.get(&address).cloned() else { return false };
            node.routes.iter().any(|route| {
                let pool = self.pools(&node, route);
                pool.is_some_and(|pool| pool.is_used() && pool.subset().any(|one| one.connection.address == address))
            })
        });
        self.newcomers = newcomers;
    }

    fn pools(&mut self, node: &Node, route: &Route) -> Option<&mut Arc<RouteProviders>> {
        if is_event(route) {
            return Arc::make_mut(self.events.get_mut(route)?).get_mut(&*node.name);
        }
        self.router.get_mut(route)
    }

    fn pools_or_new(&mut self, node: &Node, route: &Route) -> Result<&mut Arc<RouteProviders>, RouterError> {
        // Events have turns for each group.
        let group = is_event(route).then_some(node.name.as_str());
        let turns = &self.local_node.turns;
        let new = || Arc::new(RouteProviders::new(turns.of((route.as_str(), group))));
        if is_event(route) {
            let groups = Arc::make_mut(self.events.entry(route, Arc::default)?);
            return Ok(groups.entry(node.name.as_str().into()).or_insert_with(new));
        }
        self.router.entry(route, new)
    }

    /// Removes empty pools, and returns whether routes that were refused may be taken now.
    fn remove(&mut self, node: &Node, route: &Route) -> bool {
        if !is_event(route) {
            return self.router.remove(route);
        }
        let groups = self.events.get_mut(route).map(Arc::make_mut);
        let is_last = groups.is_some_and(|groups| groups.remove(&*node.name).is_some() && groups.is_empty());
        is_last && self.events.remove(route)
    }
}

impl Drop for RoutingTable {
    fn drop(&mut self) {
        self.connections.values().for_each(|connection| connection.retire());
    }
}

/// The target of connections to the node, without its score.
fn target_of(known: &KnownNode) -> Target {
    let KnownNode { address, node, is_shared, .. } = known;
    let advert = node.advert.as_ref();
    Target {
        address: *address,
        name: node.name.as_str().into(),
        advertised: advert.and_then(|advert| advert.advertise.clone()),
        version: node.version(),
        read_window: node.read_window.min(MAX_FRAME_BYTES),
        instance: advert.and_then(|advert| advert.id.clone()),
        is_shared: *is_shared,
        rendezvous_score: 0,
    }
}

/// The node, if it can be called.
fn callable(known: &KnownNode) -> Option<&Node> {
    let is_http = known.node.advert.as_ref().is_some_and(|advert| advert.http.is_some());
    (!is_http && !known.node.routes.is_empty()).then_some(&known.node)
}

/// The node, if it can be called but takes no calls now.
fn inactive(known: &KnownNode) -> Option<&Node> {
    callable(known).filter(|node| weight(node) == 0)
}

fn routes(node: &Node) -> impl Iterator<Item = (&Node, &Route)> {
    node.routes.iter().map(move |route| (node, route))
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use net::Network;
    use protocol::{Advert, LEGACY_READ_BYTES, RouteAdvert};

    use super::*;
    use crate::routing::local_node::UnstatedRoutes;
    use crate::routing::provider::Providers;
    use crate::transport::blocked::BlockedAddresses;

    /// Few enough that each is shared, left and offered again.
    const ROUTES: [&str; 9] = [
        "GET/a",
        "POST/a",
        "GET/a/{x}",
        "GET/a/{y}",
        "GET/{x}/b",
        "EVENT/told",
        "EVENT/told.too",
        "EVENT/told.*",
        "EVENT/>",
    ];
    const PATHS: [(&str, &str); 5] = [("GET", "/a"), ("POST", "/a"), ("GET", "/a/1"), ("GET", "/1/b"), ("GET", "/a/b")];

    fn table() -> RoutingTable {
        table_for(None)
    }

    fn table_for(clients: Option<UnstatedRoutes>) -> RoutingTable {
        let network = Network::default();
        RoutingTable::new(LocalNode::new(
            "here".to_owned(),
            "n",
            Some("a".to_owned()),
            network,
            BlockedAddresses::default(),
            clients,
        ))
    }

    fn known(rng: &mut Rng, port: u16) -> KnownNode {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let routes: Vec<_> = ROUTES.iter().filter(|_| rng.bool()).map(|route| Route::parse(route).unwrap()).collect();
        let route_adverts = routes
            .iter()
            .map(|_| rng.bool().then(|| RouteAdvert { public: rng.bool(), ..RouteAdvert::default() }))
            .collect();
        let advert = Advert {
            id: Some(format!("i{}", rng.u8(0..2))),
            weight: rng.choice([0, 50, 100]).unwrap(),
            draining: rng.u8(0..4) == 0,
            zone: Some("a".to_owned()).filter(|_| rng.bool()),
            ..Advert::default()
        };
        let advert = Some(advert).filter(|_| rng.u8(0..4) > 0);
        let name = format!("n{}", rng.u8(0..2));
        let node = Node {
            name,
            host: address.ip(),
            port,
            routes,
            route_adverts,
            advert,
            read_window: LEGACY_READ_BYTES,
            suspect: rng.bool(),
        };
        KnownNode { address, node: Arc::new(node), ids: vec![port.into()], is_shared: false }
    }

    /// Each with its weight, and whether it is suspect and in the same zone.
    type Members = BTreeSet<(SocketAddr, u16, bool, bool)>;

    fn members(pool: &Providers) -> Members {
        assert!(pool.is_scheduled());
        let members = pool.members().iter().map(|one| (one.connection.address, one.weight, one.suspect, one.same_zone));
        let set: Members = members.collect();
        assert_eq!(set.len(), pool.members().len(), "no node is listed twice");
        set
    }

    /// The providers of each route.
    fn seen(table: &RoutingTable) -> Vec<(String, Members)> {
        let mut seen = Vec::new();
        for (method, path) in PATHS {
            let called = matches!(table.lookup(method, path), Lookup::Available(..));
            assert_eq!(called, table.offer(method, path).is_some());
            if let Lookup::Available(providers, _) = table.lookup_all(method, path) {
                assert!(called != providers.members().is_empty() && !providers.are_empty());
                seen.extend(providers.pools().map(|pool| (format!("{method}{path}"), members(pool))));
            }
        }
        for event in ["/told", "/told.too"] {
            let subscribers = table.subscribers(event);
            assert!(subscribers.is_empty() || subscribers.groups().next().is_some());
            let pools = subscribers.groups().flat_map(|(name, pools)| pools.map(move |pool| (name, pool)));
            seen.extend(pools.map(|(name, pool)| (format!("{name} {event}"), members(pool))));
        }
        seen
    }

    #[tokio::test]
    async fn changes_one_by_one_lead_where_all_at_once_do() {
        for seed in 0..300 {
            let rng = &mut Rng::with_seed(seed);
            let clients = [None, Some(UnstatedRoutes::Public), Some(UnstatedRoutes::Internal)];
            let for_nodes = seed % 3 == 0;
            let mut table = table_for(clients.into_iter().nth(usize::try_from(seed % 3).unwrap()).flatten());
            for _ in 0..rng.u8(1..12) {
                let ports: BTreeSet<u16> = (0..rng.u8(1..5)).map(|_| rng.u16(1..6)).collect();
                let changes: Vec<NodeChange> = ports
                    .into_iter()
                    .map(|port| {
                        let known = known(rng, port);
                        (known.address, Some(known).filter(|_| rng.u8(0..3) > 0))
                    })
                    .collect();
                table.apply(&changes, Instant::now());
                assert_eq!(seen(&table), seen(&table.for_thread(Instant::now())), "seed {seed}");
                let has_internal = PATHS.iter().any(|(method, path)| {
                    matches!(table.lookup_all(method, path), Lookup::Available(all, _) if all.pools().count() > 1)
                });
                assert!(!(for_nodes && has_internal), "a node's own table has no pools of internal routes");
            }
            let callable = table.nodes.values().filter(|known| callable(known).is_some()).count();
            assert_eq!(table.connections.len(), callable, "seed {seed}");
            let none: Vec<NodeChange> = table.nodes.keys().map(|address| (*address, None)).collect();
            table.apply(&none, Instant::now());
            assert!(seen(&table).is_empty() && table.connections.is_empty() && table.nodes().len() == 0);
        }
    }

    #[tokio::test]
    async fn c9_newcomers_that_are_called_are_connected_and_no_others() {
        let (mut table, now) = (table(), Instant::now());
        let node = |port: u16| node_of(port, 100, ["GET/a".to_owned()]);
        table.apply(&[node(1)], now);
        assert!(table.take_newcomers().is_empty(), "nobody calls it yet");
        let Lookup::Available(providers, _) = table.lookup("GET", "/a") else { panic!("it is offered") };
        providers.pick(&crate::balance::PickOptions::default(), now, |_| {}).unwrap();
        drop(providers);
        table.apply(&[node(2), node_of(3, 100, ["GET/b".to_owned()])], now);
        let ports = |table: &mut RoutingTable| -> BTreeSet<u16> {
            table.take_newcomers().iter().map(|connection| connection.address.port()).collect()
        };
        assert_eq!(ports(&mut table), [2].into());
        let mut connected = BTreeSet::from([1, 2]);
        for port in 10..10 + 3 * u16::try_from(MAX_SUBSET).unwrap() {
            table.apply(&[node(port)], now);
            connected.extend(ports(&mut table));
        }
        let Lookup::Available(providers, _) = table.lookup("GET", "/a") else { panic!("it is offered") };
        let members: BTreeSet<u16> = providers.subset().map(|one| one.connection.address.port()).collect();
        assert_eq!(members.len(), MAX_SUBSET);
        assert!(members.is_subset(&connected));
        assert!(connected.len() < 3 * MAX_SUBSET, "some were never a member: {}", connected.len());
    }

    /// A node of these routes.
    fn node_of(port: u16, weight: u16, routes: impl IntoIterator<Item = String>) -> NodeChange {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let routes = routes.into_iter().map(|route| Route::parse(&route).unwrap()).collect();
        let advert = Some(Advert { weight, ..Advert::default() });
        let node = Node {
            name: "n".to_owned(),
            host: address.ip(),
            port,
            routes,
            route_adverts: Vec::new(),
            advert,
            read_window: LEGACY_READ_BYTES,
            suspect: false,
        };
        (address, Some(KnownNode { address, node: Arc::new(node), ids: vec![port.into()], is_shared: false }))
    }

    #[tokio::test(start_paused = true)]
    async fn routes_that_are_gone_differ_from_unknown_ones_for_some_time() {
        let mut table = table();
        let offer = |port, weight, path: &str| node_of(port, weight, [format!("GET{path}")]);
        let is_gone = |table: &RoutingTable, path: &str| matches!(table.lookup("GET", path), Lookup::Unavailable);
        let address = |change: &NodeChange| (change.0, None);
        let (here, inactive) = (offer(1, 100, "/here/{x}"), offer(2, 0, "/inactive"));
        table.apply(&[here.clone(), inactive.clone()], Instant::now());
        assert!(!is_gone(&table, "/here/1") && is_gone(&table, "/inactive") && !is_gone(&table, "/never"));
        tokio::time::advance(2 * KnownRoutes::KEPT_TIME).await;
        table.apply(&[address(&here)], Instant::now());
        assert!(is_gone(&table, "/here/1") && is_gone(&table, "/inactive"), "a node of weight 0 is still known");
        table.apply(&[address(&inactive)], Instant::now());
        tokio::time::advance(KnownRoutes::KEPT_TIME / 2).await;
        assert!(is_gone(&table, "/here/1") && is_gone(&table.for_thread(Instant::now()), "/inactive"));
        tokio::time::advance(KnownRoutes::KEPT_TIME / 2).await;
        assert!(!is_gone(&table, "/here/1") && !is_gone(&table, "/inactive"), "not for ever");
        table.apply(&[], Instant::now());
        assert!(table.inactive.find("GET", "/inactive").is_none());
    }

    #[tokio::test]
    async fn an_ignored_route_is_accepted_when_similar_ones_have_gone() {
        let mut table = table();
        let route = |bits: usize| {
            let segment = |at: usize| if bits >> at & 1 == 0 { "/x".to_owned() } else { format!("/{{p{at}}}") };
            format!("GET/a{}", (0..6).map(segment).collect::<String>())
        };
        let (many, late) = (node_of(1, 100, (1..20).map(route)), node_of(2, 100, [route(40), "GET/b".to_owned()]));
        table.apply(&[many.clone(), late.clone()], Instant::now());
        let late_route = Route::parse(&route(40)).unwrap();
        assert!(table.is_refused(late.0, &late_route) && table.is_refused(many.0, &late_route));
        assert!(!table.is_refused(late.0, &Route::parse("GET/b").unwrap()) && table.offer("GET", "/b").is_some());
        assert!(matches!(table.lookup("GET", "/a/x/x/x/1/x/2"), Lookup::Unknown));
        table.apply(&[(many.0, None)], Instant::now());
        assert!(!table.is_refused(late.0, &late_route));
        assert!(matches!(table.lookup("GET", "/a/x/x/x/1/x/2"), Lookup::Available(..)));
    }

    #[tokio::test]
    async fn a_node_with_an_internal_route_that_is_ignored_is_not_called_by_patterns() {
        let mut table = table_for(Some(UnstatedRoutes::Public));
        let route = |bits: usize| {
            let segment = |at: usize| if bits >> at & 1 == 0 { "/x".to_owned() } else { format!("/{{p{at}}}") };
            format!("GET/a{}", (0..6).map(segment).collect::<String>())
        };
        let many = node_of(1, 100, (1..17).map(route));
        let (at, mut late) = node_of(2, 100, ["GET/b".to_owned(), route(1), route(40)]);
        let node = Arc::make_mut(&mut late.as_mut().unwrap().node);
        node.route_adverts =
            [true, true, false].map(|public| Some(RouteAdvert { public, ..RouteAdvert::default() })).into();
        table.apply(&[many.clone(), (at, late)], Instant::now());
        let providers = |table: &RoutingTable, path: &str| match table.lookup("GET", path) {
            Lookup::Available(providers, _) => members(&providers).into_iter().map(|member| member.0).collect(),
            Lookup::Unavailable | Lookup::Unknown => Vec::new(),
        };
        assert_eq!(providers(&table, "/a/1/x/x/x/x/x"), [many.0], "it might run the internal one for such a path");
        assert_eq!(providers(&table, "/b"), [at]);
        table.apply(&[(many.0, None)], Instant::now());
        assert_eq!(providers(&table, "/a/1/x/x/x/x/x"), [at]);
        assert!(matches!(table.lookup("GET", "/a/x/x/x/1/x/2"), Lookup::Unknown), "it is internal");
    }

    #[tokio::test]
    async fn a_connection_stays_with_its_process_and_a_pool_with_its_call() {
        let mut table = table();
        let node = |id: &str, suspect| {
            let routes = vec![Route::parse("GET/a").unwrap()];
            let advert = Some(Advert { id: Some(id.to_owned()), ..Advert::default() });
            let host = [10, 0, 0, 1].into();
            let node = Node {
                name: "n".to_owned(),
                host,
                port: 1,
                routes,
                route_adverts: Vec::new(),
                advert,
                read_window: LEGACY_READ_BYTES,
                suspect,
            };
            let address = SocketAddr::new(host, 1);
            (address, Some(KnownNode { address, node: Arc::new(node), ids: vec![1], is_shared: false }))
        };
        let providers = |table: &RoutingTable| match table.lookup("GET", "/a") {
            Lookup::Available(providers, _) => providers,
            other => panic!("{other:?}"),
        };
        table.apply(&[node("x", false)], Instant::now());
        let first = providers(&table);
        table.apply(&[node("x", true)], Instant::now());
        let second = providers(&table);
        assert!(Arc::ptr_eq(&first.members()[0].connection, &second.members()[0].connection), "the same process");
        assert!(
            !first.members()[0].suspect && second.members()[0].suspect,
            "the pool of an earlier pick stays unchanged"
        );
        table.apply(&[node("y", false)], Instant::now());
        assert!(
            !Arc::ptr_eq(&first.members()[0].connection, &providers(&table).members()[0].connection),
            "another process"
        );
        table.apply(&[(first.members()[0].connection.address, None)], Instant::now());
        assert!(
            matches!(table.lookup("GET", "/a"), Lookup::Unavailable)
                && matches!(table.lookup("GET", "/b"), Lookup::Unknown)
        );
    }
}
