//! The head of a request, accepted only when it has a single meaning. Pure.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use memchr::{memchr, memchr_iter};

use super::line_ends::LineEnds;
use crate::message::body::Framing;
use crate::message::fields::{Fields, Span, tokens};
use crate::message::head::{
    HeadParts, MAX_FIELDS, MAX_TARGET_BYTES, RequestHead, bad, check_expectation, check_method, content_length,
    target_too_long, too_large,
};
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;

/// Maximum bytes of a head. Larger heads are attacks, or cookies that no service wants.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Finds the end of heads in a buffer that grows.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    /// Bytes that have been searched.
    searched: usize,
    /// The start of the incomplete line.
    line: usize,
    /// Whether an empty line has been skipped.
    has_skipped: bool,
    /// Whether a line begins with a space: it continues the field before it.
    is_folded: bool,
    line_ends: LineEnds,
}

impl HeadReader {
    /// A reader of response heads, whose lines may end with LF alone, and whose fields may be
    /// folded.
    pub(crate) fn liberal() -> Self {
        Self { line_ends: LineEnds::Liberal, ..Self::default() }
    }

    /// Takes the next head from `buffer`; `None` until it is complete.
    ///
    /// # Errors
    /// The problem to answer with. Later bytes of the connection cannot be understood.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<RequestHead>, Problem> {
        self.whole(buffer)?.map(parse).transpose()
    }

    /// As [`next`](Self::next), for a head of any kind.
    pub(crate) fn whole(&mut self, buffer: &mut BytesMut) -> Result<Option<Box<[u8]>>, Problem> {
        // The start of the head: one empty line before its first line is skipped (RFC 9112, 2.2).
        let mut start = 0;
        for at in memchr_iter(b'\n', &buffer[self.searched..]) {
            let end = self.searched + at;
            let Some(text_end) = self.line_ends.text_end(buffer, self.line, end) else {
                return Err(bad(ProblemKind::BARE_LINE_FEED, "lines must end with CR and LF, not with LF alone"));
            };
            // An empty line ends the head.
            if text_end == self.line && self.line > start {
                if end + 1 - start > MAX_HEAD_BYTES {
                    return Err(too_large(format!("the head has more than {MAX_HEAD_BYTES} bytes")));
                }
                // A copy: a part of the buffer would keep all of it alive while the request lasts.
                let mut head: Box<[u8]> = Box::from(&buffer[start..=end]);
                if self.is_folded && self.line_ends == LineEnds::Liberal {
                    unfold(&mut head);
                }
                buffer.advance(end + 1);
                *self = Self { line_ends: self.line_ends, ..Self::default() };
                return Ok(Some(head));
            }
            if text_end == self.line {
                if std::mem::replace(&mut self.has_skipped, true) {
                    return Err(bad(
                        ProblemKind::BAD_REQUEST_LINE,
                        "a request must begin with a method, not with empty lines",
                    ));
                }
                start = end + 1;
            }
            self.is_folded |= matches!(buffer[self.line], b' ' | b'\t');
            self.line = end + 1;
        }
        buffer.advance(start);
        self.line -= start;
        self.searched = buffer.len();
        if self.line == 0 && self.searched > MAX_TARGET_BYTES {
            return Err(target_too_long());
        }
        if self.searched > MAX_HEAD_BYTES {
            return Err(too_large(format!("the head of the request has more than {MAX_HEAD_BYTES} bytes")));
        }
        // Bytes that are not HTTP at all are refused without waiting for more.
        if let Some(first) = buffer.first()
            && !first.is_ascii_uppercase()
            && *first != b'\r'
        {
            return Err(bad(ProblemKind::BAD_REQUEST_LINE, "a request must begin with a method in capital letters"));
        }
        Ok(None)
    }

    /// Whether a head has begun and is incomplete.
    pub(crate) fn has_begun(&self) -> bool {
        self.searched > 0
    }
}

/// Joins the lines of folded fields: their line ends become spaces (RFC 9112, 5.2). A folded first
/// line stays one that cannot be read.
fn unfold(head: &mut [u8]) {
    let (mut from, mut is_first) = (0, true);
    while let Some(at) = memchr(b'\n', &head[from..]) {
        let end = from + at;
        if !std::mem::replace(&mut is_first, false) && matches!(head.get(end + 1), Some(b' ' | b'\t')) {
            head[end] = b' ';
            if head[end - 1] == b'\r' {
                head[end - 1] = b' ';
            }
        }
        from = end + 1;
    }
}

