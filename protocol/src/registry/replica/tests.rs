use std::time::Duration;

use bytes::BytesMut;

use super::*;
use crate::{
    Key, LeaveReason, Packet, SuspicionChange, UnpackedBlocks, UpdateHeader, write_delta, write_legacy_list, write_list,
};

/// A replica and the Distributor's side of its connection. Every node is known by its port.
struct Observer {
    replica: Replica,
    /// The nodes that the changes of the replica have led to.
    mirror: BTreeMap<SocketAddr, KnownNode>,
    start: Instant,
}

fn entry(port: u16) -> String {
    format!(r#"{{"port":{port},"name":"n","urls":[],"host":"::ffff:127.0.0.1"}}"#)
}

fn digest(ports: &[u16]) -> Digest {
    let mut digest = Digest::default();
    ports.iter().for_each(|port| digest.add((*port).into(), &entry(*port)));
    digest
}

fn header((epoch, rev): (u64, u64), ports: &[u16]) -> UpdateHeader {
    UpdateHeader { revision: Revision { epoch, rev }, digest: Some(digest(ports)), ..UpdateHeader::default() }
}

impl Observer {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn new() -> Self {
        Self { replica: Replica::default(), mirror: BTreeMap::new(), start: Instant::now() }
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn ports(&self) -> Vec<u16> {
        self.replica.nodes().iter().map(|known| known.address.port()).collect()
    }

    #[track_caller]
    fn take(&mut self, second: u64, packet: &BytesMut, outcome: UpdateOutcome, expected: &[u16]) {
        let packet = Packet::parse(&packet[..packet.len() - 2]).unwrap();
        let mut unpacked = UnpackedBlocks::default();
        let seen = self.replica.apply(self.at(second), &ListUpdate::parse(&packet, &mut unpacked).unwrap());
        assert_eq!((seen, self.ports()), (outcome, expected.to_vec()));
        if seen == Changed {
            self.follow();
        }
    }

    #[track_caller]
    fn follow(&mut self) {
        for (address, known) in self.replica.last_changes() {
            match known {
                Some(known) => drop(self.mirror.insert(address, known)),
                None => drop(self.mirror.remove(&address)),
            }
        }
        assert!(self.mirror.values().eq(&self.replica.nodes()), "changes lead to what there is");
    }

    /// Applies a list of version 1.
    #[track_caller]
    fn legacy_list(&mut self, second: u64, ports: &[u16], outcome: UpdateOutcome, expected: &[u16]) {
        let entries: Vec<_> = ports.iter().map(|port| entry(*port)).collect();
        let mut out = BytesMut::new();
        write_legacy_list(&mut out, &Key::Number(0), entries.iter().map(String::as_str));
        self.take(second, &out, outcome, expected);
    }

    #[track_caller]
    fn whole_list(&mut self, header: &UpdateHeader, ports: &[u16], outcome: UpdateOutcome, expected: &[u16]) {
        let entries: Vec<_> = ports.iter().map(|port| (u64::from(*port), entry(*port))).collect();
        let mut out = BytesMut::new();
        let none = std::iter::empty();
        write_list(&mut out, &Key::Number(0), header, entries.iter().map(|(id, text)| (*id, text.as_str())), none);
        self.take(0, &out, outcome, expected);
    }

    #[track_caller]
    fn delta(
        &mut self,
        base: (u64, u64),
        header: &UpdateHeader,
        (joined, left): (&[u16], &[u16]),
        outcome: UpdateOutcome,
        expected: &[u16],
    ) {
        let entries: Vec<_> = joined.iter().map(|port| (u64::from(*port), entry(*port))).collect();
        let joined = entries.iter().map(|(id, text)| (*id, text.as_str()));
        let left = left.iter().map(|port| (u64::from(*port), LeaveReason::Closed));
        let mut out = BytesMut::new();
        write_delta(&mut out, header, Revision { epoch: base.0, rev: base.1 }, joined, left, SuspicionChange::none());
        self.take(0, &out, outcome, expected);
    }
}

use UpdateOutcome::{Changed, Gap, Same, Stale};

#[test]
fn a_list_of_an_old_distributor_is_the_truth() {
    let mut observer = Observer::new();
    observer.legacy_list(0, &[1, 2], Changed, &[1, 2]);
    observer.legacy_list(0, &[2, 3], Changed, &[2, 3]);
    observer.legacy_list(0, &[2, 3], Same, &[2, 3]);
    observer.legacy_list(0, &[], Changed, &[]);
}

#[test]
fn rs4_a_restarted_old_distributor_does_not_empty_the_replica() {
    let mut observer = Observer::new();
    observer.legacy_list(0, &[1, 2, 3], Changed, &[1, 2, 3]);
    observer.replica.record_connect();
    assert!(!observer.replica.expire(observer.at(99)), "no node is removed before the first list");
    observer.legacy_list(100, &[], Changed, &[1, 2, 3]);
    observer.legacy_list(101, &[4], Changed, &[1, 2, 3, 4]);
    observer.legacy_list(102, &[1, 4], Changed, &[1, 2, 3, 4]);
    observer.legacy_list(103, &[4], Changed, &[2, 3, 4]);
    assert!(observer.replica.mark_unreachable("127.0.0.1:3".parse().unwrap()), "not listed and not reachable");
    observer.follow();
    assert!(!observer.replica.mark_unreachable("127.0.0.1:4".parse().unwrap()), "a list shows it");
    assert_eq!(observer.replica.next_expiry(), Some(observer.at(111)));
    assert!(!observer.replica.expire(observer.at(110)));
    assert!(observer.replica.expire(observer.at(111)));
    observer.follow();
    assert_eq!(observer.ports(), [4]);
    observer.legacy_list(112, &[], Changed, &[]);
}

#[test]
fn rs4_no_node_is_removed_while_there_is_no_distributor() {
    let mut observer = Observer::new();
    observer.legacy_list(0, &[1, 2], Changed, &[1, 2]);
    observer.replica.record_connect();
    observer.legacy_list(100, &[], Changed, &[1, 2]);
    observer.replica.record_disconnect();
    assert!(!observer.replica.expire(observer.at(4000)));
    observer.replica.record_connect();
    observer.legacy_list(4001, &[2], Changed, &[1, 2]);
    assert!(observer.replica.expire(observer.at(4012)));
    observer.follow();
    assert_eq!(observer.ports(), [2]);
}

#[test]
fn an_address_registered_twice_is_one_node() {
    let mut observer = Observer::new();
    let mut out = BytesMut::new();
    let entries = [
        r#"{"port":1,"name":"a","urls":["GET/a","GET/b"],"host":"127.0.0.1"}"#,
        r#"{"port":1,"name":"a","urls":["GET/b","GET/c"],"host":"::ffff:127.0.0.1"}"#,
    ];
    write_legacy_list(&mut out, &Key::Number(0), entries.into_iter());
    observer.take(0, &out, Changed, &[1]);
    let nodes = observer.replica.nodes();
    let routes: Vec<_> = nodes[0].node.routes.iter().map(crate::Route::as_str).collect();
    assert_eq!(routes, ["GET/a", "GET/b", "GET/c"]);
}

#[test]
fn bc4_deltas_apply_to_their_base_and_never_go_back() {
    let mut observer = Observer::new();
    observer.delta((5, 0), &header((5, 1), &[1]), (&[1], &[]), Gap, &[]);
    observer.whole_list(&header((5, 7), &[1, 2]), &[1, 2], Changed, &[1, 2]);
    observer.delta((5, 7), &header((5, 8), &[2, 3]), (&[3], &[1]), Changed, &[2, 3]);
    observer.delta((5, 7), &header((5, 8), &[2, 3]), (&[3], &[1]), Stale, &[2, 3]);
    observer.whole_list(&header((5, 7), &[1, 2]), &[1, 2], Stale, &[2, 3]);
    observer.delta((5, 9), &header((5, 10), &[2]), (&[], &[3]), Gap, &[2, 3]);
    observer.delta((4, 8), &header((4, 9), &[2]), (&[], &[3]), Gap, &[2, 3]);
    observer.whole_list(&header((4, 99), &[]), &[], Stale, &[2, 3]);
    observer.whole_list(&header((5, 10), &[2]), &[2], Changed, &[2]);
    observer.delta((5, 10), &header((5, 12), &[2]), (&[], &[]), Same, &[2]);
    assert_eq!(observer.replica.revision(), Some(Revision { epoch: 5, rev: 12 }));
}

#[test]
fn bc13_an_update_with_a_wrong_digest_is_ignored() {
    let mut observer = Observer::new();
    observer.whole_list(&header((5, 1), &[1, 2]), &[1, 3], Gap, &[]);
    observer.whole_list(&header((5, 1), &[1, 2]), &[1, 2], Changed, &[1, 2]);
    observer.delta((5, 1), &header((5, 2), &[1, 2, 4]), (&[3], &[]), Gap, &[1, 2]);
    observer.delta((5, 1), &header((5, 2), &[1, 2, 3]), (&[3], &[]), Changed, &[1, 2, 3]);
    let unknown = UpdateHeader { digest: None, ..header((5, 3), &[]) };
    observer.delta((5, 2), &unknown, (&[4], &[]), Changed, &[1, 2, 3, 4]);
}

#[test]
fn bc5_no_node_is_removed_while_a_distributor_warms_up() {
    let mut observer = Observer::new();
    observer.whole_list(&header((5, 7), &[1, 2, 3]), &[1, 2, 3], Changed, &[1, 2, 3]);
    observer.replica.record_disconnect();
    observer.replica.record_connect();
    let warming = |rev, ports: &[u16]| UpdateHeader { warming: true, ..header((6, rev), ports) };
    observer.whole_list(&warming(0, &[]), &[], Changed, &[1, 2, 3]);
    assert!(observer.replica.is_warming());
    observer.delta((6, 0), &warming(1, &[1, 4]), (&[1, 4], &[]), Changed, &[1, 2, 3, 4]);
    assert!(observer.replica.mark_unreachable("127.0.0.1:2".parse().unwrap()));
    observer.follow();
    observer.delta((6, 1), &header((6, 2), &[1, 4]), (&[], &[]), Changed, &[1, 4]);
}

#[test]
fn a_successor_continues_the_state_of_its_predecessor() {
    let mut observer = Observer::new();
    observer.whole_list(&header((5, 7), &[1, 2]), &[1, 2], Changed, &[1, 2]);
    observer.replica.record_disconnect();
    observer.replica.record_connect();
    observer.delta((5, 7), &header((6, 1), &[1, 2]), (&[], &[]), Same, &[1, 2]);
    assert_eq!(observer.replica.revision(), Some(Revision { epoch: 6, rev: 1 }));
    observer.delta((6, 1), &header((6, 2), &[1, 2, 3]), (&[3], &[]), Changed, &[1, 2, 3]);
}

#[test]
fn a_seed_is_known_until_a_list_or_a_call_says_otherwise() {
    let mut observer = Observer::new();
    let entries = [(1, entry(1)), (2, entry(2))];
    let seed = entries.iter().map(|(id, text)| (*id, text.as_str()));
    observer.replica = Replica::seeded(Revision { epoch: 5, rev: 7 }, seed);
    observer.follow();
    assert_eq!((observer.ports(), observer.replica.digest()), (vec![1, 2], digest(&[1, 2])));
    observer.replica.record_connect();
    observer.delta((5, 7), &header((5, 8), &[2]), (&[], &[1]), Changed, &[2]);
}

#[test]
fn suspects_are_marked_and_cleared() {
    let mut observer = Observer::new();
    observer.whole_list(&header((5, 1), &[1, 2]), &[1, 2], Changed, &[1, 2]);
    for (rev, suspect, trusted, outcome, expected) in [
        (2, vec![2, 9], vec![], Changed, [false, true]),
        (3, vec![2], vec![], Same, [false, true]),
        (4, vec![], vec![2], Changed, [false, false]),
    ] {
        let mut out = BytesMut::new();
        let suspicion = SuspicionChange { suspect: suspect.into_iter(), trusted: trusted.into_iter() };
        let (joined, left) = (std::iter::empty(), std::iter::empty());
        let base = Revision { epoch: 5, rev: rev - 1 };
        write_delta(&mut out, &header((5, rev), &[1, 2]), base, joined, left, suspicion);
        observer.take(0, &out, outcome, &[1, 2]);
        let nodes = observer.replica.nodes();
        assert_eq!([nodes[0].node.suspect, nodes[1].node.suspect], expected);
    }
}

#[test]
fn a_distributor_that_takes_over_names_all_suspects() {
    let mut observer = Observer::new();
    observer.whole_list(&header((5, 1), &[1, 2]), &[1, 2], Changed, &[1, 2]);
    for (base, rev, suspect, outcome, expected) in [
        ((5, 1), (5, 2), vec![1], Changed, [true, false]),
        ((5, 2), (6, 1), vec![2], Changed, [false, true]),
        ((6, 1), (6, 2), vec![], Same, [false, true]),
        ((6, 2), (7, 1), vec![], Changed, [false, false]),
        ((7, 1), (8, 1), vec![], Same, [false, false]),
    ] {
        let mut out = BytesMut::new();
        let base = Revision { epoch: base.0, rev: base.1 };
        let (joined, left) = (std::iter::empty(), std::iter::empty());
        let suspicion = SuspicionChange { suspect: suspect.into_iter(), trusted: std::iter::empty() };
        write_delta(&mut out, &header(rev, &[1, 2]), base, joined, left, suspicion);
        observer.take(0, &out, outcome, &[1, 2]);
        let nodes = observer.replica.nodes();
        assert_eq!([nodes[0].node.suspect, nodes[1].node.suspect], expected, "{rev:?}");
    }
}

#[test]
fn ranks_spread_from_zero_to_one() {
    let text = |id: &str| format!(r#"{{"port":1,"name":"n","urls":[],"$":{{"id":"{id}"}},"host":"::1"}}"#);
    let texts = [(3, text("a")), (5, text("b")), (9, text("c")), (10, text("d"))];
    let entries = texts.iter().map(|(id, text)| (*id, text.as_str()));
    let replica = Replica::seeded(Revision::default(), entries);
    assert_eq!(["a", "b", "d", "x"].map(|id| replica.rank(id)), [Some(0.0), Some(0.25), Some(0.75), None]);
}

#[test]
fn the_loopback_of_a_distributor_on_another_machine_is_that_machine() {
    #[track_caller]
    fn check(host: &str, far: Option<&str>, expected: &str) {
        let text = format!(r#"{{"port":7,"name":"n","urls":[],"host":"{host}"}}"#);
        let far = far.map(|far| far.parse().unwrap());
        let mut digest = Digest::default();
        digest.add(1, &text);
        let header = |rev| UpdateHeader {
            revision: Revision { epoch: 1, rev },
            digest: Some(digest),
            ..UpdateHeader::default()
        };
        let hosts = |replica: &Replica| -> Vec<String> {
            replica.nodes().iter().map(|known| known.address.ip().to_string()).collect()
        };
        let entries = || [(1, &*text)].into_iter();
        let (mut list, mut change, mut old) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        write_list(&mut list, &Key::Number(0), &header(2), entries(), std::iter::empty());
        write_delta(
            &mut change,
            &header(2),
            Revision { epoch: 1, rev: 1 },
            entries(),
            std::iter::empty(),
            SuspicionChange::none(),
        );
        write_legacy_list(&mut old, &Key::Number(0), entries().map(|(_, text)| text));
        for (packet, is_told_again) in [(list, true), (change, false), (old, true)] {
            let mut replica = Replica::seeded_from(None, Revision { epoch: 1, rev: 1 }, std::iter::empty());
            // What a Distributor of this machine said before does not count as the same.
            for far in [None, far].into_iter().skip(usize::from(!is_told_again)) {
                replica.record_connect();
                replica.set_registry_host(far);
                let packet = Packet::parse(&packet[..packet.len() - 2]).unwrap();
                let mut unpacked = UnpackedBlocks::default();
                replica.apply(Observer::new().start, &ListUpdate::parse(&packet, &mut unpacked).unwrap());
            }
            let seen = hosts(&replica);
            assert!(seen.contains(&expected.to_owned()), "{host}, {far:?}: {seen:?}");
            assert!(replica.entries().all(|(_, listed)| listed == text), "it is passed on as it came");
        }
        let seeded = Replica::seeded_from(far, Revision { epoch: 1, rev: 1 }, entries());
        assert_eq!((hosts(&seeded), seeded.registry_host()), (vec![expected.to_owned()], far));
    }
    for own in
        ["::ffff:127.0.0.1", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.1.2.3", "0.0.0.0", "::", "::ffff:0.0.0.0"]
    {
        check(own, Some("10.0.0.9"), "10.0.0.9");
        check(own, Some("fd00::9"), "fd00::9");
    }
    check("::ffff:127.0.0.1", None, "127.0.0.1");
    check("::1", None, "::1");
    for other in ["10.0.0.7", "fe80::1", "10.0.0.9"] {
        check(other, Some("10.0.0.9"), other);
        check(other, None, other);
    }
}
