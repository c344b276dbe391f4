//! A node that is told what it uses, and asks for more.

use std::collections::BTreeSet;

use fastrand::Rng;
use protocol::{LeaveReason, ListUpdate, Packet, Replica, Route, Router, UnpackedBlocks, UpdateOutcome, read_needed};

use super::*;
use crate::registry::liveness::Verdict;

/// A node that can ask, and what it knows.
struct Asker {
    peer: Peer,
    replica: Replica,
    /// The urls that it was told that it needs.
    needs: BTreeSet<String>,
    ms: u64,
}

impl Asker {
    fn new(config: Config) -> Self {
        let mut peer = Peer::new(65_536);
        peer.registry = Registry::new(config, UpdateBudget::new(usize::MAX), peer.start, 1);
        // While it warms up, nodes retain what its lists lack.
        assert!(peer.registry.run_due(peer.at(10_000)).is_warm);
        Self { peer, replica: Replica::default(), needs: BTreeSet::new(), ms: 10_000 }
    }

    /// Registers another node.
    fn node(&mut self, session: u64, name: &str, urls: &[&str], advert: &str) {
        let urls = serde_json::to_string(urls).unwrap();
        let params = format!(r#"{{"port":{},"name":"{name}","urls":{urls},"$":{{{advert}}}}}"#, session + 1);
        let options = RegisterOptions::default();
        let registration = registration(&params);
        let _ = self.peer.registry.register_session(
            self.peer.start,
            SessionId(session),
            false,
            registration,
            "::1",
            &options,
        );
    }

    /// Registers as a node that can ask. Returns whether it has a partial view.
    fn register(&mut self, part: bool) -> bool {
        let uses = Some(self.needs.iter().cloned().collect());
        let options = RegisterOptions { uses, part, ..RegisterOptions::default() };
        let registration = registration(r#"{"port":9999,"name":"asker","urls":[],"$":{"id":"me"}}"#);
        let effects = self.peer.registry.register_session(self.peer.start, PEER, false, registration, "::1", &options);
        let interests = effects.unwrap().interests;
        let is_partial = interests.is_some();
        self.peer.outbox.follow(Version::V2, interests);
        is_partial
    }

    fn publish(&mut self) {
        self.peer.registry.publish(Version::V2);
    }

    /// Reads all that it is sent. Returns the answer to a question, if one comes.
    fn read(&mut self) -> Option<Vec<Option<String>>> {
        let mut answer = None;
        for _ in 0..100 {
            self.ms += 1;
            let now = self.peer.at(self.ms);
            let bytes = match self.peer.outbox.next(now, &mut self.peer.registry, true) {
                WriteStep::Write(bytes) => bytes,
                WriteStep::Later(_) => continue,
                WriteStep::Done => return answer,
                WriteStep::WaitFor(_) => panic!("it is of version 2"),
            };
            self.peer.outbox.record_write(now, bytes.len());
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            for frame in text.split_terminator('¶') {
                let packet = Packet::parse(frame.as_bytes()).unwrap();
                match packet.uri() {
                    "$needed" => answer = read_needed(packet.params),
                    "$ping" => {}
                    _ => {
                        let mut unpacked = UnpackedBlocks::default();
                        let update = ListUpdate::parse(&packet, &mut unpacked).unwrap();
                        let outcome = self.replica.apply(now, &update);
                        assert!(matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same), "{outcome:?} {frame}");
                    }
                }
            }
        }
        panic!("it never ends");
    }

    /// Asks until it is answered.
    fn ask(&mut self, routes: &[&str]) -> Result<Vec<Option<String>>, Rejection> {
        let routes: Vec<String> = routes.iter().map(|route| (*route).to_owned()).collect();
        for _ in 0..3 {
            self.ms += 20;
            let (now, key) = (self.peer.at(self.ms), Key::Number(7));
            match self.peer.outbox.answer_need(now, &mut self.peer.registry, "::1", &key, &routes) {
                Ok(()) => {
                    let answer = self.read().expect("an answer");
                    self.needs.extend(answer.iter().flatten().cloned());
                    return Ok(answer);
                }
                Err(rejection) if rejection.reason == "busy" => drop(self.read()),
                Err(rejection) => return Err(rejection),
            }
        }
        panic!("it is not answered");
    }

    /// The names of the nodes that it knows, and whether they are suspect.
    fn known(&self) -> BTreeSet<(String, bool)> {
        self.replica.nodes().into_iter().map(|known| (known.node.name.clone(), known.node.suspect)).collect()
    }
}

fn registration(params: &str) -> Registration {
    Registration::parse(serde_json::from_str(params).ok(), &Config::default().registration_limits()).unwrap()
}

#[test]
fn a_node_asks_for_a_route_and_is_told_who_offers_it() {
    let mut asker = Asker::new(Config { tell_all_up_to: 0, ..Config::default() });
    asker.node(1, "members", &["GET/members/{id}"], "");
    asker.node(2, "goods", &["GET/goods", "EVENT/told"], "");
    asker.publish();
    assert!(asker.register(false));
    asker.publish();
    assert_eq!(asker.read(), None);
    assert!(asker.known().is_empty());
    let members = || Some("GET/members/{id}".to_owned());
    assert_eq!(asker.ask(&["GET/members/7", "GET/none"]).unwrap(), [members(), None]);
    let known = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), false)).collect::<BTreeSet<_>>();
    assert_eq!(asker.known(), known(&["members"]));
    // What it knows is not sent again, and what comes later is told with the other changes.
    assert_eq!(asker.ask(&["GET/members/8"]).unwrap(), [members()]);
    asker.node(3, "more", &["GET/members/{number}"], "");
    asker.node(4, "other", &["GET/other"], "");
    asker.publish();
    assert_eq!(asker.read(), None);
    assert_eq!(asker.known(), known(&["members", "more"]));
    // A node that has registered and is not published yet is told, too.
    asker.node(5, "late", &["GET/late"], "");
    assert_eq!(asker.ask(&["GET/late"]).unwrap(), [Some("GET/late".to_owned())]);
    assert_eq!(asker.known(), known(&["late", "members", "more"]));
    // An event is needed before there is a subscriber.
    assert_eq!(asker.ask(&["EVENT/told", "EVENT/new"]).unwrap().len(), 2);
    assert_eq!(asker.known(), known(&["goods", "late", "members", "more"]));
    asker.node(6, "mails", &["EVENT/new"], "");
    asker.publish();
    assert_eq!(asker.read(), None);
    assert!(asker.known().contains(&("mails".to_owned(), false)));
}

