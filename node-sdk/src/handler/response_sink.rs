//! The destination of one response, and how it is written: whole or in parts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use net::{MAX_ESCAPED_BYTES, debug, escaped};
use protocol::{
    Key, ResponseHeaders, ResponsePayload, ResponseWriter, Side, Version, attach, write_credit, write_end, write_open,
    write_response, write_stream_head,
};

use crate::error::lost::OneWayCall;
use crate::error::{ServiceError, error_status, result_status};
use crate::handler::call_stream::{ByteParts, CallStream, PartSource, Parts, PartsKind};
use crate::handler::http::cookie;
use crate::handler::respond::{self, Respond};
use crate::transport::flow::max_part_bytes;
use crate::transport::limits::MAX_FRAME_BYTES;

/// Bytes of one response's parts that are written before other responses get their turn.
const PARTS_BYTES: usize = 64 * 1024;

/// Bytes by which a packet says how many raw ones follow it.
const ATTACHMENT_BYTES: usize = 32;

/// How far a response has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteProgress {
    /// The response is complete.
    Done,
    /// A part of it can be sent. After that the handler is polled again.
    More,
}

/// Where the response of a call goes. A call without a key is not answered.
#[derive(Debug)]
pub(crate) struct ReturnPath {
    pub(crate) version: Version,
    pub(crate) key: Option<Key>,
    /// Maximum bytes of a response to a caller of version 1.
    pub(crate) legacy_bytes: usize,
    /// The state of the stream, if the caller takes one.
    pub(crate) call_stream: Option<Arc<CallStream>>,
    /// The record of failures for a call without a response.
    pub(crate) one_way: Option<Box<OneWayCall>>,
    /// If a gateway calls and takes header fields: whether its client speaks TLS.
    pub(crate) http: Option<bool>,
}

/// A task that still reads the items of a call which is over gets an error.
impl Drop for ReturnPath {
    fn drop(&mut self) {
        if let Some(call_stream) = &self.call_stream {
            call_stream.close();
        }
    }
}

/// Writes one response. A result that cannot be written leaves no bytes.
#[derive(Debug)]
pub(crate) struct ResponseSink<'a> {
    out: &'a mut BytesMut,
    start: usize,
    to: &'a ReturnPath,
    /// The status of the response, once it is known.
    status: Option<u16>,
}

impl<'a> ResponseSink<'a> {
    pub(crate) fn new(out: &'a mut BytesMut, to: &'a ReturnPath) -> Self {
        Self { start: out.len(), out, to, status: None }
    }

    /// Writes the result of a handler. Its header fields are only for gateways that take them.
    pub(crate) fn result(&mut self, result: &impl Respond) {
        let mut headers = ResponseHeaders::NONE;
        if let Some(is_https) = self.to.http {
            result.headers(&mut headers);
            headers = cookie::finish(headers, is_https);
        }
        let attachment = result.attachment();
        if attachment.is_some() && self.to.http.is_none() {
            let message = "this route answers with bytes, which clients of a gateway can read";
            return self.failure(&ServiceError::new(406, "bytes", message));
        }
        self.success(result.status(), &headers, attachment, |out| respond::append(result, out));
    }

    /// Writes a result, which `write` makes into JSON text.
    pub(crate) fn success(
        &mut self,
        status: u16,
        headers: &ResponseHeaders,
        attachment: Option<&Bytes>,
        write: impl FnOnce(&mut BytesMut) -> Result<(), serde_json::Error>,
    ) {
        self.status = Some(status);
        let Some(key) = &self.to.key else { return };
        let limit = match self.to.version {
            Version::V1 => self.to.legacy_bytes,
            Version::V2 => MAX_FRAME_BYTES,
        };
        let Some(status) = result_status(status) else {
            return self.failure(&ServiceError::internal(format!("the result has the status {status}")));
        };
        let start = self.out.len();
        let writer = match headers.is_empty() {
            true => ResponseWriter::begin(self.out, self.to.version, key, status),
            false => ResponseWriter::begin_http(self.out, key, status, headers),
        };
        if let Err(error) = write(self.out) {
            self.clear();
            return self.failure(&ServiceError::internal(format!("the result has no JSON form: {error}")));
        }
        let bytes = writer.end(self.out) + attachment.map_or(0, |attached| ATTACHMENT_BYTES + attached.len());
        if let Some(attached) = attachment.filter(|_| bytes <= limit) {
            attach(self.out, start, attached);
        }
        if bytes > limit {
            self.clear();
            let message = format!("the response has {bytes} bytes; this caller can read {limit}");
            self.failure(&ServiceError::new(500, "answer_too_large", message));
        }
    }

    /// Writes why there is no result.
    pub(crate) fn failure(&mut self, error: &ServiceError) {
        self.status = Some(error.status);
        let Some(key) = &self.to.key else {
            return match &self.to.one_way {
                Some(one_way) => one_way.lost.record(&one_way.route, error),
                // Its caller would have been told, and has gone.
                None => debug!(error = ?escaped(error, MAX_ESCAPED_BYTES), "a call whose caller has gone has failed"),
            };
        };
        let ServiceError { status, reason, message, retry_after, headers } = error;
        let status = error_status(*status, reason);
        let headers = match self.to.http {
            Some(is_https) if !headers.is_empty() => cookie::finish(headers.clone(), is_https),
            Some(_) | None => ResponseHeaders::NONE,
        };
        let failure =
            ResponsePayload::Failure { status, reason, message, retry_after: *retry_after, headers: &headers };
        write_response(self.out, self.to.version, key, failure);
    }

