//! Calls whose answer, or arguments, come in parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use node_sdk::{CallError, Items, Node, Params, Peers, State, Streaming};
use serde_json::json;
use tests::streams::{HandlerResult, Parts, offers};
use tests::{Cluster, Listener, Peer, eventually};
use tokio::sync::Notify;

/// A node with streams, one that calls it, and how many idle streams are open.
async fn pair() -> (Cluster, Node, Node, Arc<AtomicUsize>) {
    let cluster = Cluster::start();
    let working = Arc::new(AtomicUsize::new(0));
    let callee = cluster.node(offers("callee").shared_state(Arc::clone(&working))).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/count"]).await;
    (cluster, callee, caller, working)
}

#[tokio::test]
async fn an_answer_comes_in_parts() {
    let (_cluster, _callee, caller, _) = pair().await;
    let check = async |upto: u64, fails_at: Option<u64>, expected: u64, error: Option<&str>| {
        let params = json!({ "upto": upto, "fails_at": fails_at });
        let mut numbers = caller.peers().stream::<u64>("GET/count", &params).await.unwrap();
        let mut seen = 0;
        let ending = loop {
            match numbers.next().await {
                Some(Ok(number)) => {
                    seen += 1;
                    assert_eq!(number, seen);
                }
                Some(Err(error)) => break Some(error.to_string()),
                None => break None,
            }
        };
        assert_eq!((seen, ending.as_deref()), (expected, error), "{params}");
        assert!(numbers.next().await.is_none(), "the end stays the end");
    };
    check(1, None, 1, None).await;
    check(100_000, None, 100_000, None).await;
    check(9, Some(1), 0, Some("507 full: no more fingers")).await;
    check(100_000, Some(99_999), 99_998, Some("507 full: no more fingers")).await;
    // A failure before the stream is open is a failed call.
    let refused = caller.peers().stream::<u64>("GET/count", &json!({ "upto": 0 })).await.unwrap_err();
    assert_eq!(refused.to_string(), "400 nothing: there is nothing to count");
}

#[tokio::test]
async fn arguments_come_in_parts() {
    let (_cluster, _callee, caller, _) = pair().await;
    let mut call = caller.peers().stream::<u64>("POST/sum", &()).await.unwrap();
    let sender = call.sender();
    for number in 1..=50_000_u64 {
        sender.send(&number).await.unwrap();
    }
    sender.finish();
    assert_eq!(call.next().await.unwrap().unwrap(), 50_000 * 50_001 / 2);
    assert!(call.next().await.is_none());
    assert!(matches!(sender.send(&1_u64).await, Err(CallError::Ended { .. })));
    // The handler refuses an invalid part.
    let mut call = caller.peers().stream::<u64>("POST/sum", &()).await.unwrap();
    call.sender().send(&"seven").await.unwrap();
    let refused = call.next().await.unwrap().unwrap_err().to_string();
    assert!(refused.starts_with("400 bad_part"), "{refused}");
}

#[tokio::test]
async fn parts_pass_in_both_directions_of_one_stream() {
    let (_cluster, _callee, caller, _) = pair().await;
    let mut call = caller.peers().stream::<u64>("POST/double", &()).await.unwrap();
    let sender = call.sender();
    for number in 0..100_u64 {
        sender.send(&number).await.unwrap();
        assert_eq!(call.next().await.unwrap().unwrap(), number * 2);
    }
    // Both at once, more than either side may have under way.
    let sending = async {
        for number in 0..50_000_u64 {
            sender.send(&number).await.unwrap();
        }
        sender.finish();
    };
    let (mut received, ()) = tokio::join!(call.try_collect::<Vec<u64>>(), sending);
    let received = received.as_mut().unwrap();
    assert_eq!((received.len(), received.last()), (50_000, Some(&99_998)));
}

