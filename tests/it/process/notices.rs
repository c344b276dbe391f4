//! Notices of what the Distributor skips, ignores or gives up: a line in its log, a figure, an
//! answer of `distributor why`, and a word to the node.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tests::{Peer, Process, eventually, pick_port, request};

use crate::programs::DISTRIBUTOR;

/// A Distributor whose log and figures are read.
struct ReadDistributor {
    process: Process,
    at: SocketAddr,
    admin: SocketAddr,
}

impl ReadDistributor {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(arguments: &[&str]) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], pick_port()));
        let own = ["--listen", "127.0.0.1:0", "--admin", &admin.to_string()];
        let process = Process::start(DISTRIBUTOR, &[&own, arguments].concat());
        let at = SocketAddr::from(([127, 0, 0, 1], process.port().await));
        Self { process, at, admin }
    }

    async fn register(&self, params: Value) -> Peer {
        let mut peer = Peer::connect(self.at).await;
        peer.register_with(params).await;
        peer
    }

    /// Waits for a line with this text, and returns it. It has to be a warning.
    async fn warning(&self, text: &str) -> String {
        let line = self.process.line(text).await;
        assert!(line.contains("WARN"), "{line}");
        line
    }

    async fn counts(&self, figure: &str, expected: u64) {
        eventually(figure, async || {
            let metrics = request(self.admin, "GET", "/metrics", "").await.body;
            metrics.lines().any(|line| line == format!("distributor_{figure} {expected}"))
        })
        .await;
    }

    async fn why(&self, node: &str, text: &str) {
        Process::start(DISTRIBUTOR, &["why", node, "--at", &self.at.to_string()]).line(text).await;
    }
}

/// Reads up to a notice for this reason, and returns its text.
async fn notice(peer: &mut Peer, reason: &str) -> String {
    loop {
        let packet = peer.next().await.expect("a notice");
        if packet["$"]["r"] == reason {
            return packet["$"]["m"].as_str().unwrap().to_owned();
        }
        if packet["uri"] == "$ping" {
            peer.pong().await;
        }
    }
}

#[tokio::test]
async fn a21_ignored_parts_of_a_registration_are_logged_and_told() {
    let distributor = ReadDistributor::start().await;
    let check = async |number: u16, urls: Value, advert: Value, expected: &str| {
        let name = format!("n{number}");
        let mut params = json!({ "port": number, "name": name, "urls": urls });
        let is_old = advert.is_null();
        if !is_old {
            params["$"] = advert;
        }
        let mut peer = distributor.register(params).await;
        let line = distributor.warning(expected).await;
        assert!(line.contains("a part of a registration is ignored") && line.contains(&name), "{line}");
        distributor.why(&name, expected).await;
        if !is_old {
            let told = notice(&mut peer, "ignored").await;
            assert!(told.contains(expected), "{told}");
        }
        distributor.counts("warnings_total{reason=\"ignored\"}", number.into()).await;
    };
    let v2 = || json!({ "v": 2 });
    check(1, json!(["GET/:id"]), v2(), "'GET/:id' matches only itself").await;
    check(2, json!(["get/x"]), json!(null), "'get/x' is not a route").await;
    check(3, json!(["GET/a", "/x"]), json!(null), "'/x' is not a route").await;
    check(4, json!([]), json!({ "http": { "prefixes": "/api" } }), "$.http.prefixes is not a list").await;
    check(5, json!([]), json!({ "http": { "prefixes": ["p"] } }), "'p' in http.prefixes is not a path").await;
    check(6, json!([]), json!({ "weight": "heavy" }), "$.weight is not a whole number").await;
    // Sound parts are not mentioned, and the same fault is reported once.
    let mut sound = distributor.register(json!({ "port": 7, "name": "n7", "urls": ["GET/{id}"], "$": v2() })).await;
    for _ in 0..2 {
        sound.register_with(json!({ "port": 7, "name": "n7", "urls": ["GET/:id"], "$": v2() })).await;
    }
    sound.ask(1).await;
    distributor.counts("warnings_total{reason=\"ignored\"}", 7).await;
}

