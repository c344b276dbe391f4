//! Both versions in every mix. The programs of version 1 are emulations in Node.js of programs that
//! have been in the field for years, with their weaknesses: bytes that would crash the originals
//! crash these.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use node_sdk::{Node, Params, ServiceError, State};
use serde_json::{Map, Value, json};
use tests::{Cluster, NodeLog, Process, eventually, legacy_peers_can_run, patient, pick_port, request};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::programs::DISTRIBUTOR;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    Version1,
    Version2,
}

/// A Distributor, a gateway and services, each of version 1 or 2.
struct Mix {
    distributor: Process,
    gateway: SocketAddr,
    gateway_age: Generation,
    version_1: Vec<Process>,
    nodes: Vec<Node>,
    _stop: DropGuard,
}

type Stored = Mutex<Vec<Map<String, Value>>>;

async fn add(Params(mut item): Params<Map<String, Value>>, stored: State<Stored>) -> Result<Value, ServiceError> {
    item.remove("key");
    stored.lock().unwrap().push(item.clone());
    Ok(json!([item]))
}

async fn list(stored: State<Stored>) -> Result<Value, ServiceError> {
    Ok(json!(*stored.lock().unwrap()))
}

async fn clear(stored: State<Stored>) -> Result<Value, ServiceError> {
    stored.lock().unwrap().clear();
    Ok(json!([]))
}

impl Mix {
    async fn start(distributor: Generation, gateway: Generation, family: &str) -> Self {
        let port = pick_port().to_string();
        let distributor = match distributor {
            Generation::Version1 => Process::legacy("distributor", &["--port", &port, "--family", family]),
            Generation::Version2 => Process::start(DISTRIBUTOR, &["--listen", &format!("127.0.0.1:{port}")]),
        };
        distributor.line("listening").await;
        let stop = CancellationToken::new();
        let mut version_1 = Vec::new();
        let address = match gateway {
            Generation::Version1 => {
                let arguments = ["--port", "0", "--distributor", &port, "--family", family, "--connect-delay", "50"];
                version_1.push(Process::legacy("gateway", &arguments));
                SocketAddr::new("127.0.0.1".parse().unwrap(), version_1[0].port().await)
            }
            Generation::Version2 => {
                let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                let address = listener.local_addr().unwrap();
                let distributor = format!("127.0.0.1:{port}");
                let config = gateway::Config { distributor, ..gateway::Config::default() };
                tokio::spawn(gateway::serve(listener, config, stop.clone()));
                address
            }
        };
        Self {
            distributor,
            gateway: address,
            gateway_age: gateway,
            version_1,
            nodes: Vec::new(),
            _stop: stop.drop_guard(),
        }
    }

    async fn distributor_port(&self) -> String {
        self.distributor.port().await.to_string()
    }

    async fn service(&mut self, age: Generation, name: &str, extra: &[&str]) {
        let port = self.distributor_port().await;
        let urls = format!("POST/{name},GET/{name},DELETE/{name}");
        match age {
            Generation::Version1 => {
                let mut arguments = vec!["--name", name, "--port", "0", "--urls", &urls, "--distributor", &port];
                arguments.extend(["--connect-delay", "50"].iter().chain(extra));
                self.version_1.push(Process::legacy("service", &arguments));
            }
            Generation::Version2 => {
                let node = Node::builder(name)
                    .public_routes()
                    .distributor(format!("127.0.0.1:{port}"))
                    .state(Stored::default())
                    .route(&format!("POST/{name}"), add)
                    .route(&format!("GET/{name}"), list)
                    .route(&format!("DELETE/{name}"), clear);
                self.nodes.push(node.start().await.unwrap());
            }
        }
        let (gateway, path) = (self.gateway, format!("/{name}"));
        eventually(&format!("{path} is routed"), async || request(gateway, "DELETE", &path, "").await.status == 200)
            .await;
    }

    /// Sends a request and checks the data of its answer, in the form in which this gateway passes
    /// on this service's answers.
    async fn check(&self, service: Generation, method: &str, path: &str, body: &str, data: Value) {
        let response = request(self.gateway, method, path, body).await;
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")), "{path}");
        let mut answer = response.json();
        if (self.gateway_age, service) == (Generation::Version2, Generation::Version2) {
            assert_eq!(answer, data);
            return;
        }
        assert!(answer.as_object_mut().unwrap().remove("key").is_some(), "the whole packet, its key included");
        let nothing = data == json!([]) && method == "GET" && service == Generation::Version1;
        let expected = if nothing {
            json!({ "errorcode": 1, "errormessage": "no data" })
        } else {
            json!({ "errorcode": 0, "errormessage": "success", "results": data })
        };
        assert_eq!(answer, expected, "{method} {path}");
    }

