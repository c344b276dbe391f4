//! The readers of bytes from outside, with plain values, for the targets in `fuzz/targets`. Only
//! tests and fuzzers are compiled with it.
//!
//! It must not read sockets, files or clocks: a target gives the same result for the same bytes.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use net::ServerAddress;

use crate::config::file::check_text;
use crate::downstream::proxy_protocol::{BadHeader, ProxyHeader, parse};
use crate::http1::body::BodyReader;
use crate::http1::head_reader::HeadReader;
use crate::http1::line_ends::LineEnds;
use crate::http1::request_writer::{UpstreamRequest, put_request, put_response_fields};
use crate::http1::response_reader::ResponseReader;
use crate::http1::response_writer::{put_chunk, put_last_chunk};
use crate::message::body::{Framing, Piece};
use crate::message::fields::Fields;
use crate::message::forwarded::ForwardedInfo;
use crate::message::head::{RequestHead, Scheme};
use crate::message::response_head::ResponseEdits;
use crate::proxy::node_call::translate;
use crate::route::path;

/// A trusted proxy, from which all requests seem to come.
const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// The server that requests are written for.
static SERVER: ServerAddress = ServerAddress::Tcp(SocketAddr::new(PROXY, 7));

/// The head of a request or of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Method, path with query, and host of a request; the status of a response.
    pub first_line: [String; 3],
    /// Names and values in order.
    pub fields: Vec<(Bytes, Bytes)>,
    /// Where the body ends.
    pub body: String,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// The message as the gateway passes it on.
    pub passed_on: Bytes,
}

/// Reads the first head of a request that arrives in pieces of `size` bytes. `None`: it is not
/// whole. With what is left of `bytes`.
///
/// # Errors
/// The status of the answer.
pub fn request_head(bytes: &[u8], size: usize) -> Result<Option<(Head, Vec<u8>)>, u16> {
    let mut reader = HeadReader::default();
    let head = in_pieces(bytes, size, |buffer| reader.next(buffer)).map_err(|problem| problem.status.as_u16())?;
    Ok(head.map(|(head, rest)| (request(&head), rest)))
}

fn request(head: &RequestHead) -> Head {
    let trusted = [PROXY.into()];
    let (_, origin) = ForwardedInfo::new(PROXY, Scheme::Http).through(PROXY, head.fields(), &trusted);
    let mut out = BytesMut::new();
    let request = UpstreamRequest {
        target: [head.target(), "", "", ""],
        server: &SERVER,
        origin: &origin,
        hops: 0,
        stripped: "",
        underscores: false,
        expects_continue: false,
        id: "i",
    };
    put_request(&mut out, head, request);
    Head {
        first_line: [head.method(), head.target(), head.host().unwrap_or_default()].map(str::to_owned),
        fields: fields(head.fields()),
        body: format!("{:?}", head.framing),
        keep_alive: head.keep_alive,
        passed_on: without_id(&out),
    }
}

/// The bytes without the id that each request is given if it has none.
fn without_id(request: &[u8]) -> Bytes {
    let is_id = |line: &[u8]| line.starts_with(b"x-request-id: ");
    request.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_id(line)).flatten().copied().collect()
}

/// Reads the first head of a response as [`request_head`] does that of a request. `to_head`: of one
/// to HEAD.
///
/// # Errors
/// What is wrong, for a log.
pub fn response_head(bytes: &[u8], size: usize, to_head: bool) -> Result<Option<(Head, Vec<u8>)>, String> {
    let mut reader = ResponseReader::default();
    let head = in_pieces(bytes, size, |buffer| reader.next(buffer, to_head))?;
    Ok(head.map(|(head, rest)| {
        let mut out = BytesMut::new();
        out.extend_from_slice(format!("HTTP/1.1 {} \r\n", head.status.as_str()).as_bytes());
        put_response_fields(&mut out, &head.fields, head.states_length(), &ResponseEdits::default());
        match head.framing {
            Framing::Length(bytes) => out.extend_from_slice(format!("content-length: {bytes}\r\n").as_bytes()),
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Empty | Framing::Close => {}
        }
        out.extend_from_slice(b"\r\n");
        let head = Head {
            first_line: [head.status.as_str().to_owned(), String::new(), String::new()],
            fields: fields(&head.fields),
            body: format!("{:?}", head.framing),
            keep_alive: head.keep_alive,
            passed_on: out.freeze(),
        };
        (head, rest)
    }))
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// The body ends after this many bytes.
    Length(u64),
    /// The body ends after the last chunk.
    Chunked,
    /// The body ends with the connection.
    Close,
}

