//! The head of a request of either version of HTTP. Pure.

use std::net::Ipv6Addr;

use http::StatusCode;

use crate::message::body::Framing;
use crate::message::fields::{Fields, Span};
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;

/// Maximum bytes of a request target: browsers and other servers agree on slightly more than 8,000.
pub(crate) const MAX_TARGET_BYTES: usize = 16 * 1024;
/// Maximum number of fields of a head, as in Apache httpd.
pub(crate) const MAX_FIELDS: usize = 100;

/// A request's head. Everything in it is a part of one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    fields: Fields,
    method: Span,
    target: Span,
    host: Option<Span>,
    /// Whether only the target names the host, and no field does.
    pub(crate) names_host_in_target: bool,
    /// Whether it is HTTP/1.1; otherwise it is HTTP/1.0.
    pub(crate) is_1_1: bool,
    pub(crate) framing: Framing,
    /// Whether the connection may be used again.
    pub(crate) keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// Whether the request asks for a WebSocket.
    pub(crate) upgrades: bool,
}

/// The parts of a head beside its fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadParts {
    pub(crate) method: Span,
    pub(crate) target: Span,
    pub(crate) host: Option<Span>,
    pub(crate) is_1_1: bool,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    pub(crate) upgrades: bool,
}

impl RequestHead {
    /// # Errors
    /// The problem to answer with: an invalid host or target.
    pub(crate) fn new(fields: Fields, parts: HeadParts) -> Result<Self, Problem> {
        let HeadParts { method, target, host, is_1_1, framing, keep_alive, expects_continue, upgrades } = parts;
        let mut head = Self {
            fields,
            method,
            target,
            host,
            names_host_in_target: false,
            is_1_1,
            framing,
            keep_alive,
            expects_continue: expects_continue && framing != Framing::Empty,
            upgrades,
        };
        head.apply_absolute_target()?;
        Ok(head)
    }

    pub(crate) fn method(&self) -> &str {
        self.fields.text(self.method)
    }

    /// The path and query as received.
    pub(crate) fn target(&self) -> &str {
        self.fields.text(self.target)
    }

    pub(crate) fn host(&self) -> Option<&str> {
        self.host.map(|host| self.fields.text(host))
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Checks the target, and cuts one in absolute form to its path. The host in it must be the one
    /// in `Host` (RFC 9112, 3.2.2).
    fn apply_absolute_target(&mut self) -> Result<(), Problem> {
        let target = self.target();
        if matches!(self.method(), "CONNECT" | "TRACE") {
            let detail = format!("{} is not supported", self.method());
            let allow = Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned());
            return Err(Problem {
                allow,
                ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, ProblemKind::METHOD_NOT_ALLOWED, detail)
            });
        }
        // A fragment is only for the client (RFC 9110, 4.2.5).
        if target.contains('#') {
            return Err(bad(ProblemKind::BAD_TARGET, "the target of a request has no fragment"));
        }
        if target.starts_with('/') || (target == "*" && self.method() == "OPTIONS") {
            return self.check_host();
        }
        let scheme = [Scheme::Http, Scheme::Https].into_iter().find(|scheme| scheme.begins(target));
        let Some(scheme) = scheme else {
            return Err(bad(ProblemKind::BAD_TARGET, "the target of a request must begin with /"));
        };
        let rest = &target[scheme.prefix().len()..];
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err(bad(ProblemKind::BAD_HOST, "the target names no host"));
        }
        if self.host().is_some_and(|host| !same_authority(host, authority, scheme)) {
            return Err(bad(ProblemKind::BAD_HOST, "the target names another host than the Host header"));
        }
        let has_path = path.starts_with('/');
        // Of the server as a whole, or of its root (RFC 9112, 3.2.4; RFC 9110, 4.2.3).
        let missing = if path.is_empty() && self.method() == "OPTIONS" { b'*' } else { b'/' };
        let at = |bytes: usize| self.target.start + u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut host = Span { start: at(scheme.prefix().len()), end: at(scheme.prefix().len() + authority.len()) };
        let mut start = host.end;
        if !has_path && let Some((shifted, path)) = self.fields.shift_left(host, missing) {
            (host, start) = (shifted, path.start);
        }
        if self.host.is_none() {
            // HTTP/1.0 need not repeat it.
            self.host = Some(host);
            self.names_host_in_target = true;
        }
        self.target.start = start;
        self.check_host()
    }

    fn check_host(&self) -> Result<(), Problem> {
        match self.host() {
            Some(host) if !is_host(host) => Err(bad(ProblemKind::BAD_HOST, "the Host header is not a valid host name")),
            _ => Ok(()),
        }
    }
}

