//! An address as people write it: a host and a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// Maximum bytes of a name, and of one of its labels (RFC 1035, 2.3.4).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A host, by address or by name, and a port: `10.0.0.1:80`, `[fd00::1]:80`, `shop.example:80`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The host.
    pub host: HostName,
    /// The port; never 0.
    pub port: u16,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostName {
    /// An address. An IPv4 address is not mapped to IPv6.
    Ip(IpAddr),
    /// A name, to be looked up.
    Name(Box<str>),
}

/// Why a text is not a [`HostPort`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostPortError {
    /// There is no port.
    #[error("it has no port; write it like 10.0.0.1:9000, [fd00::1]:9000 or registry.example:9000")]
    NoPort,
    /// The port is not a port.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// An IPv6 address without brackets, where the port begins nowhere.
    #[error("an IPv6 address stands in brackets, as in [fd00::1]:9000")]
    Brackets,
    /// The text is a URL.
    #[error("write the host and the port alone, without http://, as in registry.example:9000")]
    Scheme,
    /// The host is neither an address nor a name.
    #[error("the host must be an address, or a name of letters, digits, hyphens and dots")]
    Host,
}

/// Why no node can be called at an advertised address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AdvertisedError {
    /// Every machine reads the address as its own.
    #[error("every machine takes this for itself; advertise an address that others can reach")]
    ThisMachine,
    /// The address is not that of a single host, or holds on one link only.
    #[error("this is not the address of one host that others can reach")]
    NoHost,
}

impl HostPort {
    /// The address, unless the host is a name.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self.host {
            HostName::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            HostName::Name(_) => None,
        }
    }

    /// Checks that a node which the Distributor sees at `seen` may advertise this. A loopback
    /// address is for nodes that come over loopback themselves: others take it for the
    /// Distributor's machine.
    ///
    /// # Errors
    /// [`AdvertisedError`] says why not.
    pub fn check_advertised(&self, seen: IpAddr) -> Result<(), AdvertisedError> {
        let host = match &self.host {
            HostName::Ip(ip) => ip.to_canonical(),
            HostName::Name(name) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let is_local = name == "localhost" || name.ends_with(".localhost");
                return if is_local { Err(AdvertisedError::ThisMachine) } else { Ok(()) };
            }
        };
        if host.is_loopback() && !seen.to_canonical().is_loopback() {
            Err(AdvertisedError::ThisMachine)
        } else if blocked_host(host).is_some() {
            Err(AdvertisedError::NoHost)
        } else {
            Ok(())
        }
    }
}

/// Why no node is called at a host, whichever peer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedHost {
    /// The address is not that of one host: it is unspecified, multicast or broadcast. A connection
    /// to 0.0.0.0 or :: ends at this machine.
    NoHost,
    /// The address is link-local, or that of the metadata of cloud machines.
    LinkLocal,
}

/// The address that a connection to `host` ends at: the IPv4 address, even if it is mapped to IPv6
/// or translated on its way (RFC 6052).
pub fn reached_host(host: IpAddr) -> IpAddr {
    match host.to_canonical() {
        IpAddr::V6(host) if host.octets()[..12] == TRANSLATED => {
            let [.., a, b, c, d] = host.octets();
            [a, b, c, d].into()
        }
        host => host,
    }
}

/// Whether no node is called at `host`, or at the [host that it reaches](reached_host).
pub fn blocked_host(host: IpAddr) -> Option<BlockedHost> {
    let host = reached_host(host);
    if host == METADATA {
        return Some(BlockedHost::LinkLocal);
    }
    let (is_none, is_link_local) = match host {
        IpAddr::V4(host) => (host.octets()[0] == 0 || host.is_broadcast(), host.is_link_local()),
        IpAddr::V6(host) => (host.is_unspecified(), host.is_unicast_link_local()),
    };
    match (is_none || host.is_multicast(), is_link_local) {
        (true, _) => Some(BlockedHost::NoHost),
        (false, true) => Some(BlockedHost::LinkLocal),
        (false, false) => None,
    }
}

/// The IPv6 address of the metadata of cloud machines. Its IPv4 address is link-local.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The prefix of IPv4 addresses that are translated (RFC 6052).
const TRANSLATED: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let text = text.trim();
        if text.contains("://") {
            return Err(HostPortError::Scheme);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(HostPortError::Brackets)?;
                let host = host.parse::<Ipv6Addr>().map_err(|_| HostPortError::Host)?;
                let port = rest.strip_prefix(':').ok_or(HostPortError::NoPort)?;
                (HostName::Ip(IpAddr::V6(host).to_canonical()), port)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or(HostPortError::NoPort)?;
                if host.contains(':') {
                    return Err(HostPortError::Brackets);
                }
                (HostName::parse(host).ok_or(HostPortError::Host)?, port)
            }
        };
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port != 0 && is_number).ok_or(HostPortError::Port)?;
        Ok(Self { host, port })
    }
}

