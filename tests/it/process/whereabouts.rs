//! Where a node is: as it is seen, as it says, and by name. Machines of their own need root, `ip`
//! and `iptables`.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Cluster, CountingServer, Namespace, Peer, Process, eventually, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::programs::{DISTRIBUTOR, GATEWAY, NODE};

/// Entries of a Distributor on this machine.
async fn entries(port: u16) -> Vec<Value> {
    Peer::connect(([127, 0, 0, 1], port).into()).await.ask(7).await
}

/// Waits until `GET /who` at a gateway is answered by 200.
async fn answers(gateway: SocketAddr) {
    eventually("the node answers", async || request(gateway, "GET", "/who", "").await.status == 200).await;
}

fn arguments<'a>(listen: &'a str, distributor: &'a str) -> [&'a str; 6] {
    ["--listen", listen, "--distributor", distributor, "--admin", "off"]
}

#[tokio::test]
async fn a3_a_node_in_a_container_advertises_its_published_port() {
    let Some(machine) = Namespace::new() else { return };
    let container = machine.container();
    let cluster = Cluster::on("0.0.0.0:0".parse().unwrap(), distributor::Config::default());
    let distributor = format!("{}:{}", machine.here, cluster.address.port());
    let (inner, published) = ("9010", 9011);
    container.publish(published, 9010);
    let gateway = cluster.gateway().await;
    let listen = format!("LISTEN=0.0.0.0:{inner}");
    // Unless it says where it is, others are told the translated address and its own port.
    let lost = container.start("env", &[&listen, NODE, &distributor]);
    let line = lost.line("others are told").await;
    assert!(line.contains(&format!("{}:{inner}", machine.there)) && line.contains("172.31.255.2"), "{line}");
    eventually("it cannot be called", async || request(gateway, "GET", "/who", "").await.status == 503).await;
    lost.line("the Distributor says").await;
    assert!(lost.output().contains("cannot call this node"), "{}", lost.output());
    lost.kill().await;
    let advertised = format!("{}:{published}", machine.there);
    let node = container.start("env", &[&listen, &format!("NODE_ADVERTISE={advertised}"), NODE, &distributor]);
    answers(gateway).await;
    let entries = entries(cluster.address.port()).await;
    let entry = entries.iter().find(|entry| entry["name"] == "who").unwrap();
    assert_eq!((&entry["port"], &entry["host"]), (&json!(published), &json!(format!("::ffff:{}", machine.there))));
    assert_eq!(entry["$"]["advertise"], advertised);
    assert!(!node.output().contains("others are told"), "{}", node.output());
}

#[tokio::test]
async fn a3_a_node_advertises_a_name_which_may_move() {
    let Some(net) = Namespace::new() else { return };
    let (there, here) = (net.there, net.here);
    net.set_hosts(&format!("{there} registry.test who.test"));
    let distributor = net.start(DISTRIBUTOR, &["--listen", "0.0.0.0:9000"]);
    distributor.line("listening").await;
    let node = |more: &'static str| net.start("env", &["LISTEN=0.0.0.0:9010", more, NODE, "registry.test:9000"]);
    // A name that the Distributor does not know is refused in words, and tried again.
    let unknown = node("NODE_ADVERTISE=nowhere.test:9010");
    let line = unknown.line("the Distributor says").await;
    assert!(line.contains("unknown_name") && line.contains("nowhere.test"), "{line}");
    net.set_hosts(&format!("{there} registry.test who.test nowhere.test"));
    unknown.line("the Distributor says").await;
    let list = async || Peer::connect(SocketAddr::new(there, 9000)).await.ask(7).await;
    eventually("it is listed", async || list().await.len() == 1).await;
    unknown.kill().await;
    let _node = node("NODE_ADVERTISE=who.test:9010");
    eventually("it is listed", async || list().await.iter().any(|entry| entry["$"]["advertise"] == "who.test:9010"))
        .await;
    assert_eq!(list().await[0]["host"], format!("::ffff:{there}"));
    let gateway = net.start(GATEWAY, &arguments("0.0.0.0:8000", "registry.test:9000"));
    gateway.line("listening").await;
    let at = SocketAddr::new(there, 8000);
    answers(at).await;
    // For a caller the name may lead nowhere, or to another machine, where anything may listen: it
    // goes on to the address that the list shows.
    for hosts in [format!("{there} registry.test"), format!("{here} who.test\n{there} registry.test")] {
        net.set_hosts(&hosts);
        let other = net.start(GATEWAY, &arguments("0.0.0.0:8001", "registry.test:9000"));
        other.line("listening").await;
        answers(SocketAddr::new(there, 8001)).await;
        other.kill().await;
    }
}

