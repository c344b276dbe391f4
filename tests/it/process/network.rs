//! Networks that fail. Each test has a machine of its own at the end of a cable, which needs root,
//! `ip` and `iptables`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tests::{Cluster, Namespace, Peer, Process, eventually, example, legacy_peers_can_run, pick_port, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::programs::{GATEWAY, NODE};

/// A Distributor that listens here, a node of ours on the other machine that has joined, and a peer
/// that watches.
async fn scene(net: &Namespace, config: distributor::Config) -> (Cluster, Process, Peer) {
    let cluster = Cluster::on("0.0.0.0:0".parse().unwrap(), config);
    let mut watcher = Peer::connect(([127, 0, 0, 1], cluster.address.port()).into()).await;
    watcher.register_v2("watcher", 1, "watcher", None).await;
    watcher.list_with("watcher").await;
    let node = net.start(NODE, &[&format!("{}:{}", net.here, cluster.address.port())]);
    watcher.list_with("who").await;
    (cluster, node, watcher)
}

/// Checks that no node leaves for that time.
async fn no_node_leaves(watcher: &mut Peer, time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now())
        && let Ok(names) = timeout(left, watcher.next_list()).await
    {
        assert!(names.contains(&"who".to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn cr7_rs8_a_pulled_cable_is_noticed_and_the_node_comes_back() {
    let Some(net) = Namespace::new() else { return };
    let (_cluster, _node, mut watcher) = scene(&net, distributor::Config::default()).await;
    let begin = Instant::now();
    net.plug(false);
    watcher.list_without("who").await;
    assert!(begin.elapsed() < Duration::from_secs(16), "{:?}", begin.elapsed());
    net.plug(true);
    watcher.list_with("who").await;
}

#[tokio::test]
async fn cr7_an_old_node_whose_machine_is_gone_is_noticed_by_the_system() {
    let Some(net) = Namespace::new() else { return };
    let cluster = Cluster::on("0.0.0.0:0".parse().unwrap(), distributor::Config::default());
    let registration = json!({ "port": 9, "name": "old", "urls": [] });
    let packet = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": registration });
    let (here, port) = (net.here, cluster.address.port());
    // As silent as a version 1 node: it registers, reads, and sends nothing more.
    let script = format!("exec 3<>/dev/tcp/{here}/{port}; printf '%s¶' '{packet}' >&3; exec cat <&3");
    let _old = net.start("bash", &["-c", &script]);
    let mut watcher = Peer::connect(([127, 0, 0, 1], cluster.address.port()).into()).await;
    watcher.register_v2("watcher", 1, "watcher", None).await;
    while watcher.next_list().await.len() < 2 {}
    let begin = Instant::now();
    net.plug(false);
    while watcher.next_list().await.len() > 1 {}
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn pt3_one_direction_is_not_enough() {
    for chain in ["OUTPUT", "INPUT"] {
        let Some(net) = Namespace::new() else { return };
        let (_cluster, _node, mut watcher) = scene(&net, distributor::Config::default()).await;
        net.drop_packets(chain);
        watcher.list_without("who").await;
        net.heal();
        watcher.list_with("who").await;
    }
}

#[tokio::test]
async fn pt6_a_lossy_network_evicts_no_node() {
    let Some(net) = Namespace::new() else { return };
    let (_cluster, _node, mut watcher) = scene(&net, distributor::Config::default()).await;
    net.lose("0.05");
    no_node_leaves(&mut watcher, Duration::from_secs(12)).await;
}

#[tokio::test]
async fn pt9_a_flapping_link_evicts_no_node() {
    let Some(net) = Namespace::new() else { return };
    let (_cluster, _node, mut watcher) = scene(&net, distributor::Config::default()).await;
    for _ in 0..3 {
        for up in [false, true] {
            net.plug(up);
            no_node_leaves(&mut watcher, Duration::from_secs(2)).await;
        }
    }
}

#[tokio::test]
async fn pt10_a_node_whose_connection_is_reset_comes_back() {
    let Some(net) = Namespace::new() else { return };
    let (_cluster, node, mut watcher) = scene(&net, distributor::Config::default()).await;
    net.reset();
    node.line("connection to the Distributor lost").await;
    net.heal();
    // Its old session may have ended before, or be superseded now: it is listed either way.
    let mut changed = watcher.names();
    while !changed.contains(&"who".to_owned()) {
        changed = watcher.next_list().await;
    }
    node.line("connected").await;
}

#[tokio::test]
async fn pt8_a_slow_link_with_a_long_list_evicts_no_node() {
    let Some(net) = Namespace::new() else { return };
    let (cluster, node, mut watcher) = scene(&net, distributor::Config::default()).await;
    net.throttle(256);
    // 400 kB at 32 kB/s take longer than a silent node would have.
    let mut heavy = Vec::new();
    for number in 0..20 {
        let mut peer = Peer::connect(([127, 0, 0, 1], cluster.address.port()).into()).await;
        let name = format!("heavy-{number}");
        let advert = json!({ "v": 2, "id": name });
        peer.register_with(json!({ "port": 1, "name": name, "ballast": "x".repeat(20_000), "$": advert })).await;
        heavy.push(peer);
    }
    let answering = tokio::spawn(async move {
        loop {
            for peer in &mut heavy {
                let _ = timeout(Duration::from_millis(10), peer.next_list()).await;
                peer.pong().await;
            }
        }
    });
    no_node_leaves(&mut watcher, Duration::from_secs(16)).await;
    assert!(!node.output().contains("lost"), "{}", node.output());
    answering.abort();
}

#[tokio::test]
async fn cr5_one_address_may_not_have_all_connections() {
    let Some(net) = Namespace::new() else { return };
    let config = distributor::Config { max_connections_per_address: 2, ..distributor::Config::default() };
    let (cluster, node, mut watcher) = scene(&net, config).await;
    let address = format!("{}:{}", net.here, cluster.address.port());
    let second = net.start(NODE, &[&address]);
    let count = |names: &[String]| names.iter().filter(|name| *name == "who").count();
    let mut names = watcher.names();
    while count(&names) < 2 {
        names = watcher.next_list().await;
    }
    let third = net.start(NODE, &[&address]);
    third.line("lost").await;
    assert_eq!(count(&watcher.names()), 2);
    node.kill().await;
    // There is room again.
    third.line("connected").await;
    while count(&watcher.next_list().await) < 2 {}
    drop(second);
}

#[tokio::test]
async fn rg11_two_nodes_behind_one_address_are_two() {
    let Some(net) = Namespace::new() else { return };
    let (cluster, _node, mut watcher) = scene(&net, distributor::Config::default()).await;
    let _second = net.start(NODE, &[&format!("{}:{}", net.here, cluster.address.port())]);
    while watcher.next_list().await.iter().filter(|name| *name == "who").count() < 2 {}
    let shown = format!("\"host\":\"::ffff:{}\"", net.there);
    let entries = watcher.replica().entries().filter(|(_, entry)| entry.contains(&shown)).count();
    assert_eq!(entries, 2, "hosts are spelled in one way");
}

#[tokio::test]
async fn cr9_a_gateway_without_a_port_left_says_so_and_blames_no_server() {
    let Some(net) = Namespace::new() else { return };
    // A server that never answers.
    let server = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let (here, there, at) = (net.here, net.there, pick_port());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let route = format!("[[route]]\nprefix = \"/\"\nservers = [\"{here}:{port}\"]\n");
    std::fs::write(&file, format!("listen = \"0.0.0.0:{at}\"\nadmin = \"off\"\n{route}")).unwrap();
    let ports = "echo 50000 50019 > /proc/sys/net/ipv4/ip_local_port_range; exec \"$@\"";
    let gateway = net.start("bash", &["-c", ports, "bash", GATEWAY, "--config", file.to_str().unwrap()]);
    gateway.line("listening").await;
    let address = SocketAddr::new(there, at);
    let mut held = Vec::new();
    let mut connections = Vec::new();
    let mut taken = 0;
    // Some ports may be in use by the gateway itself, to connect to the missing Distributor.
    let refused = loop {
        assert!(taken <= 20, "there are no more ports");
        let request = tokio::spawn(async move { request(address, "GET", "/", "").await });
        match timeout(Duration::from_millis(500), server.accept()).await {
            Ok(connection) => connections.push(connection.unwrap()),
            Err(_nobody) => break timeout(Duration::from_secs(5), request).await.expect("an answer").unwrap(),
        }
        held.push(request);
        taken += 1;
    };
    assert_eq!((refused.status, refused.problem()), (503, "no_local_port".to_owned()));
    // A port that is given back can be used again, and the server is not skipped.
    held.pop().unwrap().abort();
    drop(connections.pop());
    eventually("a request gets through again", async || {
        let request = tokio::spawn(async move { request(address, "GET", "/", "").await });
        let came = timeout(Duration::from_millis(500), server.accept()).await.is_ok();
        request.abort();
        came
    })
    .await;
}

#[tokio::test]
async fn gu2_a_server_in_a_black_hole_costs_a_second_and_no_request() {
    let Some(net) = Namespace::new() else { return };
    net.drop_packets("INPUT");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let well = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer).await;
            });
        }
    });
    let cluster = Cluster::start();
    let hole = SocketAddr::new(net.there, 80);
    let servers = [hole, well].map(|address| gateway::FixedServer { address: address.into(), weight: 100 }).to_vec();
    let route = gateway::RouteConfig { servers, ..gateway::RouteConfig::new(vec!["/".to_owned()]) };
    let config = gateway::Config { routes: vec![route], ..gateway::Config::default() };
    let at = cluster.gateway_with(config).await;
    let started = Instant::now();
    for _ in 0..6 {
        assert_eq!(request(at, "GET", "/", "").await.status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}: it is skipped after the first time", started.elapsed());
}

