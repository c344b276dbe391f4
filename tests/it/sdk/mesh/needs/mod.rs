//! Nodes of a mesh that is so large that they have a partial view: they ask for what they use.

mod mixes;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distributor::Config;
use futures::StreamExt;
use node_sdk::{CallError, Node, NodeBuilder, Params, Path, Peers, ServiceError, State};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Cluster, Listener, Peer, Process, eventually, patient, pick_port};

use crate::programs::DISTRIBUTOR;

/// A cluster whose nodes have a partial view, however small it is.
fn large() -> Cluster {
    Cluster::with(Config { tell_all_up_to: 0, ..patient() })
}

async fn name(State(name): State<&'static str>) -> Result<&'static str, ServiceError> {
    Ok(*name)
}

async fn member(Path(id): Path<u64>) -> Result<u64, ServiceError> {
    Ok(id)
}

fn offers(service: &'static str, url: &str) -> NodeBuilder {
    Node::builder(service).public_routes().state(service).route(url, name)
}

/// The names of the nodes that are known.
fn known(peers: &Peers) -> Vec<String> {
    let mut names: Vec<String> = peers.nodes().iter().map(|node| node.name.clone()).collect();
    names.sort_unstable();
    names
}

/// What a call brings: the name of the service, or what is wrong.
async fn call(peers: &Peers, url: &str) -> String {
    match peers.call::<String>(url, &()).await {
        Ok(name) => name,
        Err(CallError::NoRoute { .. }) => "no route".to_owned(),
        Err(CallError::NotAsked { reason, .. }) => reason.to_owned(),
        Err(error) => panic!("{url}: {error}"),
    }
}

#[tokio::test]
async fn m12_the_first_call_of_a_url_asks_who_offers_it() {
    let cluster = large();
    let _members = cluster.node(Node::builder("members").route("GET/members/{id}", member)).await;
    let _goods = cluster.node(offers("goods", "GET/goods")).await;
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    assert_eq!(call(peers, "GET/goods").await, "goods");
    assert_eq!(known(peers), ["goods"]);
    let calls = (0..50).map(|id| async move { peers.call::<u64>(&format!("GET/members/{id}"), &()).await.unwrap() });
    let members: Vec<u64> = futures::future::join_all(calls).await;
    assert!(members.into_iter().eq(0..50));
    assert_eq!(known(peers), ["goods", "members"]);
    assert_eq!(call(peers, "GET/none").await, "no route");
    assert_eq!(call(peers, "POST/goods").await, "no route");
    // Who waits for a url asks for it, again and again.
    let waiting = tokio::spawn({
        let peers = peers.clone();
        async move { peers.wait_for(&["GET/late/7"]).await }
    });
    let _late = cluster.node(offers("late", "GET/late/{id}")).await;
    waiting.await.unwrap();
    assert_eq!(call(peers, "GET/late/8").await, "late");
    let answers = peers.gather::<String>("GET/goods", &()).await;
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn m12_a_node_that_asks_calls_what_others_call() {
    let cluster = large();
    let _goods = cluster.node(offers("goods", "GET/goods/{id}")).await;
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    assert_eq!(call(peers, "GET/goods/7").await, "goods");
    // A url that is preferred for some path is told, too.
    let special = cluster.node(offers("special", "GET/goods/new")).await;
    eventually("it is known", async || known(peers) == ["goods", "special"]).await;
    assert_eq!(call(peers, "GET/goods/new").await, "special");
    assert_eq!(call(peers, "GET/goods/8").await, "goods");
    special.stop().await;
    eventually("it has gone", async || known(peers) == ["goods"]).await;
    assert_eq!(call(peers, "GET/goods/new").await, "goods");
    // A node that is known by chance is not all that there is.
    let _both = cluster.node(offers("both", "GET/goods/{id}").route("GET/rest", name)).await;
    eventually("it is known", async || known(peers) == ["both", "goods"]).await;
    let _rest = cluster.node(offers("rest", "GET/rest")).await;
    let mut seen = BTreeSet::new();
    eventually("both are called", async || {
        seen.insert(call(peers, "GET/rest").await);
        seen.len() == 2
    })
    .await;
}

#[tokio::test]
async fn m12_a_provider_that_joins_or_moves_is_told() {
    let cluster = large();
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    let first = cluster.node(offers("first", "GET/a")).await;
    assert_eq!(call(peers, "GET/a").await, "first");
    let _other = cluster.node(offers("other", "GET/b")).await;
    let second = cluster.node(offers("second", "GET/a")).await;
    eventually("the second is known", async || known(peers) == ["first", "second"]).await;
    first.stop().await;
    eventually("the first is not", async || known(peers) == ["second"]).await;
    assert_eq!(call(peers, "GET/a").await, "second");
    second.stop().await;
    eventually("nor the second", async || known(peers).is_empty()).await;
    let error = peers.call::<String>("GET/a", &()).await.unwrap_err();
    assert!(matches!(error, CallError::NoProvider { .. }), "{error}");
    let _third = cluster.node(offers("third", "GET/a")).await;
    eventually("the third is known", async || known(peers) == ["third"]).await;
    assert_eq!(call(peers, "GET/a").await, "third");
}

#[tokio::test]
async fn m12_the_first_stream_asks_and_so_does_a_call_with_a_key() {
    let cluster = large();
    let _streams = cluster.node(tests::streams::offers("streams").state(AtomicUsize::new(0))).await;
    let caller = cluster.node(offers("caller", "GET/own")).await;
    let stream = caller.peers().stream::<u64>("GET/count", &serde_json::json!({ "upto": 3 })).await.unwrap();
    assert_eq!(stream.count().await, 3);
    // A node calls itself unasked, but a key belongs to one of all providers.
    let others = [cluster.node(offers("other", "GET/own")).await, cluster.node(offers("more", "GET/own")).await];
    assert_eq!(call(caller.peers(), "GET/own").await, "caller");
    let of_key = |key: usize| {
        let peers = caller.peers();
        async move { peers.call::<String>("GET/own", &()).sticky_key(&key.to_string()).await.unwrap() }
    };
    let mut seen = BTreeSet::new();
    // The others may register after the answer, and are told later then.
    eventually("keys belong to all three", async || {
        for key in 0..50 {
            seen.insert(of_key(key).await);
        }
        seen.len() == 3
    })
    .await;
    drop(others);
}

#[tokio::test]
async fn m12_an_event_is_sent_when_it_is_known_who_subscribes() {
    async fn add(Params(number): Params<usize>, State(seen): State<Mutex<Vec<usize>>>) -> Result<(), ServiceError> {
        seen.lock().unwrap().push(number);
        Ok(())
    }
    let cluster = large();
    let subscriber =
        |seen: &Arc<Mutex<Vec<usize>>>| Node::builder("mails").subscribe("told", add).shared_state(Arc::clone(seen));
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let _mails = cluster.node(subscriber(&seen)).await;
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    eventually("the first list is there", async || peers.stale_for().is_none()).await;
    let reached: Vec<usize> = (0..100).map(|number| peers.emit("told", &number).unwrap()).collect();
    eventually("all have come", async || seen.lock().unwrap().len() == 100).await;
    assert!(seen.lock().unwrap().iter().copied().eq(0..100), "in order");
    assert_eq!(reached[0], 0, "it is not known yet who subscribes");
    assert_eq!(peers.emit("told", &100).unwrap(), 1);
    assert_eq!(known(peers), ["mails"]);
    // Who subscribes later is told of, whether there was a subscriber before or not.
    assert_eq!(peers.emit("other", &1).unwrap(), 0);
    eventually("it is learned", async || peers.emit("other", &1).is_ok()).await;
    let others: Arc<Mutex<Vec<usize>>> = Arc::default();
    let _other = cluster.node(Node::builder("late").subscribe("other", add).shared_state(Arc::clone(&others))).await;
    eventually("it is told", async || peers.emit("other", &7).unwrap() == 1).await;
    eventually("it has come", async || others.lock().unwrap().contains(&7)).await;
    // So is one who subscribes to a pattern.
    let patterns: Arc<Mutex<Vec<usize>>> = Arc::default();
    let all = Node::builder("all").subscribe("othe.*", add).subscribe(">", add).shared_state(Arc::clone(&patterns));
    let _all = cluster.node(all).await;
    eventually("it is told", async || peers.emit("other", &8).unwrap() == 2).await;
    eventually("it has come", async || patterns.lock().unwrap().contains(&8)).await;
}

#[tokio::test]
async fn m12_an_event_is_sent_although_the_runtime_that_emits_it_ends() {
    async fn add(Params(number): Params<usize>, State(seen): State<Mutex<Vec<usize>>>) -> Result<(), ServiceError> {
        seen.lock().unwrap().push(number);
        Ok(())
    }
    let cluster = large();
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mails = Node::builder("mails").subscribe("told", add).subscribe("noted", add);
    let _mails = cluster.node(mails.shared_state(Arc::clone(&seen))).await;
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    eventually("the first list is there", async || peers.stale_for().is_none()).await;
    let emit = |event: &'static str, number: usize, in_runtime: bool| {
        let peers = peers.clone();
        std::thread::spawn(move || {
            let short = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let entered = in_runtime.then(|| short.enter());
            assert_eq!(peers.emit(event, &number).unwrap(), 0, "it is not known yet who subscribes");
            drop(entered);
        })
        .join()
        .unwrap();
    };
    emit("told", 1, true);
    eventually("the first has come", async || *seen.lock().unwrap() == [1]).await;
    emit("noted", 2, false);
    eventually("the second has come", async || *seen.lock().unwrap() == [1, 2]).await;
    assert_eq!((peers.emit("told", &3).unwrap(), peers.emit("noted", &4).unwrap()), (1, 1));
    eventually("later ones come, too", async || seen.lock().unwrap().len() == 4).await;
    assert_eq!(caller.lost_events(), 0);
}

#[tokio::test]
async fn m13_what_was_used_is_called_when_the_distributor_is_dead_and_after_a_new_start() {
    let port = pick_port();
    let address = format!("127.0.0.1:{port}");
    let listen = ["--listen", &address, "--tell-all-up-to", "0"];
    let distributor = Process::start(DISTRIBUTOR, &listen);
    distributor.line("listening").await;
    let folder = tempfile::tempdir().unwrap();
    let caller = || Node::builder("caller").cache(folder.path().join("peers")).distributor(&address).start();
    let _goods = offers("goods", "GET/goods").distributor(&address).start().await.unwrap();
    let _members = offers("members", "GET/members/{id}").distributor(&address).start().await.unwrap();
    let first = caller().await.unwrap();
    first.peers().wait_for(&["GET/goods", "GET/members/1"]).await;
    assert_eq!(call(first.peers(), "GET/goods").await, "goods");
    distributor.kill().await;
    eventually("it is gone", async || first.peers().stale_for().is_some()).await;
    for _ in 0..20 {
        assert_eq!(call(first.peers(), "GET/goods").await, "goods");
        assert_eq!(call(first.peers(), "GET/members/2").await, "members");
    }
    assert_eq!(call(first.peers(), "GET/never").await, "no Distributor is connected");
    let error = first.peers().emit("never", &1).unwrap_err();
    assert!(matches!(error, CallError::NotAsked { .. }), "{error}");
    first.stop().await;
    // A new process knows from the file what the last one has used.
    let second = caller().await.unwrap();
    assert_eq!(call(second.peers(), "GET/members/3").await, "members");
    assert_eq!(known(second.peers()), ["goods", "members"]);
    // A new Distributor tells it of that, and not of more.
    let distributor = Process::start(DISTRIBUTOR, &listen);
    distributor.line("listening").await;
    let _rest = offers("rest", "GET/rest").distributor(&address).start().await.unwrap();
    second.peers().wait_for(&["GET/rest"]).await;
    eventually("all are back", async || known(second.peers()) == ["goods", "members", "rest"]).await;
    assert_eq!(call(second.peers(), "GET/rest").await, "rest");
}

#[tokio::test]
async fn m13_what_known_nodes_offer_is_called_when_the_distributor_is_silent() {
    let distributor = Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0", "--tell-all-up-to", "0"]);
    let address = format!("127.0.0.1:{}", distributor.port().await);
    let goods = offers("goods", "GET/goods").route("GET/more", name).route("GET/rest", name);
    let _goods = goods.distributor(&address).start().await.unwrap();
    let caller = Node::builder("caller").distributor(&address).start().await.unwrap();
    let peers = caller.peers();
    peers.wait_for(&["GET/goods"]).await;
    distributor.signal(Signal::STOP);
    // Of these nothing was asked yet, but a node is known that offers them.
    assert_eq!(call(peers, "GET/more").await, "goods");
    assert_eq!(peers.gather::<String>("GET/rest", &()).await.len(), 1);
    assert_eq!(call(peers, "GET/goods").await, "goods", "what was used is not asked for");
    let unknown = peers.call::<String>("GET/none", &()).timeout(Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(unknown, CallError::NotAsked { .. }), "{unknown}");
    // The question still stands: the answer tells of other nodes that offer the same.
    distributor.signal(Signal::CONT);
    let _other = offers("other", "GET/more").distributor(&address).start().await.unwrap();
    eventually("it is told of the other", async || known(peers) == ["goods", "other"]).await;
}

#[tokio::test]
async fn m14_a_node_that_uses_more_than_it_may_asks_again() {
    for (max_urls, urls) in [(256_usize, 300_usize), (8, 20)] {
        let cluster = Cluster::with(Config { tell_all_up_to: 0, max_urls, ..patient() });
        let mut nodes = Vec::new();
        for part in 0..urls.div_ceil(max_urls) {
            let mut node = Node::builder("n").state("n");
            for number in part * max_urls..urls.min((part + 1) * max_urls) {
                node = node.route(&format!("GET/{number}"), name);
            }
            nodes.push(cluster.node(node).await);
        }
        let caller = cluster.node(Node::builder("caller")).await;
        for round in 0..2 {
            for number in 0..urls {
                assert_eq!(call(caller.peers(), &format!("GET/{number}")).await, "n", "round {round}, {number}");
            }
        }
    }
}

#[tokio::test]
async fn m14_a_node_that_asks_for_more_at_once_than_it_may_use_asks_for_fewer() {
    let cluster = Cluster::with(Config { tell_all_up_to: 0, max_urls: 8, ..patient() });
    let mut nodes = Vec::new();
    for part in 0..5 {
        let urls = (part * 8..part * 8 + 8).map(|number| format!("GET/{number}"));
        let node = urls.fold(Node::builder("n").state("n"), |node, url| node.route(&url, name));
        nodes.push(cluster.node(node).await);
    }
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    let calls = (0..40).map(|number| async move { call(peers, &format!("GET/{number}")).await });
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer == "n"), "{answers:?}");
}

