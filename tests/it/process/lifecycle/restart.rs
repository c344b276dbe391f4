//! Programs that are stopped, killed, and started again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use node_sdk::{Node, ServiceError};
use rustix::process::Signal;
use tests::{Cluster, HttpClient, Peer, Process, eventually, pick_address, pick_port};
use tokio::task::JoinSet;

use crate::programs::{DISTRIBUTOR, GATEWAY, HELLO, NODE};

#[tokio::test]
async fn rs1_sigterm_ends_idle_programs_in_order() {
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    for (program, arguments) in [
        (DISTRIBUTOR, vec!["--listen", "127.0.0.1:0"]),
        (GATEWAY, vec!["--listen", "127.0.0.1:0", "--distributor", &distributor]),
        (NODE, vec![distributor.as_str()]),
    ] {
        let process = Process::start(program, &arguments);
        process.line("listening").await;
        assert_eq!(process.terminate().await.code(), Some(0), "{program}");
    }
}

#[tokio::test]
async fn oe3_a_taken_port_is_named_with_its_owner() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for program in [DISTRIBUTOR, GATEWAY] {
        let mut process = Process::start(program, &["--listen", &address]);
        assert_eq!(process.ended().await.code(), Some(3), "{program}");
        let line = process.line("cannot listen on").await;
        assert!(line.contains(&address) && line.contains(&format!("process {}", std::process::id())), "{line}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_refused_with_advice() {
    for (arguments, advice) in [
        (["--lisen", "127.0.0.1:0"], "'--listen'"),
        (["--listen", "9000"], "write it like"),
        (["--frame-timeout", "soon"], "such as 10s"),
        (["--log-level", "=?"], "write off, error"),
    ] {
        let mut process = Process::start(DISTRIBUTOR, &arguments);
        assert_eq!(process.ended().await.code(), Some(2));
        process.line(advice).await;
    }
    for program in [DISTRIBUTOR, GATEWAY] {
        for (flag, text) in [("--help", "Usage"), ("--version", env!("CARGO_PKG_VERSION"))] {
            let mut process = Process::start(program, &[flag]);
            assert_eq!(process.ended().await.code(), Some(0));
            process.line(text).await;
        }
    }
}

#[tokio::test]
async fn json_logs_are_one_object_per_line() {
    let process = Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0", "--log-format", "json"]);
    let address = process.line("\"address\":\"127.0.0.1:").await;
    let line: serde_json::Value = serde_json::from_str(&address).unwrap();
    assert_eq!((line["message"].as_str(), line["level"].as_str()), (Some("listening"), Some("INFO")));
}

/// The results of many clients while something happens.
struct Load {
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    /// Eight clients that request `path` without end over kept connections.
    fn start(gateway: SocketAddr, path: &'static str) -> Self {
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            clients.spawn(async move {
                let mut client = HttpClient::connect(gateway).await;
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match client.request("GET", path, "").await {
                        Some(answer) if answer.status == 200 => {}
                        other => failures.push(format!("{other:?}")),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failures
            });
        }
        Self { done, stop, clients }
    }

    /// Waits for this number of further answers.
    async fn go_on(&self, answers: usize) {
        let until = self.done.load(Ordering::Relaxed) + answers;
        eventually("load goes on", async || self.done.load(Ordering::Relaxed) >= until).await;
    }

    /// Ends the load, and returns the failures.
    async fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await.concat()
    }
}

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

#[tokio::test]
async fn rs4_a_kill_and_restart_of_the_distributor_costs_no_request() {
    let address = format!("127.0.0.1:{}", pick_port());
    let distributor = Process::start(DISTRIBUTOR, &["--listen", &address]);
    distributor.line("listening").await;
    let start = async |name: &str, route: &str| {
        Node::builder(name).public_routes().distributor(&address).route(route, hello).start().await.unwrap()
    };
    let (a, b) = (start("a", "GET/a").await, start("b", "GET/b").await);
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gateway = listener.local_addr().unwrap();
    let config = gateway::Config { distributor: address.clone(), ..gateway::Config::default() };
    tokio::spawn(gateway::serve(listener, config, tokio_util::sync::CancellationToken::new()));
    Cluster::wait_routed(gateway, "/a").await;
    a.peers().wait_until(|nodes| nodes.len() == 3).await;
    b.peers().wait_until(|nodes| nodes.len() == 3).await;

    let load = Load::start(gateway, "/a");
    let calls = async {
        load.go_on(100).await;
        distributor.kill().await;
        load.go_on(500).await;
        for _ in 0..100 {
            a.peers().call::<String>("GET/b", &()).await.expect("peers call each other without a Distributor");
        }
        let distributor = Process::start(DISTRIBUTOR, &["--listen", &address]);
        distributor.line("listening").await;
        let mut observer = Peer::connect(address.parse().unwrap()).await;
        observer.ask_until("all are back", |names| names.len() == 3).await;
        load.go_on(100).await;
        distributor
    };
    tokio::select! {
        distributor = calls => drop(distributor),
        () = a.peers().wait_until(|nodes| nodes.len() < 3) => panic!("a list got shorter"),
        () = b.peers().wait_until(|nodes| nodes.len() < 3) => panic!("a list got shorter"),
    }
    assert_eq!(load.failures().await, [""; 0]);
}

