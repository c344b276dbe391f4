//! Peers that attack a Distributor, and callers that attack a node. Measures what good peers notice
//! of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use node_sdk::Node;
use tests::Flood;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::attacks::totals;
use crate::calls;
use crate::daemon_process::Daemon;
use crate::registry::witness::{self, Suspicions, Witnesses};
use crate::report::{ms, percentiles, row, title};

/// Good nodes, which see when they are told of changes.
const WITNESSES: usize = 10;
/// How long each attack is watched, after all attackers have come.
const WATCH_TIME: Duration = Duration::from_secs(8);
/// How long an attack, or a list, may take to get under way.
const START_TIME: Duration = Duration::from_secs(2);
/// The time between two arrivals of attackers that are many.
const ARRIVAL_INTERVAL: Duration = Duration::from_micros(400);
/// Peers that do not read.
const UNREAD: usize = 200;
/// Peers whose packets do not end.
const HALF_PACKETS: usize = 5000;
/// Peers of all kinds together, from [`ADDRESSES`] addresses: as many as the default limit of
/// connections leaves beside the good ones.
const ALL_KINDS: usize = 9800;
const ADDRESSES: usize = 40;
/// Nodes with entries of 62 kB. They make a list of 6.9 MB, which leaves room for the entries of
/// all attackers.
const LARGE_ENTRIES: usize = 110;
/// Version 1 nodes whose long names fill the history.
const LONG_NAMES: usize = 200;
/// The packet that a peer which does not read sends so that it is not removed.
const PONG: &str = r#"{"uri":"$pong","$":{}}¶"#;
/// How often attackers that do not read send something.
const REPEAT_INTERVAL: Duration = Duration::from_millis(900);
/// Callers that send without a pause.
const CALLERS: usize = 4;
/// Callers whose packets do not end, and the bytes that they send of such a packet.
const HALF_CALLERS: usize = 100;
const HALF_CALL_BYTES: usize = 8_000_000;

/// One kind of attack.
struct PeerAttack {
    name: &'static str,
    means: AttackMeans,
}

enum AttackMeans {
    Nothing,
    /// This number of connections, the first text, and the text that they then send without a
    /// pause.
    Floods(usize, String, String),
    /// This number of connections that do not read, the first text of each, and the text that they
    /// then send every [`REPEAT_INTERVAL`].
    Unread(usize, fn(usize) -> String, &'static str),
    /// Connections from many addresses that do not read, with other texts for each.
    Mixture(usize, fn(usize) -> (String, &'static str)),
}

/// An attack that runs until this is dropped. The attackers have a thread of their own, so that
/// they do not delay the good peers.
struct Running {
    _floods: Vec<Flood>,
    _stop: DropGuard,
}

impl AttackMeans {
    fn begin(&self, at: SocketAddr) -> Running {
        let mut floods = Vec::new();
        let stop = CancellationToken::new();
        match self {
            Self::Nothing => {}
            Self::Floods(count, first, again) => {
                floods.extend((0..*count).map(|_| Flood::start(at, first.as_bytes(), again.as_bytes())));
            }
            Self::Unread(count, first, again) => {
                let (first, again) = (*first, *again);
                spawn_unread(at, &stop, *count, move |number| (None, first(number), again));
            }
            Self::Mixture(count, says) => {
                let says = *says;
                spawn_unread(at, &stop, *count, move |number| {
                    let (first, again) = says(number);
                    (Some(Ipv4Addr::new(127, 0, 2, u8::try_from(1 + number % ADDRESSES).unwrap())), first, again)
                });
            }
        }
        Running { _floods: floods, _stop: stop.drop_guard() }
    }

    /// How long it takes until all attackers have come.
    fn comes_within(&self) -> Duration {
        let count = match self {
            Self::Unread(count, ..) | Self::Mixture(count, _) => *count,
            Self::Nothing | Self::Floods(..) => 1,
        };
        START_TIME + ARRIVAL_INTERVAL * u32::try_from(count).unwrap()
    }
}

/// Opens `count` connections in a thread of their own. `says` gives the address that each comes
/// from, if it matters, and its two texts.
fn spawn_unread(
    at: SocketAddr,
    stop: &CancellationToken,
    count: usize,
    says: impl Fn(usize) -> (Option<Ipv4Addr>, String, &'static str) + Send + 'static,
) {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let come = async |number: usize| {
            sleep(ARRIVAL_INTERVAL * u32::try_from(number).unwrap()).await;
            let (from, first, again) = says(number);
            unread(from, at, first, again).await;
        };
        let all = futures::future::join_all((0..count).map(come));
        runtime.block_on(stop.run_until_cancelled(all));
    });
}

/// Runs an attacker that does not read. It connects again whenever it is cut off.
async fn unread(from: Option<Ipv4Addr>, at: SocketAddr, first: String, again: &'static str) {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(from) = from {
            socket.bind((from, 0).into()).unwrap();
        }
        socket.set_recv_buffer_size(4096).unwrap();
        if let Ok(mut stream) = socket.connect(at).await {
            let mut open = stream.write_all(first.as_bytes()).await.is_ok();
            while open {
                sleep(REPEAT_INTERVAL).await;
                open = stream.write_all(again.as_bytes()).await.is_ok();
            }
        }
        sleep(REPEAT_INTERVAL).await;
    }
}

