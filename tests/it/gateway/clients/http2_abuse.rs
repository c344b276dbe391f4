//! HTTP/2 at the gateway: clients that flood, or do not read.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gateway::Config;
use node_sdk::Node;
use tests::http2::{GET, PREFACE, ask, big, connect, double, frame, head, served};
use tests::{Cluster, HttpClient, PATIENCE, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn gh18_fields_that_no_client_library_sends_are_refused() {
    let (_cluster, gateway, _server, _node) = served().await;
    let literal = |name: &[u8], value: &[u8]| {
        let (n, v) = (u8::try_from(name.len()).unwrap(), u8::try_from(value.len()).unwrap());
        [&[0, n], name, &[v], value].concat()
    };
    for (name, value) in [
        (&b"transfer-encoding"[..], &b"chunked"[..]),
        (b"connection", b"close"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"X-Upper", b"x"),
        (b"x", b"a\r\nb: c"),
        (b"x", b"a\0b"),
        (b"x", b"a\nb"),
        (b"x y", b"z"),
        (b"x:y", b"z"),
        (b"", b"z"),
        (b":path", b"/again"),
        (b":what", b"x"),
        (b"content-length", b"3"),
        (b"content-length", b"x"),
    ] {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        let block = [&GET[..6], &literal(name, value)].concat();
        stream.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &frame(1, 5, 1, &block)].concat()).await.unwrap();
        // The first frame of the stream, or the end of the connection.
        let kind = timeout(PATIENCE, async {
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.ok()?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut payload).await.ok()?;
                match head[3] {
                    1 => return Some(format!("an answer to {name:?}: {payload:?}")),
                    3 | 7 => return None,
                    _ => {}
                }
            }
        });
        assert_eq!(kind.await.expect("a reset"), None, "{:?}", String::from_utf8_lossy(name));
    }
}

/// Sends these frames, without reading a byte, until the gateway ends the connection. Returns its
/// reason.
async fn flood(gateway: SocketAddr, mut next: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let heard = tokio::spawn(async move {
        let mut bytes = Vec::new();
        let _ = read.read_to_end(&mut bytes).await;
        bytes
    });
    let _ = write.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await;
    let sends = async {
        for at in 0..1_000_000 {
            if write.write_all(&next(at)).await.is_err() {
                break;
            }
        }
    };
    let heard = async { heard.await.unwrap() };
    let bytes = timeout(PATIENCE, async {
        tokio::pin!(heard);
        tokio::select! {
            bytes = &mut heard => bytes,
            () = sends => heard.await,
        }
    })
    .await
    .expect("the gateway ends it");
    let mut rest = &bytes[..];
    let mut reason = None;
    while rest.len() >= 9 {
        let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
        if rest[3] == 7 && rest.len() >= 17 {
            reason = Some(u32::from_be_bytes(rest[13..17].try_into().unwrap()));
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    reason
}

#[tokio::test]
async fn gh12_to_gh16_floods_are_ended_and_others_are_served() {
    const CALM: Option<u32> = Some(11);
    let (_cluster, gateway, _server, _node) = served().await;
    let mut good = connect(gateway).await;
    let headers = |at: u32| frame(1, 5, at * 2 + 1, &GET[..6]);
    // Requests that are cancelled at once (CVE-2023-44487), and requests that the server is made to
    // reset (CVE-2025-8671).
    assert_eq!(flood(gateway, |at| [headers(at), frame(3, 0, at * 2 + 1, &[0, 0, 0, 8])].concat()).await, CALM);
    let reset_us = |at: u32| [headers(at), frame(8, 0, at * 2 + 1, &[0; 4])].concat();
    assert!(flood(gateway, reset_us).await.is_some());
    // Fields without end (CVE-2024-27316).
    let endless = |at: u32| if at == 0 { frame(1, 1, 1, &GET[..6]) } else { frame(9, 0, 1, &[0, 1, b'a', 1, b'b']) };
    assert!(flood(gateway, endless).await.is_some());
    for (kind, payload) in [(6, &[0; 8][..]), (4, &[0, 3, 0, 0, 0, 9]), (2, &[0, 0, 0, 0, 1]), (99, b"?")] {
        let stream = u32::from(kind == 2);
        assert_eq!(flood(gateway, |_| frame(kind, 0, stream, payload)).await, CALM, "{kind}");
    }
    assert_eq!(flood(gateway, |_| frame(8, 0, 0, &[0, 0, 0, 1])).await, CALM);
    let empty =
        |at: u32| if at == 0 { frame(1, 4, 1, &[0x83, 0x86, 0x84, 0x41, 1, b'g']) } else { frame(0, 0, 1, &[]) };
    assert!(flood(gateway, empty).await.is_some());
    // A field of 4 kB that is repeated: 16 kB are accepted, counted after decompression.
    let bomb = |at: u32| {
        let mut block = GET[..6].to_vec();
        if at == 0 {
            block.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1e]);
            block.extend([b'y'; 4000]);
        } else {
            block.extend([0xbe; 1000]);
        }
        frame(1, 5, at * 2 + 1, &block)
    };
    let _ = flood(gateway, |at| if at < 50 { bomb(at) } else { frame(6, 0, 0, &[0; 8]) }).await;
    let answer = ask(&mut good, head("GET", "/double?n=1").body(()).unwrap(), &[]).await;
    assert_eq!(answer.unwrap().0, 200);
}

