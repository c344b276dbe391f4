//! Handlers of one caller side by side: those that compute use all threads, and quick ones do not
//! wait for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use node_sdk::{CallError, Node, Params, Peers, ServiceError, State};
use tests::{Cluster, NodeLog, PATIENCE, eventually};
use tokio::time::Instant;

/// Where handlers block their threads, and what they do.
#[derive(Default)]
struct Meeting {
    here: Mutex<usize>,
    changed: Condvar,
    dropped: AtomicUsize,
    finished: AtomicUsize,
}

impl Meeting {
    /// Blocks the thread for a time, or until two are here. Returns whether that came true.
    fn block(&self, ms: u64) -> bool {
        let mut here = self.here.lock().unwrap();
        *here += 1;
        self.changed.notify_all();
        let (mut here, waited) =
            self.changed.wait_timeout_while(here, Duration::from_millis(ms), |here| *here < 2).unwrap();
        let met = !waited.timed_out();
        if !met {
            *here -= 1;
        }
        met
    }
}

async fn meet(Params(ms): Params<u64>, meeting: State<Meeting>) -> Result<bool, ServiceError> {
    Ok(meeting.block(ms))
}

/// Computes, and then waits without an end, or ends at once.
async fn linger(Params(ends): Params<bool>, meeting: State<Meeting>) -> Result<(), ServiceError> {
    struct CountDrop(State<Meeting>);
    impl Drop for CountDrop {
        fn drop(&mut self) {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    meeting.block(1);
    if !ends {
        let _count = CountDrop(meeting.clone());
        tokio::time::sleep(Duration::from_millis(300)).await;
        meeting.finished.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn quick() -> Result<(), ServiceError> {
    Ok(())
}

/// Works for 2 ms without an await.
async fn work(meeting: State<Meeting>) -> Result<(), ServiceError> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(2) {}
    meeting.finished.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn start() -> (Cluster, Node, Node) {
    let cluster = Cluster::start();
    let callee = Node::builder("callee")
        .state(Meeting::default())
        .route("GET/meet", meet)
        .route("GET/linger", linger)
        .route("POST/linger", linger)
        .route("GET/quick", quick)
        .route("GET/work", work)
        .route("GET/finished", async |meeting: State<Meeting>| {
            Ok::<_, ServiceError>((meeting.dropped.load(Ordering::Relaxed), meeting.finished.load(Ordering::Relaxed)))
        });
    let callee = cluster.node(callee).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/meet"]).await;
    (cluster, callee, caller)
}

/// Calls so often that the route is known to compute.
async fn warm_up<T: serde::Serialize + Sync>(peers: &Peers, url: &str, argument: T) {
    for _ in 0..8 {
        peers.call::<serde_json::Value>(url, &argument).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_calls_of_one_caller_use_all_threads() {
    let (_cluster, _callee, caller) = start().await;
    let peers = caller.peers();
    warm_up(peers, "GET/meet", 1).await;
    let ms = u64::try_from(PATIENCE.as_millis()).unwrap();
    let call = || peers.call::<bool>("GET/meet", &ms).timeout(PATIENCE).into_future();
    // Each blocks its thread until the other one is there.
    let (one, other) = futures::future::join(call(), call()).await;
    assert!(one.unwrap() && other.unwrap(), "they ran one after the other");
    peers.call::<()>("GET/quick", &()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_a_call_with_a_task_of_its_own_ends_as_its_method_says() {
    let (_cluster, _callee, caller) = start().await;
    let peers = caller.peers();
    warm_up(peers, "GET/linger", true).await;
    warm_up(peers, "POST/linger", true).await;
    let counts = async || peers.call::<(usize, usize)>("GET/finished", &()).await.unwrap();
    let leave = async |url: &str| {
        let call = peers.call::<()>(url, &false).timeout(Duration::from_millis(60));
        assert!(matches!(call.await, Err(CallError::Deadline { .. })), "{url}");
    };
    // One that is idempotent is dropped when its caller goes, and any other is finished.
    leave("GET/linger").await;
    eventually("it is dropped", async || counts().await == (1, 0)).await;
    leave("POST/linger").await;
    eventually("it is finished", async || counts().await == (2, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_a_quick_call_does_not_wait_for_those_that_compute() {
    const CALLS: usize = 1000;
    let (_cluster, _callee, caller) = start().await;
    let peers = caller.peers();
    warm_up(peers, "GET/work", ()).await;
    let call = || peers.call::<()>("GET/work", &()).timeout(PATIENCE).into_future();
    let all = futures::future::join_all((0..CALLS).map(|_| call()));
    let quick = async {
        // All others are on their way before.
        tokio::task::yield_now().await;
        peers.call::<()>("GET/quick", &()).timeout(PATIENCE).await.unwrap();
        peers.call::<(usize, usize)>("GET/finished", &()).timeout(PATIENCE).await.unwrap().1
    };
    let (all, finished) = futures::future::join(all, quick).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    // Those of the warm-up count, too.
    assert!(finished < CALLS / 2, "{finished} others were answered first");
}

#[tokio::test]
async fn f5_a_handler_that_blocks_is_named_by_its_route() {
    let (log, _guard) = NodeLog::start();
    let (_cluster, _callee, caller) = start().await;
    for _ in 0..3 {
        assert!(!caller.peers().call::<bool>("GET/meet", &110).await.unwrap());
    }
    let line = log.warning("a handler holds up its thread").await;
    assert!(line.contains("route=\"GET/meet\"") && line.contains("worked_ms=1"), "{line}");
    assert_eq!(log.lines("a handler holds up its thread").len(), 1);
}

#[tokio::test]
async fn f5_a_call_that_waited_too_long_for_others_that_compute_is_refused() {
    let (_cluster, _callee, caller) = start().await;
    let peers = caller.peers();
    warm_up(peers, "GET/meet", 1).await;
    // This runtime has one thread: the second call waits for the first one, for most of its time.
    let first = peers.call::<bool>("GET/meet", &3000).timeout(PATIENCE).into_future();
    let second = peers.call::<bool>("GET/meet", &1).timeout(Duration::from_secs(5)).into_future();
    let (first, second) = futures::future::join(first, second).await;
    assert!(!first.unwrap());
    assert!(matches!(second, Err(CallError::Refused { status: 503, .. })), "{second:?}");
}