fn parse(bytes: Box<[u8]>) -> Result<RequestHead, Problem> {
    let mut headers = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(bad(ProblemKind::BAD_HEAD, "the head does not end where it seems to")),
        Err(error) => return Err(refuse(error, &bytes)),
    }
    let span = |part: &[u8]| Span::within(part, &bytes);
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    if target.len() > MAX_TARGET_BYTES {
        return Err(target_too_long());
    }
    check_method(method)?;
    let is_1_1 = request.version == Some(1);
    let mut summary = FieldSummary { keep_alive: is_1_1, ..FieldSummary::default() };
    for header in &*request.headers {
        summary.read_field(header.name, header.value, is_1_1)?;
    }
    let host = summary.host.map(span);
    if summary.hosts != 1 && (is_1_1 || summary.hosts > 1) {
        let detail = format!("a request must have one Host header; this one has {}", summary.hosts);
        return Err(bad(ProblemKind::BAD_HOST, &detail));
    }
    let framing = match (summary.length, summary.chunked) {
        (Some(_), true) => {
            return Err(bad(
                ProblemKind::BAD_FRAMING,
                "a request must not have both Content-Length and Transfer-Encoding",
            ));
        }
        (_, true) if !is_1_1 => return Err(bad(ProblemKind::BAD_FRAMING, "HTTP/1.0 has no Transfer-Encoding")),
        (None, true) => Framing::Chunked,
        (None | Some(0), false) => Framing::Empty,
        (Some(length), false) => Framing::Length(length),
    };
    let (method, target) = (span(method.as_bytes()), span(target.as_bytes()));
    let spans = Fields::spans(&bytes, request.headers);
    let FieldSummary { keep_alive, close, expects_continue, upgrade, websocket, .. } = summary;
    let parts = HeadParts {
        method,
        target,
        host,
        is_1_1,
        framing,
        keep_alive: keep_alive && !close,
        expects_continue: expects_continue && is_1_1,
        upgrades: upgrade && websocket && is_1_1 && framing == Framing::Empty,
    };
    RequestHead::new(Fields::new(bytes, spans), parts)
}

/// The fields' statements about the message itself.
#[derive(Default)]
struct FieldSummary<'a> {
    hosts: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    keep_alive: bool,
    close: bool,
    upgrade: bool,
    websocket: bool,
    expects_continue: bool,
}

impl<'a> FieldSummary<'a> {
    fn read_field(&mut self, name: &str, value: &'a [u8], is_1_1: bool) -> Result<(), Problem> {
        // Most names already differ in length.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                self.hosts += 1;
                self.host = Some(value);
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                check_expectation(value)?;
                self.expects_continue = true;
            }
            7 if name.eq_ignore_ascii_case("upgrade") => {
                self.websocket |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"websocket"));
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for token in tokens(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= !is_1_1 && token.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => return self.read_length(value),
            17 if name.eq_ignore_ascii_case("transfer-encoding") => return self.read_coding(value),
            _ => {}
        }
        Ok(())
    }

    fn read_length(&mut self, value: &[u8]) -> Result<(), Problem> {
        match self.length.replace(content_length(value)?) {
            None => Ok(()),
            Some(_) => Err(bad(ProblemKind::BAD_FRAMING, "a request must have at most one Content-Length")),
        }
    }

    fn read_coding(&mut self, value: &[u8]) -> Result<(), Problem> {
        let is_second = std::mem::replace(&mut self.chunked, true);
        if is_second || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(bad(ProblemKind::BAD_FRAMING, "the only supported Transfer-Encoding is chunked, once"));
        }
        Ok(())
    }
}

