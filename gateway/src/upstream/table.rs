//! The table of HTTP servers: which of them answer which prefixes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use net::{MAX_ESCAPED_BYTES, ServerAddress, escaped};
use node_sdk::Peers;
use node_sdk::gateway::{GatewayPeers, Member, Pool};
use protocol::{HostPort, HttpAdvert, Node};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::WorkerShared;
use super::connector::Connector;
use super::group::{GroupGone, GroupMember, UpstreamGroup, UpstreamMatch};
use super::status::EndpointStatus;
use crate::config::snapshot::ConfigSnapshot;
use crate::config::{Config, RouteConfig};
use crate::route::path::{longest_prefix, normal_prefix};
use crate::upstream::checks::server_checks::ServerCheck;
use crate::upstream::concurrency::holders::PermitKind;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::names::ServerNames;
use crate::upstream::unix_socket::UnixSocket;

/// Maximum number of prefixes without a server that are remembered, to tell "not now" from "never".
const MAX_REMEMBERED: usize = 10_000;
/// How long they are remembered: a service that is deployed again, or has failed, is back by then.
const PREFIX_MEMORY_TIME: Duration = Duration::from_secs(600);
/// Maximum number of prefixes of one node, the same as its limit of urls, and maximum bytes of a
/// prefix.
const MAX_PREFIXES: usize = 256;
const MAX_PREFIX_BYTES: usize = 512;
/// A table with room for this many times its entries is shrunk.
const MAX_EMPTY_RATIO: usize = 4;
/// How often unused connections and prefixes are removed.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// The servers of one worker.
#[derive(Debug)]
pub(crate) struct UpstreamTable {
    /// Replaced as a whole when the configuration changes.
    snapshot: RwLock<Arc<ConfigSnapshot>>,
    /// Changed in place, where nodes have changed.
    state: RwLock<TableState>,
    names: Arc<ServerNames>,
}

/// The prefixes and health checks of servers that have left.
struct RemovedServers {
    /// The prefixes of each.
    prefixes: Vec<(SocketAddr, String)>,
    /// The health checks of servers that have left: a server that is added again keeps its health
    /// while its check exists.
    checks: Vec<Arc<ServerCheck>>,
}

/// Which servers answer which prefixes.
#[derive(Debug, Default)]
struct TableState {
    /// The groups by prefix, in normal form and without a slash at its end: `` is everything. A
    /// group that a request has found does not change.
    prefixes: HashMap<Box<str>, Arc<UpstreamGroup>>,
    /// How many prefixes have no server any more.
    gone_prefixes: usize,
    /// The nodes that are servers.
    nodes: HashMap<SocketAddr, Arc<Node>>,
    /// Fixed servers, which do not register.
    fixed: HashSet<ServerAddress>,
    endpoints: HashMap<EndpointKey, Arc<Endpoint>>,
}

/// The address of a server, and the name that it advertises. A server of the configuration is asked
/// at its address, whatever another one advertises there.
type EndpointKey = (ServerAddress, Option<HostPort>);

impl UpstreamTable {
    pub(crate) fn new(config: Arc<Config>, shared: &WorkerShared) -> Self {
        let snapshot = ConfigSnapshot::new(config, &shared.secret);
        let mut state = TableState::default();
        state.apply_config(&snapshot, shared, Instant::now());
        let names = Arc::clone(&shared.names);
        Self { snapshot: RwLock::new(Arc::new(snapshot)), state: RwLock::new(state), names }
    }

