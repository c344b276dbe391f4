//! Many clients that are slow or idle, or whose requests take long, and how they affect others.

mod held_bytes;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use gateway::{Config, FixedServer, RouteConfig};
use tests::{Cluster, HttpClient, PATIENCE, RawStream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Permits of the server for requests, and the same number for tunnels.
const PERMITS: usize = 40;
/// More than that.
const ATTACKERS: usize = 3 * PERMITS;

/// The log line of a gateway whose worker lags. On a busy machine that is not a fault, and such a
/// request is made again.
const LAGS: &str = "the gateway is overloaded";

/// A server that answers `/big` without end, `/slow` never, `/ws` by a WebSocket that echoes, and
/// everything else at once; and how many requests it has begun.
async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let started = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&started);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut stream = RawStream(stream);
                loop {
                    let head = stream.head().await;
                    let Some(path) = head.split(' ').nth(1) else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    match path {
                        "/big" => {
                            stream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
                            while stream.0.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
                            return;
                        }
                        "/slow" => std::future::pending().await,
                        "/ws" => {
                            let switch = "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                            stream.send(switch).await;
                            let (mut from, mut to) = stream.0.split();
                            let _ = tokio::io::copy(&mut from, &mut to).await;
                            return;
                        }
                        _ => {}
                    }
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                    if stream.0.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    stream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    (address, started)
}

/// A gateway in front of that server, and how many requests the server has begun.
async fn gateway(cluster: &Cluster, route: RouteConfig) -> (SocketAddr, Arc<AtomicUsize>) {
    let (address, started) = server().await;
    let route = RouteConfig { servers: vec![FixedServer { address: address.into(), weight: 100 }], ..route };
    (cluster.gateway_with(Config { routes: vec![route], ..Config::default() }).await, started)
}

fn route() -> RouteConfig {
    RouteConfig { max_connections: PERMITS, max_tunnels: PERMITS, ..RouteConfig::new(vec!["/".to_owned()]) }
}

/// Connects from one of this machine's addresses, with a small receive buffer.
async fn connect(from: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0))).unwrap();
    socket.connect(to).await.unwrap()
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Attackers of one kind.
struct SlowClient {
    name: &'static str,
    first: &'static str,
    /// Sent again every 0.1 s.
    again: &'static str,
    /// How many addresses they come from, beginning with this one.
    addresses: (u8, u8),
}

impl SlowClient {
    /// The least number of permits that they get: one client alone has at most nine tenths of them,
    /// and once half of them are taken, a body has to be gathered first.
    fn permits(&self) -> usize {
        if self.first == POST { PERMITS / 2 } else { PERMITS * 9 / 10 }
    }

    /// Connects all attackers, which go on until this is dropped.
    async fn begin(&self, gateway: SocketAddr) -> Vec<AbortOnDropHandle<()>> {
        let (first, count) = self.addresses;
        let come = (0..ATTACKERS).map(async |at| {
            let mut stream = connect(first + u8::try_from(at % usize::from(count)).unwrap(), gateway).await;
            stream.write_all(self.first.as_bytes()).await.unwrap();
            stream
        });
        let goes_on = |mut stream: TcpStream| {
            let again = self.again;
            tokio::spawn(async move {
                while stream.write_all(again.as_bytes()).await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
            })
        };
        let streams = join_all(come).await;
        streams.into_iter().map(|stream| AbortOnDropHandle::new(goes_on(stream))).collect()
    }
}