/// A Distributor that a test plays. It gives nodes a partial view, and takes as much as the test
/// says.
struct Played {
    connection: Peer,
}

impl Played {
    /// Takes the next node that connects. Returns the number of urls that it has used, too.
    async fn accept(listener: &Listener) -> (Self, usize) {
        let mut played = Self { connection: listener.accept().await };
        let uses = played.registration().await;
        (played, uses)
    }

    /// The next packet of the node.
    async fn next(&mut self) -> Value {
        self.connection.next().await.expect("a packet")
    }

    /// The number of urls that the node has used, as its next packet says, a registration.
    async fn registration(&mut self) -> usize {
        let packet = self.next().await;
        let uses = packet["$"]["uses"].as_array();
        uses.unwrap_or_else(|| panic!("no registration: {packet}")).len()
    }

    /// The key and routes of the next packet, a question.
    async fn question(&mut self) -> (u64, Vec<Value>) {
        let packet = self.next().await;
        let routes = packet["params"]["routes"].as_array().cloned();
        (packet["key"].as_u64().unwrap(), routes.unwrap_or_else(|| panic!("no question: {packet}")))
    }

    async fn list(&mut self) {
        let stamp = json!({ "epoch": 1, "rev": 1, "ids": [], "part": true });
        let list = json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [], "$": stamp });
        self.connection.send_packet(&list).await;
    }

    async fn refuse(&mut self, key: u64, reason: &str) {
        let why = json!({ "s": 507, "r": reason, "m": "no" });
        let refused = json!({ "uri": "/distributes", "method": "GET", "key": key, "params": [], "$": why });
        self.connection.send_packet(&refused).await;
    }

    /// Answers that each of the routes is a url that is offered.
    async fn answer(&mut self, key: u64, routes: &[Value]) {
        let answer = json!({ "uri": "$needed", "key": key, "params": { "needs": routes }, "$": {} });
        self.connection.send_packet(&answer).await;
    }
}

