//! HTTP servers behind the gateway: who answers which paths, whose turn it is, and how much each may be given.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use node_sdk::Peers;
use node_sdk::balance::{Choice, Load, Member, Pool, Readiness};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::checks::{Check, Checks};
use crate::config::{Config, Route};
use crate::cookie::Cookies;
use crate::path;
use crate::upstream::{KEEP, Upstream};

/// Requests that wait for one server.
const MAX_WAITING: usize = 1024;
/// Prefixes without a server that are remembered, to tell "not now" from "never", and for how long: whoever is deployed anew, or
/// fails, is back by then.
const MAX_REMEMBERED: usize = 10_000;
const REMEMBERED_PREFIX: Duration = Duration::from_secs(600);
/// The servers of one worker.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// Replaced as a whole at every change.
    table: RwLock<Arc<Table>>,
}

/// Who answers what, and what holds for it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) config: Arc<Config>,
    pub(crate) cookies: Cookies,
    /// By prefix, in normal form and without a slash at its end: `` is everything.
    prefixes: BTreeMap<String, Arc<Service>>,
    /// Where in the configuration the route of a prefix stands.
    routes: HashMap<String, usize>,
    /// What holds where the configuration says nothing.
    usual: Route,
    servers: HashMap<SocketAddr, Arc<Upstream>>,
}

/// All that answer one prefix; none when they are gone.
#[derive(Debug, Default)]
pub(crate) struct Service {
    pool: Pool<Server>,
    /// When the last one went, if they had registered.
    gone: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Server {
    upstream: Arc<Upstream>,
    weight: u16,
    /// It gives no sign of life, so others are preferred.
    suspect: bool,
    strip: bool,
    /// What it is called, if it has registered.
    name: Option<String>,
    places: Arc<Places>,
    check: Option<Arc<Check>>,
}

/// What one server may be given at a time, of all workers.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Who is to answer a request.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) service: Arc<Service>,
    /// Bytes of the path that are the prefix.
    pub(crate) prefix_bytes: usize,
}

/// A server that was picked.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) upstream: Arc<Upstream>,
    /// It wants to be asked without the prefix.
    pub(crate) strip: bool,
    places: Arc<Places>,
}

/// A request that a server may be given. It counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    upstream: Arc<Upstream>,
    _place: OwnedSemaphorePermit,
}

/// A server has as much to do as it may have, and as many wait for it as may, or have waited for too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

/// What all workers share: the places of servers, whether they are alive, and what cookies are signed with.
#[derive(Debug)]
pub(crate) struct Shared {
    /// By address and how many there are: two routes may have different limits for one server.
    places: Mutex<HashMap<(SocketAddr, usize), Weak<Places>>>,
    checks: Checks,
    secret: String,
}

impl Default for Shared {
    fn default() -> Self {
        let secret = format!("{:032x}", daemon::unique_id());
        Self { places: Mutex::default(), checks: Checks::default(), secret }
    }
}

impl Upstreams {
    pub(crate) fn new(config: Arc<Config>, shared: &Shared) -> Self {
        let table = Table::next(None, config, &[], shared, Instant::now());
        Self { table: RwLock::new(Arc::new(table)) }
    }

    /// Keeps to what `peers` know and `config` says, for as long as they do, and closes connections that are not in use any more.
    pub(crate) async fn follow(
        self: Arc<Self>,
        peers: Peers,
        mut config: watch::Receiver<Arc<Config>>,
        shared: Arc<Shared>,
    ) {
        let mut changes = peers.changes();
        let mut tidy = tokio::time::interval(KEEP / 4);
        let mut nodes = Vec::new();
        loop {
            tokio::select! {
                changed = changes.next() => match changed {
                    Some(changed) => nodes = changed,
                    None => return,
                },
                Ok(()) = config.changed() => {}
                _ = tidy.tick() => {
                    let (table, now) = (self.table(), Instant::now());
                    table.servers.values().for_each(|upstream| upstream.tidy(now));
                    let is_over = |gone: Instant| gone + REMEMBERED_PREFIX <= now;
                    if !table.prefixes.values().any(|service| service.gone.is_some_and(is_over)) {
                        continue;
                    }
                }
            }
            let config = Arc::clone(&config.borrow_and_update());
            let next = Arc::new(Table::next(Some(&self.table()), config, &nodes, &shared, Instant::now()));
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = next;
        }
    }