    /// Says that the response comes in parts. Returns whether these are to follow: if the caller
    /// does not accept them, or there are none, the response is written.
    pub(crate) fn open(&mut self, parts: &mut Parts) -> bool {
        let PartsKind::Bytes(bytes) = &mut parts.0 else {
            let Some((call_stream, key)) = self.stream() else {
                self.failure(&ServiceError::new(406, "stream", "this route answers with a stream; open a stream"));
                return false;
            };
            if call_stream.set_open(true) {
                write_open(self.out, key);
            }
            return true;
        };
        let (Some((call_stream, key)), Some(is_https)) = (self.stream(), self.to.http) else {
            let message = "this route answers with a stream of bytes, which clients of a gateway can read";
            self.failure(&ServiceError::new(406, "bytes", message));
            return false;
        };
        bytes.headers = cookie::finish(std::mem::take(&mut bytes.headers), is_https);
        let Some(status) = result_status(bytes.status).filter(|status| ![204, 304].contains(status)) else {
            self.success(bytes.status, &bytes.headers, None, |out| {
                out.extend_from_slice(b"null");
                Ok(())
            });
            return false;
        };
        if call_stream.set_open(true) {
            bytes.has_begun = true;
            self.status = Some(status);
            write_stream_head(self.out, key, 0, (status, bytes.length), &bytes.headers);
        }
        true
    }

    /// Writes as many parts as the credit of the caller allows.
    pub(crate) fn poll_parts(&mut self, parts: &mut Parts, task: &mut Context<'_>) -> Poll<WriteProgress> {
        match &mut parts.0 {
            PartsKind::Json(parts) => self.poll_json(parts, task),
            PartsKind::Bytes(parts) => self.poll_bytes(parts, task),
        }
    }

    /// Writes as many parts of raw bytes as the credit of the caller allows. When the node stops,
    /// the stream goes on to its end: half of it is of no use.
    fn poll_bytes(&mut self, parts: &mut ByteParts, task: &mut Context<'_>) -> Poll<WriteProgress> {
        let Some((call_stream, key)) = self.stream() else { return Poll::Ready(WriteProgress::Done) };
        self.status = Some(parts.status);
        loop {
            if self.has_written() && self.out.len() - self.start >= PARTS_BYTES {
                return Poll::Ready(WriteProgress::More);
            }
            let (number, credit) = ready!(call_stream.poll_ready(task));
            if !std::mem::replace(&mut parts.has_begun, true) {
                let head = (parts.status, parts.length);
                call_stream.record_sent(write_stream_head(self.out, key, number, head, &parts.headers));
                continue;
            }
            match ready!(parts.poll_part(task, max_part_bytes(credit), (key, number), self.out)) {
                Some(Ok(bytes)) => call_stream.record_sent(bytes),
                Some(Err(error)) => {
                    self.failure(&error);
                    return Poll::Ready(WriteProgress::Done);
                }
                None => {
                    write_end(self.out, Side::Callee, key, number);
                    return Poll::Ready(WriteProgress::Done);
                }
            }
        }
    }

    fn poll_json(&mut self, parts: &mut Pin<Box<dyn PartSource>>, task: &mut Context<'_>) -> Poll<WriteProgress> {
        let Some((call_stream, key)) = self.stream() else { return Poll::Ready(WriteProgress::Done) };
        self.status.get_or_insert(200);
        loop {
            if self.has_written() && self.out.len() - self.start >= PARTS_BYTES {
                return Poll::Ready(WriteProgress::More);
            }
            let (number, _credit) = ready!(call_stream.poll_ready(task));
            let before = self.out.len();
            let error = match parts.as_mut().poll_part(task, (key, number), self.out) {
                Poll::Ready(Some(Ok(bytes))) => {
                    if bytes <= MAX_FRAME_BYTES {
                        call_stream.record_sent(bytes);
                        continue;
                    }
                    Some(ServiceError::new(500, "answer_too_large", format!("a part has {bytes} bytes")))
                }
                Poll::Ready(Some(Err(error))) => Some(error),
                Poll::Ready(None) => None,
                Poll::Pending => match call_stream.stop_error() {
                    Some(error) => Some(error),
                    None => return Poll::Pending,
                },
            };
            self.out.truncate(before);
            match error {
                Some(error) => self.failure(&error),
                None => write_end(self.out, Side::Callee, key, number),
            }
            return Poll::Ready(WriteProgress::Done);
        }
    }

    /// Opens the stream and grants credit, if that is due. Called before and after each poll of the
    /// handler. Returns whether it has opened the stream.
    pub(crate) fn write_stream_control(&mut self, task: &Context<'_>) -> bool {
        let Some((call_stream, key)) = self.stream() else { return false };
        call_stream.register_waker(task);
        let opens = call_stream.set_open(false);
        if opens {
            write_open(self.out, key);
        }
        if let Some(credit) = call_stream.next_credit() {
            write_credit(self.out, key, credit);
        }
        opens
    }

    fn stream(&self) -> Option<(&'a CallStream, u64)> {
        let ReturnPath { call_stream, key, .. } = self.to;
        Some((call_stream.as_deref()?, key.as_ref()?.number()?))
    }

    /// The status of the response, once it is known.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    pub(crate) fn has_written(&self) -> bool {
        self.out.len() > self.start
    }

    /// Removes the bytes that were written.
    pub(crate) fn clear(&mut self) {
        self.out.truncate(self.start);
    }
}
