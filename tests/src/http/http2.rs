//! A client of HTTP/2 in clear.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gateway::Config;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use node_sdk::{Node, Params, ServiceError};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Cluster, PATIENCE, Server};

/// A connection in clear, which the client drives in a task of its own.
pub async fn connect(gateway: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

/// The head of a request, with a host that all tests share.
pub fn head(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(format!("http://g.test{path}"))
}

/// One request, and its whole answer: status, fields, body and trailers.
pub async fn ask(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: &[&'static str],
) -> Result<(u16, HeaderMap, Vec<u8>, Option<HeaderMap>), h2::Error> {
    let (response, mut send) = client.send_request(request, body.is_empty())?;
    for (at, part) in body.iter().enumerate() {
        send.send_data(Bytes::from_static(part.as_bytes()), at + 1 == body.len())?;
    }
    let response = timeout(PATIENCE, response).await.expect("an answer")?;
    let (parts, mut incoming) = response.into_parts();
    let mut whole = Vec::new();
    while let Some(data) = timeout(PATIENCE, incoming.data()).await.expect("more, or the end") {
        let data = data?;
        incoming.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok((parts.status.as_u16(), parts.headers, whole, incoming.trailers().await?))
}

/// Doubles `n`, and returns `text` as it is.
pub async fn double(Params(params): Params<Value>) -> Result<Value, ServiceError> {
    let n = &params["n"];
    Ok(json!({ "n": n.as_u64().or_else(|| n.as_str()?.parse().ok()).unwrap_or(0) * 2, "text": params["text"] }))
}

/// An answer of 300 kB.
pub async fn big() -> Result<String, ServiceError> {
    Ok("x".repeat(300_000))
}

/// A cluster with a gateway that speaks HTTP/2 in clear, a node, and a server that is played by
/// hand.
pub async fn served() -> (Cluster, SocketAddr, Server, Node) {
    let cluster = Cluster::start();
    let server = Server::join(&cluster, &["/api"]).await;
    let node = Node::builder("n")
        .public_routes()
        .route("GET/double", double)
        .route("POST/double", double)
        .route("GET/big", big);
    let node = cluster.node(node).await;
    let config = Config { h2c: true, header_timeout: Duration::from_secs(1), ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    Cluster::wait_routed(gateway, "/double").await;
    (cluster, gateway, server, node)
}

/// A frame of HTTP/2: type, flags, stream, payload.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The first bytes of a client of HTTP/2.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `GET http://g/` as HPACK has it: three fields of the static table and one literal.
pub const GET: [u8; 7] = [0x82, 0x86, 0x84, 0x41, 0x01, b'g', 0x00];