/// Good clients, one after another, are answered in time during the attack.
async fn check(attack: SlowClient) {
    let cluster = Cluster::start();
    let (at, started) = gateway(&cluster, route()).await;
    let attackers = attack.begin(at).await;
    // They have all the permits that they get.
    eventually(attack.name, async || started.load(Ordering::Relaxed) >= attack.permits()).await;
    let mut worst = Duration::ZERO;
    for number in 0..30 {
        let body = if number % 2 == 0 { ("GET", "") } else { ("POST", "{}") };
        let answered = async {
            loop {
                let mut client = HttpClient::over(connect(1, at).await);
                let started = Instant::now();
                let response = client.request(body.0, "/", body.1).await.unwrap();
                if !response.body.contains(LAGS) {
                    return (response, started);
                }
            }
        };
        let (response, started) = timeout(PATIENCE, answered).await.expect("it lags for ever");
        assert_eq!(response.status, 200, "{} {number}: {response:?}", attack.name);
        worst = worst.max(started.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    // A request may wait for a slow client once, but never until it is rejected.
    assert!(worst < Duration::from_secs(3), "{}: {worst:?}", attack.name);
    let mut tunnel = RawStream(connect(1, at).await);
    tunnel.send(UPGRADE).await;
    assert!(tunnel.head().await.starts_with("HTTP/1.1 101 "), "{}", attack.name);
    tunnel.send("hello").await;
    tunnel.read_to("hello").await;
    drop(attackers);
}

const POST: &str = "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 100000000\r\n\r\nx";
const BIG: &str = "GET /big HTTP/1.1\r\nHost: g\r\n\r\n";

#[tokio::test]
async fn ov9_slow_bodies_do_not_take_a_server_from_others() {
    let slow =
        |name, addresses| SlowClient { name, first: POST, again: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", addresses };
    check(slow("of one client", (2, 1))).await;
    check(slow("of many clients", (2, 60))).await;
    check(slow("of the same client", (1, 1))).await;
}

#[tokio::test]
async fn ov9_slow_readers_do_not_take_a_server_from_others() {
    let slow = |name, addresses| SlowClient { name, first: BIG, again: "", addresses };
    check(slow("of one client", (2, 1))).await;
    check(slow("of many clients", (2, 60))).await;
    check(slow("of the same client", (1, 1))).await;
}

#[tokio::test]
async fn ov9_idle_tunnels_do_not_take_a_server_from_others() {
    let idle = |name, again, addresses| SlowClient { name, first: UPGRADE, again, addresses };
    check(idle("of one client", "", (2, 1))).await;
    check(idle("of many clients", "", (2, 60))).await;
    check(idle("of the same client", "", (1, 1))).await;
    check(idle("of one client that says something", "x", (2, 1))).await;
}

#[tokio::test]
async fn ov9_requests_that_take_long_do_not_take_a_server_from_others() {
    let slow = "GET /slow HTTP/1.1\r\nHost: g\r\n\r\n";
    check(SlowClient { name: "of one client", first: slow, again: "", addresses: (2, 1) }).await;
    check(SlowClient { name: "of three", first: slow, again: "", addresses: (2, 3) }).await;
}

#[tokio::test]
async fn slow_clients_are_not_evicted_while_no_request_waits() {
    let cluster = Cluster::start();
    let (at, _) = gateway(&cluster, route()).await;
    let mut slow = RawStream(connect(2, at).await);
    slow.send(BIG).await;
    slow.head().await;
    let mut posts = RawStream(connect(2, at).await);
    posts.send("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 40\r\n\r\n").await;
    for _ in 0..40 {
        sleep(Duration::from_millis(100)).await;
        posts.send("x").await;
        slow.0.read_exact(&mut [0; 100]).await.unwrap();
    }
    assert!(posts.read_to("ok").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn one_client_has_all_permits_while_no_other_waits() {
    let cluster = Cluster::start();
    // How long they wait for each other is not what is tested.
    let (at, _) = gateway(&cluster, RouteConfig { queue_timeout: PATIENCE, ..route() }).await;
    let load = (0..4 * PERMITS)
        .map(async |_| HttpClient::over(connect(1, at).await).request("GET", "/", "").await.unwrap().status);
    assert!(join_all(load).await.iter().all(|status| *status == 200));
}

#[tokio::test]
async fn a_tunnel_that_is_silent_for_too_long_is_closed_on_both_sides() {
    let cluster = Cluster::start();
    let (at, _) = gateway(&cluster, RouteConfig { tunnel_idle_timeout: Duration::from_millis(500), ..route() }).await;
    let mut tunnel = RawStream(connect(1, at).await);
    tunnel.send(UPGRADE).await;
    tunnel.head().await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        tunnel.send("still there").await;
        tunnel.read_to("still there").await;
        sleep(Duration::from_millis(50)).await;
    }
    let end = timeout(PATIENCE, tunnel.0.read(&mut [0; 1])).await.expect("its end");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_body_goes_to_a_busy_server_once_enough_has_arrived() {
    let cluster = Cluster::start();
    let (at, started) = gateway(&cluster, RouteConfig { max_connections: 4, ..route() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut slow = RawStream(connect(2, at).await);
        slow.send("GET /slow HTTP/1.1\r\nHost: g\r\n\r\n").await;
        held.push(slow);
    }
    eventually("the server is busy", async || started.load(Ordering::Relaxed) == held.len()).await;
    // In pieces, with trailers, complete or not: gathered bytes are passed on unchanged.
    let long = "x".repeat(200_000);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    for (request, pieces) in [
        ("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n".to_owned(), vec!["a".to_owned(), "b".to_owned()]),
        ("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 200000\r\n\r\n".to_owned(), vec![long.clone()]),
        ("GET / HTTP/1.1\r\nHost: g\r\n\r\n".to_owned(), vec![]),
        (
            "PUT / HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n".to_owned(),
            vec!["x".to_owned()],
        ),
    ] {
        let mut client = RawStream(connect(1, at).await);
        client.send(&request).await;
        for piece in pieces {
            sleep(Duration::from_millis(20)).await;
            client.send(&piece).await;
        }
        assert!(client.read_to("ok").await.contains("HTTP/1.1 200 "), "{request}");
    }
    let mut client = RawStream(connect(1, at).await);
    client.send("POST /nothing HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send(&chunk("abc")).await;
    sleep(Duration::from_millis(20)).await;
    client.send("0\r\nX: y\r\n\r\n").await;
    assert!(client.read_to("ok").await.contains("HTTP/1.1 200 "));
    drop(held);
}

/// Where attackers have all connections, and each has begun a message: a new client is served at
/// once.
async fn check_new_client_is_served(name: &str, first: &[u8], from: (u8, u8)) {
    const CONNECTIONS: usize = 100;
    let cluster = Cluster::start();
    let servers = vec![FixedServer { address: server().await.0.into(), weight: 100 }];
    let routes = vec![RouteConfig { servers, ..route() }];
    let at =
        cluster.gateway_with(Config { max_connections: CONNECTIONS, h2c: true, routes, ..Config::default() }).await;
    let come = (0..2 * CONNECTIONS).map(async |number| {
        let mut stream = connect(from.0 + u8::try_from(number % usize::from(from.1)).unwrap(), at).await;
        let _ = stream.write_all(first).await;
        stream
    });
    let attackers = join_all(come).await;
    sleep(Duration::from_millis(1200)).await;
    for number in 0..20 {
        let started = Instant::now();
        let response = HttpClient::over(connect(1, at).await).request("GET", "/", "").await;
        let took = started.elapsed();
        let status = response.map(|response| response.status);
        assert!(status == Some(200) && took < Duration::from_millis(900), "{name} {number}: {status:?} after {took:?}");
    }
    drop(attackers);
}

#[tokio::test]
async fn gh9_clients_that_sent_one_byte_make_room_for_new_ones() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (name, first) in [
        ("a byte", &b"G"[..]),
        ("nothing", b""),
        ("half a head", b"GET / HTTP/1.1\r\nHost: g\r\n"),
        ("HTTP/2 without a stream", preface),
        ("a half preface", &preface[..10]),
    ] {
        check_new_client_is_served(name, first, (2, 1)).await;
        check_new_client_is_served(name, first, (2, 50)).await;
    }
}