#[tokio::test]
async fn m14_a_node_for_whose_uses_there_is_no_room_registers_with_less() {
    for reason in ["registry_full", "address_full", "too_many_needs"] {
        let listener = Listener::bind().await;
        let caller = Node::builder("caller").distributor(format!("127.0.0.1:{}", listener.port()));
        let caller = caller.start().await.unwrap();
        let peers = caller.peers();
        let (mut distributor, uses) = Played::accept(&listener).await;
        assert_eq!(uses, 0);
        distributor.list().await;
        eventually("the list is there", async || peers.stale_for().is_none()).await;
        for number in 0..4 {
            peers.emit(&number.to_string(), &1).unwrap();
            let (key, routes) = distributor.question().await;
            distributor.answer(key, &routes).await;
        }
        // A question for which there is no room is asked again.
        peers.emit("4", &1).unwrap();
        let (key, refused) = distributor.question().await;
        distributor.refuse(key, reason).await;
        assert_eq!(distributor.registration().await, 2, "{reason}");
        let (key, routes) = distributor.question().await;
        assert_eq!(routes, refused);
        distributor.answer(key, &routes).await;
        // So is a registration.
        distributor.connection.close();
        let (mut distributor, uses) = Played::accept(&listener).await;
        assert_eq!(uses, 3);
        for uses in [1, 0] {
            distributor.refuse(0, reason).await;
            assert_eq!(distributor.registration().await, uses, "{reason}");
        }
    }
}

