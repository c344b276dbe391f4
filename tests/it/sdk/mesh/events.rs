//! Events: they go to one node of each group, or to all nodes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use node_sdk::{CallError, Event, Node, NodeBuilder, Params, Peers, Route, ServiceError, State};
use serde_json::json;
use tests::{Cluster, Peer, eventually, request};

/// A node that adds up the payloads of its events.
fn counting(name: &str) -> (NodeBuilder, Arc<AtomicUsize>) {
    async fn add(Params(amount): Params<usize>, State(sum): State<AtomicUsize>) -> Result<(), ServiceError> {
        if amount == 0 {
            return Err(ServiceError::bad_request("nothing", "there is nothing to add"));
        }
        sum.fetch_add(amount, Ordering::Relaxed);
        Ok(())
    }
    let sum = Arc::new(AtomicUsize::new(0));
    (Node::builder(name).subscribe("orders.created", add).shared_state(Arc::clone(&sum)), sum)
}

/// Two nodes called `mail`, one called `stock`, and the sum of each.
async fn cluster() -> (Cluster, Vec<Node>, [Arc<AtomicUsize>; 3]) {
    let cluster = Cluster::start();
    let mut nodes = Vec::new();
    let mut sums = Vec::new();
    for name in ["mail", "mail", "stock"] {
        let (node, sum) = counting(name);
        nodes.push(cluster.node(node).await);
        sums.push(sum);
    }
    for node in &nodes {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    (cluster, nodes, sums.try_into().unwrap())
}

fn told(sums: &[Arc<AtomicUsize>; 3]) -> [usize; 3] {
    sums.each_ref().map(|sum| sum.load(Ordering::Relaxed))
}

#[tokio::test]
async fn one_node_of_each_group_gets_an_event() {
    let (cluster, _nodes, sums) = cluster().await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 4).await;
    for _ in 0..100 {
        assert_eq!(caller.peers().emit("orders.created", &1).unwrap(), 2);
    }
    eventually("all are told", async || told(&sums).iter().sum::<usize>() == 200).await;
    let [one, other, stock] = told(&sums);
    assert!(one > 20 && other > 20 && one + other == 100 && stock == 100, "{:?}", told(&sums));
    assert_eq!(caller.peers().emit("orders.deleted", &1).unwrap(), 0, "no node subscribes to that");
}

#[tokio::test]
async fn broadcast_reaches_all_subscribers_and_emit_one_of_each_group() {
    let (_cluster, nodes, sums) = cluster().await;
    // The node that emits an event gets it too, as one of its group.
    assert_eq!(nodes[0].peers().broadcast("orders.created", &1).unwrap(), 3);
    eventually("all are told", async || told(&sums) == [1, 1, 1]).await;
    assert_eq!(nodes[0].peers().emit("orders.created", &10).unwrap(), 2);
    eventually("one of each is told", async || {
        let [one, other, stock] = told(&sums);
        [one, other].contains(&11) && one + other == 12 && stock == 11
    })
    .await;
    let before = told(&sums);
    // An event that fails at a node does not affect later ones.
    assert_eq!(nodes[2].peers().broadcast("orders.created", &0).unwrap(), 3);
    assert_eq!(nodes[2].peers().broadcast("orders.created", &100).unwrap(), 3);
    eventually("all are told", async || told(&sums) == before.map(|sum| sum + 100)).await;
}

#[tokio::test]
async fn nodes_that_left_get_no_event_and_new_ones_do() {
    let (cluster, mut nodes, sums) = cluster().await;
    let stock = nodes.pop().unwrap();
    assert_eq!(nodes.remove(0).stop().await, 0);
    stock.peers().wait_until(|nodes| nodes.len() == 2).await;
    assert_eq!(stock.peers().broadcast("orders.created", &1).unwrap(), 2);
    let (new, sum) = counting("new");
    let _new = cluster.node(new).await;
    stock.peers().wait_until(|nodes| nodes.len() == 3).await;
    assert_eq!(stock.peers().broadcast("orders.created", &1).unwrap(), 3);
    eventually("they are told", async || told(&sums) == [0, 2, 2] && sum.load(Ordering::Relaxed) == 1).await;
}

/// What handlers have seen: the name of the handler, and that of the event.
type Seen = Arc<Mutex<Vec<String>>>;