    /// What holds now.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    /// The table of these nodes: servers that stay are kept, and prefixes that have lost their last one remembered.
    fn next(old: Option<&Self>, config: Arc<Config>, nodes: &[protocol::Node], shared: &Shared, now: Instant) -> Self {
        let cookies = Cookies::new(config.cookie_secret.as_deref().unwrap_or(&shared.secret));
        let routes =
            config.routes.iter().enumerate().flat_map(|(at, route)| {
                route.prefixes.iter().filter_map(move |prefix| Some((normal_prefix(prefix)?, at)))
            });
        let routes = routes.collect();
        let usual = Route::new(Vec::new());
        let mut next = Self { config, cookies, prefixes: BTreeMap::new(), routes, usual, servers: HashMap::new() };
        let mut services: BTreeMap<String, Vec<Server>> = BTreeMap::new();
        let (config, usual) = (Arc::clone(&next.config), Route::new(Vec::new()));
        for route in &config.routes {
            for prefix in route.prefixes.iter().filter_map(|prefix| normal_prefix(prefix)) {
                for fixed in &route.servers {
                    let server = next.server(old, fixed.address, fixed.weight, route, shared, now);
                    services.entry(prefix.clone()).or_default().push(Server { strip: route.strip, ..server });
                }
            }
        }
        for node in nodes {
            let Some((advert, http)) = node.advert.as_ref().and_then(|advert| Some((advert, advert.http.as_ref()?)))
            else {
                continue;
            };
            let address = SocketAddr::new(node.host, node.port);
            for prefix in &http.prefixes {
                let Some(prefix) = normal_prefix(prefix) else {
                    warn!(node = node.name, prefix, "a prefix is passed over: it is no path");
                    continue;
                };
                let servers = services.entry(prefix.clone()).or_default();
                if advert.weight > 0 && !advert.draining {
                    let route = next.route_at(&prefix).map_or(&usual, |at| &config.routes[at]);
                    let server = next.server(old, address, advert.weight, route, shared, now);
                    let name = Some(node.name.clone());
                    servers.push(Server { suspect: node.suspect, strip: http.strip, name, ..server });
                }
            }
        }
        let mut gone = HashMap::new();
        if let Some(old) = old {
            // What is written in no file any more is forgotten at once; what has registered may come back.
            let registered = |service: &Service| service.pool.list.iter().any(|server| server.name.is_some());
            for (prefix, service) in old.prefixes.iter().take(MAX_REMEMBERED) {
                let since = service.gone.unwrap_or(now);
                let remembered = service.gone.is_some() || registered(service);
                if !services.contains_key(prefix) && remembered && now < since + REMEMBERED_PREFIX {
                    gone.insert(prefix.clone(), since);
                    services.insert(prefix.clone(), Vec::new());
                }
            }
            for (address, upstream) in &old.servers {
                if !next.servers.contains_key(address) && upstream.is_remembered(now) {
                    next.servers.insert(*address, Arc::clone(upstream));
                }
            }
        }
        next.prefixes = services
            .into_iter()
            .map(|(prefix, list)| {
                let gone = gone.get(&prefix).copied().or_else(|| list.is_empty().then_some(now));
                let mut pool = Pool::at_any_turn();
                pool.list = list;
                // Each worker has connections of its own, and few: all servers are used.
                pool.plan(usize::MAX);
                (prefix, Arc::new(Service { pool, gone }))
            })
            .collect();
        next
    }

