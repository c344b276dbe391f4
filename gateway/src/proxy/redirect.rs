//! Where clients without TLS are sent. Pure.

use http::StatusCode;

use crate::message::forwarded::ForwardedInfo;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::exchange::FullResponse;

/// The prefix that has to be reachable without TLS, so that certificates can be issued: RFC 8555,
/// 8.3.
pub(super) const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// The default port of `https`.
const DEFAULT_PORT: u16 = 443;

/// Redirects a request to the same path with TLS: at `port`, or where a proxy in front speaks TLS.
///
/// # Errors
/// The problem to answer with, when the request names no host.
pub(super) fn to_tls(
    head: &RequestHead,
    origin: &ForwardedInfo,
    port: u16,
    path: &str,
    query: &str,
) -> Result<FullResponse, Problem> {
    let host = origin.host.as_deref().or_else(|| head.host()).unwrap_or_default();
    let location = Some(location(host, (!origin.is_proxied).then_some(port), path, query)?);
    // 308 keeps method and body (RFC 9110, 15.4.9).
    Ok(FullResponse { location, ..FullResponse::new(StatusCode::PERMANENT_REDIRECT, "text/plain", "") })
}

fn location(host: &str, port: Option<u16>, path: &str, query: &str) -> Result<String, Problem> {
    // The host without its port, if it has one. An IPv6 address has colons too.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if name.is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, ProblemKind::BAD_HOST, "the request names no host"));
    }
    let port = port.filter(|port| *port != DEFAULT_PORT).map_or_else(String::new, |port| format!(":{port}"));
    let mark = if query.is_empty() { "" } else { "?" };
    Ok(format!("https://{name}{port}{path}{mark}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_the_same_place_with_tls() {
        let check = |host: &str, port: Option<u16>, query: &str, expected: Option<&str>| {
            assert_eq!(location(host, port, "/a", query).ok().as_deref(), expected, "{host} {port:?}");
        };
        check("a", Some(443), "", Some("https://a/a"));
        check("a:80", Some(8443), "b=c", Some("https://a:8443/a?b=c"));
        check("[::1]:80", Some(443), "", Some("https://[::1]/a"));
        check("[::1]", Some(8443), "", Some("https://[::1]:8443/a"));
        check("a:8080", None, "", Some("https://a/a"));
        check("", Some(443), "", None);
        check(":80", Some(443), "", None);
    }
}
