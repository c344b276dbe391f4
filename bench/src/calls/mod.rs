//! The scenes of calls: between two nodes over one connection, to nodes that fail, and to a node
//! with too many calls.
//!
//! It must not measure HTTP: `gateway` does that.

mod nats;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use node_sdk::{CallError, Node, Params, Peers, ServiceError, State};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::daemon_process::{Daemon, cpu_of_this_process};
use crate::report::{percentiles, row, title};

/// As few rounds as give a median that one bad round does not change.
const ROUNDS: usize = 5;
/// Long beside the stalls of a virtual machine, which take up to 20 ms.
const ROUND: Duration = Duration::from_secs(2);
/// Calls in flight: one shows the latency, and more of them what is saved by sending together.
const IN_FLIGHT: [usize; 3] = [1, 64, 256];

/// The message that goes both ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Message {
    id: u64,
    name: String,
    price: f64,
    tags: String,
}

fn good() -> Message {
    Message { id: 42, name: "widget".to_owned(), price: 9.5, tags: "a,b".to_owned() }
}

/// Runs the node that is called. `GET/work` takes `work_us` without using the CPU, and `GET/burn`
/// uses the CPU for [`BURN_TIME`].
pub(crate) async fn serve(distributor: String, work_us: u64) {
    async fn echo(Params(good): Params<Message>) -> Result<Message, ServiceError> {
        Ok(good)
    }
    async fn work(Params(good): Params<Message>, work: State<Duration>) -> Result<Message, ServiceError> {
        tokio::time::sleep(*work).await;
        Ok(good)
    }
    async fn burn(Params(good): Params<Message>, burnt: State<AtomicU64>) -> Result<Message, ServiceError> {
        burnt.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now();
        while begin.elapsed() < BURN_TIME {}
        Ok(good)
    }
    async fn burnt(burnt: State<AtomicU64>) -> Result<u64, ServiceError> {
        Ok(burnt.load(Ordering::Relaxed))
    }
    let stop = net::stop_on_signals(|| Duration::from_secs(20)).unwrap();
    let node = Node::builder("echo").public_routes().distributor(distributor).state(Duration::from_micros(work_us));
    let node = node.state(AtomicU64::new(0)).route("GET/burn", burn).route("GET/burnt", burnt);
    let node = node.route("GET/echo", echo).route("GET/work", work).start().await.unwrap();
    println!("{}", node.address());
    stop.cancelled().await;
    node.stop().await;
}

/// Runs the server of the floors. It returns the bytes that it reads, or, with `json`, reads a
/// message from them and writes it again.
pub(crate) async fn serve_bytes(json: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::task::spawn_local(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                let answer = if json {
                    let good: Message = serde_json::from_slice(&buffer[..bytes]).unwrap();
                    serde_json::to_vec(&good).unwrap()
                } else {
                    buffer[..bytes].to_vec()
                };
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The figures of one round: calls a second, their times, and the CPU time of each call at the
/// server and at the client.
struct CallRound {
    rate: f64,
    p50: Duration,
    p99: Duration,
    server: Duration,
    client: Duration,
}

/// Measures calls of the SDK, the floors, and the competitors.
pub(crate) async fn calls() {
    title("calls over one connection, a message of four members each way; server on one core, client on the other");
    println!(
        "{:36} {:>9} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "", "in flight", "calls/s", "p50", "p99", "server", "client"
    );
    let distributor = Daemon::distributor(0, &[]).await;
    let server = Daemon::server(&["call-server", &distributor.address.to_string()]).await;
    let echo = Daemon::server(&["echo-server"]).await;
    let json_echo = Daemon::server(&["json-server"]).await;
    let node = Node::builder("caller").distributor(distributor.address.to_string()).start().await.unwrap();
    node.peers().wait_for(&["GET/echo"]).await;
    for in_flight in IN_FLIGHT {
        let mut ours = Vec::new();
        let (mut floor, mut json) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(measure(&server, in_flight, || caller(node.peers().clone())).await);
            floor.push(measure(&echo, in_flight, || bytes(echo.address, false)).await);
            json.push(measure(&json_echo, in_flight, || bytes(json_echo.address, true)).await);
        }
        print("node-sdk, JSON", in_flight, ours);
        print("floor: bytes, a connection each", in_flight, floor);
        print("floor: JSON, a connection each", in_flight, json);
    }
    nats_server().await;
    competitors().await;
}

/// Measures calls through nats-server. Its own CPU is not in the figures that are printed.
async fn nats_server() {
    let Some(broker) = Daemon::other("nats-server", &["-p", "19105", "-a", "127.0.0.1"], 19_105).await else {
        return row("NATS request and reply", "not installed");
    };
    let service = Daemon::server(&["nats-service", &broker.address.to_string()]).await;
    for in_flight in IN_FLIGHT {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let address = broker.address;
            rounds.push(
                measure(&service, 1, || async move { nats::call(address, in_flight, &good(), ROUND).await }).await,
            );
        }
        print("NATS request and reply, JSON", in_flight, rounds);
    }
}