#[test]
fn a_node_that_asks_is_told_of_the_newest_providers_of_what_it_uses() {
    let mut asker = Asker::new(Config { tell_all_up_to: 0, ..Config::default() });
    asker.node(1, "before", &["GET/members/{id}"], "");
    asker.publish();
    asker.register(true);
    asker.publish();
    asker.read();
    let found = [Some("GET/members/{id}".to_owned())];
    assert_eq!(asker.ask(&["GET/members/7"]).unwrap(), found);
    // Its only provider starts anew, which is not published yet.
    drop(asker.peer.registry.remove_session(asker.peer.start, SessionId(1), LeaveReason::Closed));
    asker.node(2, "after", &["GET/members/{id}"], "");
    assert_eq!(asker.ask(&["GET/members/7"]).unwrap(), found);
    assert_eq!(asker.known(), [("after".to_owned(), false)].into());
    asker.publish();
    assert_eq!(asker.read(), None);
    assert_eq!(asker.known(), [("after".to_owned(), false)].into());
}

#[test]
fn what_a_node_is_told_of_is_decided_when_its_session_begins() {
    for (nodes, part, is_partial) in [
        (3, false, false),
        (4, false, true),
        (2, true, true),
        // The mesh is small again.
        (1, true, false),
    ] {
        let mut asker = Asker::new(Config { tell_all_up_to: 4, ..Config::default() });
        (0..nodes).for_each(|session| asker.node(session, "n", &["GET/n"], ""));
        asker.publish();
        assert_eq!(asker.register(part), is_partial, "{nodes}");
        asker.publish();
        assert_eq!(asker.read(), None);
        let seen = if is_partial { 0 } else { nodes as usize + 1 };
        assert_eq!(asker.replica.len(), seen, "{nodes}");
        // Registering again changes nothing of it.
        (10..20).for_each(|session| asker.node(session, "m", &["GET/m"], ""));
        asker.publish();
        assert_eq!(asker.register(part), is_partial);
        asker.read();
        assert_eq!(asker.replica.len(), if is_partial { 0 } else { seen + 10 }, "{nodes}");
        // A node that is told of all is answered, too.
        assert_eq!(asker.ask(&["GET/m"]).unwrap(), [Some("GET/m".to_owned())]);
    }
}

