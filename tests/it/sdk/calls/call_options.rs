//! The options of a call, and the provider it goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use node_sdk::{Balance, CallError, Deadline, Node, Peers, State, Trace};
use serde_json::{Value, json};
use tests::streams::HandlerResult;
use tests::{Cluster, Listener, Peer, eventually};
use tokio::time::sleep;

use crate::sdk::{number, providers};

#[tokio::test]
async fn calls_made_for_a_call_have_its_deadline_and_trace() {
    async fn deep(deadline: Deadline, trace: Trace) -> HandlerResult<(u128, String)> {
        Ok((deadline.remaining().unwrap_or_default().as_millis(), trace.id().to_owned()))
    }
    // It would give it a minute.
    async fn middle(peers: Peers) -> HandlerResult<(u128, String)> {
        Ok(peers.call::<(u128, String)>("GET/deep", &()).timeout(Duration::from_secs(60)).await?)
    }
    let cluster = Cluster::start();
    let _deep = cluster.node(Node::builder("deep").route("GET/deep", deep)).await;
    let middle = cluster.node(Node::builder("middle").route("GET/middle", middle)).await;
    middle.peers().wait_for(&["GET/deep"]).await;
    let mut caller = Peer::connect(middle.address()).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let meta = json!({ "d": 2000, "tp": traceparent });
    caller.send_packet(&json!({ "uri": "/middle", "method": "GET", "key": 1, "params": {}, "$": meta })).await;
    let answer = caller.next().await.unwrap();
    let (left, seen): (u128, String) = serde_json::from_value(answer["params"].clone()).unwrap();
    assert!((1000..=2000).contains(&left), "{left} ms");
    assert_eq!(seen, trace);
}

#[tokio::test]
async fn ov3_expired_calls_are_not_begun() {
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    async fn count() -> HandlerResult<usize> {
        Ok(BEGUN.fetch_add(1, Ordering::SeqCst))
    }
    let cluster = Cluster::start();
    let node = cluster.node(Node::builder("callee").route("GET/count", count)).await;
    let mut caller = Peer::connect(node.address()).await;
    let call = |d| json!({ "uri": "/count", "method": "GET", "key": 1, "params": {}, "$": { "d": d } });
    caller.send_packet(&call(0)).await;
    let refused = caller.next().await.unwrap();
    assert_eq!((&refused["$"]["s"], &refused["$"]["r"]), (&json!(504), &json!("deadline")));
    assert_eq!(BEGUN.load(Ordering::SeqCst), 0);
    caller.send_packet(&call(1000)).await;
    assert_eq!(caller.next().await.unwrap()["params"], 0);
    // These were made a second before one that is here already, so they have waited for a second on
    // the way: OV3.
    let call =
        |sent, d| json!({ "uri": "/count", "method": "GET", "key": 1, "params": {}, "$": { "d": d, "t": sent } });
    caller.send_packet(&call(5000, 1000)).await;
    assert_eq!(caller.next().await.unwrap()["params"], 1);
    for (d, reason) in [(1000, "deadline"), (1900, "overloaded")] {
        caller.send_packet(&call(4000, d)).await;
        assert_eq!(caller.next().await.unwrap()["$"]["r"], reason, "{d}");
    }
    caller.send_packet(&call(4000, 10_000)).await;
    assert_eq!(caller.next().await.unwrap()["params"], 2);
}

async fn connected(caller: &Node, count: usize) {
    eventually("all have been called", async || {
        caller.peers().gather::<usize>("GET/n", &()).await.iter().filter(|(_, answer)| answer.is_ok()).count() == count
    })
    .await;
}

