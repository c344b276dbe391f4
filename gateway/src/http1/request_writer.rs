//! Writes requests for servers, and the fields of their responses for clients.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use net::ServerAddress;

use crate::message::body::Framing;
use crate::message::fields::{Fields, tokens};
use crate::message::forwarded::{ForwardedInfo, HOPS, is_rebuilt};
use crate::message::head::RequestHead;
use crate::message::hop_by_hop::{HopByHop, imitates, late_trailer};
use crate::message::request_id::REQUEST_ID;
use crate::message::response_head::ResponseEdits;

/// The destination and the origin of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpstreamRequest<'a> {
    /// The path and query, in parts.
    pub(crate) target: [&'a str; 4],
    pub(crate) server: &'a ServerAddress,
    pub(crate) origin: &'a ForwardedInfo,
    /// The number of gateways that have passed it on.
    pub(crate) hops: u8,
    /// The prefix that has been removed from the path.
    pub(crate) stripped: &'a str,
    /// Whether fields with `_` in their names are passed on.
    pub(crate) underscores: bool,
    /// Whether the client waits for the server's leave to send the body.
    pub(crate) expects_continue: bool,
    /// The id of the request.
    pub(crate) id: &'a str,
}

/// The head of a request as a server should see it. Names keep their case. A client's statements
/// about its own origin are replaced, because they may be false. Names with `_`, which some servers
/// take for others, are left out unless the server wants them; gives how many.
pub(crate) fn put_request(out: &mut BytesMut, head: &RequestHead, request: UpstreamRequest<'_>) -> u64 {
    let UpstreamRequest { target, server, origin, hops, stripped, underscores, expects_continue, id } = request;
    out.put_slice(head.method().as_bytes());
    out.put_u8(b' ');
    target.iter().for_each(|part| out.put_slice(part.as_bytes()));
    out.put_slice(b" HTTP/1.1\r\n");
    let connection = HopByHop::new(head.fields());
    let mut left_out = 0;
    for (name, value) in head.fields().iter() {
        if name.eq_ignore_ascii_case(REQUEST_ID.as_bytes()) {
            // The id of the request is written below.
        } else if name.contains(&b'_') && (!underscores || imitates(name)) {
            left_out += 1;
        } else if !connection.owns(name) && !is_rebuilt(name) {
            put(out, name, value);
        }
    }
    match head.framing {
        Framing::Length(bytes) => put(out, b"content-length", itoa::Buffer::new().format(bytes).as_bytes()),
        Framing::Chunked => put(out, b"transfer-encoding", b"chunked"),
        Framing::Empty | Framing::Close => {
            // A server may wait for a body that these methods usually have.
            if matches!(head.method(), "POST" | "PUT" | "PATCH") {
                put(out, b"content-length", b"0");
            }
        }
    }
    match head.host() {
        // HTTP/1.0 need not name a host; HTTP/1.1 must.
        None => drop(write!(out, "host: {}\r\n", server.host())),
        Some(host) if head.names_host_in_target => put(out, b"host", host.as_bytes()),
        Some(_) => {}
    }
    if head.upgrades {
        out.put_slice(b"connection: Upgrade\r\nupgrade: websocket\r\n");
    }
    if expects_continue {
        put(out, b"expect", b"100-continue");
    }
    put_origin(out, head.host(), origin, stripped);
    put(out, HOPS.as_bytes(), itoa::Buffer::new().format(hops + 1).as_bytes());
    put(out, REQUEST_ID.as_bytes(), id.as_bytes());
    out.put_slice(b"\r\n");
    left_out
}

/// Writes X-Forwarded-For, -Proto, -Host and -Prefix, and RFC 7239's Forwarded.
fn put_origin(out: &mut BytesMut, host: Option<&str>, origin: &ForwardedInfo, stripped: &str) {
    let ForwardedInfo { fields, before, prefix, forwarded: [node, proto], .. } = origin;
    out.put_slice(fields.as_bytes());
    let host = origin.host.as_deref().or(host).unwrap_or_default();
    if !host.is_empty() {
        put(out, b"x-forwarded-host", host.as_bytes());
    }
    if !prefix.is_empty() || !stripped.is_empty() {
        ["x-forwarded-prefix: ", prefix, stripped, "\r\n"].iter().for_each(|part| out.put_slice(part.as_bytes()));
    }
    let comma = if before.is_empty() { "" } else { ", " };
    // Always quoted: a host may contain characters that would end the value.
    let [open, close] = if host.is_empty() { ["", ""] } else { ["host=\"", "\";"] };
    for part in ["forwarded: ", before, comma, node, open, host, close, proto, "\r\n"] {
        out.put_slice(part.as_bytes());
    }
}