/// Runs the scene. `only` selects a part of it, and `attack` selects attacks by the beginning of
/// their names.
pub(crate) async fn hostile(only: Option<&str>, attack: Option<&str>) {
    let wanted = |scene: &str| only.is_none_or(|only| only == scene);
    let is_meant = |other: &PeerAttack| attack.is_none_or(|attack| other.name.starts_with(attack));
    if wanted("distributor") {
        title("hostile peers of a Distributor with default settings, and 10 nodes that are told of 20 joins a second");
        for attack in on_distributor().into_iter().filter(is_meant) {
            distributor(&attack).await;
        }
    }
    if wanted("node") {
        title(
            "hostile callers of a node on one thread with default settings, and 500 calls a second of another caller",
        );
        for attack in on_node().into_iter().filter(is_meant) {
            node(&attack).await;
        }
    }
    if wanted("node-memory") {
        totals::nodes(attack).await;
    }
    if wanted("gateway-memory") {
        totals::gateway(attack).await;
    }
}

/// A call without a key, of about `bytes` bytes.
fn one_way(bytes: usize) -> String {
    format!(r#"{{"uri":"/nothing","method":"GET","$":{{}},"params":[{}1]}}¶"#, "1,".repeat(bytes / 2))
}

fn half_packet() -> String {
    one_way(60_000).trim_end_matches("]}¶").to_owned()
}

/// The two texts of the attacker with this number. It asks for the list, or for the history, and
/// then sends half a packet; or it registers with interests, or a key, that no other peer has.
fn of_all_kinds(number: usize) -> (String, &'static str) {
    let port = 10_000 + number % 10_000;
    let list = format!(r#"{{"uri":"/distributes","method":"GET","key":{},"$":{{}}}}¶"#, 100 + number);
    match number % 4 {
        0 => (list + &half_packet(), ",1"),
        1 => {
            let history = r#"{"uri":"/distributes/history","method":"GET","key":1,"params":{"node":""},"$":{}}¶"#;
            ([&registration(port, "h", "", r#""needs":["nothing"]"#), history, &half_packet()].concat(), ",1")
        }
        2 => (registration(port, "h", "", &format!(r#""needs":["large","u{number}"]"#)), PONG),
        _ => (registration(port, "h", "", "") + &list, PONG),
    }
}

fn registration(port: usize, name: &str, more: &str, options: &str) -> String {
    format!(
        r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"{name}","urls":[],"$":{{"v":2,"id":"h{port}"{more}}}}},"$":{{{options}}}}}¶"#
    )
}

/// A registration of version 1 whose name has 60 kB.
fn old_registration(port: usize) -> String {
    let name = "\u{200b}".repeat(20_000);
    format!(
        r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"{port}{name}","urls":[]}}}}¶"#
    )
}

const LEAVE: &str = r#"{"uri":"/distributes","method":"DELETE","key":0,"params":{},"$":{}}¶"#;

