//! HTTP servers behind the gateway: who answers which paths, whose turn it is, and the connections to them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use node_sdk::Peers;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::config;
use crate::path;

/// In one network a connect is answered in well under this, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection that is not in use is kept: servers in Node.js close theirs after five seconds, and a request that is on its
/// way then is lost.
const KEEP: Duration = Duration::from_secs(4);
/// Connections to one server that are kept though they are not in use.
const MAX_IDLE: usize = 256;
/// Connections to one server at a time, in use or not.
const MAX_CONNECTIONS: usize = 1024;
/// After a failed connect, how long a server is passed over; twice as long after each that follows.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Prefixes without a server that are remembered, to tell "not now" from "never".
const MAX_REMEMBERED: usize = 10_000;

/// The servers of one worker.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// Replaced as a whole at every change.
    table: RwLock<Arc<Table>>,
    /// Those that do not register.
    fixed: Vec<config::Upstream>,
}

/// Who answers what.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By prefix, in normal form and without a slash at its end: `` is everything.
    prefixes: BTreeMap<String, Arc<Service>>,
    servers: HashMap<SocketAddr, Arc<Upstream>>,
}

/// All that answer one prefix; none when they are gone.
#[derive(Debug, Default)]
pub(crate) struct Service {
    servers: Vec<Server>,
    turn: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Server {
    upstream: Arc<Upstream>,
    weight: u16,
    /// It gives no sign of life, so others are preferred.
    suspect: bool,
    strip: bool,
}

/// One server, whatever it answers. It outlives changes of the list.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: VecDeque<(TcpStream, Instant)>,
    /// Connections, in use or not.
    connections: usize,
    rests_until: Option<Instant>,
    rest: Duration,
}

/// A connection to a server. Unless it is [kept](Self::keep), it is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    /// `None` only when it has been kept.
    stream: Option<TcpStream>,
    upstream: Arc<Upstream>,
    /// It has been used before, so the server may be closing it.
    pub(crate) is_used: bool,
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
}

impl Upstreams {
    /// With servers that do not register.
    pub(crate) fn new(fixed: Vec<config::Upstream>) -> Self {
        let table = Table::default().with(&[], &fixed);
        Self { table: RwLock::new(Arc::new(table)), fixed }
    }

    /// Keeps to what `peers` know, for as long as they do, and closes connections that are not in use any more.
    pub(crate) async fn follow(self: Arc<Self>, peers: Peers) {
        let mut changes = peers.changes();
        let mut tidy = tokio::time::interval(KEEP / 4);
        loop {
            tokio::select! {
                nodes = changes.next() => match nodes {
                    Some(nodes) => self.replace(&nodes),
                    None => return,
                },
                _ = tidy.tick() => self.tidy(Instant::now()),
            }
        }
    }