/// The part of a body that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The data of the body.
    pub data: Vec<u8>,
    /// The trailers and the bytes after the body; `None` if the body has not ended.
    pub end: Option<(Bytes, Vec<u8>)>,
    /// Whether the body is malformed after this data.
    pub is_malformed: bool,
    /// Maximum bytes that were kept and were not data.
    pub max_kept_bytes: usize,
}

/// Reads a body that arrives in pieces of `size` bytes. With `is_response`, its lines may end with
/// LF alone.
pub fn body(end: BodyEnd, bytes: &[u8], size: usize, is_response: bool) -> Body {
    let framing = match end {
        BodyEnd::Length(length) => Framing::Length(length),
        BodyEnd::Chunked => Framing::Chunked,
        BodyEnd::Close => Framing::Close,
    };
    let line_ends = if is_response { LineEnds::Liberal } else { LineEnds::Strict };
    let mut reader = BodyReader::new(framing, line_ends);
    let (mut body, mut buffer) = (Body::default(), BytesMut::new());
    let mut pieces = bytes.chunks(size.max(1));
    loop {
        match reader.next(&mut buffer) {
            Ok(Piece::Data(data)) => body.data.extend_from_slice(&data),
            Ok(Piece::End(trailers)) => {
                buffer.extend(pieces.flatten());
                body.end = Some((trailers, buffer.to_vec()));
                return body;
            }
            Ok(Piece::More) => {
                body.max_kept_bytes = body.max_kept_bytes.max(buffer.len());
                let Some(piece) = pieces.next() else { return body };
                buffer.extend_from_slice(piece);
            }
            Err(_malformed) => {
                body.is_malformed = true;
                return body;
            }
        }
    }
}

/// Writes a chunked body in chunks of `size` bytes.
pub fn write_chunked(data: &[u8], trailers: &[u8], size: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    data.chunks(size.max(1)).for_each(|chunk| put_chunk(&mut out, true, chunk));
    put_last_chunk(&mut out, trailers);
    out.to_vec()
}

/// Reads a header of the PROXY protocol: the address of the client, if it has one, and how long the
/// header is. `None`: it is not whole.
pub fn proxy_protocol(bytes: &[u8]) -> Option<Result<(Option<SocketAddr>, usize), ()>> {
    parse(bytes).map(|header| match header {
        Ok((ProxyHeader::Client { address, is_tls: _ }, length)) => Ok((Some(address), length)),
        Ok((ProxyHeader::Local, length)) => Ok((None, length)),
        Err(BadHeader) => Err(()),
    })
}

/// The normal form of a path.
pub fn normalize(path: &str) -> Option<String> {
    path::normalize(path).ok().map(std::borrow::Cow::into_owned)
}

/// A path in normal form as services write their routes.
pub fn readable_path(path: &str) -> String {
    translate::readable_path(path).unwrap_or_else(|| path.to_owned())
}

/// The arguments of a call in a query string, as JSON.
pub fn form_params(form: &[u8]) -> String {
    translate::form_params(form)
}

/// The arguments of a call in a body, as JSON.
pub fn body_params(content_type: &str, body: &[u8]) -> Option<String> {
    translate::body_params(translate::MediaType::Named(Some(content_type)), body, false).ok()
}

/// Reads a configuration file.
///
/// # Errors
/// A line for each mistake: `f:LINE:COLUMN: MESSAGE`.
pub fn config(text: &str) -> Result<(), Vec<String>> {
    check_text(text)
}

fn fields(fields: &Fields) -> Vec<(Bytes, Bytes)> {
    fields.iter().map(|(name, value)| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))).collect()
}

fn in_pieces<T, E>(
    bytes: &[u8],
    size: usize,
    mut next: impl FnMut(&mut BytesMut) -> Result<Option<T>, E>,
) -> Result<Option<(T, Vec<u8>)>, E> {
    let mut buffer = BytesMut::new();
    let mut pieces = bytes.chunks(size.max(1));
    while let Some(piece) = pieces.next() {
        buffer.extend_from_slice(piece);
        if let Some(read) = next(&mut buffer)? {
            buffer.extend(pieces.flatten());
            return Ok(Some((read, buffer.to_vec())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