#[tokio::test]
async fn c3_why_knows_all_nodes_after_a_restart() {
    let address = format!("127.0.0.1:{}", pick_port());
    let distributor = Process::start(DISTRIBUTOR, &["--listen", &address]);
    distributor.line("listening").await;
    let start = async |name: &str| {
        Node::builder(name).public_routes().distributor(&address).route("GET/x", hello).start().await.unwrap()
    };
    let nodes = [start("alpha").await, start("beta").await, start("gamma").await];
    for node in &nodes {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    distributor.kill().await;
    let distributor = Process::start(DISTRIBUTOR, &["--listen", &address]);
    distributor.line("listening").await;
    let mut observer = Peer::connect(address.parse().unwrap()).await;
    observer.ask_until("all are back", |names| names.len() == 3).await;
    distributor.line("restored the list").await;
    distributor.line("came back").await;
    for name in ["alpha", "beta", "gamma"] {
        let why = Process::start(DISTRIBUTOR, &["why", name, "--at", &address]);
        let line = why.line("it was here before the restart").await;
        assert!(line.contains("came back") && line.contains(name), "{line}");
    }
}

#[tokio::test]
async fn a_node_says_when_the_distributor_is_lost_and_when_it_is_back() {
    let address = format!("127.0.0.1:{}", pick_port());
    let distributor = Process::start(DISTRIBUTOR, &["--listen", &address]);
    distributor.line("listening").await;
    let node = Process::start(NODE, &[&address]);
    node.line("connected").await;
    distributor.kill().await;
    node.line("connection to the Distributor lost").await;
    let _distributor = Process::start(DISTRIBUTOR, &["--listen", &address]);
    eventually("it says that it is back", async || node.output().matches(" connected: registered at ").count() == 2)
        .await;
}

#[tokio::test]
async fn rs6_gu1_a_kill_of_one_of_two_instances_costs_no_request() {
    let cluster = Cluster::start();
    let address = cluster.address.to_string();
    let (first, second) = (Process::start(NODE, &[&address]), Process::start(NODE, &[&address]));
    let mut observer = cluster.registered("observer").await;
    observer.ask_until("both are listed", |names| names.len() == 3).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/who").await;
    let load = Load::start(gateway, "/who");
    load.go_on(200).await;
    first.kill().await;
    observer.ask_until("it is listed no more", |names| names.len() == 3).await;
    load.go_on(200).await;
    assert_eq!(load.failures().await, [""; 0]);
    let (mut survivor, pid) = (HttpClient::connect(gateway).await, second.pid().as_raw_nonzero().to_string());
    assert_eq!(survivor.request("GET", "/who", "").await.unwrap().body, pid);
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_finishes_its_calls() {
    let cluster = Cluster::start();
    let node = Process::start(NODE, &[&cluster.address.to_string()]);
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/who").await;
    let slow = tokio::spawn(async move { tests::request(gateway, "GET", "/slow?ms=1000", "").await });
    let quick = Load::start(gateway, "/slow?ms=1");
    quick.go_on(20).await;
    assert!(quick.failures().await.is_empty());
    assert_eq!(node.terminate().await.code(), Some(0));
    assert_eq!(slow.await.unwrap().status, 200);
    assert_eq!(tests::request(gateway, "GET", "/who", "").await.problem(), "no_provider");
}

#[tokio::test]
async fn rs2_a_gateway_that_is_told_to_stop_under_load_costs_no_request() {
    async fn hello() -> Result<&'static str, ServiceError> {
        Ok("hello")
    }
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("hello").public_routes().route("GET/hello", hello)).await;
    let address = cluster.address.to_string();
    let at = SocketAddr::from(([127, 0, 0, 1], pick_port()));
    let listen = at.to_string();
    let gateway = Process::start(GATEWAY, &["--listen", &listen, "--workers", "2", "--distributor", &address]);
    gateway.line("listening").await;
    Cluster::wait_routed(at, "/hello").await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(tokio::spawn(async move {
            let mut count = 0;
            // Until the port is closed: every accepted client is answered.
            while let Ok(stream) = tokio::net::TcpStream::connect(at).await {
                let mut client = HttpClient::over(stream);
                loop {
                    let response = client.request("GET", "/hello", "").await.expect("an answer");
                    assert_eq!(response.status, 200);
                    count += 1;
                    if response.header("connection") == Some("close") {
                        break;
                    }
                }
            }
            count
        }));
    }
    assert_eq!(gateway.terminate().await.code(), Some(0));
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn c2_a_service_without_a_log_says_where_it_is() {
    let (cluster, nobody) = (Cluster::start(), pick_address().to_string());
    let distributor = cluster.address.to_string();

    let mut hello = Process::start(HELLO, &[&distributor, "plain"]);
    let lines = [hello.line("listening address=127.0.0.1:").await, hello.line("registered at").await];
    assert!(lines[0].starts_with(" INFO ") && lines[1].contains(&distributor), "{lines:?}");
    hello.signal(Signal::TERM);
    hello.line("stopping").await;
    hello.line("stopped").await;
    assert_eq!(hello.ended().await.code(), Some(0));

    let alone = Process::start(HELLO, &[&nobody, "plain"]);
    alone.line("listening").await;
    alone.line(&format!("cannot connect to the Distributor at {nobody}; trying every 3 s")).await;
    assert_eq!(alone.terminate().await.code(), Some(0));

    let mut silent = Process::start(HELLO, &[&distributor, "silent"]);
    let mut observer = cluster.peer().await;
    eventually("it is listed", async || !observer.ask(1).await.is_empty()).await;
    silent.signal(Signal::TERM);
    assert_eq!((silent.ended().await.code(), silent.output()), (Some(0), String::new()));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let mut refused = Process::start(HELLO, &[&distributor, "plain", &at]);
    assert_eq!(refused.ended().await.code(), Some(1));
    refused.line(&format!("Error: the node cannot start: cannot listen on {at}: Address already in use")).await;
    assert_eq!(refused.output().lines().count(), 1, "{}", refused.output());
}