#[tokio::test]
async fn gh17_a_client_that_opens_no_window_loses_its_streams() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("n").public_routes().route("GET/big", big)).await;
    let config = Config {
        h2c: true,
        write_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    let gateway = cluster.gateway_with(config).await;
    Cluster::wait_routed(gateway, "/big").await;
    let stream = TcpStream::connect(gateway).await.unwrap();
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    client = client.ready().await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..50 {
        let (response, _) = client.send_request(head("GET", "/big").body(()).unwrap(), true).unwrap();
        bodies.push(timeout(PATIENCE, response).await.unwrap().unwrap().into_body());
    }
    for mut body in bodies {
        assert!(timeout(PATIENCE, body.data()).await.expect("the end").unwrap().is_err());
    }
    let ended = timeout(PATIENCE, ended).await.expect("an idle connection is ended").unwrap();
    assert!(ended.is_ok() || ended.is_err_and(|error| error.is_go_away()));
}

#[tokio::test]
async fn gh9_an_idle_http2_client_that_ignores_goaway_makes_room() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("n").public_routes().route("GET/double", double)).await;
    let config = Config { h2c: true, max_connections: 1, ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let mut deaf = TcpStream::connect(gateway).await.unwrap();
    deaf.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    // Its settings show that it has been accepted.
    deaf.read_exact(&mut [0; 9]).await.unwrap();
    assert_eq!(request(gateway, "GET", "/double?n=1", "").await.status, 200);
}

#[tokio::test]
async fn gh9_an_http2_client_that_does_not_read_makes_room() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("n").public_routes().route("GET/double", double)).await;
    let config = Config { h2c: true, max_connections: 1, ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    Cluster::wait_routed(gateway, "/double?n=1").await;
    let mut deaf = TcpStream::connect(gateway).await.unwrap();
    let path = b"/double?n=1";
    let fields = [&[0x82, 0x86, 0x41, 1, b'g', 0x04, u8::try_from(path.len()).unwrap()], &path[..]].concat();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0: the response's body waits.
    let no_window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    deaf.write_all(&[PREFACE, &no_window, &frame(1, 5, 1, &fields)].concat()).await.unwrap();
    deaf.read_exact(&mut [0; 9]).await.unwrap();
    let served = async {
        loop {
            let answer = HttpClient::connect(gateway).await.request("GET", "/double?n=1", "").await;
            if answer.is_some_and(|answer| answer.status == 200) {
                return;
            }
        }
    };
    timeout(PATIENCE, served).await.expect("it is evicted, and others are served");
}