/// A node with these subscriptions. It records each event with the subscription that it came by.
fn recording(name: &str, subscriptions: &[&str], seen: &Seen) -> NodeBuilder {
    async fn record(event: Event, route: Route, State(seen): State<Mutex<Vec<String>>>) -> Result<(), ServiceError> {
        seen.lock().unwrap().push(format!("{route} {}", event.name()));
        Ok(())
    }
    let node = Node::builder(name).shared_state(Arc::clone(seen));
    subscriptions.iter().fold(node, |node, subscription| node.subscribe(subscription, record))
}

fn take(seen: &Seen) -> Vec<String> {
    let mut all = std::mem::take(&mut *seen.lock().unwrap());
    all.sort_unstable();
    all
}

#[tokio::test]
async fn m10_an_event_goes_once_to_each_group_whose_patterns_it_belongs_to() {
    let cluster = Cluster::start();
    let seen: [Seen; 4] = Default::default();
    let node = |name, subscriptions: &[&str], at: usize| cluster.node(recording(name, subscriptions, &seen[at]));
    let _nodes = [
        node("mails", &["orders.*", "orders.created", ">"], 0).await,
        node("stock", &["orders.>"], 1).await,
        node("stock", &["*.created.eu"], 2).await,
        node("audit", &["members.*"], 3).await,
    ];
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    peers.wait_until(|nodes| nodes.len() == 5).await;
    let check = async |event: &str, to_all: bool, expected: [&[&str]; 4]| {
        let count = expected.iter().flat_map(|handlers| handlers.iter()).count();
        let reached = if to_all { peers.broadcast(event, &1) } else { peers.emit(event, &1) };
        assert_eq!(reached.unwrap(), count, "{event}");
        eventually(event, async || seen.iter().map(|seen| seen.lock().unwrap().len()).sum::<usize>() >= count).await;
        let expected = expected
            .map(|handlers| handlers.iter().map(|handler| format!("EVENT/{handler} {event}")).collect::<Vec<_>>());
        assert_eq!(seen.each_ref().map(take), expected, "{event}");
    };
    // The handler of the very name, and otherwise that of the most specific pattern.
    check("orders.created", false, [&["orders.created"], &["orders.>"], &[], &[]]).await;
    check("orders.paid", false, [&["orders.*"], &["orders.>"], &[], &[]]).await;
    check("members.left", false, [&[">"], &[], &[], &["members.*"]]).await;
    check("members", false, [&[">"], &[], &[], &[]]).await;
    // Of a group, a node with the more specific subscription; a broadcast goes to both.
    check("orders.created.eu", false, [&[">"], &["orders.>"], &[], &[]]).await;
    check("orders.created.eu", true, [&[">"], &["orders.>"], &["*.created.eu"], &[]]).await;
    for pattern in ["orders.*", "orders.>", "*"] {
        let error = peers.emit(pattern, &1).unwrap_err().to_string();
        assert!(error.contains("an event is emitted by its whole name"), "{error}");
    }
}

#[tokio::test]
async fn an_event_is_not_a_call() {
    async fn ask(peers: Peers) -> Result<String, ServiceError> {
        Ok(peers.call::<()>("EVENT/orders.created", &1).await.unwrap_err().to_string())
    }
    let (cluster, nodes, sums) = cluster().await;
    let asking = cluster.node(Node::builder("asking").public_routes().route("GET/ask", ask)).await;
    asking.peers().wait_until(|nodes| nodes.len() == 4).await;
    assert_eq!(asking.peers().call::<String>("GET/ask", &()).await.unwrap(), "no node offers EVENT/orders.created");
    // Nor does the gateway accept it.
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/ask").await;
    assert_eq!(request(gateway, "EVENT", "/orders.created", "1").await.status, 404);
    // A caller that asks for an answer gets none, and is still served.
    let mut peer = Peer::connect(nodes[2].address()).await;
    peer.send(r#"{"uri":"/orders.created","method":"EVENT","key":7,"$":{},"params":5}¶"#).await;
    peer.send(r#"{"uri":"/none","method":"GET","key":8,"$":{},"params":{}}¶"#).await;
    assert_eq!(peer.next().await.unwrap()["key"], 8);
    assert_eq!(told(&sums), [0, 0, 5]);
}

#[tokio::test]
async fn invalid_event_names_are_reported() {
    let node = Node::builder("callee").subscribe("orders/{id}", async || Ok::<_, ServiceError>(()));
    let error = node.start().await.unwrap_err().to_string();
    assert!(error.contains("'orders/{id}'") && error.contains("an event has no parameters"), "{error}");
    let (_cluster, nodes, _) = cluster().await;
    let large = json!("x".repeat(9 << 20));
    assert!(matches!(nodes[0].peers().emit("orders.created", &large), Err(CallError::TooLarge { .. })));
}
