//! The first moments of a node, before it knows others, and what it is told of a url that no node
//! offers.

use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{CallError, Node, ServiceError};
use tests::NodeLog;
use tokio::time::{Instant, sleep};

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

fn greeter() -> node_sdk::NodeBuilder {
    Node::builder("greeter").route("GET/hello", hello).subscribe("told", hello)
}

async fn call(node: &Node, url: &str) -> Result<String, CallError> {
    node.peers().call(url, &()).timeout(Duration::from_secs(2)).await
}

#[tokio::test(start_paused = true)]
async fn c8_a_call_made_at_once_waits_for_the_first_list() {
    let mut mesh = TestMesh::start();
    let greeter = mesh.node(greeter()).await.unwrap();
    greeter.peers().wait_for(&["GET/hello"]).await;
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    assert_eq!(call(&caller, "GET/hello").await.unwrap(), "hello");
    // That nobody offers it is told at once from then on.
    let begun = Instant::now();
    assert!(matches!(call(&caller, "GET/none").await, Err(CallError::NoRoute { .. })));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let late = mesh.node(Node::builder("late")).await.unwrap();
    assert_eq!(late.peers().gather::<String>("GET/hello", &()).await.len(), 1);
    // Without a Distributor it waits as long as it may take, and an event is not lost in silence.
    mesh.kill_distributor();
    let lost = mesh.node(Node::builder("lost")).await.unwrap();
    let begun = Instant::now();
    assert!(matches!(lost.peers().emit("told", &()), Err(CallError::NoList { .. })));
    let error = call(&lost, "GET/hello").await.unwrap_err();
    assert!(matches!(error, CallError::NoList { .. }), "{error}");
    assert!((2000..2100).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let waiting = lost.peers().call::<String>("GET/hello", &()).timeout(Duration::from_secs(30));
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(waiting, async {
        sleep(Duration::from_secs(5)).await;
        mesh.start_distributor();
    });
    // The first list may have nobody but those who are back.
    assert!(matches!(answer, Ok(_) | Err(CallError::NoRoute { .. })), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_states_which_of_its_routes_are_public() {
    /// The routes of a node, each with whether it is public.
    async fn check(node: node_sdk::NodeBuilder, expected: &[(&str, bool)]) {
        let mesh = TestMesh::start();
        let node = mesh.node(node).await.unwrap();
        node.peers().wait_until(|nodes| nodes.len() == 1).await;
        let entry = node.peers().nodes().pop().unwrap();
        let stated = entry.stated_routes().map(|(route, advert)| (route.as_str(), advert.unwrap().public));
        assert_eq!(stated.collect::<Vec<_>>(), expected);
    }
    let node = || Node::builder("n");
    check(greeter(), &[("GET/hello", false), ("EVENT/told", false)]).await;
    let one = node().route("GET/a", hello).route("GET/b", hello).public().route("GET/c", hello);
    check(one, &[("GET/a", false), ("GET/b", true), ("GET/c", false)]).await;
    let all = node().public_routes().route("GET/a", hello).subscribe("told", hello).route("GET/b", hello);
    check(all, &[("GET/a", true), ("EVENT/told", false), ("GET/b", true)]).await;
    let group = node().group(|group| group.public_routes().route("GET/a", hello)).route("GET/b", hello);
    check(group, &[("GET/a", true), ("GET/b", false)]).await;
}

#[tokio::test(start_paused = true)]
async fn c8_a_url_that_is_written_wrongly_is_told_how_to_write_it() {
    let mesh = TestMesh::start();
    let _greeter = mesh.node(greeter()).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    for (url, hint) in [
        ("GET/hello?name=x", "do not stand behind a ?"),
        ("/hello", "the method stands before the path, as in GET/hello"),
        ("get/hello", "a method in capital letters and a path"),
        ("hello", "a method in capital letters and a path"),
    ] {
        // Before the first list, too.
        let begun = Instant::now();
        let error = call(&caller, url).await.unwrap_err();
        assert!(matches!(error, CallError::BadUrl { .. }) && error.to_string().contains(hint), "{url}: {error}");
        assert_eq!(begun.elapsed(), Duration::ZERO, "{url}");
    }
    for event in ["a b", "orders?of=7", "orders/../sold", "\u{7f}"] {
        let error = caller.peers().emit(event, &()).unwrap_err();
        assert!(matches!(error, CallError::BadUrl { .. }), "{event}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn m11_a_url_that_interests_hide_is_called_so() {
    let mesh = TestMesh::start();
    let _greeter = mesh.node(greeter()).await.unwrap();
    for (interests, expected) in [
        (&["GET/hello", "EVENT/told"][..], ["ok", "hidden", "1"]),
        (&["GET/other"], ["hidden", "hidden", "hidden"]),
        (&["other"], ["hidden", "hidden", "0"]),
        (&["greeter"], ["ok", "hidden", "1"]),
        (&["GET/none", "GET/hello"], ["ok", "no route", "1"]),
    ] {
        let caller = mesh.node(Node::builder("caller").interests(interests.to_vec())).await.unwrap();
        let name = |error: CallError| match error {
            CallError::NoRoute { .. } => "no route".to_owned(),
            CallError::OutsideInterests { .. } => "hidden".to_owned(),
            other => format!("{other:?}"),
        };
        let called = async |url| call(&caller, url).await.map_or_else(name, |_| "ok".to_owned());
        let mut seen = [called("GET/hello").await, called("GET/none").await, String::new()];
        seen[2] = caller.peers().emit("told", &()).map_or_else(name, |count| count.to_string());
        assert_eq!(seen, expected, "{interests:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn m11_who_waits_for_a_url_with_a_mistake_is_told_so() {
    let (log, _guard) = NodeLog::start();
    let mesh = TestMesh::start();
    let _greeter = mesh.node(greeter()).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    let needy = mesh.node(Node::builder("needy").interests(["goods", "GET/hello"])).await.unwrap();
    let told = |text: &str| log.lines(text).len();
    tokio::select! {
        () = caller.peers().wait_for(&["GET/hello", "GET/helo", "/hello"]) => panic!("nobody offers it"),
        () = needy.ready() => panic!("it is not there"),
        () = sleep(Duration::from_secs(4)) => assert_eq!(told("still waiting"), 0),
    }
    tokio::select! {
        () = caller.peers().wait_for(&["GET/hello", "GET/helo", "/hello"]) => panic!("nobody offers it"),
        () = needy.ready() => panic!("it is not there"),
        () = sleep(Duration::from_secs(60)) => {}
    }
    assert_eq!(told("still waiting for GET/helo: no node offers GET/helo"), 1);
    assert_eq!(told("still waiting for /hello: no node offers /hello: the method stands before the path"), 1);
    assert_eq!(told("still waiting for goods: no known node has the name goods"), 1);
    assert_eq!(told("still waiting"), 3);
}
