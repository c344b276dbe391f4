//! HAProxy's PROXY protocol, versions 1 and 2: a balancer in front of the gateway names its client
//! before the client's first byte.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Longest header: version 1 has at most 107 bytes, version 2 a few hundred with everything that
/// balancers add.
const MAX_BYTES: usize = 1024;
/// The first bytes of version 1, and its longest line.
const V1: &[u8] = b"PROXY ";
const MAX_LINE_BYTES: usize = 107;
/// How version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A flag in version 2's part about TLS: the client speaks TLS with the balancer (2.2.5).
const CLIENT_SSL: u8 = 1;
/// While the header is incomplete, it is examined again after this time, then after twice as long,
/// up to the longest.
const RECHECK_INTERVAL: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    Client {
        address: SocketAddr,
        /// Whether the client speaks TLS with the balancer, which says so in version 2.
        is_tls: bool,
    },
    /// The balancer itself, or a client whose address is not a TCP address.
    Local,
}

/// There is no header, or it is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHeader;

/// Consumes the header of a connection, and nothing that follows it. Not cancel safe.
///
/// # Errors
/// When there is no header, or it is malformed.
pub(crate) async fn read(stream: &mut TcpStream) -> io::Result<ProxyHeader> {
    let mut first = [0; MAX_BYTES];
    let (mut before, mut pause) = (0, RECHECK_INTERVAL);
    loop {
        let peeked = stream.peek(&mut first).await?;
        match parse(&first[..peeked]) {
            Some(Ok((announced, bytes))) => {
                stream.read_exact(&mut first[..bytes]).await?;
                return Ok(announced);
            }
            Some(Err(BadHeader)) => return Err(io::ErrorKind::InvalidData.into()),
            None if peeked == 0 || peeked == MAX_BYTES => return Err(io::ErrorKind::UnexpectedEof.into()),
            // The system does not report further bytes after those that it has reported.
            None if pause > MAX_PAUSE => return Err(io::ErrorKind::TimedOut.into()),
            None if peeked == before => {
                sleep(pause).await;
                pause *= 2;
            }
            None => (before, pause) = (peeked, RECHECK_INTERVAL),
        }
    }
}

