//! An HTTP client that shows every byte of a gateway's answers.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{PATIENCE, eventually};

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// Name, in small letters, and value.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: String,
}

impl HttpResponse {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The stable word of a problem.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let kind = self.json()["type"].as_str().unwrap().to_owned();
        kind.strip_prefix("/problems/").unwrap().to_owned()
    }
}

/// A connection that is kept alive.
#[derive(Debug)]
pub struct HttpClient {
    stream: BufReader<TcpStream>,
}

impl HttpClient {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(address).await.unwrap()) }
    }

    /// Uses an open connection.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a request with a JSON body, if any, and reads its response.
    pub async fn request(&mut self, method: &str, path: &str, body: &str) -> Option<HttpResponse> {
        let headers = if body.is_empty() { String::new() } else { "Content-Type: application/json\r\n".to_owned() };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {length}\r\n\r\n");
        self.raw(format!("{head}{body}").as_bytes()).await
    }

    /// Writes bytes without waiting for an answer.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Waits until all that was sent has arrived at the other end, read there or not.
    pub async fn sent_has_arrived(&self) {
        let stream = self.stream.get_ref();
        let (own, other) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        eventually("it has arrived", async || {
            let mut sockets = procfs::net::tcp().unwrap().into_iter();
            let ours = sockets.find(|socket| (socket.local_address, socket.remote_address) == (own, other));
            ours.is_some_and(|socket| socket.tx_queue == 0)
        })
        .await;
    }

    /// Writes bytes and reads one response, ignoring what comes before it, such as 103; `None`
    /// when the connection ends without one.
    pub async fn raw(&mut self, bytes: &[u8]) -> Option<HttpResponse> {
        self.send(bytes).await;
        let response = async {
            loop {
                let response = self.response().await?;
                if response.status >= 200 || response.status == 101 {
                    return Some(response);
                }
            }
        };
        timeout(PATIENCE, response).await.expect("a response or the end of the connection")
    }

    /// The next head, that of the response or one before it, with the body.
    async fn response(&mut self) -> Option<HttpResponse> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
        self.stream.read_exact(&mut body).await.ok()?;
        if headers.contains(&("transfer-encoding".to_owned(), "chunked".to_owned())) {
            body = self.chunks().await?;
        }
        Some(HttpResponse { status, headers, body: String::from_utf8(body).unwrap() })
    }
}

impl HttpClient {
    /// A body in chunks, as Node.js sends it.
    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut size = String::new();
            self.stream.read_line(&mut size).await.ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + "\r\n".len()];
            self.stream.read_exact(&mut chunk).await.ok()?;
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
}

/// One request on a connection of its own.
pub async fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> HttpResponse {
    HttpClient::connect(address).await.request(method, path, body).await.expect("a response")
}

/// A `GET` in a task of its own.
pub fn spawn_request(gateway: SocketAddr, path: &'static str) -> tokio::task::JoinHandle<HttpResponse> {
    tokio::spawn(async move { request(gateway, "GET", path, "").await })
}
