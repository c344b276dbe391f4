//! An HTTP server of axum that gateways pass requests on to: it registers its prefixes, calls a
//! node, and leaves before it stops.
//!
//! `cargo run -p node-sdk --features testing --example http_server`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use node_sdk::{HttpAdvert, Node, Params, Peers, ServiceError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

#[derive(serde::Deserialize)]
struct Wanted {
    id: u64,
}

/// A node, which the HTTP server calls.
async fn price(Params(wanted): Params<Wanted>) -> Result<u64, ServiceError> {
    Ok(wanted.id * 100)
}

/// A page of the HTTP server.
async fn good(State(peers): State<Peers>, Path(id): Path<u64>) -> Result<Json<u64>, StatusCode> {
    let price = peers.call(&format!("GET/prices/{id}"), &()).await;
    price.map(Json).map_err(|_| StatusCode::BAD_GATEWAY)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // A Distributor of its own; a service has its address from NODE_DISTRIBUTOR.
    let registry = net::bind("127.0.0.1:0".parse()?)?;
    let distributor = registry.local_addr()?.to_string();
    tokio::spawn(distributor::serve(vec![registry], distributor::Config::default(), CancellationToken::new()));
    let prices = Node::builder("prices").distributor(&distributor).route("GET/prices/{id}", price).start().await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let advert = HttpAdvert { prefixes: vec!["/goods".to_owned()], strip: false };
    let offer = Node::builder("web").distributor(&distributor).offer_http(address, advert)?;
    let app = Router::new().route("/goods/{id}", get(good)).with_state(offer.peers().clone());
    // A service waits for a signal: `.with_graceful_shutdown(offer.leave_on_signal()?)`.
    let (stop, stopped) = oneshot::channel::<()>();
    let leave = async move {
        let _ = stopped.await;
        offer.leave().await;
    };
    let server = tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(leave).into_future());

    prices.peers().wait_until(|nodes| nodes.iter().any(|node| node.name == "web")).await;
    println!("the HTTP server is registered");
    let mut client = TcpStream::connect(address).await?;
    client.write_all(b"GET /goods/7 HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    assert!(answer.ends_with("\r\n\r\n700"), "{answer}");
    println!("its answer: {}", answer.lines().last().unwrap_or_default());

    let _ = stop.send(());
    server.await??;
    prices.peers().wait_until(|nodes| nodes.iter().all(|node| node.name != "web")).await;
    println!("it has left");
    Ok(())
}