#[tokio::test]
async fn m14_what_a_new_distributor_has_no_room_for_is_asked_for_again() {
    async fn add(Params(number): Params<usize>, State(seen): State<Mutex<Vec<usize>>>) -> Result<(), ServiceError> {
        seen.lock().unwrap().push(number);
        Ok(())
    }
    const EVENTS: usize = 60;
    let event = |number: usize| format!("event-{number:0100}");
    let cluster = large();
    let address = cluster.address;
    let caller = cluster.node(Node::builder("caller")).await;
    let peers = caller.peers();
    eventually("the first list is there", async || peers.stale_for().is_none()).await;
    for number in 0..EVENTS {
        peers.emit(&event(number), &number).unwrap();
    }
    let _last = cluster
        .node(Node::builder("last").subscribe(&event(EVENTS - 1), add).state(Mutex::new(Vec::<usize>::new())))
        .await;
    eventually("all events are used", async || peers.emit(&event(EVENTS - 1), &0).unwrap() == 1).await;
    cluster.stop().await;
    // There is room for a quarter of them.
    let config = Config { tell_all_up_to: 0, max_list_bytes: EVENTS * 110, ..patient() };
    let cluster = Cluster::on(address, config);
    let mut observer = cluster.peer().await;
    observer.ask_until("the caller is back", |names| names.iter().any(|name| name == "caller")).await;
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let _first = cluster.node(Node::builder("first").subscribe(&event(0), add).shared_state(Arc::clone(&seen))).await;
    eventually("who subscribes is found", async || {
        peers.emit(&event(0), &7).unwrap();
        seen.lock().unwrap().contains(&7)
    })
    .await;
}

