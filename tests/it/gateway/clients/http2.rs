//! HTTP/2 at the gateway: what a good client gets.

use bytes::Bytes;
use gateway::Config;
use h2::client::SendRequest;
use http::HeaderMap;
use tests::http2::{PREFACE, ask, connect, frame, head, served};
use tests::{Cluster, PATIENCE, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn nodes_answer_over_http2_as_over_http1() {
    let (_cluster, gateway, _server, _node) = served().await;
    let mut client = connect(gateway).await;
    let (status, fields, body, _) = ask(&mut client, head("GET", "/double?n=21").body(()).unwrap(), &[]).await.unwrap();
    assert_eq!((status, &body[..]), (200, &br#"{"n":42,"text":null}"#[..]));
    assert_eq!(fields["content-type"], "application/json");
    assert!(fields.contains_key("date"));
    let post = || head("POST", "/double").header("content-type", "application/json").body(()).unwrap();
    let (status, _, body, _) = ask(&mut client, post(), &["{\"n\":4,", "\"text\":\"가\"}"]).await.unwrap();
    assert_eq!((status, String::from_utf8(body).unwrap()), (200, r#"{"n":8,"text":"가"}"#.to_owned()));
    let (status, fields, body, _) = ask(&mut client, head("HEAD", "/double").body(()).unwrap(), &[]).await.unwrap();
    assert_eq!((status, body.len(), &fields["content-length"]), (200, 0, &http::HeaderValue::from_static("19")));
    let (status, _, body, _) = ask(&mut client, head("GET", "/big").body(()).unwrap(), &[]).await.unwrap();
    assert_eq!((status, body.len()), (200, 300_002), "more than a window");
    // Without h2c, or without its preface, HTTP/1.1 is spoken.
    assert_eq!(request(gateway, "GET", "/double?n=1", "").await.status, 200);
    for _ in 0..3 {
        let many = (0..100).map(|_| {
            let mut client = client.clone();
            async move { ask(&mut client, head("GET", "/double?n=1").body(()).unwrap(), &[]).await.unwrap().0 }
        });
        assert!(futures::future::join_all(many).await.into_iter().all(|status| status == 200));
    }
}

#[tokio::test]
async fn servers_are_asked_in_http1_with_trailers_both_ways() {
    let (_cluster, gateway, server, _node) = served().await;
    let mut client = connect(gateway).await;
    let request = head("POST", "/api/x?y")
        .header("x-a", "b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-request-id", "i")
        .body(())
        .unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    let mut behind = server.accept().await;
    let asked = behind.head().await;
    let expected = "POST /api/x?y HTTP/1.1\r\nhost: g.test\r\nx-a: b\r\ncookie: a=1; b=2\r\ntransfer-encoding: chunked\r\n\
                    x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: g.test\r\n\
                    forwarded: for=127.0.0.1;host=\"g.test\";proto=http\r\nx-gateway-hops: 1\r\nx-request-id: i\r\n\r\n";
    assert_eq!(asked, expected);
    send.send_data(Bytes::from_static(b"abc"), false).unwrap();
    assert_eq!(behind.read_to("abc\r\n").await, "3\r\nabc\r\n", "before the rest is there");
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("digest"), http::HeaderValue::from_static("d"))]);
    send.send_trailers(trailers).unwrap();
    assert_eq!(behind.read_to("\r\n\r\n").await, "0\r\ndigest: d\r\n\r\n");
    behind.send("HTTP/1.1 200 OK\r\nX-Case: K\r\nConnection: X-Hop\r\nX-Hop: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await;
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-case"]),
        (200, &http::HeaderValue::from_static("K"))
    );
    assert!(["x-hop", "connection", "transfer-encoding"].iter().all(|name| !response.headers().contains_key(*name)));
    let mut body = response.into_body();
    assert_eq!(timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap(), "ab", "before the rest is there");
    behind.send("0\r\nX-Sum: s\r\nContent-Length: 7\r\n\r\n").await;
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &http::HeaderValue::from_static("s")));
    // The connection to the server is used again.
    let (again, _) = client.send_request(head("GET", "/api/2").body(()).unwrap(), true).unwrap();
    assert!(behind.head().await.starts_with("GET /api/2 "));
    behind.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(timeout(PATIENCE, again).await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn gu8_gu19_an_early_end_is_reported_to_the_other_side() {
    let (_cluster, gateway, server, _node) = served().await;
    let mut client = connect(gateway).await;
    let (response, _) = client.send_request(head("GET", "/api").body(()).unwrap(), true).unwrap();
    let mut behind = server.accept().await;
    behind.head().await;
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "abc");
    drop(behind);
    let error = timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "not a clean end");
    // A client that cancels its request cancels it at the server, even when the answer has begun.
    let (response, mut send) = client.send_request(head("POST", "/api").body(()).unwrap(), false).unwrap();
    let mut behind = server.accept().await;
    behind.head().await;
    send.send_data(Bytes::new(), true).unwrap();
    behind.read_to("0\r\n\r\n").await;
    behind.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    send.send_reset(h2::Reason::CANCEL);
    drop(response);
    assert_eq!(behind.rest().await, "");
    let (response, mut send) = client.send_request(head("POST", "/api").body(()).unwrap(), false).unwrap();
    let mut behind = server.accept().await;
    behind.head().await;
    send.send_reset(h2::Reason::CANCEL);
    assert_eq!(behind.rest().await, "");
    drop(response);
}

