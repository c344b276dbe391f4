//! A client of HTTP/2 in clear.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

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