#[tokio::test]
async fn m14_a_node_that_drops_what_it_uses_registers_once() {
    /// As many urls as a node uses at a time.
    const MAX_USED: usize = 256;
    let listener = Listener::bind().await;
    let caller = Node::builder("caller").distributor(format!("127.0.0.1:{}", listener.port()));
    let caller = caller.start().await.unwrap();
    let peers = caller.peers();
    let (mut distributor, _) = Played::accept(&listener).await;
    distributor.list().await;
    eventually("the list is there", async || peers.stale_for().is_none()).await;
    (0..MAX_USED).for_each(|number| assert_eq!(peers.emit(&number.to_string(), &1).unwrap(), 0));
    let mut learned = 0;
    while learned < MAX_USED {
        let (key, routes) = distributor.question().await;
        learned += routes.len();
        distributor.answer(key, &routes).await;
    }
    peers.emit("one", &1).unwrap();
    assert_eq!(distributor.registration().await, MAX_USED - MAX_USED / 8);
    for event in ["two", "three"] {
        let (key, routes) = distributor.question().await;
        distributor.answer(key, &routes).await;
        peers.emit(event, &1).unwrap();
    }
    assert_eq!(distributor.question().await.1, ["EVENT/three"], "it has not registered again");
}

#[tokio::test]
async fn m12_a_small_mesh_is_told_of_all() {
    let cluster = Cluster::start();
    let _goods = cluster.node(offers("goods", "GET/goods")).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    assert_eq!(known(caller.peers()), ["caller", "goods"]);
    assert_eq!(call(caller.peers(), "GET/none").await, "no route");
}