    fn replace(&self, nodes: &[protocol::Node]) {
        let table = Arc::new(self.table().with(nodes, &self.fixed));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    fn tidy(&self, now: Instant) {
        for upstream in self.table().servers.values() {
            upstream.lock().tidy(now);
        }
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who answers a path in normal form: the longest prefix of whole segments wins.
    pub(crate) fn find(&self, path: &str) -> Option<Target> {
        self.table().find(path)
    }
}

impl Table {
    /// The table of these nodes: servers that stay are kept, and prefixes that have lost their last one remembered.
    fn with(&self, nodes: &[protocol::Node], fixed: &[config::Upstream]) -> Self {
        let mut next = Self::default();
        let mut services: BTreeMap<String, Vec<Server>> = BTreeMap::new();
        for group in fixed {
            for address in &group.servers {
                let upstream = self.server(*address);
                next.servers.insert(*address, Arc::clone(&upstream));
                for prefix in group.prefixes.iter().filter_map(|prefix| normal_prefix(prefix)) {
                    let (weight, strip) = (protocol::Advert::USUAL_WEIGHT, group.strip);
                    let server = Server { upstream: Arc::clone(&upstream), weight, suspect: false, strip };
                    services.entry(prefix).or_default().push(server);
                }
            }
        }
        for node in nodes {
            let Some((advert, http)) = node.advert.as_ref().and_then(|advert| Some((advert, advert.http.as_ref()?)))
            else {
                continue;
            };
            let address = SocketAddr::new(node.host, node.port);
            let upstream = self.server(address);
            next.servers.insert(address, Arc::clone(&upstream));
            for prefix in &http.prefixes {
                let Some(prefix) = normal_prefix(prefix) else {
                    warn!(node = node.name, prefix, "a prefix is passed over: it is no path");
                    continue;
                };
                let servers = services.entry(prefix).or_default();
                if advert.weight > 0 && !advert.draining {
                    let (weight, strip) = (advert.weight, http.strip);
                    servers.push(Server { upstream: Arc::clone(&upstream), weight, suspect: node.suspect, strip });
                }
            }
        }
        for prefix in self.prefixes.keys().take(MAX_REMEMBERED) {
            services.entry(prefix.clone()).or_default();
        }
        let turn = |prefix: &str| self.prefixes.get(prefix).map_or(0, |old| old.turn.load(Ordering::Relaxed));
        next.prefixes = services
            .into_iter()
            .map(|(prefix, servers)| {
                let turn = AtomicUsize::new(turn(&prefix));
                (prefix, Arc::new(Service { servers, turn }))
            })
            .collect();
        next
    }

    /// The server that is known, or a new one.
    fn server(&self, address: SocketAddr) -> Arc<Upstream> {
        self.servers.get(&address).map_or_else(|| Arc::new(Upstream::new(address)), Arc::clone)
    }

    fn find(&self, path: &str) -> Option<Target> {
        // At each slash from the right: as many look-ups as the path has segments.
        let mut prefix = path.strip_suffix('/').unwrap_or(path);
        loop {
            if let Some(service) = self.prefixes.get(prefix) {
                return Some(Target { service: Arc::clone(service), prefix_bytes: prefix.len() });
            }
            prefix = &prefix[..prefix.rfind('/')?];
        }
    }
}

fn normal_prefix(prefix: &str) -> Option<String> {
    let normal = path::normal(prefix).ok()?;
    Some(normal.strip_suffix('/').unwrap_or(&normal).to_owned())
}

impl Service {
    /// Whose turn it is, of those not `tried` and not resting; `least`: who has the fewest connections, as is fair among those that
    /// stay for long. Suspects come last, and those that rest after them.
    pub(crate) fn pick(&self, tried: &[SocketAddr], least: bool, now: Instant) -> Option<Picked> {
        let rank = |server: &Server| u8::from(server.suspect) + 2 * u8::from(server.upstream.lock().rests(now));
        let open = || self.servers.iter().filter(|server| !tried.contains(&server.upstream.address));
        let best = open().map(rank).min()?;
        let candidates = || open().filter(|server| rank(server) == best);
        let server = if least {
            candidates().min_by_key(|server| server.upstream.lock().connections * 1000 / usize::from(server.weight))
        } else {
            // Everybody has as many turns as its weight says.
            let all: usize = candidates().map(|server| usize::from(server.weight)).sum();
            let stride = all / 2 + 1;
            let mut turn = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(coprime(stride, all)) % all.max(1);
            candidates().find(|server| {
                let weight = usize::from(server.weight);
                let is_it = turn < weight;
                turn = turn.saturating_sub(weight);
                is_it
            })
        };
        server.map(|server| Picked { upstream: Arc::clone(&server.upstream), strip: server.strip })
    }
}

/// The next number that has no divisor in common with `all`: steps of that size come by every turn, far apart.
fn coprime(mut stride: usize, all: usize) -> usize {
    let divisor = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    while divisor(stride, all) > 1 {
        stride += 1;
    }
    stride
}

impl Upstream {
    fn new(address: SocketAddr) -> Self {
        Self { address, state: Mutex::default() }
    }

    /// A connection: one that is there and not in use, or a new one; `fresh`: a new one in any case. `None` when there is none to be had.
    pub(crate) async fn connect(self: &Arc<Self>, fresh: bool) -> Option<Connected> {
        let now = Instant::now();
        {
            let mut state = self.lock();
            state.tidy(now);
            while !fresh && let Some((stream, _)) = state.idle.pop_back() {
                // Whatever a server says without being asked, its end included, nobody can use.
                let silent =
                    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
                if silent {
                    return Some(Connected { stream: Some(stream), upstream: Arc::clone(self), is_used: true });
                }
                state.connections -= 1;
            }
            if state.connections >= MAX_CONNECTIONS {
                return None;
            }
            state.connections += 1;
        }
        // Counted until it is dropped, whatever becomes of it.
        let mut connected = Connected { stream: None, upstream: Arc::clone(self), is_used: false };
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await;
        let stream = stream.ok().and_then(Result::ok).filter(|stream| stream.set_nodelay(true).is_ok());
        let mut state = self.lock();
        if stream.is_some() {
            (state.rests_until, state.rest) = (None, Duration::ZERO);
        } else {
            state.rest = (state.rest * 2).clamp(FIRST_REST, LONGEST_REST);
            state.rests_until = Some(Instant::now() + state.rest);
        }
        drop(state);
        connected.stream = stream;
        connected.stream.is_some().then_some(connected)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    fn tidy(&mut self, now: Instant) {
        while self.idle.front().is_some_and(|(_, until)| *until <= now) {
            self.idle.pop_front();
            self.connections -= 1;
        }
    }
}

impl Connected {
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("it is there until it is kept")
    }

    /// Gives it back to be used again.
    pub(crate) fn keep(mut self) {
        let Some(stream) = self.stream.take() else { return };
        let mut state = self.upstream.lock();
        if state.idle.len() < MAX_IDLE {
            state.idle.push_back((stream, Instant::now() + KEEP));
            // It is still one of them.
            state.connections += 1;
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.upstream.lock().connections -= 1;
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let nodes =
            [node(1, 100, &["/"]), node(2, 100, &["/api", "/%61pi/v2/"]), node(3, 100, &["bad", "/..", "/a%2Fb"])];
        let table = Table::default().with(&nodes, &[]);
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
            let target = table.find(path).unwrap();
            let picked = target.service.pick(&[], false, Instant::now()).unwrap();
            assert_eq!((picked.upstream.address.port(), target.prefix_bytes), (port, prefix_bytes), "{path}");
        }
        assert!(Table::default().with(&nodes[1..], &[]).find("/x").is_none());
    }

    #[test]
    fn what_has_lost_its_last_server_is_remembered_and_servers_are_kept() {
        let first = Table::default().with(&[node(1, 100, &["/api"])], &[]);
        let gone = first.with(&[], &[]);
        assert!(gone.find("/api/x").unwrap().service.pick(&[], false, Instant::now()).is_none());
        let draining = first.with(&[node(1, 0, &["/api"])], &[]);
        assert!(draining.find("/api/x").unwrap().service.pick(&[], false, Instant::now()).is_none());
        let both = first.with(&[node(1, 100, &["/api"]), node(2, 100, &["/api"])], &[]);
        let [one, _] = [1, 2].map(|port| both.servers[&SocketAddr::from(([127, 0, 0, 1], port))].clone());
        assert!(Arc::ptr_eq(&one, &first.servers[&one.address]));
    }

    /// Ports in the order of their turns.
    fn turns(service: &Service, count: usize, least: bool) -> Vec<u16> {
        let pick = |_| service.pick(&[], least, Instant::now()).unwrap().upstream.address.port();
        (0..count).map(pick).collect()
    }

    #[test]
    fn turns_follow_weights() {
        let table = Table::default().with(&[node(1, 100, &["/"]), node(2, 200, &["/"]), node(3, 100, &["/"])], &[]);
        let service = table.find("/").unwrap().service;
        let turns = turns(&service, 400, false);
        let count = |port| turns.iter().filter(|other| **other == port).count();
        assert_eq!([count(1), count(2), count(3)], [100, 200, 100]);
        let second = turns.windows(4).filter(|four| four.iter().filter(|port| **port == 2).count() > 3).count();
        assert_eq!(second, 0, "nobody has all turns of a while: {turns:?}");
    }

    #[test]
    fn who_rests_or_was_tried_is_passed_over() {
        let table = Table::default().with(&[node(1, 100, &["/"]), node(2, 100, &["/"])], &[]);
        let service = table.find("/").unwrap().service;
        let now = Instant::now();
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(service.pick(&[one], false, now).unwrap().upstream.address, two);
        assert!(service.pick(&[one, two], false, now).is_none());
        table.servers[&two].lock().rests_until = Some(now + Duration::from_secs(1));
        assert_eq!(turns(&service, 4, false), [1; 4]);
        table.servers[&one].lock().rests_until = Some(now + Duration::from_secs(1));
        assert_eq!(turns(&service, 4, false).iter().filter(|port| **port == 1).count(), 2, "better than nobody");
    }

    #[tokio::test]
    async fn connections_are_counted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Arc::new(Upstream::new(listener.local_addr().unwrap()));
        let counts = || {
            let state = upstream.lock();
            (state.connections, state.idle.len())
        };
        let (one, two) = (upstream.connect(false).await.unwrap(), upstream.connect(false).await.unwrap());
        assert_eq!(counts(), (2, 0));
        one.keep();
        assert_eq!(counts(), (2, 1));
        assert!(!upstream.connect(true).await.unwrap().is_used);
        assert_eq!(counts(), (2, 1), "what is fresh leaves the others alone");
        assert!(upstream.connect(false).await.unwrap().is_used);
        drop(two);
        assert_eq!(counts(), (0, 0));
    }

    #[test]
    fn who_has_the_fewest_connections_has_the_next() {
        let table = Table::default().with(&[node(1, 100, &["/"]), node(2, 50, &["/"])], &[]);
        let service = table.find("/").unwrap().service;
        let mut seen = Vec::new();
        for _ in 0..6 {
            let picked = service.pick(&[], true, Instant::now()).unwrap().upstream;
            picked.lock().connections += 1;
            seen.push(picked.address.port());
        }
        assert_eq!(seen.iter().filter(|port| **port == 1).count(), 4, "{seen:?}");
    }
}
