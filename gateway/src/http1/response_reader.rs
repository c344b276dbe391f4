//! The head of a server's response: read as liberally as HTTP allows, and refused when it could be
//! understood in two ways. Pure.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;

use super::head_reader::HeadReader;
use crate::message::body::Framing;
use crate::message::fields::{Fields, tokens};
use crate::message::head::{MAX_FIELDS, content_length};
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::ResponseHead;

/// Finds responses in a buffer that grows.
#[derive(Debug)]
pub(crate) struct ResponseReader {
    heads: HeadReader,
}

impl Default for ResponseReader {
    fn default() -> Self {
        Self { heads: HeadReader::liberal() }
    }
}

impl ResponseReader {
    /// Takes the next head from `buffer`; `None` until it is complete. With `without_body`, it is
    /// that of the response to HEAD.
    ///
    /// # Errors
    /// What is wrong with the head, for the log.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut, without_body: bool) -> Result<Option<ResponseHead>, String> {
        match self.heads.whole(buffer) {
            Ok(Some(bytes)) => parse(bytes, without_body).map(Some).map_err(str::to_owned),
            Ok(None) => Ok(None),
            // These texts speak of requests.
            Err(problem) if problem.kind == ProblemKind::BAD_REQUEST_LINE => {
                Err("it does not begin as HTTP does".to_owned())
            }
            Err(problem) if problem.kind == ProblemKind::TARGET_TOO_LONG => Err("its first line has no end".to_owned()),
            Err(problem) => Err(problem.detail),
        }
    }
}

fn parse(bytes: Box<[u8]>, without_body: bool) -> Result<ResponseHead, &'static str> {
    let mut headers = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    // The name is passed on without the spaces (RFC 9112, 5.1).
    parser.allow_spaces_after_header_name_in_responses(true);
    parser.allow_multiple_spaces_in_response_status_delimiters(true);
    match parser.parse_response_with_uninit_headers(&mut response, &bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err("the head does not end where it seems to"),
        Err(httparse::Error::TooManyHeaders) => return Err("too many header fields"),
        Err(_) => return Err("the head is not HTTP"),
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("the status is not a number")?;
    let is_1_1 = response.version == Some(1);
    let (mut length, mut chunked, mut keep_alive, mut keep_for) = (None, false, is_1_1, None);
    let mut closes = false;
    for header in &*response.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Some(same_length(length, header.value)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            // Old servers say that there is none (RFC 2616, 3.6).
            let is_none = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"identity");
            for coding in tokens(header.value).filter(|coding| !is_none(coding)) {
                if std::mem::replace(&mut chunked, true) || !coding.eq_ignore_ascii_case(b"chunked") {
                    return Err("the Transfer-Encoding is not chunked");
                }
            }
        } else if header.name.eq_ignore_ascii_case("keep-alive") {
            keep_for = tokens(header.value).find_map(timeout);
        } else if header.name.eq_ignore_ascii_case("connection") {
            for token in tokens(header.value) {
                keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                closes |= token.eq_ignore_ascii_case(b"close");
            }
        }
    }
    // RFC 9112, 6.3.
    let has_none = without_body || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let framing = match (length, chunked) {
        (Some(_), true) => return Err("both Content-Length and Transfer-Encoding are given"),
        _ if has_none => Framing::Empty,
        (None, true) => Framing::Chunked,
        (Some(0), false) => Framing::Empty,
        (Some(bytes), false) => Framing::Length(bytes),
        (None, false) => Framing::Close,
    };
    // A body may follow where there must be none; what HTTP/1.0 means by chunks is not sure.
    let is_doubtful = match status.as_u16() {
        204 => chunked || length.is_some_and(|length| length > 0),
        _ => chunked && !is_1_1,
    };
    let keep_alive = keep_alive && !closes && framing != Framing::Close && !is_doubtful;
    let spans = Fields::spans(&bytes, response.headers);
    Ok(ResponseHead { status, fields: Fields::new(bytes, spans), framing, keep_alive, keep_for })
}

/// The length that `Content-Length` gives, as often as it likes, if it is the same as `before` (RFC
/// 9110, 8.6).
fn same_length(before: Option<u64>, value: &[u8]) -> Result<u64, &'static str> {
    let mut length = before;
    for token in tokens(value) {
        let bytes = content_length(token).map_err(|_| "Content-Length is not a number")?;
        if length.replace(bytes).is_some_and(|before| before != bytes) {
            return Err("Content-Length has two values");
        }
    }
    length.ok_or("Content-Length is not a number")
}