#[tokio::test]
async fn a3_a_gateway_advertises_where_clients_reach_it() {
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    let listed = async || {
        let entries = entries(cluster.address.port()).await;
        entries.iter().find(|entry| entry["name"] == "gate").cloned().unwrap_or_default()
    };
    let arguments = arguments("127.0.0.1:0", &distributor);
    let gateway = Process::start(GATEWAY, &[&arguments[..], &["--advertise", "192.0.2.7:8443"]].concat());
    eventually("it is listed", async || listed().await["$"]["advertise"] == "192.0.2.7:8443").await;
    let entry = listed().await;
    assert_eq!((&entry["host"], &entry["port"]), (&json!("::ffff:192.0.2.7"), &json!(8443)));
    gateway.kill().await;
    eventually("it has gone", async || listed().await.is_null()).await;
    // The variable does the same, and a mistake ends it in words.
    let listen = ["GATEWAY_ADVERTISE=192.0.2.8:8443", GATEWAY];
    let _gateway = Process::start("env", &[&listen[..], &arguments].concat());
    eventually("it is listed", async || listed().await["host"] == "::ffff:192.0.2.8").await;
    let wrong = Process::start(GATEWAY, &[&arguments[..], &["--advertise", "192.0.2.7"]].concat());
    wrong.line("advertise").await;
}

#[tokio::test]
async fn a3_what_may_not_be_advertised_is_refused_in_words() {
    let cluster = Cluster::start();
    let mut peer = cluster.peer().await;
    for (advertise, reason) in [
        (json!("0.0.0.0:80"), "bad_advertise"),
        (json!("169.254.169.254:80"), "bad_advertise"),
        (json!("[ff02::1]:80"), "bad_advertise"),
        (json!("localhost:80"), "bad_advertise"),
        (json!("192.0.2.1"), "bad_advertise"),
        (json!(80), "bad_advertise"),
        (json!("no-such-host.invalid:80"), "unknown_name"),
    ] {
        let advert = json!({ "v": 2, "id": "a", "advertise": advertise });
        peer.register_with(json!({ "port": 1, "name": "a", "urls": [], "$": advert })).await;
        let refused = loop {
            let packet = peer.next().await.unwrap();
            if packet["$"].get("r").is_some() {
                break packet;
            }
        };
        assert_eq!(refused["$"]["r"], reason, "{advertise}: {refused}");
    }
    // A node on this machine may advertise its loopback; others take it for the Distributor's.
    let advert = json!({ "v": 2, "id": "a", "advertise": "127.0.0.1:7" });
    peer.register_with(json!({ "port": 1, "name": "a", "urls": [], "$": advert })).await;
    peer.list_with("a").await;
    assert_eq!(entries(cluster.address.port()).await[0]["port"], 7);
}

/// An advertised address is not seen by the Distributor: anything may listen there.
#[tokio::test]
async fn a3_what_listens_at_an_advertised_address_gets_no_call_unless_it_is_the_node() {
    let cluster = Cluster::start();
    let other = Process::start(NODE, &[&cluster.address.to_string()]);
    let (other_port, silent) = (other.port().await, tests::Listener::bind().await);
    let mut evil = Vec::new();
    for (number, port) in [other_port, silent.port()].into_iter().enumerate() {
        let advert = json!({ "v": 2, "id": format!("evil-{number}"), "advertise": format!("127.0.0.1:{port}") });
        let mut peer = cluster.peer().await;
        let urls = [format!("GET/evil/{number}")];
        peer.register_with(json!({ "port": 1, "name": "evil", "urls": urls, "$": advert })).await;
        peer.list_with("evil").await;
        evil.push(peer);
    }
    let gateway = cluster.gateway().await;
    answers(gateway).await;
    for number in 0..2 {
        let refused = request(gateway, "GET", &format!("/evil/{number}"), "").await;
        assert!([404, 503].contains(&refused.status), "{number}: {}", refused.body);
    }
    let mut caller = silent.accept().await;
    let first = caller.next().await.unwrap();
    assert_eq!(first["uri"], "$hello", "nothing but a greeting");
    assert_eq!(caller.next().await, None);
}

/// The file of a gateway with these servers, and the gateway.
fn gateway_with(net: &Namespace, folder: &tempfile::TempDir, routes: &str) -> Process {
    let file = folder.path().join("gateway.toml");
    let head = "listen = \"0.0.0.0:8000\"\nadmin = \"0.0.0.0:8001\"\n";
    std::fs::write(&file, format!("{head}{routes}")).unwrap();
    net.start(GATEWAY, &["--config", file.to_str().unwrap()])
}

