//! The settings of a route: balance, health checks, limits, and trusted addresses.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway::{Balance, Check, Config, FixedServer, Rate, RateBy, RouteConfig, RouteLimits, Sticky};
use node_sdk::{Node, ServiceError};
use tests::{Cluster, CountingServer, HttpClient, PATIENCE, eventually, request};
use tokio::time::{Instant, timeout};

fn route(servers: &[&CountingServer]) -> RouteConfig {
    let servers = servers.iter().map(|server| FixedServer { address: server.address.into(), weight: 100 }).collect();
    RouteConfig { servers, ..RouteConfig::new(vec!["/".to_owned()]) }
}

async fn gateway(cluster: &Cluster, route: RouteConfig) -> SocketAddr {
    cluster.gateway_with(Config { routes: vec![route], ..Config::default() }).await
}

/// Which server has answered.
fn port(body: &str) -> u16 {
    body.lines().next().unwrap().parse().unwrap_or_else(|_| panic!("{body}"))
}

/// How often each server answers.
async fn turns(gateway: SocketAddr, count: usize) -> HashMap<u16, usize> {
    let mut client = HttpClient::connect(gateway).await;
    let mut turns = HashMap::new();
    for _ in 0..count {
        let response = client.request("GET", "/", "").await.unwrap();
        assert_eq!(response.status, 200, "{response:?}");
        *turns.entry(port(&response.body)).or_default() += 1;
    }
    turns
}

#[tokio::test]
async fn a_cookie_keeps_a_client_with_a_server_while_it_exists() {
    let cluster = Cluster::start();
    let (one, two) = (CountingServer::start().await, CountingServer::start().await);
    let secret = Some("shared".to_owned());
    let config = || {
        let route = RouteConfig { sticky: Some(Sticky::Cookie), ..route(&[&one, &two]) };
        Config { routes: vec![route], cookie_secret: secret.clone(), ..Config::default() }
    };
    // Two gateways with one secret know each other's cookies.
    let gateways = [cluster.gateway_with(config()).await, cluster.gateway_with(config()).await];
    let ask = async |cookie: &str| {
        let mut client = HttpClient::connect(gateways[usize::from(!cookie.is_empty())]).await;
        client.raw(format!("GET / HTTP/1.1\r\nHost: g\r\nCookie: {cookie}\r\n\r\n").as_bytes()).await.unwrap()
    };
    let first = ask("").await;
    let given = first.header("set-cookie").unwrap();
    assert!(given.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{given}");
    let cookie = format!("a=b; {}", given.split(';').next().unwrap());
    let owner = port(&first.body);
    for _ in 0..10 {
        let next = ask(&cookie).await;
        assert_eq!((port(&next.body), next.header("set-cookie")), (owner, None));
    }
    let (gone, left) = if one.address.port() == owner { (one, two) } else { (two, one) };
    gone.stop().await;
    let next = ask(&cookie).await;
    assert_eq!((next.status, port(&next.body)), (200, left.address.port()));
    assert_ne!(next.header("set-cookie"), Some(given), "from now on it belongs to the other server");
    let forged = ask("gateway_server=0123456789abcdef.00").await;
    assert!(forged.header("set-cookie").is_some(), "a forged cookie is not accepted");
}

#[tokio::test]
async fn a_client_keeps_its_server_by_its_address_and_weights_are_shares() {
    let cluster = Cluster::start();
    let (one, two) = (CountingServer::start().await, CountingServer::start().await);
    let by_client = gateway(&cluster, RouteConfig { sticky: Some(Sticky::Client), ..route(&[&one, &two]) }).await;
    assert_eq!(turns(by_client, 20).await.len(), 1);
    let mut weighted = route(&[&one, &two]);
    weighted.servers[1].weight = 300;
    let by_weight = gateway(&cluster, weighted).await;
    let turns = turns(by_weight, 40).await;
    assert_eq!((turns[&one.address.port()], turns[&two.address.port()]), (10, 30));
}

#[tokio::test]
async fn a_route_calls_nodes_in_turn_or_one_node_per_client() {
    let cluster = Cluster::start();
    let node_named = |name: &'static str| {
        Node::builder(name).public_routes().route("GET/who", move || async move { Ok::<_, ServiceError>(name) })
    };
    let _nodes = [cluster.node(node_named("a")).await, cluster.node(node_named("b")).await];
    let check = async |balance: Option<Balance>, sticky: Option<Sticky>, expected: &[usize]| {
        let at = gateway(&cluster, RouteConfig { balance, sticky, ..RouteConfig::new(vec!["/".to_owned()]) }).await;
        let mut client = HttpClient::connect(at).await;
        let mut answers = async |count: usize| {
            let mut answers = HashMap::<String, usize>::new();
            for _ in 0..count {
                let answer = client.request("GET", "/who", "").await.unwrap();
                *answers.entry(answer.body).or_default() += usize::from(answer.status == 200);
            }
            answers.into_values().filter(|count| *count > 0).collect::<Vec<_>>()
        };
        // Both are connected first.
        eventually("it goes as it should", async || answers(20).await == expected).await;
        assert_eq!(answers(20).await, expected, "{balance:?} {sticky:?}");
    };
    check(Some(Balance::RoundRobin), None, &[10, 10]).await;
    check(Some(Balance::LeastInFlight), None, &[10, 10]).await;
    check(None, Some(Sticky::Client), &[20]).await;
}

