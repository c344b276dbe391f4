//! The bytes that the gateway holds for clients that do not read, or do not finish their requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use gateway::{Config, FixedServer, RouteConfig};
use node_sdk::{Node, Params, ServiceError, State};
use tests::http2::{PREFACE, frame};
use tests::{Cluster, HttpClient, RawStream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{LAGS, connect, route, server};

const LARGE: usize = 1 << 20;
/// So long the gateway remembers a client that went without reading.
const REMEMBERED_TIME: Duration = Duration::from_secs(60);

async fn large(calls: State<Arc<AtomicUsize>>) -> Result<String, ServiceError> {
    calls.fetch_add(1, Ordering::Relaxed);
    Ok("x".repeat(LARGE))
}

async fn small(Params(_): Params<serde_json::Value>) -> Result<&'static str, ServiceError> {
    Ok("ok")
}

/// A gateway that holds `times` large answers for all clients, and 64 KiB for the rounding of each;
/// a node that gives them; and how often it was called for one.
async fn holding(cluster: &Cluster, times: usize) -> (SocketAddr, Node, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let node = Node::builder("goods").public_routes().state(Arc::clone(&calls));
    let node = node.route("GET/large", large).route("POST/small", small);
    let node = cluster.node(node).await;
    let max_held_bytes = times * (LARGE + 64 * 1024);
    let config = Config { max_held_bytes, max_body_bytes: 2 * LARGE, h2c: true, ..Config::default() };
    let at = cluster.gateway_with(config).await;
    eventually("it is known", async || tests::request(at, "POST", "/small", "{}").await.status == 200).await;
    (at, node, calls)
}

/// Clients of this address that ask for large answers at once and read no further than the status.
async fn ask_and_stop(from: u8, at: SocketAddr, clients: usize) -> (Vec<u16>, Vec<RawStream>) {
    let ask = async |_| loop {
        let mut client = RawStream(connect(from, at).await);
        client.send("GET /large HTTP/1.1\r\nHost: g\r\n\r\n").await;
        let line = client.read_to("\r\n").await;
        let status = line[9..12].parse::<u16>().unwrap();
        if status != 503 || !client.read_to("}").await.contains(LAGS) {
            return (status, client);
        }
    };
    join_all((0..clients).map(ask)).await.into_iter().unzip()
}

/// The statuses of clients of this address that ask for large answers at once, and read them only
/// when all have a status. A client that left without reading would be given less the next time.
async fn ask_and_read(from: u8, at: SocketAddr, clients: usize) -> Vec<u16> {
    let (statuses, clients) = ask_and_stop(from, at, clients).await;
    let given = statuses.iter().zip(clients).filter(|(status, _)| **status == 200);
    let read = async |client: RawStream| client.0.take(LARGE as u64).read_to_end(&mut Vec::new()).await;
    join_all(given.map(|(_, client)| read(client))).await;
    statuses
}

/// The status of each response, in order of their numbers.
fn counted(statuses: &[u16]) -> BTreeMap<u16, usize> {
    let mut count = BTreeMap::new();
    statuses.iter().for_each(|status| *count.entry(*status).or_default() += 1);
    count
}

#[tokio::test]
async fn gh30_unread_answers_are_within_the_budget() {
    let cluster = Cluster::start();
    let (at, _node, _) = holding(&cluster, 8).await;
    let (statuses, held) = ask_and_stop(2, at, 30).await;
    assert_eq!(counted(&statuses), [(200, 4), (503, 26)].into());
    let mut good = HttpClient::over(connect(1, at).await);
    assert_eq!(good.request("GET", "/large", "").await.unwrap().status, 200, "there is something left for others");
    let mut same = HttpClient::over(connect(2, at).await);
    assert_eq!(same.request("POST", "/small", "{}").await.unwrap().status, 200, "small answers are not counted");
    assert_eq!(same.request("GET", "/large", "").await.unwrap().problem(), "overloaded");
    drop(held);
    eventually("what was held is given back", async || ask_and_read(3, at, 4).await == [200; 4]).await;
}

#[tokio::test]
async fn gh30_a_client_that_does_not_read_is_not_called_for_in_vain() {
    let cluster = Cluster::start();
    let (at, _node, calls) = holding(&cluster, 8).await;
    let (statuses, held) = ask_and_stop(2, at, 4).await;
    assert_eq!(statuses, [200; 4]);
    for _ in 0..10 {
        let (statuses, _) = ask_and_stop(2, at, 10).await;
        assert_eq!(statuses, [503; 10], "it has what it may have");
    }
    // Nothing is known of the size before the first of them.
    let made = calls.load(Ordering::Relaxed);
    assert!(made <= 5, "{made} calls for 104 requests");
    let mut good = HttpClient::over(connect(1, at).await);
    assert_eq!(good.request("GET", "/large", "").await.unwrap().status, 200, "others are called for");
    drop(held);
}

