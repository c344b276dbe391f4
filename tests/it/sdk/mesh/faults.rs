//! Faults that other services, callees and load can cause at a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{CallError, Node, Params, Peers, ServiceError, State};
use serde_json::{Value, json};
use tests::{Cluster, Listener, PATIENCE, Peer, Process};

use crate::programs::NODE;

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

/// The callee of these tests, played by hand.
async fn by_hand(cluster: &Cluster) -> (Listener, Peer) {
    let listener = Listener::bind().await;
    let mut registered = cluster.peer().await;
    let urls = ["GET/n", "POST/n"];
    let advert = json!({ "port": listener.port(), "name": "n", "urls": urls, "$": { "v": 2, "id": "n" } });
    registered.register_with(advert).await;
    (listener, registered)
}

/// The next call on a connection.
async fn next_call(connection: &mut Peer) -> Option<Value> {
    loop {
        let packet = connection.next().await?;
        if packet["uri"] != "$hello" {
            return Some(packet);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn gu14_services_that_call_each_other_in_a_loop_are_stopped() {
    type CallCounter = AtomicUsize;
    async fn ping(peers: Peers, count: State<CallCounter>) -> Result<u8, ServiceError> {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(peers.call("POST/pong", &()).await?)
    }
    async fn pong(peers: Peers) -> Result<u8, ServiceError> {
        Ok(peers.call("POST/ping", &()).await?)
    }
    async fn own(peers: Peers, count: State<CallCounter>) -> Result<u8, ServiceError> {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(peers.call("POST/own", &()).await?)
    }
    async fn again(peers: Peers, count: State<CallCounter>) -> Result<(), ServiceError> {
        count.fetch_add(1, Ordering::SeqCst);
        peers.emit("again", &())?;
        Ok(())
    }
    let mesh = TestMesh::start();
    let count = Arc::new(CallCounter::default());
    let ping = Node::builder("ping").shared_state(Arc::clone(&count)).route("POST/ping", ping).route("POST/own", own);
    let ping = mesh.node(ping.subscribe("again", again)).await.unwrap();
    let _pong = mesh.node(Node::builder("pong").route("POST/pong", pong)).await.unwrap();
    ping.peers().wait_until(|nodes| nodes.len() == 2).await;
    for (url, calls) in [("POST/ping", 16), ("POST/own", 32)] {
        let answer = ping.peers().call::<u8>(url, &()).await;
        assert!(
            matches!(&answer, Err(CallError::Refused { status: 508, reason, .. }) if reason == "loop"),
            "{answer:?}"
        );
        assert_eq!(count.swap(0, Ordering::SeqCst), calls, "{url}");
    }
    ping.peers().emit("again", &()).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count.load(Ordering::SeqCst), 32);
}

#[tokio::test]
async fn gu16_a_link_that_died_while_idle_costs_no_call() {
    let cluster = Cluster::start();
    let (callee, mut registered) = by_hand(&cluster).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["POST/n"]).await;
    for reset in [false, true, false] {
        let peers = caller.peers().clone();
        // Not idempotent: the call is carried out once, or its error says that it may not have
        // been.
        let call = tokio::spawn(async move { peers.call::<u8>("POST/n", &()).await });
        let mut connection = callee.accept().await;
        let key = next_call(&mut connection).await.unwrap()["key"].clone();
        connection.send_packet(&json!({ "key": key, "$": {}, "params": 1 })).await;
        assert_eq!(call.await.unwrap().unwrap(), 1);
        if reset {
            connection.reset()
        } else {
            connection.close()
        }
        // Everything before this answer has reached the caller: both run on one machine, in one
        // loop.
        registered.ask(1).await;
    }
}

#[tokio::test]
async fn gu18_malformed_answers_cost_at_most_their_own_call() {
    let cluster = Cluster::start();
    let (callee, _registered) = by_hand(&cluster).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/n"]).await;
    let answers = tokio::spawn(async move {
        let mut connection = callee.accept().await;
        while let Some(call) = next_call(&mut connection).await {
            if call["uri"] != "/n" {
                continue;
            }
            let answer = call["params"].as_str().unwrap().replace("KEY", &call["key"].to_string());
            connection.send(answer + "¶").await;
        }
    });
    let check = async |answer: &str, expected: &str| {
        let within = Duration::from_millis(300);
        let seen = caller.peers().call::<Value>("GET/n", &answer).timeout(within).await;
        let seen = seen.map_or_else(|error| error.to_string(), |value| value.to_string());
        assert!(seen.starts_with(expected), "{answer}: {seen}");
    };
    let nothing = "no answer from GET/n within 300.0ms";
    check(r#"{"key":KEY,"$":{},"params":1}"#, "1").await;
    check(r#"{"key":KEY,"$":{}}"#, "null").await;
    check(r#"{"key":KEY,"$":{"s":503,"r":"busy","m":"later"}}"#, "503 busy: later").await;
    check(r#"{"key":KEY,"$":{"s":"high","r":7},"params":1}"#, "502").await;
    check(r#"{"key":KEY,"$":{"s":99999,"r":"x"}}"#, "").await;
    check(r#"{"key":KEY,"$":{},"params":1,"params":2}"#, "").await;
    check(r#"{"key":KEY}"#, "").await;
    check(r#"{"key":KEY,"$":{},"params":}"#, "").await;
    check(r#"{"key":-1,"$":{},"params":1}"#, nothing).await;
    check(r#"{"key":"KEY","$":{"n":7},"params":1}"#, "").await;
    check(r#"{"uri":"$part","key":KEY,"$":{"n":1},"params":1}"#, nothing).await;
    check(r#"[KEY]"#, nothing).await;
    check("\u{0}", nothing).await;
    check("", nothing).await;
    // After all of that.
    check(r#"{"key":KEY,"$":{},"params":"still here"}"#, r#""still here""#).await;
    answers.abort();
}

#[tokio::test(start_paused = true)]
async fn rs9_a_panic_outside_of_the_handler_costs_that_connection() {
    /// Panics when the work is dropped, which happens when its caller cancels the call.
    struct Sore;
    impl Drop for Sore {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "on purpose");
        }
    }
    async fn sore() -> Result<u8, ServiceError> {
        let _sore = Sore;
        std::future::pending().await
    }
    async fn slow(Params(ms): Params<u64>) -> Result<&'static str, ServiceError> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok("done")
    }
    let mesh = TestMesh::start();
    let callee = Node::builder("callee").route("GET/sore", sore).route("GET/slow", slow).route("GET/hello", hello);
    let _callee = mesh.node(callee).await.unwrap();
    let (one, other) =
        (mesh.node(Node::builder("one")).await.unwrap(), mesh.node(Node::builder("other")).await.unwrap());
    for node in [&one, &other] {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    let peers = other.peers().clone();
    let call = tokio::spawn(async move { peers.call::<String>("GET/slow", &2000).await });
    let given_up = one.peers().call::<u8>("GET/sore", &()).timeout(Duration::from_millis(100)).await;
    assert!(matches!(given_up, Err(CallError::Deadline { .. })), "{given_up:?}");
    assert_eq!(call.await.unwrap().unwrap(), "done", "another caller's");
    assert_eq!(one.peers().call::<String>("GET/hello", &()).await.unwrap(), "hello", "on a new connection");
    assert_eq!(one.peers().nodes().len(), 3, "it has not left");
}

#[tokio::test]
async fn ov4_a_node_under_load_keeps_its_place() {
    // Distributor, callee and callers share this thread, so a starved one is noticed.
    let cluster = Cluster::start();
    let _callee = cluster.node(Node::builder("callee").route("GET/hello", hello)).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    let mut watch = cluster.peer().await;
    watch.register_v2("watch", 1, "watch", None).await;
    while watch.next_list().await.len() < 3 {}
    let load: Vec<_> = (0..512)
        .map(|_| {
            let peers = caller.peers().clone();
            tokio::spawn(async move {
                loop {
                    let answer = peers.call::<String>("GET/hello", &()).timeout(Duration::from_secs(60)).await;
                    assert_eq!(answer.unwrap(), "hello");
                }
            })
        })
        .collect();
    // Twice the time after which a node is suspect.
    let mut pings = 0;
    while pings < 5 {
        let packet = watch.next().await.unwrap();
        if packet["uri"] == "$ping" {
            pings += 1;
            watch.pong().await;
        } else {
            // The Distributor has warmed up, or says that a node is trusted again, so one was
            // suspect.
            let (update, nobody) = (&packet["params"], json!([]));
            assert!(
                update["joined"] == nobody && update["left"] == nobody && packet["$"].get("suspect").is_none(),
                "{packet}"
            );
        }
    }
    assert!(load.iter().all(|caller| !caller.is_finished()), "a call has failed");
    load.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A node whose system has accepted a connection may have been sent calls before the node itself
/// has accepted it.
#[tokio::test]
async fn a_node_that_stops_takes_the_connections_that_wait_for_it() {
    let cluster = Cluster::start();
    for _ in 0..50 {
        let callee = cluster.node(Node::builder("callee").route("POST/hello", hello)).await;
        let mut connection = std::net::TcpStream::connect(callee.address()).unwrap();
        let call = r#"{"uri":"/hello","method":"POST","key":7,"$":{},"params":null}¶"#;
        std::io::Write::write_all(&mut connection, call.as_bytes()).unwrap();
        let stopping = tokio::spawn(callee.stop());
        connection.set_nonblocking(true).unwrap();
        let mut connection = Peer::over(tokio::net::TcpStream::from_std(connection).unwrap());
        assert_eq!(connection.next().await, Some(json!({ "key": 7, "$": {}, "params": "hello" })));
        connection.close();
        assert_eq!(stopping.await.unwrap(), 0);
    }
}

#[tokio::test]
async fn rs2_a_node_that_is_told_to_stop_under_load_costs_no_call() {
    // These calls are not idempotent: none is tried again that may have been carried out.
    let cluster = Cluster::start();
    let start = || Process::start(NODE, &[&cluster.address.to_string()]);
    let (stays, stops) = (start(), start());
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..32)
        .map(|_| {
            let (peers, is_over) = (caller.peers().clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    peers.call::<u32>("POST/slow", &json!({ "ms": 5 })).await.unwrap();
                }
            })
        })
        .collect();
    assert_eq!(stops.terminate().await.code(), Some(0));
    is_over.store(true, Ordering::SeqCst);
    for caller in load {
        caller.await.unwrap();
    }
    drop(stays);
}

/// Writes the same bytes to a node again and again, until it is dropped or the node ends the
/// connection.
struct CallFlood {
    is_over: Arc<AtomicBool>,
}

impl CallFlood {
    fn start(address: std::net::SocketAddr, bytes: &str) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (stopped, bytes) = (Arc::clone(&is_over), bytes.to_owned());
        std::thread::spawn(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            while !stopped.load(Ordering::SeqCst) && std::io::Write::write_all(&mut socket, bytes.as_bytes()).is_ok() {}
        });
        Self { is_over }
    }
}

impl Drop for CallFlood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn ov4_callers_that_never_pause_make_no_node_suspect() {
    let cluster = Cluster::start();
    let node = Process::start(NODE, &[&cluster.address.to_string()]);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], node.port().await));
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/who"]).await;
    let mut watch = cluster.peer().await;
    watch.register_v2("watch", 1, "watch", None).await;
    while watch.next_list().await.len() < 3 {}
    let mut check = async |connections: usize, packet: &str| {
        let floods: Vec<_> = (0..connections).map(|_| CallFlood::start(address, packet)).collect();
        let begin = tokio::time::Instant::now();
        // Longer than twice the time after which a node is suspect.
        while begin.elapsed() < Duration::from_secs(2) {
            // A second of both threads of the node: on a busy machine that takes longer.
            let call = caller.peers().call::<u32>("GET/who", &()).timeout(PATIENCE);
            let called = node.while_it_works(Duration::from_secs(2), call.into_future()).await;
            let shown: String = packet.chars().take(80).collect();
            let called = called.unwrap_or_else(|| panic!("{connections} × {shown}: not answered"));
            called.unwrap_or_else(|error| panic!("{connections} × {shown}: {error}"));
            let update = tokio::time::timeout(Duration::from_millis(10), watch.next()).await.ok().flatten();
            if let Some(packet) = update {
                if packet["uri"] == "$ping" {
                    watch.pong().await;
                }
                assert!(packet["$"].get("suspect").is_none() && packet["params"]["left"] != json!(["x"]), "{packet}");
            }
        }
        drop(floods);
        assert_eq!(watch.names().len(), 3);
    };
    let ones = |bytes: usize| vec!["1"; bytes / 2].join(",");
    let unknown = |bytes| format!(r#"{{"uri":"/nothing","method":"GET","$":{{}},"params":[{}]}}¶"#, ones(bytes));
    check(4, &unknown(1 << 20)).await;
    check(4, &unknown(8 << 10)).await;
    check(100, &unknown(64 << 10)).await;
    // Packets that are parsed instead of split; calls that are carried out; empty packets; packets
    // that are not calls.
    check(4, &format!(r#"{{"method":"GET","uri":"/who","params":[{}]}}¶"#, ones(1 << 20))).await;
    check(4, &r#"{"uri":"/who","method":"GET","$":{},"params":null}¶"#.repeat(1000)).await;
    check(4, &"¶".repeat(100_000)).await;
    check(4, &r#"{"uri":"$nothing","$":{}}¶"#.repeat(1000)).await;
    check(4, &format!(r#"{{"uri":"$part","key":7,"$":{{"n":1}},"params":[{}]}}¶"#, ones(1 << 20))).await;
}

/// Bytes that this process, or another, has in memory.
fn resident(pid: i32) -> u64 {
    let process = procfs::process::Process::new(pid).unwrap();
    process.statm().unwrap().resident * procfs::page_size()
}

/// A node in a process of its own with a budget of 64 MB, an attack on it, and a caller that still
/// gets its answers.
async fn with_little_room(attack: &str, connections: usize, first: &str, then: &str, word: Option<&str>) {
    let cluster = Cluster::start();
    let start = |budget: &str| {
        let address = cluster.address.to_string();
        Process::start_with(NODE, &[&address], &[("BUFFERS", budget)])
    };
    let node = start("64000000");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], node.port().await));
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/who"]).await;
    let mut peers = Vec::new();
    for _ in 0..connections {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let bytes = [first, then].concat().into_bytes();
        peers.push(tokio::spawn(async move {
            let (mut reads, mut writes) = socket.into_split();
            let writing = async { tokio::io::AsyncWriteExt::write_all(&mut writes, &bytes).await };
            // No side reads, and none closes.
            let _ = tokio::time::timeout(Duration::from_secs(4), writing).await;
            let mut said = vec![0; 1 << 16];
            let _ = tokio::io::AsyncReadExt::read(&mut reads, &mut said).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }));
    }
    let begin = tokio::time::Instant::now();
    let mut most = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        let call = caller.peers().call::<u32>("GET/who", &()).timeout(Duration::from_secs(20));
        let pid = call.await.unwrap_or_else(|error| panic!("{attack}: {error}"));
        most = most.max(resident(i32::try_from(pid).unwrap()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The budget; the same again for the allocator and for responses in the making; and the
    // program.
    assert!(most < 300_000_000, "{attack}: {most} bytes");
    if let Some(word) = word {
        node.line(word).await;
    }
    peers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn gu4_half_packets_of_many_callers_have_a_budget() {
    let half = format!(r#"{{"uri":"/who","method":"GET","$":{{}},"params":"{}"#, "x".repeat(8_000_000));
    with_little_room("half packets", 60, &half, "", None).await;
}

#[tokio::test]
async fn gu4_answers_that_are_not_read_have_a_budget() {
    let call = r#"{"uri":"/large","method":"GET","key":1,"$":{},"params":{"bytes":7000000}}¶"#;
    with_little_room("unread answers", 100, call, "", Some("no room for a response")).await;
    let stream = call.replace(r#""$":{}"#, r#""$":{"c":100000000}"#).replace("/large", "/parts");
    with_little_room("unread parts", 100, &stream, "", Some("no room for a response")).await;
}

#[tokio::test]
async fn gu4_running_calls_have_a_budget() {
    let call = format!(r#"{{"uri":"/keep","method":"GET","key":7,"$":{{}},"params":"{}"}}¶"#, "x".repeat(4_000_000));
    with_little_room("calls at work", 20, &call.repeat(4), "", None).await;
    let small = r#"{"uri":"/keep","method":"GET","key":7,"$":{},"params":""}¶"#;
    with_little_room("small calls at work", 800, &small.repeat(1024), "", None).await;
}

#[tokio::test]
async fn gu4_unread_parts_have_a_budget() {
    let open =
        |key: u32| format!(r#"{{"uri":"/swallow","method":"POST","key":{key},"$":{{"c":1000}},"params":null}}¶"#);
    let part =
        |key: u32| format!(r#"{{"uri":"$part","key":{key},"$":{{"n":1}},"params":"{}"}}¶"#, "x".repeat(2_000_000));
    let (opens, parts): (String, String) = ((1..20).map(open).collect(), (1..20).map(part).collect());
    with_little_room("parts", 10, &opens, &parts, Some("no room for the parts of a stream")).await;
}