fn refuse(error: httparse::Error, bytes: &[u8]) -> Problem {
    match error {
        httparse::Error::TooManyHeaders => too_large(format!("a request must have at most {MAX_FIELDS} header fields")),
        httparse::Error::Version => {
            let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            let is_version = version.strip_prefix(b"HTTP/").is_some_and(
                |rest| matches!(rest, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit()),
            );
            if is_version {
                let detail = "speak HTTP/1.1 here";
                return Problem::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, ProblemKind::HTTP_VERSION, detail);
            }
            bad(ProblemKind::BAD_REQUEST_LINE, "a request line is METHOD /path HTTP/1.1")
        }
        httparse::Error::HeaderName => {
            bad(ProblemKind::BAD_FIELD, "the name of a header field is invalid, or the field is folded")
        }
        httparse::Error::HeaderValue | httparse::Error::NewLine => {
            bad(ProblemKind::BAD_FIELD, "a line contains a character that is not allowed")
        }
        _ => bad(ProblemKind::BAD_REQUEST_LINE, "a request line is METHOD /path HTTP/1.1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<RequestHead>, Problem> {
        HeadReader::default().next(&mut BytesMut::from(bytes))
    }

    /// Checks a request with these `fields`: the problem's status and word, or how the body ends.
    #[track_caller]
    fn check(fields: &str, expected: Result<Framing, (u16, &str)>) {
        let text = format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        check_raw(text.as_bytes(), expected);
    }

    #[track_caller]
    fn check_raw(bytes: &[u8], expected: Result<Framing, (u16, &str)>) {
        let seen = read(bytes);
        let seen = seen.map(|head| head.expect("it is whole").framing);
        let seen = seen.as_ref().map_err(|problem| (problem.status.as_u16(), problem.kind.as_str()));
        assert_eq!(
            seen,
            expected.as_ref().copied().map_err(|error| *error).as_ref().map_err(|error| *error),
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
        // The result is the same however the bytes arrive.
        let mut reader = HeadReader::default();
        let mut buffer = BytesMut::new();
        let mut by_bytes = Ok(None);
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            by_bytes = reader.next(&mut buffer);
            if !matches!(by_bytes, Ok(None)) {
                break;
            }
        }
        let by_bytes = by_bytes.map(|head| head.map(|head| head.framing));
        let by_bytes = by_bytes.map_err(|problem| problem.status.as_u16());
        assert_eq!(by_bytes, expected.map(Some).map_err(|(status, _)| status), "byte by byte");
    }

    const BAD: Result<Framing, (u16, &str)> = Err((400, "bad_framing"));

    #[test]
    fn gh1_a_body_ends_in_one_place_only() {
        check("", Ok(Framing::Empty));
        check("Content-Length: 0\r\n", Ok(Framing::Empty));
        check("Content-Length: 9223372036854775807\r\n", Ok(Framing::Length(i64::MAX as u64)));
        check("content-length:  2  \r\n", Ok(Framing::Length(2)));
        check("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked));
        check("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", BAD);
        check("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", BAD);
        for twice in ["Content-Length: 2\r\nContent-Length: 2\r\n", "Content-Length: 2\r\nContent-Length: 3\r\n"] {
            check(twice, BAD);
        }
        for length in [
            "2, 2",
            "+2",
            "-2",
            "",
            "0x2",
            "2 2",
            "18446744073709551618",
            "18446744073709551615",
            "9223372036854775808",
        ] {
            check(&format!("Content-Length: {length}\r\n"), BAD);
        }
        for coding in ["xchunked", "chunked, identity", "identity", "gzip, chunked", "chunked,", "", "\"chunked\""] {
            check(&format!("Transfer-Encoding: {coding}\r\n"), BAD);
        }
        check("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BAD);
        check_raw(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", BAD);
    }

    #[test]
    fn gh1_lines_and_fields_follow_the_rfc() {
        let (field, line_feed, line) =
            (Err((400, "bad_field")), Err((400, "bare_line_feed")), Err((400, "bad_request_line")));
        check("X: a\r\n b\r\n", field);
        check("X: a\r\n\tb\r\n", field);
        check("X : a\r\n", field);
        check(": a\r\n", field);
        check("X\r\n", field);
        check("X: a\rb\r\n", field);
        check("X: a\0b\r\n", field);
        check("X: a\nY: b\r\n", line_feed);
        check_raw(b"GET / HTTP/1.1\nHost: a\n\n", line_feed);
        check_raw(b"\n", line_feed);
        check_raw(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", line);
        check_raw(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Framing::Empty));
        check_raw("\r\n".repeat(100_000).as_bytes(), line);
        check_raw(b"get / HTTP/1.1\r\nHost: a\r\n\r\n", line);
        check_raw(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", line);
        check_raw(b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", field);
        check_raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", line);
        for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9"] {
            check_raw(format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes(), Err((505, "http_version")));
        }
        check("Expect: 200-ok\r\n", Err((417, "expectation_failed")));
    }

    #[test]
    fn gh1_a_request_has_one_host() {
        let host = Err((400, "bad_host"));
        check_raw(b"GET / HTTP/1.1\r\n\r\n", host);
        check_raw(b"GET / HTTP/1.0\r\n\r\n", Ok(Framing::Empty));
        check("Host: a\r\n", host);
        check_raw(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", host);
        check_raw(b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", host);
        check_raw(b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", host);
        check_raw(b"GET HTTP://A/x?y HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Framing::Empty));
        let target = Err((400, "bad_target"));
        for broken in ["http://a#x", "ftp://a/", "a", "*", "?x"] {
            check_raw(format!("GET {broken} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), target);
        }
        check_raw(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Framing::Empty));
        for method in ["TRACE", "CONNECT"] {
            check_raw(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), Err((405, "method_not_allowed")));
        }
        let head = read(b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.target(), head.host()), ("/x?y", Some("a")));
    }

    #[test]
    fn gh11_heads_have_limits() {
        let fields = |count: usize| "X: y\r\n".repeat(count - 1);
        check(&fields(100), Ok(Framing::Empty));
        check(&fields(101), Err((431, "head_too_large")));
        check(&format!("X: {}\r\n", "x".repeat(60 * 1024)), Ok(Framing::Empty));
        check(&format!("X: {}\r\n", "x".repeat(MAX_HEAD_BYTES)), Err((431, "head_too_large")));
        let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(bytes - 1));
        check_raw(target(MAX_TARGET_BYTES - 20).as_bytes(), Ok(Framing::Empty));
        check_raw(target(40 * 1024).as_bytes(), Err((414, "target_too_long")));
        // The limit applies before the head is complete.
        let mut endless = BytesMut::from(&b"GET / HTTP/1.1\r\nX: "[..]);
        endless.resize(MAX_HEAD_BYTES + 1, b'x');
        assert_eq!(HeadReader::default().next(&mut endless).unwrap_err().status, 431);
    }

    #[test]
    fn heads_mean_the_same_at_once_and_byte_by_byte() {
        let check = |text: &str, expected: Result<(), &str>| {
            for step in [text.len(), 1] {
                let (mut reader, mut buffer) = (HeadReader::default(), BytesMut::new());
                let seen = text.as_bytes().chunks(step).find_map(|piece| {
                    buffer.extend_from_slice(piece);
                    reader.next(&mut buffer).map(|head| head.map(drop)).transpose()
                });
                let seen = seen.expect("a verdict").map_err(|problem| problem.kind.to_string());
                assert_eq!(seen.as_ref().map_err(String::as_str).copied(), expected, "{text:.40} by {step}");
            }
        };
        let rest = "/ HTTP/1.1\r\nHost: a\r\n\r\n";
        check(&format!("GET {rest}"), Ok(()));
        check(&format!("M-SEARCH {rest}"), Ok(()));
        check(&format!("-POST {rest}"), Err("bad_request_line"));
        check(&format!("post {rest}"), Err("bad_request_line"));
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000)), Err("head_too_large"));
    }

    #[test]
    fn a_target_names_the_host_where_no_field_does() {
        let head = read(b"GET http://example.org:81/x HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.target(), head.host(), head.names_host_in_target), ("/x", Some("example.org:81"), true));
        let head = read(b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert!(!head.names_host_in_target);
        check_raw(b"GET http://u@a/x HTTP/1.0\r\n\r\n", Err((400, "bad_host")));
        check_raw(b"GET http:///x HTTP/1.0\r\n\r\n", Err((400, "bad_host")));
        check_raw(b"GET http://?x HTTP/1.0\r\n\r\n", Err((400, "bad_host")));
    }

    #[test]
    fn a24_an_absolute_target_means_what_its_parts_do() {
        let check = |method: &str, target: &str, host: &str, expected: Result<&str, &str>| {
            let seen = read(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            let seen = seen.map(|head| head.expect("it is whole"));
            let seen = seen.as_ref().map(|head| (head.target(), head.host())).map_err(|problem| problem.kind.as_str());
            assert_eq!(seen, expected.map(|target| (target, Some(host))), "{method} {target} at {host}");
        };
        check("GET", "http://a/x", "a:80", Ok("/x"));
        check("GET", "http://a:80/x", "A", Ok("/x"));
        check("GET", "https://a:443/x", "a", Ok("/x"));
        check("GET", "http://[::1]:80/", "[::1]", Ok("/"));
        check("GET", "http://a:/x", "a", Ok("/x"));
        check("GET", "http://a:443/x", "a", Err("bad_host"));
        check("GET", "https://a:80/x", "a", Err("bad_host"));
        check("GET", "http://a:8080/x", "a", Err("bad_host"));
        check("GET", "http://a", "a", Ok("/"));
        check("GET", "http://a?x=/y", "a", Ok("/?x=/y"));
        check("GET", "HTTPS://a:443?x", "a", Ok("/?x"));
        check("GET", "http://a#x", "a", Err("bad_target"));
        check("OPTIONS", "http://a", "a:80", Ok("*"));
        check("OPTIONS", "http://a/", "a", Ok("/"));
        check("OPTIONS", "http://a?x", "a", Ok("/?x"));
        check("OPTIONS", "*", "a", Ok("*"));
        // A fragment stays with the client.
        for target in ["/x#y", "/x?y#z", "/#", "http://a/#", "http://a/x?#"] {
            check("GET", target, "a", Err("bad_target"));
        }
        // Where no field names the host.
        for (target, path) in [("http://a.b:81", "/"), ("http://a.b:81?x", "/?x")] {
            let head = read(format!("GET {target} HTTP/1.0\r\nX: y\r\n\r\n").as_bytes()).unwrap().unwrap();
            assert_eq!((head.target(), head.host(), head.names_host_in_target), (path, Some("a.b:81"), true));
            assert_eq!(head.fields().get("x"), Some(&b"y"[..]));
        }
    }

    #[test]
    fn gh1_a_host_is_an_address_in_brackets_or_a_name() {
        #[track_caller]
        fn check(host: &str, is_one: bool) {
            let seen = read(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            let expected = if is_one { Ok(()) } else { Err("bad_host") };
            assert_eq!(seen.as_ref().map(drop).map_err(|problem| problem.kind.as_str()), expected, "{host}");
        }
        for host in ["", "a", "a:80", "a:", "a.example.", "my_host:0", "a%2eb", "127.0.0.1:65535", "a:00080"] {
            check(host, true);
        }
        for host in ["[::1]", "[fd00::1]:8443", "[::ffff:10.0.0.1]:", "[fe80::1%25eth0]"] {
            check(host, true);
        }
        for host in ["[fd00::1", "fd00::1", "fd00::1]", "[a]", "[]", "[::1]80", "[::1]:x", "[::1][::1]", "[1.2.3.4]"] {
            check(host, false);
        }
        for host in ["a:65536", "a:80:80", "a:-1", "a:+80", "a: 80", "a b", "a, b", "a/b", "u@a", "상품", "a:상"] {
            check(host, false);
        }
    }

    #[test]
    fn what_a_head_asks_of_the_connection() {
        let check = |version: &str, fields: &str, expected: (bool, bool, bool)| {
            let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            let head = read(text.as_bytes()).unwrap().unwrap();
            assert_eq!((head.keep_alive, head.expects_continue, head.upgrades), expected, "{text}");
        };
        check("1.1", "", (true, false, false));
        check("1.0", "", (false, false, false));
        check("1.0", "Connection: Keep-Alive\r\n", (true, false, false));
        check("1.1", "Connection: x, close\r\n", (false, false, false));
        check("1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n", (true, true, false));
        check("1.1", "Expect: 100-continue\r\n", (true, false, false));
        check("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", (false, false, false));
        check("1.1", "Connection: Upgrade\r\nUpgrade: WebSocket\r\n", (true, false, true));
        check("1.1", "Upgrade: websocket\r\n", (true, false, false));
        check("1.1", "Connection: Upgrade\r\nUpgrade: foo\r\n", (true, false, false));
        check("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", (true, false, false));
    }
}
