//! Clients of WebSockets whose messages are JSON.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::PATIENCE;

/// The client's end of a WebSocket.
pub type Client = WebSocketStream<TcpStream>;

/// Opens a WebSocket with further header fields.
///
/// # Errors
/// The response of HTTP, when the WebSocket is not accepted.
pub async fn open_with(gateway: SocketAddr, path: &str, fields: &[(&'static str, &str)]) -> Result<Client, Error> {
    let mut request = format!("ws://{gateway}{path}").into_client_request().unwrap();
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(gateway).await.unwrap();
    Ok(tokio_tungstenite::client_async(request, stream).await?.0)
}

/// Opens a WebSocket.
pub async fn open(gateway: SocketAddr, path: &str) -> Client {
    open_with(gateway, path, &[]).await.unwrap()
}

/// Sends one message.
pub async fn say(client: &mut Client, value: &Value) {
    client.send(Message::text(value.to_string())).await.unwrap();
}

/// The next message.
pub async fn hear(client: &mut Client) -> Value {
    match timeout(PATIENCE, client.next()).await.unwrap() {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The code and the reason with which the gateway closes; messages before that are skipped.
pub async fn closed(client: &mut Client) -> (u16, String) {
    loop {
        match timeout(PATIENCE, client.next()).await.unwrap() {
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => return (code.into(), reason.to_string()),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
