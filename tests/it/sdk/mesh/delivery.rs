//! Events that are acknowledged: tried again until each group has handled them, in order by key.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{CallError, DeliveryError, Event, Node, NodeBuilder, Params, Peers, ServiceError, State};
use serde_json::json;
use tests::{Cluster, Peer, pick_port};
use tokio::time::{Instant, sleep, timeout};

/// What a node has seen: the payload, the id and the attempt of each event, when its handler began.
type Seen = Arc<Mutex<Vec<(u64, String, u8)>>>;

/// Answers each attempt at an event with what the test wants.
struct Answers {
    seen: Seen,
    /// How many attempts fail with this status before one succeeds.
    failures: AtomicUsize,
    status: u16,
    takes: Duration,
    at_work: AtomicUsize,
}

async fn handle(event: Event, Params(number): Params<u64>, State(answers): State<Answers>) -> Result<(), ServiceError> {
    let id = event.id().expect("a delivered event has an id").to_owned();
    answers.seen.lock().unwrap().push((number, id, event.attempt()));
    if event.key().is_some() {
        assert_eq!(answers.at_work.fetch_add(1, Ordering::SeqCst), 0, "one event of the key is at work");
    }
    sleep(answers.takes).await;
    answers.at_work.store(0, Ordering::SeqCst);
    let left = answers.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    match left {
        Ok(_) => Err(ServiceError::new(answers.status, "not_yet", "try again")),
        Err(_) => Ok(()),
    }
}

fn subscriber(name: &str, failures: usize, status: u16, takes: Duration) -> (NodeBuilder, Seen) {
    let seen = Seen::default();
    let (failures, at_work) = (AtomicUsize::new(failures), AtomicUsize::new(0));
    let answers = Answers { seen: Arc::clone(&seen), failures, status, takes, at_work };
    (Node::builder(name).subscribe("orders.*", handle).state(answers), seen)
}

fn numbers(seen: &Seen) -> Vec<u64> {
    seen.lock().unwrap().iter().map(|(number, ..)| *number).collect()
}

async fn knows(node: &TestNode, count: usize) {
    let known = node.peers().wait_until(|nodes| nodes.len() == count);
    assert!(timeout(Duration::from_secs(600), known).await.is_ok(), "{} nodes", node.peers().nodes().len());
}

