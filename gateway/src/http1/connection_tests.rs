//! What a connection does for whoever answers its requests.

use std::future::pending;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::connection;
use super::head::Head;
use crate::config::Config;
use crate::exchange::{Answer, Ended, Exchange, Full};
use crate::seats::Seat;
use crate::stream::Stream;

const PATIENCE: Duration = Duration::from_secs(30);

/// Holds everybody back for ever, if they can be.
#[derive(Default)]
struct HoldsBack {
    begun: Notify,
}

impl Answer for HoldsBack {
    async fn answer(&self, _head: Head, exchange: &mut impl Exchange) -> Result<Instant, Ended> {
        self.begun.notify_one();
        exchange.hold_back(pending()).await?;
        Ok(exchange.respond(Full::new(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "")))
    }

    fn refused(&self, _status: StatusCode) {}
}

#[tokio::test]
async fn ov1_who_is_held_back_is_answered_when_it_says_anything_or_has_to_leave() {
    let get = "GET / HTTP/1.1\r\nHost: g\r\n\r\n";
    check(get, async |client, _| client.write_all(get.as_bytes()).await.unwrap()).await;
    check(get, async |client, _| client.shutdown().await.unwrap()).await;
    check(get, async |_, leave| leave.cancel()).await;
    // These are not held back at all.
    check(&get.repeat(2), async |_, _| {}).await;
    check("POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\n\r\n", async |_, _| {}).await;
}

async fn check(request: &str, then: impl AsyncFnOnce(&mut TcpStream, &CancellationToken)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = Stream::Plain(listener.accept().await.unwrap().0);
    let leave = CancellationToken::new();
    let (config, holds) = (Config::default(), HoldsBack::default());
    let seat = Seat::apart(leave.clone());
    let asks = async {
        client.write_all(request.as_bytes()).await.unwrap();
        holds.begun.notified().await;
        then(&mut client, &leave).await;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503");
    };
    let serves = async {
        connection::run(stream, &config, &seat, &holds).await;
        pending().await
    };
    tokio::select! {
        asked = timeout(PATIENCE, asks) => asked.expect("it is answered"),
        () = serves => unreachable!("what was answered may still have to be read"),
    }
}
