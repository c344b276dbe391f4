//! Attacks: thousands of slow clients or peers, or a few that flood. Measures what good clients and
//! peers notice of them, and what memory they cost.
//!
//! It must not measure anything without attackers: `registry`, `calls` and `gateway` do that.

mod clients;
pub(crate) mod peers;
pub(crate) mod totals;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tests::HttpClient;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::attacks::clients::{Source, attacks};
use crate::http::edge_server::{EdgeServer, TrustAnything};
use crate::http::open_loop::{OpenLoop, TimedResponse};
use crate::report::{median, ms, percentiles, row, title};

/// Good clients that keep their connections, half of them at each of two addresses.
const CLIENTS: usize = 64;
/// The addresses of good clients. Attackers may use the first as well; no attacker uses the second.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1))];
const REQUEST: &str = "GET /echo HTTP/1.1\r\nHost: mesh\r\n\r\n";
/// Requests a second of these clients together.
const RATE: f64 = 5000.0;
/// Short, so that stalls of the machine spoil few rounds.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 11;
const WARM_UP_TIME: Duration = Duration::from_secs(1);
/// Good clients that connect, send one request and leave, one after the other.
const NEW_CLIENTS: usize = 100;
/// How long such a client waits for its connection and response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after the last attacker has come, and again after all have gone.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Runs each attack against each server, one after the other. Floods are HTTP/2 and run only
/// against the gateway. The good clients speak HTTP in clear, also while attackers speak TLS.
/// `only` selects attacks by the beginning of their names.
pub(crate) async fn attackers(fronts: &[EdgeServer], trust: &TrustAnything, only: Option<&str>) {
    title(
        "5000 slow attackers, or 50 that flood: p99 of 64 good clients that send 5000 requests a second together, half of them from \
         127.0.0.1 and half from another address; and p99 of good clients that connect anew, one after the other",
    );
    let memories: Vec<u64> = fronts.iter().map(|front| front.process.rss_bytes()).collect();
    for attack in attacks(trust).iter().filter(|attack| only.is_none_or(|only| attack.name.starts_with(only))) {
        for (from, text) in [(Source::OneAddress, "from 127.0.0.1"), (Source::ManyAddresses, "from 253 others")] {
            for (front, memory) in fronts.iter().zip(&memories) {
                if attack.is_flood() && front.name != "gateway" || attack.needs_tls() && !front.speaks_tls() {
                    continue;
                }
                let at = front.process.address;
                let sources: Vec<_> = (0..CLIENTS).map(|number| Some(ADDRESSES[number % 2])).collect();
                let clients = OpenLoop::connect_from(&sources, at, REQUEST).await;
                clients.run_under_attack(RATE, WARM_UP_TIME).await;
                let usual = AttackSample::of(&clients, at).await;
                let running = attack.begin(front, trust, from);
                sleep(attack.comes_within() + SETTLE_TIME).await;
                let under_attack = AttackSample::of(&clients, at).await;
                let grown = front.process.rss_bytes().saturating_sub(*memory) as f64 / 1e6;
                row(
                    &format!("{}, {} {text}", front.name, attack.name),
                    &format!("{}; memory + {grown:.1} MB", under_attack.beside(&usual)),
                );
                drop(running);
                sleep(SETTLE_TIME).await;
            }
        }
    }
}

/// The figures of good clients: those that stay, at the first address and at the second, and new
/// ones at the second.
struct AttackSample([ClientGroup; 3]);

/// The figures of one group of good clients: the percentage of requests that were answered, and the
/// 99th percentile of their times in milliseconds.
#[derive(Clone, Copy)]
struct ClientGroup {
    answered: f64,
    p99: Option<f64>,
}

impl AttackSample {
    async fn of(clients: &OpenLoop, at: SocketAddr) -> Self {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(clients.run_under_attack(RATE, ROUND).await);
        }
        let staying = |number: usize| {
            let group_of = |round: &Vec<TimedResponse>| {
                let theirs = round.iter().filter(|answer| answer.client % 2 == number);
                ClientGroup::of(theirs.map(|answer| answer.is_right.then_some(answer.took)).collect())
            };
            let groups: Vec<ClientGroup> = rounds.iter().map(group_of).collect();
            // The median of the rounds: one p99 over all rounds would show the machine's stalls.
            let times: Vec<f64> = groups.iter().filter_map(|group| group.p99).collect();
            ClientGroup {
                answered: groups.iter().map(|group| group.answered).sum::<f64>() / groups.len() as f64,
                p99: (!times.is_empty()).then(|| median(times.into_iter())),
            }
        };
        let mut new = Vec::new();
        for _ in 0..NEW_CLIENTS {
            new.push(come_and_ask(at).await);
        }
        Self([staying(0), staying(1), ClientGroup::of(new)])
    }

    fn beside(&self, usual: &Self) -> String {
        let names = ["at 127.0.0.1", "elsewhere", "new"];
        let text = |((name, group), usual): ((&str, &ClientGroup), &ClientGroup)| {
            let Some((p99, before)) = group.p99.zip(usual.p99) else {
                return format!("{name} {:.0} % answered", group.answered);
            };
            let answered =
                if group.answered < 100.0 { format!(", {:.1} % answered", group.answered) } else { String::new() };
            format!("{name} {p99:.2} ms ({:.1} ×){answered}", p99 / before)
        };
        names.into_iter().zip(&self.0).zip(&usual.0).map(text).collect::<Vec<_>>().join(", ")
    }
}

impl ClientGroup {
    /// Sums up how long each request took; `None` stands for one that was declined, or not
    /// answered.
    fn of(requests: Vec<Option<Duration>>) -> Self {
        let all = requests.len();
        let mut times: Vec<Duration> = requests.into_iter().flatten().collect();
        let answered = 100.0 * times.len() as f64 / all.max(1) as f64;
        Self { answered, p99: (!times.is_empty()).then(|| ms(percentiles(&mut times).1)) }
    }
}

/// Connects and sends one request. Returns how long the answer took; `None` if there is none, or it
/// declines.
async fn come_and_ask(at: SocketAddr) -> Option<Duration> {
    let begin = Instant::now();
    let answer = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ADDRESSES[1], 0).into()).unwrap();
        let stream = socket.connect(at).await.ok()?;
        stream.set_nodelay(true).ok()?;
        HttpClient::over(stream).request("GET", "/echo", "").await
    };
    let answer = timeout(RESPONSE_TIMEOUT, answer).await.ok().flatten()?;
    (answer.status == 200).then(|| begin.elapsed())
}