/// How a client reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Http => "http://",
            Self::Https => "https://",
        }
    }

    fn begins(self, target: &str) -> bool {
        target.get(..self.prefix().len()).is_some_and(|start| start.eq_ignore_ascii_case(self.prefix()))
    }

    /// `authority` without the port that it has anyway.
    fn without_default_port(self, authority: &str) -> &str {
        let port = match self {
            Self::Http => ":80",
            Self::Https => ":443",
        };
        authority.strip_suffix(port).or_else(|| authority.strip_suffix(':')).unwrap_or(authority)
    }
}

/// Whether two names of a host mean the same one: in any case of letters, and with the scheme's
/// port or without (RFC 9110, 4.2.3).
pub(crate) fn same_authority(one: &str, other: &str, scheme: Scheme) -> bool {
    scheme.without_default_port(one).eq_ignore_ascii_case(scheme.without_default_port(other))
}

/// Whether this is a host, with or without a port: an IPv6 address in brackets, or characters that
/// may stand in a name (RFC 3986, 3.2.2). It may be empty (RFC 9112, 3.2).
pub(crate) fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if is_ip_literal(address) => ("", port),
            Some(_) | None => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |digits: &str| {
        digits.is_empty() || (digits.bytes().all(|digit| digit.is_ascii_digit()) && digits.parse::<u16>().is_ok())
    };
    let may_stand = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b'%')
    };
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) && name.bytes().all(may_stand)
}

/// Whether this may stand in brackets: an IPv6 address, of which some say the zone (RFC 6874).
fn is_ip_literal(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, ""));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    address.parse::<Ipv6Addr>().is_ok() && zone.bytes().all(is_plain)
}

/// Reads digits only; the number is less than 2^63, because some peers use signed numbers.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<i64>().ok());
    number
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| bad(ProblemKind::BAD_FRAMING, "Content-Length must be a number of bytes"))
}

/// Checks a method: capital letters with hyphens between them, as all registered methods have.
pub(crate) fn check_method(method: &str) -> Result<(), Problem> {
    let is_one = method.starts_with(|first: char| first.is_ascii_uppercase())
        && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if is_one { Ok(()) } else { Err(bad(ProblemKind::BAD_REQUEST_LINE, "a method must consist of capital letters")) }
}

/// Checks the value of `Expect`, which may be only one (RFC 9110, 10.1.1).
pub(crate) fn check_expectation(value: &[u8]) -> Result<(), Problem> {
    if value.eq_ignore_ascii_case(b"100-continue") {
        return Ok(());
    }
    let detail = "only `Expect: 100-continue` is supported";
    Err(Problem::new(StatusCode::EXPECTATION_FAILED, ProblemKind::EXPECTATION_FAILED, detail))
}

pub(crate) fn bad(kind: ProblemKind, detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, kind, detail)
}

pub(crate) fn too_large(detail: String) -> Problem {
    Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ProblemKind::HEAD_TOO_LARGE, detail)
}

pub(crate) fn target_too_long() -> Problem {
    let detail = format!("the target of the request has more than {MAX_TARGET_BYTES} bytes");
    Problem::new(StatusCode::URI_TOO_LONG, ProblemKind::TARGET_TOO_LONG, detail)
}
