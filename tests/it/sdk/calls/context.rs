//! What a call hands down to the work that is done for it: PROTOCOL, "What a call hands down".

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{
    CallError, Caller, Deadline, FromCall, IncomingCall, Items, Next, Node, Outcome, Params, Peers, ServiceError,
    State, Streaming, Trace,
};
use tests::streams::HandlerResult;
use tests::{Cluster, HttpClient, eventually};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// The id of a trace, and the milliseconds that are left, if there is a deadline.
type Seen = (String, Option<u64>);

async fn look(trace: Trace, deadline: Deadline) -> HandlerResult<Seen> {
    let left = deadline.remaining().map(|left| u64::try_from(left.as_millis()).unwrap());
    Ok((trace.id().to_owned(), left))
}

/// The contexts that events have shown.
type SeenEvents = Mutex<Vec<Seen>>;

async fn look_at_event(trace: Trace, deadline: Deadline, seen: State<SeenEvents>) -> HandlerResult<()> {
    let looked = look(trace, deadline).await?;
    seen.lock().unwrap().push(looked);
    Ok(())
}

async fn by_call(trace: Trace, peers: Peers) -> HandlerResult<(String, Seen)> {
    Ok((trace.id().to_owned(), peers.call("GET/look", &()).timeout(Duration::from_secs(60)).await?))
}

async fn by_short_call(trace: Trace, peers: Peers) -> HandlerResult<(String, Seen)> {
    Ok((trace.id().to_owned(), peers.call("GET/look", &()).timeout(Duration::from_millis(500)).await?))
}

async fn by_own_call(trace: Trace, peers: Peers) -> HandlerResult<(String, Seen)> {
    Ok((trace.id().to_owned(), peers.call("GET/own/look", &()).timeout(Duration::from_secs(60)).await?))
}

async fn by_gather(trace: Trace, peers: Peers) -> HandlerResult<(String, Seen)> {
    let mut all = peers.gather::<Seen>("GET/look", &()).await;
    Ok((trace.id().to_owned(), all.remove(0).1?))
}

async fn by_detached(trace: Trace, peers: Peers) -> HandlerResult<(String, Seen)> {
    let detached = node_sdk::detach(async move { peers.call::<Seen>("GET/look", &()).await });
    Ok((trace.id().to_owned(), detached.await.map_err(|_| ServiceError::internal("lost"))??))
}

type Looks = HandlerResult<Streaming<stream::BoxStream<'static, HandlerResult<(String, Seen)>>>>;

async fn by_items(trace: Trace, peers: Peers) -> Looks {
    let looks = stream::iter(0..3).then(move |_| {
        let peers = peers.clone();
        async move {
            sleep(Duration::from_secs(4)).await;
            Ok((trace.id().to_owned(), peers.call("GET/look", &()).await?))
        }
    });
    Ok(Streaming(looks.boxed()))
}

async fn by_relay(peers: Peers) -> Looks {
    let looks = peers.stream::<(String, Seen)>("GET/by/items", &()).await?;
    Ok(Streaming(looks.map_err(ServiceError::from).boxed()))
}

async fn by_loop(trace: Trace, mut items: Items<u64>, peers: Peers) -> HandlerResult<(String, Seen)> {
    while items.try_next().await?.is_some() {}
    Ok((trace.id().to_owned(), peers.call("GET/look", &()).await?))
}

async fn check_nothing() -> HandlerResult<()> {
    sleep(Duration::from_millis(1)).await;
    Ok(())
}

async fn around(_trace: Trace, next: Next) -> HandlerResult<Outcome> {
    next.run().await
}

