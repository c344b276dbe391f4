//! The memory that ten thousand hostile peers cost a node or a gateway with default settings,
//! beside the bytes that the process itself counts; and whether good requests are still answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt, stream};
use node_sdk::{Items, Node, Params, Peers, ServiceError, State, Streaming};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tests::HttpClient;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::daemon_process::Daemon;
use crate::report::{row, title};

/// Hostile peers: as many as a daemon takes.
const PEERS: usize = 10_000;
/// The time between two arrivals.
const ARRIVAL_INTERVAL: Duration = Duration::from_micros(400);
/// How long they are watched after the last has come: longer than the time-outs for packets that do
/// not end and responses that are not read.
const WATCH_TIME: Duration = Duration::from_secs(16);
/// How long the process then has to free what it held for them.
const RECOVERY_TIME: Duration = Duration::from_secs(5);
/// How often each attacker sends something more.
const REPEAT_INTERVAL: Duration = Duration::from_secs(2);
/// The pause between two good requests, and how long each waits for its response.
const REQUEST_PAUSE: Duration = Duration::from_millis(100);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a packet that does not end: nearly as many as a packet may have.
const HALF_BYTES: usize = 8_000_000;
/// Bytes of a large response or part.
const LARGE_BYTES: usize = 1_000_000;
/// Responses or streams that each attacker asks for.
const REQUESTS_PER_PEER: usize = 100;
/// Threads of the node and workers of the gateway: as many as on a machine of two cores.
const THREADS: usize = 2;

/// One kind of hostile peer: what it sends when it has connected, and what it then sends again and
/// again. It reads nothing.
#[derive(Clone)]
struct LoadKind {
    first: Arc<[u8]>,
    again: Arc<[u8]>,
}

impl LoadKind {
    fn new(first: impl Into<Vec<u8>>, again: impl Into<Vec<u8>>) -> Self {
        Self { first: first.into().into(), again: again.into().into() }
    }

    /// Runs one attacker. It connects again whenever it is cut off or refused.
    async fn attack(&self, at: SocketAddr, number: usize) {
        let last = 2 + u8::try_from(number % 253).unwrap();
        let mut scrap = [0; 12];
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            // Buffers are small, because the attackers' memory is on this machine, too.
            socket.set_recv_buffer_size(4096).unwrap();
            socket.set_send_buffer_size(4096).unwrap();
            socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
            if let Ok(mut stream) = socket.connect(at).await {
                let mut open = stream.write_all(&self.first).await.is_ok();
                while open {
                    sleep(REPEAT_INTERVAL).await;
                    let refused = match timeout(Duration::ZERO, stream.peek(&mut scrap)).await {
                        Ok(seen) => seen.map_or(true, |seen| seen == 0 || scrap[..seen].starts_with(b"HTTP/1.1 5")),
                        Err(_nothing_yet) => false,
                    };
                    open = !refused && stream.write_all(&self.again).await.is_ok();
                }
            }
            sleep(REPEAT_INTERVAL).await;
        }
    }
}

/// Starts all attackers in a thread of their own; they end when the guard is dropped.
fn begin(kinds: Vec<LoadKind>, at: SocketAddr) -> DropGuard {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let come = async |number: usize| {
            sleep(ARRIVAL_INTERVAL * u32::try_from(number).unwrap()).await;
            kinds[number % kinds.len()].attack(at, number).await;
        };
        runtime.block_on(stopped.run_until_cancelled(futures::future::join_all((0..PEERS).map(come))));
    });
    stop.drop_guard()
}

/// Prints what the attackers cost `victim`. `good` makes a good request, and returns the bytes that
/// the victim says it holds; `None` if there is no response.
async fn watch(
    name: &str,
    kinds: Vec<LoadKind>,
    victim: &Daemon,
    at: SocketAddr,
    mut good: impl AsyncFnMut() -> Option<usize>,
) {
    let attackers = begin(kinds, at);
    let end = Instant::now() + ARRIVAL_INTERVAL * u32::try_from(PEERS).unwrap() + WATCH_TIME;
    let (mut asked, mut answered, mut slowest, mut counted) = (0, 0, Duration::ZERO, 0);
    while Instant::now() < end {
        let started = Instant::now();
        asked += 1;
        if let Ok(Some(held)) = timeout(RESPONSE_TIMEOUT, good()).await {
            answered += 1;
            counted = counted.max(held);
            slowest = slowest.max(started.elapsed());
        }
        sleep(REQUEST_PAUSE).await;
    }
    drop(attackers);
    sleep(RECOVERY_TIME).await;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    row(
        name,
        &format!(
            "memory at most {:.0} MB, afterwards {:.0} MB; it counts {:.0} MB at most; {answered} of {asked} good requests answered, the slowest in {:.0} ms",
            mb(victim.peak_bytes()),
            mb(victim.rss_bytes()),
            counted as f64 / 1e6,
            slowest.as_secs_f64() * 1e3
        ),
    );
}

