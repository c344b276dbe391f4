//! Nodes that ask beside version 1: a Distributor that knows nothing of questions, and nodes and
//! gateways that are told what they always were.

use serde_json::Value;
use tests::{PATIENCE, legacy_peers_can_run, request};
use tokio::time::timeout;

use super::*;

/// Waits until a node knows these, and no others.
async fn knows(peers: &Peers, names: &[&str]) {
    let done = eventually("it knows what it should", async || known(peers) == names);
    assert!(timeout(PATIENCE, done).await.is_ok(), "{:?}, and not {names:?}", known(peers));
}

#[tokio::test]
async fn m15_a_distributor_of_version_1_takes_the_place_of_ours_and_ours_comes_back() {
    if !legacy_peers_can_run() {
        return;
    }
    for family in ["buffering", "strict"] {
        let port = pick_port();
        let (address, port) = (format!("127.0.0.1:{port}"), port.to_string());
        let ours = async || {
            let ours = Process::start(DISTRIBUTOR, &["--listen", &address, "--tell-all-up-to", "0"]);
            ours.line("listening").await;
            ours
        };
        let distributor = ours().await;
        let _goods = offers("goods", "GET/goods").distributor(&address).start().await.unwrap();
        let _members = offers("members", "GET/members/{id}").distributor(&address).start().await.unwrap();
        let caller = Node::builder("caller").distributor(&address).start().await.unwrap();
        let peers = caller.peers();
        peers.wait_for(&["GET/goods"]).await;
        assert_eq!(call(peers, "GET/goods").await, "goods");
        knows(peers, &["goods"]).await;
        // Of version 1 it is told all, and nothing is asked.
        distributor.kill().await;
        let mut old = Process::legacy("distributor", &["--port", &port, "--family", family]);
        old.line("listening").await;
        assert_eq!(call(peers, "GET/goods").await, "goods", "calls go on meanwhile");
        knows(peers, &["caller", "goods", "members"]).await;
        assert_eq!(call(peers, "GET/members/1").await, "members");
        assert_eq!(call(peers, "GET/none").await, "no route");
        let late = offers("late", "GET/late").distributor(&address).start().await.unwrap();
        peers.wait_for(&["GET/late"]).await;
        assert_eq!(call(peers, "GET/late").await, "late");
        late.stop().await;
        knows(peers, &["caller", "goods", "members"]).await;
        assert!(old.is_running(), "{}", old.output());
        // Ours tells it of what it has called on both, and of more when it asks.
        old.kill().await;
        let _ours = ours().await;
        knows(peers, &["goods", "members"]).await;
        assert_eq!(call(peers, "GET/goods").await, "goods");
        let _rest = offers("rest", "GET/rest").distributor(&address).start().await.unwrap();
        peers.wait_for(&["GET/rest"]).await;
        assert_eq!(call(peers, "GET/rest").await, "rest");
        knows(peers, &["goods", "members", "rest"]).await;
    }
}

#[tokio::test]
async fn m15_a_distributor_of_version_1_is_asked_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let caller = || Node::builder("caller").cache(folder.path().join("peers"));
    let cluster = large();
    let _goods = cluster.node(offers("goods", "GET/goods")).await;
    let first = cluster.node(caller()).await;
    assert_eq!(call(first.peers(), "GET/goods").await, "goods");
    first.stop().await;
    // The file says that the node had a partial view.
    let listener = Listener::bind().await;
    let caller = caller().distributor(format!("127.0.0.1:{}", listener.port())).start().await.unwrap();
    let peers = caller.peers();
    let mut distributor = listener.accept().await;
    let registration = distributor.next().await.unwrap();
    assert_eq!((&registration["$"]["part"], &registration["$"]["uses"]), (&json!(true), &json!(["GET/goods"])));
    let list = json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [registration["params"]] });
    distributor.send_packet(&list).await;
    eventually("it has a list", async || peers.stale_for().is_none()).await;
    assert_eq!(call(peers, "GET/goods").await, "goods", "a node that a new Distributor does not list is kept");
    assert_eq!(call(peers, "GET/none").await, "no route");
    assert_eq!(peers.emit("told", &1).unwrap(), 0);
    assert!(peers.gather::<String>("GET/many", &()).await.is_empty());
    caller.stop().await;
    assert_eq!(distributor.next().await, None, "it is sent nothing but the registration");
}