#[tokio::test]
async fn m12_a_node_that_was_told_of_a_part_is_told_of_all_when_the_mesh_is_small_again() {
    let folder = tempfile::tempdir().unwrap();
    let caller = || Node::builder("caller").cache(folder.path().join("peers"));
    let cluster = large();
    let address = cluster.address;
    let _goods = cluster.node(offers("goods", "GET/goods")).await;
    let _rest = cluster.node(offers("rest", "GET/rest")).await;
    let first = cluster.node(caller()).await;
    assert_eq!(call(first.peers(), "GET/goods").await, "goods");
    assert_eq!(known(first.peers()), ["goods"]);
    first.stop().await;
    cluster.stop().await;
    // While the new Distributor may not know all nodes, a node has a partial view again.
    let cluster = Cluster::on(address, patient());
    let mut observer = cluster.peer().await;
    let is_back = |names: &[String]| ["goods", "rest"].iter().all(|name| names.iter().any(|other| other == name));
    observer.ask_until("both are back", is_back).await;
    eventually("a later process knows all", async || {
        let later = cluster.node(caller()).await;
        eventually("it has a list", async || later.peers().stale_for().is_none()).await;
        let knows_all = known(later.peers()).contains(&"rest".to_owned());
        assert_eq!(call(later.peers(), "GET/goods").await, "goods");
        later.stop().await;
        knows_all
    })
    .await;
}

#[tokio::test]
async fn m12_nodes_of_version_1_are_found_and_a_gateway_knows_all() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    async fn count() -> Result<usize, ServiceError> {
        Ok(CALLS.fetch_add(1, Ordering::Relaxed))
    }
    let cluster = large();
    let gateway = cluster.gateway().await;
    let node = cluster.node(Node::builder("counts").public_routes().route("GET/count", count)).await;
    assert_eq!(Cluster::wait_routed(gateway, "/count").await.status, 200);
    let mut old = cluster.peer().await;
    let port = node.address().port();
    // What a version 1 node says: it is at the address of a node that answers it.
    old.register_with(serde_json::json!({ "port": port, "name": "old", "urls": ["GET/old"] })).await;
    old.list_with("old").await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/old"]).await;
    assert_eq!(known(caller.peers()).len(), 1);
    tokio::time::timeout(Duration::from_secs(5), caller.peers().wait_for(&["GET/count"])).await.unwrap();
}