/// Answers every request with a word, on the loopback address of the namespace that ends so.
fn server(net: &Namespace, address: &str, port: u16, word: &str) -> Process {
    let program = "import http.server as h, socket, sys\n\
        class H(h.BaseHTTPRequestHandler):\n \
        def do_GET(self):\n  b = sys.argv[3].encode(); self.send_response(200); self.send_header('Content-Length', str(len(b))); self.end_headers(); self.wfile.write(b)\n\
        class S(h.ThreadingHTTPServer):\n address_family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n\
        s = S((sys.argv[1], int(sys.argv[2])), H); print('ready', flush=True); s.serve_forever()";
    net.start("python3", &["-c", program, address, &port.to_string(), word])
}

#[tokio::test]
async fn a11_every_address_of_a_name_is_a_server_and_a_name_is_followed() {
    let Some(net) = Namespace::new() else { return };
    let servers = [server(&net, "127.0.0.2", 80, "two"), server(&net, "127.0.0.3", 80, "three")];
    let six = server(&net, "::1", 80, "six");
    for server in servers.iter().chain([&six]) {
        server.line("ready").await;
    }
    net.set_hosts("127.0.0.2 two.test\n127.0.0.3 two.test\n127.0.0.2 moves.test\n::1 six.test\n127.0.0.9 six.test");
    let folder = tempfile::tempdir().unwrap();
    let route = |prefix: &str, name: &str| format!("[[route]]\nprefix = \"{prefix}\"\nservers = [\"{name}:80\"]\n");
    let routes = [route("/two", "two.test"), route("/moves", "moves.test"), route("/six", "six.test")].concat();
    let gateway = gateway_with(&net, &folder, &routes);
    gateway.line("listening").await;
    let at = SocketAddr::new(net.there, 8000);
    let ask = async |path: &str| request(at, "GET", path, "").await;
    let mut seen = std::collections::BTreeSet::new();
    eventually("both answer", async || {
        let answer = ask("/two").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        seen.insert(answer.body);
        seen.len() == 2
    })
    .await;
    // One of its addresses refuses: no request is lost to it.
    for _ in 0..8 {
        let answer = ask("/six").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "six"));
    }
    assert_eq!(ask("/moves").await.body, "two");
    // The name moves, and the server that it had is gone.
    net.set_hosts("127.0.0.3 moves.test");
    let [two, _three] = servers;
    two.kill().await;
    eventually("it is followed", async || ask("/moves").await.body == "three").await;
}

#[tokio::test]
async fn a11_a_name_that_a_server_advertises_is_followed_by_the_gateway() {
    let Some(net) = Namespace::new() else { return };
    let [two, three, nowhere] = ["10.99.0.2", "10.99.0.3", "10.99.0.9"];
    for address in [two, three] {
        assert!(net.run("ip", &["addr", "add", &format!("{address}/32"), "dev", "lo"]));
    }
    let server = async |address: &str, word: &str| {
        let server = server(&net, address, 80, word);
        server.line("ready").await;
        server
    };
    let first = server(two, "two").await;
    let _second = server(three, "three").await;
    net.set_hosts(&format!("{two} web.test"));
    let distributor = net.start(DISTRIBUTOR, &["--listen", "0.0.0.0:9000"]);
    distributor.line("listening").await;
    let mut node = Peer::connect(SocketAddr::new(net.there, 9000)).await;
    let http = json!({ "prefixes": ["/web"] });
    let advert = json!({ "v": 2, "id": "web", "advertise": "web.test:80", "http": http });
    node.register_with(json!({ "port": 1, "name": "web", "urls": [], "$": advert })).await;
    let _alive = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            node.pong().await;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }));
    let folder = tempfile::tempdir().unwrap();
    let routes =
        "distributor = \"127.0.0.1:9000\"\n[[route]]\nprefix = \"/web\"\ncheck = \"/\"\ncheck_every = \"100ms\"\n";
    let gateway = gateway_with(&net, &folder, routes);
    gateway.line("listening, for operators").await;
    let ask = async || request(SocketAddr::new(net.there, 8000), "GET", "/web", "").await.body;
    eventually("it is found", async || ask().await == "two").await;
    // The name moves, and its first address leads nowhere. The Distributor still tells the old one.
    net.set_hosts(&format!("{nowhere} web.test\n{three} web.test"));
    first.kill().await;
    eventually("it is followed, by requests and checks", async || ask().await == "three").await;
    let routes = request(SocketAddr::new(net.there, 8001), "GET", "/routes", "").await.body;
    assert!(routes.contains(&format!("{two}:80 web weight 100, at web.test:80")), "{routes}");
    gateway.kill().await;
    // Where it is not known, the address of the list is asked.
    let _first = server(two, "two").await;
    net.set_hosts("");
    let gateway = gateway_with(&net, &folder, "distributor = \"127.0.0.1:9000\"\n");
    let line = gateway.line("this machine cannot look up the name that a server advertises").await;
    assert!(line.contains("web.test:80"), "{line}");
    gateway.line("listening, for operators").await;
    eventually("it is asked there", async || ask().await == "two").await;
}

