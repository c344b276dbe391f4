//! Writing a service and calling others.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use node_sdk::{Balance, CallError, Node, OrRefuse, Params, Peers, ServiceError, StartError, State};
use serde_json::{Value, json};
use tests::{Cluster, Listener, Peer, eventually, log_to, patient, pick_port};

use crate::programs::NODE;

#[derive(serde::Deserialize)]
struct Name {
    name: String,
}

async fn hello(Params(Name { name }): Params<Name>, greeting: State<String>) -> Result<String, ServiceError> {
    Ok(format!("{}, {name}!", *greeting))
}

async fn relay(Params(params): Params<Value>, peers: Peers) -> Result<String, ServiceError> {
    peers.call("GET/hello", &params).await.or_pass()
}

async fn sleep(Params(ms): Params<Value>) -> Result<(), ServiceError> {
    tokio::time::sleep(Duration::from_millis(ms["ms"].as_u64().unwrap_or(60_000))).await;
    Ok(())
}

async fn panics() -> Result<(), ServiceError> {
    panic!("on purpose")
}

fn greeter() -> node_sdk::NodeBuilder {
    Node::builder("greeter")
        .state("안녕".to_owned())
        .route("GET/hello", hello)
        .route("GET/sleep", sleep)
        .route("GET/panics", panics)
}

#[tokio::test]
async fn nodes_call_each_other_by_route() {
    let cluster = Cluster::start();
    let greeter = cluster.node(greeter()).await;
    let relay = cluster.node(Node::builder("relay").route("GET/relay", relay)).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/relay"]).await;
    relay.peers().wait_for(&["GET/hello"]).await;
    let said: String = caller.peers().call("GET/relay", &json!({ "name": "길동 ¶" })).await.unwrap();
    assert_eq!(said, "안녕, 길동 ¶!");
    // A refusal two nodes away arrives with its own words, because the node between passes it on.
    let error = caller.peers().call::<String>("GET/relay", &json!({})).await.unwrap_err();
    let CallError::Refused { status: 400, reason, message, .. } = error else { panic!("{error:?}") };
    assert_eq!((reason.as_str(), message.as_str()), ("bad_params", "missing field `name`"));
    drop(greeter);
}

/// Lines that could not be written.
static LINES: AtomicUsize = AtomicUsize::new(0);

/// Behaves as a usual subscriber when standard output and error are closed.
struct Dead;

