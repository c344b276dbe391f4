//! A mesh in one process, on a clock that does not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use node_sdk::gateway::GatewayPeers;
use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{Balance, Balancer, CallError, Candidate, Node, RECONNECT_PERIOD, ServiceError, State};
use tokio::time::{Instant, sleep, timeout};

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

/// A mesh with nodes of these names, all of which know each other.
async fn mesh<const N: usize>(names: [&str; N]) -> (TestMesh, [TestNode; N]) {
    let mesh = TestMesh::start();
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(mesh.node(Node::builder(name).route(&format!("GET/{name}"), hello)).await.unwrap());
    }
    for node in &nodes {
        knows(node, N).await;
    }
    (mesh, nodes.try_into().unwrap())
}

async fn knows(node: &TestNode, count: usize) {
    let known = node.peers().wait_until(|nodes| nodes.len() == count);
    // On the mesh's clock, so it takes only a moment.
    assert!(timeout(Duration::from_secs(600), known).await.is_ok(), "{count} and not {}", node.peers().nodes().len());
}

async fn call(node: &TestNode, url: &str) -> Result<String, CallError> {
    node.peers().call(url, &()).await
}

#[tokio::test(start_paused = true)]
async fn nodes_call_each_other() {
    let (_mesh, nodes) = mesh(["a", "b", "c", "d", "e"]).await;
    for node in &nodes {
        for url in ["GET/a", "GET/b", "GET/c", "GET/d", "GET/e"] {
            assert_eq!(call(node, url).await.unwrap(), "hello");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_distributor_that_comes_back_is_found_within_a_period() {
    let (mut mesh, [a, b]) = mesh(["a", "b"]).await;
    mesh.kill_distributor();
    sleep(Duration::from_secs(3600)).await;
    assert!(a.peers().stale_for().is_some_and(|stale| stale >= Duration::from_secs(3599)));
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello", "with the known nodes");
    mesh.start_distributor();
    let back = Instant::now();
    let _c = mesh.node(Node::builder("c")).await.unwrap();
    knows(&a, 3).await;
    knows(&b, 3).await;
    assert!(back.elapsed() <= RECONNECT_PERIOD + RECONNECT_PERIOD / 5, "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_killed_node_is_gone_at_once() {
    let (_mesh, [a, b, c]) = mesh(["a", "b", "c"]).await;
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
    let killed = Instant::now();
    b.kill();
    knows(&a, 2).await;
    knows(&c, 2).await;
    assert!(killed.elapsed() < Duration::from_millis(500), "{:?}", killed.elapsed());
    assert!(call(&a, "GET/b").await.is_err());
    assert_eq!(call(&a, "GET/c").await.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_hung_node_is_gone_within_ten_seconds_and_comes_back() {
    let (_mesh, [a, b]) = mesh(["a", "b"]).await;
    let frozen = Instant::now();
    b.freeze(true);
    knows(&a, 1).await;
    let gone = frozen.elapsed();
    assert!((Duration::from_secs(7)..Duration::from_secs(10)).contains(&gone), "{gone:?}");
    b.freeze(false);
    knows(&a, 2).await;
    knows(&b, 2).await;
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn pt4_a_node_cut_off_from_one_caller_serves_others() {
    let (_mesh, [a, b, c]) = mesh(["a", "b", "c"]).await;
    a.partition(&b, true);
    // The registry is right: the node is up. Only this node cannot reach it, and its call says so
    // in time.
    let started = Instant::now();
    assert!(matches!(call(&a, "GET/b").await, Err(CallError::NoProvider { .. })));
    assert!(started.elapsed() <= Duration::from_millis(1100), "{:?}", started.elapsed());
    assert_eq!(call(&c, "GET/b").await.unwrap(), "hello");
    assert_eq!(call(&a, "GET/c").await.unwrap(), "hello");
    knows(&a, 3).await;
    a.partition(&b, false);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn pt2_a_node_cut_off_from_the_distributor_goes_on_and_comes_back() {
    let (mesh, [a, b]) = mesh(["a", "b"]).await;
    mesh.isolate(&b, true);
    knows(&a, 1).await;
    assert_eq!(b.peers().nodes().len(), 2, "the known nodes stay in use");
    assert_eq!(call(&b, "GET/a").await.unwrap(), "hello");
    mesh.isolate(&b, false);
    knows(&a, 2).await;
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_slow_machine_takes_its_time() {
    let (_mesh, [a, b]) = mesh(["a", "b"]).await;
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
    b.slow(Duration::from_millis(200));
    let started = Instant::now();
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
    assert!((Duration::from_millis(400)..Duration::from_millis(450)).contains(&started.elapsed()), "there and back");
    let short = a.peers().call::<String>("GET/b", &()).timeout(Duration::from_millis(300)).await;
    assert!(matches!(short, Err(CallError::Deadline { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_distributor_that_hangs_costs_no_call() {
    let (mesh, [a, b]) = mesh(["a", "b"]).await;
    mesh.freeze_distributor(true);
    sleep(Duration::from_secs(60)).await;
    assert!(a.peers().stale_for().is_some(), "it is known to be gone");
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
    mesh.freeze_distributor(false);
    let _c = mesh.node(Node::builder("c")).await.unwrap();
    knows(&a, 3).await;
    knows(&b, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_in_order_costs_no_call() {
    let (_mesh, [a, b, c]) = mesh(["a", "b", "c"]).await;
    assert_eq!(call(&a, "GET/b").await.unwrap(), "hello");
    assert_eq!(b.stop().await, 0);
    knows(&a, 2).await;
    knows(&c, 2).await;
    assert!(matches!(call(&a, "GET/b").await, Err(CallError::NoProvider { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_new_node_gets_few_calls_at_first() {
    async fn who(State(name): State<String>) -> Result<String, ServiceError> {
        Ok(String::clone(&name))
    }
    let mesh = TestMesh::start();
    let offering =
        async |name: &str| mesh.node(Node::builder(name).route("GET/who", who).state(name.to_owned())).await.unwrap();
    let (_a, _b) = (offering("a").await, offering("b").await);
    for balance in [Balance::RoundRobin, Balance::PowerOfTwo, Balance::LeastInFlight] {
        let caller = mesh.node(Node::builder("caller").balance(balance)).await.unwrap();
        // How many of a hundred calls go to the new one.
        let share = async || {
            let mut share = 0;
            for _ in 0..100 {
                share += usize::from(call(&caller, "GET/who").await.unwrap() == "new");
            }
            share
        };
        caller.peers().wait_until(|nodes| nodes.len() == 3).await;
        share().await;
        sleep(Duration::from_secs(20)).await;
        let new = offering("new").await;
        caller.peers().wait_until(|nodes| nodes.len() == 4).await;
        let mut shares = Vec::new();
        for _ in 0..3 {
            share().await;
            shares.push(share().await);
            sleep(Duration::from_secs(5)).await;
        }
        assert!(shares[0] <= 15 && shares[1] > shares[0] && shares[2] >= 25, "{balance:?}: {shares:?}");
        new.kill();
        caller.kill();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedged_call_does_not_wait_for_a_slow_node() {
    async fn count(State(calls): State<AtomicUsize>) -> Result<(), ServiceError> {
        calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    let mesh = TestMesh::start();
    let calls = Arc::new(AtomicUsize::new(0));
    let offers =
        |name| Node::builder(name).route("GET/n", count).route("POST/n", count).shared_state(Arc::clone(&calls));
    let (slow, _quick) = (mesh.node(offers("slow")).await.unwrap(), mesh.node(offers("quick")).await.unwrap());
    let caller = mesh.node(Node::builder("caller").balance(Balance::RoundRobin)).await.unwrap();
    knows(&caller, 3).await;
    for _ in 0..4 {
        caller.peers().call::<()>("GET/n", &()).await.unwrap();
    }
    sleep(Duration::from_secs(20)).await;
    slow.slow(Duration::from_millis(200));
    // Of twenty calls, how many are slow and how many are carried out.
    let check = async |url: &str, idempotent: bool, after: Duration, slow: usize, carried_out: usize| {
        calls.store(0, Ordering::Relaxed);
        let mut seen = 0;
        for _ in 0..20 {
            let call = caller.peers().call::<()>(url, &()).hedge(after);
            let started = Instant::now();
            if idempotent { call.idempotent() } else { call }.await.unwrap();
            seen += usize::from(started.elapsed() >= Duration::from_millis(200));
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!((seen, calls.load(Ordering::Relaxed)), (slow, carried_out), "{url} {idempotent} {after:?}");
    };
    let soon = Duration::from_millis(50);
    check("GET/n", false, Duration::from_secs(2), 10, 20).await;
    check("GET/n", false, soon, 0, 30).await;
    check("POST/n", true, soon, 0, 30).await;
    check("POST/n", false, soon, 10, 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_custom_balancer_picks_among_callable_nodes() {
    /// Picks the node with the highest address.
    #[derive(Debug)]
    struct Highest;
    impl Balancer for Highest {
        fn pick(&self, candidates: &[Candidate<'_>]) -> usize {
            assert!(candidates.iter().all(|candidate| candidate.weight == 100 && candidate.instance.is_some()));
            (0..candidates.len()).max_by_key(|at| candidates[*at].address).unwrap()
        }
    }
    /// Picks a node that does not exist.
    #[derive(Debug)]
    struct Beyond;
    impl Balancer for Beyond {
        fn pick(&self, candidates: &[Candidate<'_>]) -> usize {
            candidates.len()
        }
    }
    async fn who(State(name): State<String>) -> Result<String, ServiceError> {
        Ok(String::clone(&name))
    }
    let mesh = TestMesh::start();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(mesh.node(Node::builder(name).route("GET/who", who).state(name.to_owned())).await.unwrap());
    }
    let caller = mesh.node(Node::builder("caller").balance(Balance::Custom(&Highest))).await.unwrap();
    knows(&caller, 4).await;
    for expected in ["c", "b", "a"] {
        // All of them are connected first.
        while call(&caller, "GET/who").await.unwrap() != expected {}
        for _ in 0..20 {
            assert_eq!(call(&caller, "GET/who").await.unwrap(), expected);
            caller.peers().call::<String>("GET/who", &()).balance(Balance::Custom(&Beyond)).await.unwrap();
        }
        nodes.pop().unwrap().kill();
        sleep(Duration::from_secs(1)).await;
    }
    assert!(call(&caller, "GET/who").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn peers_of_all_threads_know_the_same_nodes() {
    let (_mesh, [a, b, c]) = mesh(["a", "b", "c"]).await;
    let follower = a.peers().for_thread();
    assert_eq!(follower.call::<String>("GET/b", &()).await.unwrap(), "hello");
    let [of_b] = follower.providers("GET/b")[..] else { panic!("one") };
    assert!(follower.set_health(of_b, false) && !follower.set_health(of_b, false), "that is a change once");
    let later = a.peers().for_thread();
    assert!([a.peers(), &follower, &later].iter().all(|peers| !peers.is_healthy(of_b)));
    assert!(a.peers().set_health(of_b, true));
    assert!([a.peers(), &follower, &later].iter().all(|peers| peers.is_healthy(of_b)));
    assert_eq!(follower.call::<String>("GET/b", &()).await.unwrap(), "hello");
    b.kill();
    follower.wait_until(|nodes| nodes.len() == 2).await;
    assert!(follower.call::<String>("GET/b", &()).await.is_err());
    assert_eq!(follower.call::<String>("GET/c", &()).await.unwrap(), "hello");
    drop(follower);
    c.kill();
    knows(&a, 1).await;
}
