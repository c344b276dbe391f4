//! Answers `/health` and `/metrics`, on an address of its own.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use net::{Acceptor, set_socket_options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::shell::metrics;
use crate::shell::shared::Shared;

/// Admin connections at a time. When one more comes, the oldest is closed: requests are answered at
/// once, so the oldest is idle or does not read.
const MAX_CLIENTS: usize = 8;
/// How long a request may take, from its connection to the end of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request. A browser sends less than a quarter of that.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// Answers until it is dropped, also while the Distributor stops. Each connection carries one
/// request and is then closed.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut acceptor = Acceptor::new(listener);
    let mut clients = JoinSet::new();
    // The clients, in the order in which they came.
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            (socket, _) = acceptor.accept() => {
                set_socket_options(&socket);
                let Some(stream) = socket.into_tcp() else { continue };
                order.retain(|client| !client.is_finished());
                if order.len() >= MAX_CLIENTS && let Some(first) = order.pop_front() {
                    first.abort();
                }
                let shared = Arc::clone(&shared);
                order.push_back(clients.spawn(async move {
                    // An admin client that is slow or disconnects does no harm, so its error is not
                    // logged.
                    let _ = timeout(REQUEST_TIMEOUT, converse(stream, &shared)).await;
                }));
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES {
            return answer(
                &mut stream,
                "431 Request Header Fields Too Large",
                "the head of the request is too large\n",
                true,
            )
            .await;
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body, with_body) = match request(&head) {
        None => ("400 Bad Request", "this is not an HTTP/1 request\n".to_owned(), true),
        Some(("GET", target)) => found(target, shared, true),
        Some(("HEAD", target)) => found(target, shared, false),
        Some(_) => ("405 Method Not Allowed", "only GET is allowed here\n".to_owned(), true),
    };
    answer(&mut stream, status, &body, with_body).await
}

/// The method and the target of a request.
fn request(head: &[u8]) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    (words.next().is_none() && !target.is_empty() && version.starts_with("HTTP/1.")).then_some((method, target))
}

fn found(target: &str, shared: &Shared, with_body: bool) -> (&'static str, String, bool) {
    let (status, body) = match target.split('?').next().unwrap_or_default() {
        "/health" => ("200 OK", "alive\n".to_owned()),
        "/metrics" => ("200 OK", metrics::text(&shared.figures())),
        _ => ("404 Not Found", "not found; try /health or /metrics\n".to_owned()),
    };
    (status, body, with_body)
}

async fn answer(stream: &mut TcpStream, status: &str, body: &str, with_body: bool) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    let body = if with_body { body } else { "" };
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with unread bytes would reset the connection, and the answer would be lost.
    let mut scrap = [0; 256];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_line_of_three_words() {
        #[track_caller]
        fn check(head: &str, expected: Option<(&str, &str)>) {
            assert_eq!(request(head.as_bytes()), expected, "{head:?}");
        }
        check("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(("GET", "/metrics")));
        check("HEAD /health?x HTTP/1.0\r\n\r\n", Some(("HEAD", "/health?x")));
        for head in [
            "\r\n\r\n",
            "GET /metrics\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET  HTTP/1.1\r\n\r\n",
        ] {
            check(head, None);
        }
    }
}
