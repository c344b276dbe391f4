//! The HTTP server behind the gateway and its competitors. It answers at once, echoes WebSockets,
//! and has a large response and a slow one.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::BIG_BYTES;
use crate::http::{length_of, usual_response};

/// How long the slow response takes.
const SLOW_TIME: Duration = Duration::from_millis(5);
const MAX_UNSENT_BYTES: u32 = 16 * 1024;

/// Prints its address, and serves for ever; at a Unix socket, too, if there is a path for it.
pub(crate) async fn serve(socket: Option<&Path>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answers = Answers::new();
    if let Some(path) = socket {
        let (listener, answers) = (UnixListener::bind(path).unwrap(), answers.clone());
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(answers.clone().answer(stream));
            }
        });
    }
    println!("{}", listener.local_addr().unwrap());
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        // Filling the system's buffers for clients that do not read would take the time of this
        // core.
        socket2::SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES).unwrap();
        tokio::task::spawn_local(answers.clone().answer(stream));
    }
}

/// The responses.
#[derive(Clone)]
struct Answers {
    small: Rc<[u8]>,
    /// Shared, because many clients ask for it and do not read it.
    big: Rc<[u8]>,
}

impl Answers {
    fn new() -> Self {
        let big = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG_BYTES}\r\n\r\n{}", "x".repeat(BIG_BYTES));
        Self { small: usual_response().into_bytes().into(), big: big.into_bytes().into() }
    }

    /// Answers the requests of one connection.
    async fn answer(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = Vec::with_capacity(4096);
        while let Ok(1..) = stream.read_buf(&mut buffer).await {
            while let Some(end) = memmem::find(&buffer, b"\r\n\r\n") {
                if memmem::find(&buffer[..end].to_ascii_lowercase(), b"upgrade: websocket").is_some() {
                    return echo(stream).await;
                }
                let line = memmem::find(&buffer, b"\r\n").unwrap_or(end);
                let (is_big, is_slow) = (asks_for(&buffer[..line], "/big"), asks_for(&buffer[..line], "/slow"));
                // It answers when it has read the whole body, as most servers do.
                let body = length_of(&buffer[..end]);
                buffer.drain(..end + 4);
                while buffer.len() < body {
                    let Ok(1..) = stream.read_buf(&mut buffer).await else { return };
                }
                buffer.drain(..body);
                if is_slow {
                    tokio::time::sleep(SLOW_TIME).await;
                }
                let answer = if is_big { &self.big } else { &self.small };
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether this request line asks for `path`, below any prefix.
fn asks_for(line: &[u8], path: &str) -> bool {
    memmem::find(line, format!("{path} ").as_bytes()).is_some()
}

/// Accepts the upgrade, and then returns the bytes that it reads.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let mut sent = stream.write_all(switch).await;
    let mut buffer = [0; 4096];
    while sent.is_ok()
        && let Ok(bytes @ 1..) = stream.read(&mut buffer).await
    {
        sent = stream.write_all(&buffer[..bytes]).await;
    }
}
