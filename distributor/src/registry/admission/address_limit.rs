//! Decides how much of a space in bytes that all peers share one address may hold.

use std::net::IpAddr;

use net::address_group;

/// An address may hold at most as many bytes as stay free, times this. A single address gets half
/// of the space, two get a third each, and some is always left for the next. This is the dynamic
/// threshold of Choudhury and Hahne, known from the buffers of switches. With its 256 connections
/// an address has 16 KiB for each node in half of the default list.
const MAX_TIMES_FREE: usize = 1;

/// The bytes that one address may hold while `free` bytes are left for all.
pub(in crate::registry) fn share_of(free: usize) -> usize {
    free.saturating_mul(MAX_TIMES_FREE)
}

/// Whether the peers that share the address of `host` may hold `held` bytes while `free` are left
/// for all. This machine is excepted, as from the limit of connections: all nodes may be on it.
pub(in crate::registry) fn is_within_share(host: &str, held: usize, free: usize) -> bool {
    let is_this_machine = || host.parse::<IpAddr>().is_ok_and(|host| address_group(host).is_loopback());
    held <= share_of(free) || is_this_machine()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_holds_no_more_than_is_free_and_this_machine_all() {
        let check = |host: &str, held: usize, free: usize, expected: bool| {
            assert_eq!(is_within_share(host, held, free), expected, "{host} {held} {free}");
        };
        check("10.0.0.1", 50, 50, true);
        check("10.0.0.1", 51, 49, false);
        check("2001:db8::1", 51, 49, false);
        check("::1", 100, 0, true);
        check("::ffff:127.0.0.1", 100, 0, true);
    }
}