#[tokio::test]
async fn least_connections_and_power_of_two_avoid_a_busy_server() {
    let cluster = Cluster::start();
    for balance in [Balance::LeastInFlight, Balance::PowerOfTwo] {
        let (slow, quick) = (CountingServer::start().await, CountingServer::start().await);
        let gateway = gateway(&cluster, RouteConfig { balance: Some(balance), ..route(&[&slow, &quick]) }).await;
        slow.answers(0);
        let mut held = Vec::new();
        while slow.asked() == 0 {
            held.push(tokio::spawn(async move { request(gateway, "POST", "/", "{}").await }));
            eventually("it is asked", async || slow.asked() + quick.asked() >= held.len()).await;
        }
        let before = slow.asked();
        assert_eq!(turns(gateway, 20).await.len(), 1, "{balance:?}");
        assert_eq!(slow.asked(), before);
        held.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn ov7_ov8_limits_answer_at_once_with_retry_after() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let rate = Rate { requests: 1, every: Duration::from_secs(60), burst: 3, by: RateBy::Header("x-key".to_owned()) };
    let limited = RouteConfig { limits: RouteLimits::new(None, Some(rate), 90), ..route(&[&server]) };
    let at = gateway(&cluster, limited).await;
    let ask = async |key: &str| {
        let mut client = HttpClient::connect(at).await;
        client.raw(format!("GET / HTTP/1.1\r\nHost: g\r\nX-Key: {key}\r\n\r\n").as_bytes()).await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(ask("a").await.status, 200);
    }
    let refused = ask("a").await;
    assert_eq!((refused.status, refused.problem()), (429, "too_many_requests".to_owned()));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=60).contains(&seconds), "c13: one in 60 s, and not {seconds}");
    assert_eq!(ask("b").await.status, 200, "others have their own");

    server.answers(0);
    let at = gateway(&cluster, RouteConfig { limits: RouteLimits::new(Some(2), None, 90), ..route(&[&server]) }).await;
    let before = server.asked();
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(async move { request(at, "GET", "/", "").await })).collect();
    eventually("both are under way", async || server.asked() == before + 2).await;
    let refused = request(at, "GET", "/", "").await;
    assert_eq!(
        (refused.status, refused.problem(), refused.header("retry-after")),
        (503, "overloaded".to_owned(), Some("3"))
    );
    held.iter().for_each(tokio::task::JoinHandle::abort);
    server.answers(200);
    eventually("there is room again", async || request(at, "GET", "/", "").await.status == 200).await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "its thread is held up on purpose")]