/// The client that is announced, and the header's length; `None` when more is needed.
pub(crate) fn parse(bytes: &[u8]) -> Option<Result<(ProxyHeader, usize), BadHeader>> {
    let begins = |start: &[u8]| start.starts_with(&bytes[..bytes.len().min(start.len())]);
    let is_line = begins(V1);
    if !is_line && !begins(V2) {
        return Some(Err(BadHeader));
    }
    // Version 1 is a line, which the parser takes for malformed before its end has arrived.
    if is_line && !bytes[..bytes.len().min(MAX_LINE_BYTES)].contains(&b'\n') {
        return (bytes.len() >= MAX_LINE_BYTES).then_some(Err(BadHeader));
    }
    // However it is cut, a line ends with CR and LF.
    if is_line && memchr::memchr(b'\n', bytes).is_some_and(|end| end == 0 || bytes[end - 1] != b'\r') {
        return Some(Err(BadHeader));
    }
    let header = HeaderResult::parse(bytes);
    if header.is_incomplete() {
        return None;
    }
    let announced = |address: IpAddr, port: u16, is_tls| {
        let address = SocketAddr::new(address, port);
        ProxyHeader::Client { address, is_tls }
    };
    Some(match header {
        HeaderResult::V1(Ok(header)) => {
            let client = match &header.addresses {
                v1::Addresses::Tcp4(of) => announced(of.source_address.into(), of.source_port, false),
                v1::Addresses::Tcp6(of) => announced(of.source_address.into(), of.source_port, false),
                v1::Addresses::Unknown => ProxyHeader::Local,
            };
            Ok((client, header.header.len()))
        }
        HeaderResult::V2(Ok(header)) => {
            let is_tls = header.tlvs().flatten().any(|more| {
                more.kind == v2::Type::SSL as u8 && more.value.first().is_some_and(|flags| flags & CLIENT_SSL != 0)
            });
            let client = match (&header.command, &header.addresses) {
                (v2::Command::Local, _) => ProxyHeader::Local,
                (_, v2::Addresses::IPv4(of)) => announced(of.source_address.into(), of.source_port, is_tls),
                (_, v2::Addresses::IPv6(of)) => announced(of.source_address.into(), of.source_port, is_tls),
                _ => ProxyHeader::Local,
            };
            Ok((client, header.len()))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(BadHeader),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the meaning of a header that a request follows, and that every incomplete part of it
    /// is waited for.
    #[track_caller]
    fn check(header: &[u8], expected: Option<ProxyHeader>) {
        let bytes = [header, b"GET / HTTP/1.1\r\n"].concat();
        match expected {
            Some(announced) => {
                assert_eq!(parse(&bytes), Some(Ok((announced, header.len()))));
                for end in 0..header.len() {
                    assert_eq!(parse(&bytes[..end]), None, "{end}");
                }
            }
            None => assert_eq!(parse(&bytes), Some(Err(BadHeader))),
        }
    }

    fn client(address: &str) -> Option<ProxyHeader> {
        Some(ProxyHeader::Client { address: address.parse().unwrap(), is_tls: false })
    }

    #[test]
    fn both_versions_are_understood() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n", client("192.0.2.1:4711"));
        check(b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", client("[2001:db8::1]:4711"));
        check(b"PROXY UNKNOWN\r\n", Some(ProxyHeader::Local));
        let version_2 = |command: u8, family: u8, addresses: &[u8]| {
            let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
            [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, addresses].concat()
        };
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 1, 187];
        check(&version_2(1, 0x11, &v4), client("192.0.2.1:4711"));
        // With an addition of the balancer: its own id for the connection.
        check(&version_2(1, 0x11, &[&v4[..], &[5, 0, 2, 1, 2]].concat()), client("192.0.2.1:4711"));
        // Or that the client speaks TLS with it, or does not.
        for (flags, is_tls) in [(1, true), (7, true), (0, false)] {
            let more = [&v4[..], &[0x20, 0, 5, flags, 0, 0, 0, 0]].concat();
            let address = "192.0.2.1:4711".parse().unwrap();
            check(&version_2(1, 0x11, &more), Some(ProxyHeader::Client { address, is_tls }));
        }
        check(&version_2(0, 0, &[]), Some(ProxyHeader::Local));
        let v6 = [[0; 15].as_slice(), &[1], &[0; 16], &[0x12, 0x67, 1, 187]].concat();
        check(&version_2(1, 0x21, &v6), client("[::1]:4711"));
    }

    #[test]
    fn other_bytes_than_a_header_are_refused() {
        for bytes in
            [&b""[..], b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 99999\r\n", b"PROXY TCP4 a b 1 2\r\n", b"\x16\x03\x01"]
        {
            check(bytes, None);
        }
        assert_eq!(parse(&[b'P'; 200]), Some(Err(BadHeader)));
        for bare in ["PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\n", "PROXY UNKNOWN\n"] {
            check(bare.as_bytes(), None);
            assert_eq!(parse(bare.as_bytes()), Some(Err(BadHeader)), "as a segment by itself");
        }
    }

    #[test]
    fn gh33_what_does_not_fit_is_refused_at_once() {
        for bytes in ["P TCP6 fff:fcff", "PROXZ", "\r\n\r\nGET"] {
            for end in 0..=bytes.len() {
                let fits = [V1, V2].iter().any(|start| start.starts_with(&bytes.as_bytes()[..end]));
                assert_eq!(parse(&bytes.as_bytes()[..end]), (!fits).then_some(Err(BadHeader)), "{end} of {bytes}");
            }
        }
        let endless = [V1, &[b'x'; MAX_LINE_BYTES]].concat();
        assert_eq!(parse(&endless[..MAX_LINE_BYTES - 1]), None);
        assert_eq!(parse(&endless[..MAX_LINE_BYTES]), Some(Err(BadHeader)));
    }
}