    /// Follows the nodes of `peers`, the configuration, and the addresses of names, while all of
    /// them exist. Removes connections and prefixes that are not used any more.
    pub(crate) async fn run_updates(
        self: Arc<Self>,
        peers: Peers,
        mut config: watch::Receiver<Arc<Config>>,
        shared: Arc<WorkerShared>,
    ) {
        let mut changes = peers.changes();
        let mut moved_names = self.names.subscribe();
        // Names may have been looked up since the table was made.
        moved_names.mark_changed();
        let mut sweeps = tokio::time::interval(SWEEP_PERIOD);
        loop {
            tokio::select! {
                changed = changes.next() => match changed {
                    Some(mut nodes) => {
                        nodes.retain(|node| peers.blocked_reason(node_address(node)).is_none());
                        self.change(|state, snapshot, now| state.apply_nodes(&nodes, snapshot, &shared, now));
                    }
                    None => return,
                },
                Ok(()) = moved_names.changed() => self.refresh(&shared),
                Ok(()) = config.changed() => {
                    let new = Arc::clone(&config.borrow_and_update());
                    // The earlier configuration stays in use until the new one's names are known.
                    self.names.prepare(&new).await;
                    let snapshot = ConfigSnapshot::new(new, &shared.secret);
                    *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
                    self.change(|state, snapshot, now| state.apply_config(snapshot, &shared, now));
                }
                _ = sweeps.tick() => self.change(|state, _, now| state.sweep(now)),
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut TableState, &ConfigSnapshot, Instant)) {
        let (snapshot, now) = (self.snapshot(), Instant::now());
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner), &snapshot, now);
    }

    /// Applies the configuration again, with the addresses that its names have now.
    pub(crate) fn refresh(&self, shared: &WorkerShared) {
        self.change(|state, snapshot, now| state.apply_config(snapshot, shared, now));
    }

    /// Records that a server could not be connected to.
    pub(crate) fn record_unreachable(&self, address: &ServerAddress) {
        if let Some(address) = address.tcp() {
            self.names.record_unreachable(address);
        }
    }

    /// The present configuration.
    pub(crate) fn snapshot(&self) -> Arc<ConfigSnapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The group that answers a path in normal form: the longest prefix of whole segments wins.
    pub(crate) fn find(&self, path: &str) -> Option<UpstreamMatch> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).find(path)
    }

    /// Adds all prefixes with their servers to `all`, as this worker sees them, for operators.
    pub(crate) fn status(&self, all: &mut BTreeMap<String, BTreeMap<ServerAddress, EndpointStatus>>, now: Instant) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        for (prefix, group) in &state.prefixes {
            let prefix = if prefix.is_empty() { "/" } else { prefix };
            let servers = all.entry(prefix.to_owned()).or_default();
            for member in group.pool.members() {
                let (readiness, in_flight) = (member.readiness(now), member.endpoint.load.in_flight());
                let described = servers.entry(member.endpoint.address.clone()).or_insert_with(|| EndpointStatus {
                    name: member.node.as_ref().map(|node| node.name.clone()),
                    advertised: member.endpoint.connector.name().map(|name| (name.server.clone(), name.failure())),
                    weight: member.weight,
                    strip: member.strip,
                    suspect: member.is_suspect(),
                    readiness,
                    fault: member.endpoint.connector.unix().and_then(UnixSocket::fault),
                    in_flight: 0,
                    malformed: None,
                });
                described.add_malformed(member.endpoint.malformed(), now);
                described.readiness = described.readiness.max(readiness);
                described.in_flight += in_flight;
            }
        }
    }
}

impl TableState {
    fn find(&self, path: &str) -> Option<UpstreamMatch> {
        let (prefix_bytes, group) = longest_prefix(path, |prefix| self.prefixes.get(prefix))?;
        Some(UpstreamMatch { group: Arc::clone(group), prefix_bytes })
    }

    /// Applies another configuration to the same nodes.
    fn apply_config(&mut self, snapshot: &ConfigSnapshot, shared: &WorkerShared, now: Instant) {
        let nodes: Vec<_> = std::mem::take(&mut self.nodes).into_values().collect();
        let old = std::mem::take(&mut self.prefixes);
        self.fixed.clear();
        for route in &snapshot.config.routes {
            for prefix in route.prefixes.iter().filter_map(|prefix| normal_prefix(prefix)) {
                for fixed in &route.servers {
                    self.group_or_new(&prefix, shared).is_fixed = true;
                    for address in shared.names.addresses(&fixed.address) {
                        let member = self.member((address.clone(), None), fixed.weight, route, shared, now);
                        let pool = &mut self.group_or_new(&prefix, shared).pool;
                        // Two names may lead to one server.
                        if !pool.members().iter().any(|known| known.endpoint.address == address) {
                            pool.push(GroupMember { strip: route.strip, ..member });
                        }
                        self.fixed.insert(address);
                    }
                }
            }
        }
        self.prefixes.values_mut().for_each(|group| Arc::make_mut(group).pool.rebuild_schedule());
        self.gone_prefixes = 0;
        self.apply_nodes(&nodes, snapshot, shared, now);
        // A prefix that was only in the file is forgotten at once; a registered one may come back.
        for (prefix, group) in old.into_iter().filter(|(_, group)| group.gone.is_some()) {
            self.gone_prefixes += usize::from(!self.prefixes.contains_key(&prefix));
            self.prefixes.entry(prefix).or_insert(group);
        }
    }

