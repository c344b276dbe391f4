//! Files of any size: an upload that is kept as a whole or not at all, and a download that may
//! begin in the middle.
//!
//! `cargo run -p node-sdk --features testing --example files`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::HashMap;
use std::error::Error;
use std::sync::Mutex;

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use node_sdk::testing::TestMesh;
use node_sdk::{BodyStream, ByteStream, Created, Headers, HttpResponse, Node, Path, ServiceError, State};

/// Bytes of a piece of a download.
const PIECE_BYTES: usize = 64 * 1024;

/// The files by name. A service of your own would keep them on a disk.
type Files = Mutex<HashMap<String, Bytes>>;

/// Keeps what the client sends, once all of it has come.
async fn upload(
    Path(name): Path<String>,
    body: BodyStream,
    files: State<Files>,
) -> Result<Created<usize>, ServiceError> {
    let pieces: Vec<Bytes> = body.try_collect().await?;
    let file = Bytes::from(pieces.concat());
    let bytes = file.len();
    files.lock().map_err(|_| poisoned())?.insert(name, file);
    Ok(Created(bytes))
}

/// Sends a file, or the rest of it that a client asks for by `Range: bytes=FROM-`, as one does that
/// goes on with a download.
async fn download(
    Path(name): Path<String>,
    headers: Headers,
    files: State<Files>,
) -> Result<HttpResponse<ByteStream>, ServiceError> {
    let found = files.lock().map_err(|_| poisoned())?.get(&name).cloned();
    let file = found.ok_or_else(|| ServiceError::not_found("unknown_file", "there is no such file"))?;
    let all = file.len();
    let from = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from = from.filter(|from| *from < all);
    let mut rest = file.slice(from.unwrap_or(0)..);
    let length = rest.len() as u64;
    // Each piece is made when the client has read the ones before.
    let pieces = std::iter::from_fn(move || {
        let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
        (!piece.is_empty()).then_some(Ok::<_, ServiceError>(piece))
    });
    let response = HttpResponse::new(ByteStream::new(stream::iter(pieces)).length(length));
    Ok(match from {
        Some(from) => response.status(206).header("content-range", format!("bytes {from}-{}/{all}", all - 1)),
        None => response.header("accept-ranges", "bytes"),
    })
}

fn poisoned() -> ServiceError {
    ServiceError::internal("a handler has panicked while it held the files")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mesh = TestMesh::start();
    let node = Node::builder("files").state(Files::default()).public_routes();
    let node = node.route("PUT/files/{name}", upload).max_body(1_000_000_000);
    let node = node.route("GET/files/{name}", download).headers(["range"]);
    let _files = mesh.node(node).await?;
    // In place of a gateway and its clients.
    let gate = mesh.node(Node::builder("gate")).await?;
    gate.peers().wait_for(&["PUT/files/{name}", "GET/files/{name}"]).await;

    let pieces = stream::iter((0..1000).map(|n| Ok::<_, ServiceError>(vec![n as u8; 10_000])));
    let response = gate.request("PUT", "/files/a").body_stream(pieces).send().await?;
    println!("upload: {}", response.status());
    assert_eq!((response.status(), &*response.bytes().await?), (201, &b"10000000"[..]));

    let response = gate.request("GET", "/files/a").send().await?;
    assert_eq!((response.status(), response.header("accept-ranges")), (200, Some("bytes")));
    println!("download: {} bytes", response.bytes().await?.len());

    let response = gate.request("GET", "/files/a").header("range", "bytes=9999990-").send().await?;
    println!("the rest: {:?}", response.header("content-range"));
    assert_eq!((response.status(), response.bytes().await?.len()), (206, 10));

    // A client that goes in the middle leaves no file.
    let half = stream::iter([Ok(vec![1; 10_000]), Err("the client goes")]);
    assert!(gate.request("PUT", "/files/b").body_stream(half).send().await.is_err());
    assert_eq!(gate.request("GET", "/files/b").send().await?.status(), 404);
    Ok(())
}
