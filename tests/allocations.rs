//! Heap allocations of a call, on both sides together, after warming up. They are counted, so the
//! result does not depend on a clock.
#![expect(clippy::print_stdout, reason = "the figures are worth seeing")]
#![expect(clippy::unwrap_used, reason = "in a test a panic is how to fail")]

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use node_sdk::{Node, Params, ServiceError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tests::Cluster;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const IN_FLIGHT: usize = 64;
const CALLS: usize = 200;

/// A message with two texts, which its reader has to allocate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Message {
    id: u64,
    name: String,
    price: f64,
    tags: String,
}

async fn number(Params(number): Params<u64>) -> Result<u64, ServiceError> {
    Ok(number)
}

async fn good(Params(good): Params<Message>) -> Result<Message, ServiceError> {
    Ok(good)
}

/// Allocations per call of one round of calls, 64 at a time, after a round that is not counted.
fn check<T>(runtime: &Runtime, caller: &Node, url: &'static str, value: &T, limit: f64)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + Clone + Send + Sync + 'static,
{
    let (warm, end) = (Arc::new(Barrier::new(IN_FLIGHT + 1)), Arc::new(Barrier::new(IN_FLIGHT + 1)));
    let mut callers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (peers, value, warm, end) = (caller.peers().clone(), value.clone(), Arc::clone(&warm), Arc::clone(&end));
        callers.spawn_on(
            async move {
                for round in [&warm, &end] {
                    for _ in 0..CALLS {
                        assert_eq!(peers.call::<T>(url, &value).await.unwrap(), value);
                    }
                    round.wait().await;
                }
            },
            runtime.handle(),
        );
    }
    runtime.block_on(warm.wait());
    let AllocationInfo { count_total, .. } = measure(|| {
        runtime.block_on(end.wait());
    });
    let per_call = count_total as f64 / (IN_FLIGHT * CALLS) as f64;
    println!("{url}: {per_call:.2} allocations per call, both sides together");
    assert!(per_call <= limit, "{url}: {per_call} allocations per call, and {limit} at most");
    runtime.block_on(async { while callers.join_next().await.is_some_and(|ended| ended.is_ok()) {} });
}

/// Allocations of a call of a node to itself: it sees no socket, and is done at once.
fn check_own(runtime: &Runtime, node: &Node, url: &str, limit: f64) {
    let calls = async |count: usize| {
        for number in 0..count as u64 {
            assert_eq!(node.peers().call::<u64>(url, &number).await.unwrap(), number);
        }
    };
    runtime.block_on(calls(CALLS));
    let AllocationInfo { count_total, .. } = measure(|| runtime.block_on(calls(CALLS)));
    let per_call = count_total as f64 / CALLS as f64;
    println!("{url} of its own: {per_call:.2} allocations per call");
    assert!(per_call <= limit, "{url} of its own: {per_call} allocations per call, and {limit} at most");
}

#[test]
fn a_call_allocates_little_more_than_its_message() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (_cluster, callee, caller) = runtime.block_on(async {
        let cluster = Cluster::start();
        let callee = cluster.node(Node::builder("callee").route("GET/number", number).route("GET/good", good)).await;
        let caller = cluster.node(Node::builder("caller")).await;
        caller.peers().wait_until(|nodes| nodes.len() == 2).await;
        (cluster, callee, caller)
    });
    check(&runtime, &caller, "GET/number", &42_u64, 2.0);
    // Two texts, read twice.
    let good = Message { id: 42, name: "widget".to_owned(), price: 9.5, tags: "a,b".to_owned() };
    check(&runtime, &caller, "GET/good", &good, 6.0);
    check_own(&runtime, &callee, "GET/number", 6.0);
}
