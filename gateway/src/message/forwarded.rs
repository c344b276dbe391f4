//! The origin of a request, as the request states it and as servers are told. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::message::fields::Fields;
use crate::message::head::{Scheme, is_host};

/// The field that counts the gateways which have passed a request on.
pub(crate) const HOPS: &str = "x-gateway-hops";

/// The client, scheme and host of a request, as redirects, cookies, logs and servers see them.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedInfo {
    /// `X-Forwarded-For` and `-Proto`.
    pub(crate) fields: String,
    /// The statements of a trusted proxy in front of us in `Forwarded`.
    pub(crate) before: String,
    /// RFC 7239's `for` and `proto`.
    pub(crate) forwarded: [String; 2],
    /// The host that the client requested, if a proxy in front of us says so.
    pub(crate) host: Option<String>,
    /// The prefix that a proxy in front of us has removed from the path, if it says so: without a
    /// slash at its end.
    pub(crate) prefix: String,
    /// How the client speaks to us, or to a proxy that is believed.
    pub(crate) scheme: Scheme,
    /// Whether a trusted proxy stands between.
    pub(crate) is_proxied: bool,
}

impl ForwardedInfo {
    /// The origin of a request from the connected client itself.
    pub(crate) fn new(client: IpAddr, scheme: Scheme) -> Self {
        Self::build(client.to_canonical(), scheme, "")
    }

    fn build(client: IpAddr, scheme: Scheme, before: &str) -> Self {
        let (node, proto) = (forwarded_node(client), scheme.name());
        let comma = if before.is_empty() { "" } else { ", " };
        Self {
            fields: format!("x-forwarded-for: {before}{comma}{client}\r\nx-forwarded-proto: {proto}\r\n"),
            before: String::new(),
            forwarded: [format!("for={node};"), format!("proto={proto}")],
            host: None,
            prefix: String::new(),
            scheme,
            is_proxied: false,
        }
    }

    /// The client of a request that came through a trusted proxy at `peer`, and the origin that
    /// servers are told. Without any of `X-Forwarded-For`, `-Proto` and `-Host`, `Forwarded`
    /// counts. The client is the last address that is not a trusted proxy. Its scheme and host are
    /// those of the same entry.
    pub(crate) fn through(&self, peer: IpAddr, fields: &Fields, trusted: &[IpNet]) -> (IpAddr, Self) {
        let all = |name: &'static str| {
            let values = fields.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
            // A value that is not text stays in its position, so that it does not hide its
            // neighbours.
            values.map(|(_, value)| String::from_utf8_lossy(value)).collect::<Vec<_>>().join(", ")
        };
        let forwarded = all("forwarded");
        // A proxy says it in either way. One that says it in these passes the other on as the
        // client has written it.
        let lists = [all("x-forwarded-for"), all("x-forwarded-proto"), all("x-forwarded-host")];
        let lists = match lists.iter().all(String::is_empty) {
            true => ["for", "proto", "host"].map(|parameter| parameters(&forwarded, parameter)),
            false => lists,
        };
        let [hops, protos, hosts] = lists;
        let (mut client, mut believed) = (peer, 0);
        for hop in hops.rsplit(',').map(str::trim) {
            let is_trusted = trusted.iter().any(|network| network.contains(&client));
            match hop_address(hop) {
                Some(address) if is_trusted => (client, believed) = (address, believed + 1),
                _ => break,
            }
        }
        // Each proxy adds one value; some set one for all.
        let last: usize = std::cmp::max(believed, 1) - 1;
        let of_client = |list: &str| {
            let values: Vec<_> = list.rsplit(',').map(str::trim).collect();
            values[last.min(values.len() - 1)].to_owned()
        };
        let proto = of_client(&protos);
        let is_one_of = |names: [&str; 2]| names.iter().any(|name| proto.eq_ignore_ascii_case(name));
        let scheme = match () {
            () if is_one_of(["https", "wss"]) => Scheme::Https,
            () if is_one_of(["http", "ws"]) => Scheme::Http,
            () => self.scheme,
        };
        let host = of_client(&hosts);
        let prefix: String =
            all("x-forwarded-prefix").split(',').map(|part| part.trim().trim_end_matches('/')).collect();
        let origin = Self {
            before: forwarded,
            host: Some(host).filter(|host| !host.is_empty() && is_host(host)),
            prefix: if is_plain_path(&prefix) { prefix } else { String::new() },
            is_proxied: true,
            ..Self::build(peer, scheme, &hops)
        };
        (client, origin)
    }

    /// Whether the client speaks TLS, with us or with a trusted proxy.
    pub(crate) fn is_tls(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

/// An address as RFC 7239 has it.
fn forwarded_node(client: IpAddr) -> String {
    match client {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// The values of one parameter in `Forwarded` (RFC 7239, 4), with commas between them: one for each
/// element, which is empty where the element does not say. Nothing when none says.
fn parameters(forwarded: &str, name: &str) -> String {
    let mut values = Vec::new();
    for element in split_unquoted(forwarded, ',') {
        let pairs = split_unquoted(element, ';').filter_map(|pair| pair.trim().split_once('='));
        let value = pairs.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).next();
        let value = value.unwrap_or_default();
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let value = quoted.map_or_else(|| value.to_owned(), |value| value.replace('\\', ""));
        // A comma would make two values of it.
        values.push(if value.contains(',') { String::new() } else { value });
    }
    if values.iter().all(String::is_empty) { String::new() } else { values.join(", ") }
}

/// The parts of a text between `separator`s that do not stand in quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |character| {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = is_quoted,
            '"' => is_quoted = !is_quoted,
            _ => return character == separator && !is_quoted,
        }
        false
    })
}

