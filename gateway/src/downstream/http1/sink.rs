//! A response on its way to the client.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use net::buffers;
use tokio::time::Instant;

use crate::downstream::date::with_date;
use crate::http1::request_writer::put_response_fields;
use crate::http1::response_writer::{KeepAlive, StatusLine, put_chunk, put_date, put_last_chunk};
use crate::io::client_pace::ClientPace;
use crate::io::stream::{WriteHalf, write_all};
use crate::message::body::Framing;
use crate::message::head::RequestHead;
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::forward::Sink;
use crate::proxy::request_error::Ended;

/// A response on its way to the client.
pub(super) struct Http1Sink<'a> {
    pub(super) head: &'a RequestHead,
    pub(super) to_client: WriteHalf<'a>,
    pub(super) output: &'a mut BytesMut,
    pub(super) keep_alive: &'a mut KeepAlive,
    pub(super) write_timeout: Duration,
    pub(super) status: &'a mut Option<StatusCode>,
    pub(super) pace: &'a ClientPace,
    /// The body is sent in chunks, so that its end differs from that of the connection.
    pub(super) is_chunked: &'a mut bool,
    /// The part of the status line that has been written, and whether it is whole.
    pub(super) line: &'a mut StatusLine,
    /// The fields that are added to the response.
    pub(super) own_fields: &'a [u8],
    pub(super) has_head: bool,
    /// Digits that the size of the next chunk begins with.
    pub(super) zeros: u32,
}

/// Writes the fields of a head with status 101, and its end.
pub(super) fn put_switch_fields(out: &mut BytesMut, response: &ResponseHead) {
    put_response_fields(out, &response.fields, false, &ResponseEdits::default());
    out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n");
}

/// Zeros that may precede a chunk's size. Together with its own digits they are fewer than the 16
/// that clients read (RFC 9112, 7.1 has no limit).
const MAX_ZEROS: u32 = 8;

impl Sink for Http1Sink<'_> {
    fn interim(&mut self, response: &ResponseHead) {
        // HTTP/1.0 has no interim responses (RFC 9110, 15.2).
        if self.head.is_1_1 {
            buffers::make_ready(self.output);
            self.line.finish(self.output, response.status);
            put_response_fields(self.output, &response.fields, false, &ResponseEdits::default());
            self.output.put_slice(b"\r\n");
        }
    }

    fn head(&mut self, response: &ResponseHead, early: bool, edits: &ResponseEdits<'_>) {
        *self.status = Some(response.status);
        self.has_head = true;
        let out = &mut *self.output;
        buffers::make_ready(out);
        self.line.finish(out, response.status);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            put_switch_fields(out, response);
            return;
        }
        // A server that answers before it has the whole request may never read the rest.
        if early {
            *self.keep_alive = KeepAlive::Closes;
        }
        put_response_fields(out, &response.fields, response.states_length(), edits);
        out.put_slice(self.own_fields);
        match response.framing {
            Framing::Empty => {}
            Framing::Length(bytes) => {
                out.put_slice(b"content-length: ");
                out.put_slice(itoa::Buffer::new().format(bytes).as_bytes());
                out.put_slice(b"\r\n");
            }
            Framing::Chunked | Framing::Close if self.head.is_1_1 => {
                out.put_slice(b"transfer-encoding: chunked\r\n");
                *self.is_chunked = true;
            }
            // HTTP/1.0 has no other way to mark the end of a body.
            Framing::Chunked | Framing::Close => *self.keep_alive = KeepAlive::Closes,
        }
        if let Some(cookie) = &edits.set_cookie {
            out.put_slice(b"set-cookie: ");
            out.put_slice(cookie.as_bytes());
            out.put_slice(b"\r\n");
        }
        if response.status == StatusCode::UPGRADE_REQUIRED && response.names_websocket() {
            // Without the field the client does not know which protocol is required (RFC 9110,
            // 15.5.22).
            out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        self.keep_alive.write(out);
        if response.fields.get("date").is_none() {
            with_date(Instant::now(), |date| put_date(out, date));
        }
        out.put_slice(b"\r\n");
    }

    fn data(&mut self, data: Bytes) {
        buffers::make_ready(self.output);
        if !data.is_empty() {
            self.zeros = 0;
        }
        put_chunk(self.output, *self.is_chunked, &data);
    }

    fn end(&mut self, trailers: &[u8]) {
        if *self.is_chunked {
            put_last_chunk(self.output, trailers);
        }
    }

    fn write_test_byte(&mut self) {
        if !self.has_head {
            self.line.begin(self.output);
        } else if *self.is_chunked && self.zeros < MAX_ZEROS {
            self.output.put_u8(b'0');
            self.zeros += 1;
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        write_all(&mut self.to_client, self.output, self.write_timeout, self.pace).await?;
        Ok(())
    }

    fn release_buffers(&mut self) {
        if self.output.is_empty() {
            buffers::release(std::mem::take(self.output));
        }
    }

    async fn writable(&mut self) -> Result<(), Ended> {
        self.release_buffers();
        Ok(self.to_client.writable(self.write_timeout, self.pace).await?)
    }
}