    /// Checks that all of them are still running.
    fn check_alive(&mut self) {
        for process in self.version_1.iter_mut().chain([&mut self.distributor]) {
            assert!(process.is_running(), "{}", process.output());
        }
    }
}

async fn check_mix(distributor: Generation, gateway: Generation, service: Generation, family: &str) {
    let mut mix = Mix::start(distributor, gateway, family).await;
    mix.service(service, "goods", &["--family", family]).await;
    mix.check(service, "GET", "/goods", "", json!([])).await;
    mix.check(service, "POST", "/goods", r#"{"name":"사과","price":1200}"#, json!([{ "name": "사과", "price": 1200 }]))
        .await;
    mix.check(service, "GET", "/goods?a=1&key=7", "", json!([{ "name": "사과", "price": 1200 }])).await;
    mix.check(service, "DELETE", "/goods", "", json!([])).await;
    assert_eq!(request(mix.gateway, "GET", "/nothing", "").await.status, 404);
    // A second service joins, is found, and leaves.
    mix.service(service, "members", &["--family", family]).await;
    mix.check(service, "GET", "/members", "", json!([])).await;
    match service {
        Generation::Version1 => mix.version_1.pop().unwrap().kill().await,
        Generation::Version2 => drop(mix.nodes.pop().unwrap().stop().await),
    }
    let gateway = mix.gateway;
    eventually("it is gone", async || {
        // A version 1 gateway has no deadline: a call to a node that has just died hangs for ever.
        let answer = timeout(Duration::from_secs(1), request(gateway, "GET", "/members", "")).await;
        answer.is_ok_and(|answer| answer.status != 200)
    })
    .await;
    mix.check(service, "GET", "/goods", "", json!([])).await;
    mix.check_alive();
}

macro_rules! mixes {
    ($($name:ident: $distributor:ident $gateway:ident $service:ident;)*) => {
        $(#[tokio::test]
        async fn $name() {
            if legacy_peers_can_run() {
                for family in ["buffering", "strict"] {
                    check_mix(Generation::$distributor, Generation::$gateway, Generation::$service, family).await;
                }
            }
        })*
    };
}

mixes! {
    mix_old_distributor_old_gateway_old_services: Version1 Version1 Version1;
    mix_old_distributor_old_gateway_our_services: Version1 Version1 Version2;
    mix_old_distributor_our_gateway_old_services: Version1 Version2 Version1;
    mix_old_distributor_our_gateway_our_services: Version1 Version2 Version2;
    mix_our_distributor_old_gateway_old_services: Version2 Version1 Version1;
    mix_our_distributor_old_gateway_our_services: Version2 Version1 Version2;
    mix_our_distributor_our_gateway_old_services: Version2 Version2 Version1;
    mix_our_distributor_our_gateway_our_services: Version2 Version2 Version2;
}

#[tokio::test]
async fn old_and_our_providers_of_one_url_take_turns() {
    if !legacy_peers_can_run() {
        return;
    }
    for gateway in [Generation::Version1, Generation::Version2] {
        let mut mix = Mix::start(Generation::Version2, gateway, "strict").await;
        mix.service(Generation::Version1, "goods", &["--family", "strict"]).await;
        mix.service(Generation::Version2, "goods", &[]).await;
        let (mut old, mut ours) = (false, false);
        eventually("both have answered", async || {
            let answer = request(mix.gateway, "GET", "/goods", "").await.json();
            old |= answer["errorcode"] == 1;
            ours |= answer == json!([]) || answer["results"] == json!([]);
            old && ours
        })
        .await;
        mix.check_alive();
    }
}

#[tokio::test]
async fn both_dialects_of_the_key() {
    if !legacy_peers_can_run() {
        return;
    }
    for extra in [&["--key", "string"][..], &["--top-key"], &["--top-key", "--key", "string"]] {
        let mut mix = Mix::start(Generation::Version2, Generation::Version2, "strict").await;
        mix.service(Generation::Version1, "goods", extra).await;
        let answer = request(mix.gateway, "POST", "/goods", r#"{"a":1}"#).await.json();
        assert_eq!(answer["results"], json!([{ "a": 1 }]), "{answer}");
        mix.check_alive();
    }
}

#[tokio::test]
async fn our_nodes_call_old_services_and_read_their_results() {
    if !legacy_peers_can_run() {
        return;
    }
    let (log, _guard) = NodeLog::start();
    let mut mix = Mix::start(Generation::Version2, Generation::Version2, "buffering").await;
    mix.service(Generation::Version1, "goods", &["--key", "string"]).await;
    let address = format!("127.0.0.1:{}", mix.distributor_port().await);
    let node = Node::builder("caller").distributor(address).start().await.unwrap();
    node.peers().wait_for(&["POST/goods"]).await;
    let stored: Value = node.peers().call("POST/goods", &json!({ "key": "mine", "n": 7 })).await.unwrap();
    assert_eq!(stored, json!([{ "n": 7 }]), "a version 1 service sees our key, not the caller's");
    let calls: Vec<_> = (0..200)
        .map(|n| {
            let peers = node.peers().clone();
            tokio::spawn(async move {
                let params = json!({ "n": n, "text": "가나다 \u{b6}".repeat(100) });
                // A version 1 service answers with a raw delimiter in the text, which no reader can
                // cut: so ask for no text back.
                peers.call::<Value>("DELETE/goods", &params).await
            })
        })
        .collect();
    let mut answers = join_all(calls).await.into_iter().map(Result::unwrap);
    let failed = answers.find(|answer| !matches!(answer, Ok(results) if *results == json!([])));
    mix.check_alive();
    assert!(failed.is_none(), "{failed:?}, and the log of our nodes is {:#?}", log.lines(""));
}

#[tokio::test]
async fn old_nodes_survive_crowds_and_churn() {
    if !legacy_peers_can_run() {
        return;
    }
    for family in ["buffering", "strict"] {
        let cluster = Cluster::start();
        let port = cluster.address.port().to_string();
        let common = ["--distributor", &port, "--family", family, "--connect-delay", "50"];
        let mut gate = Process::legacy("gateway", &[&["--port", "0"], &common[..]].concat());
        let mut service = Process::legacy(
            "service",
            &[&["--name", "goods", "--port", "0", "--urls", "GET/goods"], &common[..]].concat(),
        );
        let mut observer = cluster.registered("observer").await;
        observer.list_with("goods").await;
        observer.ask_until("the gateway is there", |names| names.len() == 3).await;
        // A thousand nodes join: far more than the 64 KiB that version 1 nodes can read.
        let mut crowd = Vec::new();
        for number in 0..1000 {
            let mut peer = cluster.peer().await;
            peer.register_with(
                json!({ "port": 1, "name": format!("crowd-{number}"), "urls": [format!("GET/crowd/{number}")] }),
            )
            .await;
            crowd.push(peer);
        }
        observer.ask_until("more than half are there", |names| names.len() > 500).await;
        // Half of them leave, one by one or at once.
        for (number, peer) in crowd.into_iter().enumerate() {
            if number % 2 == 0 { peer.close() } else { peer.reset() }
        }
        observer.ask_until("only the first three are left", |names| names.len() == 3).await;
        service.line("list 3").await;
        assert!(gate.is_running(), "{}", gate.output());
        assert!(service.is_running(), "{}", service.output());
        let gate = SocketAddr::new("127.0.0.1".parse().unwrap(), gate.port().await);
        eventually("calls go through", async || request(gate, "GET", "/goods", "").await.status == 200).await;
    }
}

#[tokio::test]
async fn the_plain_javascript_example_joins_and_is_called() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let address = cluster.address.to_string();
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/js");
    let (service, client) = (examples.join("service.js"), examples.join("client.js"));
    let (service, client) = (service.to_str().unwrap(), client.to_str().unwrap());
    let service = Process::start("node", &[service, "--port", "0", "--distributor", &address]);
    service.line("registered").await;
    let mut client =
        Process::start("node", &[client, "--distributor", &address, "POST/hello", r#"{"name":"홍길동 ¶"}"#]);
    assert_eq!(client.ended().await.code(), Some(0), "{}", client.output());
    client.line("홍길동 ¶").await;
    let gateway = cluster.gateway().await;
    assert_eq!(Cluster::wait_routed(gateway, "/hello").await.json()["greeting"], "Hello, world!");
    assert_eq!(service.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn an_old_caller_gets_one_answer_in_its_own_form() {
    let cluster = Cluster::start();
    let node = Node::builder("goods")
        .public_routes()
        .state(Stored::default())
        .route("GET/goods", list)
        .route("POST/goods", add);
    let node = cluster.node(node).await;
    let mut caller = tests::Peer::connect(node.address()).await;
    for (call, answer) in [
        (
            r#"{"uri":"/goods","method":"POST","params":{"key":0,"n":1}}"#,
            r#"{"key":0,"errorcode":0,"errormessage":"success","results":[{"n":1}]}"#,
        ),
        (
            r#"{"uri":"/goods","method":"GET","key":"k","params":{"key":7}}"#,
            r#"{"key":"k","errorcode":0,"errormessage":"success","results":[{"n":1}]}"#,
        ),
        (
            r#"{"uri":"/none","method":"GET","params":{"key":1}}"#,
            r#"{"key":1,"errorcode":404,"errormessage":"this node does not offer GET/none"}"#,
        ),
        (
            r#"{"uri":"/goods","method":"GET","key":9,"params":{},"$":{"d":1000}}"#,
            r#"{"key":9,"$":{},"params":[{"n":1}]}"#,
        ),
    ] {
        // One-way: a call without a key is carried out and never answered.
        caller.send("{\"uri\":\"/goods\",\"method\":\"GET\"}¶").await;
        caller.send(format!("{call}¶")).await;
        assert_eq!(String::from_utf8(caller.next_bytes().await).unwrap(), format!("{answer}¶"));
    }
}

#[tokio::test]
async fn e1_a_peer_without_a_usable_port_is_told_of_everything_and_not_listed() {
    for params in [
        json!({ "prot": 8000, "name": "gate", "urls": [] }),
        json!({ "port": 0, "name": "gate", "urls": [] }),
        json!({ "port": 65_536, "name": "gate" }),
        json!({ "port": "none", "name": "gate" }),
        // The same of any other registration that is not taken.
        json!({ "port": 8000, "name": "gate", "urls": "GET/a" }),
        json!({ "port": 8000, "name": "gate", "urls": vec!["GET/a"; 257] }),
        json!(["gate"]),
    ] {
        let cluster = Cluster::start();
        let mut gate = cluster.peer().await;
        gate.register_with(params.clone()).await;
        let mut goods = cluster.registered("goods").await;
        assert_eq!(gate.list_with("goods").await, ["goods"], "{params}");
        goods.register("renamed", 1).await;
        assert_eq!(gate.list_with("renamed").await, ["renamed"], "{params}");
        goods.close();
        assert_eq!(gate.next_list().await, Vec::<String>::new(), "{params}");
    }
}

#[tokio::test]
async fn e1_a_peer_that_registers_and_ends_at_once_is_closed() {
    let cluster = Cluster::start();
    // The end often comes before the list is sent to the peer.
    for number in 0..300 {
        let mut peer = cluster.peer().await;
        peer.register_with(json!({ "port": number % 2, "name": "gate", "urls": [] })).await;
        peer.shutdown().await;
        peer.last_packet().await;
    }
}

#[tokio::test]
async fn e1_a_node_for_which_the_list_has_no_room_is_told_of_everything() {
    let cluster = Cluster::with(distributor::Config { max_list_bytes: 100, ..patient() });
    let goods = cluster.registered("goods").await;
    let mut gate = cluster.peer().await;
    gate.register_with(json!({ "port": 1, "name": "x".repeat(100) })).await;
    assert_eq!(gate.list_with("goods").await, ["goods"]);
    goods.close();
    assert_eq!(gate.next_list().await, Vec::<String>::new());
}

#[tokio::test]
async fn e17_an_old_peer_is_cut_without_a_word() {
    for garbage in ["{]¶{]¶{]¶".to_owned(), "x".repeat(70_000), "¶".repeat(1002)] {
        let cluster = Cluster::start();
        let mut listed = cluster.registered("gate").await;
        let mut listener = cluster.peer().await;
        listener.register_with(json!({ "prot": 1 })).await;
        listener.list_with("gate").await;
        for peer in [&mut listed, &mut listener] {
            peer.send(&garbage).await;
            let last = peer.last_packet().await;
            assert!(last.is_none_or(|last| last.get("$").is_none()), "an empty list would make it forget its routes");
        }
    }
}

#[tokio::test]
async fn e4_a_raw_delimiter_in_calls_of_an_old_gate_does_no_harm() {
    if !legacy_peers_can_run() {
        return;
    }
    let mut mix = Mix::start(Generation::Version2, Generation::Version1, "buffering").await;
    mix.service(Generation::Version2, "notes", &[]).await;
    let (_goods, _) = tests::goods(format!("127.0.0.1:{}", mix.distributor_port().await).parse().unwrap()).await;
    let gateway = mix.gateway;
    eventually("goods is routed", async || request(gateway, "DELETE", "/goods", "").await.status == 200).await;
    for path in ["/notes", "/goods"] {
        for round in 1..=4 {
            let added = request(gateway, "POST", path, r#"{"name":"a¶b","more":"¶"}"#).await.json();
            assert_eq!(added["results"], json!([{ "name": "a¶b", "more": "¶" }]), "{added}");
            let list = request(gateway, "GET", &format!("{path}?x=%C2%B6"), "").await;
            assert_eq!((list.status, list.json()["results"].as_array().unwrap().len()), (200, round));
        }
    }
    mix.check_alive();
}

#[tokio::test]
async fn e4_what_cannot_be_joined_is_ignored_and_the_gate_is_not_cut() {
    let cluster = Cluster::start();
    let node = Node::builder("goods").public_routes().state(Stored::default()).route("GET/goods", list);
    let node = cluster.node(node).await;
    let mut gate = tests::Peer::connect(node.address()).await;
    for key in 1..=5 {
        let text = "¶".repeat(17);
        gate.send(format!(r#"{{"uri":"/goods","method":"GET","params":{{"x":"{text}","key":0}}}}¶"#)).await;
        gate.send(format!(r#"{{"uri":"/goods","method":"GET","params":{{"key":{key}}}}}¶"#)).await;
        assert_eq!(gate.next().await.unwrap()["key"], key);
    }
}

#[tokio::test]
async fn e5_an_answer_of_an_old_service_that_a_raw_delimiter_has_cut_is_joined() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let port = cluster.address.port().to_string();
    let arguments = ["--name", "goods", "--port", "0", "--urls", "POST/goods,GET/goods", "--distributor", &port];
    let mut service = Process::legacy("service", &[&arguments[..], &["--connect-delay", "50"]].concat());
    let distributor = cluster.address.to_string();
    let address = tests::pick_address();
    let arguments = ["--listen", &address.to_string(), "--admin", "off", "--distributor", &distributor];
    let gateway = Process::start(crate::programs::GATEWAY, &arguments);
    gateway.line("listening").await;
    Cluster::wait_routed(address, "/goods").await;
    let item = json!({ "name": "a¶b", "more": "¶¶" });
    let added = request(address, "POST", "/goods", &item.to_string()).await.json();
    assert_eq!(added["results"], json!([item]), "{added}");
    for _ in 0..3 {
        assert_eq!(request(address, "GET", "/goods", "").await.json()["results"], json!([item]));
    }
    gateway.line("a response of goods was cut by a raw ¶").await;
    // A node of ours reads it as well.
    let node = cluster.node(Node::builder("caller")).await;
    node.peers().wait_for(&["GET/goods"]).await;
    assert_eq!(node.peers().call::<Value>("GET/goods", &()).await.unwrap(), json!([item]));
    assert!(service.is_running(), "{}", service.output());
}

#[tokio::test]
async fn e14_a_packet_that_ends_in_another_delimiter_is_named() {
    let config = distributor::Config { frame_timeout: Duration::from_millis(200), ..distributor::Config::default() };
    let cluster = Cluster::with(config);
    for (bytes, words) in [
        ("{\"uri\":\"/distributes\"}\t", "23 bytes without ¶, which end in '\\t'"),
        ("{}$", "3 bytes without ¶, which end in '$'"),
        ("{}§", "4 bytes without ¶, which end in '\\xa7'"),
    ] {
        let mut peer = cluster.peer().await;
        peer.send(bytes).await;
        let last = peer.last_packet().await.unwrap();
        let message = last["$"]["m"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
}