/// Whether a path may stand in front of another: nothing in it has to be escaped, or leads up.
fn is_plain_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    path.starts_with('/')
        && path.bytes().all(is_plain)
        && path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of a request that came through proxies at 10.0.0.1 and 10.0.0.2, without TLS
    /// here: client, scheme, host and prefix.
    #[track_caller]
    fn check(fields: &[(&str, &str)], client: &str, scheme: Scheme, host: Option<&str>, prefix: &str) {
        let (trusted, peer) = (["10.0.0.0/24".parse().unwrap()], IpAddr::from([10, 0, 0, 1]));
        let (seen, origin) =
            ForwardedInfo::new(peer, Scheme::Http).through(peer, &Fields::from_pairs(fields), &trusted);
        let seen = (seen.to_string(), origin.scheme, origin.host.as_deref(), &*origin.prefix);
        assert_eq!(seen, (client.to_owned(), scheme, host, prefix), "{fields:?}");
    }

    #[test]
    fn a6_scheme_host_and_client_are_what_a_trusted_proxy_says() {
        const FOR: &str = "X-Forwarded-For";
        const PROTO: &str = "X-Forwarded-Proto";
        const FORWARDED: &str = "Forwarded";
        let (http, https) = (Scheme::Http, Scheme::Https);
        check(&[], "10.0.0.1", http, None, "");
        check(&[(PROTO, "https")], "10.0.0.1", https, None, "");
        check(&[(PROTO, "HTTPS")], "10.0.0.1", https, None, "");
        check(&[(PROTO, "wss")], "10.0.0.1", https, None, "");
        check(&[(PROTO, "gopher")], "10.0.0.1", http, None, "");
        check(&[(FOR, "192.0.2.1"), (PROTO, "https")], "192.0.2.1", https, None, "");
        // What stands before the client's place, the client has written.
        check(&[(FOR, "192.0.2.1"), (PROTO, "https, http")], "192.0.2.1", http, None, "");
        check(&[(FOR, "192.0.2.1, 10.0.0.2"), (PROTO, "https, http")], "192.0.2.1", https, None, "");
        check(&[(FOR, "192.0.2.1, 10.0.0.2"), (PROTO, "https"), (PROTO, "http")], "192.0.2.1", https, None, "");
        check(&[(FOR, "192.0.2.1, 10.0.0.2"), (PROTO, "https")], "192.0.2.1", https, None, "");
        check(&[(FOR, "6.6.6.6, 192.0.2.1, 10.0.0.2"), (PROTO, "x, https, http")], "192.0.2.1", https, None, "");
        check(&[("X-Forwarded-Host", "a, b:81")], "10.0.0.1", http, Some("b:81"), "");
        check(&[("X-Forwarded-Host", "a b")], "10.0.0.1", http, None, "");
        // RFC 7239 says the same in one field.
        check(&[(FORWARDED, "for=192.0.2.1;proto=https;host=a")], "192.0.2.1", https, Some("a"), "");
        let two = "For=\"[2001:db8::1]:80\"; Proto=https; host=\"a:81\", for=10.0.0.2;proto=http;host=b";
        check(&[(FORWARDED, two)], "2001:db8::1", https, Some("a:81"), "");
        check(&[(FORWARDED, "for=\"1,2\";host=\"a,b;proto=https\"")], "10.0.0.1", http, None, "");
        check(&[(FORWARDED, "for=unknown;proto=https")], "10.0.0.1", https, None, "");
        check(&[(FORWARDED, "for=\"")], "10.0.0.1", http, None, "");
        check(
            &[(FORWARDED, "for=192.0.2.1;proto=https"), (FOR, "192.0.2.9"), (PROTO, "http")],
            "192.0.2.9",
            http,
            None,
            "",
        );
        // A proxy that uses other fields has not written it.
        let forged = (FORWARDED, "for=6.6.6.6;proto=https;host=evil");
        check(&[forged, (FOR, "192.0.2.9")], "192.0.2.9", http, None, "");
        check(&[forged, (PROTO, "http")], "10.0.0.1", http, None, "");
        check(&[forged, ("X-Forwarded-Host", "a")], "10.0.0.1", http, Some("a"), "");
        let prefix = |text| check(&[("X-Forwarded-Prefix", text)], "10.0.0.1", http, None, text.trim_end_matches('/'));
        ["/shop", "/shop/", "/a/b%20c"].into_iter().for_each(prefix);
        check(&[("X-Forwarded-Prefix", "/a, /b/")], "10.0.0.1", http, None, "/a/b");
        for bad in ["shop", "/a/../b", "//a", "/a\"", "/a b"] {
            check(&[("X-Forwarded-Prefix", bad)], "10.0.0.1", http, None, "");
        }
    }

    #[test]
    fn a_proxy_that_says_only_forwarded_is_told_of_in_both_fields() {
        let (trusted, peer) = (["10.0.0.0/24".parse().unwrap()], IpAddr::from([10, 0, 0, 1]));
        let fields = Fields::from_pairs(&[("Forwarded", "for=192.0.2.1;proto=https")]);
        let (_, origin) = ForwardedInfo::new(peer, Scheme::Http).through(peer, &fields, &trusted);
        assert_eq!(origin.fields, "x-forwarded-for: 192.0.2.1, 10.0.0.1\r\nx-forwarded-proto: https\r\n");
        assert_eq!(origin.before, "for=192.0.2.1;proto=https");
        assert!(origin.is_tls() && origin.is_proxied);
    }
}
