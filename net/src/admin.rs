//! Pages for operators, over HTTP/1, at an address of their own.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::{Acceptor, set_socket_options};

/// Admin connections at a time. When one more comes, the oldest is closed: requests are answered at
/// once, so the oldest is idle or does not read.
const MAX_CLIENTS: usize = 8;
/// How long a request may take, from its connection to the end of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request. A browser sends less than a quarter of that.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// A page for operators, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminPage {
    /// The status line of HTTP, such as `200 OK`.
    pub status: &'static str,
    /// The text of the page. Metrics are in Prometheus' text format 0.0.4.
    pub text: String,
}

impl AdminPage {
    /// A page that is there.
    pub fn ok(text: impl Into<String>) -> Self {
        Self { status: "200 OK", text: text.into() }
    }

    /// The answer of a process that does not do its work now; `why` is a line.
    pub fn unavailable(why: &str) -> Self {
        Self { status: "503 Service Unavailable", text: format!("{why}\n") }
    }
}

/// Answers requests with the pages of `page`, by their path, until it is dropped. Each connection
/// carries one request and is then closed. `paths` are named to those who ask for another one.
/// Waits for no client: there are 8 at a time, and each has 5 s.
pub async fn serve_admin(
    listener: TcpListener,
    paths: &'static str,
    page: impl Fn(&str) -> Option<AdminPage> + Send + Sync + 'static,
) {
    let mut acceptor = Acceptor::new(listener);
    let mut clients = JoinSet::new();
    // The clients, in the order in which they came.
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    let page = Arc::new(page);
    loop {
        tokio::select! {
            (socket, _) = acceptor.accept() => {
                set_socket_options(&socket);
                let Some(stream) = socket.into_tcp() else { continue };
                order.retain(|client| !client.is_finished());
                if order.len() >= MAX_CLIENTS && let Some(first) = order.pop_front() {
                    first.abort();
                }
                let page = Arc::clone(&page);
                order.push_back(clients.spawn(async move {
                    // An admin client that is slow or disconnects does no harm, so its error is not
                    // logged.
                    let _ = timeout(REQUEST_TIMEOUT, converse(stream, paths, &*page)).await;
                }));
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn converse(
    mut stream: TcpStream,
    paths: &str,
    page: &(impl Fn(&str) -> Option<AdminPage> + Sync),
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES {
            let text = "the head of the request is too large\n".to_owned();
            return answer(&mut stream, &AdminPage { status: "431 Request Header Fields Too Large", text }, true).await;
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let found = |target: &str| {
        let found = page(target.split('?').next().unwrap_or_default());
        found.unwrap_or_else(|| AdminPage { status: "404 Not Found", text: format!("not found; try {paths}\n") })
    };
    let refused = |status, text: &str| AdminPage { status, text: text.to_owned() };
    let (page, with_body) = match request(&head) {
        None => (refused("400 Bad Request", "this is not an HTTP/1 request\n"), true),
        Some(("GET", target)) => (found(target), true),
        Some(("HEAD", target)) => (found(target), false),
        Some(_) => (refused("405 Method Not Allowed", "only GET is allowed here\n"), true),
    };
    answer(&mut stream, &page, with_body).await
}

/// The method and the target of a request.
fn request(head: &[u8]) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    (words.next().is_none() && !target.is_empty() && version.starts_with("HTTP/1.")).then_some((method, target))
}

async fn answer(stream: &mut TcpStream, AdminPage { status, text }: &AdminPage, with_body: bool) -> io::Result<()> {
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    let body = if with_body { text } else { "" };
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