#[tokio::test]
async fn gh18_requests_that_http1_cannot_express_are_refused() {
    let (_cluster, gateway, _server, _node) = served().await;
    let mut client = connect(gateway).await;
    let check =
        async |client: &mut SendRequest<Bytes>, request: http::request::Builder, expected: Result<u16, h2::Reason>| {
            let seen = ask(client, request.body(()).unwrap(), &[]).await;
            let seen = seen.map(|(status, ..)| status).map_err(|error| error.reason().expect("a reason"));
            assert_eq!(seen, expected);
        };
    check(&mut client, head("GET", "/double").header("host", "other"), Ok(400)).await;
    check(&mut client, head("GET", "/..%2fx"), Ok(400)).await;
    check(&mut client, head("TRACE", "/double"), Ok(405)).await;
    check(&mut client, head("get", "/double"), Ok(400)).await;
    check(&mut client, head("GET", &format!("/{}", "x".repeat(17_000))), Ok(431)).await;
    let many = (0..101).fold(head("GET", "/double"), |head, at| head.header(format!("x-{at}"), "y"));
    check(&mut client, many, Ok(431)).await;
    check(&mut client, head("GET", "/double?n=1"), Ok(200)).await;
}

/// A path has no fragment (RFC 9113, 8.3.1), and the h2 crate cuts one off without a word. The
/// remaining path decides where the request goes, and is the one that the server sees.
#[tokio::test]
async fn gh18_a_fragment_neither_routes_a_request_nor_reaches_a_server() {
    let (_cluster, gateway, server, _node) = served().await;
    let get = |path: &str| {
        let path = [&[0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
        [&[0x82, 0x86][..], &path, &[0x01, 1, b'g']].concat()
    };
    let blocks = [(1, get("/double#/api/y")), (3, get("/#/api/y")), (5, get("/api/y#/double"))];
    let frames = blocks.map(|(stream, block)| frame(1, 5, stream, &block)).concat();
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &frames].concat()).await.unwrap();
    let mut statuses = Vec::new();
    while statuses.len() < 2 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == 1 {
            statuses.push((head[8], payload[0]));
        }
    }
    statuses.sort_unstable();
    // ":status: 200" and ":status: 404" are numbers 8 and 13 of the static table.
    assert_eq!(statuses, [(1, 0x80 | 8), (3, 0x80 | 13)]);
    let head = server.accept().await.head().await;
    assert!(head.starts_with("GET /api/y HTTP/1.1\r\n") && !head.contains('#'), "{head}");
}

#[tokio::test]
async fn gh3_an_answer_before_the_body_arrives_without_a_reset() {
    let (_cluster, gateway, _server, _node) = served().await;
    let mut client = connect(gateway).await;
    let (response, mut send) = client.send_request(head("POST", "/nowhere").body(()).unwrap(), false).unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 404);
    let mut left = Bytes::from(vec![b'x'; 1 << 20]);
    while !left.is_empty() {
        send.reserve_capacity(left.len());
        let room = std::future::poll_fn(|task| send.poll_capacity(task));
        let room = timeout(PATIENCE, room).await.unwrap().expect("no reset").unwrap();
        send.send_data(left.split_to(room.min(left.len())), false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
}

#[tokio::test]
async fn a_fault_of_a_body_is_reported_even_after_the_answer() {
    let (_cluster, gateway, _server, _node) = served().await;
    let length = [&[0, 14][..], b"content-length", &[1], b"1"].concat();
    let post = [&[0x83, 0x86, 0x84, 0x41, 1, b'g'][..], &length].concat();
    let fields = [&[0, 1][..], b"x", &[1], b"y"].concat();
    // More than it said; fields in the middle.
    for second in [frame(0, 1, 1, b"test"), frame(1, 4, 1, &fields)] {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        stream.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4, 1, &post)].concat()).await.unwrap();
        let mut answered = false;
        let reset = timeout(PATIENCE, async {
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
                stream.read_exact(&mut payload).await.unwrap();
                match head[3] {
                    1 => {
                        answered = true;
                        stream.write_all(&second).await.unwrap();
                    }
                    3 => return payload,
                    _ => {}
                }
            }
        });
        assert_eq!(reset.await.expect("a reset"), [0, 0, 0, 1], "PROTOCOL_ERROR");
        assert!(answered);
    }
}

#[tokio::test]
async fn rs2_an_http2_client_is_told_to_connect_elsewhere() {
    let (cluster, gateway, server, _node) = served().await;
    let mut client = connect(gateway).await;
    let (response, _) = client.send_request(head("GET", "/api").body(()).unwrap(), true).unwrap();
    let mut behind = server.accept().await;
    behind.head().await;
    cluster.stop().await;
    let refused = async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("GOAWAY");
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let response = timeout(PATIENCE, response).await.unwrap().expect("requests under way are answered");
    assert_eq!(response.into_body().data().await.unwrap().unwrap(), "ok");
}

#[tokio::test]
async fn gh5_http2_without_tls_is_spoken_only_if_configured() {
    let cluster = Cluster::start();
    let gateway = cluster.gateway().await;
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}"); // Where it is, what begins neither as HTTP/2 nor as HTTP/1.1 does is ended as RFC 9113, 3.4 has it.
    let gateway = cluster.gateway_with(Config { h2c: true, ..Config::default() }).await;
    for (line, is_http1) in [
        ("INVALID CONNECTION PREFACE", false),
        ("PRX * HTTP/2.0", true),
        ("GET / HTTP/1.1", true),
        ("GET http://g/ HTTP/1.1", true),
        ("GET x HTTP/1.1", true),
        ("GET ftp://g/ HTTP/1.1", true),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 10", true),
        ("CONNECT g:80 HTTP/1.1", true),
        ("NONSENSE", true),
    ] {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        stream.write_all(format!("{line}\r\nHost: g\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer.starts_with(b"HTTP/1.1 "), is_http1, "{line}: {answer:?}");
    }
}
