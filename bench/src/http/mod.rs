//! The HTTP of the gateway's scenes and of the attacks: servers, clients, and the response that all
//! of them expect.
//!
//! It must not import a scene: `gateway` and `attacks` share it.

pub(crate) mod edge_server;
pub(crate) mod open_loop;

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The body of every usual response.
pub(crate) const ANSWER: &str = r#"{"id":42,"name":"widget","price":9.5,"tags":"a,b"}"#;

/// The usual response, whole.
pub(crate) fn usual_response() -> String {
    let length = ANSWER.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{ANSWER}")
}

/// Sends one request. Returns whether the response is the expected one.
pub(crate) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> bool {
    buffer.clear();
    stream.write_all(request).await.unwrap();
    // A TLS stream may hold the request back otherwise.
    stream.flush().await.unwrap();
    loop {
        let Ok(1..) = stream.read_buf(buffer).await else { return false };
        if is_whole(buffer) {
            return is_answer(buffer);
        }
    }
}

/// Whether these bytes are a whole HTTP response, or a whole packet.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"{") {
        return bytes.ends_with("¶".as_bytes());
    }
    let Some(head) = memmem::find(bytes, b"\r\n\r\n") else { return false };
    bytes.len() >= head + 4 + length_of(&bytes[..head])
}

/// The length of the body that follows this head.
pub(crate) fn length_of(head: &[u8]) -> usize {
    memmem::find(&head.to_ascii_lowercase(), b"content-length: ").map_or(0, |at| {
        let digits: String =
            head[at + 16..].iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    })
}

/// Whether these bytes are the expected response.
pub(crate) fn is_answer(bytes: &[u8]) -> bool {
    let is_good = bytes.starts_with(b"HTTP/1.1 200 ") && bytes.ends_with(ANSWER.as_bytes());
    is_good || bytes.starts_with(b"{") && memmem::find(bytes, ANSWER.as_bytes()).is_some()
}
