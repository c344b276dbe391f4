//! A Distributor that takes over from another one, and how it learns the list.

use protocol::Key;

use super::*;
use crate::entries::interests::view::View;
use crate::updates::lists::{NextUpdate, PeerState};

/// A Distributor that has restored a copy with nodes 1 to 3, of which 1 has registered. The copy
/// was requested on session 1.
fn restored() -> (RegistryScene, ResumePoint) {
    let mut before = RegistryScene::new();
    before.register_all(1..=3);
    let have = ResumePoint { revision: before.registry.revision(), digest: Some(before.registry.entries.digest()) };
    let records: Vec<_> = before.registry.entries.records().cloned().collect();
    let mut packets = BytesMut::new();
    let entries = records.iter().map(|record| (record.id, &*record.entry));
    protocol::write_copy(&mut packets, have.revision, before.registry.entries.digest(), entries);
    let packet = protocol::Packet::parse(&packets[..packets.len() - 2]).unwrap();
    let mut scene = RegistryScene::new();
    scene.registry.entries = EntryTable::new(200);
    let options = RegisterOptions { resume: Some(have), ..RegisterOptions::default() };
    scene.register_with(0, 1, 1, "", &options).unwrap();
    assert_eq!(scene.run_due(100).copy_from, Some(SessionId(1)));
    assert!(scene.registry.restore_part(scene.at(100), SessionId(1), &protocol::read_copy(&packet).unwrap()));
    (scene, have)
}

#[test]
fn c3_all_listed_nodes_are_known_after_a_restart() {
    let (mut scene, _have) = restored();
    #[track_caller]
    fn check(scene: &RegistryScene, node: &str, expected: &str) {
        let events = scene.registry.history(scene.at(1000), node);
        let told: Vec<_> = events.iter().map(|event| format!("{}: {}", event.event, event.why)).collect();
        assert_eq!(told.join(", "), expected, "{node}");
    }
    check(&scene, "n1", "joined: , came back: it was here before the restart");
    check(&scene, "n2", "listed: it was here before the restart, and is not back yet");
    check(&scene, "[::1]:2", "listed: it was here before the restart, and is not back yet");
    scene.register(1000, 2, 2).unwrap();
    check(&scene, "n2", "came back: it was here before the restart");
    check(&scene, "i2", "came back: it was here before the restart");
    scene.run_due(8000);
    check(&scene, "n3", "left: it did not come back");
    check(&scene, "n4", "");
}

#[test]
fn c3_a_node_is_known_for_as_long_as_it_is_listed() {
    let mut scene = RegistryScene::new();
    scene.register(0, 1, 1).unwrap();
    for port in 2..2 + history::MAX_EVENTS as u16 {
        scene.register(port.into(), port.into(), port).unwrap();
    }
    let events = scene.registry.history(scene.start, "n1");
    assert_eq!(events[0].why, "it joined too long ago for this history");
    assert!(events[0].event == "listed" && events.len() == 1);
}