#[tokio::test]
async fn js1_js7_what_a_version_1_peer_may_not_be_told_is_logged() {
    let distributor = ReadDistributor::start().await;
    let mut old = distributor.register(json!({ "port": 1, "name": "old", "urls": [] })).await;
    old.send("{]¶").await;
    let line = distributor.warning("a packet is skipped: at byte 1").await;
    assert!(line.contains("bad_json") && line.contains(&old.port().to_string()), "{line}");
    old.send_packet(&json!({ "uri": "/goods", "method": "GET", "key": 1 })).await;
    distributor.warning("a packet is skipped: GET/goods is unknown to a Distributor").await;
    old.ask(2).await;
    for reason in ["bad_json", "unsupported"] {
        distributor.counts(&format!("refused_total{{reason=\"{reason}\"}}"), 1).await;
    }
}

#[tokio::test]
async fn c7_the_log_names_the_url_and_both_services() {
    let distributor = ReadDistributor::start().await;
    let _goods = distributor.register(json!({ "port": 1, "name": "goods", "urls": ["GET/goods", "GET/a"] })).await;
    distributor.process.line("joined").await;
    let _tour = distributor.register(json!({ "port": 2, "name": "tour", "urls": ["GET/goods"] })).await;
    let line = distributor.warning("services goods and tour both offer GET/goods").await;
    assert!(line.contains("rename one of the urls"), "{line}");
    // Another url within the same seconds has a line of its own.
    let _other = distributor.register(json!({ "port": 3, "name": "mails", "urls": ["GET/a"] })).await;
    distributor.warning("services goods and mails both offer GET/a").await;
    distributor.counts("warnings_total{reason=\"shared_url\"}", 2).await;
}

#[tokio::test]
async fn a14_each_node_that_cannot_be_called_has_a_line() {
    let distributor = ReadDistributor::start().await;
    let v2 = |port: u16, name: &str| json!({ "port": port, "name": name, "urls": [], "$": { "v": 2, "id": name } });
    let mut all = Vec::new();
    for (port, name) in [(1, "one"), (2, "two"), (3, "gate")] {
        let mut node = distributor.register(v2(port, name)).await;
        node.list_with(name).await;
        all.push(node);
    }
    let ids: Vec<u64> = {
        let known = all[2].replica().entries();
        known.filter(|(_, entry)| !entry.contains("gate")).map(|(id, _)| id).collect()
    };
    assert_eq!(ids.len(), 2);
    let mut out = bytes::BytesMut::new();
    let unreachable = ids.iter().map(|id| (*id, protocol::Unreachable::Refused)).collect();
    protocol::write_report(&mut out, &protocol::Report { failed: Vec::new(), unreachable });
    all[2].send(out).await;
    for name in ["one", "two"] {
        distributor.warning("a peer cannot call a node: nothing listens there").await;
        eventually(name, async || {
            let output = distributor.process.output();
            output.lines().any(|line| line.contains("a peer cannot call a node") && line.contains(name))
        })
        .await;
    }
    distributor.counts("warnings_total{reason=\"unreachable\"}", 2).await;
}

#[tokio::test]
async fn cr16_nodes_that_come_and_go_leave_a_hundred_lines_of_each_kind() {
    let distributor = ReadDistributor::start().await;
    let begin = tokio::time::Instant::now();
    for number in 1..=400 {
        let peer = distributor.register(json!({ "port": number, "name": format!("n{number}"), "urls": [] })).await;
        peer.close();
    }
    distributor.counts("nodes", 0).await;
    let periods = begin.elapsed().as_secs() as usize / 10 + 1;
    let output = distributor.process.output();
    for event in [" joined ", " left "] {
        let lines = output.lines().filter(|line| line.contains(event)).count();
        assert!((1..=100 * periods).contains(&lines), "{lines} lines in {periods} periods:\n{output}");
    }
}

#[tokio::test]
async fn bc6_nodes_that_old_lists_have_no_room_for_are_told_of() {
    let distributor = ReadDistributor::start_with(&["--legacy-list-bytes", "150"]).await;
    let node = |port: u16, name: &str| json!({ "port": port, "name": name, "urls": ["GET/x"] });
    let mut first = distributor.register(node(1, "first")).await;
    assert_eq!(first.list_with("first").await, ["first"]);
    distributor.counts("left_out_of_old_lists", 0).await;
    let _second = distributor.register(node(2, "second")).await;
    let line = distributor.warning("the list outgrows what version 1 peers can read").await;
    assert!(line.contains("second"), "{line}");
    distributor.counts("left_out_of_old_lists", 1).await;
    distributor.why("second", "left out").await;
    let why = Process::start(DISTRIBUTOR, &["why", "first", "--at", &distributor.at.to_string()]);
    why.line("joined").await;
    assert!(!why.output().contains("left out"), "{}", why.output());
}