impl HostName {
    /// Reads an IPv4 address or a name.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self::Ip(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            plain && (1..=MAX_LABEL_BYTES).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        // The system reads 127.1, 0x7f000001 and 2130706433 as addresses.
        let is_numeric = name.rsplit('.').next().is_some_and(|last| {
            let digits = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
            match digits {
                Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
                None => last.bytes().all(|byte| byte.is_ascii_digit()),
            }
        });
        let is_name = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label) && !is_numeric;
        is_name.then(|| Self::Name(text.into()))
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: HostName::Ip(address.ip().to_canonical()), port: address.port() }
    }
}

impl From<(IpAddr, u16)> for HostPort {
    fn from((ip, port): (IpAddr, u16)) -> Self {
        Self { host: HostName::Ip(ip.to_canonical()), port }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostName::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            HostName::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, HostPortError>) {
        let read = text.parse::<HostPort>().map(|read| read.to_string());
        assert_eq!(read.as_deref().map_err(|error| *error), expected, "{text}");
    }

    #[test]
    fn addresses_and_names_with_a_port_are_read() {
        check("10.0.0.1:80", Ok("10.0.0.1:80"));
        check(" localhost:9000 ", Ok("localhost:9000"));
        check("[fd00::1]:80", Ok("[fd00::1]:80"));
        check("[::ffff:10.0.0.1]:80", Ok("10.0.0.1:80"));
        check("my_service.a-b.example.:65535", Ok("my_service.a-b.example.:65535"));
        check("1and1.example:1", Ok("1and1.example:1"));
        check("3com:1", Ok("3com:1"));
        for (text, error) in [
            ("", HostPortError::NoPort),
            ("foo", HostPortError::NoPort),
            ("10.0.0.1", HostPortError::NoPort),
            ("[::1]", HostPortError::NoPort),
            ("[::1]9000", HostPortError::NoPort),
            ("::1", HostPortError::Brackets),
            ("::1:9000", HostPortError::Brackets),
            ("[::1:9000", HostPortError::Brackets),
            ("http://foo:80", HostPortError::Scheme),
            ("tcp://[::1]:80/", HostPortError::Scheme),
            ("foo:", HostPortError::Port),
            ("foo:0", HostPortError::Port),
            ("foo:65536", HostPortError::Port),
            ("foo:+80", HostPortError::Port),
            ("foo:http", HostPortError::Port),
            (":80", HostPortError::Host),
            ("*:80", HostPortError::Host),
            ("a b:80", HostPortError::Host),
            ("a/b:80", HostPortError::Host),
            ("a..b:80", HostPortError::Host),
            ("-a:80", HostPortError::Host),
            ("상품:80", HostPortError::Host),
            ("127.1:80", HostPortError::Host),
            ("0x7f000001:80", HostPortError::Host),
            ("2130706433:80", HostPortError::Host),
            ("10.0.0.256:80", HostPortError::Host),
            ("[10.0.0.1]:80", HostPortError::Host),
            ("[fe80::1%eth0]:80", HostPortError::Host),
        ] {
            check(text, Err(error));
        }
        check(&format!("{}:80", "a".repeat(64)), Err(HostPortError::Host));
        check(&format!("{}a:80", "a.".repeat(127)), Err(HostPortError::Host));
        let longest = format!("{}a:80", "a.".repeat(126));
        check(&longest, Ok(&longest));
    }

    #[test]
    fn what_is_advertised_is_one_host_that_others_can_reach() {
        #[track_caller]
        fn check(text: &str, seen: &str, expected: Result<(), AdvertisedError>) {
            let address: HostPort = text.parse().unwrap();
            assert_eq!(address.check_advertised(seen.parse().unwrap()), expected, "{text} from {seen}");
        }
        let (far, near) = ("10.0.0.1", "127.0.0.1");
        for text in ["192.0.2.1:80", "[2001:db8::1]:80", "shop.example:80", "10.0.0.9:1"] {
            check(text, far, Ok(()));
            check(text, near, Ok(()));
        }
        for text in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            check(text, far, Err(AdvertisedError::ThisMachine));
            check(text, near, Ok(()));
            check(text, "::1", Ok(()));
            check(text, "::ffff:127.0.0.1", Ok(()));
        }
        for text in ["localhost:80", "LocalHost.:80", "a.localhost:80"] {
            check(text, near, Err(AdvertisedError::ThisMachine));
        }
        for text in [
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "255.255.255.255:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "169.254.169.254:80",
            "[fe80::1]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[fd00:ec2::254]:80",
        ] {
            check(text, far, Err(AdvertisedError::NoHost));
            check(text, near, Err(AdvertisedError::NoHost));
        }
    }
}