const QUICK: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn m10_an_event_is_acknowledged_when_each_group_has_handled_it() {
    let mesh = TestMesh::start();
    let (mails, first) = subscriber("mails", 0, 500, QUICK);
    let (more_mails, second) = subscriber("mails", 0, 500, QUICK);
    let (stock, third) = subscriber("stock", 0, 500, QUICK);
    let _nodes =
        [mesh.node(mails).await.unwrap(), mesh.node(more_mails).await.unwrap(), mesh.node(stock).await.unwrap()];
    let shop = mesh.node(Node::builder("shop")).await.unwrap();
    knows(&shop, 4).await;
    for number in 0..50 {
        assert_eq!(shop.peers().deliver("orders.created", &number).await.unwrap(), 2);
        assert_eq!(numbers(&third).last(), Some(&number), "it is handled by then");
    }
    let shares = [&first, &second].map(|seen| numbers(seen).len());
    assert!(shares.iter().all(|share| *share > 10) && shares.iter().sum::<usize>() == 50, "{shares:?}");
    assert_eq!(shop.peers().deliver("members.joined", &1).await.unwrap(), 0, "no node subscribes to that");
    let error = shop.peers().deliver("orders.*", &1).await.unwrap_err();
    assert!(matches!(error, DeliveryError::NotSent(CallError::BadUrl { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn m10_an_attempt_that_fails_is_made_again_under_the_same_id() {
    let mesh = TestMesh::start();
    let (mails, seen) = subscriber("mails", 3, 503, QUICK);
    let (stock, refusing) = subscriber("stock", 100, 409, QUICK);
    let _mails = mesh.node(mails).await.unwrap();
    let shop = mesh.node(Node::builder("shop")).await.unwrap();
    knows(&shop, 2).await;
    assert_eq!(shop.peers().deliver("orders.created", &7).await.unwrap(), 1);
    let attempts = seen.lock().unwrap().clone();
    assert_eq!(attempts.iter().map(|(.., attempt)| *attempt).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(attempts.iter().all(|(_, id, _)| *id == attempts[0].1 && id.len() == 32), "{attempts:?}");
    // A refusal that would come again is final, and the other group has the event.
    let _stock = mesh.node(stock).await.unwrap();
    knows(&shop, 3).await;
    let error = shop.peers().deliver("orders.created", &8).id("mine").await.unwrap_err();
    let DeliveryError::Unacknowledged { acknowledged, failed, .. } = &error else { panic!("{error:?}") };
    assert_eq!((acknowledged.len(), failed[0].0.as_str(), failed[0].1.status()), (1, "stock", Some(409)));
    assert!(error.to_string().starts_with("orders.created was not acknowledged by stock (409 not_yet"), "{error}");
    assert_eq!(*refusing.lock().unwrap(), [(8, "mine".to_owned(), 0)]);
}

#[tokio::test(start_paused = true)]
async fn m10_a_node_that_is_lost_or_hangs_is_replaced_by_another_one_of_its_group() {
    let mesh = TestMesh::start();
    let (hanging, first) = subscriber("mails", 0, 500, Duration::from_secs(3600));
    let hanging = mesh.node(hanging).await.unwrap();
    let shop = mesh.node(Node::builder("shop")).await.unwrap();
    knows(&shop, 2).await;
    let peers = shop.peers().clone();
    let delivery = tokio::spawn(async move { peers.deliver("orders.created", &1).await });
    while numbers(&first).is_empty() {
        sleep(QUICK).await;
    }
    let (mails, second) = subscriber("mails", 0, 500, QUICK);
    let mails = mesh.node(mails).await.unwrap();
    let killed = Instant::now();
    hanging.kill();
    assert_eq!(delivery.await.unwrap().unwrap(), 1);
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert_eq!((numbers(&first), numbers(&second)), (vec![1], vec![1]));
    // A group that is away is waited for, as long as the delivery may take.
    mails.kill();
    knows(&shop, 1).await;
    let peers = shop.peers().clone();
    let delivery = tokio::spawn(async move { peers.deliver("orders.created", &2).groups(["mails"]).await });
    sleep(Duration::from_secs(20)).await;
    let (mails, third) = subscriber("mails", 0, 500, QUICK);
    let _mails = mesh.node(mails).await.unwrap();
    assert_eq!(delivery.await.unwrap().unwrap(), 1);
    assert_eq!(numbers(&third), [2]);
    let began = Instant::now();
    let never = shop.peers().deliver("orders.created", &3).groups(["nobody"]).timeout(Duration::from_secs(10));
    let error = never.await.unwrap_err();
    let DeliveryError::Unacknowledged { failed, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(failed[..], [(ref name, CallError::NoProvider { .. })] if name == "nobody"), "{failed:?}");
    assert!(began.elapsed() <= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn m10_events_of_one_key_are_handled_in_order_whatever_fails() {
    let mesh = TestMesh::start();
    let (mails, first) = subscriber("mails", 3, 500, Duration::from_millis(20));
    let (more_mails, second) = subscriber("mails", 3, 500, Duration::from_millis(20));
    let _mails = [mesh.node(mails).await.unwrap(), mesh.node(more_mails).await.unwrap()];
    let shops = [mesh.node(Node::builder("shop")).await.unwrap(), mesh.node(Node::builder("shop")).await.unwrap()];
    for shop in &shops {
        knows(shop, 4).await;
    }
    let deliver = |shop: &TestNode, numbers: std::ops::Range<u64>| {
        let peers = shop.peers().clone();
        join_all(numbers.map(move |number| peers.deliver("orders.created", &number).key("order-7").into_future()))
    };
    let (one, other) = tokio::join!(deliver(&shops[0], 0..40), deliver(&shops[1], 100..140));
    assert!(one.iter().chain(&other).all(|outcome| matches!(outcome, Ok(1))), "{one:?} {other:?}");
    // Those that were handled last of each number, in the order of all nodes.
    let all: Vec<u64> = [numbers(&first), numbers(&second)].concat();
    for numbers in [0..40, 100..140] {
        for seen in [&first, &second] {
            let mine: Vec<u64> = self::numbers(seen).into_iter().filter(|number| numbers.contains(number)).collect();
            assert!(mine.is_sorted(), "{mine:?}");
        }
        assert!(numbers.clone().all(|number| all.contains(&number)));
    }
    let shares = [numbers(&first).len(), numbers(&second).len()];
    assert!(shares.iter().any(|share| *share < 10), "they stay with one node, but for what fails: {shares:?}");
    // Another key does not wait.
    let slow = shops[0].peers().deliver("orders.created", &1).key("slow").into_future();
    let began = Instant::now();
    let quick = shops[0].peers().deliver("orders.created", &2).key("quick").into_future();
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(slow.is_ok() && quick.is_ok() && began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn m10_a_node_delivers_to_itself_and_a_handler_ends_before_its_deadline() {
    async fn order(Params(number): Params<u64>, peers: Peers) -> Result<usize, ServiceError> {
        Ok(peers.deliver("orders.created", &number).groups(["nobody"]).await?)
    }
    let mesh = TestMesh::start();
    let (mails, seen) = subscriber("mails", 1, 500, QUICK);
    let mails = mesh.node(mails.route("POST/orders", order)).await.unwrap();
    assert_eq!(mails.peers().deliver("orders.created", &1).key("k").await.unwrap(), 1);
    assert_eq!(mails.peers().deliver("orders.created", &2).await.unwrap(), 1);
    assert_eq!(numbers(&seen), [1, 1, 2]);
    let began = Instant::now();
    let error = mails.peers().call::<usize>("POST/orders", &3).timeout(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.status(), Some(503), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn m10_an_event_is_answered_only_if_it_says_which_one_it_is() {
    let cluster = Cluster::start();
    let (mails, seen) = subscriber("mails", 1, 422, QUICK);
    let mails = cluster.node(mails).await;
    let mut peer = Peer::connect(mails.address()).await;
    for (key, expected) in [(1, json!({"s": 422, "r": "not_yet", "m": "try again"})), (2, json!({}))] {
        let packet =
            json!({"uri": "/orders.paid", "method": "EVENT", "key": key, "$": {"e": "e-1", "at": 2}, "params": 5});
        peer.send(&format!("{packet}¶")).await;
        let answer = peer.next().await.unwrap();
        assert_eq!((&answer["key"], &answer["$"]), (&json!(key), &expected));
    }
    assert_eq!(*seen.lock().unwrap(), [(5, "e-1".to_owned(), 2), (5, "e-1".to_owned(), 2)]);
    // A node that does not say that it acknowledges events is not waited for.
    let mut silent = cluster.peer().await;
    let params = json!({"port": pick_port(), "name": "silent", "urls": ["EVENT/told"], "$": {"v": 2, "id": "s"}});
    silent.send(&format!("{}¶", json!({"uri": "/distributes", "method": "POST", "params": params}))).await;
    let shop = cluster.node(Node::builder("shop")).await;
    shop.peers().wait_until(|nodes| nodes.len() == 3).await;
    let error = shop.peers().deliver("told", &1).await.unwrap_err().to_string();
    assert!(error.contains("no node called silent can acknowledge told: upgrade the library"), "{error}");
}