    /// Applies the present nodes: servers that stay are kept, and prefixes that have lost their
    /// last server are remembered.
    fn apply_nodes(&mut self, nodes: &[Arc<Node>], snapshot: &ConfigSnapshot, shared: &WorkerShared, now: Instant) {
        let servers = nodes.iter().filter(|node| http_advert(node).is_some());
        let new: HashMap<_, _> = servers.map(|node| (node_address(node), Arc::clone(node))).collect();
        let differs = |(address, node): &(&SocketAddr, &Arc<Node>), other: &HashMap<SocketAddr, Arc<Node>>| {
            other.get(*address).is_none_or(|known| !Arc::ptr_eq(known, node))
        };
        let old = std::mem::take(&mut self.nodes);
        let left: Vec<_> = old.iter().filter(|known| differs(known, &new)).map(|(_, node)| node).collect();
        let came: Vec<_> = new.iter().filter(|known| differs(known, &old)).map(|(_, node)| node).collect();
        let moved: HashSet<SocketAddr> = left.iter().chain(&came).map(|node| node_address(node)).collect();
        let removed = self.remove_left(&left, &moved);
        let added: Vec<_> = came.iter().flat_map(|node| self.add_node(node, snapshot, shared, now)).collect();
        for (node, prefix) in removed.prefixes.iter().chain(&added) {
            self.reschedule(prefix, *node, now);
        }
        self.evict_gone_groups();
        for key in left.iter().map(|node| endpoint_key(node)) {
            let Some(endpoint) = self.endpoints.get(&key) else { continue };
            // The node may drain, or be another process.
            endpoint.close_idle();
            if !is_used(&key, &new, &self.fixed) {
                endpoint.mark_unlisted(now);
            }
        }
        drop(removed);
        self.nodes = new;
    }

    /// Removes servers that have left from the pools of their prefixes, and all at the addresses
    /// that have `moved`.
    fn remove_left(&mut self, left: &[&Arc<Node>], moved: &HashSet<SocketAddr>) -> RemovedServers {
        let mut removed = RemovedServers { prefixes: Vec::new(), checks: Vec::new() };
        for node in left {
            removed.prefixes.extend(prefixes(node).map(|prefix| (node_address(node), prefix)));
        }
        for (_, prefix) in &removed.prefixes {
            let Some(group) = self.prefixes.get_mut(&**prefix).map(Arc::make_mut) else { continue };
            group.registered -= 1;
            // One pass over a list removes all nodes that have changed.
            if group.pool.is_scheduled() {
                let has_moved = |member: &GroupMember| {
                    member.node.is_some() && member.endpoint.address.tcp().is_some_and(|at| moved.contains(&at))
                };
                let gone = group.pool.members().iter().filter(|member| has_moved(member));
                removed.checks.extend(gone.filter_map(|member| member.check.clone()));
                group.pool.retain(|member| !has_moved(member));
            }
        }
        removed
    }