    /// A server as `route` has it: the one that is known, or a new one.
    fn server(
        &mut self,
        old: Option<&Self>,
        address: SocketAddr,
        weight: u16,
        route: &Route,
        shared: &Shared,
        now: Instant,
    ) -> Server {
        let known = self.servers.get(&address).or_else(|| old?.servers.get(&address));
        let upstream = known.map_or_else(|| Arc::new(Upstream::new(address, now)), Arc::clone);
        upstream.is_there();
        self.servers.insert(address, Arc::clone(&upstream));
        let check = route.check.as_ref().map(|check| shared.checks.get(address, check, route.check_every));
        let places = shared.places(address, route.max_connections);
        Server { upstream, weight, suspect: false, strip: false, name: None, places, check }
    }

    /// Who answers a path in normal form: the longest prefix of whole segments wins.
    pub(crate) fn find(&self, path: &str) -> Option<Target> {
        let (prefix, service) = longest(path, |prefix| self.prefixes.get(prefix))?;
        Some(Target { service: Arc::clone(service), prefix_bytes: prefix })
    }

    /// What holds for a path in normal form.
    pub(crate) fn route(&self, path: &str) -> &Route {
        self.route_at(path).map_or(&self.usual, |at| &self.config.routes[at])
    }

    fn route_at(&self, path: &str) -> Option<usize> {
        if self.routes.is_empty() {
            return None;
        }
        longest(path, |prefix| self.routes.get(prefix).copied()).map(|(_, at)| at)
    }

    /// All prefixes with their servers, as an operator wants to see them: with what this worker knows of them added to `all`.
    pub(crate) fn describe(&self, all: &mut BTreeMap<String, BTreeMap<SocketAddr, Described>>, now: Instant) {
        for (prefix, service) in &self.prefixes {
            let prefix = if prefix.is_empty() { "/" } else { prefix };
            let servers = all.entry(prefix.to_owned()).or_default();
            for server in &service.pool.list {
                let (readiness, in_flight) = (server.readiness(now), server.upstream.load.in_flight());
                let described = servers.entry(server.upstream.address).or_insert_with(|| Described {
                    name: server.name.clone(),
                    weight: server.weight,
                    strip: server.strip,
                    suspect: server.suspect,
                    readiness,
                    in_flight: 0,
                });
                described.readiness = described.readiness.max(readiness);
                described.in_flight += in_flight;
            }
        }
    }
}

/// A server as all workers see it: as the one does that thinks worst of it.
#[derive(Debug)]
pub(crate) struct Described {
    name: Option<String>,
    weight: u16,
    strip: bool,
    suspect: bool,
    readiness: Readiness,
    in_flight: u32,
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("fixed");
        let strip = if self.strip { ", without the prefix" } else { "" };
        let state = match self.readiness {
            Readiness::Up => "up",
            Readiness::Connecting => "full",
            Readiness::Ejected if self.suspect => "gives no sign of life",
            Readiness::Ejected => "lets requests fail",
            Readiness::Due | Readiness::Resting => "cannot be reached",
        };
        write!(f, "{name} weight {}{strip}: {state}, {} in flight", self.weight, self.in_flight)
    }
}

/// What `get` has for the longest part of a path that ends at a slash: as many look-ups as the path has segments.
fn longest<T>(path: &str, get: impl Fn(&str) -> Option<T>) -> Option<(usize, T)> {
    let mut prefix = path.strip_suffix('/').unwrap_or(path);
    loop {
        if let Some(found) = get(prefix) {
            return Some((prefix.len(), found));
        }
        prefix = &prefix[..prefix.rfind('/')?];
    }
}

fn normal_prefix(prefix: &str) -> Option<String> {
    let normal = path::normal(prefix).ok()?;
    Some(normal.strip_suffix('/').unwrap_or(&normal).to_owned())
}

impl Shared {
    /// The places of a server, of which there are `limit`; those of another limit are others.
    fn places(&self, address: SocketAddr, limit: usize) -> Arc<Places> {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = all.get(&(address, limit)).and_then(Weak::upgrade) {
            return places;
        }
        all.retain(|_, places| places.strong_count() > 0);
        let free = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let places = Arc::new(Places { free, waiting: AtomicUsize::new(0) });
        all.insert((address, limit), Arc::downgrade(&places));
        places
    }
}

