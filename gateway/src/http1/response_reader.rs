//! The head of a server's response, taken only when it can be understood in one way. Pure.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;

use super::head_reader::HeadReader;
use crate::message::body::Framing;
use crate::message::fields::{Fields, tokens};
use crate::message::head::{MAX_FIELDS, content_length};
use crate::message::response_head::ResponseHead;

/// Finds responses in a buffer that grows.
#[derive(Debug, Default)]
pub(crate) struct ResponseReader {
    heads: HeadReader,
}

impl ResponseReader {
    /// Takes the next head off `buffer`; `None` until it is whole. `without_body`: of a response to
    /// HEAD.
    ///
    /// # Errors
    /// What is wrong with it, in words for a log.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut, without_body: bool) -> Result<Option<ResponseHead>, String> {
        match self.heads.whole(buffer) {
            Ok(Some(bytes)) => parse(bytes, without_body).map(Some).map_err(str::to_owned),
            Ok(None) => Ok(None),
            Err(problem) => Err(problem.detail),
        }
    }
}

fn parse(bytes: Box<[u8]>, without_body: bool) -> Result<ResponseHead, &'static str> {
    let mut headers = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut response, &bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err("the head does not end where it seems to"),
        Err(httparse::Error::TooManyHeaders) => return Err("too many header fields"),
        Err(_) => return Err("the head is no HTTP"),
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("the status is no number")?;
    let is_1_1 = response.version == Some(1);
    let (mut length, mut chunked, mut keep_alive, mut keep_for) = (None, false, is_1_1, None);
    for header in &*response.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let bytes = content_length(header.value).map_err(|_| "Content-Length is no number")?;
            if length.replace(bytes).is_some() {
                return Err("Content-Length stands twice");
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                return Err("the Transfer-Encoding is another than chunked");
            }
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("keep-alive") {
            keep_for = tokens(header.value).find_map(timeout);
        } else if header.name.eq_ignore_ascii_case("connection") {
            for token in tokens(header.value) {
                keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                if token.eq_ignore_ascii_case(b"close") {
                    keep_alive = false;
                    break;
                }
            }
        }
    }
    // RFC 9112, 6.3.
    let has_none = without_body || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let framing = match (length, chunked) {
        (Some(_), true) => return Err("Content-Length and Transfer-Encoding"),
        (_, true) if !is_1_1 => return Err("HTTP/1.0 has no Transfer-Encoding"),
        _ if has_none => Framing::Empty,
        (None, true) => Framing::Chunked,
        (Some(0), false) => Framing::Empty,
        (Some(bytes), false) => Framing::Length(bytes),
        (None, false) => Framing::Close,
    };
    let keep_alive = keep_alive && framing != Framing::Close;
    let spans = Fields::spans(&bytes, response.headers);
    Ok(ResponseHead { status, fields: Fields::new(bytes, spans), framing, keep_alive, keep_for })
}

/// `timeout=5`, as Node.js and Apache say in `Keep-Alive`: in seconds.
fn timeout(token: &[u8]) -> Option<Duration> {
    let (name, value) = std::str::from_utf8(token).ok()?.split_once('=')?;
    let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
    value.trim().parse().ok().filter(|_| is_timeout).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_say_for_how_long_they_keep_a_connection() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout = 72", Some(72)),
            ("timeout=0", Some(0)),
            ("timeout=-1", None),
            ("timeout", None),
            ("5", None),
        ] {
            let text = format!("HTTP/1.1 204 No Content\r\nKeep-Alive: {value}\r\n\r\n");
            let head = ResponseReader::default().next(&mut BytesMut::from(text.as_bytes()), false).unwrap().unwrap();
            assert_eq!(head.keep_for.map(|time| time.as_secs()), seconds, "{value}");
        }
    }

    #[track_caller]
    fn check(line: &str, fields: &str, without_body: bool, expected: Result<(Framing, bool), &str>) {
        let text = format!("{line}\r\n{fields}\r\n");
        let seen = ResponseReader::default().next(&mut BytesMut::from(text.as_bytes()), without_body);
        let seen = seen.map(|head| head.expect("it is whole")).map(|head| (head.framing, head.keep_alive));
        match (seen, expected) {
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (seen, expected) => assert_eq!(seen, expected.map_err(str::to_owned), "{text}"),
        }
    }

    #[test]
    fn gu18_responses_end_in_one_place_only() {
        let ok = "HTTP/1.1 200 OK";
        check(ok, "Content-Length: 3\r\n", false, Ok((Framing::Length(3), true)));
        check(ok, "Content-Length: 3\r\n", true, Ok((Framing::Empty, true)));
        check(ok, "Transfer-Encoding: chunked\r\n", false, Ok((Framing::Chunked, true)));
        check(ok, "", false, Ok((Framing::Close, false)));
        check(ok, "Connection: close\r\nContent-Length: 0\r\n", false, Ok((Framing::Empty, false)));
        check("HTTP/1.0 200 OK", "Content-Length: 3\r\n", false, Ok((Framing::Length(3), false)));
        check(
            "HTTP/1.0 200 OK",
            "Connection: Keep-Alive\r\nContent-Length: 3\r\n",
            false,
            Ok((Framing::Length(3), true)),
        );
        for status in
            ["HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.1 100 Continue", "HTTP/1.1 101 x"]
        {
            check(status, "", false, Ok((Framing::Empty, true)));
        }
        check(ok, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", false, Err("Content-Length and"));
        check(ok, "Content-Length: 3\r\nContent-Length: 3\r\n", false, Err("stands twice"));
        check(ok, "Content-Length: 3, 3\r\n", false, Err("no number"));
        check(ok, "Transfer-Encoding: gzip, chunked\r\n", false, Err("another than chunked"));
        check("HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n", false, Err("HTTP/1.0"));
        check(ok, "X: a\0b\r\n", false, Err("no HTTP"));
        check(ok, "X: a\rb\r\n", false, Err("no HTTP"));
        check(ok, "X: a\nY: b\r\n", false, Err("LF alone"));
        check(ok, &"X: y\r\n".repeat(20_000), false, Err("more than 65536 bytes"));
        check(ok, &"X: y\r\n".repeat(101), false, Err("too many"));
        check(ok, &format!("X: {}\r\n", "x".repeat(70_000)), false, Err("more than 65536 bytes"));
        check("HTTP/2 200", "", false, Err("no HTTP"));
        check("HTTP/1.1 99 x", "", false, Err("no HTTP"));
    }
}
