//! Counts how much of a space in bytes the peers of each address hold.

use std::collections::{HashMap, hash_map};
use std::net::{IpAddr, Ipv6Addr};

use net::address_group;

/// Bytes that are held, by [address group](address_group).
#[derive(Debug, Default)]
pub(crate) struct AddressShares {
    total: usize,
    held: HashMap<IpAddr, usize>,
}

impl AddressShares {
    /// Bytes of all of them together.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Bytes of the peers that share the address of `host`.
    pub(crate) fn held_by(&self, host: &str) -> usize {
        self.held.get(&group_of(host)).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, host: &str, bytes: usize) {
        self.total += bytes;
        *self.held.entry(group_of(host)).or_default() += bytes;
    }

    /// Takes away bytes that [`add`](Self::add) has counted.
    pub(crate) fn remove(&mut self, host: &str, bytes: usize) {
        self.total -= bytes;
        if let hash_map::Entry::Occupied(mut held) = self.held.entry(group_of(host)) {
            *held.get_mut() -= bytes;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }

    /// The largest sum of one address over this table and `other`.
    pub(crate) fn largest_with(&self, other: &Self) -> usize {
        let both = |group| [self, other].into_iter().filter_map(|shares| shares.held.get(group)).sum();
        let groups = self.held.keys().chain(other.held.keys()).filter(|group| !group.is_loopback());
        groups.map(both).max().unwrap_or(0)
    }
}

/// Whether two hosts count as one address.
pub(crate) fn is_same_address(one: &str, other: &str) -> bool {
    group_of(one) == group_of(other)
}

/// The group of a host, which is the remote end of a connection, and so an address.
fn group_of(host: &str) -> IpAddr {
    host.parse().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_for_the_address_that_holds_them() {
        let (mut one, mut other) = (AddressShares::default(), AddressShares::default());
        for (host, bytes) in [("::ffff:10.0.0.1", 5), ("10.0.0.1", 2), ("2001:db8::1", 4), ("::1", 100)] {
            one.add(host, bytes);
        }
        other.add("2001:db8::2", 6);
        assert_eq!((one.total(), one.held_by("10.0.0.1"), one.held_by("10.0.0.2")), (111, 7, 0));
        assert_eq!((one.largest_with(&other), other.largest_with(&one)), (10, 10));
        for (host, bytes) in [("10.0.0.1", 7), ("2001:db8::9", 4), ("::ffff:127.0.0.1", 0), ("::1", 100)] {
            one.remove(host, bytes);
        }
        assert!(one.total() == 0 && one.held.is_empty());
    }

    #[test]
    fn hosts_of_one_address_group_are_one_address() {
        assert!(is_same_address("2001:db8::1", "2001:db8::2") && !is_same_address("10.0.0.1", "10.0.0.2"));
    }
}
