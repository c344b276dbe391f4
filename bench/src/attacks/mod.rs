//! Thousands of slow clients, or a few that flood: what good clients notice, and what memory they
//! cost.

mod clients;
pub(crate) mod peers;
pub(crate) mod totals;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tests::HttpClient;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::attacks::clients::{Source, attacks};
use crate::http::edge_server::EdgeServer;
use crate::http::open_loop::{OpenLoop, TimedResponse};
use crate::report::{median, ms, percentiles, row, title};

/// Good clients that stay, half of them at each of two addresses.
const CLIENTS: usize = 64;
/// One that an attack may come from too, and one that no attack comes from.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1))];
const REQUEST: &str = "GET /echo HTTP/1.1\r\nHost: mesh\r\n\r\n";
const RATE: f64 = 5000.0;
/// Short, as for half load, so that stalls of the machine spoil few rounds.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 11;
const WARM_UP: Duration = Duration::from_secs(1);
/// Good clients that come, ask once and go, one after the other.
const NEW_CLIENTS: usize = 100;
/// How long such a client waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// After the last attacker has come, and after all have gone.
const SETTLES: Duration = Duration::from_secs(2);

/// All attacks at each of them, one after the other; floods are HTTP/2, which one of them is asked
/// for here. With `only` none but those whose name begins so.
pub(crate) async fn attackers(fronts: &[EdgeServer], only: Option<&str>) {
    title(
        "5000 slow attackers, or 50 that flood: p99 of 64 good clients with 5000 requests a second, half of them at the address \
         127.0.0.1 and half at another one; and of new clients, one after the other",
    );
    let memories: Vec<u64> = fronts.iter().map(|front| front.process.rss_bytes()).collect();
    for attack in attacks().iter().filter(|attack| only.is_none_or(|only| attack.name.starts_with(only))) {
        for (from, text) in [(Source::OneAddress, "from 127.0.0.1"), (Source::ManyAddresses, "from 253 others")] {
            for (front, memory) in fronts.iter().zip(&memories) {
                if attack.is_flood() && front.name != "gateway" {
                    continue;
                }
                let at = front.process.address;
                let sources: Vec<_> = (0..CLIENTS).map(|number| Some(ADDRESSES[number % 2])).collect();
                let clients = OpenLoop::connect_from(&sources, at, REQUEST).await;
                // To warm up.
                clients.run_under_attack(RATE, WARM_UP).await;
                let usual = AttackSample::of(&clients, at).await;
                let running = attack.begin(at, from);
                sleep(attack.comes_within() + SETTLES).await;
                let under_attack = AttackSample::of(&clients, at).await;
                let grown = front.process.rss_bytes().saturating_sub(*memory) as f64 / 1e6;
                row(
                    &format!("{}, {} {text}", front.name, attack.name),
                    &format!("{}; memory + {grown:.1} MB", under_attack.beside(&usual)),
                );
                drop(running);
                sleep(SETTLES).await;
            }
        }
    }
}

/// What good clients see: those that stay, at each of the two addresses, and new ones of the
/// second.
struct AttackSample([AttackKind; 3]);

/// Percent of requests that were answered, and the 99th percentile of how long those took.
#[derive(Clone, Copy)]
struct AttackKind {
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
            let of = |round: &Vec<TimedResponse>| {
                let theirs = round.iter().filter(|answer| answer.client % 2 == number);
                AttackKind::of(theirs.map(|answer| answer.is_right.then_some(answer.took)).collect())
            };
            let kinds: Vec<AttackKind> = rounds.iter().map(of).collect();
            // The middle of the rounds: all of them in a list would show the machine's stalls.
            let times: Vec<f64> = kinds.iter().filter_map(|kind| kind.p99).collect();
            AttackKind {
                answered: kinds.iter().map(|kind| kind.answered).sum::<f64>() / kinds.len() as f64,
                p99: (!times.is_empty()).then(|| median(times.into_iter())),
            }
        };
        let mut new = Vec::new();
        for _ in 0..NEW_CLIENTS {
            new.push(come_and_ask(at).await);
        }
        Self([staying(0), staying(1), AttackKind::of(new)])
    }

    fn beside(&self, usual: &Self) -> String {
        let names = ["at 127.0.0.1", "elsewhere", "new"];
        let text = |((name, kind), usual): ((&str, &AttackKind), &AttackKind)| {
            let Some((p99, before)) = kind.p99.zip(usual.p99) else {
                return format!("{name} {:.0} % answered", kind.answered);
            };
            let answered =
                if kind.answered < 100.0 { format!(", {:.1} % answered", kind.answered) } else { String::new() };
            format!("{name} {p99:.2} ms ({:.1} ×){answered}", p99 / before)
        };
        names.into_iter().zip(&self.0).zip(&usual.0).map(text).collect::<Vec<_>>().join(", ")
    }
}

impl AttackKind {
    /// How long each request took; `None` for those that were declined, or not answered.
    fn of(requests: Vec<Option<Duration>>) -> Self {
        let all = requests.len();
        let mut times: Vec<Duration> = requests.into_iter().flatten().collect();
        let answered = 100.0 * times.len() as f64 / all.max(1) as f64;
        Self { answered, p99: (!times.is_empty()).then(|| ms(percentiles(&mut times).1)) }
    }
}

/// How long a new client waits for its answer; `None` if it gets none, or is declined.
async fn come_and_ask(at: SocketAddr) -> Option<Duration> {
    let begin = Instant::now();
    let answer = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ADDRESSES[1], 0).into()).unwrap();
        let stream = socket.connect(at).await.ok()?;
        stream.set_nodelay(true).ok()?;
        HttpClient::over(stream).request("GET", "/echo", "").await
    };
    let answer = timeout(PATIENCE, answer).await.ok().flatten()?;
    (answer.status == 200).then(|| begin.elapsed())
}
