//! What operators see of a node: the spans of its calls, and its pages.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{Node, Params, Peers, ServiceError, Stop, Trace};
use tests::{Cluster, PATIENCE, eventually, request};
use tokio::time::{sleep, timeout};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::prelude::*;

async fn inner(Params(number): Params<u64>) -> Result<u64, ServiceError> {
    match number {
        0 => Err(ServiceError::not_found("none", "nothing")),
        _ => Ok(number),
    }
}

async fn outer(Params(number): Params<u64>, peers: Peers) -> Result<u64, ServiceError> {
    Ok(peers.call("GET/inner", &number).await?)
}

async fn traced(trace: Trace) -> Result<String, ServiceError> {
    Ok(trace.traceparent().to_owned())
}

/// The lines of spans that have ended.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Spans {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Spans {
    fn start(levels: &str) -> (Self, impl Drop) {
        let spans = Self::default();
        let writer = spans.clone();
        let lines = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
        let lines = lines.with_ansi(false).with_span_events(FmtSpan::CLOSE).with_writer(move || writer.clone());
        let guard = lines.finish().with(levels.parse::<Targets>().unwrap()).set_default();
        (spans, guard)
    }

    /// The lines with all of these texts.
    fn with(&self, texts: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let has_all = |line: &&str| line.contains(": close ") && texts.iter().all(|text| line.contains(text));
        text.lines().filter(has_all).map(str::to_owned).collect()
    }

    /// The only line with all of these texts.
    #[track_caller]
    fn one(&self, texts: &[&str]) -> String {
        let lines = self.with(texts);
        assert_eq!(lines.len(), 1, "{texts:?}: {lines:?} of\n{}", String::from_utf8_lossy(&self.0.lock().unwrap()));
        lines[0].clone()
    }
}

/// The ids of the trace in a line.
fn traces(line: &str) -> Vec<&str> {
    line.split("traceparent=").skip(1).map(|rest| &rest[3..35]).collect()
}

#[tokio::test(start_paused = true)]
async fn m6_a_call_has_a_span_on_both_sides() {
    let mesh = TestMesh::start();
    let callee =
        mesh.node(Node::builder("callee").route("GET/inner", inner).route("GET/traced", traced)).await.unwrap();
    let middle = mesh.node(Node::builder("middle").route("GET/outer", outer)).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    let call = async |url: &str, number: u64| {
        caller.peers().wait_for(&["GET/outer", "GET/inner"]).await;
        middle.peers().wait_for(&["GET/inner"]).await;
        caller.peers().call::<u64>(url, &number).await
    };
    let (spans, guard) = Spans::start("node_sdk::call=debug,node_sdk::serve=debug");
    assert_eq!(call("GET/outer", 7).await.unwrap(), 7);
    let served = spans.one(&["serve{url=\"GET/outer\"", "caller=caller", "node_sdk::serve: close"]);
    assert!(served.contains("status=200"), "{served}");
    let outer = spans.one(&["call{url=GET/outer provider=", " attempt=0 ", "status=200"]);
    // What the handler calls stands inside its span, and of one trace with it.
    let inner = spans.one(&["serve{url=\"GET/outer\"", "call{url=GET/inner provider="]);
    let last = spans.one(&["serve{url=\"GET/inner\"", "caller=middle", "status=200"]);
    let trace = traces(&outer)[0];
    for line in [&served, &outer, &inner, &last] {
        assert!(!traces(line).is_empty() && traces(line).iter().all(|seen| *seen == trace), "{line}");
    }
    // The two ends of a call name the same span.
    let parent = |line: &str| line.split("traceparent=").nth(1).unwrap()[..55].to_owned();
    assert_eq!(parent(&outer), parent(&served));
    // `Trace` is what the span has.
    let own: String = caller.peers().call("GET/traced", &()).await.unwrap();
    assert_eq!(parent(&spans.one(&["serve{url=\"GET/traced\""])), own);

    call("GET/inner", 0).await.unwrap_err();
    spans.one(&["call{url=GET/inner", "status=404"]);
    spans.one(&["serve{url=\"GET/inner\"", "caller=caller", "status=404"]);
    caller.peers().call::<u64>("GET/none", &()).await.unwrap_err();
    spans.one(&["call{url=GET/none", "error=no node offers"]);
    drop(guard);
    // Where nobody listens to them, there are none.
    let (spans, _guard) = Spans::start("node_sdk=info");
    assert_eq!(call("GET/outer", 7).await.unwrap(), 7);
    assert_eq!(spans.with(&["GET/"]), Vec::<String>::new());
    drop(callee);
}

