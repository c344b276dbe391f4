//! A node for tests that kill it: it says its name, quickly or slowly, and counts.
#![expect(clippy::print_stdout, reason = "the test that started it reads it")]

use std::sync::LazyLock;
use std::time::Duration;

use futures::{Stream, TryStreamExt, stream};
use net::{LogFormat, LogLevel, init_log};
use node_sdk::{Items, Node, Params, ServiceError, Streaming, Visibility};
use serde_json::value::RawValue;

#[derive(serde::Deserialize)]
struct Slow {
    ms: u64,
}

async fn who() -> Result<u32, ServiceError> {
    Ok(std::process::id())
}

async fn slow(Params(Slow { ms }): Params<Slow>) -> Result<u32, ServiceError> {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(std::process::id())
}

#[derive(serde::Deserialize)]
struct CountParams {
    to: Option<u64>,
}

async fn count(
    Params(CountParams { to }): Params<CountParams>,
) -> Result<Streaming<impl Stream<Item = Result<u64, ServiceError>>>, ServiceError> {
    Ok(Streaming(stream::iter((0..to.unwrap_or(u64::MAX)).map(Ok))))
}

/// 7 MB that cost nothing to make.
static LARGE: LazyLock<&RawValue> = LazyLock::new(|| {
    let text = format!("\"{}\"", "x".repeat(7_000_000));
    Box::leak(RawValue::from_string(text).expect("a text"))
});

async fn large() -> Result<&'static RawValue, ServiceError> {
    Ok(*LARGE)
}

/// The result of [`large`] in parts without end.
async fn parts() -> Result<Streaming<impl Stream<Item = Result<&'static RawValue, ServiceError>>>, ServiceError> {
    Ok(Streaming(stream::repeat_with(|| Ok(*LARGE))))
}

/// Keeps its arguments for a long time.
async fn keep(Params(text): Params<String>) -> Result<usize, ServiceError> {
    tokio::time::sleep(Duration::from_secs(60)).await;
    Ok(text.len())
}

/// Reads a part after a long time.
async fn swallow(mut items: Items<String>) -> Result<usize, ServiceError> {
    tokio::time::sleep(Duration::from_secs(60)).await;
    Ok(items.try_next().await?.map_or(0, |text| text.len()))
}

/// Arguments: the address of the Distributor, and the percentage of nodes that must know this node
/// before it prints that it is ready. The variable `BUFFERS` sets how many bytes it holds for
/// callers; `LISTEN` sets its address, by default a loopback port that the system chooses.
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = init_log(LogFormat::Text, &"info".parse::<LogLevel>()?);
    let distributor = std::env::args().nth(1).ok_or("where is the Distributor?")?;
    let listen = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:0".to_owned());
    let node = Node::builder("who")
        .public_routes()
        .listen(listen)
        .distributor(distributor)
        .route("GET/who", who)
        .route("GET/slow", slow)
        .route("POST/slow", slow)
        .route("GET/count", count)
        .route("GET/large", large)
        .route("GET/parts", parts)
        .route("GET/keep", keep)
        .route("POST/swallow", swallow);
    let node = match std::env::var("BUFFERS") {
        Ok(bytes) => node.max_buffer_bytes(bytes.parse()?),
        Err(_) => node,
    };
    let Some(percent) = std::env::args().nth(2) else { return Ok(node.serve().await?) };
    let ready = |node: &Node, visibility: &Visibility| {
        println!("ready at {}: {} of {}", node.address(), visibility.seen, visibility.of);
    };
    Ok(node.serve_when_visible(percent.parse()?, Duration::from_secs(20), ready).await?)
}