    /// Adds a node to the pools of its prefixes, and returns these, each with its address.
    fn add_node(
        &mut self,
        node: &Arc<Node>,
        snapshot: &ConfigSnapshot,
        shared: &WorkerShared,
        now: Instant,
    ) -> Vec<(SocketAddr, String)> {
        let Some((advert, http)) = node.advert.as_ref().and_then(|advert| Some((advert, advert.http.as_ref()?))) else {
            return Vec::new();
        };
        let address = node_address(node);
        let prefixes: Vec<String> = prefixes(node).collect();
        if let Some(bad) =
            http.prefixes.get(MAX_PREFIXES).or_else(|| http.prefixes.iter().find(|one| usable_prefix(one).is_none()))
            && let Some(suppressed) = shared.log_throttles.allow_for("prefixes", address, now.into_std())
        {
            let (name, prefix) = (escaped(&node.name, MAX_ESCAPED_BYTES), escaped(bad, MAX_ESCAPED_BYTES));
            let ignored = http.prefixes.len() - prefixes.len();
            let why = "they are not paths, longer than 512 bytes, or more than 256";
            warn!(node = %address, ?name, ?prefix, ignored, suppressed, "prefixes are ignored: {why}");
        }
        let wants_requests = advert.weight > 0 && !advert.draining;
        for prefix in &prefixes {
            self.group_or_new(prefix, shared).registered += 1;
            if wants_requests {
                let member = self.member(endpoint_key(node), advert.weight, snapshot.route(prefix), shared, now);
                let pool = &mut self.group_or_new(prefix, shared).pool;
                // Two of its prefixes may have the same normal form.
                let is_there = |last: &GroupMember| last.node.is_some() && last.endpoint.address.tcp() == Some(address);
                if !pool.members().last().is_some_and(is_there) {
                    pool.push(GroupMember { strip: http.strip, node: Some(Arc::clone(node)), ..member });
                }
            }
        }
        prefixes.into_iter().map(|prefix| (address, prefix)).collect()
    }

    /// Makes a changed prefix ready for picking again.
    fn reschedule(&mut self, prefix: &str, node: SocketAddr, now: Instant) {
        let Some(group) = self.prefixes.get_mut(prefix) else { return };
        let is_gone = group.registered == 0 && group.pool.members().is_empty() && !group.is_fixed;
        if is_gone == group.gone.is_some() && group.pool.is_scheduled() {
            return;
        }
        let group = Arc::make_mut(group);
        group.pool.rebuild_schedule();
        self.gone_prefixes -= usize::from(group.gone.is_some());
        self.gone_prefixes += usize::from(is_gone);
        group.gone = is_gone.then(|| group.gone.unwrap_or(GroupGone { since: now, node }));
    }

    /// Forgets gone prefixes beyond the limit: the oldest of the nodes that left the most behind,
    /// so that a node that invents prefixes displaces its own.
    fn evict_gone_groups(&mut self) {
        if self.gone_prefixes <= MAX_REMEMBERED {
            return;
        }
        let mut by_node: HashMap<SocketAddr, Vec<(Instant, Box<str>)>> = HashMap::default();
        for (prefix, group) in &self.prefixes {
            if let Some(GroupGone { since, node }) = group.gone {
                by_node.entry(node).or_default().push((since, prefix.clone()));
            }
        }
        let kept = |max: usize| by_node.values().map(|list| list.len().min(max)).sum::<usize>();
        let share = (0..=MAX_REMEMBERED).collect::<Vec<_>>().partition_point(|max| kept(*max) <= MAX_REMEMBERED) - 1;
        for mut list in by_node.into_values().filter(|list| list.len() > share) {
            list.sort_unstable();
            for (_, prefix) in &list[..list.len() - share] {
                self.prefixes.remove(prefix);
                self.gone_prefixes -= 1;
            }
        }
    }

    /// Forgets prefixes that have been gone for long.
    fn sweep(&mut self, now: Instant) {
        let Self { prefixes, gone_prefixes, nodes, fixed, endpoints } = self;
        endpoints.values().for_each(|endpoint| endpoint.sweep(now));
        endpoints.retain(|key, endpoint| {
            let is_used = is_used(key, nodes, fixed);
            if !is_used {
                endpoint.mark_unlisted(now);
            }
            is_used || endpoint.is_remembered(now)
        });
        if *gone_prefixes > 0 {
            prefixes.retain(|_, group| group.gone.is_none_or(|gone| now < gone.since + PREFIX_MEMORY_TIME));
            *gone_prefixes = prefixes.values().filter(|group| group.gone.is_some()).count();
        }
        if prefixes.capacity() > MAX_EMPTY_RATIO * prefixes.len().max(MAX_PREFIXES) {
            prefixes.shrink_to_fit();
        }
        if endpoints.capacity() > MAX_EMPTY_RATIO * endpoints.len().max(MAX_PREFIXES) {
            endpoints.shrink_to_fit();
        }
    }

