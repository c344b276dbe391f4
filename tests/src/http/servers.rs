//! HTTP servers for tests of the gateway: one that the test plays by hand, and one that counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{Cluster, PATIENCE, Peer};

/// A server that is registered under some prefixes.
#[derive(Debug)]
pub struct Server {
    /// Where it accepts connections.
    pub listener: TcpListener,
    /// The registration of the server, which ends when this is dropped.
    pub registered: Option<Peer>,
}

impl Server {
    /// Starts a server and registers it under these prefixes.
    pub async fn join(cluster: &Cluster, prefixes: &[&str]) -> Self {
        Self::join_with(cluster, json!({ "prefixes": prefixes })).await
    }

    /// Starts a server and registers it with this `http` advert.
    pub async fn join_with(cluster: &Cluster, http: serde_json::Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let registered = Some(Self::register(cluster, port, http).await);
        Self { listener, registered }
    }

    /// Registers a server that listens on `port`.
    pub async fn register(cluster: &Cluster, port: u16, http: serde_json::Value) -> Peer {
        let mut registered = cluster.peer().await;
        let advert = json!({ "v": 2, "id": format!("server-{port}"), "http": http });
        registered.register_with(json!({ "port": port, "name": "server", "urls": [], "$": advert })).await;
        registered
    }

    /// The next connection to it.
    pub async fn accept(&self) -> RawStream {
        RawStream(timeout(PATIENCE, self.listener.accept()).await.expect("a connection").unwrap().0)
    }

    /// Answers every request with its own port, on as many connections as come.
    pub fn answer_with_port(self) -> Option<Peer> {
        let port = self.listener.local_addr().unwrap().port();
        let listener = self.listener;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut stream = RawStream(stream);
                    while !stream.head().await.is_empty() {
                        stream.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{port:5}")).await;
                    }
                });
            }
        });
        self.registered
    }
}

/// One side of a connection, byte by byte.
#[derive(Debug)]
pub struct RawStream(
    /// The socket.
    pub TcpStream,
);

impl RawStream {
    /// Connects to a gateway.
    pub async fn to(gateway: SocketAddr) -> Self {
        Self(TcpStream::connect(gateway).await.unwrap())
    }

    /// Writes all of a text.
    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The text up to and including `end`; less when the connection ends.
    pub async fn read_to(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            match timeout(PATIENCE, self.0.read_u8())
                .await
                .unwrap_or_else(|_| panic!("no {end:?} within {PATIENCE:?}: {bytes:?}"))
            {
                Ok(byte) => bytes.push(byte),
                Err(_end) => break,
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// A head; nothing at the end of the connection.
    pub async fn head(&mut self) -> String {
        self.read_to("\r\n\r\n").await
    }

    /// The text until the connection ends.
    pub async fn rest(&mut self) -> String {
        let mut text = String::new();
        timeout(PATIENCE, self.0.read_to_string(&mut text)).await.expect("the end").unwrap_or_default();
        text
    }
}

/// A server that answers with its own port and the request, and with a status that can be changed.
#[derive(Debug)]
pub struct CountingServer {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    status: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl CountingServer {
    /// Starts it on a port of the system's choice.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts it at an address.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, status) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(200)));
        let (count, code) = (Arc::clone(&asked), Arc::clone(&status));
        let accepting = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (count, code) = (Arc::clone(&count), Arc::clone(&code));
                connections.spawn(async move {
                    let mut stream = RawStream(stream);
                    loop {
                        let head = stream.head().await;
                        if head.is_empty() {
                            return;
                        }
                        count.fetch_add(1, Ordering::Relaxed);
                        let status = code.load(Ordering::Relaxed);
                        if status == 0 {
                            // It never answers.
                            std::future::pending::<()>().await;
                        }
                        let body = format!("{}\n{head}", address.port());
                        stream
                            .send(&format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
                            .await;
                    }
                });
            }
        });
        Self { address, asked, status, accepting }
    }

    /// Answers with this status from now on; with 0, not at all.
    pub fn answers(&self, status: usize) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// How many requests it has read.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Closes its port and all connections, and waits until they are closed.
    pub async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
    }
}

/// Starts a server that answers each request with the head of that request.
pub async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = RawStream(stream);
                loop {
                    let head = stream.head().await;
                    if head.is_empty() {
                        return;
                    }
                    let length = head.len();
                    stream.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}")).await;
                }
            });
        }
    });
    address
}

/// A gateway that knows the server.
pub async fn gateway_before(cluster: &Cluster, server: Server) -> (SocketAddr, Server) {
    let gateway = cluster.gateway_with(Config { request_timeout: Duration::from_secs(2), ..Config::default() }).await;
    // The route is known once the answer is no longer 404.
    while try_request(gateway).await.starts_with("HTTP/1.1 404") {}
    (gateway, server)
}

/// A request that never reaches a server: it is malformed once the route is known.
pub async fn try_request(gateway: SocketAddr) -> String {
    let mut client = RawStream::to(gateway).await;
    client
        .send("POST /api/probe HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nxx\r\n")
        .await;
    client.rest().await
}

/// A cluster, a gateway that knows a server, and that server, registered under these prefixes.
pub async fn serve_prefixes(prefixes: &[&str]) -> (Cluster, SocketAddr, Server) {
    let cluster = Cluster::start();
    let server = Server::join(&cluster, prefixes).await;
    let (gateway, server) = gateway_before(&cluster, server).await;
    // The probe may have made a connection.
    while timeout(Duration::from_millis(50), server.listener.accept()).await.is_ok() {}
    (cluster, gateway, server)
}
