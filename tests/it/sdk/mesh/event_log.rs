//! Events that are kept in a log: they come after crashes of either side, in order by key.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{Event, LogError, Node, NodeBuilder, Params, PublishError, ServiceError, StartError, State};
use tests::eventually;
use tokio::sync::Semaphore;

/// What a subscriber has handled: the payload, and the attempt.
type Seen = Arc<Mutex<Vec<(u64, u8)>>>;

struct Subscriber {
    seen: Seen,
    /// Handlers that may end.
    may_end: Semaphore,
}

async fn handle(event: Event, Params(number): Params<u64>, State(mine): State<Subscriber>) -> Result<(), ServiceError> {
    mine.may_end.acquire().await.unwrap().forget();
    if number == 13 {
        return Err(ServiceError::bad_request("unlucky", "never"));
    }
    if number == 7 && event.attempt() == 0 {
        return Err(ServiceError::internal("not yet"));
    }
    mine.seen.lock().unwrap().push((number, event.attempt()));
    Ok(())
}

/// A node called `mails`, of which that many handlers may end.
fn mails(seen: &Seen, handlers: usize) -> NodeBuilder {
    let state = Subscriber { seen: Arc::clone(seen), may_end: Semaphore::new(handlers) };
    Node::builder("mails").subscribe_durably("orders.*", "welcome", handle).state(state)
}

fn shop(file: &Path) -> NodeBuilder {
    Node::builder("shop").event_log(file)
}

fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("events.db")
}

fn numbers(seen: &Seen) -> Vec<u64> {
    let mut numbers: Vec<u64> = seen.lock().unwrap().iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers
}

async fn publish(shop: &TestNode, numbers: std::ops::Range<u64>) {
    for number in numbers {
        shop.peers().publish("orders.created", &number).await.unwrap();
    }
}

const ALL: usize = 1_000_000;

#[tokio::test]
async fn m10_a_published_event_comes_to_subscribers_that_were_away_and_to_one_of_each_group() {
    let (mesh, folder) = (TestMesh::start(), tempfile::tempdir().unwrap());
    let shop = mesh.node(shop(&file(&folder))).await.unwrap();
    // Before there is a subscriber.
    publish(&shop, 20..30).await;
    shop.peers().publish("members.joined", &1).await.unwrap();
    let seen: [Seen; 2] = Default::default();
    let first = mesh.node(mails(&seen[0], ALL)).await.unwrap();
    eventually("they come", async || numbers(&seen[0]) == (20..30).collect::<Vec<_>>()).await;
    let _second = mesh.node(mails(&seen[1], ALL)).await.unwrap();
    publish(&shop, 100..200).await;
    let both = || [numbers(&seen[0]), numbers(&seen[1])].concat().len();
    eventually("each comes once", async || both() == 110).await;
    // While no node is there.
    first.stop().await;
    publish(&shop, 200..210).await;
    eventually("the other one has them", async || both() == 120).await;
    let all: std::collections::BTreeSet<u64> = [numbers(&seen[0]), numbers(&seen[1])].concat().into_iter().collect();
    assert_eq!(all.len(), 120, "none came twice");
}

#[tokio::test]
async fn m10_no_crash_of_either_side_loses_an_event() {
    let (mesh, folder) = (TestMesh::start(), tempfile::tempdir().unwrap());
    let seen: Seen = Arc::default();
    let publisher = mesh.node(shop(&file(&folder))).await.unwrap();
    publish(&publisher, 20..40).await;
    // It handles five, and is killed while it is at work on others.
    let subscriber = mesh.node(mails(&seen, 5)).await.unwrap();
    eventually("some are handled", async || numbers(&seen).len() == 5).await;
    subscriber.kill();
    // So is the log, with its node. What was acknowledged stays so; what was handled may come
    // again.
    publisher.kill();
    let started = Mutex::new(None);
    eventually("the file is free", async || match mesh.node(shop(&file(&folder))).await {
        Ok(node) => {
            *started.lock().unwrap() = Some(node);
            true
        }
        Err(StartError::EventLog { source: LogError::InUse, .. }) => false,
        Err(error) => panic!("{error}"),
    })
    .await;
    let publisher = started.into_inner().unwrap().unwrap();
    publish(&publisher, 40..50).await;
    let subscriber = mesh.node(mails(&seen, ALL)).await.unwrap();
    let distinct = || {
        let mut all = numbers(&seen);
        all.dedup();
        all
    };
    eventually("all are handled", async || distinct() == (20..50).collect::<Vec<_>>()).await;
    assert!(numbers(&seen).len() <= 35, "few came twice: {:?}", numbers(&seen));
    drop(subscriber);
}

