mod limits;
mod restart;

use protocol::{CopyPart, RegisterOptions, Registration, RegistrationLimits, ResumePoint, Secret, VisibilityTarget};

use super::*;
use crate::entries::{RegisterOutcome, RegistrationChange};
use crate::registry::admission::RETRY_AFTER_STOP;
use crate::registry::liveness::suspicions::MAX_REPORT_PAIRS;

struct RegistryScene {
    registry: Registry,
    start: Instant,
}

impl RegistryScene {
    fn new() -> Self {
        Self::with(Config::default())
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn with(config: Config) -> Self {
        let start = Instant::now();
        Self { registry: Registry::new(config, UpdateBudget::new(usize::MAX), start, 100), start }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Registers version 2 node `n<port>` with further members of `$`.
    fn register_with(
        &mut self,
        ms: u64,
        session: u64,
        port: u16,
        advert: &str,
        options: &RegisterOptions,
    ) -> Result<Admission, RegisterError> {
        let params = format!(r#"{{"port":{port},"name":"n{port}","$":{{"id":"i{port}"{advert}}}}}"#);
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        let now = self.at(ms);
        self.registry.admit(now, SessionId(session), registration, "::1", options)
    }

    fn register(&mut self, ms: u64, session: u64, port: u16) -> Result<Admission, RegisterError> {
        self.register_with(ms, session, port, "", &RegisterOptions::default())
    }

    /// Registers a version 2 node from this host, with `bytes` bytes more than it needs.
    fn register_from(&mut self, host: &str, session: u64, bytes: usize) -> Result<Admission, RegisterError> {
        let advert = format!(r#"{{"id":"i{session}","zone":"{}"}}"#, "z".repeat(bytes));
        self.register_session_from(host, session, &advert, None)
    }

    fn register_session_from(
        &mut self,
        host: &str,
        session: u64,
        advert: &str,
        interest: Option<usize>,
    ) -> Result<Admission, RegisterError> {
        let params = format!(r#"{{"port":1,"name":"n{session}","$":{advert}}}"#);
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        let interests = interest.map(|bytes| vec!["x".repeat(bytes)]);
        let options = RegisterOptions { interests, ..RegisterOptions::default() };
        let effects =
            self.registry.register_session(self.start, SessionId(session), false, registration, host, &options);
        effects.map(|effects| effects.admission)
    }

    /// Registers nodes, each on the session of its port.
    fn register_all(&mut self, mut ports: std::ops::RangeInclusive<u16>) {
        assert!(ports.all(|port| self.register(0, port.into(), port).is_ok()));
    }

    /// Registers a version 1 node.
    fn register_old(&mut self, ms: u64, session: u64, port: u16) {
        let params = format!(r#"{{"port":{port},"name":"old"}}"#);
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        let now = self.at(ms);
        self.registry.admit(now, SessionId(session), registration, "::1", &RegisterOptions::default()).unwrap();
    }

    fn leave(&mut self, ms: u64, session: u64, reason: LeaveReason) -> Option<Removal> {
        let now = self.at(ms);
        self.registry.remove_session(now, SessionId(session), reason)
    }

    fn run_due(&mut self, ms: u64) -> DueActions {
        let now = self.at(ms);
        self.registry.run_due(now)
    }

    /// Names of the listed nodes.
    fn listed(&self) -> String {
        self.registry.entries.records().map(|record| &*record.name).collect::<Vec<_>>().join(" ")
    }

    fn events(&self, node: &str) -> Vec<String> {
        self.registry.history(self.start, node).into_iter().map(|event| event.event).collect()
    }
}

fn new() -> Result<Admission, RegisterError> {
    Ok(Admission::Listed(RegistrationChange { outcome: RegisterOutcome::Joined, superseded: None, retained: None }))
}

#[test]
fn bc3_only_a_flapper_waits_to_be_listed() {
    let mut scene = RegistryScene::new();
    scene.register(0, 1000, 1).unwrap();
    let mut changes = 0;
    for round in 0..100 {
        let before = scene.registry.revision();
        let _ = scene.register(round * 100, round, 7);
        scene.leave(round * 100 + 50, round, LeaveReason::Closed);
        changes += usize::from(scene.registry.revision() != before);
    }
    assert_eq!((changes, scene.listed().as_str()), (3, "n1"));
    assert_eq!(scene.register(9_900, 500, 8), new(), "no other node waits");
    let Ok(Admission::Deferred(wait)) = scene.register(10_000, 501, 7) else { panic!("it should wait") };
    let ends = 10_000 + u64::try_from(wait.as_millis()).unwrap();
    assert!(scene.registry.next_due().unwrap() <= scene.at(ends + 1));
    scene.run_due(ends - 10);
    assert_eq!(scene.listed(), "n1 n8");
    scene.run_due(ends + 1);
    assert_eq!(scene.listed(), "n1 n8 n7");
    assert!(scene.events("n7").contains(&"deferred".to_owned()));
}

/// Registers `goods<session>` with these urls.
fn offer(scene: &mut RegistryScene, ms: u64, session: u64, urls: &str) -> Option<Duration> {
    let params = format!(r#"{{"port":{session},"name":"goods{session}","urls":[{urls}],"$":{{"id":"i{ms}"}}}}"#);
    let params = serde_json::from_str(&params).unwrap();
    let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
    let (now, options) = (scene.at(ms), RegisterOptions::default());
    match scene.registry.admit(now, SessionId(session), registration, "::1", &options).unwrap() {
        Admission::Listed(_) => None,
        Admission::Deferred(wait) => Some(wait),
    }
}

#[test]
fn a13_a_sole_provider_that_restarts_is_listed_at_once() {
    let mut scene = RegistryScene::new();
    let goods = r#""GET/goods""#;
    for second in 0..4 {
        assert_eq!(offer(&mut scene, second * 1000, 7, goods), None, "{second}");
        scene.leave(second * 1000 + 900, 7, LeaveReason::Closed);
    }
    assert_eq!(offer(&mut scene, 4000, 7, goods), None);
    // Another one offers the same: both may wait, and the routes stay offered when the last one
    // goes.
    assert_eq!(offer(&mut scene, 4100, 8, goods), None);
    scene.leave(4200, 7, LeaveReason::Closed);
    assert!(offer(&mut scene, 4300, 7, goods).is_some_and(|wait| wait > Duration::from_secs(5)));
    let why = |scene: &RegistryScene, ms| {
        let event = scene.registry.history(scene.at(ms), "goods7").pop().unwrap();
        format!("{}: {}", event.event, event.why)
    };
    let waits = why(&scene, 5000);
    assert!(waits.starts_with("waits: listed in ") && waits.ends_with(" s, if it stays"), "{waits}");
    // When that one goes, the first is a sole provider.
    scene.leave(6000, 8, LeaveReason::Closed);
    assert!(scene.registry.next_due().unwrap() <= scene.at(6250));
    scene.run_due(6250);
    assert_eq!(scene.listed(), "goods7");
    assert!(why(&scene, 6300).starts_with("joined"), "{}", why(&scene, 6300));
}

#[test]
fn a13_of_nodes_that_offer_the_same_one_is_listed_early() {
    let mut scene = RegistryScene::new();
    let goods = r#""GET/goods""#;
    assert_eq!(offer(&mut scene, 0, 1, goods), None);
    for session in 2..7 {
        for round in 0..5 {
            let ms = session * 1000 + round * 100;
            let _ = offer(&mut scene, ms, session, goods);
            scene.leave(ms + 50, session, LeaveReason::Closed);
        }
        assert!(offer(&mut scene, session * 1000 + 600, session, goods).is_some_and(|wait| wait.as_secs() > 5));
    }
    scene.leave(7000, 1, LeaveReason::Closed);
    scene.run_due(7250);
    scene.run_due(7600);
    assert_eq!(scene.listed().split(' ').count(), 1, "{}", scene.listed());
}

#[test]
fn a13_a_sole_provider_that_flaps_costs_the_others_a_change_a_second() {
    let mut scene = RegistryScene::new();
    let before = scene.registry.revision().rev;
    for tenth in 0..100 {
        let _ = offer(&mut scene, tenth * 100, 7, r#""GET/goods""#);
        scene.run_due(tenth * 100 + 40);
        scene.leave(tenth * 100 + 50, 7, LeaveReason::Closed);
    }
    // Each join is a change, and so is each leave.
    let changes = scene.registry.revision().rev - before;
    assert!((6..=2 * (3 + 10)).contains(&changes), "{changes}");
}

#[test]
fn updates_beyond_a_burst_wait_and_the_last_one_counts() {
    let mut scene = RegistryScene::new();
    scene.register(0, 1, 1).unwrap();
    let mut held = 0;
    for weight in 0..20 {
        let advert = format!(r#","weight":{weight}"#);
        held += usize::from(matches!(
            scene.register_with(10, 1, 1, &advert, &RegisterOptions::default()),
            Ok(Admission::Deferred(_))
        ));
    }
    assert_eq!(held, 10);
    scene.run_due(1100);
    let record = scene.registry.entries.record_of(SessionId(1)).unwrap();
    assert!(record.entry.contains(r#""weight":19"#), "{}", record.entry);
    // A node that drains does not wait.
    let admission = scene.register_with(1100, 1, 1, r#","draining":true"#, &RegisterOptions::default());
    assert!(matches!(admission, Ok(Admission::Listed(_))), "{admission:?}");
}

#[test]
fn rs13_new_nodes_are_taken_at_a_rate_and_old_ones_always() {
    let mut scene =
        RegistryScene::with(Config { registration_burst: 3, registrations_per_second: 10, ..Config::default() });
    for port in 1..=3 {
        assert_eq!(scene.register(0, port.into(), port), new());
    }
    for (port, moment) in [(4, 100), (6, 200)] {
        let busy = RegisterError::Busy(Duration::from_millis(moment));
        assert_eq!(scene.register(0, port.into(), port), Err(busy), "each has a moment of its own");
    }
    scene.register_old(0, 5, 5);
    scene.register_with(0, 1, 1, r#","weight":5"#, &RegisterOptions::default()).unwrap();
    assert_eq!(scene.register(100, 4, 4), new());
    assert_eq!(scene.register(200, 6, 6), new());
}

#[test]
fn rg9_no_node_is_registered_during_a_stop() {
    let mut scene = RegistryScene::new();
    scene.registry.drain();
    assert_eq!(scene.register(0, 1, 1), Err(RegisterError::Draining(RETRY_AFTER_STOP)));
}

/// Makes the next join of an identity wait: it comes and goes three times.
fn flap(scene: &mut RegistryScene, port: u16) {
    for session in 900..903 {
        scene.register(0, session, port).unwrap();
        scene.leave(0, session, LeaveReason::Closed);
    }
}

#[test]
fn rg4_a_registration_that_waits_never_takes_over_from_a_newer_one() {
    let mut scene = RegistryScene::new();
    flap(&mut scene, 7);
    let Ok(Admission::Deferred(wait)) = scene.register(0, 1, 7) else { panic!("it should wait") };
    // The instance registers with another identity, which need not wait.
    let params = r#"{"port":8,"name":"n8","$":{"id":"i7"}}"#;
    let registration = Registration::parse(Some(serde_json::from_str(params).unwrap()), &RegistrationLimits::default());
    let now = scene.at(10);
    let admission = scene.registry.admit(now, SessionId(2), registration.unwrap(), "::1", &RegisterOptions::default());
    assert_eq!(admission, new());
    assert_eq!(scene.registry.poll_superseded(), Some(SessionId(1)), "the older session is told, and cut");
    scene.leave(20, 1, LeaveReason::Superseded);
    scene.run_due(u64::try_from(wait.as_millis()).unwrap() + 100);
    assert_eq!(scene.listed(), "n8");
    assert_eq!(scene.registry.poll_superseded(), None);
}

#[test]
fn rg4_a_superseded_session_is_told_and_cut_in_any_case() {
    let mut scene = RegistryScene::new();
    flap(&mut scene, 7);
    // Two deferred registrations.
    assert!(matches!(scene.register(0, 1, 7), Ok(Admission::Deferred(_))));
    assert!(matches!(scene.register(0, 2, 7), Ok(Admission::Deferred(_))));
    assert_eq!((scene.registry.poll_superseded(), scene.registry.poll_superseded()), (Some(SessionId(1)), None));
    scene.run_due(30_000);
    assert_eq!(scene.listed(), "n7");
    // One listed registration.
    scene.register(30_000, 3, 7).unwrap();
    assert_eq!((scene.registry.poll_superseded(), scene.registry.poll_superseded()), (Some(SessionId(2)), None));
    assert!(scene.leave(30_000, 2, LeaveReason::Closed).is_none());
    assert_eq!(scene.listed(), "n7");
}

#[test]
fn bc3_an_impostor_that_flaps_does_not_defer_the_real_node() {
    let mut scene = RegistryScene::new();
    scene.register(0, 1, 7).unwrap();
    for round in 0..10 {
        let params = format!(r#"{{"port":7,"name":"n7","$":{{"id":"other{round}"}}}}"#);
        let registration =
            Registration::parse(Some(serde_json::from_str(&params).unwrap()), &RegistrationLimits::default()).unwrap();
        // Not long before the real one leaves, or what it costs would have faded.
        let now = scene.at(19_900);
        scene.registry.admit(now, SessionId(50 + round), registration, "::1", &RegisterOptions::default()).unwrap();
        scene.leave(19_900, 50 + round, LeaveReason::Leave);
    }
    scene.leave(20_000, 1, LeaveReason::Closed);
    assert_eq!(scene.register(20_100, 2, 7), new());
}

#[test]
fn reports_count_from_nodes_only_and_once_in_a_while() {
    let mut scene = RegistryScene::new();
    scene.register_old(0, 1, 1);
    scene.register_all(2..=3);
    let id = scene.registry.entries.record_of(SessionId(1)).unwrap().id;
    for (ms, by, suspect) in [
        (10_000, 77, false),
        (10_000, 78, false),
        (10_000, 2, false),
        (10_000, 3, true),
        // Both report again, before their reports count again: no peer reports it any more.
        (14_000, 2, true),
        (15_100, 3, false),
        (19_000, 2, false),
        (20_100, 2, false),
        (20_100, 3, true),
    ] {
        scene.run_due(ms);
        let now = scene.at(ms);
        scene.registry.report_failed(now, SessionId(by), &[id]);
        assert_eq!(scene.registry.entries.record(id).unwrap().is_suspect, suspect, "{ms} {by}");
    }
    let many: Vec<u64> = (0..64).collect();
    for by in 0..=MAX_REPORT_PAIRS as u64 / 64 {
        let now = scene.at(30_000);
        scene.register(30_000, 1000 + by, 1000 + by as u16).unwrap();
        scene.registry.report_failed(now, SessionId(1000 + by), &many);
    }
    assert_eq!(scene.registry.suspicions.report_pairs_len(), MAX_REPORT_PAIRS);
}

#[test]
fn a_mass_loss_retains_its_entries() {
    let mut scene = RegistryScene::new();
    for port in 1..=60 {
        scene.register(0, port.into(), port).unwrap();
    }
    scene.run_due(7000);
    let is_retained = (1..=60)
        .filter(|session| scene.leave(60_000, *session, LeaveReason::Reset).is_some_and(|gone| gone.is_retained))
        .count();
    assert_eq!((is_retained, scene.registry.nodes()), (40, 40));
    // Half of them come back as if nothing had happened; the others are removed, a few at a time.
    let before = scene.registry.revision();
    for port in 41..=60 {
        scene.register(62_000, u64::from(port) + 1000, port).unwrap();
    }
    assert_eq!(scene.registry.revision(), before);
    assert!(scene.run_due(66_999).gone.is_empty());
    assert_eq!(scene.run_due(67_000).gone.len(), 16);
    assert_eq!(scene.run_due(67_100).gone.len(), 0);
    assert_eq!(scene.run_due(67_250).gone.len(), 4);
    assert_eq!(scene.registry.nodes(), 20);
    assert_eq!(scene.events("n21"), ["joined", "kept", "left"]);
}

#[test]
fn nodes_that_say_that_they_leave_do_so_at_once() {
    for reason in [LeaveReason::Leave, LeaveReason::Closed] {
        let mut scene = RegistryScene::new();
        scene.register_all(1..=60);
        assert!((1..=60).all(|session| scene.leave(1000, session, reason).is_some_and(|gone| !gone.is_retained)));
        assert_eq!(scene.registry.nodes(), 0);
    }
}

#[test]
fn rg15_an_instance_made_of_a_secret_is_registered_only_with_it() {
    let secret = Secret::new("s").unwrap();
    let with =
        |secret: Option<&str>| RegisterOptions { secret: secret.and_then(Secret::new), ..RegisterOptions::default() };
    let owned = format!(r#","id":"{}""#, secret.instance());
    let mut scene = RegistryScene::new();
    let mut register = |session, advert: &str, secret| {
        let params = format!(r#"{{"port":{},"name":"goods","$":{{"v":2{advert}}}}}"#, session + 1);
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        let admission = scene.registry.admit(scene.start, SessionId(session), registration, "::1", &with(secret));
        admission.map(|admission| match admission {
            Admission::Listed(registered) => registered.superseded.map(|session| session.0),
            Admission::Deferred(_) => panic!("no node flaps"),
        })
    };
    for (session, advert, secret, expected) in [
        (1, &*owned, None, Err(RegisterError::NotYours)),
        (1, &owned, Some("s"), Ok(None)),
        // All nodes see the id.
        (2, &owned, None, Err(RegisterError::NotYours)),
        (2, &owned, Some("t"), Err(RegisterError::NotYours)),
        (2, &owned, Some("s"), Ok(Some(1))),
        // An id that is made of no secret can be registered by any peer, as before.
        (3, r#","id":"i1""#, None, Ok(None)),
        (4, r#","id":"i1""#, Some("t"), Ok(Some(3))),
        (5, "", Some("s"), Ok(None)),
    ] {
        assert_eq!(register(session, advert, secret), expected, "{session} {advert} {secret:?}");
    }
}

#[test]
fn reports_make_an_old_node_suspect_and_a_new_one_pinged() {
    let mut scene = RegistryScene::new();
    scene.register_old(0, 1, 1);
    scene.register_all(2..=4);
    let now = scene.at(10_000);
    let id = |scene: &RegistryScene, session| scene.registry.entries.record_of(SessionId(session)).unwrap().id;
    let old = id(&scene, 1);
    assert!(!scene.registry.report_failed(now, SessionId(2), &[old, 999]).has_changed);
    assert!(!scene.registry.report_failed(now, SessionId(2), &[old]).has_changed, "one witness is none");
    assert!(scene.registry.report_failed(now, SessionId(3), &[old]).has_changed);
    assert!(scene.registry.entries.record(old).unwrap().is_suspect);
    scene.run_due(14_999);
    assert!(scene.registry.entries.record(old).unwrap().is_suspect);
    scene.run_due(15_000);
    assert!(!scene.registry.entries.record(old).unwrap().is_suspect);
    assert_eq!(scene.events("old"), ["joined", "suspect", "trusted"]);
}

#[test]
fn a_wait_names_nodes_without_acknowledgement() {
    let mut scene = RegistryScene::new();
    scene.register_all(1..=3);
    let options = RegisterOptions {
        visibility: Some(VisibilityTarget { percent: 100, within: 500 }),
        ..RegisterOptions::default()
    };
    scene.register_with(1000, 4, 4, "", &options).unwrap();
    assert!(scene.registry.header().ack);
    let newest = scene.registry.revision();
    for session in [1, 3, 4] {
        assert!(!scene.registry.acknowledge(SessionId(session), newest, None));
    }
    assert!(scene.run_due(1499).resolved.is_empty());
    let resolved = scene.run_due(1500).resolved;
    assert_eq!((resolved[0].0.seen, resolved[0].0.of, resolved[0].0.enough), (3, 4, false));
    assert_eq!(resolved[0].1, ["n2 [::1]:2"]);
    assert!(!scene.registry.header().ack);
}

#[test]
fn a_digest_shows_drift_only_at_the_same_revision() {
    let mut scene = RegistryScene::new();
    scene.register_all(1..=2);
    let (newest, digest) = (scene.registry.revision(), scene.registry.entries.digest());
    let older = Revision { rev: newest.rev - 1, ..newest };
    for (known, said, drifted) in [
        (newest, Some(digest), false),
        (newest, None, false),
        (newest, Some(Digest(digest.0 ^ 1)), true),
        (older, Some(Digest(digest.0 ^ 1)), false),
    ] {
        assert_eq!(scene.registry.acknowledge(SessionId(1), known, said), drifted, "{known} {said:?}");
    }
}

#[test]
fn a_peer_is_told_why_it_is_not_listed_and_when_to_come_back() {
    let wait = Duration::from_secs(2);
    for (told, expected) in [
        (Admission::Deferred(wait).notice(), Some((202, "held_back", Some(wait)))),
        (RegisterError::Busy(wait).rejection(), Some((503, "busy", Some(wait)))),
        (RegisterError::Draining(wait).rejection(), Some((503, "draining", Some(wait)))),
        (RegisterError::Full.rejection(), Some((507, "registry_full", None))),
        (RegisterError::Superseded.rejection(), None),
    ] {
        assert_eq!(told.map(|told| (told.status, told.reason, told.retry_after)), expected);
    }
}

#[test]
fn a_refused_registration_changes_nothing() {
    let mut scene = RegistryScene::with(Config { max_list_bytes: 1000, ..Config::default() });
    let register = |scene: &mut RegistryScene, is_cut: bool, interest: usize| {
        let params = serde_json::from_str(r#"{"port":1,"name":"n","$":{}}"#).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        let options = RegisterOptions { interests: Some(vec!["x".repeat(interest)]), ..RegisterOptions::default() };
        scene.registry.register_session(scene.start, SessionId(1), is_cut, registration, "::1", &options)
    };
    for (is_cut, interest, expected) in [(true, 1, RegisterError::Superseded), (false, 1000, RegisterError::Full)] {
        assert_eq!(register(&mut scene, is_cut, interest).unwrap_err(), expected);
        assert_eq!((scene.registry.nodes(), scene.registry.interest_budget().used()), (0, 0));
    }
    register(&mut scene, false, 100).unwrap();
    assert_eq!(scene.registry.nodes(), 1);
    assert!(scene.registry.interest_budget().used() >= 100, "while the session is registered");
    scene.leave(0, 1, LeaveReason::Closed);
    assert_eq!(scene.registry.interest_budget().used(), 0);
}

#[test]
fn e2_a_place_that_empties_at_one_moment_is_one_strike() {
    for (workers, version) in [(4, Version::V1), (3, Version::V2)] {
        let mut scene = RegistryScene::new();
        let register = |scene: &mut RegistryScene, ms: u64, session: u64| {
            if version == Version::V1 {
                scene.register_old(ms, session, 7);
                return;
            }
            let params = format!(r#"{{"port":7,"name":"old","$":{{"id":"worker{session}"}}}}"#);
            let params = serde_json::from_str(&params).unwrap();
            let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
            let now = scene.at(ms);
            scene.registry.admit(now, SessionId(session), registration, "::1", &RegisterOptions::default()).unwrap();
        };
        for round in 0..6 {
            let (begin, first) = (round * 1000, round * 100);
            (0..workers).for_each(|worker| register(&mut scene, begin, first + worker));
            // Twice they are back at once, and a third time within 16 s is flapping.
            let listed = scene.listed().matches("old").count();
            assert_eq!(listed, if round < 3 { workers as usize } else { 0 }, "{version:?} {round}");
            (0..workers).for_each(|worker| drop(scene.leave(begin + 500, first + worker, LeaveReason::Closed)));
        }
    }
}

#[test]
fn e2_workers_that_wait_to_be_listed_and_go_are_one_strike() {
    let mut scene = RegistryScene::new();
    for round in 0..3 {
        scene.register_old(round * 100, round, 7);
        scene.leave(round * 100, round, LeaveReason::Closed);
    }
    let delay = |scene: &RegistryScene, ms| {
        let identity = (Box::from("::1"), 7, Box::from("old"));
        scene.registry.damping.delay(scene.at(ms), &identity).unwrap_or_default()
    };
    let before = delay(&scene, 1000);
    (10..14).for_each(|session| scene.register_old(1000, session, 7));
    (10..14).for_each(|session| drop(scene.leave(1000, session, LeaveReason::Closed)));
    let more = delay(&scene, 1000) - before;
    assert!(more > Duration::ZERO && more < Duration::from_secs(5), "one strike, not four: {more:?}");
}

#[test]
fn e18_the_only_peer_that_can_report_is_believed_after_longer() {
    let mut scene = RegistryScene::new();
    scene.register_old(0, 1, 1);
    scene.register_old(0, 4, 4);
    scene.register_all(2..=2);
    let id = scene.registry.entries.record_of(SessionId(1)).unwrap().id;
    let report = |scene: &mut RegistryScene, ms: u64| {
        scene.run_due(ms);
        let outcome = scene.registry.report_failed(scene.at(ms), SessionId(2), &[id]);
        (scene.registry.entries.record(id).unwrap().is_suspect, outcome.hung.len())
    };
    for ms in (0..=55_000).step_by(11_000) {
        assert_eq!(report(&mut scene, ms), (true, 0), "{ms}");
    }
    assert_eq!(report(&mut scene, 66_000).1, 1);
    // With a second one, a single witness is none again.
    scene.register_all(3..=3);
    assert_eq!(report(&mut scene, 110_000), (false, 0));
}

#[test]
fn e18_an_old_node_that_two_peers_report_for_long_is_gone() {
    let mut scene = RegistryScene::new();
    scene.register_old(0, 1, 1);
    scene.register_all(2..=3);
    let id = scene.registry.entries.record_of(SessionId(1)).unwrap().id;
    let report = |scene: &mut RegistryScene, ms: u64, by: u64| {
        scene.run_due(ms);
        let outcome = scene.registry.report_failed(scene.at(ms), SessionId(by), &[id]);
        assert_eq!(outcome.to_probe, [SessionId(1)]);
        (scene.registry.entries.record(id).unwrap().is_suspect, outcome.hung.len())
    };
    for (ms, suspect) in [(0, true), (11_000, true), (22_000, true)] {
        assert_eq!(report(&mut scene, ms, 2), (false, 0), "one witness is none");
        assert_eq!(report(&mut scene, ms + 1000, 3), (suspect, 0));
    }
    assert_eq!(report(&mut scene, 33_000, 2), (false, 0));
    assert_eq!(report(&mut scene, 34_000, 3).1, 1, "for half a minute");
    // One that is known to read stays, and so does one of which no peer complains for as long.
    for (ms, alive, hung) in [(100_000, false, 0), (111_000, true, 0), (133_000, false, 0), (200_000, false, 0)] {
        report(&mut scene, ms, 2);
        if alive {
            scene.registry.record_reading(scene.at(ms), SessionId(1));
        }
        assert_eq!(report(&mut scene, ms + 1000, 3).1, hung, "{ms}");
    }
}

#[test]
fn e18_one_of_several_peers_is_believed_after_longer_and_once_an_hour() {
    let mut scene = RegistryScene::new();
    scene.register_old(0, 1, 1);
    // One calls it, and the others have no calls for it.
    scene.register_all(2..=9);
    let report = |scene: &mut RegistryScene, ms: u64| {
        scene.run_due(ms);
        let id = scene.registry.entries.record_of(SessionId(1)).unwrap().id;
        let outcome = scene.registry.report_failed(scene.at(ms), SessionId(2), &[id]);
        (scene.registry.entries.record(id).unwrap().is_suspect, outcome.hung.len())
    };
    let hung_at = |scene: &mut RegistryScene, from: u64, step: usize| {
        (from..from + 600_000).step_by(step).find(|ms| report(scene, *ms) == (false, 1))
    };
    assert_eq!(hung_at(&mut scene, 1000, 11_000), Some(122_000));
    // It lives after all.
    scene.leave(122_000, 1, LeaveReason::Hung);
    scene.register_old(125_000, 1, 1);
    assert_eq!(hung_at(&mut scene, 126_000, 11_000), None, "the fault is on the side of the peer");
    assert_eq!(hung_at(&mut scene, 3_800_000, 40_000), None, "it is not said again and again");
    assert_eq!(hung_at(&mut scene, 4_500_000, 11_000), Some(4_621_000), "an hour later");
}