/// Writes the fields of a response for the client. With `with_length`, its Content-Length describes
/// a body that is not sent. Where it redirects to, and the paths of cookies, may be put below a
/// prefix. The gateway writes the id of the request itself, and what pages of other origins may do
/// if its route says that.
pub(crate) fn put_response_fields(out: &mut BytesMut, fields: &Fields, with_length: bool, edits: &ResponseEdits<'_>) {
    let connection = HopByHop::new(fields);
    let mut has_length = false;
    for (name, value) in fields.iter() {
        if with_length && name.eq_ignore_ascii_case(b"content-length") {
            // A server may state the length twice.
            if !std::mem::replace(&mut has_length, true) {
                put(out, name, tokens(value).next().unwrap_or_default());
            }
        } else if !connection.owns(name) && !edits.hides(name) {
            match edits.location.and_then(|rewrite| rewrite.rewrite(name, value)) {
                Some(rewritten) => put(out, name, rewritten.as_bytes()),
                None => put(out, name, value),
            }
        }
    }
}

/// Writes trailers that may follow a body: none that would change the head before it (RFC 9110,
/// 6.5.1).
pub(crate) fn put_trailers(out: &mut BytesMut, trailers: &[u8]) {
    for line in trailers.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !late_trailer(name) {
            // A server may have ended it with LF alone.
            out.put_slice(line.trim_ascii_end());
            out.put_slice(b"\r\n");
        }
    }
}

