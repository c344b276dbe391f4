//! How much the registry holds, for all and for one address.

use super::*;

#[test]
fn bc6_the_list_never_outgrows_the_limit_of_nodes() {
    let mut scene = RegistryScene::with(Config { max_list_bytes: 150, ..Config::default() });
    assert_eq!(scene.register(0, 1, 1), new());
    assert_eq!(scene.register(0, 2, 2), new());
    assert_eq!(scene.register(0, 3, 3), Err(RegisterError::Full));
    // Neither an entry that replaces another, nor a deferred one, makes it longer.
    let zone = r#","zone":"far away, in another identity""#;
    assert_eq!(scene.register_with(0, 1, 1, zone, &RegisterOptions::default()), Err(RegisterError::Full));
    assert!(scene.register(0, 1, 1).is_ok(), "an entry of the same length is accepted");
    scene.leave(0, 2, LeaveReason::Closed);
    scene.leave(0, 1, LeaveReason::Closed);
    assert_eq!(scene.register(0, 3, 3), new());
}

#[test]
fn bc6_deferred_registrations_count() {
    let mut scene = RegistryScene::with(Config { max_list_bytes: 180, ..Config::default() });
    for round in 0..4 {
        let _ = scene.register(0, round, 7);
        scene.leave(0, round, LeaveReason::Closed);
    }
    for session in 10..13 {
        let params = format!(r#"{{"port":7,"name":"n7","urls":[],"$":{{"id":"i{session}"}}}}"#);
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        let held =
            scene.registry.admit(scene.start, SessionId(session), registration, "::1", &RegisterOptions::default());
        let expected =
            if session < 12 { matches!(held, Ok(Admission::Deferred(_))) } else { held == Err(RegisterError::Full) };
        assert!(expected, "{session}: {held:?}");
    }
}

#[test]
fn bc6_one_address_leaves_room_in_the_list_for_others() {
    const BYTES: usize = 10_000;
    for (host, same, expected) in [
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", RegisterError::AddressFull),
        ("2001:db8::1", "2001:db8::2:1", RegisterError::AddressFull),
        // All nodes may be on the Distributor's machine.
        ("::1", "::1", RegisterError::Full),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", RegisterError::Full),
    ] {
        let mut scene = RegistryScene::with(Config { max_list_bytes: BYTES, ..Config::default() });
        let last = (0..1000).find_map(|session| scene.register_from(host, session, 100).err());
        assert_eq!(last, Some(expected), "{host}");
        let (list, _) = scene.registry.bytes();
        let shared = if expected == RegisterError::Full { BYTES } else { BYTES / 2 };
        // A comma between two entries is of neither.
        assert!(shared - 300 < list && list <= shared + 50, "{host}: {list}");
        if expected == RegisterError::Full {
            assert_eq!(scene.registry.largest_share().0, 0, "{host}");
            continue;
        }
        // Neither a longer registration nor one from the same network is taken. One that is not
        // longer than before is, and so are those of others.
        assert_eq!(scene.register_from(host, 0, 400), Err(expected), "{host}");
        assert_eq!(scene.register_from(same, 2000, 100), Err(expected), "{host}");
        assert!(scene.register_from(host, 0, 100).is_ok(), "{host}");
        let (largest, share) = scene.registry.largest_share();
        assert!(largest > list - 300 && share == BYTES - list, "{largest} {share}");
        for session in 3000..3005 {
            assert!(scene.register_from("::ffff:10.0.0.9", session, 100).is_ok(), "{host} {session}");
        }
        assert_eq!(scene.register_from(host, 2000, 0), Err(expected), "as much as others have is missing now: {host}");
        (0..10).for_each(|session| drop(scene.leave(0, session, LeaveReason::Closed)));
        assert!(scene.register_from(host, 2000, 100).is_ok(), "what has left is given back: {host}");
    }
}

#[test]
fn bc6_what_waits_to_be_listed_counts_for_its_address() {
    let mut scene = RegistryScene::with(Config { max_list_bytes: 2000, ..Config::default() });
    let host = "::ffff:10.0.0.1";
    // Its only node changes without end, so its last change waits.
    let changes = (0..20).map(|bytes| scene.register_from(host, 1, bytes)).filter(Result::is_ok).collect::<Vec<_>>();
    assert!(matches!(changes.last(), Some(Ok(Admission::Deferred(_)))), "{changes:?}");
    assert_eq!(scene.register_from(host, 1, 1000), Err(RegisterError::AddressFull));
    assert!(matches!(scene.register_from(host, 1, 850), Ok(Admission::Deferred(_))), "in place of what waited");
    assert_eq!(scene.register_from(host, 2, 100), Err(RegisterError::AddressFull));
    scene.leave(0, 1, LeaveReason::Closed);
    assert!(scene.register_from(host, 2, 100).is_ok());
    assert_eq!(scene.registry.deferred.shares().held_by(host), 0);
}

#[test]
fn bc6_one_address_leaves_room_for_the_interests_of_others() {
    let mut scene = RegistryScene::with(Config { max_list_bytes: 100_000, ..Config::default() });
    let (host, other) = ("::ffff:10.0.0.1", "::ffff:10.0.0.2");
    let last = (0..1000).find_map(|session| scene.register_session_from(host, session, "{}", Some(1000)).err());
    assert_eq!(last, Some(RegisterError::AddressFull));
    let used = scene.registry.interest_budget().used();
    assert!((48_000..=50_000).contains(&used), "{used}");
    assert!(scene.register_session_from(host, 0, "{}", Some(1000)).is_ok(), "in place of those it had");
    assert_eq!(scene.registry.interest_budget().used(), used);
    assert!(scene.register_session_from(other, 2000, "{}", Some(1000)).is_ok());
    (0..3).for_each(|session| drop(scene.leave(0, session, LeaveReason::Closed)));
    assert!(scene.register_session_from(host, 2001, "{}", Some(1000)).is_ok());
}

#[test]
fn a_node_is_listed_even_if_there_is_no_room_for_what_it_uses() {
    let mut scene = RegistryScene::with(Config { max_list_bytes: 20_000, tell_all_up_to: 0, ..Config::default() });
    let mut register = |session: u64, options: &RegisterOptions| {
        let params = format!(r#"{{"port":{session},"name":"n","urls":[],"$":{{"id":"i{session}"}}}}"#);
        let registration =
            Registration::parse(serde_json::from_str(&params).ok(), &RegistrationLimits::default()).unwrap();
        let session_id = SessionId(session);
        let effects = scene.registry.register_session(scene.start, session_id, false, registration, "::1", options)?;
        assert!(scene.registry.interest_budget().used() <= 20_000);
        assert!(scene.registry.entries().any(|record| record.port == session as u16), "{session}");
        Ok(effects.interests.map(|interests| (interests.len(), effects.uses_without_room.is_some())))
    };
    let uses = |urls: usize| {
        let uses = (0..urls).map(|at| format!("GET/{at:020}")).collect();
        RegisterOptions { uses: Some(uses), ..RegisterOptions::default() }
    };
    // As after a restart of the Distributor.
    let told: Vec<_> = (1..=30).map(|session| register(session, &uses(20)).unwrap().unwrap()).collect();
    let served = told.iter().filter(|told| **told == (20, false)).count();
    assert!((10..20).contains(&served), "{served}");
    assert!(told[served..].iter().all(|told| *told == (0, true)), "{told:?}");
    // It keeps what it has, or registers with less.
    assert_eq!(register(1, &uses(200)), Ok(Some((20, true))));
    assert_eq!(register(1, &uses(5)), Ok(Some((5, false))));
    assert_eq!(register(30, &uses(5)), Ok(Some((5, false))));
    let named = RegisterOptions { interests: uses(200).uses, ..RegisterOptions::default() };
    assert_eq!(register(30, &named), Err(RegisterError::Full), "its author has said what it needs");
}