async fn ov1_ov2_a_lagging_gateway_delays_its_rejections() {
    /// So many tasks of the gateway's thread always have work, each for this long: whatever else is
    /// ready waits for their sum.
    const TASKS: u32 = 9;
    const WORK_TIME: Duration = Duration::from_millis(40);
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let rate = Rate { requests: 1, every: Duration::from_secs(3600), burst: 1, by: RateBy::Route };
    let limited = RouteConfig { limits: RouteLimits::new(None, Some(rate), 90), ..route(&[&server]) };
    let at = gateway(&cluster, limited).await;
    assert_eq!(request(at, "GET", "/", "").await.status, 200);
    let declined = async || {
        let started = Instant::now();
        let status = request(at, "GET", "/", "").await.status;
        assert!(matches!(status, 429 | 503), "{status}");
        started.elapsed()
    };
    let (rounds, mut seen) = tokio::sync::watch::channel(0);
    let mut working = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let rounds = rounds.clone();
        working.spawn(async move {
            loop {
                std::thread::sleep(WORK_TIME);
                rounds.send_modify(|rounds| *rounds += 1);
                tokio::task::yield_now().await;
            }
        });
    }
    // The mean of the lag follows after some measurements.
    seen.wait_for(|rounds| *rounds > 16 * TASKS).await.unwrap();
    let took = declined().await;
    assert!(took >= Duration::from_secs(3), "{took:?}");
    working.abort_all();
    eventually("it keeps up again", async || declined().await < Duration::from_secs(1)).await;
}

#[tokio::test]
async fn gu4_a_server_gets_its_limit_of_requests_and_the_rest_waits() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    server.answers(0);
    let queue_timeout = Duration::from_millis(300);
    let at = gateway(&cluster, RouteConfig { max_connections: 2, queue_timeout, ..route(&[&server]) }).await;
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(async move { request(at, "GET", "/", "").await })).collect();
    eventually("both are under way", async || server.asked() == 2).await;
    let started = Instant::now();
    assert_eq!(request(at, "GET", "/", "").await.problem(), "overloaded");
    assert!(started.elapsed() >= queue_timeout, "it has waited");
    server.answers(200);
    let waits = tokio::spawn(async move { request(at, "GET", "/", "").await });
    held[0].abort();
    assert_eq!(timeout(PATIENCE, waits).await.unwrap().unwrap().status, 200, "the waiting request is next");
    held[1].abort();
}

#[tokio::test]
async fn a_server_that_fails_its_checks_is_skipped_until_it_recovers() {
    let cluster = Cluster::start();
    let (well, ill) = (CountingServer::start().await, CountingServer::start().await);
    let check = Some(Check::Http("/health".to_owned()));
    let every = Duration::from_millis(20);
    let at = gateway(&cluster, RouteConfig { check, check_every: every, ..route(&[&well, &ill]) }).await;
    assert_eq!(turns(at, 10).await.len(), 2);
    ill.answers(500);
    eventually("only the other one is asked", async || {
        let mut client = HttpClient::connect(at).await;
        let mut answers = 0;
        while answers < 10 && client.request("GET", "/", "").await.unwrap().status == 200 {
            answers += 1;
        }
        answers == 10
    })
    .await;
    ill.answers(200);
    eventually("both are asked again", async || turns(at, 10).await.len() == 2).await;
    let tcp = RouteConfig { check: Some(Check::Tcp), check_every: every, ..route(&[&well, &ill]) };
    let at = gateway(&cluster, tcp).await;
    ill.stop().await;
    eventually("no server is asked in vain", async || turns(at, 10).await.len() == 1).await;
}

