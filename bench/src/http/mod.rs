//! HTTP as the scenes of gateways share it: servers at the edge, clients, and the answer that all
//! of them expect.

pub(crate) mod edge_server;
pub(crate) mod open_loop;

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What every back end answers.
pub(crate) const ANSWER: &str = r#"{"id":42,"name":"widget","price":9.5,"tags":"a,b"}"#;

/// One request; whether the answer is the right one.
pub(crate) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> bool {
    buffer.clear();
    stream.write_all(request).await.unwrap();
    // A TLS session may hold it back when its task has done much already.
    stream.flush().await.unwrap();
    loop {
        let Ok(1..) = stream.read_buf(buffer).await else { return false };
        if is_whole(buffer) {
            return is_answer(buffer);
        }
    }
}

/// Whether a response has as many bytes as it says, or a packet its end.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"{") {
        return bytes.ends_with("¶".as_bytes());
    }
    let Some(head) = memmem::find(bytes, b"\r\n\r\n") else { return false };
    bytes.len() >= head + 4 + length_of(&bytes[..head])
}

/// Of the body that follows this head.
pub(crate) fn length_of(head: &[u8]) -> usize {
    memmem::find(&head.to_ascii_lowercase(), b"content-length: ").map_or(0, |at| {
        let digits: String =
            head[at + 16..].iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    })
}

/// The whole of a right answer.
pub(crate) fn is_answer(bytes: &[u8]) -> bool {
    let is_good = bytes.starts_with(b"HTTP/1.1 200 ") && bytes.ends_with(ANSWER.as_bytes());
    is_good || bytes.starts_with(b"{") && memmem::find(bytes, ANSWER.as_bytes()).is_some()
}