/// Reads `timeout=5`, in seconds, which Node.js and Apache send in `Keep-Alive`.
fn timeout(token: &[u8]) -> Option<Duration> {
    let (name, value) = std::str::from_utf8(token).ok()?.split_once('=')?;
    let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
    value.trim().parse().ok().filter(|_| is_timeout).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_state_how_long_they_keep_a_connection() {
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

    /// A whole head in any form: how its body ends, whether its connection stays, and its fields.
    #[track_caller]
    fn check_head(text: &str, expected: (Framing, bool), fields: &[(&str, &str)]) {
        let mut reader = ResponseReader::default();
        let (mut buffer, mut bytes) = (BytesMut::new(), text.bytes());
        let head = loop {
            buffer.extend_from_slice(&[bytes.next().expect("it is whole")]);
            match reader.next(&mut buffer, false) {
                Ok(None) => {}
                Ok(Some(head)) => break head,
                Err(why) => panic!("{text:?}: {why}"),
            }
        };
        assert_eq!((head.framing, head.keep_alive, bytes.count()), (expected.0, expected.1, 0), "{text:?}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let seen: Vec<_> = head.fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(seen, fields);
    }

    #[test]
    fn a15_responses_are_read_as_liberally_as_http_allows() {
        const THREE: (Framing, bool) = (Framing::Length(3), true);
        let length = ("Content-Length", "3");
        check_head("HTTP/1.1 200 OK\nContent-Length: 3\n\n", THREE, &[length]);
        check_head("HTTP/1.1 200 OK\r\nContent-Length: 3\n\r\n", THREE, &[length]);
        check_head("\nHTTP/1.1 200 OK\nContent-Length: 3\r\n\n", THREE, &[length]);
        check_head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", THREE, &[length, length]);
        check_head("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n", THREE, &[("Content-Length", "3, 3")]);
        check_head("HTTP/1.1 200 OK\r\nContent-Length \t:\t 3 \r\n\r\n", THREE, &[length]);
        for line in ["200", "200 ", "200 Alles \u{e9} gut", "  200  OK"] {
            check_head(&format!("HTTP/1.1 {line}\r\nContent-Length: 3\r\n\r\n"), THREE, &[length]);
        }
        // Folded lines are one.
        let folded = [("X-A", "b  c"), length];
        check_head("HTTP/1.1 200 OK\nX-A: b\n c\nContent-Length: 3\n\n", THREE, &folded);
        let folded = [("X-A", "b   \tc    d"), length];
        check_head("HTTP/1.1 200 OK\r\nX-A: b \r\n\tc\r\n  d\r\nContent-Length: 3\r\n\r\n", THREE, &folded);
        let chunked = (Framing::Chunked, true);
        check_head(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked,\r\n\r\n",
            chunked,
            &[("Transfer-Encoding", "Chunked,")],
        );
        let none = ("Transfer-Encoding", "identity");
        check_head(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\n",
            THREE,
            &[none, length],
        );
        let chunked = [("Transfer-Encoding", "chunked")];
        // Its connection is not used again.
        let once = (Framing::Chunked, false);
        check_head("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", once, &chunked);
        let once = (Framing::Empty, false);
        check_head("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", once, &[length]);
        check_head("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", once, &chunked);
        check_head("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", (Framing::Empty, true), &[length]);
    }

    #[test]
    fn gu18_responses_end_in_one_place_only() {
        let ok = "HTTP/1.1 200 OK";
        check(ok, "Content-Length: 3\r\n", false, Ok((Framing::Length(3), true)));
        check(ok, "Content-Length: 3\r\n", true, Ok((Framing::Empty, true)));
        check(ok, "Transfer-Encoding: chunked\r\n", false, Ok((Framing::Chunked, true)));
        check(ok, "", false, Ok((Framing::Close, false)));
        check(ok, "Connection: close\r\nContent-Length: 0\r\n", false, Ok((Framing::Empty, false)));
        let says_both = "Connection: close\r\nConnection: keep-alive\r\nContent-Length: 0\r\n";
        check(ok, says_both, false, Ok((Framing::Empty, false)));
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
        check(ok, "Content-Length: 3\r\nContent-Length: 4\r\n", false, Err("two values"));
        check(ok, "Content-Length: 3, 4\r\n", false, Err("two values"));
        for length in ["", ",", "+3", "-3", "0x3", "3 3", "3;", "9223372036854775808"] {
            check(ok, &format!("Content-Length: {length}\r\n"), false, Err("not a number"));
        }
        check(ok, "Transfer-Encoding: gzip, chunked\r\n", false, Err("is not chunked"));
        check(ok, "Transfer-Encoding: chunked, chunked\r\n", false, Err("is not chunked"));
        check(ok, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", false, Err("is not chunked"));
        check(ok, "X: a\0b\r\n", false, Err("not HTTP"));
        check(ok, "X: a\rb\r\n", false, Err("not HTTP"));
        check(ok, "X Y: a\r\n", false, Err("not HTTP"));
        check(ok, "X\r\n", false, Err("not HTTP"));
        check(ok, " X: a\r\n", false, Err("not HTTP"));
        check(ok, &"X: y\r\n".repeat(20_000), false, Err("more than 65536 bytes"));
        check(ok, &"X: y\r\n".repeat(101), false, Err("too many"));
        check(ok, &format!("X: {}\r\n", "x".repeat(70_000)), false, Err("more than 65536 bytes"));
        check("HTTP/2 200", "", false, Err("not HTTP"));
        check("HTTP/1.1 99 x", "", false, Err("not HTTP"));
    }
}
