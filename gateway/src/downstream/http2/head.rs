//! The head of a request over HTTP/2. Pure.

use http::HeaderValue;
use http::request::Parts;

use crate::message::body::Framing;
use crate::message::fields::FieldsBuilder;
use crate::message::head::{
    HeadParts, MAX_FIELDS, MAX_TARGET_BYTES, RequestHead, Scheme, bad, check_expectation, check_method, content_length,
    same_authority, target_too_long, too_large,
};
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;

/// The head of an HTTP/2 request in the form of HTTP/1.1. A request that `ends` has no body.
///
/// # Errors
/// The problem to answer with.
pub(super) fn read_head(parts: &Parts, ends: bool) -> Result<RequestHead, Problem> {
    let (method, fields) = (parts.method.as_str(), &parts.headers);
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    if target.len() > MAX_TARGET_BYTES {
        return Err(target_too_long());
    }
    check_method(method)?;
    let values_of = |name: &'static str| fields.get_all(name).iter().map(HeaderValue::as_bytes);
    let mut hosts = authority.map(str::as_bytes).into_iter().chain(values_of("host"));
    let host = hosts.next().ok_or_else(|| bad(ProblemKind::BAD_HOST, "a request names the host that it is for"))?;
    let scheme = if parts.uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    let is_same = |other: &[u8]| match (std::str::from_utf8(host), std::str::from_utf8(other)) {
        (Ok(host), Ok(other)) => same_authority(host, other, scheme),
        _ => false,
    };
    if hosts.any(|other| !is_same(other)) {
        return Err(bad(ProblemKind::BAD_HOST, "the Host header and :authority name different hosts"));
    }
    let mut lengths = values_of("content-length").map(content_length);
    let framing = match (lengths.next().transpose()?, lengths.next()) {
        (_, Some(_)) => return Err(bad(ProblemKind::BAD_FRAMING, "a request must have at most one Content-Length")),
        _ if ends => Framing::Empty,
        (Some(0), None) => Framing::Empty,
        (Some(bytes), None) => Framing::Length(bytes),
        (None, None) => Framing::Chunked,
    };
    let mut expects_continue = false;
    for expectation in values_of("expect") {
        check_expectation(expectation)?;
        expects_continue = true;
    }
    let mut builder = FieldsBuilder::default();
    let (method, target) = (builder.text(method.as_bytes()), builder.text(target.as_bytes()));
    let host = builder.push(b"host", host);
    for (name, value) in fields.iter().filter(|(name, _)| !matches!(name.as_str(), "host" | "cookie")) {
        builder.push(name.as_str().as_bytes(), value.as_bytes());
    }
    // Cookies come in parts, so that each can be compressed: RFC 9113, 8.2.3.
    let cookies: Vec<&[u8]> = values_of("cookie").collect();
    if !cookies.is_empty() {
        builder.push(b"cookie", &cookies.join(&b"; "[..]));
    }
    if builder.len() > MAX_FIELDS {
        return Err(too_large(format!("a request must have at most {MAX_FIELDS} header fields")));
    }
    let parts = HeadParts {
        method,
        target,
        host: Some(host),
        is_1_1: true,
        framing,
        keep_alive: true,
        expects_continue,
        upgrades: false,
    };
    RequestHead::new(builder.finish(), parts)
}