#[tokio::test]
async fn calls_and_streams_are_told_apart() {
    let (_cluster, _callee, caller, _) = pair().await;
    let peers = caller.peers();
    let plain: Vec<u64> = peers.stream::<u64>("GET/plain", &()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(plain, [7], "an answer in one piece is a stream of one");
    let check = async |url: &str, expected: &str| {
        let refused = peers.call::<u64>(url, &json!({ "upto": 3 })).await.unwrap_err().to_string();
        assert!(refused.starts_with(expected), "{refused}");
    };
    check("GET/count", "406 stream").await;
    check("POST/sum", "400 no_stream").await;
}

#[tokio::test]
async fn a_side_that_does_not_read_is_sent_no_more() {
    let (sent, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    async fn large(State(made): State<AtomicUsize>) -> Parts<String> {
        let next = move |_| {
            made.fetch_add(1, Ordering::Relaxed);
            Ok("x".repeat(10_000))
        };
        Ok(Streaming(stream::iter(0..1000).map(next).boxed()))
    }
    async fn patient(
        Params(()): Params<()>,
        items: Items<String>,
        State(go_on): State<Notify>,
    ) -> HandlerResult<usize> {
        go_on.notified().await;
        Ok(items.count().await)
    }
    let cluster = Cluster::start();
    let go_on = Arc::new(Notify::new());
    let node = Node::builder("callee").route("GET/large", large).route("POST/patient", patient);
    let node = node.shared_state(Arc::clone(&made)).shared_state(Arc::clone(&go_on));
    let callee = cluster.node(node).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/large"]).await;
    // 256 kB are 25 parts of 10 kB, and the one that exceeds the window.
    let mut parts = caller.peers().stream::<String>("GET/large", &()).await.unwrap();
    eventually("a window is sent", async || made.load(Ordering::Relaxed) == 27).await;
    assert!(caller.peers().call::<u64>("GET/none", &()).await.is_err());
    assert_eq!(made.load(Ordering::Relaxed), 27);
    assert_eq!(parts.by_ref().take(500).count().await, 500);
    assert!(made.load(Ordering::Relaxed) <= 500 + 27 + 14, "and so for the rest");
    assert_eq!(parts.count().await, 500);
    // The other way round.
    let mut call = caller.peers().stream::<usize>("POST/patient", &()).await.unwrap();
    let sender = call.sender();
    let sending = tokio::spawn({
        let sent = Arc::clone(&sent);
        async move {
            for _ in 0..100 {
                sender.send(&"x".repeat(10_000)).await.unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
            sender.finish();
        }
    });
    eventually("a window is sent", async || sent.load(Ordering::Relaxed) == 27).await;
    go_on.notify_one();
    sending.await.unwrap();
    assert_eq!(call.next().await.unwrap().unwrap(), 100);
    drop(callee);
}

#[tokio::test]
async fn open_streams_delay_no_call_and_have_a_limit() {
    const MAX_STREAMS: usize = 4096;
    let (_cluster, _callee, caller, working) = pair().await;
    let peers = caller.peers();
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        streams.push(peers.stream::<u64>("GET/forever", &()).await.unwrap());
    }
    assert_eq!(working.load(Ordering::Relaxed), MAX_STREAMS);
    assert_eq!(peers.call::<u64>("GET/plain", &()).await.unwrap(), 7);
    let refused = peers.stream::<u64>("GET/forever", &()).await.unwrap_err().to_string();
    assert!(refused.contains("this caller has too many open streams"), "{refused}");
    drop(streams.pop());
    eventually("one is dropped", async || working.load(Ordering::Relaxed) == MAX_STREAMS - 1).await;
    streams.push(peers.stream::<u64>("GET/forever", &()).await.unwrap());
    drop(streams);
    eventually("they are dropped", async || working.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_leaves_nothing_behind() {
    let (_cluster, _callee, caller, working) = pair().await;
    for _ in 0..3 {
        let mut streams = Vec::new();
        // More than the running calls of a connection, if any stayed.
        for _ in 0..500 {
            let mut stream = caller.peers().stream::<u64>("GET/forever", &()).await.unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap(), 1);
            streams.push(stream);
        }
        assert_eq!(working.load(Ordering::Relaxed), 500);
        drop(streams);
        eventually("they are dropped", async || working.load(Ordering::Relaxed) == 0).await;
    }
    // One that is dropped while it is opened.
    let peers = caller.peers();
    for _ in 0..100 {
        let opening = peers.stream::<u64>("GET/forever", &()).into_future();
        assert!(opening.now_or_never().is_none());
    }
    eventually("they are dropped", async || {
        peers.call::<u64>("GET/plain", &()).await.unwrap() == 7 && working.load(Ordering::Relaxed) == 0
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_its_node() {
    let (_cluster, callee, caller, working) = pair().await;
    let mut stream = caller.peers().stream::<u64>("GET/forever", &()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    // In order: the caller is told to connect elsewhere, and nothing is cut.
    let (cut, last) = tokio::join!(callee.stop(), stream.next());
    let CallError::Refused { status: 503, reason, .. } = last.unwrap().unwrap_err() else { panic!("it is told") };
    assert_eq!((cut, reason.as_str(), working.load(Ordering::Relaxed)), (0, "leaving", 0));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_with_its_connection() {
    let cluster = Cluster::start();
    let caller = cluster.node(Node::builder("caller")).await;
    let check = async |packets: &str, expected: Result<u64, &str>| {
        let peers = caller.peers();
        let mortal = Listener::bind().await;
        let mut registered = cluster.peer().await;
        let advert = json!({ "port": mortal.port(), "name": "mortal", "urls": ["GET/x"], "$": { "v": 2 } });
        registered.register_with(advert).await;
        peers.wait_for(&["GET/x"]).await;
        let opening = peers.stream::<u64>("GET/x", &());
        let serving = async {
            let mut node = mortal.accept().await;
            let key = loop {
                let call = node.next().await.unwrap();
                if call["uri"] == "/x" {
                    assert_eq!(call["$"]["c"], 262_144);
                    break call["key"].to_string();
                }
            };
            node.send(packets.replace("KEY", &key)).await;
            node
        };
        let (stream, node) = tokio::join!(opening.into_future(), serving);
        let mut stream = stream.unwrap();
        drop(node);
        let mut count = 0;
        let ending = loop {
            match stream.next().await {
                Some(Ok(_)) => count += 1,
                Some(Err(error)) => break Err(error.to_string()),
                None => break Ok(count),
            }
        };
        match (ending, expected) {
            (Ok(seen), Ok(expected)) => assert_eq!(seen, expected),
            (Err(seen), Err(expected)) => assert!(seen.contains(expected), "{seen}"),
            (seen, expected) => panic!("{seen:?} and not {expected:?}"),
        }
        drop(registered);
        peers.wait_until(|nodes| nodes.len() == 1).await;
    };
    let open = r#"{"key":KEY,"$":{"n":0}}¶"#;
    check(&format!("{open}{}", r#"{"key":KEY,"$":{"n":1},"params":1}¶{"key":KEY,"$":{"n":2,"end":true}}¶"#), Ok(1))
        .await;
    // Any spelling is accepted, and an answer is a last part.
    check(&format!("{open}{}", r#"{"$":{"n":1},"key":"KEY","params":1}¶{"key":KEY,"$":{},"params":2}¶"#), Ok(2)).await;
    check(&format!("{open}{}", r#"{"key":KEY,"$":{"n":1},"params":1}¶"#), Err("was lost before")).await;
    check(&format!("{open}{}", r#"{"key":KEY,"$":{"n":2},"params":1}¶"#), Err("is not of the expected type")).await;
    check(&format!("{open}{}", r#"{"key":KEY,"$":{"n":1},"params":"x"}¶"#), Err("is not of the expected type")).await;
    check(&format!("{open}{}", r#"{"key":KEY,"$":{"s":500,"r":"no","m":"more"}}¶"#), Err("500 no: more")).await;
}

#[tokio::test]
async fn a_peer_that_breaks_flow_control_is_cut() {
    let (_cluster, callee, ..) = pair().await;
    let check = async |packets: &[String]| {
        let mut peer = Peer::connect(callee.address()).await;
        peer.send(r#"{"uri":"/sum","method":"POST","key":7,"$":{"c":1},"params":{}}¶"#).await;
        assert_eq!(peer.next().await.unwrap(), json!({ "key": 7, "$": { "n": 0 } }));
        for packet in packets {
            peer.send(packet).await;
        }
        while peer.next().await.is_some() {}
    };
    check(&[r#"{"uri":"$part","key":7,"$":{"n":2},"params":1}¶"#.to_owned()]).await;
    check(&[r#"{"key":7,"uri":"$part","$":{"n":0},"params":1}¶"#.to_owned()]).await;
    // A call that is over is different: its caller cannot know.
    let mut peer = Peer::connect(callee.address()).await;
    peer.send(r#"{"uri":"$part","key":9,"$":{"n":7},"params":1}¶{"uri":"$credit","key":9,"$":{"c":7}}¶"#).await;
    peer.send(r#"{"uri":"/plain","method":"GET","key":8,"$":{},"params":{}}¶"#).await;
    assert_eq!(peer.next().await.unwrap()["params"], 7);
}

#[tokio::test]
async fn a_stream_opened_for_a_call_ends_with_it() {
    async fn outer(peers: Peers) -> HandlerResult<String> {
        let mut stream = peers.stream::<u64>("GET/forever", &()).await?;
        stream.next().await;
        Ok(stream.next().await.map_or_else(String::new, |end| end.unwrap_err().to_string()))
    }
    let (cluster, _callee, caller, working) = pair().await;
    let _outer = cluster.node(Node::builder("outer").route("GET/outer", outer)).await;
    caller.peers().wait_for(&["GET/outer"]).await;
    // A margin before it: its handler can still say so.
    let end = caller.peers().call::<String>("GET/outer", &()).timeout(Duration::from_secs(1)).await.unwrap();
    assert!(end.starts_with("no answer from GET/forever within"), "{end}");
    eventually("its work is dropped", async || working.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_opened_while_its_node_finishes_ends_as_well() {
    let (_cluster, callee, ..) = pair().await;
    let mut peer = Peer::connect(callee.address()).await;
    // This call is running, so the node waits for it.
    peer.send(r#"{"uri":"/sum","method":"POST","key":1,"$":{"c":1000},"params":{}}¶"#).await;
    assert_eq!(peer.next().await.unwrap(), json!({ "key": 1, "$": { "n": 0 } }));
    let stopping = tokio::spawn(callee.stop());
    for key in 2..4 {
        peer.send(format!(r#"{{"uri":"/forever","method":"GET","key":{key},"$":{{"c":1000}},"params":{{}}}}¶"#)).await;
        let end = loop {
            let packet = peer.next().await.unwrap();
            if packet["key"] == key && packet["$"]["s"].is_number() {
                break packet;
            }
        };
        assert_eq!(end["$"]["r"], "leaving", "{key}");
    }
    peer.send(r#"{"uri":"$part","key":1,"$":{"n":1,"end":true}}¶"#).await;
    while peer.next().await.is_some() {}
    assert_eq!(stopping.await.unwrap(), 0);
}