impl Service {
    /// Whose turn it is; `None` when there is nobody but those that were tried.
    pub(crate) fn pick(&self, choice: &Choice<'_>, now: Instant) -> Option<Picked> {
        self.pool.pick(choice, now, |_| {}).map(Server::picked)
    }

    /// The server of this id, if it does well.
    pub(crate) fn with_id(&self, id: u64, tried: &[SocketAddr], now: Instant) -> Option<Picked> {
        let is_it = |server: &&Server| server.upstream.id() == id && !tried.contains(&server.upstream.address);
        let server = self.pool.list.iter().find(is_it)?;
        // One that has much to do is waited for: it has what the client left there.
        (server.readiness(now) <= Readiness::Connecting).then(|| server.picked())
    }
}

impl Server {
    fn picked(&self) -> Picked {
        let Self { upstream, strip, places, .. } = self;
        Picked { upstream: Arc::clone(upstream), strip: *strip, places: Arc::clone(places) }
    }
}

impl Member for Server {
    fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    fn load(&self) -> &Load {
        &self.upstream.load
    }

    fn readiness(&self, now: Instant) -> Readiness {
        if self.upstream.rests(now) || self.check.as_ref().is_some_and(|check| !check.is_alive()) {
            Readiness::Resting
        } else if self.suspect || self.upstream.load.is_ejected(now.into_std()) {
            Readiness::Ejected
        } else if self.places.free.available_permits() == 0 {
            Readiness::Connecting
        } else {
            Readiness::Up
        }
    }

    fn weight(&self) -> u16 {
        self.weight
    }
}

impl Picked {
    /// A place among the requests of the server, waited for until `deadline` if it has to be.
    pub(crate) async fn admit(&self, deadline: Instant) -> Result<Admitted, Full> {
        let place = match Arc::clone(&self.places.free).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let _waiting = Waiting::among(&self.places.waiting).ok_or(Full)?;
                let place = timeout_at(deadline, Arc::clone(&self.places.free).acquire_owned()).await;
                place.ok().and_then(Result::ok).ok_or(Full)?
            }
        };
        self.upstream.load.begin(Instant::now().into_std());
        Ok(Admitted { upstream: Arc::clone(&self.upstream), _place: place })
    }
}

/// Somebody who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// `None` when there are as many as may be.
    fn among(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.upstream.load.end();
    }
}

#[cfg(test)]
mod tests {
    use node_sdk::Balance;

    use super::*;

    fn node(port: u16, weight: u16, prefixes: &[&str]) -> protocol::Node {
        let advert = protocol::Advert {
            weight,
            http: Some(protocol::HttpAdvert {
                prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
                strip: false,
            }),
            ..protocol::Advert::default()
        };
        let (name, host) = ("n".to_owned(), [127, 0, 0, 1].into());
        protocol::Node { name, host, port, routes: Vec::new(), advert: Some(advert), suspect: false }
    }

    /// The table after `old` of these nodes.
    fn table(old: Option<&Table>, nodes: &[protocol::Node]) -> Table {
        let config = old.map_or_else(Arc::default, |old| Arc::clone(&old.config));
        Table::next(old, config, nodes, &Shared::default(), Instant::now())
    }

    fn pick(service: &Service, balance: Balance, tried: &[SocketAddr]) -> Option<u16> {
        let picked = service.pick(&Choice { balance, tried, ..Choice::default() }, Instant::now());
        picked.map(|picked| picked.upstream.address.port())
    }