    fn group_or_new(&mut self, prefix: &str, shared: &WorkerShared) -> &mut UpstreamGroup {
        let new = || {
            // Each worker has connections of its own, and few of them: all servers are used.
            let pool = Pool::new(usize::MAX, shared.turns.of(prefix));
            Arc::new(UpstreamGroup { pool, registered: 0, is_fixed: false, gone: None })
        };
        Arc::make_mut(self.prefixes.entry(prefix.into()).or_insert_with(new))
    }

    /// The server of `route`: the known one, or a new one.
    fn member(
        &mut self,
        key: EndpointKey,
        weight: u16,
        route: &RouteConfig,
        shared: &WorkerShared,
        now: Instant,
    ) -> GroupMember {
        let address = key.0.clone();
        let endpoint = self.endpoints.entry(key).or_insert_with_key(|(address, advertised)| {
            let name = advertised.as_ref().and_then(|server| shared.advertised.get(server));
            let connector = match (address, name) {
                (ServerAddress::Tcp(address), Some(name)) => Connector::Name(*address, name),
                (ServerAddress::Tcp(address), None) => Connector::Address(*address),
                (ServerAddress::Unix(path), _) => Connector::Unix(shared.unix.get(path)),
            };
            Arc::new(Endpoint::new(connector, now))
        });
        endpoint.mark_listed();
        let check = route.check.as_ref().map(|check| shared.checks.get(endpoint, check, route.check_every));
        let permits = |kind, limit| shared.permits.permits_for(address.clone(), kind, limit, route.client_share);
        let tunnels = permits(PermitKind::Tunnels, route.max_tunnels);
        let requests = permits(PermitKind::Requests, route.max_connections);
        GroupMember { endpoint: Arc::clone(endpoint), weight, strip: false, node: None, requests, tunnels, check }
    }
}

fn node_address(node: &Node) -> SocketAddr {
    SocketAddr::new(node.host, node.port)
}

/// The key of the server that a node is. For an advertised address, the list has both host and
/// port.
fn endpoint_key(node: &Node) -> EndpointKey {
    let advertised = node.advert.as_ref().and_then(|advert| advert.advertise.as_ref());
    (node_address(node).into(), advertised.filter(|advertised| advertised.socket_address().is_none()).cloned())
}

fn is_used(key: &EndpointKey, nodes: &HashMap<SocketAddr, Arc<Node>>, fixed: &HashSet<ServerAddress>) -> bool {
    let (address, name) = key;
    let is_fixed = name.is_none() && fixed.contains(address);
    let node = address.tcp().and_then(|address| nodes.get(&address));
    is_fixed || node.is_some_and(|node| endpoint_key(node) == *key)
}

fn http_advert(node: &Node) -> Option<&HttpAdvert> {
    node.advert.as_ref()?.http.as_ref()
}

/// The valid prefixes of a node, in normal form.
fn prefixes(node: &Node) -> impl Iterator<Item = String> {
    http_advert(node)
        .into_iter()
        .flat_map(|http| &http.prefixes)
        .take(MAX_PREFIXES)
        .filter_map(|prefix| usable_prefix(prefix))
}

