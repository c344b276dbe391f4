//! Calls between two nodes over one connection, a small message each way.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use node_sdk::{Node, Params, Peers, ServiceError};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::daemon_process::{Daemon, cpu_of_this_process};
use crate::scenes::{percentiles, row, title};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const IN_FLIGHT: [usize; 3] = [1, 64, 256];

/// The message that goes both ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Good {
    id: u64,
    name: String,
    price: f64,
    tags: String,
}

fn good() -> Good {
    Good { id: 42, name: "widget".to_owned(), price: 9.5, tags: "a,b".to_owned() }
}

/// The node that is called: it knows the Distributor of its first argument.
pub(crate) async fn serve(distributor: String) {
    async fn echo(Params(good): Params<Good>) -> Result<Good, ServiceError> {
        Ok(good)
    }
    let node = Node::builder("echo").distributor(distributor).route("GET/echo", echo).start().await.unwrap();
    println!("{}", node.address());
    std::future::pending::<()>().await;
}

/// The server of the floor: bytes come back as they are.
pub(crate) async fn serve_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::task::spawn_local(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..bytes]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// What one round showed.
struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
    server: Duration,
    client: Duration,
}

pub(crate) async fn calls() {
    title("calls over one connection, a message of four members each way; server on one core, client on the other");
    println!(
        "{:36} {:>9} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "", "in flight", "calls/s", "p50", "p99", "server", "client"
    );
    let distributor = Daemon::distributor(0, &[]).await;
    let server = Daemon::server(&["call-server", &distributor.address.to_string()]).await;
    let echo = Daemon::server(&["echo-server"]).await;
    let node = Node::builder("caller").distributor(distributor.address.to_string()).start().await.unwrap();
    node.peers().wait_for(&["GET/echo"]).await;
    for in_flight in IN_FLIGHT {
        let mut ours = Vec::new();
        let mut floor = Vec::new();
        for _ in 0..ROUNDS {
            ours.push(measure(&server, in_flight, || caller(node.peers().clone())).await);
            floor.push(measure(&echo, in_flight, || bytes(echo.address)).await);
        }
        print("node-sdk, JSON", in_flight, ours);
        print("bytes, a connection for each call", in_flight, floor);
    }
    others().await;
}

/// One call after the other, for as long as a round takes; gives how long each took.
async fn caller(peers: Peers) -> Vec<Duration> {
    let (good, end) = (good(), Instant::now() + ROUND);
    let mut times = Vec::with_capacity(1 << 16);
    let mut begin = Instant::now();
    while begin < end {
        let answer: Good = peers.call("GET/echo", &good).await.unwrap();
        assert_eq!(answer.id, good.id);
        let now = Instant::now();
        times.push(now - begin);
        begin = now;
    }
    times
}

async fn bytes(address: SocketAddr) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let message = serde_json::to_vec(&good()).unwrap();
    let mut buffer = vec![0; message.len()];
    let end = Instant::now() + ROUND;
    let mut times = Vec::with_capacity(1 << 16);
    let mut begin = Instant::now();
    while begin < end {
        stream.write_all(&message).await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer, message);
        let now = Instant::now();
        times.push(now - begin);
        begin = now;
    }
    times
}

async fn measure<F>(server: &Daemon, in_flight: usize, work: impl Fn() -> F) -> Round
where
    F: Future<Output = Vec<Duration>> + Send + 'static,
{
    let (server_before, client_before, begin) = (server.cpu(), cpu_of_this_process(), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        tasks.spawn(work());
    }
    let mut times = tasks.join_all().await.concat();
    let elapsed = begin.elapsed();
    let count = u32::try_from(times.len()).unwrap();
    let (p50, p99) = percentiles(&mut times);
    Round {
        rate: f64::from(count) / elapsed.as_secs_f64(),
        p50,
        p99,
        server: (server.cpu() - server_before) / count,
        client: (cpu_of_this_process() - client_before) / count,
    }
}

/// The medians of what the rounds showed.
fn print(name: &str, in_flight: usize, mut rounds: Vec<Round>) {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let Round { rate, p50, p99, server, client } = &rounds[rounds.len() / 2];
    println!(
        "{name:36} {in_flight:>9} {rate:>12.0} {:>6.0} µs {:>6.0} µs {:>6.2} µs {:>6.2} µs",
        us(*p50),
        us(*p99),
        us(*server),
        us(*client)
    );
}

/// tarpc and tonic, if `peers` is built: see `tests/peers/README.md`.
async fn others() {
    let program = std::env::current_exe().unwrap().with_file_name("peers");
    if !program.exists() {
        row(
            "tarpc, tonic",
            "not built: cargo build --release --manifest-path tests/peers/Cargo.toml --target-dir target",
        );
        return;
    }
    let mut child = Command::new(program).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        println!("{line}");
    }
}
