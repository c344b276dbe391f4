//! Where a node is: as it is seen, as it says, and by name. Tests with machines of their own are
//! skipped, with a line, where that is not possible.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tests::{Cluster, Namespace, Peer, Process, eventually, request};
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
async fn c11_what_is_no_distributor_is_called_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let lost = Process::start(NODE, &[&web]);
    let line = lost.line("that is no Distributor").await;
    assert!(line.contains("it speaks HTTP") && line.contains(&web), "{line}");
    assert!(!lost.output().contains("connected"), "{}", lost.output());
    // Nor is a service.
    let cluster = Cluster::start();
    let node = Process::start(NODE, &[&cluster.address.to_string()]);
    let other = Process::start(NODE, &[&format!("127.0.0.1:{}", node.port().await)]);
    let line = other.line("that is no Distributor").await;
    assert!(line.contains("like a service") && !other.output().contains("connected"), "{}", other.output());
}
