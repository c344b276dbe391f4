//! Which listed nodes this process cannot reach, and why. Without I/O and without a clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use protocol::Unreachable;

/// The nodes that could not be connected to when that was last tried. A node that dies is not
/// listed any more within a moment, so a failure counts only when it is confirmed.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// The failures of listed nodes only, so there are never more.
    failures: BTreeMap<SocketAddr, ConnectFailure>,
    /// Entries of nodes whose failures are confirmed, to be reported to the Distributor.
    to_report: BTreeMap<u64, Unreachable>,
    next: u64,
}

#[derive(Debug)]
struct ConnectFailure {
    /// Distinguishes this failure from a later one of the same node.
    number: u64,
    why: Unreachable,
    is_confirmed: bool,
}

impl Reachability {
    /// Records that a listed node could not be connected to. If it could before, returns a number
    /// by which the failure should be [confirmed](Self::confirm).
    pub(super) fn record_failure(&mut self, address: SocketAddr, why: Unreachable) -> Option<u64> {
        if let Some(known) = self.failures.get_mut(&address) {
            known.why = why;
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.failures.insert(address, ConnectFailure { number, why, is_confirmed: false });
        Some(number)
    }

    /// Forgets the failure: there is a connection now, or the address is not listed any more, or is
    /// listed for another node.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.failures.remove(&address);
    }

    /// Confirms a failure, a while after it. Returns why the node with these entries cannot be
    /// connected to, if it still cannot.
    pub(super) fn confirm(&mut self, address: SocketAddr, number: u64, entries: &[u64]) -> Option<Unreachable> {
        let known = self.failures.get_mut(&address).filter(|known| known.number == number && !known.is_confirmed)?;
        known.is_confirmed = true;
        self.to_report.extend(entries.iter().map(|id| (*id, known.why)));
        Some(known.why)
    }

    /// Why a node could not be connected to when that was last tried.
    pub(super) fn why(&self, address: SocketAddr) -> Option<Unreachable> {
        self.failures.get(&address).map(|known| known.why)
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.to_report.is_empty()
    }

    /// Up to `max` entries that should be reported.
    pub(super) fn drain_reports(&mut self, max: usize) -> Vec<(u64, Unreachable)> {
        let later = self.to_report.keys().nth(max).copied();
        let rest = later.map(|id| self.to_report.split_off(&id)).unwrap_or_default();
        std::mem::replace(&mut self.to_report, rest).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn a14_a_node_that_cannot_be_reached_is_told_of_once() {
        let mut known = Reachability::default();
        let number = known.record_failure(node(1), Unreachable::Refused).expect("it is new");
        assert_eq!(known.record_failure(node(1), Unreachable::Timeout), None);
        assert_eq!(known.why(node(1)), Some(Unreachable::Timeout));
        assert!(!known.has_reports());
        assert_eq!(known.confirm(node(2), number, &[2]), None);
        assert_eq!(known.confirm(node(1), number, &[1]), Some(Unreachable::Timeout));
        assert_eq!(known.confirm(node(1), number, &[1]), None, "once");
        assert_eq!(known.drain_reports(9), [(1, Unreachable::Timeout)]);
        assert!(!known.has_reports());
    }

    #[test]
    fn a_node_that_was_reached_meanwhile_or_has_gone_is_not_told_of() {
        let mut known = Reachability::default();
        let first = known.record_failure(node(1), Unreachable::Refused).unwrap();
        known.forget(node(1));
        assert_eq!((known.why(node(1)), known.confirm(node(1), first, &[1])), (None, None));
        let second = known.record_failure(node(1), Unreachable::Refused).expect("it is new again");
        assert_eq!(known.confirm(node(1), first, &[1]), None, "the failure before is over");
        assert_eq!(known.confirm(node(1), second, &[1]), Some(Unreachable::Refused));
    }

    #[test]
    fn reports_come_in_parts() {
        let mut known = Reachability::default();
        for port in 0..5 {
            let number = known.record_failure(node(port), Unreachable::Refused).unwrap();
            known.confirm(node(port), number, &[port.into()]);
        }
        let ids = |reports: Vec<(u64, Unreachable)>| reports.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(known.drain_reports(3)), [0, 1, 2]);
        assert_eq!(ids(known.drain_reports(3)), [3, 4]);
    }
}