/// Runs the service that [`nats_server`] calls.
pub(crate) async fn serve_nats(broker: SocketAddr) {
    nats::serve::<Message>(broker).await;
}

/// Makes one call after the other until the round is over. Returns how long each took.
async fn caller(peers: Peers) -> Vec<Duration> {
    let (good, end) = (good(), Instant::now() + ROUND);
    let mut times = Vec::with_capacity(1 << 16);
    let mut begin = Instant::now();
    while begin < end {
        let answer: Message = peers.call("GET/echo", &good).await.unwrap();
        assert_eq!(answer.id, good.id);
        let now = Instant::now();
        times.push(now - begin);
        begin = now;
    }
    times
}

/// The times of requests over a bare connection to the server of the floors.
async fn bytes(address: SocketAddr, json: bool) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let good = good();
    let mut message = serde_json::to_vec(&good).unwrap();
    let mut buffer = vec![0; message.len()];
    let end = Instant::now() + ROUND;
    let mut times = Vec::with_capacity(1 << 16);
    let mut begin = Instant::now();
    while begin < end {
        if json {
            message = serde_json::to_vec(&good).unwrap();
        }
        stream.write_all(&message).await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        if json {
            assert_eq!(serde_json::from_slice::<Message>(&buffer).unwrap().id, good.id);
        } else {
            assert_eq!(buffer, message);
        }
        let now = Instant::now();
        times.push(now - begin);
        begin = now;
    }
    times
}

/// Runs one round: `in_flight` tasks that work at the same time.
async fn measure<F>(server: &Daemon, in_flight: usize, work: impl Fn() -> F) -> CallRound
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
    CallRound {
        rate: f64::from(count) / elapsed.as_secs_f64(),
        p50,
        p99,
        server: (server.cpu() - server_before) / count,
        client: (cpu_of_this_process() - client_before) / count,
    }
}

/// Prints the round with the median rate.
fn print(name: &str, in_flight: usize, mut rounds: Vec<CallRound>) {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let CallRound { rate, p50, p99, server, client } = &rounds[rounds.len() / 2];
    println!(
        "{name:36} {in_flight:>9} {rate:>12.0} {:>6.0} µs {:>6.0} µs {:>6.2} µs {:>6.2} µs",
        us(*p50),
        us(*p99),
        us(*server),
        us(*client)
    );
}

/// Calls a second while nodes die, are replaced, or are slow.
const RATE: u64 = 5000;

/// The times of all calls, and the errors of those that failed.
#[derive(Debug, Default)]
struct CallTally {
    times: Vec<Duration>,
    errors: Vec<CallError>,
}

/// Makes calls at a steady rate, however long each takes, until `during` is over.
async fn load(peers: &Peers, url: &'static str, during: impl Future<Output = ()>) -> CallTally {
    load_at(RATE, Duration::from_secs(5), peers, url, during).await
}