#[tokio::test]
async fn a_call_can_go_to_all_to_one_or_where_its_key_belongs() {
    let cluster = Cluster::start();
    let nodes = providers(&cluster, 3, |_, node| node).await;
    let callers = [cluster.node(Node::builder("a")).await, cluster.node(Node::builder("b")).await];
    for caller in &callers {
        caller.peers().wait_until(|nodes| nodes.len() == 5).await;
        connected(caller, 3).await;
    }
    let mut all: Vec<_> = callers[0].peers().gather::<usize>("GET/n", &()).await;
    all.sort_by_key(|(address, _)| nodes.iter().position(|node| node.address() == *address));
    assert_eq!(all.into_iter().map(|(_, answer)| answer.unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    // By its id.
    let listed = callers[0].peers().nodes();
    let id_of = |node: &Node| {
        let listed = listed.iter().find(|listed| listed.port == node.address().port()).unwrap();
        listed.advert.as_ref().unwrap().id.clone().unwrap()
    };
    for (at, node) in nodes.iter().enumerate() {
        let call = callers[0].peers().call::<usize>("GET/n", &());
        assert_eq!(call.to_instance(&id_of(node)).await.unwrap(), at);
    }
    assert!(callers[0].peers().call::<usize>("GET/n", &()).to_instance("nobody").await.is_err());
    // By a key: all callers agree on its provider, and each provider gets some of the keys.
    let mut owners = [0; 3];
    for key in 0..60 {
        let key = format!("member {key}");
        let mut seen = Vec::new();
        for caller in &callers {
            seen.push(caller.peers().call::<usize>("GET/n", &()).sticky_key(&key).await.unwrap());
        }
        assert_eq!(seen[0], seen[1], "{key}");
        owners[seen[0]] += 1;
    }
    assert!(owners.iter().all(|keys| *keys > 5), "{owners:?}");
}

#[tokio::test]
async fn a_provider_in_the_own_zone_is_preferred() {
    let cluster = Cluster::start();
    let zone = |at| if at == 1 { "near" } else { "far" };
    let mut nodes = providers(&cluster, 3, |at, node| node.zone(zone(at))).await;
    let caller = cluster.node(Node::builder("caller").zone("near")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 4).await;
    connected(&caller, 3).await;
    for _ in 0..20 {
        assert_eq!(caller.peers().call::<usize>("GET/n", &()).await.unwrap(), 1);
    }
    drop(nodes.remove(1));
    for _ in 0..20 {
        assert_ne!(caller.peers().call::<usize>("GET/n", &()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn gu17_a_slow_provider_gets_few_calls() {
    async fn maybe_slow(number: State<usize>, calls: State<AtomicUsize>) -> HandlerResult<usize> {
        calls.fetch_add(1, Ordering::SeqCst);
        if *number == 0 {
            sleep(Duration::from_millis(30)).await;
        }
        Ok(*number)
    }
    let cluster = Cluster::start();
    let calls = Arc::new(AtomicUsize::new(0));
    let mut nodes = Vec::new();
    for number in 0..4_usize {
        let mut node = Node::builder("n").state(number);
        node = if number == 0 { node.shared_state(Arc::clone(&calls)) } else { node.state(AtomicUsize::new(0)) };
        nodes.push(cluster.node(node.route("GET/n", maybe_slow)).await);
    }
    for (balance, share) in [(Balance::RoundRobin, 90..=110), (Balance::PowerOfTwo, 0..=12)] {
        let caller = cluster.node(Node::builder("caller").balance(balance)).await;
        caller.peers().wait_for(&["GET/n"]).await;
        caller.peers().wait_until(|nodes| nodes.iter().filter(|node| node.name == "n").count() == 4).await;
        connected(&caller, 4).await;
        calls.store(0, Ordering::SeqCst);
        for _ in 0..400 {
            caller.peers().call::<usize>("GET/n", &()).await.unwrap();
        }
        let slow = calls.load(Ordering::SeqCst);
        assert!(share.contains(&slow), "{balance:?}: {slow} of 400 calls");
    }
}

#[tokio::test]
async fn lost_calls_are_retried_within_the_budget() {
    // The node crashes at each call.
    let mortal = Listener::bind().await;
    let cluster = Cluster::start();
    let mut registered = cluster.peer().await;
    let advert =
        json!({ "port": mortal.port(), "name": "mortal", "urls": ["GET/n", "POST/n"], "$": { "v": 2, "id": "m" } });
    registered.register_with(advert).await;
    let deaths = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&deaths);
    let dying = tokio::spawn(async move {
        loop {
            let mut connection = mortal.accept().await;
            while connection.next().await.is_some_and(|packet| packet["uri"] == "$hello") {}
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    async fn immortal() -> HandlerResult<u8> {
        Ok(1)
    }
    let _immortal = cluster.node(Node::builder("immortal").route("GET/n", immortal).route("POST/n", immortal)).await;
    let caller = cluster.node(Node::builder("caller").balance(Balance::RoundRobin)).await;
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    // Idempotent calls succeed, others report the loss.
    eventually("it has died of some", async || {
        assert_eq!(caller.peers().call::<u8>("GET/n", &()).await.unwrap(), 1);
        deaths.load(Ordering::SeqCst) >= 2
    })
    .await;
    eventually("a call that must not be repeated is lost", async || {
        matches!(caller.peers().call::<Value>("POST/n", &()).await, Err(CallError::Lost { .. }))
    })
    .await;
    eventually("one that says that it may be is not", async || {
        let before = deaths.load(Ordering::SeqCst);
        assert!(caller.peers().call::<Value>("POST/n", &()).idempotent().await.is_ok());
        deaths.load(Ordering::SeqCst) > before
    })
    .await;
    dying.abort();
}

#[tokio::test]
async fn gu15_when_most_are_ejected_none_is() {
    // Three nodes that do not answer, and one that does, which must not get all calls when the
    // others recover together.
    let cluster = Cluster::start();
    let mut frozen = Vec::new();
    for id in ["a", "b", "c"] {
        let listener = Listener::bind().await;
        let mut registered = cluster.peer().await;
        let advert = json!({ "port": listener.port(), "name": id, "urls": ["GET/n"], "$": { "v": 2, "id": id } });
        registered.register_with(advert).await;
        frozen.push((listener, registered));
    }
    let _nodes = providers(&cluster, 1, |_, node| node).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 5).await;
    let call = async || caller.peers().call::<Value>("GET/n", &()).timeout(Duration::from_millis(100)).await;
    let mut failed = 0;
    eventually("each has let a call run out of time", async || {
        failed += usize::from(call().await.is_err());
        failed >= 3
    })
    .await;
    // In the first two seconds most are ejected, so all are still called, and one of four calls
    // succeeds.
    let mut outcomes = [0, 0];
    for _ in 0..8 {
        outcomes[usize::from(call().await.is_ok())] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[tokio::test]
async fn no_time_is_too_long() {
    let cluster = Cluster::start();
    let node = cluster.node(Node::builder("n").state(7_usize).route("GET/n", number)).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/n"]).await;
    assert_eq!(caller.peers().call::<usize>("GET/n", &()).timeout(Duration::MAX).await.unwrap(), 7);
    let mut raw = Peer::connect(node.address()).await;
    for meta in [json!({ "d": u64::MAX }), json!({ "d": 1, "t": u64::MAX }), json!({ "t": 0, "d": u64::MAX })] {
        raw.send_packet(&json!({ "uri": "/n", "method": "GET", "key": 1, "params": {}, "$": meta })).await;
        assert_eq!(raw.next().await.unwrap()["params"], 7, "{meta}");
    }
}

#[tokio::test]
async fn e6_an_old_caller_may_register_what_it_can_read() {
    let cluster = Cluster::start();
    let node = cluster.node(Node::builder("usual").route("GET/long", long)).await;
    let mut key = 0;
    let address = node.address();
    let mut ask = async |caller: &mut Peer| {
        key += 1;
        caller.send(format!(r#"{{"uri":"/long","method":"GET","params":{{"key":{key}}}}}¶"#)).await;
        caller.next().await.unwrap()["errorcode"].clone()
    };
    let mut gate = cluster.peer().await;
    gate.register_with(json!({ "port": 1, "name": "gate", "urls": [], "readWindow": 200_000 })).await;
    gate.list_with("gate").await;
    node.peers().wait_until(|nodes| nodes.iter().any(|node| node.name == "gate")).await;
    let mut caller = Peer::connect(address).await;
    assert_eq!(ask(&mut caller).await, 0);
    // Nothing tells which peer of a host calls: what all of them can read counts.
    let other = cluster.registered("other").await;
    node.peers().wait_until(|nodes| nodes.iter().any(|node| node.name == "other")).await;
    assert_eq!(ask(&mut Peer::connect(address).await).await, 500);
    drop(other);
    eventually("it has gone, and the list is looked at again", async || ask(&mut caller).await == 0).await;
    for _ in 0..3 {
        assert_eq!(ask(&mut caller).await, 0, "again and again");
    }
}

async fn long() -> HandlerResult<String> {
    Ok("x".repeat(184_000))
}

#[tokio::test]
async fn e6_a_node_may_say_what_its_old_callers_can_read() {
    let cluster = Cluster::start();
    let usual = cluster.node(Node::builder("usual").route("GET/long", long)).await;
    let raised = Node::builder("raised").route("GET/long", long).max_legacy_response_bytes(200_000);
    let raised = cluster.node(raised).await;
    for (node, code) in [(&usual, 500), (&raised, 0)] {
        let mut caller = Peer::connect(node.address()).await;
        for key in 1..=3 {
            caller.send(format!(r#"{{"uri":"/long","method":"GET","params":{{"key":{key}}}}}¶"#)).await;
            let answer = caller.next().await.unwrap();
            assert_eq!((&answer["key"], &answer["errorcode"]), (&json!(key), &json!(code)));
            assert_eq!(answer["results"].as_str().map_or(0, str::len), if code == 0 { 184_000 } else { 0 });
        }
    }
}