fn on_distributor() -> Vec<PeerAttack> {
    let flood = |again: String| AttackMeans::Floods(1, String::new(), again);
    let all_ids = (1..2000).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let report =
        format!(r#"{{"uri":"/distributes","method":"PATCH","key":0,"params":{{"failed":[{all_ids}]}},"$":{{}}}}¶"#);
    let nothing_needed = r#""needs":["nothing"]"#;
    let unread = |first: fn(usize) -> String| AttackMeans::Unread(UNREAD, first, PONG);
    let attack = |name, means| PeerAttack { name, means };
    vec![
        attack("nobody", AttackMeans::Nothing),
        attack("one with names of 60 kB", flood((1..65).map(old_registration).collect())),
        attack("one with unknown packets of 64 kB", flood(one_way(64_000))),
        attack(
            "one that joins and leaves",
            flood([registration(9, "h", "", nothing_needed), LEAVE.to_owned()].concat().repeat(100)),
        ),
        attack(
            "one that reports that all fail",
            AttackMeans::Floods(1, registration(9, "h", "", nothing_needed), [&report, PONG].concat()),
        ),
        attack(
            "200 that do not read, a key each",
            unread(|number| {
                let ask = format!(r#"{{"uri":"/distributes","method":"GET","key":{},"$":{{}}}}¶"#, 100 + number);
                [registration(10_000 + number, "h", "", ""), ask].concat()
            }),
        ),
        attack(
            "200 that do not read, needs of their own",
            unread(|number| registration(10_000 + number, "h", "", &format!(r#""needs":["large","u{number}"]"#))),
        ),
        attack(
            "200 that do not read, a history each",
            unread(|number| {
                let ask = format!(
                    r#"{{"uri":"/distributes/history","method":"GET","key":{number},"params":{{"node":""}},"$":{{}}}}¶"#
                );
                [registration(10_000 + number, "h", "", r#""needs":["nothing"]"#), ask].concat()
            }),
        ),
        attack("5000 half packets of 60 kB", AttackMeans::Unread(HALF_PACKETS, |_| half_packet(), ",1")),
        attack("9800 of all these kinds", AttackMeans::Mixture(ALL_KINDS, of_all_kinds)),
    ]
}

/// Measures what good nodes see while the Distributor is attacked.
async fn distributor(attack: &PeerAttack) {
    let daemon = Daemon::default_distributor().await;
    let _large = fill(daemon.address).await;
    let witnesses = Witnesses::join(daemon.address, WITNESSES).await;
    let doubts = Suspicions::about(daemon.address, witness::NAME);
    let before = daemon.rss_bytes();
    let running = attack.means.begin(daemon.address);
    sleep(attack.means.comes_within()).await;
    let mut peak = daemon.rss_bytes();
    let (begin, used) = (Instant::now(), daemon.cpu());
    let mut report = witnesses.watch(WATCH_TIME, || peak = peak.max(daemon.rss_bytes())).await;
    let busy = (daemon.cpu() - used).as_secs_f64() / begin.elapsed().as_secs_f64();
    drop(running);
    let told = if report.told.is_empty() {
        "good nodes are told of no change".to_owned()
    } else {
        let (p50, p99) = percentiles(&mut report.told);
        let share = 100.0 * report.told.len() as f64 / report.expected as f64;
        format!("good nodes are told of {share:.1} % of the changes, p50 {:.1} ms, p99 {:.1} ms", ms(p50), ms(p99))
    };
    row(
        attack.name,
        &format!(
            "{told}; longest time without a ping {:.1} s, longest announced {:.1} s; {} good nodes suspected, {} lost; CPU {:.0} %; memory {:.0} MB before, {:.0} MB at most",
            report.longest_silence.as_secs_f64(),
            report.announced.as_secs_f64(),
            doubts.count(),
            report.lost,
            100.0 * busy,
            before as f64 / 1e6,
            peak as f64 / 1e6
        ),
    );
}

/// Fills the registry: a list of 6.9 MB, and a history of long names. The nodes in the list stay
/// until this is dropped.
async fn fill(at: SocketAddr) -> Vec<AbortOnDropHandle<()>> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    for port in 0..LONG_NAMES {
        stream.write_all(format!("{}{LEAVE}", old_registration(1 + port)).as_bytes()).await.unwrap();
    }
    let pad = "x".repeat(62_000);
    let mut large = Vec::new();
    for number in 0..LARGE_ENTRIES {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let more = format!(r#","meta":{{"pad":"{pad}"}}"#);
        let first = registration(20_000 + number, "large", &more, r#""needs":["nothing"]"#);
        stream.write_all(first.as_bytes()).await.unwrap();
        large.push(AbortOnDropHandle::new(spawn_local(async move {
            // Each is told almost nothing, and shows that it is alive.
            while stream.write_all(PONG.as_bytes()).await.is_ok() {
                sleep(Duration::from_millis(300)).await;
            }
        })));
    }
    sleep(START_TIME).await;
    large
}

fn on_node() -> Vec<PeerAttack> {
    let attack = |name, means| PeerAttack { name, means };
    let callers = |call: String| AttackMeans::Floods(CALLERS, String::new(), call);
    let half: fn(usize) -> String = |_| one_way(HALF_CALL_BYTES).trim_end_matches("]}¶").to_owned();
    vec![
        attack("nobody", AttackMeans::Nothing),
        attack("4 with one-way packets of 100 bytes", callers(one_way(50).repeat(600))),
        attack("4 with one-way packets of 64 kB", callers(one_way(64_000))),
        attack("4 with one-way packets of 1 MB", callers(one_way(1_000_000))),
        attack("100 half packets of 8 MB", AttackMeans::Unread(HALF_CALLERS, half, ",1")),
    ]
}

/// Measures what a good caller sees while the node is attacked.
async fn node(attack: &PeerAttack) {
    let distributor = Daemon::default_distributor().await;
    distributor.move_to(1);
    let at = distributor.address.to_string();
    let server = Daemon::server(&["call-server", &at]).await;
    let caller = Node::builder("caller").distributor(at).start().await.unwrap();
    caller.peers().wait_for(&["GET/echo"]).await;
    let doubts = Suspicions::about(distributor.address, "echo");
    let running = attack.means.begin(server.address);
    sleep(attack.means.comes_within()).await;
    let mut peak = server.rss_bytes();
    let during = async {
        for _ in 0..WATCH_TIME.as_millis() / 50 {
            sleep(Duration::from_millis(50)).await;
            peak = peak.max(server.rss_bytes());
        }
    };
    let figures = calls::beside_attackers(caller.peers(), during).await;
    drop(running);
    caller.stop().await;
    row(attack.name, &format!("{figures}; {} suspected; memory at most {:.0} MB", doubts.count(), peak as f64 / 1e6));
}