/// The nodes that a peer is told of, and whether it then knows all.
fn told(scene: &mut RegistryScene, ms: u64, known: &mut PeerState) -> (String, bool) {
    scene.registry.publish(Version::V2);
    let now = scene.at(ms);
    let NextUpdate::Packet(packet, then) = scene.registry.update_for(now, known) else { return (String::new(), true) };
    (known.revision, known.digest, known.view.confirmed_only) = (Some(then.revision), None, then.confirmed_only);
    let text = String::from_utf8(packet.bytes().to_vec()).unwrap();
    assert_eq!(text.contains("warming"), then.confirmed_only, "{text}");
    let names: Vec<_> = text.split(r#""name":""#).skip(1).filter_map(|rest| rest.split('"').next()).collect();
    (names.join(" "), !then.confirmed_only)
}

#[test]
fn bc5_a_copied_entry_is_told_only_to_peers_that_know_it() {
    let (mut scene, have) = restored();
    let mut newcomer = PeerState::default();
    assert_eq!(told(&mut scene, 100, &mut newcomer), ("n1".to_owned(), false));
    // A peer that held that state knows all nodes, and is told of none.
    let mut remembers = PeerState { revision: Some(have.revision), digest: have.digest, ..PeerState::default() };
    assert_eq!(told(&mut scene, 100, &mut remembers), (String::new(), true));
    // A peer that claims that state, but holds another, does not.
    let mut forges = PeerState { revision: Some(have.revision), digest: Some(Digest(1)), ..PeerState::default() };
    assert_eq!(told(&mut scene, 100, &mut forges), ("n1".to_owned(), false));
    assert!(scene.registry.defers_updates(Version::V1), "a version 1 peer would forget what it is not shown");
    // The node of an entry registers, unchanged.
    scene.register(1000, 2, 2).unwrap();
    assert_eq!(told(&mut scene, 1000, &mut newcomer), ("n2".to_owned(), false));
    let asked = scene.registry.list_for(scene.at(1000), Version::V2, &Key::Number(7), &View::default());
    assert!(matches!(asked, NextUpdate::Packet(_, told) if told.confirmed_only));
    // The last node does not register.
    assert_eq!(scene.run_due(8000).gone.len(), 1);
    assert_eq!(told(&mut scene, 8000, &mut newcomer), (String::new(), true));
    assert!(!scene.registry.defers_updates(Version::V1));
    assert_eq!(scene.listed(), "n1 n2");
}

#[test]
fn bc5_an_impossible_copy_is_not_used() {
    let (mut scene, epoch) = (RegistryScene::new(), 100);
    // Our epoch is the time of our start: a later epoch was made up.
    for (later, restoring) in [(1, false), (0, false), (-1, true)] {
        let have = ResumePoint::from(Revision { epoch: (epoch + later) as u64, rev: 5 });
        let options = RegisterOptions { resume: Some(have), ..RegisterOptions::default() };
        scene.register_with(0, (10 + later) as u64, (10 + later) as u16, "", &options).unwrap();
        assert_eq!(scene.registry.is_restoring(), restoring, "{later}");
    }
    // The copy is not the offered one, or names an instance twice.
    let entry = |id: &str, port: u16| {
        let text = format!(r#"{{"port":{port},"name":"a","urls":[],"host":"::1","$":{{"id":"{id}"}}}}"#);
        serde_json::value::RawValue::from_string(text).unwrap()
    };
    let (one, two, again) = (entry("i1", 1), entry("i2", 2), entry("i1", 3));
    let offered = Revision { epoch: 99, rev: 5 };
    for (rev, entries, used) in [(6, vec![&one], false), (5, vec![&one, &again], false), (5, vec![&one, &two], true)] {
        let mut scene = RegistryScene::new();
        let options = RegisterOptions { resume: Some(offered.into()), ..RegisterOptions::default() };
        scene.register_with(0, 1, 1, "", &options).unwrap();
        assert_eq!(scene.run_due(100).copy_from, Some(SessionId(1)));
        let entries: Vec<_> = (1..).zip(entries.into_iter().map(|entry| &**entry)).collect();
        let mut digest = Digest::default();
        entries
            .iter()
            .for_each(|(id, entry)| digest.add(*id, Record::from_entry(*id, entry.get()).unwrap().entry.as_ref()));
        let part = CopyPart { revision: Revision { rev, ..offered }, digest, more: false, entries };
        assert_eq!(scene.registry.restore_part(scene.at(100), SessionId(1), &part), used, "{rev}");
    }
}

/// The state of a registry, and the packet with the copy of it that a node hands over.
fn copy_of(scene: &RegistryScene) -> (Revision, BytesMut) {
    let have = scene.registry.revision();
    let mut packets = BytesMut::new();
    let records: Vec<_> = scene.registry.entries.records().cloned().collect();
    let entries = records.iter().map(|record| (record.id, &*record.entry));
    protocol::write_copy(&mut packets, have, scene.registry.entries.digest(), entries);
    packets.truncate(packets.len() - "¶".len());
    (have, packets)
}

#[test]
fn a_successor_is_rebuilt_from_a_client() {
    let mut before = RegistryScene::new();
    before.register_all(1..=30);
    let (have, copy) = copy_of(&before);
    let packet = protocol::Packet::parse(&copy).unwrap();
    let part = protocol::read_copy(&packet).unwrap();

    let mut scene = RegistryScene::new();
    let options =
        RegisterOptions { resume: Some(ResumePoint { revision: have, digest: None }), ..RegisterOptions::default() };
    // It has started later.
    scene.registry.entries = EntryTable::new(200);
    scene.register_with(10, 7, 7, "", &options).unwrap();
    assert!(scene.registry.is_restoring());
    assert!(!scene.registry.restore_part(scene.at(20), SessionId(7), &part), "it was not asked");
    assert_eq!(scene.run_due(110).copy_from, Some(SessionId(7)));
    assert!(!scene.registry.restore_part(scene.at(120), SessionId(8), &part), "another was asked");
    assert!(scene.registry.restore_part(scene.at(120), SessionId(7), &part));
    assert!(!scene.registry.is_restoring() && !scene.registry.header().warming);
    assert_eq!((scene.registry.nodes(), scene.registry.entries.retained_len()), (30, 29));
    let restored = scene.registry.revision();
    assert!(restored > have);
    for port in 1..=29 {
        scene.register_with(1000, 100 + u64::from(port), port, "", &options).unwrap();
    }
    assert_eq!(scene.registry.revision(), restored, "all nodes are back where they were");
    scene.run_due(8000);
    assert_eq!(scene.listed().split(' ').count(), 29);
}

#[test]
fn a_copy_that_is_damaged_is_not_used() {
    let (mut scene, have) = (RegistryScene::new(), Revision { epoch: 5, rev: 1 });
    let options =
        RegisterOptions { resume: Some(ResumePoint { revision: have, digest: None }), ..RegisterOptions::default() };
    scene.register_with(0, 1, 1, "", &options).unwrap();
    scene.register_with(0, 2, 2, "", &options).unwrap();
    for expected in [Some(SessionId(2)), Some(SessionId(1)), None] {
        let asked = scene.run_due(200).copy_from;
        assert_eq!(asked, expected);
        let part = CopyPart { revision: have, digest: Digest(1), more: false, entries: Vec::new() };
        if let Some(asked) = asked {
            assert!(!scene.registry.restore_part(scene.at(200), asked, &part));
        }
    }
    assert!(!scene.registry.is_restoring() && scene.registry.header().warming);
    assert!(scene.run_due(6000).is_warm);
}

/// A registry that has restored what another one knew: four workers of one identity, and a node
/// that hands it over.
fn restored_workers() -> RegistryScene {
    let mut before = RegistryScene::new();
    (1..=4).for_each(|session| before.register_old(0, session, 7));
    before.register(0, 5, 1).unwrap();
    let (have, copy) = copy_of(&before);
    let packet = protocol::Packet::parse(&copy).unwrap();
    let part = protocol::read_copy(&packet).unwrap();
    let mut scene = RegistryScene::new();
    let options =
        RegisterOptions { resume: Some(ResumePoint { revision: have, digest: None }), ..RegisterOptions::default() };
    scene.registry.entries = EntryTable::new(200);
    // One of the workers is back before the list is.
    scene.register_old(10, 101, 7);
    scene.register_with(10, 105, 1, "", &options).unwrap();
    assert_eq!(scene.run_due(110).copy_from, Some(SessionId(105)));
    assert!(scene.registry.restore_part(scene.at(120), SessionId(105), &part));
    scene
}

#[test]
fn e13_workers_of_one_identity_are_back_in_their_own_entries_after_a_restart() {
    let mut scene = restored_workers();
    let ids = |scene: &RegistryScene| scene.registry.entries.records().map(|record| record.id).collect::<Vec<_>>();
    let before = ids(&scene);
    assert_eq!((before.len(), scene.registry.entries.retained_len()), (5, 3));
    (102..=104).for_each(|session| scene.register_old(1000, session, 7));
    assert_eq!((ids(&scene), scene.registry.entries.retained_len()), (before, 0), "none stands twice");
    scene.register_old(1000, 106, 7);
    assert_eq!(scene.registry.nodes(), 6, "a fifth worker is one more");
    scene.run_due(60_000);
    assert_eq!(scene.registry.nodes(), 6);
}

#[test]
fn e2_time_before_a_restart_counts() {
    let mut scene = restored_workers();
    (102..=104).for_each(|session| scene.register_old(1000, session, 7));
    for round in 0..3 {
        (101..=104).for_each(|session| drop(scene.leave(2000 + round, session, LeaveReason::Closed)));
        (101..=104).for_each(|session| scene.register_old(2000 + round, session, 7));
        assert_eq!(scene.listed().matches("old").count(), 4, "{round}");
    }
}
