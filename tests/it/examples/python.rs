//! The package in Python: its own tests, its wheel, and meshes in which its nodes and ours call
//! each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::TryStreamExt;
use futures::stream::StreamExt;
use node_sdk::{CallError, Node, NodeBuilder, Params, ServiceError};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::streams::offers;
use tests::{Cluster, PATIENCE, Process, eventually, pick_address, request, tool_is_installed};
use tokio::time::sleep;

use super::conformance::{conform, registry_conform, with};
use crate::programs::{DISTRIBUTOR, NODE};

/// The folder of the package.
fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../python")
}

fn run(program: &Path, arguments: &[&str]) {
    let mut command = Command::new(program);
    // Nothing is left behind in the folder of the package.
    let output = command.args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{} {arguments:?}:\n{said}", program.display());
}

/// The Python of a virtual environment in which the wheel of the package is installed. It is made
/// once for all tests of this process, without a network.
fn python() -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let environment = folder.path().join("environment");
        run(Path::new("python3"), &["-m", "venv", environment.to_str().unwrap()]);
        let (python, wheels) = (environment.join("bin/python"), folder.path().join("wheels"));
        let (package, wheels) = (package(), wheels.to_str().unwrap().to_owned());
        let build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", &wheels];
        run(&python, &[&build[..], &[package.to_str().unwrap()]].concat());
        run(&python, &["-m", "pip", "install", "--no-index", "--find-links", &wheels, "pilcrow"]);
        folder
    });
    folder.path().join("environment/bin/python")
}

/// Starts a node in Python, and waits until it is registered.
pub(super) async fn py_node(name: &str, distributor: SocketAddr) -> Process {
    let node = py_node_at(name, distributor, "127.0.0.1:0");
    node.line("registered as").await;
    node
}

fn py_node_at(name: &str, distributor: SocketAddr, listen: &str) -> Process {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/python/node.py");
    Process::start(python(), &[file.to_str().unwrap(), name, &distributor.to_string(), listen])
}

/// A node of ours that calls, once it knows who offers these urls.
async fn caller_of(cluster: &Cluster, urls: &[&str]) -> Node {
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(urls).await;
    caller
}

#[tokio::test]
async fn the_python_package_passes_its_own_tests() {
    if !tool_is_installed("python3") {
        return;
    }
    let folder = package();
    let folder = folder.to_str().unwrap();
    let mut tests = Process::start_with(
        "python3",
        &["-m", "unittest", "discover", "-s", folder, "-t", folder],
        &[("PYTHONDONTWRITEBYTECODE", "1")],
    );
    assert_eq!(tests.ended_within(4 * PATIENCE).await.code(), Some(0), "{}", tests.output());
}

#[tokio::test]
async fn a_node_in_python_keeps_the_protocol() {
    if !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let node = py_node("py", cluster.address).await;
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), node.port().await);
    let (verdicts, code) = conform(address, &["--url", "GET/py/who"]).await;
    assert_eq!(with(&verdicts, "FAILED"), Vec::<&str>::new());
    assert_eq!((with(&verdicts, "skipped").len(), code), (0, Some(0)));
    assert!(verdicts.len() > 20, "{verdicts:?}");
    for params in [r#"{"to":3}"#, "{}"] {
        let arguments = ["--url", "GET/py/count", "--params", params, "--only", "stream"];
        assert_eq!(conform(address, &arguments).await.1, Some(0), "{params}");
    }
}

#[tokio::test]
async fn a_node_in_python_keeps_the_registry_half() {
    if tool_is_installed("python3") {
        registry_conform(async |distributor| py_node("py", distributor).await).await;
    }
}

