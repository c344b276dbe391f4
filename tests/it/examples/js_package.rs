//! Nodes of the package in JavaScript, in a mesh with nodes in Rust.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use node_sdk::{CallError, Node, Params, Peers, ServiceError};
use serde_json::{Value, json};
use tests::streams::offers;
use tests::{Cluster, Process, eventually, js_file, legacy_peers_can_run, pick_port, request};

use super::conformance::registry_conform;
use crate::programs::{DISTRIBUTOR, NODE, NODECONFORM};

/// Starts the node of `js/test/fixtures`, and waits until it is registered.
pub(super) async fn js_node(distributor: &str) -> Process {
    let file = js_file("test/fixtures/node.mjs");
    let node = Process::start("node", &[file.to_str().unwrap(), distributor]);
    node.line("registered as js").await;
    node
}

/// A node in Rust, the node in JavaScript, and their Distributor.
async fn mesh() -> (Cluster, Node, Process) {
    let cluster = Cluster::start();
    let js = js_node(&cluster.address.to_string()).await;
    let rust = cluster.node(Node::builder("rust")).await;
    rust.peers().wait_for(&["GET/js/pid"]).await;
    (cluster, rust, js)
}

#[tokio::test]
async fn a_node_of_the_package_keeps_the_protocol() {
    if !legacy_peers_can_run() {
        return;
    }
    let (_cluster, _rust, js) = mesh().await;
    let address = format!("127.0.0.1:{}", js.port().await);
    let mut conform = Process::start(NODECONFORM, &[&address, "--url", "GET/js/pid"]);
    let code = conform.ended().await.code();
    conform.line("total: ").await;
    let output = conform.output();
    assert!(code == Some(0) && output.contains(" 0 FAILED, 0 skipped"), "{output}");
    for (url, params, seen) in
        [("GET/js/count", r#"{"upto":3}"#, "the end, as number 4"), ("GET/js/forever", "{}", "5 parts and more")]
    {
        let mut conform =
            Process::start(NODECONFORM, &[&address, "--url", url, "--params", params, "--only", "stream"]);
        conform.line(seen).await;
        assert_eq!(conform.ended().await.code(), Some(0));
    }
    assert_eq!(js.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_node_of_the_package_keeps_the_registry_half() {
    if legacy_peers_can_run() {
        registry_conform(async |distributor| js_node(&distributor.to_string()).await).await;
    }
}

#[tokio::test]
async fn rust_calls_javascript() {
    if !legacy_peers_can_run() {
        return;
    }
    let (cluster, rust, js) = mesh().await;
    let peers = rust.peers();
    let greeted: Value = peers.call("GET/js/홍길동", &()).await.unwrap();
    assert_eq!(greeted["greeting"], "안녕, 홍길동 ¶");
    let created: Value = peers.call("POST/js", &json!({ "이름": "사과" })).await.unwrap();
    assert_eq!(created, json!({ "이름": "사과" }));
    let refused = peers.call::<Value>("DELETE/js", &()).await.unwrap_err();
    let CallError::Refused { status: 409, reason, retry_after, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((reason.as_str(), retry_after.map(|after| after.as_millis())), ("kept", Some(1500)));

    let parts = peers.stream::<u64>("GET/js/count", &json!({ "upto": 20_000 })).await.unwrap();
    let parts: Vec<u64> = parts.try_collect().await.unwrap();
    assert_eq!((parts.len(), parts.last()), (20_000, Some(&20_000)));
    let mut sum = peers.stream::<u64>("POST/js/sum", &()).await.unwrap();
    let sender = sum.sender();
    for number in 1..=20_000_u64 {
        sender.send(&number).await.unwrap();
    }
    sender.finish();
    assert_eq!(sum.try_next().await.unwrap(), Some(200_010_000));

    assert_eq!(peers.emit("rust.said", &json!("안녕")).unwrap(), 1);
    let told = async || peers.call::<Value>("GET/js/told", &()).await.unwrap();
    eventually("it is told", async || told().await == json!([{ "payload": "안녕", "by": "rust" }])).await;

    let gateway = cluster.gateway().await;
    assert_eq!(Cluster::wait_routed(gateway, "/js/x").await.json()["greeting"], "안녕, x ¶");
    assert_eq!(request(gateway, "POST", "/js", r#"{"a":1}"#).await.status, 201);
    assert_eq!(request(gateway, "DELETE", "/js", "").await.status, 409);

    assert_eq!(js.terminate().await.code(), Some(0));
    peers.wait_until(|nodes| nodes.iter().all(|node| node.name != "js")).await;
}

async fn hello(Params(params): Params<Value>, peers: Peers) -> Result<Value, ServiceError> {
    let inner: Value = peers.call("GET/js/inner", &()).await?;
    Ok(json!({ "params": params, "inner": inner["greeting"] }))
}

#[tokio::test]
async fn javascript_calls_rust() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let said = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&said);
    let count = move |Params(number): Params<usize>| {
        let heard = Arc::clone(&heard);
        async move {
            heard.fetch_add(number, Ordering::Relaxed);
            Ok::<_, ServiceError>(())
        }
    };
    let working = Arc::new(AtomicUsize::new(0));
    let rust = offers("rust").shared_state(working).route("GET/rust/{name}", hello).subscribe("js.said", count);
    let rust = cluster.node(rust).await;
    let _js = js_node(&cluster.address.to_string()).await;
    let peers = rust.peers();
    peers.wait_for(&["POST/js/calls"]).await;

    let params = json!({ "url": "GET/rust/홍길동", "params": { "n": 1 } });
    let seen: Value = peers.call("POST/js/calls", &params).await.unwrap();
    assert_eq!(seen, json!({ "params": { "n": 1, "name": "홍길동" }, "inner": "안녕, inner ¶" }));
    let nothing = peers.call::<Value>("POST/js/calls", &json!({ "url": "GET/none" })).await.unwrap_err();
    assert_eq!(nothing.to_string(), "503 no_provider: a service that this one needs cannot be reached");

    let seen: Value = peers.call("POST/js/streams", &()).await.unwrap();
    let expected = json!({
        "sum": 200_010_000, "doubled": 42, "counted": 50_000,
        "refused": { "status": 400, "reason": "nothing" }, "broken": { "status": 507, "reason": "full" },
    });
    assert_eq!(seen, expected);

    let emitted: usize = peers.call("POST/js/emit", &json!({ "event": "js.said", "payload": 7 })).await.unwrap();
    assert_eq!(emitted, 1);
    eventually("it is told", async || said.load(Ordering::Relaxed) == 7).await;
}

/// Calls that the node in JavaScript makes in a loop.
struct Load<'a>(&'a Peers);

impl<'a> Load<'a> {
    async fn start(peers: &'a Peers, url: &str) -> Self {
        peers.call::<Value>("POST/js/load", &json!({ "url": url })).await.unwrap();
        Self(peers)
    }

    async fn done(&self) -> usize {
        self.0.call("GET/js/done", &()).await.unwrap()
    }

    /// Waits for this number of further answers.
    async fn go_on(&self, answers: usize) {
        let until = self.done().await + answers;
        eventually("load goes on", async || self.done().await >= until).await;
    }

    async fn failures(self) -> Vec<String> {
        self.0.call("POST/js/over", &()).await.unwrap()
    }
}

#[tokio::test]
async fn a_kill_of_one_of_three_costs_javascript_no_idempotent_call() {
    if !legacy_peers_can_run() {
        return;
    }
    let (cluster, rust, _js) = mesh().await;
    let address = cluster.address.to_string();
    let first = Process::start(NODE, &[&address]);
    let _others = [Process::start(NODE, &[&address]), Process::start(NODE, &[&address])];
    rust.peers().wait_until(|nodes| nodes.iter().filter(|node| node.name == "who").count() == 3).await;
    let load = Load::start(rust.peers(), "GET/who").await;
    load.go_on(300).await;
    first.kill().await;
    load.go_on(300).await;
    assert_eq!(load.failures().await, [""; 0]);
}

#[tokio::test]
async fn a_kill_of_the_distributor_costs_javascript_no_call() {
    if !legacy_peers_can_run() {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], pick_port())).to_string();
    let start = async || {
        let distributor = Process::start(DISTRIBUTOR, &["--listen", &address]);
        distributor.line("listening").await;
        distributor
    };
    let distributor = start().await;
    let js = js_node(&address).await;
    let rust = Node::builder("rust").distributor(&address).route("GET/rust", async || Ok::<_, ServiceError>(1)).start();
    let rust = rust.await.unwrap();
    rust.peers().wait_for(&["POST/js/load"]).await;
    let load = Load::start(rust.peers(), "GET/rust").await;
    load.go_on(100).await;
    distributor.kill().await;
    js.line("no connection to distributor").await;
    load.go_on(300).await;
    let _distributor = start().await;
    eventually("it is back", async || js.output().matches("registered as js").count() == 2).await;
    load.go_on(100).await;
    assert_eq!(load.failures().await, [""; 0]);
}
