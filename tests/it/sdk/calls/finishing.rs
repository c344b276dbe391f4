//! Handlers that are finished although their callers have gone, and calls of handlers that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{Node, Params, Peers, ServiceError, State};
use tests::streams::HandlerResult;
use tokio::time::{Instant, sleep};

/// How orders have ended.
type Ends = Mutex<Vec<String>>;

/// Charges, which fails, and then undoes its work.
async fn order(peers: Peers, ends: State<Ends>, Params(charge): Params<String>) -> HandlerResult<()> {
    struct Dropped<'a>(&'a Ends, bool);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            if self.1 {
                self.0.lock().unwrap().push("dropped".to_owned());
            }
        }
    }
    let mut dropped = Dropped(&ends, true);
    if charge == "late" {
        sleep(Duration::from_secs(2)).await;
    } else {
        let charged = peers.call::<()>(&charge, &()).timeout(Duration::from_secs(60)).await;
        assert!(charged.is_err(), "{charge}");
    }
    // Undoing takes longer than the margin.
    let undone = peers.call::<()>("POST/undo", &700).await;
    dropped.1 = false;
    ends.lock().unwrap().push(undone.map_or_else(|error| error.to_string(), |()| "undone".to_owned()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn b3_a_finished_handler_can_undo_its_work_after_its_caller_has_gone() {
    async fn hang() -> HandlerResult<()> {
        std::future::pending().await
    }
    async fn chain(peers: Peers) -> HandlerResult<()> {
        Ok(peers.call("POST/hang", &()).await?)
    }
    async fn fail() -> HandlerResult<()> {
        Err(ServiceError::conflict("failed", "on purpose"))
    }
    async fn undo(Params(milliseconds): Params<u64>) -> HandlerResult<()> {
        sleep(Duration::from_millis(milliseconds)).await;
        Ok(())
    }
    async fn by_self(peers: Peers, Params(charge): Params<String>) -> HandlerResult<()> {
        Ok(peers.call("POST/orders", &charge).await?)
    }
    let (mesh, ends) = (TestMesh::start(), Arc::new(Ends::default()));
    let payments =
        Node::builder("payments").route("POST/hang", hang).route("POST/chain", chain).route("POST/undo", undo);
    let payments = mesh.node(payments.route("POST/fail", fail)).await.unwrap();
    let orders = Node::builder("orders")
        .shared_state(Arc::clone(&ends))
        .route("POST/orders", order)
        .route("PUT/orders", order)
        .route("PUT/orders/whole", order)
        .to_the_end()
        .route("GET/orders/whole", order)
        .to_the_end()
        .route("POST/by/self", by_self);
    let orders = mesh.node(orders).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    for node in [&orders, &caller, &payments] {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    let seconds = Duration::from_secs;
    // How an order ends whose caller waits for a second: it calls `charge`, and then undoes.
    let check = async |url: &str, charge: &str, is_idempotent: bool, expected: &str| {
        let mut call = caller.peers().call::<()>(url, &charge).timeout(seconds(1));
        if is_idempotent {
            call = call.idempotent();
        }
        let _ = call.await;
        while ends.lock().unwrap().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(ends.lock().unwrap().remove(0), expected, "{url} {charge}");
    };
    for charge in ["late", "POST/hang", "POST/chain", "POST/fail"] {
        check("POST/orders", charge, false, "undone").await;
        check("POST/by/self", charge, false, "undone").await;
        check("PUT/orders/whole", charge, false, "undone").await;
        check("GET/orders/whole", charge, true, "undone").await;
    }
    // A handler that is dropped with its caller has the rest of the caller's time.
    for (charge, expected) in [("late", "dropped"), ("POST/hang", "no answer from POST/undo within 90.0ms")] {
        check("PUT/orders", charge, false, expected).await;
        check("POST/orders", charge, true, expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b3_a_handler_without_its_caller_has_30_s_for_its_calls() {
    async fn hang() -> HandlerResult<()> {
        std::future::pending().await
    }
    async fn order(peers: Peers, ends: State<Ends>) -> HandlerResult<()> {
        sleep(Duration::from_secs(2)).await;
        let error = peers.call::<()>("GET/hang", &()).timeout(Duration::from_secs(60)).await.unwrap_err();
        // The margin is left for that.
        ends.lock().unwrap().push(error.to_string());
        std::future::pending().await
    }
    let (mesh, ends) = (TestMesh::start(), Arc::new(Ends::default()));
    let node = Node::builder("orders").shared_state(Arc::clone(&ends)).route("POST/orders", order);
    let _node = mesh.node(node.route("GET/hang", hang)).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["POST/orders"]).await;
    let begin = Instant::now();
    assert!(caller.peers().call::<()>("POST/orders", &()).timeout(Duration::from_secs(1)).await.is_err());
    while ends.lock().unwrap().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    // 30 s from when the caller has gone, less the margin.
    assert_eq!(*ends.lock().unwrap(), ["no answer from GET/hang within 28.9s"]);
    assert!((30_850..31_000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b3_a_timeout_that_the_handler_has_set_leaves_the_deadline_as_it_is() {
    async fn hang() -> HandlerResult<()> {
        std::future::pending().await
    }
    async fn order(peers: Peers) -> HandlerResult<String> {
        assert!(peers.call::<()>("GET/hang", &()).timeout(Duration::from_millis(100)).await.is_err());
        Ok(peers.call::<()>("GET/hang", &()).timeout(Duration::from_secs(60)).await.unwrap_err().to_string())
    }
    let mesh = TestMesh::start();
    let _node = mesh.node(Node::builder("orders").route("POST/orders", order).route("GET/hang", hang)).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["POST/orders"]).await;
    let said = caller.peers().call::<String>("POST/orders", &()).timeout(Duration::from_secs(3)).await;
    assert_eq!(said.unwrap(), "no answer from GET/hang within 2.8s");
}

#[tokio::test(start_paused = true)]
async fn f6_work_whose_inner_call_is_refused_is_not_done_again_elsewhere() {
    async fn pay(peers: Peers, begun: State<AtomicUsize>) -> HandlerResult<()> {
        begun.fetch_add(1, Ordering::SeqCst);
        Ok(peers.call("GET/full", &()).await?)
    }
    async fn full() -> HandlerResult<()> {
        Ok(())
    }
    let (mesh, begun) = (TestMesh::start(), Arc::new(AtomicUsize::new(0)));
    let _full = mesh.node(Node::builder("full").route("GET/full", full).max_concurrency(0)).await.unwrap();
    let payments = || Node::builder("payments").shared_state(Arc::clone(&begun)).route("POST/payments", pay);
    let nodes = [mesh.node(payments()).await.unwrap(), mesh.node(payments()).await.unwrap()];
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    for node in nodes.iter().chain([&caller]) {
        node.peers().wait_until(|nodes| nodes.len() == 4).await;
    }
    let error = caller.peers().call::<()>("POST/payments", &()).await.unwrap_err();
    assert_eq!(error.to_string(), "503 unavailable: a service that this one needs cannot answer now; try again later");
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}
