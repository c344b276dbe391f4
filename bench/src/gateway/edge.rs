//! Scenes of the gateway beside plain requests: TLS, tunnels, idle clients, a changing registry,
//! attackers and overload.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::HttpClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::sleep;

use crate::attacks;
use crate::daemon_process::Daemon;
use crate::gateway::{changes, overload};
use crate::http::ask;
use crate::http::edge_server::{EdgeServer, TrustAnything, fronts, gateway_program, relay};
use crate::registry::swarm::join;
use crate::report::{median, row, title};

/// Clients that send one request after the other: enough that a server always has a request.
const CLIENTS: usize = 64;
/// Long beside the stalls of a virtual machine, which take up to 20 ms.
const ROUND: Duration = Duration::from_secs(1);
/// Many short rounds, in turn, so that all programs meet the same disturbances.
const ROUNDS: usize = 21;
/// Clients that do nothing.
const IDLE: usize = 2000;
const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: drill\r\nAccept: */*\r\n\r\n";

pub(crate) async fn edge(only: Option<&str>, attack: Option<&str>, seconds: u64) {
    let wanted = |scene: &str| only.is_none_or(|only| only == scene);
    let trust = TrustAnything::new();
    let back_end = Daemon::server(&["http-server"]).await;
    back_end.move_to(1);
    if ["tls", "tunnel", "idle"].into_iter().any(wanted) {
        let mut fronts = fronts(&trust, back_end.address).await;
        if wanted("tls") {
            tls(&fronts, &trust).await;
        }
        if wanted("idle") {
            idle(&fronts, &trust).await;
        }
        if wanted("tunnel") {
            fronts.push(relay(back_end.address).await);
            tunnel(&fronts).await;
        }
    }
    if wanted("changes") {
        changes::changes(&gateway_program()).await;
    }
    if wanted("soak") {
        soak(back_end.address, seconds).await;
    }
    if wanted("attack") {
        let mut fronts = fronts(&trust, back_end.address).await;
        fronts.push(relay(back_end.address).await);
        attacks::attackers(&fronts, &trust, attack).await;
    }
    if wanted("overload") {
        overload::overload(&gateway_program(), back_end.address).await;
    }
    if wanted("starved") {
        title("more requests than a server with a twentieth of a core can answer");
        for front in fronts(&trust, back_end.address).await {
            overload::starved(front.name, &front.process).await;
        }
    }
}

/// The rounds of one server: the CPU time of each unit of work, and the number of units.
type Rounds = Vec<(Duration, usize)>;

/// Runs rounds of all servers in turn. Each turn begins with another server.
async fn in_turn(fronts: &[EdgeServer], mut round: impl AsyncFnMut(&EdgeServer) -> usize) -> Vec<Rounds> {
    let mut all: Vec<Rounds> = fronts.iter().map(|_| Vec::new()).collect();
    for number in 0..=ROUNDS {
        for offset in 0..fronts.len() {
            let index = (offset + number) % fronts.len();
            let before = fronts[index].process.cpu();
            let count = round(&fronts[index]).await;
            // The first round warms up.
            if number > 0 {
                let cpu = fronts[index].process.cpu() - before;
                all[index].push((cpu / u32::try_from(count.max(1)).unwrap(), count));
            }
        }
    }
    all
}

/// Prints a line for each server. The first server is the gateway.
fn print(fronts: &[EdgeServer], what: &str, rounds: &[Rounds]) {
    for (front, theirs) in fronts.iter().zip(rounds) {
        let cpu = median(theirs.iter().map(|(cpu, _)| cpu.as_secs_f64() * 1e6));
        let rate = median(theirs.iter().map(|(_, count)| *count as f64 / ROUND.as_secs_f64()));
        let ratio =
            rounds[0].iter().zip(theirs).map(|((ours, _), (theirs, _))| ours.as_secs_f64() / theirs.as_secs_f64());
        let name = format!("{}, {what}", front.name);
        row(&name, &format!("{cpu:8.2} µs of CPU each, {rate:.0}/s; the gateway {:.2} × of that CPU", median(ratio)));
    }
}

async fn tls(fronts: &[EdgeServer], trust: &TrustAnything) {
    title(
        "TLS 1.3 with a P-256 certificate, on one core: requests over connections that stay open; full handshakes, with a request each",
    );
    let kept = in_turn(fronts, async |front| {
        let end = Instant::now() + ROUND;
        let clients = (0..CLIENTS).map(|_| async {
            let (mut stream, mut buffer, mut count) = (trust.connect(front.secure).await, Vec::new(), 0);
            while Instant::now() < end {
                let is_right = ask(&mut stream, REQUEST, &mut buffer).await;
                assert!(is_right, "{}: {}", front.name, String::from_utf8_lossy(&buffer));
                count += 1;
            }
            count
        });
        futures::future::join_all(clients).await.into_iter().sum()
    });
    print(fronts, "HTTPS request", &kept.await);
    let handshakes = in_turn(fronts, async |front| {
        let end = Instant::now() + ROUND;
        let clients = (0..8).map(|_| async {
            let mut count = 0;
            while Instant::now() < end {
                let mut stream = trust.connect(front.secure).await;
                assert!(ask(&mut stream, REQUEST, &mut Vec::new()).await, "{}", front.name);
                count += 1;
            }
            count
        });
        futures::future::join_all(clients).await.into_iter().sum()
    });
    print(fronts, "handshake", &handshakes.await);
}

async fn tunnel(fronts: &[EdgeServer]) {
    title("messages of 64 bytes through 64 WebSockets, in both directions");
    let figures = in_turn(fronts, async |front| {
        let end = Instant::now() + ROUND;
        let clients = (0..CLIENTS).map(|_| async {
            let mut stream = TcpStream::connect(front.process.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let ask = b"GET /ws HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(ask).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 101"));
            let (mut message, mut count) = ([b'm'; 64], 0);
            while Instant::now() < end {
                stream.write_all(&message).await.unwrap();
                stream.read_exact(&mut message).await.unwrap();
                count += 2;
            }
            count
        });
        futures::future::join_all(clients).await.into_iter().sum()
    });
    print(fronts, "message", &figures.await);
}

async fn idle(fronts: &[EdgeServer], trust: &TrustAnything) {
    title("memory of a client that has sent one request and stays connected");
    for front in fronts {
        let before = front.process.rss_bytes();
        let mut plain = Vec::new();
        for _ in 0..IDLE {
            let mut stream = TcpStream::connect(front.process.address).await.unwrap();
            assert!(ask(&mut stream, REQUEST, &mut Vec::new()).await);
            plain.push(stream);
        }
        let middle = front.process.rss_bytes();
        let mut secure = Vec::new();
        for _ in 0..IDLE {
            let mut stream = trust.connect(front.secure).await;
            assert!(ask(&mut stream, REQUEST, &mut Vec::new()).await);
            secure.push(stream);
        }
        let after = front.process.rss_bytes();
        let kilobytes_each = |bytes: u64| bytes as f64 / IDLE as f64 / 1000.0;
        let (plain_each, secure_each) =
            (kilobytes_each(middle.saturating_sub(before)), kilobytes_each(after.saturating_sub(middle)));
        row(front.name, &format!("{plain_each:.1} kB in clear, {secure_each:.1} kB with TLS"));
        drop((plain, secure));
    }
}

/// The gateway of [`soak`].
const SOAKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 19_140);
/// Clients that send requests all the time, half of them to nodes and half to an HTTP server.
const SOAK_CLIENTS: usize = 32;
/// Requests of a client over one connection.
const SOAK_REQUESTS: usize = 500;

/// The requests of all clients, and the text of the last failure.
#[derive(Default)]
struct RequestCount {
    answered: Cell<u64>,
    lost: Cell<u64>,
    failure: Cell<Option<String>>,
}

impl RequestCount {
    fn lose(&self, why: String) {
        self.lost.set(self.lost.get() + 1);
        self.failure.set(Some(why));
    }

    /// Sends requests, over one connection after the other, until `end`.
    async fn run_client(&self, path: &str, end: Instant) {
        while Instant::now() < end {
            let Ok(stream) = TcpStream::connect(SOAKED).await else {
                self.lose("a connection was refused".to_owned());
                continue;
            };
            let mut client = HttpClient::over(stream);
            for _ in 0..SOAK_REQUESTS {
                match client.request("GET", path, "").await {
                    Some(answer) if answer.status == 200 => {
                        self.answered.set(self.answered.get() + 1);
                        if answer.header("connection") == Some("close") {
                            break;
                        }
                    }
                    other => {
                        self.lose(format!("{path}: {other:?}"));
                        break;
                    }
                }
            }
        }
    }
}

/// Sends requests while everything around the gateway changes.
async fn soak(back_end: SocketAddr, seconds: u64) {
    title(
        "requests while 100 nodes a second come and go, providers are killed, and the gateway reloads its file or is replaced",
    );
    let folder = tempfile::tempdir().unwrap();
    let distributor = Daemon::distributor(0, &[]).await;
    distributor.move_to(1);
    let address = distributor.address;
    let mut gateway = start_soaked(folder.path(), address, back_end).await;
    let provider = async || Daemon::server(&["call-server", &address.to_string()]).await;
    let mut providers = [provider().await, provider().await, provider().await];
    let paths = ["/echo?id=42&name=widget&price=9.5&tags=a,b", "/http/x"];
    for path in paths {
        while HttpClient::connect(SOAKED).await.request("GET", path, "").await.is_none_or(|answer| answer.status != 200)
        {
            sleep(Duration::from_millis(20)).await;
        }
    }
    let (count, end) = (Rc::new(RequestCount::default()), Instant::now() + Duration::from_secs(seconds));
    let mut clients = JoinSet::new();
    for number in 0..SOAK_CLIENTS {
        let count = Rc::clone(&count);
        clients.spawn_local(async move { count.run_client(paths[number % 2], end).await });
    }
    let churn = spawn_local(async move {
        for number in 0.. {
            drop(join(address, &format!("c{number}"), number).await);
            sleep(Duration::from_millis(10)).await;
        }
    });
    let (mut pid, mut step) = (gateway.pid, 0u32);
    while Instant::now() < end {
        sleep(Duration::from_millis(2500)).await;
        step += 1;
        // One provider dies, and another one joins.
        let index = usize::try_from(step).unwrap() % providers.len();
        let next = provider().await;
        sleep(Duration::from_millis(300)).await;
        std::mem::replace(&mut providers[index], next).kill().await;
        match step % 2 {
            0 => kill_process(pid, Signal::HUP).unwrap(),
            _ => {
                kill_process(pid, Signal::USR2).unwrap();
                pid = gateway.successor().await;
            }
        }
    }
    clients.join_all().await;
    churn.abort();
    let (answered, lost) = (count.answered.get(), count.lost.get());
    row(
        "idempotent requests",
        &format!("{answered} answered, {lost} lost {}", count.failure.take().unwrap_or_default()),
    );
    row(
        "meanwhile",
        &format!(
            "{step} providers killed, the gateway {} times replaced and {} times told to reload",
            step.div_ceil(2),
            step / 2
        ),
    );
    kill_process(pid, Signal::TERM).unwrap();
}

/// A gateway whose log is read. The processes that replace it write to the same log.
struct LoggedGateway {
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStderr>>,
    pid: Pid,
}

/// Starts the gateway with routes to nodes and to an HTTP server, and waits until it listens.
async fn start_soaked(folder: &Path, distributor: SocketAddr, back_end: SocketAddr) -> LoggedGateway {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let file = folder.join("gateway.toml");
    let config = format!(
        "listen = \"{SOAKED}\"\nworkers = 1\nadmin = \"off\"\ndrain_timeout = \"3s\"\ndistributor = \"{distributor}\"\n\
         [[route]]\nprefix = \"/http\"\nservers = [\"{back_end}\"]\n"
    );
    std::fs::write(&file, config).unwrap();
    let mut child = tokio::process::Command::new(gateway_program())
        .args(["--config", file.to_str().unwrap()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id().unwrap();
    crate::daemon_process::pin_to(Some(id), 0);
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    spawn_local(async move { child.wait().await });
    while TcpStream::connect(SOAKED).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    LoggedGateway { lines, pid }
}

impl LoggedGateway {
    /// Waits until a new process has replaced the old one.
    async fn successor(&mut self) -> Pid {
        loop {
            let line = self.lines.next_line().await.unwrap().expect("it lives");
            if let Some((_, rest)) = line.split_once("pid=").filter(|_| line.contains("the new process is ready")) {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                return Pid::from_raw(digits.parse().unwrap()).unwrap();
            }
        }
    }
}