#[tokio::test]
async fn a_node_that_fails_its_checks_is_skipped_until_it_recovers() {
    let cluster = Cluster::start();
    let mut nodes = Vec::new();
    for name in ["well", "ill", "mute"] {
        let health = Arc::new(AtomicUsize::new(200));
        let now = Arc::clone(&health);
        let check = move || {
            let health = now.load(Ordering::Relaxed);
            async move {
                match health {
                    200 => Ok(()),
                    0 => std::future::pending().await,
                    _ => Err(ServiceError::internal("no disk")),
                }
            }
        };
        let who = move || async move { Ok::<_, ServiceError>(name) };
        let node = Node::builder(name).route("GET/who", who).public().route("GET/health", check);
        nodes.push((cluster.node(node).await, health));
    }
    let every = Duration::from_millis(20);
    let checked = RouteConfig {
        node_check: Some("GET/health".to_owned()),
        check_every: every,
        ..RouteConfig::new(vec!["/".into()])
    };
    let at = gateway(&cluster, checked).await;
    Cluster::wait_routed(at, "/who").await;
    let mut client = HttpClient::connect(at).await;
    let mut answer_in_ten = async || {
        let mut names = BTreeSet::new();
        for _ in 0..10 {
            let answer = client.request("GET", "/who", "").await.unwrap();
            assert_eq!(answer.status, 200);
            names.insert(answer.body.trim_matches('"').to_owned());
        }
        names.into_iter().collect::<Vec<_>>().join(" ")
    };
    eventually("all are called", async || answer_in_ten().await == "ill mute well").await;
    nodes[1].1.store(500, Ordering::Relaxed);
    eventually("who fails is not", async || answer_in_ten().await == "mute well").await;
    nodes[1].1.store(200, Ordering::Relaxed);
    eventually("they are again", async || answer_in_ten().await == "ill mute well").await;
    nodes[2].1.store(0, Ordering::Relaxed);
    eventually("nor is who does not answer", async || answer_in_ten().await == "ill well").await;
    nodes[1].1.store(500, Ordering::Relaxed);
    eventually("when most fail it is not they who are at fault", async || answer_in_ten().await == "ill mute well")
        .await;
}

#[tokio::test]
async fn gu15_servers_that_fail_are_ejected_but_never_most_of_them() {
    let cluster = Cluster::start();
    let (a, b, c) = (CountingServer::start().await, CountingServer::start().await, CountingServer::start().await);
    let at = gateway(&cluster, route(&[&a, &b, &c])).await;
    a.answers(503);
    for _ in 0..30 {
        request(at, "GET", "/", "").await;
    }
    assert!(a.asked() < 10, "{} after five in a row", a.asked());
    b.answers(503);
    let before = c.asked();
    for _ in 0..60 {
        request(at, "GET", "/", "").await;
    }
    assert!(c.asked() - before < 50, "when most fail it is not they who are at fault: the rest could not bear it all");
}

#[tokio::test]
async fn gu12_repeatable_requests_are_retried_elsewhere_within_a_budget() {
    let cluster = Cluster::start();
    let (dead, well) = (CountingServer::start().await, CountingServer::start().await);
    dead.answers(0);
    let try_timeout = Some(Duration::from_millis(50));
    let timeout = Some(Duration::from_secs(1));
    let at = gateway(&cluster, RouteConfig { try_timeout, timeout, ..route(&[&dead, &well]) }).await;
    for _ in 0..4 {
        assert_eq!(request(at, "GET", "/", "").await.status, 200, "another one answers in time");
    }
    let dead_first = dead.asked();
    assert!(dead_first >= 1);
    well.answers(0);
    let calls: Vec<_> =
        (0..200).map(|_| tokio::spawn(async move { request(at, "GET", "/", "").await.status })).collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 504);
    }
    let tries = dead.asked() + well.asked();
    // A fifth of them, and the saved ones.
    assert!(tries < 4 + dead_first + 200 + 40 + 25, "{tries} tries");
}