#[tokio::test]
async fn rust_calls_python() {
    if !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let node = py_node("py", cluster.address).await;
    let caller = caller_of(&cluster, &["GET/py/who", "GET/상품/{이름}"]).await;
    let peers = caller.peers();
    let expected = json!({ "이름": "사과 ¶", "count": 2, "¶": "¶" });
    let goods: Value = peers.call("GET/상품/사과%20%C2%B6", &json!({ "count": "2" })).await.unwrap();
    assert_eq!(goods, expected);
    let refused = peers.call::<Value>("GET/상품/사과", &json!({ "count": "two" })).await.unwrap_err();
    assert_eq!(refused.to_string(), "400 bad_params: count must be a whole number");
    let failed = peers.call::<Value>("GET/py/fail", &()).await.unwrap_err().to_string();
    assert_eq!(failed, "500 internal: the service failed; its log says why");
    node.line("RuntimeError: a secret of this service").await;

    let counted = peers.stream::<u64>("GET/py/count", &json!({ "to": 50_000 })).await.unwrap();
    assert_eq!(counted.try_fold(0, async |sum, number| Ok(sum + number)).await.unwrap(), 50_000 * 50_001 / 2);
    let mut endless = peers.stream::<u64>("GET/py/count", &()).await.unwrap();
    assert_eq!(endless.next().await.unwrap().unwrap(), 1);
    drop(endless);
    let mut sum = peers.stream::<u64>("POST/py/sum", &()).await.unwrap();
    for number in 1..=50_000_u64 {
        sum.sender().send(&number).await.unwrap();
    }
    sum.sender().finish();
    assert_eq!(sum.try_next().await.unwrap(), Some(50_000 * 50_001 / 2));
    let mut double = peers.stream::<u64>("POST/py/double", &()).await.unwrap();
    for number in 0..100_u64 {
        double.sender().send(&number).await.unwrap();
        assert_eq!(double.try_next().await.unwrap(), Some(number * 2));
    }

    assert_eq!(peers.emit("goods.sold", &json!({ "이름": "배 ¶" })).unwrap(), 1);
    let told = async || peers.call::<Value>("GET/py/events", &()).await.unwrap();
    eventually("the event has come", async || told().await == json!([{ "이름": "배 ¶" }])).await;

    // A person with a browser.
    let gateway = cluster.gateway().await;
    let answer = Cluster::wait_routed(gateway, "/py/who").await;
    assert_eq!(answer.status, 200);
    let answer = request(gateway, "GET", "/%EC%83%81%ED%92%88/%EC%82%AC%EA%B3%BC?count=3", "").await;
    assert_eq!(answer.json(), json!({ "이름": "사과", "count": 3, "¶": "¶" }));
    let failed = request(gateway, "GET", "/py/fail", "").await;
    assert!(failed.status == 500 && !failed.body.contains("secret"));
}

/// A node of ours for callers in Python.
fn rust_node(name: &str) -> NodeBuilder {
    async fn hello(Params(name): Params<Value>) -> Result<Value, ServiceError> {
        Ok(json!({ "안녕": name }))
    }
    async fn refuse() -> Result<(), ServiceError> {
        Err(ServiceError::conflict("exists", "there is one"))
    }
    let no_streams = Arc::new(AtomicUsize::new(0));
    offers(name).shared_state(no_streams).route("GET/안녕", hello).route("GET/refuse", refuse)
}

#[tokio::test]
async fn python_calls_rust() {
    if !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let nodes = [cluster.node(rust_node("rust")).await, cluster.node(rust_node("rust")).await];
    let _py = py_node("py", cluster.address).await;
    let caller = caller_of(&cluster, &["POST/py/call", "GET/안녕"]).await;
    let ask = async |url: &str, body: Value| -> Value {
        caller.peers().call("POST/py/call", &json!({ "url": url, "body": body })).await.unwrap()
    };
    eventually("it knows our nodes", async || ask("GET/안녕", json!("사과 ¶")).await == json!({ "안녕": "사과 ¶" }))
        .await;
    assert_eq!(ask("GET/refuse", json!(null)).await, json!({ "error": "Refused: 409 exists: there is one" }));
    let typo = ask("GET/refuze", json!(null)).await;
    assert_eq!(typo, json!({ "error": "NoRoute: no node offers GET/refuze; is it GET/refuse?" }));

    let collect = json!({ "url": "GET/count", "body": { "upto": 20_000 } });
    let counted: Vec<u64> = caller.peers().call("POST/py/collect", &collect).await.unwrap();
    assert_eq!(counted, (1..=20_000).collect::<Vec<u64>>());
    let send = json!({ "url": "POST/sum", "upto": 20_000 });
    let sum: Vec<u64> = caller.peers().call("POST/py/send", &send).await.unwrap();
    assert_eq!(sum, [20_000 * 20_001 / 2]);
    drop(nodes);
}

#[tokio::test]
async fn keys_go_to_the_same_node_from_both_languages() {
    if !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    let nodes: Vec<Process> = (0..3).map(|_| Process::start(NODE, &[&distributor])).collect();
    let _py = py_node("py", cluster.address).await;
    let caller = caller_of(&cluster, &["POST/py/call"]).await;
    eventually("all are listed", async || {
        caller.peers().nodes().iter().filter(|node| node.name == "who").count() == nodes.len()
    })
    .await;
    let asked_by_python = async |key: &str| -> Value {
        caller.peers().call("POST/py/call", &json!({ "url": "GET/who", "key": key })).await.unwrap()
    };
    let mut used = BTreeSet::new();
    for number in 0..20 {
        let key = format!("장바구니-{number}");
        let ours: u32 = caller.peers().call("GET/who", &()).sticky_key(&key).await.unwrap();
        eventually("it knows all nodes", async || asked_by_python(&key).await == json!(ours)).await;
        used.insert(ours);
    }
    assert_eq!(used.len(), nodes.len(), "20 keys are spread over all nodes");
}

/// Lets `first` drive calls of `url` for two seconds, kills `victim` meanwhile, and returns what
/// came of the calls.
async fn driven(caller: &Node, first: &Process, url: &str, victim: Process) -> Vec<(u64, String)> {
    let drive = json!({ "url": url, "seconds": 2.0 });
    let () = caller.peers().call("POST/py/drive", &drive).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    victim.kill().await;
    let line = first.line("driven:").await;
    let answers = line.split(" | ").skip(1).map(|answer| answer.split_once(" x ").unwrap());
    answers.map(|(count, answer)| (count.parse().unwrap(), answer.to_owned())).collect()
}

