//! Hooks of the start and the stop, and what tells work that a node stops.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{CallError, Node, Peers, ServiceError, StartError, Stop, detach};
use tests::NodeLog;
use tokio::time::{Instant, sleep};

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

/// What has happened, in order.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<&'static str>>>);

impl Seen {
    /// The result is that of a hook.
    #[expect(clippy::unnecessary_wraps, reason = "a hook returns it")]
    fn push(&self, what: &'static str) -> Result<(), Infallible> {
        self.0.lock().unwrap().push(what);
        Ok(())
    }

    #[track_caller]
    fn check(&self, expected: &[&str]) {
        assert_eq!(*self.0.lock().unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn m7_hooks_run_in_order_and_can_call() {
    let mesh = TestMesh::start();
    let _greeter = mesh.node(Node::builder("greeter").route("GET/hello", hello)).await.unwrap();
    let seen = Seen::default();
    let hook = |what: &'static str| {
        let seen = seen.clone();
        move |peers: Peers, stop: Stop| async move {
            assert_eq!(stop.is_requested(), what.contains("stop"));
            assert_eq!(peers.call::<String>("GET/hello", &()).await?, "hello");
            let _ = seen.push(what);
            Ok::<_, CallError>(())
        }
    };
    let task = {
        let seen = seen.clone();
        async move |_peers: Peers, stop: Stop| {
            detach(async move {
                stop.requested().await;
                sleep(Duration::from_secs(1)).await;
                seen.push("task")
            });
            Ok::<_, Infallible>(())
        }
    };
    let node = Node::builder("n").on_start(hook("start 1")).on_start(hook("start 2")).on_start(task);
    let node = mesh.node(node.on_stop(hook("stop 1")).on_stop(hook("stop 2"))).await.unwrap();
    seen.check(&["start 1", "start 2"]);
    assert_eq!(node.stop().await, 0);
    seen.check(&["start 1", "start 2", "task", "stop 1", "stop 2"]);
}

#[tokio::test(start_paused = true)]
async fn m7_a_hook_of_the_start_that_fails_ends_the_start() {
    let mesh = TestMesh::start();
    let observer = mesh.node(Node::builder("observer")).await.unwrap();
    let check = async |node: node_sdk::NodeBuilder, expected: &str, took: u64| {
        let begun = Instant::now();
        let seen = Seen::default();
        let told = seen.clone();
        let node = node.on_stop(async move |_, _| told.push("stop"));
        let error = mesh.node(node).await.unwrap_err();
        assert!(matches!(error, StartError::Hook { kind: "start", .. }), "{error:?}");
        assert!(format!("{error:?}").contains(expected), "{error:?}");
        assert_eq!(begun.elapsed().as_secs(), took, "{error:?}");
        seen.check(&[]);
        observer.peers().wait_until(|nodes| nodes.len() == 1).await;
    };
    let node = || Node::builder("n");
    let fails = async |_, _| Err::<(), _>("on purpose");
    check(node().on_start(fails), "has failed: on purpose", 0).await;
    let panics = async |_: Peers, _: Stop| -> Result<(), Infallible> { panic!("on purpose") };
    check(node().on_start(panics), "has failed: it panicked", 0).await;
    let hangs = async |_, _| pending::<Result<(), Infallible>>().await;
    check(node().on_start(hangs), "has failed: it did not end within 30 s", 30).await;
}

#[tokio::test(start_paused = true)]
async fn m7_hooks_do_not_wait_for_ever() {
    let (log, _guard) = NodeLog::start();
    let mut mesh = TestMesh::start();
    mesh.kill_distributor();
    let begun = Instant::now();
    let seen = Seen::default();
    let (told, late) = (seen.clone(), seen.clone());
    let node = Node::builder("n")
        .on_start(async move |_, _| told.push("start"))
        .on_stop(async |_, _| pending::<Result<(), Infallible>>().await)
        .on_stop(async move |_, _| late.push("stop"));
    let node = mesh.node(node).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(3), "no Distributor answers");
    seen.check(&["start"]);
    let begun = Instant::now();
    assert_eq!(node.stop().await, 0);
    assert!((5..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(log.lines("it did not end within 5 s").len(), 1);
    // It is ready at once, and so needs no time.
    seen.check(&["start", "stop"]);
}

#[tokio::test(start_paused = true)]
async fn m7_a_handler_learns_that_its_node_stops() {
    async fn wait(stop: Stop) -> Result<bool, ServiceError> {
        Ok(stop.interrupt(pending::<()>()).await.is_none())
    }
    let mesh = TestMesh::start();
    let node = mesh.node(Node::builder("n").route("GET/wait", wait)).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["GET/wait"]).await;
    let stop = node.stopping();
    let call = async { caller.peers().call::<bool>("GET/wait", &()).await };
    let stopping = async {
        sleep(Duration::from_secs(1)).await;
        assert!(!stop.is_requested());
        node.stop().await
    };
    let (answer, cut) = tokio::join!(call, stopping);
    assert_eq!((answer.unwrap(), cut, stop.is_requested()), (true, 0, true));
}