/// What a node of version 1 and a silent peer are told while another node registers, asks, and
/// registers again.
async fn seen_by_version_1(tell_all_up_to: usize) -> Vec<String> {
    let cluster = Cluster::with(Config { tell_all_up_to, ..patient() });
    let (mut old, mut silent) = (cluster.peer().await, cluster.peer().await);
    old.register("old", 1).await;
    let mut asker = cluster.peer().await;
    let registration = |name: &str, urls: &[&str], uses: &[&str]| {
        let params = json!({ "port": 2, "name": name, "urls": urls, "$": { "v": 2, "id": name } });
        json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params, "$": { "uses": uses } })
    };
    let mut seen = Vec::new();
    let mut offering = cluster.peer().await;
    offering.send_packet(&registration("offering", &["GET/a/{id}"], &[])).await;
    old.list_with("offering").await;
    asker.send_packet(&registration("asker", &["GET/b"], &[])).await;
    seen.push(format!("{:?}", old.list_with("asker").await));
    let question = json!({ "uri": "$need", "key": 2, "params": { "routes": ["GET/a/7"] }, "$": {} });
    asker.send_packet(&question).await;
    while asker.next().await.unwrap()["uri"] != "$needed" {}
    asker.send_packet(&registration("asker", &["GET/b"], &["GET/a/{id}"])).await;
    asker.send_packet(&registration("asker", &["GET/b", "GET/c"], &[])).await;
    let is_new = |entries: &[Value]| entries.iter().any(|entry| entry["urls"] == json!(["GET/b", "GET/c"]));
    eventually("the change is listed", async || is_new(&old.ask(7).await)).await;
    seen.push(format!("{:?}", old.ask(8).await));
    seen.push(format!("{:?}", silent.ask(9).await));
    drop(offering);
    seen.push(format!("{:?}", old.list_without("offering").await));
    seen
}

#[tokio::test]
async fn m15_a_node_of_version_1_is_told_the_same_whether_others_ask_or_not() {
    let (all, part) = (seen_by_version_1(1000).await, seen_by_version_1(0).await);
    assert_eq!(all, part);
    assert!(all[1].contains("GET/c") && all[3].contains("asker"), "{all:?}");
}

#[tokio::test]
async fn m15_an_old_gateway_and_old_services_work_beside_nodes_that_ask() {
    if !legacy_peers_can_run() {
        return;
    }
    for family in ["buffering", "strict"] {
        let distributor = Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0", "--tell-all-up-to", "0"]);
        let port = distributor.port().await.to_string();
        let shared = ["--port", "0", "--distributor", &port, "--family", family, "--connect-delay", "50"];
        let mut gateway = Process::legacy("gateway", &shared);
        let service = [&["--name", "old", "--urls", "POST/old,GET/old"], &shared[..]].concat();
        let mut service = Process::legacy("service", &service);
        let at = format!("127.0.0.1:{}", gateway.port().await).parse().unwrap();
        let asker = offers("ours", "GET/ours").distributor(format!("127.0.0.1:{port}")).start().await.unwrap();
        asker.peers().wait_for(&["POST/old"]).await;
        let stored: Value = asker.peers().call("POST/old", &json!({ "n": 7 })).await.unwrap();
        assert_eq!(stored, json!([{ "n": 7 }]));
        assert_eq!(known(asker.peers()), ["old"]);
        eventually("both are routed", async || {
            let [old, ours] = ["/old", "/ours"].map(|path| request(at, "GET", path, ""));
            (old.await.status, ours.await.status) == (200, 200)
        })
        .await;
        assert_eq!(request(at, "GET", "/ours", "").await.json()["results"], "ours");
        assert_eq!(request(at, "GET", "/old", "").await.json()["results"], json!([{ "n": 7 }]));
        assert!(gateway.is_running() && service.is_running(), "{} {}", gateway.output(), service.output());
    }
}
