//! Addresses that are never called, even if a node registers them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use protocol::{BlockedHost, blocked_host, reached_host};

/// Addresses that a process never calls for its peers.
#[derive(Clone, Debug, Default)]
pub struct BlockedAddresses {
    /// Addresses on which the process itself listens for clients that are not nodes.
    own: Vec<SocketAddr>,
}

impl BlockedAddresses {
    /// The blocked addresses of a process that listens at `own` addresses itself.
    pub fn new(own: Vec<SocketAddr>) -> Self {
        Self { own: own.into_iter().map(canonical).collect() }
    }

    /// Why an address is never called, if so.
    pub fn reason(&self, address: SocketAddr) -> Option<&'static str> {
        let address = canonical(address);
        match blocked_host(address.ip()) {
            Some(BlockedHost::NoHost) => return Some("its address is not that of one host"),
            Some(BlockedHost::LinkLocal) => {
                return Some("its address is link-local, where cloud metadata is served");
            }
            None => {}
        }
        let host = reached_host(address.ip());
        let is_own = |own: &SocketAddr| {
            let port = own.port() == address.port();
            port && (own.ip() == host || own.ip().is_unspecified() && is_of_this_machine(host))
        };
        self.own.iter().any(is_own).then_some("this process listens there itself")
    }
}

/// The IPv4 address, even if it is mapped to IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether this is an address of this machine. The system binds no others.
fn is_of_this_machine(host: IpAddr) -> bool {
    host.is_loopback() || UdpSocket::bind((host, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(own: &[&str], address: &str, expected: bool) {
        let blocked = BlockedAddresses::new(own.iter().map(|own| own.parse().unwrap()).collect());
        assert_eq!(blocked.reason(address.parse().unwrap()).is_some(), expected, "{own:?} {address}");
    }

    #[test]
    fn addresses_of_no_host_or_link_local_are_never_called() {
        for address in [
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "255.255.255.255:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "169.254.169.254:80",
            "169.254.0.1:80",
            "[fe80::1]:80",
            "[::ffff:169.254.169.254]:80",
            "[::ffff:0.0.0.0]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[fd00:ec2::254]:80",
        ] {
            check(&[], address, true);
        }
        for address in ["127.0.0.1:80", "10.0.0.1:80", "[::1]:80", "[fd00::1]:80", "[2001:db8::1]:80", "192.0.2.1:1"] {
            check(&[], address, false);
        }
    }

    #[test]
    fn own_listeners_are_never_called() {
        check(&["127.0.0.1:8001"], "127.0.0.1:8001", true);
        check(&["127.0.0.1:8001"], "[::ffff:127.0.0.1]:8001", true);
        check(&["127.0.0.1:8001"], "127.0.0.1:8002", false);
        check(&["127.0.0.1:8001"], "127.0.0.2:8001", false);
        check(&["127.0.0.1:8001"], "[::1]:8001", false);
        check(&["[::1]:8001"], "[::1]:8001", true);
        for everywhere in ["0.0.0.0:8001", "[::]:8001"] {
            check(&[everywhere], "127.0.0.1:8001", true);
            check(&[everywhere], "127.7.7.7:8001", true);
            check(&[everywhere], "[::1]:8001", true);
            check(&[everywhere], "[::ffff:127.0.0.1]:8001", true);
            check(&[everywhere], "[64:ff9b::7f00:1]:8001", true);
            check(&[everywhere], "192.0.2.1:8001", false);
            check(&[everywhere], "127.0.0.1:8002", false);
        }
        // Another address of this machine: the one from which it would send.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            let address = SocketAddr::new(socket.local_addr().unwrap().ip(), 8001);
            check(&["0.0.0.0:8001"], &address.to_string(), true);
        }
    }
}
