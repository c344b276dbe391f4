//! Equal nodes get equal shares of the calls. The nodes are processes, and each answers with its
//! own id.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use node_sdk::{Node, Peers};
use tests::{Cluster, HttpClient, Process, pick_address};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use crate::programs::{GATEWAY, NODE};

/// Calls that are under way at once when there is no pause between them.
const IN_FLIGHT: usize = 16;
/// Calls of each caller in a round, and rounds: the shares of a single one are up to the system.
const CALLS_IN_ROUND: usize = 50;
const ROUNDS: usize = 15;
/// So many that a busy machine does not fail the test. Luck may pass it, too: `sdk/mesh/sharing`
/// and the simulation of `balance` are strict, on clocks of their own.
const MAX_TRIES: usize = 20;
/// Until when a node that has just joined has its fair share.
const FAIR_AFTER: Duration = Duration::from_secs(3);

/// One who calls again and again, and is answered with the id of a process.
enum Caller {
    Client(HttpClient),
    Node(Peers),
}

impl Caller {
    async fn call(&mut self) -> u32 {
        match self {
            Self::Client(client) => client.request("GET", "/who", "").await.unwrap().json().as_u64().unwrap() as u32,
            Self::Node(peers) => peers.call("GET/who", &()).await.unwrap(),
        }
    }
}

/// How many calls each process gets, in several rounds.
#[derive(Debug)]
struct Shares(Vec<HashMap<u32, usize>>);

impl Shares {
    /// Counts answers: those of each caller, round by round.
    fn of(answers: &[Vec<u32>], rounds: usize) -> Self {
        let mut shares = vec![HashMap::new(); rounds];
        for answers in answers {
            for (round, answers) in shares.iter_mut().zip(answers.chunks(answers.len() / rounds)) {
                for id in answers {
                    *round.entry(*id).or_default() += 1;
                }
            }
        }
        Self(shares)
    }

    /// Those of calls without a pause.
    async fn at_full_rate(callers: &mut Vec<Caller>, rounds: usize) -> Self {
        let mut busy = JoinSet::new();
        for mut caller in callers.drain(..) {
            busy.spawn(async move {
                let mut answers = Vec::new();
                for _ in 0..rounds * CALLS_IN_ROUND {
                    answers.push(caller.call().await);
                }
                (caller, answers)
            });
        }
        let (back, answers): (Vec<_>, Vec<_>) = busy.join_all().await.into_iter().unzip();
        callers.extend(back);
        Self::of(&answers, rounds)
    }

    /// Whether each of the nodes usually gets this part, in percent.
    fn are_within(&self, nodes: &[&Process], percent: &RangeInclusive<usize>) -> bool {
        nodes.iter().all(|node| {
            let share = |round: &HashMap<u32, usize>| {
                round.get(&id(node)).copied().unwrap_or_default() * 100 / round.values().sum::<usize>()
            };
            let mut shares: Vec<_> = self.0.iter().map(share).collect();
            shares.sort_unstable();
            percent.contains(&shares[shares.len() / 2])
        })
    }

    fn knows(&self, node: &Process) -> bool {
        self.0.iter().any(|round| round.contains_key(&id(node)))
    }
}

fn id(node: &Process) -> u32 {
    node.pid().as_raw_nonzero().get().cast_unsigned()
}

/// Checks what each of the nodes usually gets of calls without a pause. Where processes are many,
/// the system keeps a node from running for so long that it is slow indeed, and others answer in
/// its place: then it is tried again.
async fn check(callers: &mut Vec<Caller>, nodes: &[&Process], percent: RangeInclusive<usize>) {
    let mut seen = Vec::new();
    for _ in 0..MAX_TRIES {
        let shares = Shares::at_full_rate(callers, ROUNDS).await;
        if shares.are_within(nodes, &percent) {
            return;
        }
        seen.push(shares);
    }
    panic!("not {percent:?} %: {seen:?}");
}

/// Two nodes, a gateway with two workers, and a node that calls.
struct Scene {
    cluster: Cluster,
    nodes: [Process; 2],
    at: SocketAddr,
    caller: Node,
    _gateway: Process,
}

impl Scene {
    async fn start() -> Self {
        let cluster = Cluster::start();
        let (address, at) = (cluster.address.to_string(), pick_address());
        let nodes = [Process::start(NODE, &[&address]), Process::start(NODE, &[&address])];
        let listen = at.to_string();
        let arguments = ["--listen", &listen, "--admin", "off", "--workers", "2", "--distributor", &address];
        let gateway = Process::start(GATEWAY, &arguments);
        let caller = cluster.node(Node::builder("caller")).await;
        caller.peers().wait_until(|nodes| nodes.len() == 4).await;
        Cluster::wait_routed(at, "/who").await;
        Self { cluster, nodes, at, caller, _gateway: gateway }
    }

    /// A client with a connection of its own.
    async fn client(&self) -> Caller {
        Caller::Client(HttpClient::connect(self.at).await)
    }

    fn node(&self) -> Caller {
        Caller::Node(self.caller.peers().clone())
    }
}

#[tokio::test]
async fn c9_at_one_request_a_second_shares_are_even() {
    let scene = Scene::start().await;
    let [one, two] = &scene.nodes;
    let (mut clients, mut nodes) = (Vec::new(), Vec::new());
    let mut seconds = interval(Duration::from_secs(1));
    for _ in 0..20 {
        seconds.tick().await;
        // As a person does with curl: another connection each time.
        clients.push(scene.client().await.call().await);
        nodes.push(scene.node().call().await);
    }
    for answers in [clients, nodes] {
        let shares = Shares::of(&[answers], 1);
        assert!(shares.are_within(&[one, two], &(45..=55)), "{shares:?}");
    }
}

#[tokio::test]
async fn b10_at_full_rate_shares_are_even_and_a_newcomer_has_its_own() {
    let scene = Scene::start().await;
    let mut clients = Vec::new();
    for _ in 0..IN_FLIGHT {
        clients.push(scene.client().await);
    }
    let mut nodes: Vec<_> = (0..IN_FLIGHT).map(|_| scene.node()).collect();
    for callers in [&mut clients, &mut nodes] {
        let [one, two] = &scene.nodes;
        check(callers, &[one, two], 45..=55).await;
    }
    let third = Process::start(NODE, &[&scene.cluster.address.to_string()]);
    scene.caller.peers().wait_until(|nodes| nodes.len() == 5).await;
    let fair = Instant::now() + FAIR_AFTER;
    // It is connected to once it is called.
    for callers in [&mut clients, &mut nodes] {
        while !Shares::at_full_rate(callers, 1).await.knows(&third) {}
    }
    sleep_until(fair).await;
    for callers in [&mut clients, &mut nodes] {
        let [one, two] = &scene.nodes;
        check(callers, &[one, two, &third], 28..=39).await;
    }
}
