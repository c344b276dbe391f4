//! Where other nodes are told that this one is, and whether they can call it there.

use std::net::{IpAddr, SocketAddr};

/// The address of the Distributor, if it is on another machine: the two ends of the connection
/// tell.
pub(super) fn registry_host(here: IpAddr, there: IpAddr) -> Option<IpAddr> {
    (!there.is_loopback() && here != there).then_some(there)
}

/// Why a node that listens on `listen` cannot be called at the listed address `told`, from which it
/// has connected to the Distributor. `None` if it can.
pub(super) fn unreachable(listen: IpAddr, told: IpAddr, port: u16) -> Option<String> {
    let is_everywhere = listen.is_unspecified() && (listen.is_ipv6() || told.is_ipv4());
    if is_everywhere || listen == told {
        return None;
    }
    let callers = if listen.is_loopback() && !told.is_loopback() { "no other machine" } else { "no other node" };
    let everywhere = if told.is_ipv4() { "0.0.0.0" } else { "[::]" };
    let (listens, told_at) = (SocketAddr::new(listen, port), SocketAddr::new(told, port));
    Some(format!(
        "{callers} can call this node: it listens on {listens}, and others are told {told_at}; have it listen on {told} or on \
         {everywhere}, or advertise the address at which it can be called (.advertise(…), NODE_ADVERTISE)"
    ))
}

/// Whether the Distributor sees a node that connects from `here` come from `seen`, because the
/// addresses are translated on the way.
pub(super) fn is_translated(here: IpAddr, seen: IpAddr) -> bool {
    here.to_canonical() != seen.to_canonical() && !here.is_loopback() && !seen.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distributor_is_on_another_machine_unless_its_connection_begins_where_it_ends() {
        #[track_caller]
        fn check(here: &str, there: &str, expected: Option<&str>) {
            let [here, there] = [here, there].map(|text| text.parse().unwrap());
            assert_eq!(registry_host(here, there), expected.map(|text| text.parse().unwrap()));
        }
        check("127.0.0.1", "127.0.0.1", None);
        check("::1", "::1", None);
        check("127.0.0.1", "127.0.0.53", None);
        check("10.0.0.2", "10.0.0.9", Some("10.0.0.9"));
        check("fd00::2", "fd00::9", Some("fd00::9"));
        // By this machine's own address in the network.
        check("10.0.0.2", "10.0.0.2", None);
    }

    #[test]
    fn a2_a_node_can_be_called_where_it_listens() {
        #[track_caller]
        fn check(listen: &str, told: &str, expected: Option<&[&str]>) {
            let warning = unreachable(listen.parse().unwrap(), told.parse().unwrap(), 9010);
            let Some(parts) = expected else { return assert_eq!(warning, None) };
            let warning = warning.expect("a warning");
            for part in parts {
                assert!(warning.contains(part), "{part}: {warning}");
            }
        }
        for (listen, told) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("0.0.0.0", "10.0.0.2"),
            ("::", "10.0.0.2"),
            ("::", "fd00::2"),
            ("::1", "::1"),
            ("10.0.0.2", "10.0.0.2"),
        ] {
            check(listen, told, None);
        }
        check(
            "127.0.0.1",
            "10.0.0.2",
            Some(&["no other machine", "on 127.0.0.1:9010", "told 10.0.0.2:9010", "on 10.0.0.2 or on 0.0.0.0"]),
        );
        check("::1", "fd00::2", Some(&["no other machine", "on [::1]:9010", "told [fd00::2]:9010", "or on [::]"]));
        check("0.0.0.0", "fd00::2", Some(&["no other node", "on 0.0.0.0:9010", "told [fd00::2]:9010", "or on [::]"]));
        check("127.0.0.1", "::1", Some(&["no other node", "told [::1]:9010"]));
        check("10.0.0.2", "127.0.0.1", Some(&["no other node", "on 10.0.0.2:9010", "told 127.0.0.1:9010"]));
        check("10.0.0.2", "10.0.1.2", Some(&["no other node", "advertise"]));
    }

    #[test]
    fn a3_a_translated_address_is_noticed() {
        for (here, seen, expected) in [
            ("10.0.0.2", "10.0.0.2", false),
            ("10.0.0.2", "::ffff:10.0.0.2", false),
            ("172.17.0.2", "192.0.2.1", true),
            ("127.0.0.1", "10.0.0.2", false),
            ("10.0.0.2", "127.0.0.1", false),
        ] {
            assert_eq!(is_translated(here.parse().unwrap(), seen.parse().unwrap()), expected, "{here} {seen}");
        }
    }
}
