//! The origin of a request: what the request says about it, and what servers are told. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::message::fields::Fields;
use crate::message::head::is_host;

/// The field that counts the gateways which have passed a request on.
pub(crate) const HOPS: &str = "x-gateway-hops";

/// What a request says about where it comes from, as the server is told.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedInfo {
    /// `X-Forwarded-For` and `-Proto`.
    pub(crate) fields: String,
    /// What a trusted proxy in front of us has said in `Forwarded`.
    pub(crate) before: String,
    /// RFC 7239's `for` and `proto`.
    pub(crate) forwarded: [String; 2],
    /// The host that the client requested, if a proxy in front of us says so.
    pub(crate) host: Option<String>,
    is_tls: bool,
}

impl ForwardedInfo {
    /// Of the client that is connected.
    pub(crate) fn new(client: IpAddr, is_tls: bool) -> Self {
        let client = client.to_canonical();
        let proto = if is_tls { "https" } else { "http" };
        Self::build(client, proto, is_tls, "")
    }

    fn build(client: IpAddr, proto: &str, is_tls: bool, before: &str) -> Self {
        let node = match client {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let comma = if before.is_empty() { "" } else { ", " };
        Self {
            fields: format!("x-forwarded-for: {before}{comma}{client}\r\nx-forwarded-proto: {proto}\r\n"),
            before: String::new(),
            forwarded: [format!("for={node};"), format!("proto={proto}")],
            host: None,
            is_tls,
        }
    }

    /// Of a request that came through a trusted proxy at `peer`: its client, and what servers are
    /// told. The client is the last one in `X-Forwarded-For` that is not believed itself.
    pub(crate) fn through(&self, peer: IpAddr, fields: &Fields, trusted: &[IpNet]) -> (IpAddr, Self) {
        let all = |name: &'static str| {
            let values = fields.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
            // A value that is not text stays in its position, so that it does not hide its
            // neighbours.
            values.map(|(_, value)| String::from_utf8_lossy(value)).collect::<Vec<_>>().join(", ")
        };
        let before = all("x-forwarded-for");
        let mut client = peer;
        for hop in before.rsplit(',').map(str::trim) {
            let is_trusted = trusted.iter().any(|network| network.contains(&client));
            match hop_address(hop) {
                Some(address) if is_trusted => client = address,
                _ => break,
            }
        }
        let said = all("x-forwarded-proto");
        let proto = ["https", "http"].into_iter().find(|proto| *proto == said);
        let host = Some(all("x-forwarded-host")).filter(|host| !host.is_empty() && is_host(host));
        let usual = if self.is_tls { "https" } else { "http" };
        let origin = Self {
            before: all("forwarded"),
            host,
            ..Self::build(peer, proto.unwrap_or(usual), self.is_tls || proto == Some("https"), &before)
        };
        (client, origin)
    }

    /// Whether the client speaks TLS, with us or with a trusted proxy.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }
}

/// Reads an address of `X-Forwarded-For`, with or without a port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let address = hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()));
    address
        .or_else(|_| hop.trim_start_matches('[').trim_end_matches(']').parse())
        .ok()
        .map(|ip: IpAddr| ip.to_canonical())
}

/// Whether a field states the origin of a request.
pub(crate) fn is_rebuilt(name: &[u8]) -> bool {
    let starts =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
    let names = ["forwarded", "x-real-ip", HOPS];
    starts("x-forwarded-") || names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}
