//! HTTP servers that refuse, close, or send malformed answers.

use std::time::Duration;

use serde_json::json;
use tests::{Cluster, HttpClient, PATIENCE, RawStream, Server, eventually, request, serve_prefixes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn gu1_a_server_that_refuses_is_skipped_for_any_method() {
    let cluster = Cluster::start();
    let _nobody = Server::register(&cluster, tests::pick_port(), json!({ "prefixes": ["/api"] })).await;
    let _server = Server::join(&cluster, &["/api"]).await.answer_with_port();
    let gateway = cluster.gateway().await;
    eventually("it is known", async || request(gateway, "GET", "/api", "").await.status == 200).await;
    for _ in 0..8 {
        assert_eq!(request(gateway, "POST", "/api", "{}").await.status, 200);
    }
}

#[tokio::test]
async fn gu16_a_server_that_closes_idle_connections_costs_no_request() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut client = HttpClient::connect(gateway).await;
    // The server closes between requests; or with a request on its way, which is then sent again if
    // that does no harm.
    for (method, closes_first, status) in
        [("GET", true, 200), ("POST", true, 200), ("GET", false, 200), ("POST", false, 502)]
    {
        let first = tokio::spawn(async move {
            let first = client.request("GET", "/api", "").await;
            (first.unwrap().status, client)
        });
        let mut upstream = server.accept().await;
        upstream.head().await;
        upstream.send(ok).await;
        let (first, mut back) = first.await.unwrap();
        assert_eq!(first, 200);
        if closes_first {
            upstream.0.shutdown().await.unwrap();
            assert_eq!(upstream.rest().await, "", "the gateway has noticed it, and closes its side too");
        } else {
            tokio::spawn(async move { upstream.head().await });
        }
        let second = tokio::spawn(async move {
            let second = back.request(method, "/api", "").await;
            (second.unwrap().status, back)
        });
        if status == 200 {
            let mut upstream = server.accept().await;
            upstream.head().await;
            upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        }
        let (second, back) = second.await.unwrap();
        assert_eq!(second, status, "{method} {closes_first}");
        client = back;
    }
}

#[tokio::test]
async fn gu8_a_request_that_the_only_server_has_lost_is_lost() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let asked = tokio::spawn(async move { request(gateway, "GET", "/api", "").await });
    let mut upstream = server.accept().await;
    upstream.head().await;
    drop(upstream);
    let seen = asked.await.unwrap();
    assert_eq!((seen.status, seen.problem().as_str()), (502, "node_lost"), "there is no other one to ask");
}

#[tokio::test]
async fn gu3_gu8_gu18_faults_of_servers_are_reported() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let check = async |response: &str, status: u16, kind: &str| {
        let asked = tokio::spawn(async move { request(gateway, "POST", "/api", "{}").await });
        let mut upstream = server.accept().await;
        upstream.head().await;
        upstream.send(response).await;
        if status == 502 {
            drop(upstream);
        }
        let seen = asked.await.unwrap();
        assert_eq!((seen.status, seen.problem().as_str()), (status, kind), "{response}");
    };
    check("", 502, "node_lost").await;
    check("HTTP/1.1 200 OK\r\nConte", 502, "bad_answer").await;
    check("SSH-2.0-x\r\n\r\n", 502, "bad_answer").await;
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 502, "bad_answer").await;
    check("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", 502, "bad_answer").await;
    check("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", 502, "bad_answer").await;
    check(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20), 502, "bad_answer").await;
    check("HTTP/1.1 100 Continue\r\n\r\n", 504, "deadline").await;
    // A client whose response is cut notices it: no last chunk, fewer bytes than announced, or a
    // reset.
    for (response, seen) in [
        ("HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "3\r\nabc\r\n"),
        ("HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n", "3\r\nabc\r\n"),
        ("HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 7\r\n\r\nabc", "abc"),
    ] {
        let mut client = RawStream::to(gateway).await;
        client.send("GET /api HTTP/1.1\r\nHost: g\r\n\r\n").await;
        let mut upstream = server.accept().await;
        upstream.head().await;
        upstream.send(response).await;
        client.head().await;
        assert_eq!(client.read_to(seen).await, seen);
        drop(upstream);
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn gu19_a_server_learns_that_the_client_has_gone() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    let mut client = RawStream::to(gateway).await;
    client.send("GET /api HTTP/1.1\r\nHost: g\r\n\r\n").await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    drop(client);
    assert_eq!(upstream.rest().await, "", "its connection is closed");
}

#[tokio::test]
async fn a_connection_is_used_again_only_if_nothing_is_left_on_it() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    // A large body that has passed through leaves both connections reusable.
    let mut client = RawStream::to(gateway).await;
    let post = "POST /api HTTP/1.1\r\nHost: g\r\nContent-Length: 200000\r\n\r\n";
    client.send(&format!("{post}{}", "x".repeat(200_000))).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    upstream.0.read_exact(&mut vec![0; 200_000]).await.unwrap();
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    upstream.send(ok).await;
    assert!(!client.read_to("\r\n\r\nok").await.contains("close"));
    // An early answer leaves the server with half a request, and it would take the next one for the
    // rest.
    client.send(&format!("{post}{}", "x".repeat(100_000))).await;
    upstream.head().await;
    upstream.send(ok).await;
    let told = client.rest().await;
    assert!(told.contains("connection: close\r\n") && told.ends_with("ok"), "{told}");
    assert!(upstream.rest().await.bytes().all(|byte| byte == b'x'), "and then its end");
}

#[tokio::test]
async fn gu8_a_body_that_ends_with_a_reset_is_incomplete() {
    let (_cluster, gateway, server) = serve_prefixes(&["/api"]).await;
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut client = RawStream::to(gateway).await;
        client.send(&format!("GET /api {version}\r\nHost: g\r\n\r\n")).await;
        let mut upstream = server.accept().await;
        upstream.head().await;
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc").await;
        client.read_to("abc").await;
        socket2::SockRef::from(&upstream.0).set_linger(Some(Duration::ZERO)).unwrap();
        drop(upstream);
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, client.0.read_to_end(&mut rest)).await.expect("the end");
        // No last chunk; or a reset, if there are no chunks.
        let last_chunk = rest.windows(3).any(|three| three == b"0\r\n");
        assert!(!last_chunk && (end.is_err() || version == "HTTP/1.1"), "{version}: {end:?} {rest:?}");
    }
}
