//! Connecting to a name that has several addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Maximum number of addresses of one name that are used: more than any service behind one name
/// should need, and few enough to try within a second or two.
const MAX_ADDRESSES: usize = 16;
/// If an address does not answer for this long, the next one is tried in parallel (RFC 8305, 5).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The addresses of a host, which may be a name. The two families alternate (RFC 8305, 4), and each
/// address occurs once. There is at least one. Cancel safe.
///
/// # Errors
/// `NotFound`, with the name and the reason of the system.
pub async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match tokio::net::lookup_host((host, port)).await {
        Ok(addresses) => in_turn(addresses.chain(loopback(host, port))),
        Err(error) => in_turn(loopback(host, port)).map_err(|_none| unknown(host, &error)),
    }
}

/// As [`look_up`], for threads that may wait.
///
/// # Errors
/// As for [`look_up`].
pub fn look_up_blocking(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match (host, port).to_socket_addrs() {
        Ok(addresses) => in_turn(addresses.chain(loopback(host, port))),
        Err(error) => in_turn(loopback(host, port)).map_err(|_none| unknown(host, &error)),
    }
}

/// Connects to the first of the addresses that takes the connection. They are tried in their order;
/// one that is slow delays the next by a quarter of a second. Cancel safe.
///
/// # Errors
/// The first error when all fail.
pub async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(only).await;
    }
    let mut waiting = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut failure = None;
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(TcpStream::connect(address));
        } else if attempts.is_empty() {
            return Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()));
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => drop(failure.get_or_insert(error)),
                Err(stopped) => drop(failure.get_or_insert_with(|| io::Error::other(stopped))),
            },
            () = sleep(CONNECTION_ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

/// `localhost` is both loopback addresses, whatever the system's table lacks (RFC 6761, 6.3).
fn loopback(host: &str, port: u16) -> impl Iterator<Item = SocketAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_local = host.eq_ignore_ascii_case("localhost");
    let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    both.into_iter().filter(move |_| is_local).map(move |ip| SocketAddr::new(ip, port))
}

/// Whether an address can be connected to from this machine, as far as that is known before. Where
/// IPv6 is turned off, as in many containers, `localhost` still has an IPv6 address, and a
/// connection to that fails as if no port were left.
fn is_usable(address: &SocketAddr) -> bool {
    address.ip() != Ipv6Addr::LOCALHOST || UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Adds the name that could not be looked up, which the error of the system lacks.
fn unknown(host: &str, error: &io::Error) -> io::Error {
    let error = error.to_string();
    let why = error.strip_prefix("failed to lookup address information: ").unwrap_or(&error);
    io::Error::new(io::ErrorKind::NotFound, format!("the name {host} cannot be looked up: {why}"))
}

/// Each address once, and both families in turn, beginning with the family that the system prefers.
fn in_turn(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut families: [Vec<SocketAddr>; 2] = Default::default();
    let mut first_is_v6 = None;
    for address in addresses.filter(is_usable) {
        // An IPv4 address that is mapped into IPv6 counts as that IPv4 address.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let is_v6 = matches!(address.ip(), IpAddr::V6(_));
        let family = &mut families[usize::from(is_v6 != *first_is_v6.get_or_insert(is_v6))];
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let [preferred, other] = families;
    let longest = preferred.len().max(other.len());
    let all = (0..longest).flat_map(|at| [preferred.get(at), other.get(at)]).flatten();
    let all: Vec<_> = all.copied().take(MAX_ADDRESSES).collect();
    if all.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], expected: &[&str]) {
        let [addresses, expected] = [addresses, expected]
            .map(|list| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>());
        assert_eq!(in_turn(addresses.into_iter()).unwrap_or_default(), expected);
    }

    #[test]
    fn families_take_turns() {
        check(&[], &[]);
        check(&["10.0.0.1:1"], &["10.0.0.1:1"]);
        check(&["10.0.0.1:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"], &["10.0.0.1:1"]);
        check(
            &["[fd00::1]:1", "[fd00::2]:1", "[fd00::3]:1", "10.0.0.1:1"],
            &["[fd00::1]:1", "10.0.0.1:1", "[fd00::2]:1", "[fd00::3]:1"],
        );
        check(&["10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"], &["10.0.0.1:1", "[fd00::1]:1", "10.0.0.2:1"]);
        let many: Vec<SocketAddr> = (1..100).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        assert_eq!(in_turn(many.into_iter()).unwrap().len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn a11_localhost_is_both_loopback_addresses() {
        let has_v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        for name in ["localhost", "LOCALHOST", "localhost."] {
            for found in [look_up(name, 7).await.unwrap(), look_up_blocking(name, 7).unwrap()] {
                assert!(found.contains(&SocketAddr::from((Ipv4Addr::LOCALHOST, 7))), "{found:?}");
                assert_eq!(found.contains(&SocketAddr::from((Ipv6Addr::LOCALHOST, 7))), has_v6, "{found:?}");
            }
        }
        let error = look_up("no-such-host.invalid", 7).await.unwrap_err();
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    }

    #[tokio::test]
    async fn a11_every_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listening = listener.local_addr().unwrap();
        let refused = |last| SocketAddr::from(([127, 0, 0, last], listening.port()));
        for addresses in [vec![listening], vec![refused(2), listening], vec![refused(2), refused(3), listening]] {
            assert_eq!(connect_any(&addresses).await.unwrap().peer_addr().unwrap(), listening);
        }
        let error = connect_any(&[refused(2), refused(3)]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect_any(&[]).await.is_err());
    }

    #[tokio::test]
    async fn a11_an_address_that_does_not_answer_does_not_keep_the_next_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // The backlog is full: the system drops further connections.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let silent = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(silent)).await {
            held.push(stream);
        }
        let listening = listener.local_addr().unwrap();
        let connected = tokio::time::timeout(Duration::from_secs(30), connect_any(&[silent, listening])).await;
        assert_eq!(connected.unwrap().unwrap().peer_addr().unwrap(), listening);
    }
}