    #[tokio::test]
    async fn the_longest_prefix_of_whole_segments_wins() {
        let nodes =
            [node(1, 100, &["/"]), node(2, 100, &["/api", "/%61pi/v2/"]), node(3, 100, &["bad", "/..", "/a%2Fb"])];
        let both = table(None, &nodes);
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
            let picked = pick(&target.service, Balance::RoundRobin, &[]);
            assert_eq!((picked, target.prefix_bytes), (Some(port), prefix_bytes), "{path}");
        }
        assert!(table(None, &nodes[1..]).find("/x").is_none());
    }

    #[tokio::test]
    async fn what_has_lost_its_last_server_is_remembered_and_servers_are_kept() {
        let first = table(None, &[node(1, 100, &["/api"])]);
        let gone = table(Some(&first), &[]);
        let nobody = |table: &Table| pick(&table.find("/api/x").unwrap().service, Balance::RoundRobin, &[]).is_none();
        assert!(nobody(&gone));
        assert!(nobody(&table(Some(&first), &[node(1, 0, &["/api"])])), "it drains");
        let back = table(Some(&gone), &[node(1, 100, &["/api"]), node(2, 100, &["/api"])]);
        let one = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(Arc::ptr_eq(&back.servers[&one], &first.servers[&one]), "how it does is known still");
        tokio::time::pause();
        let gone = table(Some(&back), &[]);
        tokio::time::advance(crate::upstream::REMEMBERED).await;
        assert!(table(Some(&table(Some(&gone), &[])), &[]).servers.is_empty(), "not for ever");
    }

    #[tokio::test]
    async fn who_rests_or_was_tried_is_passed_over() {
        let both = table(None, &[node(1, 100, &["/"]), node(2, 100, &["/"])]);
        let service = both.find("/").unwrap().service;
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let turns = || -> Vec<_> { (0..4).filter_map(|_| pick(&service, Balance::RoundRobin, &[])).collect() };
        assert_eq!(pick(&service, Balance::RoundRobin, &[one]), Some(2));
        assert_eq!(pick(&service, Balance::RoundRobin, &[one, two]), None);
        let rest = |address| {
            let upstream: &Upstream = &both.servers[&address];
            upstream.rest_until(Instant::now() + Duration::from_secs(1));
        };
        rest(two);
        assert_eq!(turns(), [1; 4]);
        rest(one);
        assert_eq!(turns().len(), 4, "better than nobody");
    }

    #[tokio::test]
    async fn who_has_the_fewest_requests_for_its_weight_has_the_next() {
        let both = table(None, &[node(1, 100, &["/"]), node(2, 50, &["/"])]);
        let service = both.find("/").unwrap().service;
        let (mut seen, mut held) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let choice = Choice { balance: Balance::LeastInFlight, ..Choice::default() };
            let picked = service.pick(&choice, Instant::now()).unwrap();
            seen.push(picked.upstream.address.port());
            held.push(picked.admit(Instant::now()).await.unwrap());
        }
        assert_eq!(seen.iter().filter(|port| **port == 1).count(), 4, "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gu4_a_full_server_is_waited_for_by_so_many_and_so_long() {
        let route = Route { max_connections: 1, ..Route::new(vec!["/".to_owned()]) };
        let config = Config { routes: vec![route], ..Config::default() };
        let nodes = [node(1, 100, &["/"])];
        let full = Table::next(None, Arc::new(config), &nodes, &Shared::default(), Instant::now());
        let service = full.find("/").unwrap().service;
        let picked = || service.pick(&Choice::default(), Instant::now()).unwrap();
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = picked().admit(soon()).await.unwrap();
        assert!(picked().admit(soon()).await.is_err(), "not in time");
        let second = picked();
        let (second, ()) = tokio::join!(second.admit(soon()), async { drop(first) });
        let _second = second.unwrap();
        let mut waiting: Vec<_> =
            (0..MAX_WAITING).map(|_| Box::pin(async { picked().admit(soon()).await.is_ok() })).collect();
        for one in &mut waiting {
            assert!(futures::FutureExt::now_or_never(one.as_mut()).is_none());
        }
        let begun = Instant::now();
        assert!(picked().admit(soon()).await.is_err());
        assert_eq!(Instant::now(), begun, "too many wait already: that is said at once");
    }
}
