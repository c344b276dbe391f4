//! Arguments and results of handlers, and the end of their calls.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use node_sdk::gateway::GatewayPeers;
use node_sdk::{
    Accepted, CallError, Caller, Created, Deadline, NoContent, Node, NodeBuilder, Params, Path, Peers, RawParams,
    ServiceError, State,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::streams::HandlerResult;
use tests::{Cluster, Listener, PATIENCE, Peer, Process, RawNode, eventually};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::programs::NODE;
use crate::sdk::{number, providers};

/// A node, and another one that calls it.
async fn pair(node: NodeBuilder) -> (Cluster, Node, Node) {
    let cluster = Cluster::start();
    let callee = cluster.node(node).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    (cluster, callee, caller)
}

#[tokio::test]
async fn a_handler_asks_for_what_it_needs() {
    #[derive(Deserialize)]
    struct Named {
        id: u64,
        tag: String,
    }
    async fn by_order(Path((id, tag)): Path<(u64, String)>) -> HandlerResult<String> {
        Ok(format!("{id} {tag}"))
    }
    async fn by_name(Path(Named { id, tag }): Path<Named>) -> HandlerResult<String> {
        Ok(format!("{id} {tag}"))
    }
    async fn raw(RawParams(text): RawParams) -> HandlerResult<String> {
        Ok(text)
    }
    async fn left(deadline: Deadline) -> HandlerResult<bool> {
        Ok(deadline.remaining().is_some_and(|left| left <= Duration::from_secs(1) && left > Duration::from_millis(500)))
    }
    async fn caller(caller: Caller) -> HandlerResult<(Option<String>, bool)> {
        Ok((caller.name(), caller.address().ip().is_loopback() && caller.instance().is_some()))
    }
    let node = Node::builder("callee")
        .route("GET/order/{id}/{tag}", by_order)
        .route("GET/name/{id}/{tag}", by_name)
        .route("GET/raw", raw)
        .route("GET/left", left)
        .route("GET/caller", caller);
    let (_cluster, _callee, caller) = pair(node).await;
    let peers = caller.peers();
    for url in ["GET/order/7/%ED%95%9C", "GET/name/7/%ED%95%9C"] {
        assert_eq!(peers.call::<String>(url, &()).await.unwrap(), "7 한", "{url}");
    }
    let refused = peers.call::<String>("GET/order/seven/x", &()).await.unwrap_err().to_string();
    assert!(refused.contains("400 bad_path: member `id`"), "{refused}");
    assert_eq!(peers.call::<String>("GET/raw", &json!({ "a": [1] })).await.unwrap(), r#"{"a":[1]}"#);
    assert!(peers.call::<bool>("GET/left", &()).timeout(Duration::from_secs(1)).await.unwrap());
    let who: (Option<String>, bool) = peers.call("GET/caller", &()).await.unwrap();
    assert_eq!(who, (Some("caller".to_owned()), true));
}

#[tokio::test]
async fn a_result_has_a_status() {
    async fn created() -> HandlerResult<Created<u8>> {
        Ok(Created(1))
    }
    async fn accepted() -> HandlerResult<Accepted<&'static str>> {
        Ok(Accepted("soon"))
    }
    async fn nothing() -> HandlerResult<NoContent> {
        Ok(NoContent)
    }
    async fn busy() -> HandlerResult<()> {
        Err(ServiceError::new(503, "busy", "come back").retry_after(Duration::from_secs(2)))
    }
    let node = Node::builder("callee")
        .route("POST/created", created)
        .route("POST/accepted", accepted)
        .route("DELETE/it", nothing)
        .route("GET/busy", busy);
    let (_cluster, _callee, caller) = pair(node).await;
    let peers = caller.peers();
    for (method, path, status, body) in
        [("POST", "/created", 201, "1"), ("POST", "/accepted", 202, "\"soon\""), ("DELETE", "/it", 204, "null")]
    {
        let raw = peers.call_raw(method, path, "{}").await.unwrap();
        let answer = raw.read().unwrap();
        assert_eq!((answer.status, answer.body.map_or("null", |body| body.get())), (status, body), "{path}");
    }
    assert_eq!(peers.call::<u8>("POST/created", &()).await.unwrap(), 1);
    peers.call::<()>("DELETE/it", &()).await.unwrap();
    let CallError::Refused { status: 503, retry_after, .. } = peers.call::<()>("GET/busy", &()).await.unwrap_err()
    else {
        panic!("the call must be refused")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn a_type_without_data_takes_any_answer() {
    #[derive(serde::Deserialize)]
    struct Done;
    async fn answer(Params(answer): Params<Value>) -> HandlerResult<Value> {
        Ok(answer["answer"].clone())
    }
    let (cluster, _callee, caller) = pair(Node::builder("callee").route("POST/answer", answer)).await;
    let old = RawNode::join(&cluster).await;
    caller.peers().wait_for(&["POST/x"]).await;
    for answer in [json!(null), json!(7), json!("text"), json!([1, 2]), json!({ "id": 7 }), json!({})] {
        let params = json!({ "answer": answer });
        caller.peers().call::<()>("POST/answer", &params).await.unwrap_or_else(|e| panic!("{answer}: {e}"));
        caller.peers().call::<Done>("POST/answer", &params).await.unwrap_or_else(|e| panic!("{answer}: {e}"));
        // A type with data does not.
        let read = caller.peers().call::<(u8, u8, u8)>("POST/answer", &params).await;
        assert!(matches!(read, Err(CallError::Response { .. })), "{answer}: {read:?}");
    }
    let call = caller.peers().call::<()>("POST/x", &()).into_future();
    let respond = async {
        let mut peer = old.listener.accept().await;
        let key = peer.next().await.unwrap()["key"].clone();
        peer.send(format!(r#"{{"key":{key},"errorcode":0,"errormessage":"success","results":[1]}}¶"#)).await;
        peer
    };
    let (answered, _peer) = tokio::join!(call, respond);
    answered.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_first_of_few_answers_leaves_while_the_next_call_is_handled() {
    type Release = Mutex<mpsc::Receiver<()>>;
    async fn quick() -> HandlerResult<u32> {
        Ok(1)
    }
    // It blocks the task of its connection, as a long computation does.
    async fn held(told: State<Release>) -> HandlerResult<bool> {
        Ok(told.lock().unwrap().recv_timeout(PATIENCE).is_ok())
    }
    let (tell, told) = mpsc::channel();
    let node = Node::builder("callee").state(Release::new(told)).route("GET/quick", quick).route("GET/held", held);
    let cluster = Cluster::start();
    let node = cluster.node(node).await;
    let call = |key, uri| {
        format!("{}¶", json!({ "uri": uri, "method": "GET", "key": key, "params": {}, "$": { "d": 60_000 } }))
    };
    let (both, address) = ([call(1, "/quick"), call(2, "/held")].concat(), node.address());
    // On a thread of its own: the task that polls the runtime's sockets may be the blocked one.
    let caller = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(both.as_bytes()).unwrap();
        let mut seen = String::new();
        for (answer, then_tells) in [(r#""params":1}¶"#, true), (r#""params":true}¶"#, false)] {
            while !seen.ends_with(answer) {
                let mut part = [0; 1024];
                let read = stream.read(&mut part).expect("an answer in time");
                seen.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            if then_tells {
                tell.send(()).unwrap();
            }
        }
    });
    caller.await.unwrap();
}

/// A handler that runs until it is told to end, and records whether it was dropped.
#[derive(Default)]
struct Gate {
    open: Notify,
    started: AtomicUsize,
    dropped: AtomicUsize,
}

async fn wait(gate: State<Gate>) -> HandlerResult<&'static str> {
    struct Dropped(State<Gate>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
    gate.started.fetch_add(1, Ordering::SeqCst);
    let _dropped = Dropped(gate.clone());
    gate.open.notified().await;
    Ok("done")
}

fn gated(gate: &Arc<Gate>) -> NodeBuilder {
    Node::builder("callee").shared_state(Arc::clone(gate)).route("GET/wait", wait)
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_at_the_node() {
    let gate = Arc::new(Gate::default());
    let (_cluster, _callee, caller) = pair(gated(&gate)).await;
    let dropped = || gate.dropped.load(Ordering::SeqCst);
    // Its time is over.
    let failed = caller.peers().call::<String>("GET/wait", &()).timeout(Duration::from_millis(100)).await;
    assert!(matches!(failed, Err(CallError::Deadline { .. })));
    eventually("the work is dropped", async || dropped() == 1).await;
    // Its caller has gone.
    let peers = caller.peers().clone();
    let call = tokio::spawn(async move { peers.call::<String>("GET/wait", &()).await });
    eventually("it has begun", async || gate.started.load(Ordering::SeqCst) == 2).await;
    call.abort();
    eventually("the work is dropped", async || dropped() == 2).await;
}

#[tokio::test]
async fn gu4_ov7_a_full_route_says_so_and_another_node_is_asked() {
    let gate = Arc::new(Gate::default());
    let (cluster, _callee, caller) = pair(gated(&gate).max_concurrency(2)).await;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let peers = caller.peers().clone();
            tokio::spawn(async move { peers.call::<String>("GET/wait", &()).await })
        })
        .collect();
    eventually("both are at work", async || gate.started.load(Ordering::SeqCst) == 2).await;
    let refused = caller.peers().call::<String>("GET/wait", &()).await;
    let Err(CallError::Refused { status: 503, reason, retry_after: Some(_), .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(reason, "overloaded");
    async fn free() -> HandlerResult<&'static str> {
        Ok("free")
    }
    let _other = cluster.node(Node::builder("other").route("GET/wait", free)).await;
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    for _ in 0..4 {
        assert_eq!(caller.peers().call::<String>("GET/wait", &()).await.unwrap(), "free");
    }
    gate.open.notify_waiters();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "done");
    }
}

#[tokio::test]
async fn a_one_way_call_is_carried_out_and_never_answered() {
    async fn log(RawParams(line): RawParams, lines: State<Mutex<Vec<String>>>) -> HandlerResult<()> {
        lines.lock().unwrap().push(line);
        Ok(())
    }
    let lines = Arc::new(Mutex::new(Vec::<String>::new()));
    let logs = Node::builder("logs").shared_state(Arc::clone(&lines)).route("POST/logs", log).one_way();
    let (_cluster, node, caller) = pair(logs).await;
    caller.peers().send("POST/logs", &"from a node").await.unwrap();
    let mut old = Peer::connect(node.address()).await;
    old.send_packet(&json!({ "uri": "/logs", "method": "POST", "key": 7, "params": { "a": 1 } })).await;
    let mut new = Peer::connect(node.address()).await;
    new.send_packet(&json!({ "uri": "/logs", "method": "POST", "key": 7, "params": 1, "$": {} })).await;
    eventually("all are there", async || lines.lock().unwrap().len() == 3).await;
    for peer in [&mut old, &mut new] {
        peer.send_packet(&json!({ "uri": "/none", "method": "GET", "key": 8, "params": {} })).await;
        assert_eq!(peer.next().await.unwrap()["key"], 8, "the line was not answered");
    }
    assert!(matches!(caller.peers().send("POST/nowhere", &()).await, Err(CallError::NoRoute { .. })));
}

#[tokio::test]
async fn a_node_calls_itself_without_a_socket() {
    async fn ask(peers: Peers) -> HandlerResult<(usize, String)> {
        let own = peers.call("GET/own", &json!({ "n": 7 })).await?;
        let refused = peers.call::<()>("GET/refuses", &()).await.unwrap_err();
        Ok((own, refused.to_string()))
    }
    #[derive(Deserialize)]
    struct N {
        n: usize,
    }
    async fn own(Params(N { n }): Params<N>) -> HandlerResult<usize> {
        Ok(n)
    }
    async fn refuses() -> HandlerResult<()> {
        Err(ServiceError::conflict("taken", "it is taken"))
    }
    // There is no Distributor, so no list contains the node.
    let distributor = Listener::bind().await;
    let node = Node::builder("alone")
        .distributor(format!("127.0.0.1:{}", distributor.port()))
        .route("GET/ask", ask)
        .route("GET/own", own)
        .route("GET/refuses", refuses)
        .start()
        .await
        .unwrap();
    let seen: (usize, String) = node.peers().call("GET/ask", &()).await.unwrap();
    assert_eq!(seen, (7, "409 taken: it is taken".to_owned()));
    let begin = Instant::now();
    let none = node.peers().call::<()>("GET/none", &()).timeout(Duration::from_millis(100));
    assert!(matches!(none.await, Err(CallError::NoList { .. })));
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn settings_of_a_route_need_one() {
    for (node, text) in [
        (Node::builder("n").max_concurrency(3), "max_concurrency applies to the route before it, but there is none"),
        (Node::builder("n").one_way(), "write .route(…).one_way(…)"),
        (Node::builder("n").public(), "write .route(…).public(…)"),
        (Node::builder("n").subscribe("told", number).public(), "the event told cannot be public"),
    ] {
        let error = node.start().await.map(drop).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn the_exit_code_says_whether_anything_was_cut() {
    let cluster = Cluster::start();
    let caller = cluster.node(Node::builder("caller")).await;
    for (ms, code) in [(1000, 0), (60_000, 1)] {
        let node = Process::start(NODE, &[&cluster.address.to_string()]);
        caller.peers().wait_for(&["GET/slow"]).await;
        let peers = caller.peers().clone();
        let call = tokio::spawn(async move {
            let params = json!({ "ms": ms });
            peers.call::<u32>("GET/slow", &params).timeout(Duration::from_secs(30)).await
        });
        // A call is answered after earlier calls have begun.
        caller.peers().call::<u32>("GET/who", &()).await.unwrap();
        assert_eq!(node.terminate().await.code(), Some(code), "a call of {ms} ms");
        assert_eq!(call.await.unwrap().is_ok(), code == 0);
        caller.peers().wait_until(|nodes| nodes.iter().all(|node| node.name != "who")).await;
    }
}

#[tokio::test]
async fn a_node_is_ready_when_its_interests_have_providers() {
    let cluster = Cluster::start();
    let node = cluster.node(Node::builder("needy").interests(["n", "GET/other"])).await;
    let mut ready = Box::pin(node.ready());
    let _n = providers(&cluster, 1, |_, node| node).await;
    node.peers().wait_for(&["GET/n"]).await;
    assert!(done_already(&mut ready).is_none(), "one of two");
    let _other = cluster.node(Node::builder("x").state(7_usize).route("GET/other", number)).await;
    ready.await;
    assert_eq!(node.peers().nodes().len(), 2, "and it was told of no other nodes");
}

/// The result of a future that is already done.
fn done_already<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn gu7_an_endless_answer_is_cut() {
    let cluster = Cluster::start();
    let endless = Listener::bind().await;
    let mut registered = cluster.peer().await;
    let advert = json!({ "port": endless.port(), "name": "e", "urls": ["GET/n"], "$": { "v": 2, "id": "e" } });
    registered.register_with(advert).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/n"]).await;
    let answers = tokio::spawn(async move {
        let mut connection = endless.accept().await;
        while connection.next().await.is_some_and(|packet| packet["uri"] == "$hello") {}
        connection.send("x".repeat(9 << 20)).await;
        assert_eq!(connection.next().await, None, "the caller has closed");
    });
    let lost = caller.peers().call::<Value>("GET/n", &()).await;
    assert!(matches!(lost, Err(CallError::Lost { .. })), "{lost:?}");
    answers.await.unwrap();
}

#[tokio::test]
async fn gu13_another_service_at_an_old_address_is_not_called() {
    let cluster = Cluster::start();
    async fn old() -> HandlerResult<&'static str> {
        Ok("old")
    }
    let node = cluster.node(Node::builder("old").route("GET/n", old)).await;
    let address = node.address();
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/n"]).await;
    assert_eq!(caller.peers().call::<String>("GET/n", &()).await.unwrap(), "old");
    drop(node);
    async fn new() -> HandlerResult<&'static str> {
        Ok("new")
    }
    let mut next = None;
    eventually("the address is free", async || {
        let node = Node::builder("new").listen(address.to_string()).distributor(cluster.address.to_string());
        next = node.route("GET/m", new).start().await.ok();
        next.is_some()
    })
    .await;
    caller.peers().wait_for(&["GET/m"]).await;
    assert_eq!(caller.peers().call::<String>("GET/m", &()).await.unwrap(), "new");
    assert!(caller.peers().call::<String>("GET/n", &()).await.is_err(), "no node offers it any more");
}

/// The list is older than what listens there: the cache file, or a Distributor that is gone.
#[tokio::test]
async fn gu13_a_node_of_another_instance_than_the_list_says_is_not_called() {
    let cluster = Cluster::start();
    let started = Arc::new(AtomicUsize::new(0));
    async fn count(started: State<AtomicUsize>) -> HandlerResult<usize> {
        Ok(started.fetch_add(1, Ordering::SeqCst))
    }
    let other = Cluster::start();
    let node = Node::builder("n").shared_state(Arc::clone(&started)).route("GET/n", count).route("POST/n", count);
    let node = other.node(node).await;
    // Listed here under another instance.
    let mut gone = cluster.peer().await;
    let advert = json!({ "v": 2, "id": "gone" });
    let urls = ["GET/n", "POST/n"];
    gone.register_with(json!({ "port": node.address().port(), "name": "n", "urls": urls, "$": advert })).await;
    gone.list_with("n").await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(urls.as_slice()).await;
    for url in ["GET/n", "POST/n"] {
        let refused = caller.peers().call::<usize>(url, &()).await;
        assert!(matches!(refused, Err(CallError::NoProvider { .. })), "{refused:?}");
    }
    assert_eq!(started.load(Ordering::SeqCst), 0);
    // The node that is listed there is told, and so is `why`.
    let notice = loop {
        let packet = gone.next().await.expect("a notice");
        if packet["$"]["r"] == "unreachable" {
            break packet;
        }
        if packet["uri"] == "$ping" {
            gone.pong().await;
        }
    };
    let text = notice["$"]["m"].as_str().unwrap();
    assert!(text.contains("caller at 127.0.0.1") && text.contains("another process listens there"), "{text}");
    // A route that nobody else offers is called elsewhere, whatever the method.
    let right = Node::builder("n").shared_state(Arc::clone(&started)).route("POST/n", count);
    let _right = cluster.node(right).await;
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    for number in 0..4 {
        assert_eq!(caller.peers().call::<usize>("POST/n", &()).await.unwrap(), number);
    }
}

#[tokio::test]
async fn gu20_a_node_that_leaves_finishes_its_calls() {
    let gate = Arc::new(Gate::default());
    let (_cluster, callee, caller) = pair(gated(&gate)).await;
    let peers = caller.peers().clone();
    let call = tokio::spawn(async move { peers.call::<String>("GET/wait", &()).await });
    eventually("it has begun", async || gate.started.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn(callee.stop());
    caller.peers().wait_until(|nodes| nodes.len() == 1).await;
    gate.open.notify_waiters();
    assert_eq!(call.await.unwrap().unwrap(), "done");
    assert_eq!(stopping.await.unwrap(), 0, "nothing was cut");
}