/// A caller, a node that calls for it in every way, and one that looks.
async fn scene() -> (TestMesh, [TestNode; 3]) {
    let mesh = TestMesh::start();
    let middle = Node::builder("middle")
        .route("GET/own/look", look)
        .route("GET/by/call", by_call)
        .route("GET/by/short/call", by_short_call)
        .route("GET/by/own/call", by_own_call)
        .route("GET/by/gather", by_gather)
        .route("GET/by/detached", by_detached)
        .route("GET/by/items", by_items)
        .route("GET/by/relay", by_relay)
        .route("POST/by/loop", by_loop)
        .group(|group| {
            group.guard(check_nothing).route("GET/by/guarded", by_call).route("POST/by/guarded/loop", by_loop)
        })
        .group(|group| group.layer(around).route("GET/by/layered", by_call).route("GET/by/layered/items", by_items));
    let looking = mesh.node(Node::builder("looking").route("GET/look", look)).await.unwrap();
    let (middle, caller) = (mesh.node(middle).await.unwrap(), mesh.node(Node::builder("caller")).await.unwrap());
    for node in [&middle, &caller] {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    (mesh, [caller, middle, looking])
}

/// The rules as a table: what work sees that is done for a call which may take 2 s.
#[tokio::test(start_paused = true)]
async fn b1_b2_b3_what_a_call_hands_down() {
    let (_mesh, [caller, _middle, _looking]) = scene().await;
    let whole = Duration::from_secs(2);
    let check = async |url: &str, left: u64| {
        let (outer, (inner, seen)) = caller
            .peers()
            .call::<(String, Seen)>(url, &())
            .timeout(whole)
            .await
            .unwrap_or_else(|e| panic!("{url}: {e}"));
        assert_eq!(outer, inner, "{url}: one trace");
        let seen = seen.unwrap();
        assert!((left - 50..=left).contains(&seen), "{url}: {seen} ms of {left}");
    };
    // A call for a call ends a margin before it.
    check("GET/by/call", 1900).await;
    check("GET/by/own/call", 1900).await;
    check("GET/by/gather", 1900).await;
    check("GET/by/guarded", 1900).await;
    check("GET/by/layered", 1900).await;
    check("GET/by/short/call", 500).await;
    // Work that outlasts a call has none of its time.
    check("GET/by/detached", 5000).await;

    // An open stream has no deadline of its opening.
    let check = async |url: &str, count: usize| {
        let mut parts = caller.peers().stream::<(String, Seen)>(url, &()).timeout(whole).await.unwrap();
        let sender = parts.sender();
        if url.starts_with("POST") {
            for number in 0..4 {
                sleep(Duration::from_secs(1)).await;
                sender.send(&number).await.unwrap();
            }
        }
        sender.finish();
        for part in 0..count {
            let (outer, (inner, left)) = parts.try_next().await.unwrap_or_else(|e| panic!("{url}: {e}")).unwrap();
            assert!(outer == inner && (4950..=5000).contains(&left.unwrap()), "{url}, part {part}: {left:?}");
        }
        assert!(parts.try_next().await.unwrap().is_none(), "{url}");
    };
    check("GET/by/items", 3).await;
    check("GET/by/relay", 3).await;
    check("GET/by/layered/items", 3).await;
    check("POST/by/loop", 1).await;
    check("POST/by/guarded/loop", 1).await;
}

#[tokio::test(start_paused = true)]
async fn b1_all_that_is_asked_for_in_a_call_is_of_one_trace() {
    struct Mine(String);
    impl FromCall for Mine {
        fn from_call(call: &IncomingCall<'_>) -> HandlerResult<Self> {
            Ok(Self(Trace::from_call(call)?.id().to_owned()))
        }
    }
    type Ids = Mutex<Vec<String>>;
    async fn note(trace: Trace, ids: State<Ids>) -> HandlerResult<()> {
        ids.lock().unwrap().push(trace.id().to_owned());
        Ok(())
    }
    async fn note_slowly(trace: Trace, ids: State<Ids>) -> HandlerResult<()> {
        sleep(Duration::from_millis(1)).await;
        note(trace, ids).await
    }
    async fn note_around(trace: Trace, ids: State<Ids>, next: Next) -> HandlerResult<Outcome> {
        note(trace, ids).await?;
        next.run().await
    }
    async fn twice(one: Trace, Mine(mine): Mine, other: Trace, ids: State<Ids>, peers: Peers) -> HandlerResult<()> {
        ids.lock().unwrap().push(mine);
        note(one, ids.clone()).await?;
        note(other, ids).await?;
        peers.emit("noted", &())?;
        Ok(peers.call("GET/note", &()).await?)
    }
    let mesh = TestMesh::start();
    let ids = Arc::new(Ids::default());
    let node = Node::builder("node").shared_state(Arc::clone(&ids)).route("GET/note", note).subscribe("noted", note);
    let node = node.group(|group| group.guard(note).route("GET/guarded", twice));
    let node = node.group(|group| group.guard(note_slowly).route("GET/slowly/guarded", twice));
    let node = node.group(|group| group.layer(note_around).guard(note_slowly).route("GET/layered", twice));
    let node = mesh.node(node.route("GET/twice", twice)).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    let check = async |from: &TestNode, url: &str, count: usize| {
        from.peers().call::<()>(url, &()).await.unwrap();
        let seen = async {
            while ids.lock().unwrap().len() < count {
                sleep(Duration::from_millis(1)).await
            }
        };
        assert!(timeout(Duration::from_secs(5), seen).await.is_ok(), "{url}: {:?}", ids.lock().unwrap());
        let ids = std::mem::take(&mut *ids.lock().unwrap());
        assert!(ids.len() == count && ids.iter().all(|id| *id == ids[0]), "{url}: {ids:?}");
    };
    for from in [&caller, &node] {
        check(from, "GET/twice", 5).await;
        check(from, "GET/guarded", 6).await;
        check(from, "GET/slowly/guarded", 6).await;
        check(from, "GET/layered", 7).await;
    }
}

#[tokio::test]
async fn b1_a_trace_is_begun_or_continued_at_the_gateway() {
    async fn inner(trace: Trace) -> HandlerResult<String> {
        Ok(trace.traceparent().to_owned())
    }
    async fn outer(peers: Peers) -> HandlerResult<[String; 2]> {
        Ok([peers.call("GET/inner", &()).await?, peers.call("GET/inner", &()).await?])
    }
    let cluster = Cluster::start();
    let _inner = cluster.node(Node::builder("inner").route("GET/inner", inner)).await;
    let outer = cluster.node(Node::builder("outer").public_routes().route("GET/outer", outer)).await;
    outer.peers().wait_for(&["GET/inner"]).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/outer").await;
    let mut client = HttpClient::connect(gateway).await;
    let mut ask = async |field: &str| {
        let request = format!("GET /outer HTTP/1.1\r\nhost: a\r\n{field}\r\n");
        let answer = client.raw(request.as_bytes()).await.unwrap();
        let seen: [String; 2] = serde_json::from_value(answer.json()).unwrap();
        assert_ne!(seen[0], seen[1], "each call is a span of its own");
        let [one, other] = seen.map(|seen| seen[3..35].to_owned());
        assert_eq!(one, other, "of one trace");
        one
    };
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    assert_eq!(ask(&format!("TraceParent: 00-{id}-00f067aa0ba902b7-01\r\n")).await, id);
    let made = ask("").await;
    assert!(made != id && made != ask("traceparent: nonsense\r\n").await, "each request has its own");
}

#[tokio::test]
async fn b2_a_stream_through_the_gateway_outlasts_the_timeout_of_requests() {
    async fn one() -> HandlerResult<u64> {
        Ok(1)
    }
    async fn ticks(peers: Peers) -> HandlerResult<Streaming<impl Stream<Item = HandlerResult<u64>>>> {
        Ok(Streaming(stream::iter(0..6).then(move |_| {
            let peers = peers.clone();
            async move {
                sleep(Duration::from_millis(100)).await;
                Ok(peers.call("GET/one", &()).await?)
            }
        })))
    }
    async fn relay(peers: Peers) -> HandlerResult<Streaming<impl Stream<Item = HandlerResult<u64>>>> {
        Ok(Streaming(peers.stream::<u64>("GET/ticks", &()).await?.map_err(ServiceError::from)))
    }
    let cluster = Cluster::start();
    let _one = cluster.node(Node::builder("one").public_routes().route("GET/one", one)).await;
    let node =
        cluster.node(Node::builder("node").public_routes().route("GET/ticks", ticks).route("GET/relay", relay)).await;
    node.peers().wait_for(&["GET/one", "GET/ticks"]).await;
    let config = gateway::Config { request_timeout: Duration::from_millis(300), ..gateway::Config::default() };
    let gateway = cluster.gateway_with(config).await;
    eventually("the gateway knows the nodes", async || {
        HttpClient::connect(gateway).await.request("GET", "/one", "").await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    for path in ["/ticks", "/relay"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\naccept: application/x-ndjson\r\n\r\n");
        let answer = HttpClient::connect(gateway).await.raw(request.as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "1\n1\n1\n1\n1\n1\n"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn b3_a_handler_that_calls_in_vain_can_still_undo_its_work() {
    async fn hang() -> HandlerResult<()> {
        std::future::pending().await
    }
    async fn undo() -> HandlerResult<&'static str> {
        Ok("undone")
    }
    async fn order(peers: Peers) -> HandlerResult<String> {
        match peers.call::<()>("POST/pay", &()).await {
            Ok(()) => Ok("paid".to_owned()),
            // The time of the inner call is told, and not that of its default.
            Err(error) => Ok(format!("{}: {error}", peers.call::<String>("POST/undo", &()).await?)),
        }
    }
    let mesh = TestMesh::start();
    let payments = mesh.node(Node::builder("payments").route("POST/pay", hang).route("POST/undo", undo)).await.unwrap();
    let orders = Node::builder("orders").route("POST/orders", order).route("GET/orders", order);
    let orders = mesh.node(orders).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    for node in [&orders, &caller] {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    for (method, from) in [("POST", &caller), ("GET", &caller), ("GET", &orders)] {
        for (timeout, waited) in [(200, "180.0ms"), (5000, "4.9s")] {
            let url = format!("{method}/orders");
            let call = from.peers().call::<String>(&url, &()).timeout(Duration::from_millis(timeout));
            let said = call.await.unwrap_or_else(|error| panic!("{url} {timeout}: {error}"));
            let waits = said.strip_prefix("undone: no answer from POST/pay within ").unwrap();
            assert_eq!(waits[..2], waited[..2], "{url} {timeout}: {said}");
        }
    }
    drop(payments);
}

/// How much work has begun, and how much was done; and what lets it go on.
#[derive(Default)]
struct Work {
    started: AtomicUsize,
    dropped: AtomicUsize,
    done: AtomicUsize,
    go_on: Notify,
}

async fn work(work: State<Work>) -> HandlerResult<()> {
    struct Leave<'a>(&'a Work, bool);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            let count = if self.1 { &self.0.done } else { &self.0.dropped };
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
    work.started.fetch_add(1, Ordering::SeqCst);
    let mut leave = Leave(&work, false);
    work.go_on.notified().await;
    leave.1 = true;
    Ok(())
}

#[tokio::test]
async fn b3_what_is_not_idempotent_is_finished_when_its_client_goes() {
    let cluster = Cluster::start();
    let state = Arc::new(Work::default());
    let mut node = Node::builder("node").public_routes().shared_state(Arc::clone(&state));
    for method in ["GET", "PUT", "DELETE", "POST", "PATCH"] {
        node = node.route(&format!("{method}/work"), work);
    }
    async fn by_self(peers: Peers) -> HandlerResult<()> {
        Ok(peers.call("POST/work", &()).await?)
    }
    async fn ping() -> HandlerResult<()> {
        Ok(())
    }
    async fn get_self(peers: Peers) -> HandlerResult<()> {
        Ok(peers.call("GET/work", &()).await?)
    }
    let node =
        cluster.node(node.route("GET/by/self", by_self).route("GET/get/self", get_self).route("GET/ping", ping)).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["POST/work"]).await;
    let gateway = cluster.gateway().await;
    Cluster::wait_routed(gateway, "/ping").await;
    let counts = || [&state.started, &state.dropped, &state.done].map(|count| count.load(Ordering::SeqCst));
    // Whether the work is dropped when the one that wants it goes.
    let check = async |what: &str, url: &str, by_gateway: bool, is_dropped: bool| {
        let before = counts();
        let at_work = async || eventually("it is at work", async || counts()[0] == before[0] + 1).await;
        if by_gateway {
            let (method, path) = url.split_at(url.find('/').unwrap());
            let mut client = HttpClient::connect(gateway).await;
            let body = if method == "GET" { "" } else { "content-length: 0\r\n" };
            client.send(format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{body}\r\n").as_bytes()).await;
            at_work().await;
        } else {
            let call = caller.peers().call::<()>(url, &());
            tokio::select! {
                done = call.into_future() => panic!("{what}: {done:?}"),
                () = at_work() => {}
            }
        }
        if is_dropped {
            eventually("it is dropped", async || counts()[1] == before[1] + 1).await;
        } else {
            // The next call is there, so the news that this one is not wanted was, too.
            caller.peers().call::<()>("GET/ping", &()).await.unwrap();
            assert_eq!(HttpClient::connect(gateway).await.request("GET", "/ping", "").await.unwrap().status, 200);
            state.go_on.notify_one();
            eventually("it is done", async || counts()[2] == before[2] + 1).await;
        }
        let dropped = usize::from(is_dropped);
        assert_eq!(counts(), [before[0] + 1, before[1] + dropped, before[2] + 1 - dropped], "{what}");
    };
    for (method, is_dropped) in [("GET", true), ("PUT", true), ("DELETE", true), ("POST", false), ("PATCH", false)] {
        check("a call", &format!("{method}/work"), false, is_dropped).await;
        check("a request", &format!("{method}/work"), true, is_dropped).await;
    }
    // A call of the node to itself is not different.
    check("a call to itself", "GET/get/self", false, true).await;
    check("a call to itself", "GET/by/self", false, false).await;
    // When a caller dies, its connection is all that says so.
    let before = counts();
    let mut peer = tests::Peer::connect(node.address()).await;
    for (key, method) in [(1, "GET"), (2, "POST")] {
        peer.send(format!(r#"{{"uri":"/work","method":"{method}","key":{key},"$":{{}},"params":{{}}}}¶"#)).await;
    }
    eventually("they are at work", async || counts()[0] == before[0] + 2).await;
    peer.reset();
    eventually("one is dropped", async || counts()[1] == before[1] + 1).await;
    state.go_on.notify_one();
    eventually("the other is done", async || counts()[2] == before[2] + 1).await;
}

#[tokio::test(start_paused = true)]
async fn b3_a_call_that_is_not_wanted_does_not_go_on_for_ever() {
    let mesh = TestMesh::start();
    let state = Arc::new(Work::default());
    let node = Node::builder("node").shared_state(Arc::clone(&state)).route("POST/work", work).max_concurrency(1);
    let _node = mesh.node(node).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["POST/work"]).await;
    let begin = Instant::now();
    let call = async || caller.peers().call::<()>("POST/work", &()).timeout(Duration::from_secs(1)).await;
    assert!(matches!(call().await, Err(CallError::Deadline { .. })));
    // It still counts.
    assert!(matches!(call().await, Err(CallError::Refused { status: 503, .. })));
    while state.dropped.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!((30..33).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b3_a_node_that_stops_waits_for_detached_work() {
    async fn begin(Params(seconds): Params<u64>, work: State<Work>) -> HandlerResult<()> {
        node_sdk::detach(async move {
            work.started.fetch_add(1, Ordering::SeqCst);
            // It waits for work that detached work has detached, too.
            drop(node_sdk::detach(async move {
                sleep(Duration::from_secs(seconds)).await;
                work.done.fetch_add(1, Ordering::SeqCst);
            }));
        });
        Ok(())
    }
    let mesh = TestMesh::start();
    for (seconds, left_at_work, done) in [(0, 0, 1), (8, 0, 1), (60, 1, 0)] {
        for by_itself in [false, true] {
            let state = Arc::new(Work::default());
            let node = Node::builder("node").shared_state(Arc::clone(&state)).route("POST/begin", begin);
            let node = mesh.node(node).await.unwrap();
            let caller = mesh.node(Node::builder("caller")).await.unwrap();
            caller.peers().wait_for(&["POST/begin"]).await;
            let peers = if by_itself { node.peers() } else { caller.peers() };
            peers.call::<()>("POST/begin", &seconds).await.unwrap();
            let begin = Instant::now();
            assert_eq!(node.stop().await, left_at_work, "{seconds} s");
            assert_eq!(state.done.load(Ordering::SeqCst), done, "{seconds} s");
            assert!(begin.elapsed() <= Duration::from_secs(12), "{seconds} s: {:?}", begin.elapsed());
        }
    }
}

/// Undoes work that is dropped before its end.
struct Undo(Peers);

impl Drop for Undo {
    fn drop(&mut self) {
        let peers = self.0.clone();
        drop(peers.emit("undone", &()));
        node_sdk::detach(async move {
            sleep(Duration::from_secs(2)).await;
            drop(peers.call::<()>("POST/undo", &()).await);
        });
    }
}

/// The traces of the work, its event, and its call.
type Traces = Mutex<Vec<String>>;

async fn note_trace(trace: Trace, traces: State<Traces>) -> HandlerResult<()> {
    traces.lock().unwrap().push(trace.id().to_owned());
    Ok(())
}

async fn begin_in_vain(trace: Trace, peers: Peers, traces: State<Traces>) -> HandlerResult<()> {
    note_trace(trace, traces).await?;
    let _undo = Undo(peers);
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn b1_b3_what_undoes_dropped_work_is_of_its_trace_and_waited_for() {
    async fn by_self(peers: Peers) -> HandlerResult<()> {
        Ok(peers.call("GET/begin", &()).await?)
    }
    async fn abort(trace: Trace, peers: Peers, traces: State<Traces>) -> HandlerResult<()> {
        let detached = node_sdk::detach(begin_in_vain(trace, peers, traces));
        sleep(Duration::from_millis(1)).await;
        detached.abort();
        Ok(())
    }
    async fn fail(trace: Trace, peers: Peers, traces: State<Traces>) -> HandlerResult<()> {
        tokio::select! {
            done = begin_in_vain(trace, peers, traces) => done,
            () = sleep(Duration::from_millis(1)) => panic!("on purpose"),
        }
    }
    let check = async |url: &str| {
        let (mesh, traces) = (TestMesh::start(), Arc::new(Traces::default()));
        let node = Node::builder("node").shared_state(Arc::clone(&traces)).subscribe("undone", note_trace);
        let node = node.route("GET/begin", begin_in_vain).route("GET/by/self", by_self);
        let node = node.route("GET/abort", abort).route("GET/fail", fail).route("POST/undo", note_trace);
        let (node, caller) = (mesh.node(node).await.unwrap(), mesh.node(Node::builder("caller")).await.unwrap());
        caller.peers().wait_for(&[url]).await;
        let call = caller.peers().call::<()>(url, &()).into_future();
        let _ = timeout(Duration::from_millis(100), call).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(node.stop().await, 0, "{url}");
        let traces = traces.lock().unwrap();
        assert!(traces.len() == 3 && traces.iter().all(|trace| *trace == traces[0]), "{url}: {traces:?}");
    };
    for url in ["GET/begin", "GET/by/self", "GET/abort", "GET/fail"] {
        check(url).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b3_a_panic_while_a_call_is_dropped_costs_no_other_call() {
    struct PanicOnDrop;
    impl Drop for PanicOnDrop {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    async fn hang() -> HandlerResult<()> {
        let _panics = PanicOnDrop;
        std::future::pending().await
    }
    async fn by_self(peers: Peers) -> HandlerResult<()> {
        Ok(peers.call("GET/hang", &()).await?)
    }
    async fn slow() -> HandlerResult<usize> {
        sleep(Duration::from_secs(1)).await;
        Ok(7)
    }
    let mesh = TestMesh::start();
    let node = Node::builder("node").route("GET/hang", hang).route("GET/by/self", by_self).route("POST/slow", slow);
    let _node = mesh.node(node).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["POST/slow"]).await;
    for url in ["GET/hang", "GET/by/self"] {
        let dropped = timeout(Duration::from_millis(100), caller.peers().call::<()>(url, &()).into_future());
        let (dropped, slow) = tokio::join!(dropped, caller.peers().call::<usize>("POST/slow", &()).into_future());
        assert!(dropped.is_err(), "{url}");
        assert_eq!(slow.unwrap(), 7, "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn b1_b3_events_are_of_the_trace_and_have_no_deadline() {
    async fn emit(trace: Trace, peers: Peers) -> HandlerResult<(String, usize)> {
        Ok((trace.id().to_owned(), peers.broadcast("looked", &())?))
    }
    let mesh = TestMesh::start();
    let seen = Arc::new(SeenEvents::default());
    let node = |name| Node::builder(name).shared_state(Arc::clone(&seen)).subscribe("looked", look_at_event);
    let emitter = mesh.node(node("emitter").route("POST/emit", emit)).await.unwrap();
    let _other = mesh.node(node("other")).await.unwrap();
    emitter.peers().wait_until(|nodes| nodes.len() == 2).await;
    let (id, told) = emitter.peers().call::<(String, usize)>("POST/emit", &()).await.unwrap();
    assert_eq!(told, 2);
    while seen.lock().unwrap().len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*seen.lock().unwrap(), [(id.clone(), None), (id, None)]);
}

#[tokio::test(start_paused = true)]
async fn b5_a_caller_has_its_name_whatever_the_callee_needs() {
    async fn name(caller: Caller) -> HandlerResult<Option<String>> {
        Ok(caller.name())
    }
    async fn own(peers: Peers) -> HandlerResult<Option<String>> {
        Ok(peers.call("GET/name", &()).await?)
    }
    let mesh = TestMesh::start();
    let caller = mesh.node(Node::builder("caller").interests(["all", "some", "one"])).await.unwrap();
    for (callee, interests) in [("all", None), ("some", Some("elsewhere")), ("one", Some("caller"))] {
        let mut node = Node::builder(callee).route("GET/name", name).route("GET/own", own);
        if let Some(interest) = interests {
            node = node.interests([interest]);
        }
        let node = mesh.node(node).await.unwrap();
        caller.peers().wait_for(&["GET/name"]).await;
        let check = async |url, expected: &str| {
            let seen = caller.peers().call::<Option<String>>(url, &()).await.unwrap();
            assert_eq!(seen.as_deref(), Some(expected), "{callee} {url}");
        };
        check("GET/name", "caller").await;
        check("GET/own", callee).await;
        node.kill();
        caller.peers().wait_until(|nodes| nodes.is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b4_a_node_that_is_told_nothing_of_another_need_not_acknowledge_it() {
    let mesh = TestMesh::start();
    let _x = mesh.node(Node::builder("x")).await.unwrap();
    let b = mesh.node(Node::builder("b").interests(["x"])).await.unwrap();
    b.ready().await;
    let d = mesh.node(Node::builder("d")).await.unwrap();
    let visibility = d.wait_visible(100, Duration::from_secs(5)).await;
    assert_eq!((visibility.seen, visibility.of, visibility.enough), (2, 2, true));
    // One that is told has to, also when it hears of nothing that came later.
    let c = mesh.node(Node::builder("c").interests(["d"])).await.unwrap();
    c.ready().await;
    let _later = mesh.node(Node::builder("later")).await.unwrap();
    d.peers().wait_until(|nodes| nodes.len() == 5).await;
    let visibility = d.wait_visible(100, Duration::from_secs(5)).await;
    assert_eq!((visibility.seen, visibility.of, visibility.enough), (4, 4, true));
}

#[tokio::test(start_paused = true)]
async fn b9_a_guard_runs_before_an_argument_has_an_effect() {
    struct Effect;
    impl FromCall for Effect {
        fn from_call(call: &IncomingCall<'_>) -> HandlerResult<Self> {
            State::<AtomicUsize>::from_call(call)?.fetch_add(1, Ordering::SeqCst);
            Ok(Self)
        }
    }
    async fn refuse() -> HandlerResult<()> {
        Err(ServiceError::new(403, "no", "no"))
    }
    async fn refuse_later() -> HandlerResult<()> {
        sleep(Duration::from_millis(1)).await;
        refuse().await
    }
    async fn answer_instead(_next: Next) -> HandlerResult<usize> {
        Err(ServiceError::new(403, "no", "no"))
    }
    async fn pass(next: Next) -> HandlerResult<Outcome> {
        sleep(Duration::from_millis(1)).await;
        next.run().await
    }
    async fn handler(_: Effect, effects: State<AtomicUsize>) -> HandlerResult<usize> {
        Ok(effects.load(Ordering::SeqCst))
    }
    let mesh = TestMesh::start();
    let effects = Arc::new(AtomicUsize::new(0));
    let node = Node::builder("node").shared_state(Arc::clone(&effects));
    let node = node.group(|group| group.guard(refuse).route("GET/guard", handler));
    let node = node.group(|group| group.guard(refuse_later).route("GET/later", handler));
    let node = node.group(|group| group.layer(answer_instead).route("GET/layer", handler));
    let node = node.group(|group| group.layer(pass).guard(refuse_later).route("GET/both", handler));
    let node = node.group(|group| group.layer(pass).layer(pass).route("GET/passes", handler));
    let node = mesh.node(node).await.unwrap();
    for url in ["GET/guard", "GET/later", "GET/layer", "GET/both"] {
        let refused = node.peers().call::<usize>(url, &()).await;
        assert!(matches!(refused, Err(CallError::Refused { status: 403, .. })), "{url}: {refused:?}");
        assert_eq!(effects.load(Ordering::SeqCst), 0, "{url}");
    }
    assert_eq!(node.peers().call::<usize>("GET/passes", &()).await.unwrap(), 1);
}