/// A packet that makes a call with this key.
fn call(method: &str, uri: &str, key: usize, options: &str, params: &str) -> String {
    format!(r#"{{"uri":"{uri}","method":"{method}","key":{key},"$":{{{options}}},"params":{params}}}¶"#)
}

fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes))
}

fn calls(one: impl Fn(usize) -> String) -> String {
    (1..=REQUESTS_PER_PEER).map(one).collect()
}

/// Sends packets that do not end.
fn half_packets() -> LoadKind {
    LoadKind::new(call("GET", "/large", 1, "", &text(HALF_BYTES)).trim_end_matches("\"}¶"), "x")
}

/// Asks for large responses and does not read them.
fn unread_answers() -> LoadKind {
    LoadKind::new(calls(|key| call("GET", "/large", key, "", "null")), call("GET", "/large", 1, "", "null"))
}

/// Opens streams of large parts and does not read them.
fn unread_parts() -> LoadKind {
    LoadKind::new(
        calls(|key| call("GET", "/parts", key, r#""c":1"#, "null")),
        call("GET", "/parts", 1000, r#""c":1"#, "null"),
    )
}

/// Sends large parts to a handler that does not take them.
fn parts_not_taken() -> LoadKind {
    let opens = calls(|key| call("POST", "/swallow", key, r#""c":1000"#, "null"));
    let part = |key| format!(r#"{{"uri":"$part","key":{key},"$":{{"n":1}},"params":{}}}¶"#, text(LARGE_BYTES));
    LoadKind::new(opens + &(1..=REQUESTS_PER_PEER / 10).map(part).collect::<String>(), part(20))
}

/// Makes large calls whose handler works for ten minutes.
fn calls_at_work() -> LoadKind {
    let keep = |key| call("POST", "/keep", key, "", &text(LARGE_BYTES));
    LoadKind::new((1..=REQUESTS_PER_PEER / 10).map(keep).collect::<String>(), keep(20))
}

/// Makes small calls of that kind: as many as one caller may have in flight.
fn small_calls_at_work() -> LoadKind {
    let keep = |key| call("POST", "/keep", key, "", "null");
    LoadKind::new((1..=1024).map(keep).collect::<String>(), keep(2000))
}

/// Makes large calls of that kind that take as much memory as possible once they are parsed.
fn nested_calls_at_work() -> LoadKind {
    let keep = |key| call("POST", "/keep", key, "", &format!("[{}0]", "{},".repeat(LARGE_BYTES / 3)));
    LoadKind::new((1..=REQUESTS_PER_PEER / 10).map(keep).collect::<String>(), keep(20))
}

/// The name of an attack, and its kinds of hostile peers, of which there are equally many.
type MemoryScene = (&'static str, fn() -> Vec<LoadKind>);

/// Attacks a node in Rust, and then one on mesh.js.
pub(crate) async fn nodes(attack: Option<&str>) {
    let wanted = |name: &str| attack.is_none_or(|attack| name.starts_with(attack));
    title("10,000 hostile callers of a node with default settings, on two threads");
    let scenes: [MemoryScene; 7] = [
        ("half packets of 8 MB", || vec![half_packets()]),
        ("answers of 1 MB that are not read", || vec![unread_answers()]),
        ("streams of credit 1 that are not read", || vec![unread_parts()]),
        ("parts that are not read", || vec![parts_not_taken()]),
        ("calls of 1 MB at work", || vec![calls_at_work()]),
        ("small calls at work", || vec![small_calls_at_work()]),
        ("all of these", || vec![half_packets(), unread_answers(), unread_parts(), parts_not_taken(), calls_at_work()]),
    ];
    for (name, kinds) in scenes.into_iter().filter(|(name, _)| wanted(name)) {
        node(name, kinds(), async |distributor| Daemon::server(&["memory-node", distributor]).await).await;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/crowded.js");
    if Daemon::announcing("node", &["-p", "'127.0.0.1:1'"]).await.is_none() {
        return row("a node on mesh.js", "Node.js is not installed");
    }
    title("10,000 hostile callers of a node on mesh.js with default settings");
    let scenes: [MemoryScene; 6] = [
        ("half packets of 8 MB", || vec![half_packets()]),
        ("answers of 1 MB that are not read", || vec![unread_answers()]),
        ("calls of 1 MB at work", || vec![calls_at_work()]),
        ("small calls at work", || vec![small_calls_at_work()]),
        ("calls of 333,000 objects at work", || vec![nested_calls_at_work()]),
        ("all of these", || vec![half_packets(), unread_answers(), calls_at_work(), nested_calls_at_work()]),
    ];
    for (name, kinds) in scenes.into_iter().filter(|(name, _)| wanted(name)) {
        node(name, kinds(), async |distributor| Daemon::announcing("node", &[script, distributor]).await.unwrap())
            .await;
    }
}

async fn node(name: &str, kinds: Vec<LoadKind>, start: impl AsyncFn(&str) -> Daemon) {
    let distributor = Daemon::default_distributor().await;
    distributor.move_to(1);
    let at = distributor.address.to_string();
    let victim = start(&at).await;
    victim.move_to(0);
    let caller = Node::builder("caller").distributor(at).start().await.unwrap();
    let peers = caller.peers();
    peers.wait_for(&["GET/held"]).await;
    // The good caller connects before the attackers.
    held_by(peers).await.unwrap();
    watch(name, kinds, &victim, victim.address, async || held_by(peers).await).await;
    caller.stop().await;
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldBytes {
    bytes: usize,
}

async fn held_by(peers: &Peers) -> Option<usize> {
    Some(peers.call::<HeldBytes>("GET/held", &()).await.ok()?.bytes)
}

/// A text of a megabyte that is made once.
static LARGE: LazyLock<&RawValue> =
    LazyLock::new(|| Box::leak(RawValue::from_string(text(LARGE_BYTES)).expect("a text")));

/// Runs the node that is attacked, in threads of its own.
pub(crate) async fn serve(distributor: String) {
    async fn large() -> Result<&'static RawValue, ServiceError> {
        Ok(*LARGE)
    }
    async fn parts() -> Result<Streaming<impl Stream<Item = Result<&'static RawValue, ServiceError>>>, ServiceError> {
        Ok(Streaming(stream::repeat_with(|| Ok(*LARGE))))
    }
    async fn keep(Params(text): Params<Box<RawValue>>) -> Result<usize, ServiceError> {
        sleep(Duration::from_secs(600)).await;
        Ok(text.get().len())
    }
    async fn swallow(mut items: Items<String>) -> Result<usize, ServiceError> {
        sleep(Duration::from_secs(600)).await;
        Ok(items.try_next().await?.map_or(0, |text| text.len()))
    }
    async fn small(_: Params<Box<RawValue>>) -> Result<&'static str, ServiceError> {
        Ok("ok")
    }
    async fn held(node: State<Arc<OnceLock<Node>>>) -> Result<HeldBytes, ServiceError> {
        let node = node.get().ok_or_else(|| ServiceError::new(503, "starting", "it starts"))?;
        Ok(HeldBytes { bytes: node.buffer_usage().bytes })
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
    let started = Arc::new(OnceLock::new());
    let node = Node::builder("crowded").distributor(distributor).state(Arc::clone(&started));
    let node = node.route("GET/large", large).route("GET/parts", parts).route("POST/keep", keep);
    let node = node.route("POST/swallow", swallow).route("POST/small", small).route("GET/held", held);
    let node = runtime.spawn(node.start()).await.unwrap().unwrap();
    println!("{}", node.address());
    started.set(node).unwrap();
    std::future::pending::<()>().await;
}

/// The head of a request with a body of `bytes` bytes.
fn post(path: &str, bytes: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: g\r\n\r\n")
}

/// An HTTP/2 client that allows the server to send nothing, with as many streams as are allowed,
/// and with `bytes` bytes of fields in each.
fn no_window(path: &str, bytes: usize) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let mut head = [&[0x82, 0x86, 0x41, 1, b'g', 0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    // Each field has 100 bytes.
    (0..bytes / 100).for_each(|_| head.extend([&[0, 1, b'x', 100][..], &[b'y'; 100]].concat()));
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE of 0.
    out.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    (0..u32::try_from(REQUESTS_PER_PEER).unwrap()).for_each(|number| out.extend(frame(1, 5, number * 2 + 1, &head)));
    out
}

/// Attacks a gateway in front of a node and of an HTTP server.
pub(crate) async fn gateway(attack: Option<&str>) {
    title("10,000 hostile clients of a gateway with default settings and two workers");
    let body = |path: &str, bytes: usize| LoadKind::new(post(path, bytes + 1000) + &"1".repeat(bytes), "1");
    let fields = format!("X: {}\r\n", "y".repeat(1000)).repeat(60);
    let large_head = get("/large").replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    let streams = |path: &str, bytes: usize| LoadKind::new(no_window(path, bytes), "");
    let kinds = [
        ("answers of a node that are not read", LoadKind::new(get("/large"), "")),
        ("the same, with heads of 60 kB", LoadKind::new(large_head, "")),
        ("answers of a server that are not read", LoadKind::new(get("/big"), "")),
        ("HTTP/2 without a window, of a node", streams("/large", 0)),
        ("the same, with heads of 9 kB", streams("/large", 9000)),
        ("the same, of a server", streams("/big", 0)),
        ("the same, streams of a node", streams("/parts", 0)),
        ("bodies for a node that do not end", body("/small", (1 << 20) - 1000)),
        ("bodies for a server that do not end", body("/up", 60_000)),
        ("heads of 60 kB that do not end", LoadKind::new(format!("GET / HTTP/1.1\r\nHost: g\r\n{fields}"), "")),
    ];
    let all = kinds.iter().map(|(_, kind)| kind.clone()).collect();
    let single = kinds.into_iter().map(|(name, kind)| (name, vec![kind]));
    for (name, kinds) in single.chain([("all of these", all)]) {
        if attack.is_none_or(|attack| name.starts_with(attack)) {
            measure_gateway(name, kinds).await;
        }
    }
}

async fn measure_gateway(name: &str, kinds: Vec<LoadKind>) {
    // Ports that no other process of this measurement uses.
    const PORT: u16 = 19_160;
    const ADMIN: u16 = 19_161;
    let distributor = Daemon::default_distributor().await;
    let node = Daemon::server(&["memory-node", &distributor.address.to_string()]).await;
    let server = Daemon::server(&["http-server"]).await;
    [&distributor, &node, &server].iter().for_each(|daemon| daemon.move_to(1));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let config = format!(
        "listen = \"127.0.0.1:{PORT}\"\nadmin = \"127.0.0.1:{ADMIN}\"\nworkers = {THREADS}\nh2c = true\ndistributor = \"{}\"\n\
         [[route]]\nprefix = \"/big\"\nservers = [\"{back_end}\"]\n[[route]]\nprefix = \"/up\"\nservers = [\"{back_end}\"]\n",
        distributor.address,
        back_end = server.address
    );
    std::fs::write(&file, config).unwrap();
    let program = std::env::current_exe().unwrap().with_file_name("gateway");
    let (program, file) = (program.to_str().unwrap(), file.to_str().unwrap());
    let gateway = Daemon::other(program, &["--config", file, "--log-level", "error"], PORT).await.unwrap();
    let at = gateway.address;
    let good = async || {
        let answer = HttpClient::over(TcpStream::connect(at).await.ok()?).request("GET", "/held", "").await?;
        let metrics = TcpStream::connect(("127.0.0.1", ADMIN)).await.ok()?;
        let metrics = HttpClient::over(metrics).request("GET", "/metrics", "").await?.body;
        let held = metrics.lines().find_map(|line| line.strip_prefix("gateway_held_bytes "));
        (answer.status == 200).then(|| held?.parse().ok()).flatten()
    };
    while good().await.is_none() {
        sleep(REQUEST_PAUSE).await;
    }
    watch(name, kinds, &gateway, at, good).await;
    // The next gateway needs its port.
    gateway.kill().await;
}
