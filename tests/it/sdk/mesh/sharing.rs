//! How calls and events are shared among the nodes that offer a route.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_sdk::gateway::GatewayPeers;
use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{CallError, Node, Params, Peers, ServiceError, State};
use tests::streams::HandlerResult;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::sdk::number;

#[tokio::test(start_paused = true)]
async fn b6_a_key_has_one_provider_for_all_callers() {
    let mesh = TestMesh::start();
    let mut nodes = Vec::new();
    for at in 0..4_usize {
        let node = Node::builder("n").state(at);
        // The last two call only.
        let node = if at < 2 { node.route("GET/n", number) } else { node };
        nodes.push(mesh.node(node).await.unwrap());
    }
    for node in &nodes {
        node.peers().wait_until(|nodes| nodes.len() == 4).await;
    }
    // From the first call on, when nothing is connected yet.
    let mut owners = [0; 2];
    for key in 0..40 {
        let key = format!("u{key}");
        let mut seen = Vec::new();
        for node in &nodes {
            seen.push(node.peers().call::<usize>("GET/n", &()).sticky_key(&key).await.unwrap());
        }
        assert!(seen.iter().all(|owner| *owner == seen[0]), "{key}: {seen:?}");
        owners[seen[0]] += 1;
    }
    assert!(owners.iter().all(|keys| *keys > 5), "{owners:?}");
    // Without a key a node calls itself.
    for (at, node) in nodes[..2].iter().enumerate() {
        assert_eq!(node.peers().call::<usize>("GET/n", &()).await.unwrap(), at);
    }
    // A node that drains is not a provider, not even for itself.
    nodes[0].set_draining(true);
    nodes[0].peers().wait_until(|nodes| nodes.iter().any(|n| n.advert.as_ref().is_some_and(|a| a.draining))).await;
    for key in ["u1", "u2", "u3"] {
        assert_eq!(nodes[0].peers().call::<usize>("GET/n", &()).sticky_key(key).await.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn b7_a_call_that_its_own_node_has_no_room_for_is_tried_elsewhere() {
    async fn busy(number: State<usize>) -> HandlerResult<usize> {
        sleep(Duration::from_secs(1)).await;
        Ok(*number)
    }
    async fn says_so(number: State<usize>) -> HandlerResult<usize> {
        if *number == 0 { Err(ServiceError::new(503, "overloaded", "not now")) } else { Ok(*number) }
    }
    let mesh = TestMesh::start();
    let node =
        |at: usize| Node::builder("n").state(at).route("GET/n", busy).max_concurrency(1).route("POST/n", says_so);
    let nodes = [mesh.node(node(0)).await.unwrap(), mesh.node(node(1)).await.unwrap()];
    let call = async |url: &'static str| nodes[0].peers().call::<usize>(url, &()).await;
    // Alone, its own refusal is all there is to tell.
    nodes[0].peers().wait_until(|nodes| nodes.len() == 2).await;
    let (one, other, third) = tokio::join!(call("GET/n"), call("GET/n"), call("GET/n"));
    assert_eq!((one.unwrap(), other.unwrap()), (0, 1));
    assert!(matches!(third, Err(CallError::Refused { status: 503, .. })));
    assert_eq!(call("POST/n").await.unwrap(), 1, "a handler that says so");
    let [here, sibling] = nodes;
    sibling.kill();
    here.peers().wait_until(|nodes| nodes.len() == 1).await;
    let refused = here.peers().call::<usize>("POST/n", &()).await;
    assert!(matches!(refused, Err(CallError::Refused { status: 503, .. })), "{refused:?}");
}

/// The events that a node was sent, in order.
type Received = Mutex<Vec<usize>>;

async fn note(Params(number): Params<usize>, told: State<Received>) -> HandlerResult<()> {
    sleep(Duration::from_millis(10)).await;
    told.lock().unwrap().push(number);
    Ok(())
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(Duration::from_secs(60), met).await.is_ok(), "{what}");
}

#[tokio::test(start_paused = true)]
async fn b7_a_subscriber_shares_its_events_with_its_group() {
    let mesh = TestMesh::start();
    let mut nodes = Vec::new();
    let told: [Arc<Received>; 3] = Default::default();
    for (at, name) in ["mail", "mail", "stock"].into_iter().enumerate() {
        let node = Node::builder(name).subscribe("ordered", note).shared_state(Arc::clone(&told[at]));
        nodes.push(mesh.node(node).await.unwrap());
        // As long as it is alone it takes all, listed or not.
        if at == 0 {
            assert_eq!(nodes[0].peers().emit("ordered", &0).unwrap(), 1);
            until("it is told", || told[0].lock().unwrap().len() == 1).await;
        }
    }
    nodes[0].peers().wait_until(|nodes| nodes.len() == 3).await;
    for number in 0..200 {
        // All at once: nothing is connected yet.
        assert_eq!(nodes[0].peers().emit("ordered", &number).unwrap(), 2);
    }
    let counts = || told.each_ref().map(|told| told.lock().unwrap().len());
    until("all are told", || counts().iter().sum::<usize>() == 401).await;
    let [one, other, stock] = counts();
    assert!(one > 60 && other > 60 && one + other == 201 && stock == 200, "{:?}", counts());
    // A third member has its share, too.
    let third = Arc::new(Received::default());
    let node = Node::builder("mail").subscribe("ordered", note).shared_state(Arc::clone(&third));
    let last = mesh.node(node).await.unwrap();
    nodes[0].peers().wait_until(|nodes| nodes.len() == 4).await;
    // Once it is connected, and its slow start is over.
    for _ in 0..20 {
        nodes[0].peers().emit("ordered", &0).unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let all = || [counts()[0], counts()[1], third.lock().unwrap().len()];
    let before = all();
    for number in 0..200 {
        nodes[0].peers().emit("ordered", &number).unwrap();
    }
    until("all are told", || all().iter().sum::<usize>() == before.iter().sum::<usize>() + 200).await;
    let shares = [0, 1, 2].map(|at| all()[at] - before[at]);
    assert!(shares.iter().all(|share| *share > 30), "{shares:?}");
    last.kill();
    nodes[0].peers().wait_until(|nodes| nodes.len() == 3).await;
    let [one, ..] = counts();
    // A member that is gone leaves all to the other.
    nodes.remove(1).kill();
    nodes[0].peers().wait_until(|nodes| nodes.len() == 2).await;
    assert_eq!(nodes[0].peers().emit("ordered", &7).unwrap(), 2);
    until("it is told", || counts()[0] == one + 1).await;
}

#[tokio::test(start_paused = true)]
async fn b8_events_wait_for_their_turn_within_a_bound() {
    let mesh = TestMesh::start();
    let told = Arc::new(Received::default());
    let node = |name: &str| {
        let node = Node::builder(name).shared_state(Arc::clone(&told));
        node.subscribe("x.y", note).max_concurrency(1).route("POST/note", note).max_concurrency(1)
    };
    let callee = mesh.node(node("callee")).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    let check = async |from: &TestNode, is_event: bool, count: usize, expected: usize, lost: u64| {
        let before = callee.lost_events();
        for number in 0..count {
            if is_event {
                assert_eq!(from.peers().emit("x.y", &number).unwrap(), 1);
            } else {
                from.peers().send("POST/note", &number).await.unwrap();
            }
        }
        until("all have run", || told.lock().unwrap().len() == expected).await;
        sleep(Duration::from_secs(1)).await;
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told, (0..expected).collect::<Vec<_>>(), "in their order");
        assert_eq!(callee.lost_events() - before, lost);
    };
    for from in [&caller, &callee] {
        check(from, true, 10, 10, 0).await;
        check(from, false, 10, 10, 0).await;
        // One at work, and 256 that wait.
        check(from, true, 300, 257, 43).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c9_a_newcomer_has_its_turns_at_once_in_all_threads() {
    async fn who(name: State<String>) -> HandlerResult<String> {
        Ok(String::clone(&name))
    }
    let mesh = TestMesh::start();
    let offering =
        async |name: &str| mesh.node(Node::builder(name).route("GET/who", who).state(name.to_owned())).await.unwrap();
    let (_old, caller) = (offering("old").await, mesh.node(Node::builder("caller")).await.unwrap());
    caller.peers().wait_for(&["GET/who"]).await;
    // As many threads as a gateway has workers on a large machine.
    let threads: Vec<_> = (0..16).map(|_| caller.peers().for_thread()).collect();
    for peers in &threads {
        tokio::spawn(peers.connect_newcomers());
        assert_eq!(peers.call::<String>("GET/who", &()).await.unwrap(), "old");
    }
    let _new = offering("new").await;
    caller.peers().wait_until(|nodes| nodes.iter().any(|node| node.name == "new")).await;
    // Threads that take turns each for itself may be lucky once, but not ten times.
    for round in 0..10 {
        let mut new = 0;
        for thread in 0..15 {
            // A person clicks.
            sleep(Duration::from_secs(1)).await;
            new +=
                usize::from(threads[(round + thread * 7) % 16].call::<String>("GET/who", &()).await.unwrap() == "new");
        }
        assert!((7..=8).contains(&new), "{new} of 15 in round {round}");
    }
}

/// A node whose answers are as late by chance as those of a process on a busy machine.
struct NoisyNode {
    at: usize,
    /// Where its pseudo-random numbers are, and until when the system lets it wait.
    state: Mutex<(u64, Instant)>,
}

impl NoisyNode {
    fn new(at: usize) -> Self {
        Self { at, state: Mutex::new((at as u64, Instant::now())) }
    }

    /// When a call that arrives now is answered.
    fn answers_at(&self) -> Instant {
        let mut state = self.state.lock().unwrap();
        let (random, waits_until) = &mut *state;
        // The generator of Knuth's MMIX.
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (now, drawn) = (Instant::now(), *random >> 33);
        if drawn % 200 == 0 {
            *waits_until = now + Duration::from_millis(5 + drawn / 200 % 20);
        }
        now.max(*waits_until) + Duration::from_millis(1 + drawn / 4000 % 4)
    }
}

async fn noisy(node: State<NoisyNode>) -> HandlerResult<usize> {
    sleep_until(node.answers_at()).await;
    Ok(node.at)
}

/// How many of the calls of this time each of the nodes gets, in percent, if this many are under
/// way at each moment.
async fn shares_in(time: Duration, in_flight: usize, threads: &[Peers; 2]) -> [usize; 3] {
    let (end, mut callers) = (Instant::now() + time, JoinSet::new());
    for at in 0..in_flight {
        let peers = threads[at % 2].clone();
        callers.spawn(async move {
            let mut counts = [0; 3];
            while Instant::now() < end {
                counts[peers.call::<usize>("GET/noisy", &()).await.unwrap()] += 1;
            }
            counts
        });
    }
    let counts = callers.join_all().await;
    let calls_of = |at: usize| counts.iter().map(|counts| counts[at]).sum::<usize>();
    [0, 1, 2].map(|at| calls_of(at) * 100 / (calls_of(0) + calls_of(1) + calls_of(2)))
}

#[tokio::test(start_paused = true)]
async fn b10_shares_are_even_whatever_the_noise_and_a_newcomer_has_its_own() {
    let mesh = TestMesh::start();
    let start = async |at| {
        let node = Node::builder("noisy").shared_state(Arc::new(NoisyNode::new(at)));
        mesh.node(node.route("GET/noisy", noisy)).await.unwrap()
    };
    let _nodes = [start(0).await, start(1).await];
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    let threads = [caller.peers().clone(), caller.peers().for_thread()];
    tokio::spawn(threads[1].connect_newcomers());
    // Each node is asked for its part of each second. The clock is the test's own, so this is
    // checked once.
    let check = async |in_flight, nodes: usize, percent: RangeInclusive<usize>| {
        for second in 0..5 {
            let shares = shares_in(Duration::from_secs(1), in_flight, &threads).await;
            let are_even = shares[..nodes].iter().all(|share| percent.contains(share));
            assert!(are_even, "{shares:?} with {in_flight} in flight, second {second}");
        }
    };
    shares_in(Duration::from_secs(4), 16, &threads).await;
    check(1, 2, 49..=51).await;
    check(16, 2, 47..=53).await;
    let _newcomer = start(2).await;
    caller.peers().wait_until(|nodes| nodes.len() == 4).await;
    shares_in(Duration::from_secs(3), 16, &threads).await;
    check(16, 3, 30..=36).await;
    check(1, 3, 32..=34).await;
}