#[tokio::test]
async fn gh30_a_client_that_comes_again_and_does_not_read_gets_less() {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        let cluster = Cluster::start();
        let (at, _node, _) = holding(&cluster, 16).await;
        let (statuses, held) = ask_and_stop(2, at, 16).await;
        assert_eq!(counted(&statuses), [(200, 8), (503, 8)].into(), "half of what there is");
        let left = Instant::now();
        drop(held);
        // It has been seen to go when all that it had is there for others.
        eventually("what was held is given back", async || ask_and_read(3, at, 8).await == [200; 8]).await;
        let (statuses, _held) = ask_and_stop(2, at, 16).await;
        if left.elapsed() > REMEMBERED_TIME {
            // On a machine as busy as that it may have been forgotten.
            continue;
        }
        assert_eq!(counted(&statuses), [(200, 1), (503, 15)].into(), "an eighth of what is free");
        let (statuses, _held) = ask_and_stop(4, at, 16).await;
        assert_eq!(counted(&statuses), [(200, 7), (503, 9)].into(), "others have half");
        return;
    }
    panic!("{ATTEMPTS} times the client came again too late");
}

#[tokio::test]
async fn gh30_large_heads_that_do_not_end_are_no_more_than_may_be_held() {
    let cluster = Cluster::start();
    let servers = vec![FixedServer { address: server().await.0.into(), weight: 100 }];
    let config = Config {
        max_held_bytes: 16 * 64 * 1024,
        routes: vec![RouteConfig { servers, ..route() }],
        ..Config::default()
    };
    let at = cluster.gateway_with(config).await;
    let head = format!("GET / HTTP/1.1\r\nHost: g\r\n{}", format!("X: {}\r\n", "y".repeat(995)).repeat(60));
    let begin = async |_| {
        let mut client = RawStream(connect(2, at).await);
        let _ = client.0.write_all(head.as_bytes()).await;
        let line = timeout(Duration::from_secs(1), client.read_to("\r\n")).await.unwrap_or_default();
        (line.starts_with("HTTP/1.1 503 "), client)
    };
    let (refused, mut held): (Vec<_>, Vec<_>) = join_all((0..30).map(begin)).await.into_iter().unzip();
    assert_eq!(refused.iter().filter(|refused| **refused).count(), 22, "half of what there is, of 64 KiB each");
    assert_eq!(HttpClient::over(connect(2, at).await).request("GET", "/", "").await.unwrap().status, 200);
    // Those that are held are as good as any, and give their room back.
    let first = refused.iter().position(|refused| !refused).unwrap();
    held[first].send("\r\n").await;
    assert!(held[first].read_to("ok").await.starts_with("HTTP/1.1 200 "));
    assert!(!begin(0).await.0, "there is room for one more");
}

#[tokio::test]
async fn gh30_large_fields_of_http2_are_no_more_than_may_be_held() {
    let cluster = Cluster::start();
    let servers = vec![FixedServer { address: server().await.0.into(), weight: 100 }];
    let routes = vec![RouteConfig { servers, ..route() }];
    let config = Config { max_held_bytes: 16 * 64 * 1024, h2c: true, routes, ..Config::default() };
    let at = cluster.gateway_with(config).await;
    let ask = async |fields: usize| {
        let (send, connection) = h2::client::handshake(connect(2, at).await).await.unwrap();
        let running = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = tests::http2::head("GET", "/slow").header("x", "y".repeat(fields)).body(()).unwrap();
        let (response, _) = send.ready().await.unwrap().send_request(request, true).unwrap();
        let answer = timeout(Duration::from_secs(1), response).await;
        (answer.is_ok_and(|answer| answer.unwrap_err().reason() == Some(h2::Reason::REFUSED_STREAM)), running)
    };
    let (refused, held): (Vec<_>, Vec<_>) = join_all((0..30).map(|_| ask(9000))).await.into_iter().unzip();
    assert_eq!(refused.into_iter().filter(|refused| *refused).count(), 22, "half of what there is, of 64 KiB each");
    assert!(!ask(1000).await.0, "a usual request is not counted");
    drop(held);
}