async fn load_at(
    rate: u64,
    within: Duration,
    peers: &Peers,
    url: &'static str,
    during: impl Future<Output = ()>,
) -> CallTally {
    let mut during = std::pin::pin!(during);
    let mut calls = JoinSet::new();
    let begin = Instant::now();
    let mut made = 0;
    loop {
        while made * 1_000_000 < rate * u64::try_from(begin.elapsed().as_micros()).unwrap() {
            made += 1;
            let peers = peers.clone();
            calls.spawn(async move {
                let (begin, good) = (Instant::now(), good());
                let answer = peers.call::<Message>(url, &good).timeout(within).await;
                (begin.elapsed(), answer)
            });
        }
        tokio::select! {
            () = &mut during => break,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    let mut tally = CallTally::default();
    for (time, answer) in calls.join_all().await {
        tally.times.push(time);
        tally.errors.extend(answer.err());
    }
    tally
}

/// Prints a line, and returns the 99th percentile.
fn print_tally(what: &str, mut tally: CallTally) -> Duration {
    let (p50, p99) = percentiles(&mut tally.times);
    let failed = tally.errors.first().map_or_else(String::new, |error| format!(", such as: {error}"));
    let (calls, errors) = (tally.times.len(), tally.errors.len());
    row(
        what,
        &format!(
            "{calls} calls, {errors} failed{failed}   p50 {:.2} ms, p99 {:.2} ms",
            p50.as_secs_f64() * 1e3,
            p99.as_secs_f64() * 1e3
        ),
    );
    p99
}

/// Calls a second to a node that is attacked.
const RATE_UNDER_ATTACK: u64 = 500;

/// Calls a node that is attacked until `during` is over. Returns what the caller sees.
pub(crate) async fn beside_attackers(peers: &Peers, during: impl Future<Output = ()>) -> String {
    let mut tally = load_at(RATE_UNDER_ATTACK, Duration::from_secs(5), peers, "GET/echo", during).await;
    let (p50, p99) = percentiles(&mut tally.times);
    let (calls, errors) = (tally.times.len(), tally.errors.len());
    format!(
        "{calls} calls, {errors} failed, p50 {:.2} ms, p99 {:.2} ms",
        p50.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3
    )
}

/// Makes 5000 calls a second while nodes die, are replaced, or are slow.
pub(crate) async fn survive(restarts: usize) {
    title(&format!("{RATE} calls a second to nodes that die, are replaced, or are slow"));
    let distributor = Daemon::distributor(0, &[]).await;
    let address = distributor.address.to_string();
    let start = async |work_us: u64| Daemon::server(&["call-server", &address, &work_us.to_string()]).await;
    let caller = Node::builder("caller").distributor(&*address).start().await.unwrap();
    let peers = caller.peers();
    let listed = async |count: usize| {
        peers.wait_until(|nodes| nodes.iter().filter(|node| node.name == "echo").count() == count).await;
        // Until all answer, not all are connected.
        while peers.gather::<Message>("GET/echo", &good()).await.iter().any(|(_, answer)| answer.is_err()) {}
    };
    let second = Duration::from_secs(1);

    let mut nodes = vec![start(0).await, start(0).await, start(0).await];
    listed(3).await;
    let victim = nodes.pop().unwrap();
    let during = async {
        tokio::time::sleep(2 * second).await;
        victim.kill().await;
        tokio::time::sleep(3 * second).await;
    };
    print_tally("one of three nodes is killed", load(peers, "GET/echo", during).await);

    nodes.push(start(0).await);
    listed(3).await;
    let during = async {
        for restart in 0..restarts {
            let old = std::mem::replace(&mut nodes[restart % 3], start(0).await);
            old.terminate().await;
            tokio::time::sleep(second / 2).await;
        }
    };
    print_tally(&format!("{restarts} restarts, one after the other"), load(peers, "GET/echo", during).await);

    drop(nodes);
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(start(2000).await);
    }
    listed(4).await;
    let before = print_tally("four nodes, 2 ms a call", load(peers, "GET/work", tokio::time::sleep(5 * second)).await);
    nodes[0] = start(20_000).await;
    listed(4).await;
    let after =
        print_tally("one of them ten times as slow", load(peers, "GET/work", tokio::time::sleep(5 * second)).await);
    row(
        "p99 with the slow node",
        &format!("{:.2} × that of four equal nodes", after.as_secs_f64() / before.as_secs_f64()),
    );
}

/// How long the overloaded node works for a call.
const BURN_TIME: Duration = Duration::from_micros(100);
/// How long its callers wait.
const CALLER_TIMEOUT: Duration = Duration::from_millis(200);

/// Makes three times as many calls as a node can carry out.
pub(crate) async fn overload() {
    title("a node that works for 100 µs in each call; its callers wait for 200 ms");
    let distributor = Daemon::distributor(0, &[]).await;
    let address = distributor.address.to_string();
    let server = Daemon::server(&["call-server", &address]).await;
    let caller = Node::builder("caller").distributor(&*address).start().await.unwrap();
    let peers = caller.peers();
    peers.wait_for(&["GET/burn"]).await;
    let burnt = async || peers.call::<u64>("GET/burnt", &()).timeout(Duration::from_secs(30)).await.unwrap();
    let second = Duration::from_secs(1);
    let mut peak = 0.0;
    let loads =
        [("as many calls as it can carry out", 1.0), ("three times as many", 3.0), ("then 0.9 times as many", 0.9)];
    for (what, times) in loads {
        let rate = if peak == 0.0 { 1e6 / (BURN_TIME.as_micros() as f64 * 1.1) } else { peak * times };
        let (before, rss) = (burnt().await, server.rss_bytes());
        let during = tokio::time::sleep(10 * second);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a rate")]
        let tally = load_at(rate as u64, CALLER_TIMEOUT, peers, "GET/burn", during).await;
        let (done, calls) = (tally.times.len() - tally.errors.len(), tally.times.len());
        let in_vain = (burnt().await - before).saturating_sub(done as u64) as f64 / done as f64 * 100.0;
        let goodput = done as f64 / 10.0;
        if peak == 0.0 {
            peak = goodput;
        }
        let failed = tally.errors.first().map_or_else(String::new, |error| format!(", such as: {error}"));
        let grown = server.rss_bytes().saturating_sub(rss) as f64 / 1e6;
        row(
            what,
            &format!(
                "{:.0} calls/s, {goodput:.0} answered/s = {:.0} % of the first row; {in_vain:.1} % more were carried out in vain; memory + {grown:.1} MB{failed}",
                calls as f64 / 10.0,
                goodput / peak * 100.0
            ),
        );
    }
}

/// Measures tarpc and tonic, if `competitors` is built: see `bench/competitors/README.md`.
async fn competitors() {
    let program = std::env::current_exe().unwrap().with_file_name("competitors");
    if !program.exists() {
        row(
            "tarpc, tonic",
            "not built: cargo build --profile dist --manifest-path bench/competitors/Cargo.toml --target-dir target",
        );
        return;
    }
    let mut child = Command::new(program).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        println!("{line}");
    }
}
