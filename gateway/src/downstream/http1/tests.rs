//! A connection as the handler of its requests uses it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::downstream::http1;
use crate::downstream::tracked_client::TrackedClient;
use crate::io::stream::MaybeTlsStream;
use crate::message::head::RequestHead;
use crate::proxy::exchange::{Exchange, FullResponse, RequestHandler};
use crate::proxy::request_error::Ended;

const PATIENCE: Duration = Duration::from_secs(30);

/// Delays every rejection for ever, if the connection lets it.
#[derive(Default)]
struct Delays {
    started: Notify,
}

impl RequestHandler for Delays {
    async fn handle(&self, _head: RequestHead, exchange: &mut impl Exchange) -> Result<Instant, Ended> {
        self.started.notify_one();
        exchange.delay_rejection(pending()).await?;
        Ok(exchange.respond(FullResponse::new(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "")))
    }

    fn record_rejection(&self, _status: StatusCode) {}
}

#[tokio::test]
async fn ov1_a_delayed_rejection_ends_when_the_client_sends_or_must_close() {
    let get = "GET / HTTP/1.1\r\nHost: g\r\n\r\n";
    check(get, async |client, _| client.write_all(get.as_bytes()).await.unwrap()).await;
    check(get, async |client, _| client.shutdown().await.unwrap()).await;
    check(get, async |_, stop| stop.cancel()).await;
    // Rejections of these are not delayed.
    check(&get.repeat(2), async |_, _| {}).await;
    check("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\n\r\n", async |_, _| {}).await;
}

async fn check(request: &str, then: impl AsyncFnOnce(&mut TcpStream, &CancellationToken)) {
    let (mut peer, stream) = pair().await;
    let stop = CancellationToken::new();
    let (config, holds) = (Config::default(), Delays::default());
    let client = TrackedClient::untracked(stop.clone());
    let asks = async {
        peer.write_all(request.as_bytes()).await.unwrap();
        holds.started.notified().await;
        then(&mut peer, &stop).await;
        let mut answer = [0; 12];
        peer.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503");
    };
    let serves = async {
        http1::run(stream, &config, &client, &holds).await;
        pending().await
    };
    tokio::select! {
        asked = timeout(PATIENCE, asks) => asked.expect("it is answered"),
        () = serves => unreachable!("the answered bytes may still have to be read"),
    }
}

/// Works on each request for a while, and answers at once.
struct Works {
    answered: AtomicUsize,
}

impl RequestHandler for Works {
    #[expect(clippy::disallowed_methods, reason = "it is to keep its thread busy")]
    async fn handle(&self, _head: RequestHead, exchange: &mut impl Exchange) -> Result<Instant, Ended> {
        std::thread::sleep(Duration::from_micros(50));
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(exchange.respond(FullResponse::new(StatusCode::OK, "text/plain", "")))
    }

    fn record_rejection(&self, _status: StatusCode) {}
}

#[tokio::test]
async fn ov11_others_are_served_while_a_client_asks_without_a_pause() {
    const REQUESTS: usize = 1000;
    let (client, stream) = pair().await;
    let (mut from, mut to) = client.into_split();
    let (config, works) = (Config::default(), Works { answered: AtomicUsize::new(0) });
    let client = TrackedClient::untracked(CancellationToken::new());
    // The next request has arrived before it is read.
    to.write_all("GET / HTTP/1.1\r\nHost: g\r\n\r\n".repeat(REQUESTS).as_bytes()).await.unwrap();
    let reads = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
    let yields = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&yields);
    let others = tokio::spawn(async move {
        loop {
            tokio::task::yield_now().await;
            counts.fetch_add(1, Ordering::Relaxed);
        }
    });
    let done = async {
        while works.answered.load(Ordering::Relaxed) < REQUESTS {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = timeout(PATIENCE, done).map(|done| done.expect("all are answered")) => {}
        _ = http1::run(stream, &config, &client, &works) => unreachable!("the client is there"),
    }
    assert!(yields.load(Ordering::Relaxed) >= REQUESTS / 10, "{yields:?} yields");
    others.abort();
    reads.abort();
}

async fn pair() -> (TcpStream, MaybeTlsStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, MaybeTlsStream::from(listener.accept().await.unwrap().0))
}