/// Servers on this machine's loopback must not be called for a node on another machine.
#[tokio::test]
async fn pt2_a1_the_loopback_of_another_machine_is_not_called() {
    let Some(net) = Namespace::new() else { return };
    let cluster = Cluster::on("0.0.0.0:0".parse().unwrap(), distributor::Config::default());
    // Registers through the loopback of the Distributor's machine, and can be called from
    // everywhere.
    let port = pick_port();
    let (by_loopback, listen) = (format!("127.0.0.1:{}", cluster.address.port()), format!("0.0.0.0:{port}"));
    let node = Process::start_with(NODE, &[&by_loopback], &[("LISTEN", &listen)]);
    node.line("connected").await;
    // On the gateway's own loopback, another server has the same port.
    let impostor = "import http.server as h\nclass H(h.BaseHTTPRequestHandler):\n def do_GET(self):\n  print('CALLED', flush=True)\nprint('ready', flush=True)\nh.HTTPServer(('127.0.0.1', int(__import__('sys').argv[1])), H).serve_forever()";
    let impostor = net.start("python3", &["-c", impostor, &port.to_string()]);
    impostor.line("ready").await;
    let (here, at, folder) = (net.here, pick_port(), tempfile::tempdir().unwrap());
    let cache = folder.path().join("cache");
    let distributor = format!("{here}:{}", cluster.address.port());
    let (listen, cache) = (format!("0.0.0.0:{at}"), cache.to_str().unwrap());
    let arguments = ["--listen", &*listen, "--distributor", &*distributor, "--cache", cache, "--admin", "off"];
    let check = async |gateway: &Process| {
        gateway.line("listening").await;
        eventually("the node answers", async || {
            request(SocketAddr::new(net.there, at), "GET", "/who", "").await.status == 200
        })
        .await;
    };
    let gateway = net.start(GATEWAY, &arguments);
    check(&gateway).await;
    eventually("it is kept in the file", async || {
        std::fs::read_to_string(cache).is_ok_and(|text| text.contains("GET/who"))
    })
    .await;
    assert!(gateway.terminate().await.success());
    if legacy_peers_can_run() {
        let client = example("client.js");
        let mut client = net
            .start("node", &[client.to_str().unwrap(), "GET/who", "--distributor", &distributor, "--timeout", "20000"]);
        assert_eq!(client.ended().await.code(), Some(0), "{}", client.output());
    }
    // From the file it knows the same nodes, without a Distributor.
    cluster.stop().await;
    check(&net.start(GATEWAY, &arguments)).await;
    assert!(!impostor.output().contains("CALLED"), "{}", impostor.output());
    drop(node);
}

#[tokio::test]
async fn oe12_a2_a_node_that_cannot_be_called_says_so() {
    let Some(net) = Namespace::new() else { return };
    let cluster = Cluster::on("0.0.0.0:0".parse().unwrap(), distributor::Config::default());
    let distributor = format!("{}:{}", net.here, cluster.address.port());
    let node = net.start(NODE, &[&distributor]);
    let line = node.line("no other machine can call this node").await;
    for part in ["listens on 127.0.0.1:", &format!("others are told {}:", net.there), "0.0.0.0"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // A node that can be called does not say so.
    let free = net.start("env", &["LISTEN=0.0.0.0:0", NODE, &distributor]);
    let near = Process::start(NODE, &[&format!("127.0.0.1:{}", cluster.address.port())]);
    for process in [&free, &near] {
        process.line("connected").await;
        assert!(!process.output().contains("no other machine can call"), "{}", process.output());
    }
}