impl io::Write for Dead {
    fn write(&mut self, _line: &[u8]) -> io::Result<usize> {
        LINES.fetch_add(1, Ordering::Relaxed);
        panic!("the log is closed")
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn cr13_a_log_that_panics_ends_no_node() {
    let _log = log_to("node_sdk=debug,net=debug", || Dead);
    let address = ([127, 0, 0, 1], pick_port()).into();
    let cluster = Cluster::on(address, patient());
    let caller = cluster.node(Node::builder("caller").route("GET/nothing", panics)).await;
    let first = cluster.node(greeter()).await;
    caller.peers().wait_for(&["GET/hello"]).await;
    let ask = async || caller.peers().call::<String>("GET/hello", &json!({ "name": "길동" })).await;
    assert_eq!(ask().await.unwrap(), "안녕, 길동!");
    // A caller that sends nonsense and disconnects causes some log lines.
    let mut stranger = Peer::connect(first.address()).await;
    for _ in 0..3 {
        stranger.send("{]¶").await;
    }
    cluster.stop().await;
    eventually("it is gone", async || caller.peers().stale_for().is_some()).await;
    assert_eq!(ask().await.unwrap(), "안녕, 길동!");
    let cluster = Cluster::on(address, patient());
    let mut observer = cluster.peer().await;
    for name in ["caller", "greeter"] {
        eventually("all are back", async || observer.ask(1).await.iter().any(|entry| entry["name"] == name)).await;
    }
    // And they are told of changes, and call new nodes.
    let _late = cluster.node(Node::builder("late").route("GET/sleep", sleep)).await;
    drop(first);
    eventually("it has left", async || !caller.peers().offers("GET", "/hello")).await;
    caller.peers().call::<()>("GET/sleep", &json!({ "ms": 1 })).await.unwrap();
    assert!(LINES.load(Ordering::Relaxed) > 4, "{LINES:?}");
}

#[tokio::test]
async fn errors_say_what_a_caller_can_do() {
    let cluster = Cluster::start();
    let node = cluster.node(greeter()).await;
    node.peers().wait_for(&["GET/hello"]).await;
    let peers = node.peers();
    let call =
        async |url: &str| peers.call::<u64>(url, &json!({ "name": "a" })).timeout(Duration::from_millis(200)).await;
    assert!(matches!(call("GET/none").await, Err(CallError::NoRoute { .. })));
    assert!(matches!(call("nonsense").await, Err(CallError::BadUrl { .. })));
    assert!(matches!(call("GET/hello").await, Err(CallError::Response { .. })));
    assert!(matches!(call("GET/sleep").await, Err(CallError::Deadline { .. })));
    assert!(matches!(call("GET/panics").await, Err(CallError::Refused { status: 500, .. })));
    assert!(peers.call::<String>("GET/hello", &json!({ "name": "a" })).await.is_ok(), "and the connection lives on");
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why() {
    let start = |builder: node_sdk::NodeBuilder| builder.start();
    assert!(matches!(start(Node::builder("a b")).await, Err(StartError::Name(_))));
    assert!(matches!(start(Node::builder("a").route("goods", panics)).await, Err(StartError::Route(_))));
    assert!(matches!(start(Node::builder("a").listen("9010")).await, Err(StartError::Address { .. })));
    for distributor in ["foo", "", "foo:", "foo:0", "::1:9000", "http://foo:80"] {
        let error = start(Node::builder("a").distributor(distributor)).await.unwrap_err();
        assert!(matches!(error, StartError::Distributor { .. }), "c11: {distributor}: {error}");
        assert!(error.to_string().contains("is not the address of a Distributor"), "{error}");
    }
    for advertise in ["foo", "foo:0", "::1:80", "a b:80"] {
        let error = start(Node::builder("a").advertise(advertise)).await.unwrap_err();
        assert!(matches!(error, StartError::Advertise { .. }), "a3: {advertise}: {error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(matches!(start(Node::builder("a").listen(address)).await, Err(StartError::Bind(_))));
    let error = start(Node::builder("a").route("GET/a", hello)).await.unwrap_err().to_string();
    assert_eq!(error, "the handler of GET/a needs a state of type alloc::string::String; give it with .state(…)");
}

#[tokio::test]
async fn b9_a_route_that_would_match_nothing_or_twice_is_refused_in_words() {
    #[track_caller]
    fn check(node: node_sdk::NodeBuilder, expected: &[&str]) -> impl Future<Output = ()> {
        let location = std::panic::Location::caller();
        async move {
            let error = node.start().await.map(drop).unwrap_err().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error} ({location})");
        }
    }
    let node = || Node::builder("a");
    check(node().route("GET/files/{*path}", panics), &["'GET/files/{*path}'", "no wildcards"]).await;
    check(node().route("GET/files/{path:.*}", panics), &["no wildcards"]).await;
    check(node().route("GET/files/*", panics), &["a * matches only itself"]).await;
    check(node().route("GET/goods/:id", panics), &["a parameter is written {name}"]).await;
    check(node().subscribe("orders*", panics), &["'orders*'", "whole word"]).await;
    check(node().subscribe("orders.>.eu", panics), &["a > is the last word"]).await;
    check(node().subscribe("orders.*", panics).subscribe("orders.*", panics), &["EVENT/orders.* is given twice"]).await;
    check(
        node().route("GET/a/{x}", panics).route("GET/a/{y}", panics),
        &["the routes GET/a/{x} and GET/a/{y} are one", "names of parameters"],
    )
    .await;
    check(node().route("GET/a", panics).route("GET/a", panics), &["the route GET/a is given twice"]).await;
    check(node().subscribe("a", panics).subscribe("a", panics), &["the route EVENT/a is given twice"]).await;
    // A url with such characters elsewhere is a route.
    drop(node().route("GET/goods/a:b", panics).route("GET/{a}/{b-c}", panics).start().await.unwrap());
}

#[tokio::test]
async fn providers_alternate_and_one_that_fails_hides_no_other() {
    let cluster = Cluster::start();
    async fn port(own: State<u64>) -> Result<u64, ServiceError> {
        Ok(*own)
    }
    let mut nodes = Vec::new();
    for number in 0..3_u64 {
        nodes.push(cluster.node(Node::builder("n").state(number).route("GET/n", port)).await);
    }
    let caller = cluster.node(Node::builder("caller").balance(Balance::RoundRobin)).await;
    caller.peers().wait_until(|nodes| nodes.len() == 4).await;
    let mut addresses: Vec<_> = nodes.iter().map(Node::address).collect();
    addresses.sort();
    assert_eq!(caller.peers().providers("GET/n"), addresses);
    assert!(caller.peers().providers("GET/none").is_empty());
    let call = async || caller.peers().call::<u64>("GET/n", &()).await.unwrap();
    let mut first = Vec::new();
    eventually("all are connected", async || {
        first = vec![call().await, call().await, call().await];
        first.sort_unstable();
        first == [0, 1, 2]
    })
    .await;
    let mut counts = [0; 3];
    for _ in 0..300 {
        counts[usize::try_from(call().await).unwrap()] += 1;
    }
    assert_eq!(counts, [100, 100, 100]);
    drop(nodes.remove(1));
    for _ in 0..100 {
        assert_ne!(call().await, 1);
    }
}

#[tokio::test]
async fn a_thousand_calls_at_once_share_one_connection() {
    let cluster = Cluster::start();
    let _greeter = cluster.node(greeter()).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/hello"]).await;
    let calls: Vec<_> = (0..1000)
        .map(|n| {
            let peers = caller.peers().clone();
            tokio::spawn(async move {
                let name = format!("{n}{}", "x".repeat(n * 7 % 3000));
                let said: String = peers.call("GET/hello", &json!({ "name": name })).await.unwrap();
                assert_eq!(said, format!("안녕, {name}!"));
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_node_comes_back_in_time_and_one_attempt_at_a_time() {
    let distributor = Listener::bind().await;
    let node = greeter().distributor(format!("127.0.0.1:{}", distributor.port())).start().await.unwrap();
    for _ in 0..2 {
        let mut connection = distributor.accept().await;
        let registration = connection.next().await.unwrap();
        assert_eq!(registration["params"]["port"], node.address().port());
        assert_eq!(registration["params"]["urls"], json!(["GET/hello", "GET/sleep", "GET/panics"]));
        assert_eq!(registration["params"]["$"]["v"], 2);
        connection.close();
    }
}

#[tokio::test]
async fn strange_packets_from_a_distributor_change_nothing() {
    let distributor = Listener::bind().await;
    let node = greeter().distributor(format!("127.0.0.1:{}", distributor.port())).start().await.unwrap();
    let mut connection = distributor.accept().await;
    connection.send("{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":0,\"params\":[{\"port\":1,\"name\":\"a\",\"urls\":[\"GET/a\"],\"host\":\"::ffff:127.0.0.1\"}]}¶").await;
    node.peers().wait_for(&["GET/a"]).await;
    for strange in [
        "nonsense¶",
        "null¶",
        "{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":0,\"params\":{}}¶",
        "{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":0}¶",
        "{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":0,\"params\":[],\"$\":{\"s\":400,\"r\":\"bad_name\",\"m\":\"no\"}}¶",
        "{\"uri\":\"/other\",\"method\":\"GET\",\"params\":[]}¶ \r\n¶",
    ] {
        connection.send(strange).await;
    }
    connection.send("{\"uri\":\"/distributes\",\"method\":\"GET\",\"key\":0,\"params\":[{\"port\":1,\"name\":\"a\",\"urls\":[\"GET/a\"],\"host\":\"::1\"},7,{}]}¶").await;
    node.peers().wait_until(|nodes| nodes[0].host.is_ipv6()).await;
    assert_eq!(node.peers().nodes().len(), 1);
}

#[tokio::test]
async fn a_caller_that_sends_garbage_harms_itself_only() {
    let cluster = Cluster::start();
    let node = cluster.node(greeter()).await;
    let call = r#"{"uri":"/hello","method":"GET","key":1,"params":{"name":"a"}}¶"#;
    let mut good = Peer::connect(node.address()).await;
    let mut bad = Peer::connect(node.address()).await;
    bad.send("{¶]¶").await;
    bad.send(call).await;
    assert_eq!(bad.next().await.unwrap()["results"], "안녕, a!", "two broken packets are forgiven");
    bad.send("x¶").await;
    bad.send(call).await;
    assert_eq!(bad.next().await.unwrap()["results"], "안녕, a!", "so are any number of version 1");
    let mut newer = Peer::connect(node.address()).await;
    newer.send(call.replace(r#""params""#, r#""$":{},"params""#)).await;
    assert!(newer.next().await.unwrap().to_string().contains("안녕, a!"));
    newer.send("{¶]¶x¶").await;
    newer.last_packet().await;
    let mut endless = Peer::connect(node.address()).await;
    endless.send("x".repeat(10 << 20)).await;
    assert_eq!(endless.next().await, None);
    good.send(call).await;
    assert_eq!(good.next().await.unwrap()["results"], "안녕, a!");
}

#[tokio::test]
async fn a_silent_node_is_skipped_until_it_answers() {
    let cluster = Cluster::start();
    let frozen = Listener::bind().await;
    let mut registered = cluster.peer().await;
    let advert = json!({ "port": frozen.port(), "name": "frozen", "urls": ["GET/hello"], "$": { "v": 2, "id": "f" } });
    registered.register_with(advert).await;
    let _greeter = cluster.node(greeter()).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    let call = async || {
        let params = json!({ "name": "a" });
        let call = caller.peers().call::<String>("GET/hello", &params);
        call.timeout(Duration::from_millis(300)).await
    };
    eventually("a call runs out of time", async || call().await.is_err()).await;
    for _ in 0..20 {
        call().await.expect("the other node is called");
    }
    // It thaws: an answer, however late, makes it trusted again.
    let mut connection = frozen.accept().await;
    let asked = connection.next().await.unwrap();
    connection.send_packet(&json!({ "key": asked["key"], "params": "late", "$": {} })).await;
    let calls = async {
        while let Some(asked) = connection.next().await {
            connection.send_packet(&json!({ "key": asked["key"], "params": "thawed", "$": {} })).await;
        }
    };
    tokio::select! {
        () = eventually("it takes its turn", async || call().await.is_ok_and(|said| said == "thawed")) => {}
        () = calls => panic!("the connection ended"),
    }
}

#[tokio::test]
async fn a_node_proves_itself_and_tells_its_secret_to_the_distributor_only() {
    let (distributor, callee) = (Listener::bind().await, Listener::bind().await);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("peers");
    let node = greeter().cache(&cache).distributor(format!("127.0.0.1:{}", distributor.port())).start().await.unwrap();
    let mut secrets = Vec::new();
    for _ in 0..2 {
        let mut connection = distributor.accept().await;
        let registration = connection.next().await.unwrap();
        let secret = registration["$"]["secret"].as_str().expect("a secret").to_owned();
        let id = registration["params"]["$"]["id"].as_str().unwrap().to_owned();
        assert_eq!(id, protocol::Secret::new(secret.clone()).unwrap().instance());
        assert!(!registration["params"].to_string().contains(&secret), "every node sees the registration");
        let entry =
            json!({ "port": callee.port(), "name": "n", "urls": ["GET/n"], "$": { "v": 2, "id": "n" }, "host": "::1" });
        let entry = entry.to_string().replace("::1", "::ffff:127.0.0.1");
        connection.send(format!(
            r#"{{"uri":"/distributes","method":"GET","key":0,"params":[{entry}],"$":{{"epoch":1,"rev":1,"ids":[1]}}}}¶"#
        ))
        .await;
        node.peers().wait_for(&["GET/n"]).await;
        let peers = node.peers().clone();
        let call =
            tokio::spawn(async move { peers.call::<u8>("GET/n", &()).timeout(Duration::from_millis(100)).await });
        if secrets.is_empty() {
            let mut called = callee.accept().await;
            for _ in 0..2 {
                let packet = called.next().await.unwrap().to_string();
                assert!(!packet.contains(&secret), "{packet}");
            }
        }
        let _ = call.await;
        assert!(!format!("{node:?} {:?}", node.peers()).contains(&secret));
        secrets.push((secret, id));
        connection.close();
    }
    assert_eq!(secrets[0], secrets[1], "it stays the same as long as the process lives");
    node.stop().await;
    if let Ok(text) = std::fs::read_to_string(&cache) {
        assert!(!text.contains(&secrets[0].0), "{text}");
    }
}

#[tokio::test]
async fn a_node_whose_id_is_not_its_own_says_what_to_do() {
    let distributor = Listener::bind().await;
    let address = format!("127.0.0.1:{}", distributor.port());
    let node = tests::Process::start(NODE, &[&address]);
    let mut connection = distributor.accept().await;
    let secret = connection.next().await.unwrap()["$"]["secret"].as_str().unwrap().to_owned();
    connection
        .send(r#"{"uri":"/distributes","method":"GET","key":0,"params":[],"$":{"s":403,"r":"not_yours","m":"no"}}¶"#)
        .await;
    let line = node.line("belongs to another process").await;
    assert!(line.contains("ERROR") && line.contains("Start this node anew"), "{line}");
    assert!(!node.output().contains(&secret), "{}", node.output());
}
