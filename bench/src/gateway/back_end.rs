//! The HTTP server behind the gateway and its competitors. It answers at once, echoes WebSockets,
//! and has a large response and a slow one.

use std::rc::Rc;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::BIG_BYTES;
use crate::http::{ANSWER, length_of};

/// How long the slow response takes.
const SLOW: Duration = Duration::from_millis(5);
const MAX_UNSENT_BYTES: u32 = 16 * 1024;

/// Prints its address, and serves for ever.
pub(crate) async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    // Shared, because many clients ask for it and do not read it.
    let big: Rc<[u8]> =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG_BYTES}\r\n\r\n{}", "x".repeat(BIG_BYTES)).into_bytes().into();
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        // Filling the system's buffers for clients that do not read would take the time of this
        // core.
        socket2::SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES).unwrap();
        let (answer, big) = (answer.clone(), Rc::clone(&big));
        tokio::task::spawn_local(async move {
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
                    if is_big && stream.write_all(&big).await.is_err() {
                        return;
                    } else if is_big {
                        continue;
                    }
                    if is_slow {
                        tokio::time::sleep(SLOW).await;
                    }
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// Whether this request line asks for `path`, below any prefix.
fn asks_for(line: &[u8], path: &str) -> bool {
    memmem::find(line, format!("{path} ").as_bytes()).is_some()
}

/// Accepts the upgrade, and then returns the bytes that it reads.
async fn echo(mut stream: TcpStream) {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let mut sent = stream.write_all(switch).await;
    let mut buffer = [0; 4096];
    while sent.is_ok()
        && let Ok(bytes @ 1..) = stream.read(&mut buffer).await
    {
        sent = stream.write_all(&buffer[..bytes]).await;
    }
}
