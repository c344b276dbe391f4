use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::RegistrationLimits;

use super::*;
use crate::entries::changelog::{MAX_CHANGE_BYTES, MAX_CHANGES};
use crate::entries::interests::Interests;
use crate::entries::interests::view::View;

fn parse(params: &str) -> Registration {
    Registration::parse(Some(serde_json::from_str(params).unwrap()), &RegistrationLimits::default()).unwrap()
}

fn registration(name: &str) -> Registration {
    parse(&format!(r#"{{"port":1,"name":"{name}","urls":[]}}"#))
}

fn instance(id: u64) -> Registration {
    parse(&format!(r#"{{"port":1,"name":"n{id}","urls":["GET/n{id}"],"$":{{"id":"{id}"}}}}"#))
}

fn names(registry: &EntryTable) -> String {
    registry.records().map(|record| &*record.name).collect::<Vec<_>>().join(" ")
}

fn registered(outcome: RegisterOutcome, superseded: Option<u64>) -> RegistrationChange {
    RegistrationChange { outcome, superseded: superseded.map(SessionId), retained: None }
}

#[test]
fn order_is_the_order_of_registration() {
    let mut registry = EntryTable::new(1);
    for (session, name, outcome, expected) in [
        (7, Some("a"), Some(RegisterOutcome::Joined), "a"),
        (3, Some("b"), Some(RegisterOutcome::Joined), "a b"),
        (7, Some("c"), Some(RegisterOutcome::Updated), "c b"),
        (7, Some("c"), Some(RegisterOutcome::Unchanged), "c b"),
        (9, None, None, "c b"),
        (7, None, Some(RegisterOutcome::Updated), "b"),
        (7, Some("a"), Some(RegisterOutcome::Joined), "b a"),
    ] {
        let id = SessionId(session);
        let changed = match name {
            Some(name) => Some(registry.register(id, &registration(name), "::1").outcome),
            None => registry.remove_session(id, LeaveReason::Closed).map(|_| RegisterOutcome::Updated),
        };
        assert_eq!((changed, names(&registry).as_str()), (outcome, expected));
    }
}

#[test]
fn rg4_the_newest_session_of_an_instance_has_it() {
    let mut registry = EntryTable::new(1);
    let mut register = |session, id| registry.register(SessionId(session), &instance(id), "::1");
    assert_eq!(register(1, 7), registered(RegisterOutcome::Joined, None));
    assert_eq!(register(1, 7), registered(RegisterOutcome::Unchanged, None));
    assert_eq!(register(2, 7), registered(RegisterOutcome::Unchanged, Some(1)));
    assert_eq!(register(2, 8), registered(RegisterOutcome::Updated, None));
    assert_eq!(register(3, 7), registered(RegisterOutcome::Joined, None));
    assert_eq!(register(3, 8), registered(RegisterOutcome::Updated, Some(2)));
    assert_eq!(registry.remove_session(SessionId(1), LeaveReason::Closed), None, "a late end removes nothing");
    assert_eq!(registry.remove_session(SessionId(2), LeaveReason::Closed), None, "a late end removes nothing");
    assert_eq!(names(&registry), "n8");
    registry.remove_session(SessionId(3), LeaveReason::Closed);
    assert_eq!(registry.register(SessionId(4), &instance(7), "::1"), registered(RegisterOutcome::Joined, None));
}

#[test]
fn a_partial_list_covers_every_name_first() {
    let mut registry = EntryTable::new(1);
    for (session, name) in ["a", "a", "b", "a", "c", "b"].into_iter().enumerate() {
        registry.register(SessionId(session as u64), &registration(name), "::1");
    }
    let one = registry.records().next().unwrap().entry.len() + 1;
    for (bytes, expected) in
        [(0, ""), (one - 1, ""), (one, "a"), (one * 2, "ab"), (one * 3, "abc"), (one * 4, "aabc"), (one * 6, "aabacb")]
    {
        let fitting: String = registry
            .records_within(bytes, ToldToOldPeers::Public)
            .iter()
            .map(|record| record.entry.split('"').nth(5).unwrap())
            .collect();
        assert_eq!(fitting, expected, "{bytes}");
    }
}

/// `joined`, `left` with reasons, `suspect` and `trusted` by name or id.
#[track_caller]
fn check(registry: &EntryTable, base: u64, interests: Option<&str>, expected: &str) {
    let interests = interests.map(|interest| Arc::new(Interests::named(vec![interest.to_owned()])));
    let view = View { interests, confirmed_only: false };
    let Difference { joined, left, suspect, trusted, .. } = registry.difference(base, registry.revision().rev, &view);
    let joined: Vec<_> = joined.iter().map(|record| format!("+{}", record.name)).collect();
    let left: Vec<_> = left.iter().map(|(id, reason)| format!("-{id} {}", reason.as_str())).collect();
    let marks = suspect.iter().map(|id| format!("?{id}")).chain(trusted.iter().map(|id| format!("!{id}")));
    let seen: Vec<_> = joined.into_iter().chain(left).chain(marks).collect();
    assert_eq!(seen.join(" "), expected);
}

#[test]
fn changes_merge_to_what_differs() {
    let mut registry = EntryTable::new(1);
    let a = SessionId(1);
    registry.register(a, &registration("a"), "::1");
    registry.register(SessionId(2), &registration("b"), "::1");
    let base = registry.revision().rev;
    check(&registry, base, None, "");
    registry.register(SessionId(3), &registration("c"), "::1");
    registry.remove_session(a, LeaveReason::Reset);
    check(&registry, base, None, "+c -1 reset");
    registry.remove_session(SessionId(3), LeaveReason::Leave);
    check(&registry, base, None, "-1 reset");
    registry.mark_suspect(2, true);
    check(&registry, base, None, "-1 reset ?2");
    registry.mark_suspect(2, false);
    check(&registry, base, None, "-1 reset");
    registry.touch();
    check(&registry, registry.revision().rev - 1, None, "");
    registry.mark_suspect(2, true);
    registry.register(SessionId(2), &registration("b2"), "::1");
    check(&registry, registry.revision().rev - 1, None, "+b2");
    check(&registry, 0, None, "+b2");
}

#[test]
fn a_receiver_gets_changes_that_concern_it() {
    let mut registry = EntryTable::new(1);
    registry.register(SessionId(1), &instance(1), "::1");
    registry.register(SessionId(2), &instance(2), "::1");
    check(&registry, 0, Some("n1"), "+n1");
    check(&registry, 0, Some("GET/n2"), "+n2");
    check(&registry, 0, Some("other"), "");
    let base = registry.revision().rev;
    registry.register(SessionId(2), &registration("moved"), "::1");
    check(&registry, base, Some("n2"), "-2 changed");
    check(&registry, base, Some("moved"), "+moved");
    registry.remove_session(SessionId(2), LeaveReason::Hung);
    check(&registry, base, Some("n2"), "-2 hung");
    check(&registry, base, Some("moved"), "");
}

#[test]
fn changes_are_remembered_up_to_a_limit() {
    let mut registry = EntryTable::new(5);
    let have = |rev| ResumePoint::from(Revision { epoch: 5, rev });
    for _ in 0..MAX_CHANGES {
        registry.touch();
    }
    assert_eq!(registry.base(have(0)), Some(0));
    registry.touch();
    assert_eq!(registry.base(have(0)), None);
    assert_eq!(registry.base(have(1)), Some(1));
    let newest = registry.revision();
    assert_eq!(registry.base(newest.into()), Some(newest.rev));
    assert_eq!(registry.base(have(newest.rev + 1)), None, "a state that never existed");
    assert_eq!(registry.base(Revision { epoch: 4, rev: 3 }.into()), None);
}

#[test]
fn cr6_changes_are_remembered_up_to_a_limit_in_bytes() {
    let mut registry = EntryTable::new(5);
    let first = ResumePoint::from(registry.revision());
    let long = registration(&"x".repeat(60_000));
    // One connection with a version 1 node's name that is as long as a packet.
    for session in 0..200 {
        registry.register(SessionId(session), &long, "::1");
        registry.remove_session(SessionId(session), LeaveReason::Leave);
    }
    let bytes = registry.change_bytes();
    assert!((MAX_CHANGE_BYTES / 2..=MAX_CHANGE_BYTES).contains(&bytes), "{bytes}");
    assert_eq!(registry.base(first), None);
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_retained_entry_is_resumed_without_a_change() {
    let (mut registry, start) = (EntryTable::new(1), now());
    for (session, registration) in [(1, instance(1)), (2, registration("old")), (3, instance(3))] {
        registry.register(SessionId(session), &registration, "::1");
    }
    let until = start + Duration::from_secs(7);
    (1..=3).for_each(|session| drop(registry.retain_entry(SessionId(session), until)));
    assert_eq!((registry.retained_len(), registry.next_expiry()), (3, Some(until)));
    let rev = registry.revision().rev;
    let returned = |why| RegistrationChange { retained: Some(why), ..registered(RegisterOutcome::Unchanged, None) };
    let kept = returned(Retained::OverMassLoss);
    assert_eq!(registry.register(SessionId(4), &instance(1), "::1"), kept);
    assert_eq!(registry.register(SessionId(5), &registration("old"), "::1"), kept);
    assert_eq!((registry.revision().rev, names(&registry).as_str()), (rev, "n1 old n3"));
    assert_eq!(
        registry.register(SessionId(6), &registration("old"), "::1").outcome,
        RegisterOutcome::Joined,
        "a fork of it"
    );
    assert!(registry.expire(until - Duration::from_millis(1), 9).is_empty());
    assert_eq!(registry.expire(until, 9).len(), 1);
    assert_eq!(names(&registry), "n1 old old");
    check(&registry, rev, None, "+old -3 unreachable");
}

#[test]
fn a_successor_continues_from_a_copy() {
    let (start, mut before) = (now(), EntryTable::new(5));
    for id in 1..=3 {
        before.register(SessionId(id), &instance(id), "::1");
    }
    let have = before.revision();
    let mut registry = EntryTable::new(4);
    registry.register(SessionId(1), &instance(9), "::1");
    registry.register(SessionId(2), &instance(2), "::1");
    assert_eq!(registry.base(have.into()), None);
    let copy: Vec<_> = before.records().map(|record| (**record).clone()).collect();
    let returned: Vec<_> = registry.restore(have.into(), copy, start).iter().map(|record| record.id).collect();
    assert_eq!(returned, [2], "it is back before the copy");
    assert!(registry.revision().epoch > 5);
    assert_eq!(names(&registry), "n1 n2 n3 n9");
    let base = registry.base(have.into()).unwrap();
    check(&registry, base, None, "+n9");
    assert_eq!(registry.retained_len(), 2);
    let back = registry.register(SessionId(7), &instance(3), "::1");
    assert_eq!((back.outcome, back.retained), (RegisterOutcome::Unchanged, Some(Retained::OverRestart)));
    registry.expire(start, 9);
    check(&registry, base, None, "+n9 -1 unreachable");
    assert_eq!(registry.base(have.into()), Some(base), "while the changes are kept");
}

proptest! {
    /// Connections may freeze, come back and die late: an instance is listed once, by its newest
    /// session, at the position it has always had.
    #[test]
    fn one_session_per_instance(steps in vec((0_u64..8, proptest::option::of(0_u64..4)), 0..60)) {
        let mut registry = EntryTable::new(1);
        // Sessions that are not superseded, in order of position, with the instance that each
        // registered last.
        let mut model: Vec<(u64, u64)> = Vec::new();
        for (session, id) in steps {
            let Some(id) = id else {
                registry.remove_session(SessionId(session), LeaveReason::Closed);
                model.retain(|(other, _)| *other != session);
                continue;
            };
            registry.register(SessionId(session), &instance(id), "::1");
            if model.iter().any(|(other, _)| *other == session) {
                model.retain(|(other, of)| *other == session || *of != id);
            }
            match model.iter_mut().find(|(other, of)| *other == session || *of == id) {
                Some(known) => *known = (session, id),
                None => model.push((session, id)),
            }
            let expected: Vec<_> = model.iter().map(|(_, id)| format!("n{id}")).collect();
            prop_assert_eq!(names(&registry), expected.join(" "));
            prop_assert_eq!(registry.instances.len(), registry.len());
            prop_assert_eq!(registry.sessions.len(), registry.len());
        }
    }

    /// The registry is a list of sessions with their last registration, in the order in which they
    /// first registered, and every change of it has a number.
    #[test]
    fn behaves_like_a_plain_list(steps in vec((0_u64..8, proptest::option::of("[a-d]")), 0..60)) {
        let mut registry = EntryTable::new(1);
        let mut model: Vec<(u64, String)> = Vec::new();
        for (session, name) in steps {
            let before = (registry.revision().rev, model.clone());
            let known = model.iter().position(|(id, _)| *id == session);
            match (&name, known) {
                (Some(name), Some(at)) => model[at].1.clone_from(name),
                (Some(name), None) => model.push((session, name.clone())),
                (None, Some(at)) => drop(model.remove(at)),
                (None, None) => {}
            }
            match &name {
                Some(name) => { registry.register(SessionId(session), &registration(name), "::1"); },
                None => drop(registry.remove_session(SessionId(session), LeaveReason::Closed)),
            }
            let expected: Vec<_> = model.iter().map(|(_, name)| name.as_str()).collect();
            prop_assert_eq!(names(&registry), expected.join(" "));
            prop_assert_eq!(registry.len(), model.len());
            let bytes = registry.records().map(|record| &*record.entry).collect::<Vec<_>>().join(",").len();
            prop_assert_eq!(registry.list_bytes(), bytes);
            prop_assert_eq!(registry.revision().rev > before.0, model != before.1);
        }
    }

    /// A difference, applied to the state at its base, gives the state at its target, whatever
    /// changed later.
    #[test]
    fn differences_lead_from_any_state_to_any_later_one(
        steps in vec((0_u64..6, proptest::option::of(0_u64..4), any::<bool>()), 1..60),
        cuts in (0_usize..60, 0_usize..60),
    ) {
        let mut registry = EntryTable::new(1);
        let mut states = vec![(0, BTreeMap::new())];
        for (session, id, suspect) in steps {
            match id {
                Some(id) if suspect => drop(registry.mark_suspect(id + 1, session > 2)),
                Some(id) => { registry.register(SessionId(session), &instance(id), "::1"); },
                None => drop(registry.remove_session(SessionId(session), LeaveReason::Closed)),
            }
            let records: BTreeMap<_, _> = registry.records().map(|record| (record.id, Arc::clone(record))).collect();
            states.push((registry.revision().rev, records));
        }
        let (from, to) = (cuts.0.min(cuts.1) % states.len(), cuts.0.max(cuts.1) % states.len());
        let ((base, mut replica), (target, expected)) = (states[from.min(to)].clone(), states[from.max(to)].clone());
        let Difference { joined, left, suspect, trusted, .. } = registry.difference(base, target, &View::default());
        for (id, _) in left {
            prop_assert!(replica.remove(&id).is_some());
        }
        for record in joined {
            replica.insert(record.id, Arc::new(Record { is_suspect: false, ..(*record).clone() }));
        }
        for (ids, to) in [(suspect, true), (trusted, false)] {
            for id in ids {
                let record = replica.get_mut(&id).unwrap();
                prop_assert_eq!(record.is_suspect, !to);
                *record = Arc::new(Record { is_suspect: to, ..(**record).clone() });
            }
        }
        prop_assert_eq!(&replica, &expected);
        let records: Vec<_> = registry.records_at(target).into_iter().map(|record| (record.id, Arc::clone(record))).collect();
        prop_assert_eq!(records, expected.into_iter().collect::<Vec<_>>());
    }
}