#[tokio::test]
async fn gu14_a_request_in_a_loop_is_stopped() {
    let cluster = Cluster::start();
    let port = tests::pick_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let listener = net::bind(at).unwrap();
    let itself = RouteConfig {
        servers: vec![FixedServer { address: at.into(), weight: 100 }],
        ..RouteConfig::new(vec!["/".to_owned()])
    };
    let config = Config { distributor: cluster.address.to_string(), routes: vec![itself], ..Config::default() };
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(gateway::serve(listener, config, stop.clone()));
    let response = request(at, "GET", "/", "").await;
    assert_eq!((response.status, response.problem()), (508, "loop".to_owned()));
    stop.cancel();
}

#[tokio::test]
async fn a_balancer_in_front_names_the_client() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let here = || vec!["127.0.0.0/8".parse().unwrap()];
    let config = Config { routes: vec![route(&[&server])], proxy_protocol: here(), ..Config::default() };
    let at = cluster.gateway_with(config).await;
    let v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &[192, 0, 2, 9, 10, 0, 0, 1, 0, 80, 0, 80][..]].concat();
    for (header, client) in [
        (&b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n"[..], "192.0.2.7"),
        (&v2, "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let mut connection = HttpClient::connect(at).await;
        // In pieces: a header may be split anywhere.
        let (first, second) = header.split_at(header.len() / 2);
        connection.send(first).await;
        connection.sent_has_arrived().await;
        let request = [second, b"GET / HTTP/1.1\r\nHost: g\r\n\r\n"].concat();
        let response = connection.raw(&request).await.unwrap();
        assert!(response.body.contains(&format!("x-forwarded-for: {client}\r\n")), "{}", response.body);
    }
    let mut silent = HttpClient::connect(at).await;
    assert_eq!(silent.raw(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n").await, None, "it has to say");

    let config = Config { routes: vec![route(&[&server])], trusted: here(), ..Config::default() };
    let inner = cluster.gateway_with(config).await;
    let outer = RouteConfig {
        servers: vec![FixedServer { address: inner.into(), weight: 100 }],
        ..RouteConfig::new(vec!["/".to_owned()])
    };
    let outer = gateway(&cluster, outer).await;
    let mut client = HttpClient::connect(outer).await;
    let response = client.raw(b"GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n").await.unwrap();
    for line in
        ["x-forwarded-for: 127.0.0.1, 127.0.0.1\r\n", "x-forwarded-host: shop.test\r\n", "x-gateway-hops: 2\r\n"]
    {
        assert!(response.body.contains(line), "{}", response.body);
    }
}

#[tokio::test]
async fn a_deadline_counts_from_the_end_of_the_body() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    server.answers(0);
    let timeout = Duration::from_millis(250);
    let at = gateway(&cluster, RouteConfig { timeout: Some(timeout), ..route(&[&server]) }).await;
    let mut client = HttpClient::connect(at).await;
    client.send(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\n").await;
    // The client takes longer than the server may.
    tokio::time::sleep(2 * timeout).await;
    let started = Instant::now();
    assert_eq!(client.raw(b"abc").await.unwrap().status, 504);
    // From the head, it would be over already.
    assert!(started.elapsed() >= timeout / 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn gh3_a_client_that_sends_too_much_is_told() {
    let cluster = Cluster::start();
    let rate = Rate { requests: 1, every: Duration::from_secs(60), burst: 1, by: RateBy::Route };
    let server = CountingServer::start().await;
    let limited = RouteConfig { limits: RouteLimits::new(None, Some(rate), 90), ..route(&[&server]) };
    let at = gateway(&cluster, limited).await;
    assert_eq!(request(at, "GET", "/", "").await.status, 200);
    // Far more than any buffer takes, sent before the answer is read.
    let body = "x".repeat(16 << 20);
    assert_eq!(request(at, "POST", "/", &body).await.status, 429);
}
