//! Held sockets: how long a push takes to one of many sockets on two gateways, and to a group.
//!
//! It must not measure requests or streams: `gateway` does that.

mod client;

use std::rc::Rc;
use std::time::{Duration, Instant};

use node_sdk::{Node, Params, ServiceError, Session, Sockets, Welcome};

use self::client::{Arrivals, connect};
use crate::daemon_process::{Daemon, cpu_of_this_process};
use crate::report::{ms, percentiles, row, title};

/// The ports of the two gateways.
const PORTS: [u16; 2] = [19_130, 19_131];
/// Sockets that are opened at a time.
const OPENED_AT_ONCE: usize = 64;
/// The group that half of the clients join.
const GROUP: &str = "half";
/// Enough for a 99th percentile.
const PUSHES: usize = 5000;
const GROUP_PUSHES: usize = 100;
/// How long everything may take to be known everywhere.
const OPENING_TIME: Duration = Duration::from_secs(30);

#[derive(serde::Deserialize)]
struct Guest {
    joins: bool,
}

/// Accepts a client, and tells it its session.
async fn enter(Params(guest): Params<Guest>, session: Session) -> Result<Welcome<String>, ServiceError> {
    let welcome = Welcome::new().messages([session.id().to_owned()]);
    Ok(if guest.joins { welcome.group(GROUP) } else { welcome })
}

/// Opens this many sockets, half of them at each gateway, and pushes to them.
pub(crate) async fn push(sockets: usize) {
    let distributor = Daemon::distributor(0, &[]).await;
    distributor.move_to(1);
    let address = distributor.address.to_string();
    let node = Node::builder("pusher").distributor(&address).sockets("GET/live", Sockets::open(enter)).public();
    let node = node.silent().start().await.unwrap();
    let gateways = [gateway(&address, PORTS[0], sockets).await, gateway(&address, PORTS[1], sockets).await];
    wait_until_routed().await;
    let before: u64 = gateways.iter().map(Daemon::rss_bytes).sum();
    let arrivals = Rc::new(Arrivals::default());
    let mut sessions = Vec::with_capacity(sockets);
    for first in (0..sockets).step_by(OPENED_AT_ONCE) {
        let batch = (first..sockets.min(first + OPENED_AT_ONCE)).map(|at| connect(PORTS[at % 2], at, &arrivals));
        sessions.extend(futures::future::join_all(batch).await);
    }
    let held = gateways.iter().map(Daemon::rss_bytes).sum::<u64>().saturating_sub(before);
    title(&format!("push: {sockets} WebSockets on two gateways"));
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    row("memory of an idle socket", &format!("{:.1} kB", held as f64 / sockets as f64 / 1e3));
    let cpu = || gateways.iter().map(Daemon::cpu).sum::<Duration>();
    let (mut used, mut own) = (cpu(), cpu_of_this_process());
    let mut print = |what: &str, mut times: Vec<Duration>| {
        let (p50, p99) = percentiles(&mut times);
        let (now, ours) = (cpu(), cpu_of_this_process());
        let count = u32::try_from(times.len()).unwrap();
        let average = |spent: Duration| ms(spent / count);
        let (gateways, node) = (average(now - used), average(ours - own));
        (used, own) = (now, ours);
        row(
            what,
            &format!(
                "p50 {:.2} ms  p99 {:.2} ms  CPU of the gateways {gateways:.3} ms, of node and clients {node:.3} ms",
                ms(p50),
                ms(p99)
            ),
        );
    };
    let mut times = Vec::with_capacity(PUSHES);
    for _ in 0..PUSHES {
        let session = &sessions[fastrand::usize(..sessions.len())];
        times.push(timed(&arrivals, 1, async { node.peers().push(session, &"hello").await.unwrap() }).await);
    }
    print("to one", times);
    let members = sockets / 2;
    let mut times = Vec::with_capacity(GROUP_PUSHES);
    for _ in 0..GROUP_PUSHES {
        let pushed = async { assert_eq!(node.peers().push_group(GROUP, &"hello, all").await.unwrap(), members) };
        times.push(timed(&arrivals, members, pushed).await);
    }
    print(&format!("to a group of {members}"), times);
    node.stop().await;
}

/// How long it takes until this many messages have arrived.
async fn timed(arrivals: &Arrivals, count: usize, push: impl Future<Output = ()>) -> Duration {
    arrivals.reset();
    let begin = Instant::now();
    let ((), last) = tokio::join!(push, arrivals.wait_for(count));
    last - begin
}

async fn gateway(distributor: &str, port: u16, sockets: usize) -> Daemon {
    let program = std::env::current_exe().unwrap().with_file_name("gateway");
    // Three quarters of the connections may be held sockets.
    let (listen, most) = (format!("127.0.0.1:{port}"), (2 * sockets).max(1000).to_string());
    let arguments = ["--listen", &listen, "--workers", "1", "--distributor", distributor, "--log-level", "error"];
    let arguments = [&arguments[..], &["--admin", "off", "--max-connections", &most]].concat();
    Daemon::other(program.to_str().unwrap(), &arguments, port).await.expect("build it first")
}

/// Waits until both gateways have the route.
async fn wait_until_routed() {
    for port in PORTS {
        let is_routed = async {
            while client::status(port).await != 426 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(OPENING_TIME, is_routed).await.expect("the gateway knows the node");
    }
}
