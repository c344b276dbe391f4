//! A registry that pushes changes to a gateway. Measures how long it takes until the gateway routes
//! by them, and how long a look-up takes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use node_sdk::Node;
use protocol::{Digest, Key, Revision, SuspicionChange, UpdateHeader, write_delta, write_list};
use tests::HttpClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::daemon_process::Daemon;
use crate::report::{ms, percentiles, row, title};

/// Routes, or prefixes, of each node.
const ROUTES: usize = 10;
const CHANGES: u64 = 50;
const LOOK_UPS: usize = 1_000_000;

/// The routes that nodes offer.
#[derive(Clone, Copy, PartialEq)]
enum ChangeKind {
    /// Routes that are called by packets.
    Packets,
    /// Prefixes for HTTP requests.
    Prefixes,
}

/// A stand-in for the Distributor, so that the moment of a push is known.
struct FakeDistributor {
    listener: TcpListener,
    kind: ChangeKind,
    entries: Vec<(u64, String)>,
    stamp: UpdateHeader,
}

impl FakeDistributor {
    async fn new(kind: ChangeKind, nodes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let revision = Revision { epoch: 1, rev: nodes };
        let stamp = UpdateHeader { revision, digest: Some(Digest::default()), ..UpdateHeader::default() };
        let mut registry = Self { listener, kind, entries: Vec::new(), stamp };
        for node in 0..nodes {
            registry.add(&format!("n{node}"), ROUTES);
        }
        registry
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Adds a node whose paths begin with its name.
    fn add(&mut self, name: &str, routes: usize) {
        let id = self.entries.len() as u64 + 1;
        let (urls, http) = match self.kind {
            ChangeKind::Packets => (names(routes, |route| format!("\"GET/{name}/r{route}\"")), String::new()),
            ChangeKind::Prefixes => {
                let prefixes = names(routes, |route| format!("\"/{name}/r{route}\""));
                (String::new(), format!(r#","http":{{"prefixes":[{prefixes}]}}"#))
            }
        };
        let (host, port) =
            ([127, 1, id >> 15 & 255, id >> 7 & 255].map(|byte| byte.to_string()).join("."), 10_000 + id % 128);
        let entry = format!(
            r#"{{"port":{port},"name":"{name}","urls":[{urls}],"$":{{"v":2,"id":"c{id:031x}"{http}}},"host":"{host}"}}"#
        );
        self.stamp.digest.as_mut().unwrap().add(id, &entry);
        self.entries.push((id, entry));
    }

    /// Accepts the gateway's connection, and sends it the list.
    async fn greet(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut scrap = [0; 4096];
        // This reads its registration. Later packets do not matter here.
        assert!(stream.read(&mut scrap).await.unwrap() > 0);
        let mut out = BytesMut::new();
        let entries = self.entries.iter().map(|(id, entry)| (*id, entry.as_str()));
        write_list(&mut out, &Key::Number(0), &self.stamp, entries, std::iter::empty());
        stream.write_all(&out).await.unwrap();
        stream
    }

    /// The packet that tells of the last entry.
    fn delta(&mut self) -> BytesMut {
        let base = self.stamp.revision;
        self.stamp.revision.rev += 1;
        let mut out = BytesMut::new();
        let joined = self.entries.iter().rev().take(1).map(|(id, entry)| (*id, entry.as_str()));
        write_delta(&mut out, &self.stamp, base, joined, std::iter::empty(), SuspicionChange::none());
        out
    }
}

fn names(count: usize, name: impl Fn(usize) -> String) -> String {
    (0..count).map(name).collect::<Vec<_>>().join(",")
}

/// Measures the time from the write of a push until a request is no longer answered by 404.
/// `program` has core 0 to itself.
pub(crate) async fn changes(program: &str) {
    title("a node joins: time until the gateway routes to it, by the number of routes that it already has");
    // Each has a port of its own, because the gateway before it may still be there.
    for (port, kind, nodes) in [
        (19_130, ChangeKind::Packets, 1000),
        (19_131, ChangeKind::Packets, 10_000),
        (19_132, ChangeKind::Prefixes, 1000),
        (19_133, ChangeKind::Prefixes, 10_000),
    ] {
        pushed(program, port, kind, nodes).await;
    }
    for nodes in [100, 1000, 10_000] {
        look_up(nodes).await;
    }
}

async fn pushed(program: &str, port: u16, kind: ChangeKind, nodes: u64) {
    let mut registry = FakeDistributor::new(kind, nodes).await;
    let (address, listen) = (registry.address().to_string(), format!("127.0.0.1:{port}"));
    let arguments =
        ["--listen", &listen, "--workers", "1", "--distributor", &address, "--admin", "off", "--log-level", "error"];
    let (gateway, mut told) = tokio::join!(Daemon::other(program, &arguments, port), registry.greet());
    let gateway = gateway.expect("build it first");
    let mut client = HttpClient::connect(gateway.address).await;
    let knows =
        async |client: &mut HttpClient, path: &str| client.request("GET", path, "").await.unwrap().status != 404;
    while !knows(&mut client, &format!("/n{}/r9", nodes - 1)).await {
        sleep(Duration::from_millis(5)).await;
    }
    let before = gateway.cpu();
    let mut times = Vec::new();
    let mut asked = 0;
    for change in 0..CHANGES {
        sleep(Duration::from_millis(50)).await;
        registry.add(&format!("late{change}"), ROUTES);
        let packet = registry.delta();
        let begin = Instant::now();
        told.write_all(&packet).await.unwrap();
        while !knows(&mut client, &format!("/late{change}/r{}", ROUTES - 1)).await {
            asked += 1;
        }
        times.push(begin.elapsed());
    }
    let (p50, p99) = percentiles(&mut times);
    let cpu = (gateway.cpu() - before).as_secs_f64() * 1e3 / CHANGES as f64;
    row(
        &format!(
            "{} {}",
            nodes * ROUTES as u64,
            if kind == ChangeKind::Packets { "routes of packet nodes" } else { "prefixes of HTTP nodes" }
        ),
        &format!(
            "p50 {:.2} ms, p99 {:.2} ms; {cpu:.2} ms CPU for each push, with the {:.0} requests meanwhile",
            ms(p50),
            ms(p99),
            f64::from(asked) / CHANGES as f64
        ),
    );
}

/// Measures the look-up of a route, in this process.
async fn look_up(nodes: u64) {
    let registry = FakeDistributor::new(ChangeKind::Packets, nodes).await;
    let node = Node::builder("drill").public_routes().distributor(registry.address().to_string());
    let (node, told) = tokio::join!(node.start(), registry.greet());
    let (node, _told) = (node.unwrap(), told);
    let peers = node.peers();
    peers.wait_for(&[&format!("GET/n{}/r9", nodes - 1)]).await;
    // The order is scattered, so that caches do not help.
    let scattered = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let path = |at: u64| format!("/n{}/r{}", scattered(at) % nodes, at % ROUTES as u64);
    let paths: Vec<String> = (0..LOOK_UPS as u64 / 10).map(path).collect();
    let nanos_of = |found: &dyn Fn(&str) -> bool| {
        let begin = Instant::now();
        assert_eq!(paths.iter().cycle().take(LOOK_UPS).filter(|path| found(path)).count(), LOOK_UPS);
        begin.elapsed().as_secs_f64() * 1e9 / LOOK_UPS as f64
    };
    let ours = nanos_of(&|path| peers.offers("GET", path));
    let all = (0..nodes).flat_map(|node| (0..ROUTES).map(move |route| (format!("/n{node}/r{route}"), [node; 2])));
    let map: HashMap<String, [u64; 2]> = all.collect();
    let floor = nanos_of(&|path| map.get(path).is_some_and(|value| value[0] == value[1]));
    row(
        &format!("look-up among {} routes", nodes * ROUTES as u64),
        &format!("{ours:.0} ns each, in random order; a bare hash map {floor:.0} ns"),
    );
}
