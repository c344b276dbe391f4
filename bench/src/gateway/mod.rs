//! The scenes of the gateway. This file sends requests through the gateway and its competitors, to
//! servers that answer at once.
//!
//! It must not measure calls between nodes: `calls` does that. Attackers are in `attacks`.

pub(crate) mod answerer;
pub(crate) mod back_end;
pub(crate) mod changes;
pub(crate) mod edge;
pub(crate) mod files;
pub(crate) mod overload;
mod proxies;
pub(crate) mod relay;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use node_sdk::gateway::{GatewayPeers, NodeDescription};
use node_sdk::{HttpAdvert, Peers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::daemon_process::Daemon;
use crate::http::ask;
use crate::http::open_loop::OpenLoop;
use crate::report::{median, percentiles, row, title, us};

/// Enough for a median that bad rounds do not change.
const ROUNDS: usize = 11;
/// Bytes of a download.
const BIG_BYTES: usize = 16 << 20;
/// Enough that the steps in which the system counts CPU do not matter.
const DOWNLOADS: u32 = 50;
/// Long beside the stalls of a virtual machine, which take up to 20 ms.
const ROUND: Duration = Duration::from_secs(1);
/// Connections over which the requests at half load are spread.
const CLIENTS: usize = 64;
/// Requests a second at half load: about half of what the slowest of the compared proxies can do.
const HALF_RATE: f64 = 20_000.0;
const HALF_ROUNDS: usize = 201;
/// Short, because a virtual machine sometimes stands still for 20 ms: that spoils few of many
/// rounds.
const HALF_ROUND: Duration = Duration::from_millis(100);
/// A request of `/echo` as a packet of version 1.
const PACKET: &str =
    r#"{"uri":"/echo","method":"GET","key":7,"params":{"id":"42","name":"widget","price":"9.5","tags":"a,b"}}¶"#;
/// The ports of the gateway without an access log, of the one with it, and of the one whose server
/// is at a Unix socket.
const PORTS: [u16; 3] = [19_110, 19_113, 19_118];
/// The names of the floors.
const RELAY: &str = "a relay to the HTTP server";
const PACKET_RELAY: &str = "a relay to the node";
const ANSWERER: &str = "a server that answers by itself";

struct RequestRound {
    rate: f64,
    p50: Duration,
    p99: Duration,
    cpu: Duration,
}

/// Runs the scene; `only` selects a part of it.
pub(crate) async fn requests(only: Option<&str>) {
    let wanted = |scene: &str| only.is_none_or(|only| only == scene);
    let distributor = Daemon::distributor(0, &[]).await;
    distributor.move_to(1);
    let node = Daemon::server(&["call-server", &distributor.address.to_string()]).await;
    node.move_to(1);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("http.sock");
    let http = Daemon::server(&["http-server", socket.to_str().unwrap()]).await;
    http.move_to(1);
    let mut gateways = Vec::new();
    let program = std::env::current_exe().unwrap().with_file_name("gateway");
    let start = async |port: u16, more: &[&str]| {
        let (listen, distributor) = (format!("127.0.0.1:{port}"), distributor.address.to_string());
        let arguments = ["--listen", &listen, "--workers", "1", "--distributor", &distributor, "--log-level", "error"];
        let arguments = [&arguments[..], &["--admin", "off"], more].concat();
        Rc::new(Daemon::other(program.to_str().unwrap(), &arguments, port).await.expect("build it first"))
    };
    let gateway = start(PORTS[0], &[]).await;
    // The gateway learns of the HTTP server from the registry.
    let _registered = register(distributor.address, http.address).await;
    let mut add = |name, process, path| gateways.push(GatewayUnderTest { name, process, path });
    add("gateway, packets", Rc::clone(&gateway), "/echo?id=42&name=widget&price=9.5&tags=a,b");
    add("gateway, HTTP", gateway, "/http/echo");
    add("gateway, HTTP, with access log", start(PORTS[1], &["--access-log", "text"]).await, "/http/echo");
    let file = folder.path().join("gateway.toml");
    let route = format!("[[route]]\nprefix = \"/http\"\nservers = [\"unix:{}\"]\n", socket.display());
    std::fs::write(&file, route).unwrap();
    let at_socket = start(PORTS[2], &["--config", file.to_str().unwrap()]).await;
    add("gateway, HTTP, Unix socket", at_socket, "/http/echo");
    for proxy in proxies::all(http.address, &socket, folder.path()) {
        match proxy.start().await {
            Some(daemon) => add(proxy.name, daemon.into(), "/http/echo"),
            None => row(proxy.name, "not installed"),
        }
    }
    if wanted("most") {
        let http = http.address.to_string();
        let mut all = gateways.clone();
        for (name, floor) in [(RELAY, &["relay", &http][..]), (ANSWERER, &["answerer"])] {
            let process = Rc::new(Daemon::server(floor).await);
            all.push(GatewayUnderTest { name, process, path: "/echo" });
        }
        measure_full_load(&all).await;
    }
    if wanted("half") {
        let relay_to = async |back_end: &Daemon| Daemon::server(&["relay", &back_end.address.to_string()]).await;
        let (relay, packet_relay) = (relay_to(&http).await, relay_to(&node).await);
        let ask = |gateway: &GatewayUnderTest| RequestSample {
            name: gateway.name,
            address: gateway.process.address,
            request: request_for(gateway.path),
            floor: if gateway.path.starts_with("/http") { 0 } else { 1 },
        };
        let mut asked = vec![
            RequestSample { name: RELAY, address: relay.address, request: request_for("/echo"), floor: 0 },
            RequestSample { name: PACKET_RELAY, address: packet_relay.address, request: PACKET.to_owned(), floor: 1 },
        ];
        asked.extend(gateways.iter().filter(|gateway| gateway.is_fast()).map(ask));
        measure_half_load(&asked).await;
    }
    if wanted("downloads") {
        downloads(&gateways).await;
    }
}

/// The gateway, a competitor or a floor, and the path to request.
#[derive(Clone)]
struct GatewayUnderTest {
    name: &'static str,
    process: Rc<Daemon>,
    path: &'static str,
}

/// Measures each at full load.
async fn measure_full_load(gateways: &[GatewayUnderTest]) {
    title(
        "requests through one core: 64 connections that stay open, responses of 50 bytes; clients and server on the other core",
    );
    println!("{:36} {:>12} {:>9} {:>9} {:>14} {:>12}", "", "requests/s", "p50", "p99", "CPU/request", "of nginx's");
    let mut rounds: Vec<Vec<RequestRound>> = gateways.iter().map(|_| Vec::new()).collect();
    for number in 0..=ROUNDS {
        for offset in 0..gateways.len() {
            let index = (offset + number) % gateways.len();
            let round = measure(&gateways[index].process, gateways[index].path).await;
            // The first round warms up.
            if number > 0 {
                rounds[index].push(round);
            }
        }
    }
    let nginx = gateways.iter().position(|gateway| gateway.name == "nginx");
    for (GatewayUnderTest { name, .. }, ours) in gateways.iter().zip(&rounds) {
        let middle = |of: fn(&RequestRound) -> f64| median(ours.iter().map(of));
        let (rate, cpu) = (middle(|round| round.rate), middle(|round| us(round.cpu)));
        let (p50, p99) = (middle(|round| us(round.p50)), middle(|round| us(round.p99)));
        let ratio = nginx.map_or(f64::NAN, |nginx| {
            median(ours.iter().zip(&rounds[nginx]).map(|(ours, theirs)| us(ours.cpu) / us(theirs.cpu)))
        });
        println!("{name:36} {rate:>12.0} {p50:>6.0} µs {p99:>6.0} µs {cpu:>11.2} µs {ratio:>10.2} ×");
    }
}

/// A server and the request that it gets at half load.
struct RequestSample {
    name: &'static str,
    address: SocketAddr,
    request: String,
    /// The index of its floor: the relay between the same client and server.
    floor: usize,
}

/// Measures each at half load: requests are sent at fixed times, whether or not earlier ones are
/// answered.
async fn measure_half_load(asked: &[RequestSample]) {
    title(&format!("the same at {HALF_RATE} requests a second, each sent at its own time"));
    println!("{:36} {:>9} {:>9} {:>16} {:>16}", "", "p50", "p99", "over its floor", "of haproxy's p99");
    let mut paces = Vec::new();
    for RequestSample { address, request, .. } in asked {
        let pace = OpenLoop::connect(*address, request, CLIENTS).await;
        // This warms up.
        pace.run(HALF_RATE, HALF_ROUND).await;
        paces.push(pace);
    }
    let (mut p50s, mut p99s) = (vec![Vec::new(); asked.len()], vec![Vec::new(); asked.len()]);
    for _ in 0..HALF_ROUNDS {
        for (at, pace) in paces.iter().enumerate() {
            let (p50, p99) = pace.percentiles(HALF_RATE, HALF_ROUND).await;
            p50s[at].push(us(p50));
            p99s[at].push(us(p99));
        }
    }
    let haproxy = asked.iter().position(|asked| asked.name == "haproxy");
    for (at, RequestSample { name, floor, .. }) in asked.iter().enumerate() {
        // Rounds of the same moment are compared, because the machine disturbed both alike.
        let beside = |other: usize, compare: fn(f64, f64) -> f64| {
            median(p99s[at].iter().zip(&p99s[other]).map(|(ours, theirs)| compare(*ours, *theirs)))
        };
        let over = beside(*floor, |ours, floor| ours - floor);
        let ratio = haproxy.map_or(f64::NAN, |haproxy| beside(haproxy, |ours, theirs| ours / theirs));
        let (p50, p99) = (median(p50s[at].iter().copied()), median(p99s[at].iter().copied()));
        println!("{name:36} {p50:>6.0} µs {p99:>6.0} µs {over:>13.0} µs {ratio:>14.2} ×");
    }
}

/// Measures large responses.
async fn downloads(gateways: &[GatewayUnderTest]) {
    title("downloads of 16 MB, one after the other");
    println!("{:36} {:>12} {:>34}", "", "a second", "CPU/download");
    for GatewayUnderTest { name, process, .. } in gateways.iter().filter(|gateway| gateway.path.starts_with("/http")) {
        download(process.address).await;
        let (before, begin) = (process.cpu(), Instant::now());
        for _ in 0..DOWNLOADS {
            download(process.address).await;
        }
        let cpu = (process.cpu() - before) / DOWNLOADS;
        println!("{name:36} {:>12.0} {:>31.1} ms", f64::from(DOWNLOADS) / begin.elapsed().as_secs_f64(), us(cpu) / 1e3);
    }
}

/// Downloads one large response.
async fn download(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request_for("/http/big").as_bytes()).await.unwrap();
    let mut part = vec![0; 64 << 10];
    let mut bytes = 0;
    while bytes < BIG_BYTES {
        bytes += stream.read(&mut part).await.unwrap();
    }
}