#[tokio::test]
async fn m10_what_fails_comes_again_in_the_order_of_its_key_and_is_buried_in_the_end() {
    let (mesh, folder) = (TestMesh::start(), tempfile::tempdir().unwrap());
    let publisher = mesh.node(shop(&file(&folder))).await.unwrap();
    for number in 0..20 {
        publisher.peers().publish("orders.created", &number).key("order-7").id(number.to_string()).await.unwrap();
    }
    // An id that is there is not stored again.
    assert_eq!(publisher.peers().publish("orders.created", &0).id("0").await.unwrap(), 1);
    let seen: Seen = Arc::default();
    let _mails = mesh.node(mails(&seen, ALL)).await.unwrap();
    eventually("all others are handled", async || seen.lock().unwrap().len() == 19).await;
    let expected: Vec<(u64, u8)> =
        (0..20).filter(|number| *number != 13).map(|number| (number, u8::from(number == 7))).collect();
    assert_eq!(*seen.lock().unwrap(), expected);
    // They come again when that is asked for.
    assert_eq!(publisher.peers().replay("mails", "welcome", SystemTime::UNIX_EPOCH).await.unwrap(), 1);
    eventually("they come again", async || seen.lock().unwrap().len() == 38).await;
    publisher.stop().await;
    let database = rusqlite::Connection::open(file(&folder)).unwrap();
    let buried = || {
        database.query_row("SELECT subscription, name, payload, why FROM buried", [], |row| {
            Ok([row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
        })
    };
    eventually("the file is free", async || buried().is_ok()).await;
    assert_eq!(buried().unwrap(), ["mails/welcome", "orders.created", "13", "400 unlucky: never"]);
}

#[tokio::test]
async fn m10_a_log_that_cannot_be_used_says_so() {
    let (mesh, folder) = (TestMesh::start(), tempfile::tempdir().unwrap());
    let publisher = mesh.node(shop(&file(&folder))).await.unwrap();
    let twice = mesh.node(shop(&file(&folder))).await.map(drop).unwrap_err();
    assert!(format!("{twice:?}").contains("another process uses the file"), "{twice:?}");
    let nowhere = mesh.node(shop(Path::new("/nowhere/events.db"))).await.map(drop).unwrap_err();
    assert!(format!("{nowhere:?}").contains("the event log /nowhere/events.db cannot be opened"), "{nowhere:?}");
    let without = mesh.node(Node::builder("without")).await.unwrap();
    assert!(matches!(without.peers().publish("a", &1).await, Err(PublishError::NoLog)));
    for name in ["orders.*", "a b", "a/b"] {
        let error = publisher.peers().publish(name, &1).await.unwrap_err();
        assert!(matches!(error, PublishError::Event(_)), "{name}: {error}");
    }
    for name in ["", "a b", "x/y"] {
        let node = Node::builder("a").subscribe_durably("orders.*", name, async || Ok::<_, ServiceError>(()));
        let error = node.start().await.map(drop).unwrap_err().to_string();
        assert!(error.contains("is not the name of a durable subscription"), "{error}");
    }
}

#[tokio::test]
async fn m10_a_subscription_that_is_further_behind_than_the_log_reaches_misses_events() {
    let (mesh, folder) = (TestMesh::start(), tempfile::tempdir().unwrap());
    let small = || shop(&file(&folder)).event_log_limits(Duration::from_secs(3600), 200);
    let publisher = mesh.node(small()).await.unwrap();
    let seen: Seen = Arc::default();
    let subscriber = mesh.node(mails(&seen, ALL)).await.unwrap();
    publish(&publisher, 20..21).await;
    eventually("it is there", async || numbers(&seen) == [20]).await;
    subscriber.stop().await;
    publish(&publisher, 1000..1200).await;
    let _subscriber = mesh.node(mails(&seen, ALL)).await.unwrap();
    eventually("the last ones come", async || numbers(&seen).last() == Some(&1199)).await;
    // 200 bytes are 50 of them.
    assert!((50..=60).contains(&numbers(&seen).len()), "{:?}", numbers(&seen));
}
