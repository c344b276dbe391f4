//! A response on its way to the client.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue, SET_COOKIE};
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use super::body::{Http2Sender, lock, send_data};
use crate::downstream::date::with_date;
use crate::message::body::Framing;
use crate::message::fields::tokens;
use crate::message::hop_by_hop::{HopByHop, late_trailer};
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::forward::Sink;
use crate::proxy::request_error::Ended;

/// Pieces of a response up to this size are copied.
pub(super) const SMALL_BYTES: usize = 8 * 1024;

/// A response on its way from a server.
pub(super) struct Http2Sink<'a> {
    pub(super) outgoing: &'a Mutex<Http2Sender>,
    pub(super) waiting: VecDeque<Bytes>,
    /// The body is complete; these trailers follow.
    pub(super) end: Option<HeaderMap>,
    /// Whether the head has not ended the stream.
    pub(super) is_open: bool,
    pub(super) broken: Option<Ended>,
    pub(super) write_timeout: Duration,
    pub(super) status: &'a mut Option<StatusCode>,
    /// The fields that are added to the response, as lines.
    own_fields: &'a [u8],
}

impl<'a> Http2Sink<'a> {
    pub(super) fn new(
        outgoing: &'a Mutex<Http2Sender>,
        write_timeout: Duration,
        status: &'a mut Option<StatusCode>,
        own_fields: &'a [u8],
    ) -> Self {
        let (waiting, end, is_open, broken) = (VecDeque::new(), None, true, None);
        Self { outgoing, waiting, end, is_open, broken, write_timeout, status, own_fields }
    }
}

impl Sink for Http2Sink<'_> {
    fn interim(&mut self, response: &ResponseHead) {
        // That a client is gone is noticed elsewhere.
        let _ = lock(self.outgoing).respond.send_informational(response_head(response, &ResponseEdits::default()));
    }

    fn head(&mut self, response: &ResponseHead, _early: bool, edits: &ResponseEdits<'_>) {
        *self.status = Some(response.status);
        let mut head = response_head(response, edits);
        let fields = head.headers_mut();
        put_own_fields(fields, self.own_fields);
        if let Framing::Length(bytes) = response.framing {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        if let Some(cookie) = edits.set_cookie.as_ref().and_then(|cookie| HeaderValue::from_str(cookie).ok()) {
            fields.append(SET_COOKIE, cookie);
        }
        if !fields.contains_key(DATE) {
            put_date(fields);
        }
        self.is_open = response.framing != Framing::Empty;
        self.broken = lock(self.outgoing).begin(head, !self.is_open).err();
    }

    fn data(&mut self, data: Bytes) {
        // The head may have ended the stream.
        if data.is_empty() {
            return;
        }
        // While it waits, a small piece would keep alive the whole buffer that it was read into.
        let data = if data.len() < SMALL_BYTES { Bytes::copy_from_slice(&data) } else { data };
        self.waiting.push_back(data);
    }

    fn end(&mut self, trailers: &[u8]) {
        let mut fields = HeaderMap::new();
        for line in trailers.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let name = HeaderName::from_bytes(name).ok().filter(|name| !late_trailer(name.as_str().as_bytes()));
            if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
        self.end = Some(fields);
    }

    /// Writes nothing: a stream that is gone has been reset.
    fn write_test_byte(&mut self) {}

    fn release_buffers(&mut self) {}

    /// Does not wait: [`flush`](Self::flush) has already waited for the client's window.
    async fn writable(&mut self) -> Result<(), Ended> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if let Some(ended) = self.broken {
            return Err(ended);
        }
        let ends = self.end.as_ref().is_some_and(HeaderMap::is_empty);
        while let Some(data) = self.waiting.pop_front() {
            let is_last = ends && self.waiting.is_empty();
            send_data(self.outgoing, data, is_last, self.write_timeout).await?;
            if is_last {
                self.end = None;
            }
        }
        let Some(trailers) = self.end.take() else { return Ok(()) };
        let gone = |_| Ended("reset by the client within a response");
        let mut out = lock(self.outgoing);
        match &mut out.send {
            // The head has ended the stream already.
            Some(_) if !self.is_open => Ok(()),
            Some(send) if trailers.is_empty() => send.send_data(Bytes::new(), true).map_err(gone),
            Some(send) => send.send_trailers(trailers).map_err(gone),
            None => Ok(()),
        }
    }
}

/// A response's status and fields, as the client should see them.
fn response_head(response: &ResponseHead, edits: &ResponseEdits<'_>) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = response.status;
    let fields = head.headers_mut();
    let connection = HopByHop::new(&response.fields);
    let with_length = response.states_length() && !response.status.is_informational();
    for (name, value) in response.fields.iter() {
        if with_length && name.eq_ignore_ascii_case(b"content-length") {
            // A server may have sent the field twice.
            if let Ok(length) = HeaderValue::from_bytes(tokens(value).next().unwrap_or_default()) {
                fields.insert(CONTENT_LENGTH, length);
            }
        } else if !connection.owns(name) && !edits.hides(name) {
            let rewritten = edits.location.and_then(|rewrite| rewrite.rewrite(name, value));
            let value = rewritten.as_ref().map_or(value, |rewritten| rewritten.as_bytes());
            // A field that was read before is valid here too, in small letters.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
    }
    head
}

/// Adds the fields that the gateway adds to a response, given as lines.
pub(super) fn put_own_fields(fields: &mut HeaderMap, lines: &[u8]) {
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
}

pub(super) fn put_date(fields: &mut HeaderMap) {
    if let Ok(date) = with_date(Instant::now(), HeaderValue::from_str) {
        fields.insert(DATE, date);
    }
}
