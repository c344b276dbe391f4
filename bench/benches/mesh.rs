//! Measures version 1 nodes, calls and `TestMesh`: `cargo bench --profile dist -p bench --bench
//! mesh`. All is on one machine; the Distributor has a process of its own. `drill` measures the
//! registry of version 2.
#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::unwrap_used, reason = "what goes wrong voids the run")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use node_sdk::testing::TestMesh;
use node_sdk::{Node, Params, ServiceError};
use serde_json::{Value, json};
use tests::{Peer, Process};
use tokio::task::JoinSet;

const DISTRIBUTOR: &str = env!("CARGO_BIN_EXE_measured_distributor");
/// Rounds of which the median is printed.
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    net::raise_open_files();
    println!("{:52} {:>12} {:>16} {:>14}", "", "all done", "Distributor CPU", "sent");
    for nodes in [500, 1000] {
        cold_start(nodes).await;
    }
    println!("\n{:52} {:>12} {:>16}", "calls, both sides in one process", "calls/s", "p50");
    for in_flight in [1, 64, 256] {
        calls(in_flight).await;
    }
    test_mesh().await;
}

/// Measures the time from nothing until five nodes in one process know each other.
async fn test_mesh() {
    let mut rounds = Vec::new();
    for _ in 0..101 {
        let begin = Instant::now();
        let mesh = TestMesh::start();
        let mut nodes = Vec::new();
        for number in 0..5 {
            let node = Node::builder(format!("node-{number}")).route("GET/n", async || Ok::<_, ServiceError>(1));
            nodes.push(mesh.node(node).await.unwrap());
        }
        for node in &nodes {
            node.peers().wait_until(|nodes| nodes.len() == 5).await;
        }
        rounds.push(begin.elapsed());
    }
    rounds.sort_unstable();
    println!("\n{:52} {:>12} {:>16}", "a TestMesh of 5 nodes, not on a paused clock", "ready", "worst of 101");
    println!("{:52} {:>9.1?} {:>16.1?}", "", rounds[50], rounds[100]);
}

async fn distributor() -> (Process, SocketAddr) {
    let process = Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0", "--log-level", "info"]);
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), process.port().await);
    (process, address)
}

/// The user and system time that a process has used.
fn cpu(process: &Process) -> Duration {
    let stat = procfs::process::Process::new(process.pid().as_raw_nonzero().get()).unwrap().stat().unwrap();
    Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

fn registration(number: usize) -> Value {
    json!({ "port": 9010, "name": format!("node-{number}"), "urls": ["POST/goods", "GET/goods", "DELETE/goods"] })
}

/// Reads lists until one has `nodes` entries; returns the bytes read.
async fn complete(peer: &mut Peer, nodes: usize) -> usize {
    let mut bytes = 0;
    loop {
        let list = peer.next_bytes().await;
        bytes += list.len();
        // No entry is shorter than 100 bytes, so most lists need not be searched.
        if list.len() > nodes * 100 && memchr::memmem::find_iter(&list, b"\"port\":9").count() == nodes {
            return bytes;
        }
    }
}

/// Measures a cold start: all nodes connect and register at once, until each has all of them in its
/// list.
async fn cold_start(nodes: usize) {
    // Real version 1 nodes could not read a list of a thousand entries. Here they are sent all of
    // it.
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let process = Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0", "--legacy-list-bytes", "1000000"]);
        let address = SocketAddr::new("127.0.0.1".parse().unwrap(), process.port().await);
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..nodes {
            tasks.spawn(async move {
                let mut peer = Peer::connect(address).await;
                peer.register_with(registration(number)).await;
                (complete(&mut peer, nodes).await, peer)
            });
        }
        let bytes: usize = tasks.join_all().await.into_iter().map(|(bytes, _)| bytes).sum();
        rounds.push((begin.elapsed(), cpu(&process), bytes));
    }
    rounds.sort();
    let (time, cpu, bytes) = rounds[ROUNDS / 2];
    let name = format!("cold start, {nodes} version 1 nodes at once");
    println!("{name:52} {:>9} ms {:>13} ms {:>11} MB", time.as_millis(), cpu.as_millis(), bytes / 1_000_000);
}

async fn echo(Params(params): Params<Value>) -> Result<Value, ServiceError> {
    Ok(params)
}

/// Measures calls between two nodes of one process.
async fn calls(in_flight: usize) {
    let (_process, address) = distributor().await;
    let callee = Node::builder("echo").distributor(address.to_string()).route("GET/echo", echo).start().await.unwrap();
    let caller = Node::builder("caller").distributor(address.to_string()).start().await.unwrap();
    caller.peers().wait_for(&["GET/echo"]).await;
    let params = json!({ "id": 42, "name": "widget", "price": 9.5, "tags": "a,b" });
    let calls = if in_flight == 1 { 5_000 } else { 20_000 };
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..in_flight {
            let (peers, params) = (caller.peers().clone(), params.clone());
            tasks.spawn(async move {
                let mut times = Vec::with_capacity(calls / in_flight);
                for _ in 0..calls / in_flight {
                    let begin = Instant::now();
                    let answer: Value = peers.call("GET/echo", &params).await.unwrap();
                    times.push(begin.elapsed());
                    assert_eq!(answer, params);
                }
                times
            });
        }
        let mut times = tasks.join_all().await.concat();
        times.sort();
        rounds.push((begin.elapsed(), times[times.len() / 2]));
    }
    rounds.sort();
    let (time, p50) = rounds[ROUNDS / 2];
    let name = format!("{in_flight} in flight, four members each way");
    println!("{name:52} {:>12.0} {:>13.0} µs", calls as f64 / time.as_secs_f64(), p50.as_secs_f64() * 1e6);
    drop(callee);
}