async fn page(at: SocketAddr, path: &str) -> (u16, String) {
    let answer = request(at, "GET", path, "").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn m6_a_node_shows_what_it_serves_and_calls() {
    async fn slow() -> Result<(), ServiceError> {
        sleep(PATIENCE).await;
        Ok(())
    }
    let cluster = Cluster::start();
    let callee = Node::builder("callee").admin("127.0.0.1:0").route("GET/inner", inner).route("GET/slow", slow);
    let callee = cluster.node(callee).await;
    let caller = cluster.node(Node::builder("caller").admin("127.0.0.1:0")).await;
    let (served, called) = (callee.admin_address().unwrap(), caller.admin_address().unwrap());
    caller.peers().wait_for(&["GET/inner"]).await;
    for number in [1, 2, 0] {
        let _ = caller.peers().call::<u64>("GET/inner", &number).await;
    }
    let _ = caller.peers().call::<u64>("GET/none", &()).await;
    let waiting = tokio::spawn({
        let peers = caller.peers().clone();
        async move { peers.call::<()>("GET/slow", &()).timeout(Duration::from_secs(60)).await }
    });
    let check = async |at: SocketAddr, lines: &[&str]| {
        for line in lines {
            eventually(line, async || page(at, "/metrics").await.1.lines().any(|seen| seen == *line)).await;
        }
    };
    check(
        called,
        &[
            "node_calls_total{route=\"GET/inner\",outcome=\"ok\"} 2",
            "node_calls_total{route=\"GET/inner\",outcome=\"refused\"} 1",
            "node_calls_total{route=\"other\",outcome=\"no_provider\"} 1",
            "node_call_seconds_count{route=\"GET/inner\"} 3",
            "node_calling{route=\"GET/slow\"} 1",
            "node_known_nodes 2",
        ],
    )
    .await;
    check(
        served,
        &[
            "node_served_total{route=\"GET/inner\",status=\"200\"} 2",
            "node_served_total{route=\"GET/inner\",status=\"404\"} 1",
            "node_served_seconds_count{route=\"GET/inner\"} 3",
            "node_serving{route=\"GET/slow\"} 1",
        ],
    )
    .await;
    waiting.abort();
    check(called, &["node_calls_total{route=\"GET/slow\",outcome=\"cancelled\"} 1"]).await;
    check(
        served,
        &["node_served_total{route=\"GET/slow\",status=\"dropped\"} 1", "node_serving{route=\"GET/slow\"} 0"],
    )
    .await;
    assert_eq!(page(served, "/none").await, (404, "not found; try /health, /ready or /metrics\n".to_owned()));
}

#[tokio::test]
async fn m6_a_node_says_whether_it_is_ready() {
    let cluster = Cluster::start();
    let (first, release) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (begun, go_on) = (Arc::clone(&first), Arc::clone(&release));
    let hook = async move |_: Peers, _: Stop| {
        begun.notify_one();
        go_on.notified().await;
        Ok::<_, ServiceError>(())
    };
    let at = tests::pick_address();
    let node = Node::builder("n").distributor(cluster.address.to_string()).admin(at.to_string()).on_start(hook);
    let starting = tokio::spawn(node.start());
    first.notified().await;
    assert_eq!(page(at, "/health").await, (200, "alive\n".to_owned()));
    assert_eq!(page(at, "/ready").await, (503, "starting: the hooks of the start are not done\n".to_owned()));
    release.notify_one();
    let node = starting.await.unwrap().unwrap();
    assert_eq!(page(at, "/ready").await, (200, "ready\n".to_owned()));
    assert!(page(at, "/metrics").await.1.contains("node_lost_events_total 0\n"));
    // A connection keeps the node from stopping at once.
    let held = tokio::net::TcpStream::connect(node.address()).await.unwrap();
    let (stopping, asked) = tokio::join!(
        node.stop(),
        timeout(PATIENCE, async {
            loop {
                let seen = page(at, "/ready").await;
                if seen.1 != "ready\n" {
                    return seen;
                }
            }
        })
    );
    assert_eq!((stopping, asked.unwrap()), (0, (503, "stopping\n".to_owned())));
    drop(held);

    let alone = Node::builder("n").distributor(tests::pick_address().to_string()).admin("127.0.0.1:0");
    let alone = alone.start().await.unwrap();
    let unready = (503, "not registered: no Distributor has answered yet\n".to_owned());
    assert_eq!(page(alone.admin_address().unwrap(), "/ready").await, unready);
}