/// Whether a client is cut that sends fields of 8 kB in each of 60 requests, and has the form
/// `authority` for one byte that it may put into its table.
#[track_caller]
fn check_table(authority: u8, is_cut: bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let cluster = Cluster::start();
        let servers = vec![FixedServer { address: server().await.0.into(), weight: 100 }];
        let routes = vec![RouteConfig { servers, ..route() }];
        let config = Config { max_held_bytes: 8 * 64 * 1024, h2c: true, routes, ..Config::default() };
        let at = cluster.gateway_with(config).await;
        let field = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
        let block = [&[0x82, 0x86, 0x84, authority, 1, b'g'][..], &field.repeat(80)].concat();
        let mut client = connect(2, at).await;
        client.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
        for number in 0..60 {
            // A client that is cut may be told so while it sends.
            let _ = client.write_all(&frame(1, 5, 2 * number + 1, &block)).await;
        }
        let _ = client.write_all(&frame(6, 0, 0, b"the last")).await;
        let mut head = [0; 9];
        let (kind, payload) = loop {
            client.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
            client.read_exact(&mut payload).await.unwrap();
            match head[3] {
                6 | 7 => break (head[3], payload),
                _ => {}
            }
        };
        let seen = kind == 7 && payload.get(4..8) == Some(&[0, 0, 0, 11]);
        assert_eq!(seen, is_cut, "{caller}: {payload:?}");
        assert_eq!(HttpClient::over(connect(3, at).await).request("GET", "/", "").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn gh30_the_table_of_fields_of_http2_is_within_the_budget() {
    // As it may be put into the table, and as it may not (RFC 7541, 6.2).
    check_table(0x41, true).await;
    check_table(0x01, false).await;
}

#[tokio::test]
async fn gh30_http2_streams_without_a_window_are_within_the_budget() {
    let cluster = Cluster::start();
    let (at, _node, _) = holding(&cluster, 8).await;
    let mut builder = h2::client::Builder::new();
    let (send, connection) =
        builder.initial_window_size(0).handshake::<_, bytes::Bytes>(connect(2, at).await).await.unwrap();
    let running = AbortOnDropHandle::new(tokio::spawn(connection));
    let ask = async |_| {
        let mut send = send.clone().ready().await.unwrap();
        let request = tests::http2::head("GET", "/large").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        response.await.unwrap()
    };
    let responses = join_all((0..30).map(ask)).await;
    let statuses: Vec<_> = responses.iter().map(|response| response.status().as_u16()).collect();
    // Bytes that wait beside them count too.
    assert_eq!(counted(&statuses), [(200, 3), (503, 27)].into());
    drop((responses, running));
    let again = async || tests::request(at, "GET", "/large", "").await.status == 200;
    eventually("what was held is given back", again).await;
}

#[tokio::test]
async fn gh30_waiting_http2_streams_are_within_the_budget() {
    let cluster = Cluster::start();
    let servers = vec![FixedServer { address: server().await.0.into(), weight: 100 }];
    let routes = vec![RouteConfig { servers, ..route() }];
    let max_held_bytes = 4 * 64 * 1024;
    let at = cluster.gateway_with(Config { max_held_bytes, h2c: true, routes, ..Config::default() }).await;
    let (send, connection) = h2::client::handshake(connect(2, at).await).await.unwrap();
    let running = AbortOnDropHandle::new(tokio::spawn(connection));
    let ask = async |_| {
        let mut send = send.clone().ready().await.unwrap();
        let (response, _) = send.send_request(tests::http2::head("GET", "/slow").body(()).unwrap(), true).unwrap();
        let answer = timeout(Duration::from_secs(1), response).await;
        answer.is_ok_and(|answer| answer.unwrap_err().reason() == Some(h2::Reason::REFUSED_STREAM))
    };
    let refused = join_all((0..100).map(ask)).await.into_iter().filter(|refused| *refused).count();
    // Half of what is free, of 5 KiB each, and a few.
    assert!((65..=75).contains(&refused), "{refused}");
    assert_eq!(HttpClient::over(connect(2, at).await).request("GET", "/", "").await.unwrap().status, 200);
    drop(running);
}

#[tokio::test]
async fn gh30_bodies_for_nodes_are_within_the_budget() {
    let cluster = Cluster::start();
    let (at, _node, _) = holding(&cluster, 8).await;
    let length = LARGE + 1000;
    let post = format!(
        "POST /small HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    let begin = async |_| {
        let mut client = RawStream(connect(2, at).await);
        client.send(&post).await;
        let _ = client.0.write_all(&vec![b' '; LARGE - 1000]).await;
        client
    };
    let mut half_sent = join_all((0..30).map(begin)).await;
    let mut refused = 0;
    for client in &mut half_sent {
        let line = timeout(Duration::from_millis(200), client.read_to("\r\n")).await;
        refused += usize::from(line.is_ok_and(|line| line.starts_with("HTTP/1.1 503 ")));
    }
    assert!((25..=29).contains(&refused), "{refused}");
    let good = HttpClient::over(connect(1, at).await)
        .request("POST", "/small", &format!("{{}}{}", " ".repeat(LARGE / 2)))
        .await;
    assert_eq!(good.unwrap().status, 200);
    drop(half_sent);
}