fn put(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use super::*;
    use crate::http1::head_reader::HeadReader;
    use crate::http1::response_reader::ResponseReader;
    use crate::message::head::Scheme;

    static SERVER: ServerAddress = ServerAddress::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7));

    fn upstream_request<'a>(target: [&'a str; 4], origin: &'a ForwardedInfo) -> UpstreamRequest<'a> {
        UpstreamRequest {
            target,
            server: &SERVER,
            origin,
            hops: 0,
            stripped: "",
            underscores: false,
            expects_continue: false,
            id: "i",
        }
    }

    fn lines(out: &BytesMut) -> Vec<String> {
        String::from_utf8(out.to_vec())
            .unwrap()
            .split("\r\n")
            .map(str::to_owned)
            .filter(|line| !line.is_empty())
            .collect()
    }

    #[track_caller]
    fn check_request(line: &str, fields: &str, expected: &[&str]) {
        let text = format!("{line} HTTP/1.1\r\nHost: a:80\r\nX-Request-Id: i\r\n{fields}\r\n");
        let head = HeadReader::default().next(&mut BytesMut::from(text.as_bytes())).unwrap().unwrap();
        let mut out = BytesMut::new();
        let origin = ForwardedInfo::new([10, 0, 0, 1].into(), Scheme::Http);
        put_request(&mut out, &head, upstream_request(["/", "t", "", ""], &origin));
        let lines = lines(&out);
        let usual = [
            "Host: a:80",
            "x-forwarded-for: 10.0.0.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: a:80",
            "forwarded: for=10.0.0.1;host=\"a:80\";proto=http",
            "x-gateway-hops: 1",
            "x-request-id: i",
        ];
        assert!(usual.iter().all(|one| lines.iter().any(|line| line == one)), "{lines:?}");
        let rest: Vec<_> = lines.iter().map(String::as_str).filter(|line| !usual.contains(line)).collect();
        assert_eq!(rest, expected);
    }

    #[test]
    fn gh20_fields_of_a_connection_stay_on_it() {
        check_request("GET /x", "", &["GET /t HTTP/1.1"]);
        check_request("GET /x", "X-A: b\r\nx-a:  c \r\n", &["GET /t HTTP/1.1", "X-A: b", "x-a: c"]);
        check_request(
            "GET /x",
            "Connection: close, X-Secret\r\nX-Secret: s\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTrailer: X\r\n",
            &["GET /t HTTP/1.1", "Trailer: X"],
        );
        check_request(
            "POST /x",
            "Content-Length: 3\r\nExpect: 100-continue\r\n",
            &["POST /t HTTP/1.1", "content-length: 3"],
        );
        check_request("POST /x", "Transfer-Encoding: chunked\r\n", &["POST /t HTTP/1.1", "transfer-encoding: chunked"]);
        check_request("POST /x", "", &["POST /t HTTP/1.1", "content-length: 0"]);
        check_request(
            "GET /x",
            "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n",
            &["GET /t HTTP/1.1", "Sec-WebSocket-Key: k", "connection: Upgrade", "upgrade: websocket"],
        );
    }

    #[test]
    fn gh20_no_client_states_its_own_origin() {
        let spoofed = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-user: root\r\nForwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX_Forwarded_For: 1.1.1.1\r\nX-Gateway-Hops: 0\r\n";
        check_request("GET /x", spoofed, &["GET /t HTTP/1.1"]);
        check_request("GET /x", "Connection: X-Forwarded-For, Host\r\n", &["GET /t HTTP/1.1"]);
    }

    #[test]
    fn gh20_a_host_that_is_not_known_is_not_passed_on() {
        let origin = ForwardedInfo::new([10, 0, 0, 1].into(), Scheme::Http);
        for (version, fields) in [("HTTP/1.0", ""), ("HTTP/1.0", "Host:\r\n"), ("HTTP/1.1", "Host:\r\n")] {
            let text = format!("GET /x {version}\r\n{fields}\r\n");
            let head = HeadReader::default().next(&mut BytesMut::from(text.as_bytes())).unwrap().unwrap();
            let mut out = BytesMut::new();
            put_request(&mut out, &head, upstream_request(["/", "t", "", ""], &origin));
            let lines = lines(&out);
            assert!(!lines.iter().any(|line| line.starts_with("x-forwarded-host")), "{lines:?}");
            assert!(lines.iter().any(|line| line == "forwarded: for=10.0.0.1;proto=http"), "{lines:?}");
        }
    }

    #[test]
    fn fields_of_a_trusted_proxy_are_extended() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let check = |fields: &str, client: &str, expected: &[&str]| {
            let text = format!("GET / HTTP/1.1\r\nHost: inner\r\n{fields}\r\n");
            // Not text.
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            let head = HeadReader::default().next(&mut BytesMut::from(&bytes[..])).unwrap().unwrap();
            let peer = IpAddr::from([10, 0, 0, 1]);
            let (seen, origin) = ForwardedInfo::new(peer, Scheme::Http).through(peer, head.fields(), &trusted);
            assert_eq!(seen, client.parse::<IpAddr>().unwrap(), "{fields}");
            let mut out = BytesMut::new();
            put_request(&mut out, &head, upstream_request(["/"; 4], &origin));
            assert!(expected.iter().all(|one| lines(&out).iter().any(|line| line == one)), "{:?}", lines(&out));
        };
        check(
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outer\r\nForwarded: for=192.0.2.1;proto=https\r\n",
            "192.0.2.1",
            &[
                "x-forwarded-for: 192.0.2.1, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: outer",
                "forwarded: for=192.0.2.1;proto=https, for=10.0.0.1;host=\"outer\";proto=https",
            ],
        );
        // Any client may have written the addresses before the last untrusted one.
        check("X-Forwarded-For: 6.6.6.6, 192.0.2.1:80, 10.9.9.9\r\n", "192.0.2.1", &[]);
        check("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: [2001:db8::1]:80, fd00::1\r\n", "2001:db8::1", &[]);
        check("X-Forwarded-For: unknown\r\n", "10.0.0.1", &[]);
        check("X-Forwarded-For: \u{e9}, 192.0.2.1\r\n", "192.0.2.1", &[]);
        check(
            "X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a b\r\n",
            "10.0.0.1",
            &["x-forwarded-proto: http", "x-forwarded-host: inner"],
        );
    }

    #[test]
    fn a23_fields_with_underscores_are_left_out_or_passed_on() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\napi_key: k\r\nX_Forwarded_For: 6.6.6.6\r\nTransfer_Encoding: chunked\r\n\
                    x_request_id: i\r\nCONTENT_LENGTH: 3\r\nX_Real-IP: 6.6.6.6\r\nForwarded_: x\r\nHOST_: b\r\n\r\n";
        let head = HeadReader::default().next(&mut BytesMut::from(text.as_bytes())).unwrap().unwrap();
        let check = |underscores: bool, expected: &[&str], left_out: u64| {
            let (mut out, origin) = (BytesMut::new(), ForwardedInfo::new([10, 0, 0, 1].into(), Scheme::Http));
            let request = UpstreamRequest { underscores, ..upstream_request(["/", "", "", ""], &origin) };
            assert_eq!(put_request(&mut out, &head, request), left_out);
            let seen: Vec<_> = lines(&out).into_iter().filter(|line| line.contains('_')).collect();
            assert_eq!(seen, expected);
        };
        check(false, &[], 8);
        // But for those that a server may take for ours.
        check(true, &["api_key: k", "Forwarded_: x", "HOST_: b"], 5);
    }

    #[test]
    fn a16_a_server_is_told_the_prefix_that_it_does_not_see() {
        let head = HeadReader::default().next(&mut BytesMut::from(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..]));
        let head = head.unwrap().unwrap();
        for (before, stripped, expected) in [
            ("", "", None),
            ("", "/api", Some("x-forwarded-prefix: /api")),
            ("/shop", "", Some("x-forwarded-prefix: /shop")),
            ("/shop", "/api", Some("x-forwarded-prefix: /shop/api")),
        ] {
            let mut out = BytesMut::new();
            let origin = ForwardedInfo::new([10, 0, 0, 1].into(), Scheme::Http);
            let origin = ForwardedInfo { prefix: before.to_owned(), ..origin };
            let request = UpstreamRequest { stripped, ..upstream_request(["/", "", "", ""], &origin) };
            put_request(&mut out, &head, request);
            let seen = lines(&out).into_iter().find(|line| line.starts_with("x-forwarded-prefix"));
            assert_eq!(seen.as_deref(), expected);
        }
    }

    #[test]
    fn a_host_cannot_inject_anything() {
        let check = |text: &str, expected: &[&str]| {
            let head = HeadReader::default().next(&mut BytesMut::from(text.as_bytes())).unwrap().unwrap();
            let mut out = BytesMut::new();
            let origin = ForwardedInfo::new([10, 0, 0, 1].into(), Scheme::Http);
            put_request(&mut out, &head, upstream_request(["/", "", "", ""], &origin));
            assert!(expected.iter().all(|one| lines(&out).iter().any(|line| line == one)), "{:?}", lines(&out));
        };
        let forwarded = "forwarded: for=10.0.0.1;host=\"a,for=6.6.6.6;proto=https\";proto=http";
        check("GET / HTTP/1.1\r\nHost: a,for=6.6.6.6;proto=https\r\n\r\n", &[forwarded]);
        check("GET / HTTP/1.0\r\n\r\n", &["host: 127.0.0.1:7", "forwarded: for=10.0.0.1;proto=http"]);
    }

    #[test]
    fn a_server_is_told_the_id_of_the_request_once() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nx-request-ID: a\r\nX-Request-Id: b\r\n\r\n";
        let head = HeadReader::default().next(&mut BytesMut::from(text.as_bytes())).unwrap().unwrap();
        let (mut out, origin) = (BytesMut::new(), ForwardedInfo::new([0; 16].into(), Scheme::Https));
        put_request(&mut out, &head, upstream_request(["/", "", "", ""], &origin));
        let ids: Vec<_> = lines(&out).into_iter().filter(|line| line.to_lowercase().contains("request-id")).collect();
        assert_eq!(ids, ["x-request-id: i"]);
    }

    #[test]
    fn a_response_loses_what_belongs_to_its_connection() {
        let check = |fields: &str, with_length: bool, expected: &[&str]| {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let head = ResponseReader::default().next(&mut BytesMut::from(text.as_bytes()), false).unwrap().unwrap();
            let mut out = BytesMut::new();
            put_response_fields(&mut out, &head.fields, with_length, &ResponseEdits::default());
            assert_eq!(lines(&out), expected);
        };
        let fields = "Server: s\r\nConnection: close, X-A\r\nX-A: b\r\nKeep-Alive: timeout=5\r\nContent-Length: 3\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n";
        check(fields, false, &["Server: s", "Set-Cookie: a", "Set-Cookie: b"]);
        check(fields, true, &["Server: s", "Content-Length: 3", "Set-Cookie: a", "Set-Cookie: b"]);
        check("Content-Length: 3, 3\r\nContent-Length: 3\r\n", true, &["Content-Length: 3"]);
    }

    #[test]
    fn trailers_change_nothing_that_came_before() {
        let mut out = BytesMut::new();
        let spoofed = "X_Forwarded_For: 1.1.1.1\r\nx-forwarded_host: a\r\nX_Real_IP: 1.1.1.1\r\nSet_Cookie: a\r\n";
        let trailers = format!("Digest: x\nContent-Length: 3\r\nSet-Cookie: a\r\n{spoofed}X: y\r\n");
        put_trailers(&mut out, trailers.as_bytes());
        assert_eq!(out, "Digest: x\r\nX: y\r\n");
    }
}