/// A prefix in normal form, if it is valid.
fn usable_prefix(prefix: &str) -> Option<String> {
    (prefix.len() <= MAX_PREFIX_BYTES).then(|| normal_prefix(prefix)).flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use node_sdk::Balance;
    use node_sdk::gateway::PickOptions;
    use protocol::HttpAdvert;

    use super::*;
    use crate::config::{self, FixedServer};
    use crate::upstream::concurrency::MAX_WAITING;
    use crate::upstream::concurrency::holders::PermitKind;
    use crate::upstream::endpoint::Endpoint;
    use crate::upstream::group::PickedEndpoint;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn node(port: u16, weight: u16, prefixes: &[&str]) -> Arc<Node> {
        let advert = protocol::Advert {
            weight,
            http: Some(HttpAdvert {
                prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
                strip: false,
            }),
            ..protocol::Advert::default()
        };
        let (name, host) = ("n".to_owned(), [127, 0, 0, 1].into());
        let read_window = protocol::LEGACY_READ_BYTES;
        Arc::new(Node {
            name,
            host,
            port,
            routes: Vec::new(),
            route_adverts: Vec::new(),
            advert: Some(advert),
            read_window,
            suspect: false,
        })
    }

    /// A table with its configuration.
    struct TableScene(TableState, ConfigSnapshot, WorkerShared);

    impl TableScene {
        fn new(routes: Vec<RouteConfig>) -> Self {
            let snapshot = ConfigSnapshot::new(Arc::new(Config { routes, ..Config::default() }), "");
            let (mut state, shared) = (TableState::default(), WorkerShared::default());
            state.apply_config(&snapshot, &shared, Instant::now());
            Self(state, snapshot, shared)
        }

        fn with(nodes: &[Arc<Node>]) -> Self {
            let mut scene = Self::new(Vec::new());
            scene.apply_nodes(nodes);
            scene
        }

        fn apply_nodes(&mut self, nodes: &[Arc<Node>]) {
            self.0.apply_nodes(nodes, &self.1, &self.2, Instant::now());
        }

        fn find(&self, path: &str) -> Option<UpstreamMatch> {
            self.0.find(path)
        }
    }

    fn port(picked: &PickedEndpoint) -> u16 {
        picked.endpoint.address.tcp().unwrap().port()
    }

    fn pick(group: &UpstreamGroup, balance: Balance, tried: &[ServerAddress]) -> Option<u16> {
        let picked = group.pick(&PickOptions { balance, tried, ..PickOptions::default() }, Instant::now());
        picked.map(|picked| port(&picked))
    }

    #[tokio::test]
    async fn the_longest_prefix_of_whole_segments_wins() {
        let nodes =
            [node(1, 100, &["/"]), node(2, 100, &["/api", "/%61pi/v2/"]), node(3, 100, &["bad", "/..", "/a%2Fb"])];
        let both = TableScene::with(&nodes);
        for (path, port, prefix_bytes) in [
            ("/", 1, 0),
            ("/x/y", 1, 0),
            ("/apix", 1, 0),
            ("/api", 2, 4),
            ("/api/", 2, 4),
            ("/api/v1", 2, 4),
            ("/api/v2", 2, 7),
            ("/api/v2/x/", 2, 7),
        ] {
            let target = both.find(path).unwrap();
            let picked = pick(&target.group, Balance::RoundRobin, &[]);
            assert_eq!((picked, target.prefix_bytes), (Some(port), prefix_bytes), "{path}");
        }
        assert!(TableScene::with(&nodes[1..]).find("/x").is_none());
    }

    #[tokio::test]
    async fn a_prefix_without_servers_is_remembered_and_servers_are_kept() {
        let (one, two) = (node(1, 100, &["/api"]), node(2, 100, &["/api"]));
        let mut scene = TableScene::with(&[Arc::clone(&one)]);
        let who = |scene: &TableScene| {
            let group = scene.find("/api/x").unwrap().group;
            let mut who: Vec<_> = (0..4).filter_map(|_| pick(&group, Balance::RoundRobin, &[])).collect();
            who.sort_unstable();
            who
        };
        let endpoint = Arc::clone(&scene.0.endpoints[&endpoint_key(&one)]);
        scene.apply_nodes(&[]);
        assert_eq!((who(&scene), scene.0.gone_prefixes), (vec![], 1));
        scene.apply_nodes(&[node(1, 0, &["/api"])]);
        assert_eq!((who(&scene), scene.0.gone_prefixes), (vec![], 0), "it drains");
        scene.apply_nodes(&[Arc::clone(&one), Arc::clone(&two)]);
        assert_eq!((who(&scene), scene.0.gone_prefixes), (vec![1, 1, 2, 2], 0));
        assert!(Arc::ptr_eq(&scene.0.endpoints[&endpoint_key(&one)], &endpoint), "its health is still known");
        scene.apply_nodes(&[node(1, 100, &["/other"]), two]);
        assert_eq!(who(&scene), [2; 4], "the other server has another prefix now");
        tokio::time::pause();
        scene.apply_nodes(&[]);
        tokio::time::advance(crate::upstream::endpoint::FORGET_AFTER).await;
        scene.0.sweep(Instant::now());
        assert!(scene.0.endpoints.is_empty() && who(&scene).is_empty(), "not for ever");
        tokio::time::advance(PREFIX_MEMORY_TIME).await;
        scene.0.sweep(Instant::now());
        assert!(scene.find("/api/x").is_none() && scene.0.prefixes.is_empty() && scene.0.gone_prefixes == 0);
    }

    #[tokio::test]
    async fn other_rules_apply_to_the_same_nodes() {
        let fixed = |port| RouteConfig {
            servers: vec![FixedServer { address: SocketAddr::from(([127, 0, 0, 1], port)).into(), weight: 100 }],
            ..RouteConfig::new(vec!["/fixed".to_owned()])
        };
        let mut scene = TableScene::new(vec![fixed(1)]);
        scene.apply_nodes(&[node(2, 100, &["/fixed", "/a"]), node(3, 100, &["/b"])]);
        scene.apply_nodes(&[node(2, 100, &["/fixed", "/a"])]);
        let who = |scene: &TableScene, path| {
            let group = scene.find(path)?.group;
            Some((0..2).filter_map(|_| pick(&group, Balance::RoundRobin, &[])).collect::<BTreeSet<_>>())
        };
        assert_eq!(who(&scene, "/fixed"), Some([1, 2].into()));
        let snapshot = ConfigSnapshot::new(Arc::new(Config { routes: vec![fixed(9)], ..Config::default() }), "");
        scene.0.apply_config(&snapshot, &scene.2, Instant::now());
        assert_eq!(who(&scene, "/fixed"), Some([2, 9].into()));
        assert_eq!((who(&scene, "/a"), who(&scene, "/b")), (Some([2].into()), Some([].into())));
        scene.0.apply_config(&scene.1, &scene.2, Instant::now());
        scene.apply_nodes(&[]);
        assert_eq!(who(&scene, "/fixed"), Some([1].into()), "a fixed server stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_drains_for_long_is_not_forgotten() {
        let mut scene = TableScene::with(&[node(1, 0, &["/api"]), node(2, 100, &["/"])]);
        tokio::time::advance(PREFIX_MEMORY_TIME * 2).await;
        scene.0.sweep(Instant::now());
        let api = scene.find("/api/x").unwrap();
        assert_eq!((api.prefix_bytes, pick(&api.group, Balance::RoundRobin, &[])), (4, None), "no other server has it");
        scene.apply_nodes(&[node(2, 100, &["/"])]);
        tokio::time::advance(PREFIX_MEMORY_TIME).await;
        scene.0.sweep(Instant::now());
        assert_eq!(scene.find("/api/x").unwrap().prefix_bytes, 0);
    }

    #[tokio::test]
    async fn the_result_of_a_check_outlives_a_change_of_its_server() {
        let route = RouteConfig { check: Some(config::Check::Tcp), ..RouteConfig::new(vec!["/api".to_owned()]) };
        let mut scene = TableScene::new(vec![route]);
        let check = |scene: &TableScene| {
            let group = scene.find("/api").unwrap().group;
            Arc::downgrade(group.pool.members()[0].check.as_ref().unwrap())
        };
        scene.apply_nodes(&[node(1, 100, &["/api"])]);
        let first = check(&scene);
        scene.apply_nodes(&[node(1, 50, &["/api"])]);
        assert!(std::sync::Weak::ptr_eq(&first, &check(&scene)), "the same check");
        scene.apply_nodes(&[]);
        assert_eq!(first.strong_count(), 0, "no server uses it any more");
    }

    #[tokio::test]
    async fn prefixes_without_a_server_are_remembered_up_to_a_limit() {
        let many: Vec<_> = (1..=60)
            .map(|port| {
                let names: Vec<String> = (0..MAX_PREFIXES).map(|number| format!("/{port}/{number}")).collect();
                node(port, 100, &names.iter().map(String::as_str).collect::<Vec<_>>())
            })
            .collect();
        let mut all = many.clone();
        all.push(node(99, 100, &["/real"]));
        let mut scene = TableScene::with(&all);
        scene.apply_nodes(&many);
        scene.apply_nodes(&[]);
        assert!(scene.find("/real/x").is_some(), "a node that leaves many behind displaces its own");
        assert_eq!((scene.0.prefixes.len(), scene.0.gone_prefixes), (1 + 60 * 166, 1 + 60 * 166));
        assert!(scene.0.prefixes.len() <= MAX_REMEMBERED);
        tokio::time::pause();
        tokio::time::advance(PREFIX_MEMORY_TIME).await;
        scene.0.sweep(Instant::now());
        assert_eq!((scene.0.prefixes.len(), scene.0.gone_prefixes), (0, 0));
        assert!(scene.0.prefixes.capacity() < MAX_PREFIXES, "memory is given back");
    }

    #[tokio::test]
    async fn a_node_has_a_limit_of_prefixes_and_their_bytes() {
        let names: Vec<String> = (0..=MAX_PREFIXES).map(|number| format!("/{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (fits, long) = (format!("/{}", "x".repeat(511)), format!("/{}", "y".repeat(512)));
        let scene = TableScene::with(&[node(1, 100, &names), node(2, 100, &[&fits, &long])]);
        for (path, expected) in [("/255", true), ("/256", false), (&fits, true), (&long, false)] {
            assert_eq!(scene.find(path).is_some(), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn servers_that_cool_down_or_were_tried_are_skipped() {
        let both = TableScene::with(&[node(1, 100, &["/"]), node(2, 100, &["/"])]);
        let group = both.find("/").unwrap().group;
        let [one, two] = [1, 2].map(|port| ServerAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port))));
        let picks = || -> Vec<_> { (0..4).filter_map(|_| pick(&group, Balance::RoundRobin, &[])).collect() };
        assert_eq!(pick(&group, Balance::RoundRobin, std::slice::from_ref(&one)), Some(2));
        assert_eq!(pick(&group, Balance::RoundRobin, &[one.clone(), two.clone()]), None);
        let rest = |address| {
            let endpoint: &Endpoint = &both.0.endpoints[&(address, None)];
            endpoint.cool_down_until(Instant::now() + Duration::from_secs(1));
        };
        rest(two);
        assert_eq!(picks(), [1; 4]);
        rest(one);
        assert_eq!(picks().len(), 4, "better than no server");
    }

    #[tokio::test]
    async fn the_server_with_the_fewest_requests_for_its_weight_is_next() {
        let both = TableScene::with(&[node(1, 100, &["/"]), node(2, 50, &["/"])]);
        let group = both.find("/").unwrap().group;
        let (mut seen, mut held) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let options = PickOptions { balance: Balance::LeastInFlight, ..PickOptions::default() };
            let picked = group.pick(&options, Instant::now()).unwrap();
            seen.push(port(&picked));
            held.push(picked.acquire(PermitKind::Requests, CLIENT, Instant::now(), Instant::now()).await.unwrap());
        }
        assert_eq!(seen.iter().filter(|port| **port == 1).count(), 4, "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gu4_a_limited_number_waits_for_a_full_server_for_a_limited_time() {
        let route = RouteConfig { max_connections: 1, ..RouteConfig::new(vec!["/".to_owned()]) };
        let mut full = TableScene::new(vec![route]);
        full.apply_nodes(&[node(1, 100, &["/"])]);
        let group = full.find("/").unwrap().group;
        let picked = || group.pick(&PickOptions::default(), Instant::now()).unwrap();
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = picked().acquire(PermitKind::Requests, CLIENT, Instant::now(), soon()).await.unwrap();
        assert!(
            picked().acquire(PermitKind::Requests, CLIENT, Instant::now(), soon()).await.is_err(),
            "no permit becomes free in time"
        );
        let second = picked();
        let (second, ()) =
            tokio::join!(second.acquire(PermitKind::Requests, CLIENT, Instant::now(), soon()), async { drop(first) });
        let _second = second.unwrap();
        let mut waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| {
                Box::pin(async { picked().acquire(PermitKind::Requests, CLIENT, Instant::now(), soon()).await.is_ok() })
            })
            .collect();
        for one in &mut waiting {
            assert!(futures::FutureExt::now_or_never(one.as_mut()).is_none());
        }
        let started = Instant::now();
        assert!(picked().acquire(PermitKind::Requests, CLIENT, Instant::now(), soon()).await.is_err());
        assert_eq!(Instant::now(), started, "too many wait already, so it is refused at once");
    }
}
