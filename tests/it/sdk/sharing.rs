//! How calls and events are shared among the nodes that offer a route.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_sdk::gateway::GatewayPeers;
use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{CallError, Node, Params, ServiceError, State};
use tests::streams::HandlerResult;
use tokio::time::{sleep, timeout};

use super::number;

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
    // A node that drains is no provider, for itself neither.
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
    let mut new = 0;
    for thread in 0..15 {
        // A person clicks.
        sleep(Duration::from_secs(1)).await;
        new += usize::from(threads[thread * 7 % 16].call::<String>("GET/who", &()).await.unwrap() == "new");
    }
    assert!((7..=8).contains(&new), "{new} of 15");
}
