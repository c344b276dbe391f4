//! Writes responses.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use super::request_writer::put_trailers;

/// The head of a complete response, except the status line that is written as a [`StatusLine`].
#[derive(Debug)]
pub(crate) struct FullHead<F> {
    pub(crate) status: StatusCode,
    /// The fields, except those that this module writes itself.
    pub(crate) fields: F,
    pub(crate) keep_alive: KeepAlive,
    /// Whether the response answers HEAD, so that its body is not written.
    pub(crate) is_bodiless: bool,
}

/// Appends a complete response, which was written at `date`. `own` has further fields of its head.
pub(crate) fn put_full<'a>(
    out: &mut BytesMut,
    line: &mut StatusLine,
    head: FullHead<impl Iterator<Item = (&'a str, &'a str)>>,
    own: &[u8],
    body: &[u8],
    date: &str,
) {
    let FullHead { status, fields, keep_alive, is_bodiless } = head;
    out.reserve(256 + body.len());
    line.finish(out, status);
    for (name, value) in fields {
        out.put_slice(name.as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(own);
    // Responses with these statuses never have a body (RFC 9110, 8.6).
    let has_none = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if !has_none {
        out.put_slice(b"content-length: ");
        out.put_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        out.put_slice(b"\r\n");
    }
    keep_alive.write(out);
    put_date(out, date);
    out.put_slice(b"\r\n");
    if !has_none && !is_bodiless {
        out.put_slice(body);
    }
}

/// Whether the connection stays open after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    /// The connection stays open, which is the default of HTTP/1.1.
    Stays,
    /// The connection stays open, which HTTP/1.0 has to be told.
    StaysAsAsked,
    Closes,
}

impl KeepAlive {
    pub(crate) fn write(self, out: &mut BytesMut) {
        match self {
            Self::Stays => {}
            Self::StaysAsAsked => out.put_slice(b"connection: keep-alive\r\n"),
            Self::Closes => out.put_slice(b"connection: close\r\n"),
        }
    }
}

/// The status line of the next head. All begin alike, so it can be begun before the status is
/// known: a client that is gone answers that with a reset.
#[derive(Debug, Default)]
pub(crate) struct StatusLine {
    /// Bytes that have been written.
    written: usize,
}

impl StatusLine {
    const START: &'static [u8] = b"HTTP/1.1 ";

    /// Appends one byte, if one is left that all status lines have.
    pub(crate) fn begin(&mut self, out: &mut BytesMut) {
        if let Some(byte) = Self::START.get(self.written) {
            out.put_u8(*byte);
            self.written += 1;
        }
    }

    /// Appends the rest of the line. The next line is another one.
    pub(crate) fn finish(&mut self, out: &mut BytesMut, status: StatusCode) {
        out.put_slice(&Self::START[std::mem::take(&mut self.written)..]);
        out.put_slice(status.as_str().as_bytes());
        out.put_u8(b' ');
        out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.put_slice(b"\r\n");
    }
}

/// Appends the time of day as a `Date` field (RFC 9110, 6.6.1).
pub(crate) fn put_date(out: &mut BytesMut, date: &str) {
    out.put_slice(b"date: ");
    out.put_slice(date.as_bytes());
    out.put_slice(b"\r\n");
}

pub(crate) fn put_chunk(out: &mut BytesMut, as_chunk: bool, data: &[u8]) {
    // An empty chunk would be the last one.
    if data.is_empty() {
        return;
    }
    if as_chunk {
        // Reserves room for the size and the line ends, so that a large piece is copied only once.
        out.reserve(data.len() + 24);
        let _ = write!(out, "{:x}\r\n", data.len());
        out.put_slice(data);
        out.put_slice(b"\r\n");
    } else {
        out.put_slice(data);
    }
}

/// Appends the last chunk and the trailers.
pub(crate) fn put_last_chunk(out: &mut BytesMut, trailers: &[u8]) {
    out.put_slice(b"0\r\n");
    put_trailers(out, trailers);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, keep_alive: KeepAlive, without_body: bool, expected: &str) {
        let mut out = BytesMut::new();
        let status = StatusCode::from_u16(status).unwrap();
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(("retry-after", "3"));
        let fields = [("content-type", "text/plain")].into_iter().chain(retry_after);
        let line = &mut StatusLine::default();
        let head = FullHead { status, fields, keep_alive, is_bodiless: without_body };
        put_full(&mut out, line, head, b"", b"abc", "now GMT");
        let text = String::from_utf8(out.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let (dates, lines): (Vec<_>, Vec<_>) = head.split("\r\n").partition(|line| line.starts_with("date: "));
        assert!(dates.len() == 1 && dates[0] == "date: now GMT", "{text}");
        assert_eq!(format!("{}|{body}", lines.join("|")), expected);
    }

    #[test]
    fn heads_are_written_by_status_and_connection() {
        let stays = KeepAlive::Stays;
        check(200, stays, false, "HTTP/1.1 200 OK|content-type: text/plain|content-length: 3|abc");
        check(200, stays, true, "HTTP/1.1 200 OK|content-type: text/plain|content-length: 3|");
        check(204, stays, false, "HTTP/1.1 204 No Content|content-type: text/plain|");
        check(
            503,
            KeepAlive::Closes,
            false,
            "HTTP/1.1 503 Service Unavailable|content-type: text/plain|retry-after: 3|content-length: 3|connection: close|abc",
        );
        check(
            200,
            KeepAlive::StaysAsAsked,
            true,
            "HTTP/1.1 200 OK|content-type: text/plain|content-length: 3|connection: keep-alive|",
        );
        check(299, stays, false, "HTTP/1.1 299 |content-type: text/plain|content-length: 3|abc");
    }

    #[test]
    fn a9_a_status_line_can_be_begun_before_its_status_is_known() {
        for written in [0, 1, 9, 20] {
            let (mut out, mut line) = (BytesMut::new(), StatusLine::default());
            (0..written).for_each(|_| line.begin(&mut out));
            assert_eq!(out.len(), written.min(9));
            for _ in 0..2 {
                line.finish(&mut out, StatusCode::OK);
            }
            assert_eq!(out, "HTTP/1.1 200 OK\r\n".repeat(2), "after {written}");
        }
    }
}