/// All answers are the numbers of processes, and there were many of each.
fn assert_none_failed(answers: &[(u64, String)], nodes: usize) {
    assert!(answers.iter().all(|(_, answer)| answer.parse::<u32>().is_ok()), "{answers:?}");
    assert!(answers.len() == nodes && answers.iter().all(|(count, _)| *count > 10), "{answers:?}");
}

#[tokio::test]
async fn no_call_fails_when_one_of_three_nodes_is_killed() {
    if !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    let mut ours: Vec<Process> = (0..3).map(|_| Process::start(NODE, &[&distributor])).collect();
    let driver = py_node("driver", cluster.address).await;
    let caller = caller_of(&cluster, &["POST/py/drive"]).await;
    eventually("all are listed", async || caller.peers().nodes().len() >= 4).await;
    // Python calls ours.
    let answers = driven(&caller, &driver, "GET/who", ours.pop().unwrap()).await;
    assert_none_failed(&answers, 3);

    // Ours calls Python.
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(py_node("callee", cluster.address).await);
    }
    eventually("all are listed", async || {
        caller.peers().nodes().iter().filter(|node| node.name == "callee").count() == 3
    })
    .await;
    let (mut answered, victim) = (BTreeSet::new(), nodes.pop().unwrap());
    for round in 0..600 {
        if round == 200 {
            victim.signal(Signal::KILL);
        }
        let asked = caller.peers().call::<u32>("GET/py/who", &()).await;
        answered.insert(asked.unwrap_or_else(|error| panic!("call {round}: {error}")));
    }
    assert!(answered.len() >= 3, "{answered:?}");
}

#[tokio::test]
async fn calls_go_on_without_the_distributor_and_nodes_come_back_to_it() {
    if !tool_is_installed("python3") {
        return;
    }
    let address = pick_address();
    let begin = || Process::start(DISTRIBUTOR, &["--listen", &address.to_string()]);
    let distributor = begin();
    distributor.line("listening").await;
    let driver = py_node("driver", address).await;
    let who = Process::start(NODE, &[&address.to_string()]);
    let caller = Node::builder("caller").distributor(address.to_string()).start().await.unwrap();
    caller.peers().wait_for(&["POST/py/drive", "GET/who"]).await;
    let answers = driven(&caller, &driver, "GET/who", distributor).await;
    assert_none_failed(&answers, 1);
    driver.line("cannot connect to the Distributor").await;
    let goes_on: u32 = caller.peers().call("GET/py/who", &()).await.unwrap();
    assert_eq!(goes_on, driver.pid().as_raw_nonzero().get().unsigned_abs());

    let _again = begin();
    // It learns of a node that comes later.
    let _later = caller_node(address).await;
    let ask = json!({ "url": "GET/later" });
    eventually("it knows the new node", async || {
        caller.peers().call::<Value>("POST/py/call", &ask).await.is_ok_and(|answer| answer == json!("later"))
    })
    .await;
    drop(who);
}

async fn caller_node(distributor: SocketAddr) -> Node {
    async fn later() -> Result<&'static str, ServiceError> {
        Ok("later")
    }
    Node::builder("later").distributor(distributor.to_string()).route("GET/later", later).start().await.unwrap()
}

#[tokio::test]
async fn a_node_in_python_leaves_first_and_finishes_its_calls() {
    if !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let mut node = py_node("py", cluster.address).await;
    let caller = caller_of(&cluster, &["POST/py/slow"]).await;
    let slow = json!({ "ms": 1000 });
    let asked = tokio::spawn({
        let peers = caller.peers().clone();
        async move { peers.call::<String>("POST/py/slow", &slow).await }
    });
    let mut observer = cluster.peer().await;
    node.line("slow begins").await;
    node.signal(Signal::TERM);
    eventually("it has left", async || observer.ask(1).await.iter().all(|entry| entry["name"] != "py")).await;
    assert!(!node.output().contains("slow is done"), "it leaves before its calls are finished");
    assert_eq!(asked.await.unwrap().unwrap(), "done");
    assert_eq!(node.ended().await.code(), Some(0));
    let refused = caller.peers().call::<String>("POST/py/slow", &()).await.unwrap_err();
    assert!(matches!(refused, CallError::NoProvider { .. }), "{refused}");
}

#[tokio::test]
async fn a_node_in_python_says_at_the_start_what_to_do() {
    if !tool_is_installed("python3") {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut node = py_node_at("py", pick_address(), &listen);
    node.line("another program is using that port. Choose another one, or port 0 for any").await;
    assert_eq!(node.ended().await.code(), Some(1));
    let lonely = py_node_at("py", pick_address(), "127.0.0.1:0");
    lonely.line("nothing is listening there; trying every 3 s").await;
    assert_eq!(lonely.terminate().await.code(), Some(0));
}