#[test]
fn a_node_is_told_of_a_part_again_while_lists_lack_nodes() {
    for (is_warm, part, is_partial) in [(false, true, true), (false, false, false), (true, true, false)] {
        let mut asker = Asker::new(Config::default());
        if !is_warm {
            asker.peer.registry = Registry::new(Config::default(), UpdateBudget::new(usize::MAX), asker.peer.start, 1);
        }
        assert_eq!(asker.register(part), is_partial, "warm {is_warm}, part {part}");
    }
}

#[test]
fn a_question_may_be_refused() {
    let mut asker = Asker::new(Config { tell_all_up_to: 0, max_urls: 3, ..Config::default() });
    asker.node(1, "n", &["GET/a", "GET/b", "GET/c"], "");
    assert_eq!(asker.ask(&["GET/a"]).unwrap_err().reason, "bad_need", "it has not registered");
    asker.register(false);
    asker.publish();
    asker.read();
    assert!(asker.ask(&["GET/a", "GET/b", "GET/c"]).is_ok());
    assert_eq!(asker.ask(&["EVENT/d"]).unwrap_err().reason, "too_many_needs");
    // It registers with fewer, and asks again.
    asker.needs.remove("GET/a");
    asker.register(true);
    assert!(asker.ask(&["EVENT/d"]).is_ok());
    let named = Some(Arc::new(Interests::named(vec!["n".into()])));
    asker.peer.outbox.follow(Version::V2, named);
    assert_eq!(asker.ask(&["GET/a"]).unwrap_err().reason, "bad_need", "an author has said what it needs");
    let mut asker = Asker::new(Config { tell_all_up_to: 0, max_list_bytes: 400, ..Config::default() });
    asker.register(false);
    asker.publish();
    asker.read();
    let events: Vec<String> = (0..20).map(|number| format!("EVENT/{number}")).collect();
    let refused = events.iter().find_map(|event| asker.ask(&[event]).err());
    assert_eq!(refused.unwrap().reason, "registry_full");
}

#[test]
fn nodes_whose_questions_are_turned_away_come_back_one_by_one() {
    let mut asker = Asker::new(Config { tell_all_up_to: 0, ..Config::default() });
    asker.node(1, "n", &["GET/a"], "");
    asker.publish();
    asker.register(true);
    asker.publish();
    asker.read();
    let (now, routes) = (asker.peer.at(asker.ms), ["GET/a".to_owned()]);
    let Asker { peer: Peer { registry, outbox, .. }, .. } = &mut asker;
    let mut ask = || registry.learn(now, PEER, "::1", &outbox.known, &routes);
    assert!((0..100_000).any(|_| ask().is_err()), "it takes no time");
    let waits: Vec<_> = (0..1000).map(|_| ask().unwrap_err().retry_after.unwrap()).collect();
    assert_eq!(waits.iter().collect::<BTreeSet<_>>().len(), waits.len());
    assert!((0..10_000).all(|_| ask().unwrap_err().retry_after <= Some(Duration::from_secs(1))));
}

const URLS: [&str; 12] = [
    "GET/a",
    "GET/a/{id}",
    "GET/a/{other}",
    "GET/a/new",
    "GET/{all}/new",
    "GET/{all}/{more}",
    "GET/b/{id}/c",
    "GET/b/x/{id}",
    "GET/{b}/x/c",
    "POST/a",
    "EVENT/a",
    "EVENT/b",
];
const ROUTES: [&str; 11] = [
    "GET/a",
    "GET/a/1",
    "GET/a/new",
    "GET/b/new",
    "GET/b/2",
    "GET/b/1/c",
    "GET/b/x/c",
    "GET/b/x/7",
    "POST/a",
    "EVENT/a",
    "GET/none",
];