impl GatewayUnderTest {
    /// Whether it can keep up with the rate of half load.
    fn is_fast(&self) -> bool {
        !matches!(self.name, "caddy" | "envoy")
    }
}

fn request_for(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: mesh\r\nUser-Agent: drill\r\nAccept: */*\r\n\r\n")
}

/// Registers the HTTP server under the prefix `/http`, and waits until it is listed.
async fn register(distributor: SocketAddr, back_end: SocketAddr) -> Peers {
    let mut description = NodeDescription::new("http", back_end.port(), Vec::new());
    description.advert.http = Some(HttpAdvert { prefixes: vec!["/http".to_owned()], strip: false });
    let peers = Peers::join(description, distributor.to_string(), CancellationToken::new());
    peers.wait_until(|nodes| nodes.iter().any(|node| node.name == "http")).await;
    peers
}

/// Runs one round at full load.
async fn measure(gateway: &Daemon, path: &str) -> RequestRound {
    let address = gateway.address;
    let request = request_for(path);
    // Until it has a route, it answers with an error.
    while !ask(&mut TcpStream::connect(address).await.unwrap(), request.as_bytes(), &mut Vec::new()).await {}
    let (before, begin) = (gateway.cpu(), Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let request = request.clone();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (end, mut buffer) = (Instant::now() + ROUND, Vec::with_capacity(4096));
            let mut times = Vec::with_capacity(1 << 14);
            let mut begin = Instant::now();
            while begin < end {
                assert!(ask(&mut stream, request.as_bytes(), &mut buffer).await, "every answer is right");
                let now = Instant::now();
                times.push(now - begin);
                begin = now;
            }
            times
        });
    }
    let mut times = clients.join_all().await.concat();
    let (elapsed, count) = (begin.elapsed(), u32::try_from(times.len()).unwrap());
    let (p50, p99) = percentiles(&mut times);
    RequestRound { rate: f64::from(count) / elapsed.as_secs_f64(), p50, p99, cpu: (gateway.cpu() - before) / count }
}
