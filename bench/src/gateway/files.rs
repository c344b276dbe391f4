//! Bodies of 100 MB through the gateway: to and from a node, and an HTTP server.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use memchr::memmem;
use node_sdk::{BodyStream, ByteStream, Node, ServiceError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::register;
use crate::daemon_process::Daemon;
use crate::http::length_of;
use crate::report::{mb, median, row, title, us};

/// Bytes of a body.
const BODY_BYTES: usize = 100_000_000;
/// Bytes of a piece of a body, as services and the client make them.
const PIECE_BYTES: usize = 64 * 1024;
/// Enough for a median that bad rounds do not change.
const ROUNDS: usize = 7;
/// Bodies of a round: enough that the steps in which the system counts CPU do not matter.
const BODIES: u32 = 5;
/// The port of the gateway.
const PORT: u16 = 19_119;

/// A body on its way.
#[derive(Clone, Copy)]
struct Transfer {
    name: &'static str,
    is_upload: bool,
    path: &'static str,
}

/// The packet node first, then the HTTP server with the same direction.
const TRANSFERS: [Transfer; 4] = [
    Transfer { name: "download, packet node", is_upload: false, path: "/body" },
    Transfer { name: "download, HTTP server", is_upload: false, path: "/http/body" },
    Transfer { name: "upload, packet node", is_upload: true, path: "/body" },
    Transfer { name: "upload, HTTP server", is_upload: true, path: "/http/body" },
];

/// Runs the scene.
pub(crate) async fn files() {
    let distributor = Daemon::distributor(0, &[]).await;
    distributor.move_to(1);
    let node = Daemon::server(&["file-node", &distributor.address.to_string()]).await;
    let http = Daemon::server(&["file-server"]).await;
    node.move_to(1);
    http.move_to(1);
    let _registered = register(distributor.address, http.address).await;
    let program = std::env::current_exe().unwrap().with_file_name("gateway");
    let (listen, address) = (format!("127.0.0.1:{PORT}"), distributor.address.to_string());
    let arguments = ["--listen", &listen, "--workers", "1", "--distributor", &address, "--log-level", "error"];
    let arguments = [&arguments[..], &["--admin", "off"]].concat();
    let gateway = Daemon::other(program.to_str().unwrap(), &arguments, PORT).await.expect("build it first");
    for transfer in TRANSFERS {
        // Until it has a route, it answers with an error.
        while run(&gateway, transfer).await != 200 {}
    }
    title("bodies of 100 MB through the gateway, one after the other: CPU of each body, and the most memory");
    println!("{:28} {:>12} {:>12} {:>12} {:>16}", "", "gateway", "service", "both", "of HTTP's");
    let mut cpus = vec![Vec::new(); TRANSFERS.len()];
    for _ in 0..ROUNDS {
        for (at, transfer) in TRANSFERS.into_iter().enumerate() {
            let service = if transfer.path.starts_with("/http") { &http } else { &node };
            let before = (gateway.cpu(), service.cpu());
            for _ in 0..BODIES {
                assert_eq!(run(&gateway, transfer).await, 200, "every answer is right");
            }
            cpus[at].push(((gateway.cpu() - before.0) / BODIES, (service.cpu() - before.1) / BODIES));
        }
    }
    for (at, Transfer { name, .. }) in TRANSFERS.into_iter().enumerate() {
        let ms = |of: fn(&(Duration, Duration)) -> Duration| median(cpus[at].iter().map(|cpu| us(of(cpu)) / 1e3));
        let (ours, service, both) = (ms(|cpu| cpu.0), ms(|cpu| cpu.1), ms(|cpu| cpu.0 + cpu.1));
        let sum = |(gateway, service): &(Duration, Duration)| us(*gateway + *service);
        let http = &cpus[at | 1];
        let ratio = median(cpus[at].iter().zip(http).map(|(ours, theirs)| sum(ours) / sum(theirs)));
        println!("{name:28} {ours:>9.0} ms {service:>9.0} ms {both:>9.0} ms {ratio:>14.2} ×");
    }
    for (name, process) in [("the gateway", &gateway), ("the packet node", &node), ("the HTTP server", &http)] {
        row(name, &format!("{:.1} MB at most, {:.1} MB now", mb(process.peak_bytes()), mb(process.rss_bytes())));
    }
}

/// Sends or fetches one body. Returns the status.
async fn run(gateway: &Daemon, Transfer { is_upload, path, .. }: Transfer) -> u16 {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let (method, length) = if is_upload { ("POST", BODY_BYTES) } else { ("GET", 0) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: mesh\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (piece, mut left) = (vec![b'x'; PIECE_BYTES], length);
    while left > 0 {
        let part = &piece[..left.min(PIECE_BYTES)];
        // An error is answered before the body has come.
        if stream.write_all(part).await.is_err() {
            break;
        }
        left -= part.len();
    }
    let mut buffer = Vec::with_capacity(2 * PIECE_BYTES);
    let end = loop {
        match memmem::find(&buffer, b"\r\n\r\n") {
            Some(end) => break end,
            None if stream.read_buf(&mut buffer).await.is_ok_and(|bytes| bytes > 0) => {}
            None => return 0,
        }
    };
    let status = std::str::from_utf8(&buffer[9..12]).unwrap().parse().unwrap();
    let mut left = length_of(&buffer[..end]).saturating_sub(buffer.len() - end - 4);
    while left > 0 {
        buffer.clear();
        left -= stream.read_buf(&mut buffer).await.unwrap().min(left);
    }
    status
}

/// The pieces of a body.
fn pieces() -> impl Stream<Item = Bytes> + Send {
    let piece = Bytes::from(vec![b'x'; PIECE_BYTES]);
    let last = piece.slice(..BODY_BYTES % PIECE_BYTES);
    stream::iter(std::iter::repeat_n(piece, BODY_BYTES / PIECE_BYTES).chain([last]))
}

/// Runs the node.
pub(crate) async fn serve_packets(distributor: String) {
    async fn take(body: BodyStream) -> Result<usize, ServiceError> {
        body.try_fold(0, async |sum, piece| Ok(sum + piece.len())).await
    }
    async fn give() -> Result<ByteStream, ServiceError> {
        Ok(ByteStream::new(pieces().map(Ok::<_, ServiceError>)).length(BODY_BYTES as u64))
    }
    let node = Node::builder("files").public_routes().distributor(distributor);
    let node = node.route("GET/body", give).route("POST/body", take).max_body(BODY_BYTES as u64);
    let node = node.start().await.unwrap();
    println!("{}", node.address());
    std::future::pending::<()>().await;
}

/// Runs the HTTP server.
pub(crate) async fn serve_http() {
    async fn take(body: Body) -> String {
        let bytes = body.into_data_stream().try_fold(0, async |sum, piece| Ok(sum + piece.len())).await;
        bytes.unwrap_or_default().to_string()
    }
    async fn give() -> ([(&'static str, String); 1], Body) {
        let body = Body::from_stream(pieces().map(Ok::<_, std::io::Error>));
        ([("content-length", BODY_BYTES.to_string())], body)
    }
    let app =
        Router::new().route("/http/body", get(give)).route("/http/body", post(take)).layer(DefaultBodyLimit::disable());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}