/// The nodes that take calls of a route, among these, and the url by which they do.
fn providers(nodes: &[protocol::KnownNode], route: &str) -> (Option<Route>, BTreeSet<u16>) {
    let mut router: Router<(Route, BTreeSet<u16>)> = Router::default();
    let mut events = BTreeSet::new();
    for known in nodes {
        let takes_calls = known.node.advert.as_ref().is_none_or(|advert| !advert.draining && advert.weight > 0);
        for url in known.node.routes.iter().filter(|_| takes_calls) {
            if url.as_str() == route && url.method() == "EVENT" {
                events.insert(known.node.port);
            }
            router.entry(url, || (url.clone(), BTreeSet::new())).unwrap().1.insert(known.node.port);
        }
    }
    let (method, path) = route.split_at(route.find('/').unwrap());
    if method == "EVENT" {
        return (Route::parse(route).ok(), events);
    }
    match router.find(method, path) {
        Some(found) => (Some(found.value.0.clone()), found.value.1.clone()),
        None => (None, BTreeSet::new()),
    }
}

/// Whatever happens, a node that has asked for a route knows the same providers of it as a node
/// that is told of all, as long as there are any.
#[test]
fn a_node_that_asks_calls_what_a_node_calls_that_knows_all() {
    let mut asked_in_all = 0;
    for seed in 0..400 {
        let rng = &mut Rng::with_seed(seed);
        let mut asker = Asker::new(Config { tell_all_up_to: 0, ..Config::default() });
        let mut asked = BTreeSet::new();
        asker.register(true);
        for _ in 0..rng.usize(1..60) {
            let session = rng.u64(0..8);
            match rng.u8(0..10) {
                0..4 => {
                    let urls: Vec<&str> = URLS.into_iter().filter(|_| rng.u8(0..4) == 0).collect();
                    let advert = if rng.u8(0..4) == 0 { r#""draining":true"# } else { "" };
                    asker.node(session, &format!("n{session}"), &urls, advert);
                }
                4 => {
                    drop(asker.peer.registry.remove_session(asker.peer.start, SessionId(session), LeaveReason::Closed))
                }
                5 => {
                    let verdict = if rng.bool() { Verdict::Suspect } else { Verdict::Trust };
                    asker.peer.registry.apply_verdict(asker.peer.start, SessionId(session), verdict);
                }
                6 => asker.publish(),
                7 => drop(asker.read()),
                8 if rng.u8(0..5) == 0 => drop(asker.register(true)),
                _ => {
                    let routes: Vec<&str> = ROUTES.into_iter().filter(|_| rng.u8(0..6) == 0).collect();
                    if routes.is_empty() {
                        continue;
                    }
                    let found = asker.ask(&routes).unwrap();
                    let found = routes.into_iter().zip(found).filter(|(_, url)| url.is_some());
                    asked.extend(found.map(|(route, _)| route));
                }
            }
        }
        asker.publish();
        asker.read();
        let entries: Vec<_> = asker.peer.registry.entries().cloned().collect();
        let revision = Revision { epoch: 1, rev: 1 };
        let all = Replica::seeded(revision, entries.iter().map(|record| (record.id, &*record.entry)));
        let (all, known) = (all.nodes(), asker.replica.nodes());
        let mut needs: Router<()> = Router::default();
        asker.needs.iter().for_each(|url| drop(needs.entry(&Route::parse(url).unwrap(), || ())));
        for route in asked {
            let ((_, expected), (url, seen)) = (providers(&all, route), providers(&known, route));
            // Otherwise it asks again.
            if url.is_some_and(|url| needs.has(&url)) {
                assert_eq!(seen, expected, "seed {seed}: {route}");
                asked_in_all += usize::from(!expected.is_empty());
            }
        }
        let suspect: BTreeSet<_> = entries.iter().filter(|record| record.is_suspect).map(|record| record.id).collect();
        for known in &known {
            assert_eq!(known.node.suspect, known.ids.iter().any(|id| suspect.contains(id)), "seed {seed}");
        }
        let ids: BTreeSet<_> = entries.iter().map(|record| record.id).collect();
        assert!(known.iter().flat_map(|known| &known.ids).all(|id| ids.contains(id)), "seed {seed}: one has gone");
    }
    assert!(asked_in_all > 300, "{asked_in_all}");
}