#[tokio::test]
async fn a10_a_name_that_is_not_known_costs_its_own_route_only() {
    let Some(net) = Namespace::new() else { return };
    let _server = server(&net, "127.0.0.2", 80, "there");
    _server.line("ready").await;
    net.set_hosts("");
    let folder = tempfile::tempdir().unwrap();
    let routes = "[[route]]\nprefix = \"/there\"\nservers = [\"127.0.0.2:80\"]\n\
        [[route]]\nprefix = \"/later\"\nservers = [\"later.test:80\"]\n";
    let gateway = gateway_with(&net, &folder, routes);
    gateway.line("listening").await;
    let at = SocketAddr::new(net.there, 8000);
    let ask = async |path: &str| request(at, "GET", path, "").await;
    let line = gateway.line("a server has no address").await;
    assert!(line.contains("later.test:80") && line.contains("cannot be looked up"), "{line}");
    assert_eq!(ask("/there").await.body, "there");
    let refused = ask("/later").await;
    assert_eq!((refused.status, refused.problem()), (503, "no_provider".to_owned()));
    let routes = request(SocketAddr::new(net.there, 8001), "GET", "/routes", "").await.body;
    assert!(routes.contains("later.test:80 has no address now: the name later.test"), "{routes}");
    // It is the same when the file is read anew, and the name is found once it is there.
    gateway.signal(Signal::HUP);
    gateway.line("the configuration has been reloaded").await;
    assert_eq!((ask("/there").await.status, ask("/later").await.status), (200, 503));
    net.set_hosts("127.0.0.2 later.test");
    eventually("it is found", async || ask("/later").await.body == "there").await;
}

#[tokio::test]
async fn a10_a_file_with_an_unknown_name_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, "[[route]]\nprefix = \"/\"\nservers = [\"no-such-host.invalid:80\"]\n").unwrap();
    let mut check = Process::start(GATEWAY, &["check", file.to_str().unwrap()]);
    assert_eq!(check.ended().await.code(), Some(0));
    let line = check.line("warning").await;
    assert!(line.contains("no-such-host.invalid"), "{line}");
}

#[tokio::test]
async fn a11_localhost_is_both_families() {
    // A machine without IPv6 has no such server.
    if tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
        return;
    }
    let server = CountingServer::start_at("[::1]:0".parse().unwrap()).await;
    let port = server.address.port();
    let cluster = Cluster::start();
    let servers = vec![gateway::FixedServer { address: format!("localhost:{port}").parse().unwrap(), weight: 100 }];
    let route = gateway::RouteConfig { servers, ..gateway::RouteConfig::new(vec!["/".to_owned()]) };
    let at = cluster.gateway_with(gateway::Config { routes: vec![route], ..gateway::Config::default() }).await;
    for _ in 0..4 {
        assert_eq!(request(at, "GET", "/x", "").await.status, 200);
    }
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn a1_a2_by_ipv6_the_loopback_of_another_machine_is_not_called() {
    let Some(net) = Namespace::new() else { return };
    let cluster = Cluster::on("[::]:0".parse().unwrap(), distributor::Config::default());
    let port = cluster.address.port();
    let node = Process::start_with(NODE, &[&format!("[::1]:{port}")], &[("LISTEN", "[::]:0")]);
    node.line("connected").await;
    let distributor = format!("[{}]:{port}", net.here_v6);
    let gateway = net.start(GATEWAY, &arguments("[::]:8000", &distributor));
    gateway.line("listening").await;
    answers(SocketAddr::new(net.there_v6, 8000)).await;
    // A node that listens by IPv4 only is told that others will try IPv6.
    let four = net.start("env", &["LISTEN=0.0.0.0:0", NODE, &distributor]);
    let line = four.line("no other node can call this node").await;
    assert!(line.contains(&format!("told [{}]:", net.there_v6)) && line.contains("[::]"), "{line}");
}

#[tokio::test]
async fn c11_a_server_that_is_not_a_distributor_is_named_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let lost = Process::start(NODE, &[&web]);
    let line = lost.line("the server at this address is not a Distributor").await;
    assert!(line.contains("it speaks HTTP") && line.contains(&web), "{line}");
    assert!(!lost.output().contains("connected"), "{}", lost.output());
    // Nor is a service.
    let cluster = Cluster::start();
    let node = Process::start(NODE, &[&cluster.address.to_string()]);
    let other = Process::start(NODE, &[&format!("127.0.0.1:{}", node.port().await)]);
    let line = other.line("the server at this address is not a Distributor").await;
    assert!(line.contains("like a service") && !other.output().contains("connected"), "{}", other.output());
}
