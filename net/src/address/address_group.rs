//! Address groups: addresses that count as one where peers are limited by address.

use std::net::{IpAddr, Ipv6Addr};

/// The group of an address, which counts as one peer: a whole IPv4 address, or the first 64 bits of
/// an IPv6 address, because all addresses that begin with them belong to one network (RFC 4291,
/// 2.5.4). An IPv4 address mapped to IPv6 counts as IPv4, and loopback as itself.
pub fn address_group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_group() {
        for (address, group) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::9", "2001:db8:1:2::"),
            ("2001:db8:1:3::9", "2001:db8:1:3::"),
            ("::1", "::1"),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().unwrap();
            assert_eq!(address_group(parse(address)), parse(group), "{address}");
        }
    }
}
