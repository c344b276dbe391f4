//! Lists and changes as they go over the wire: encoded once for everybody who knows the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use protocol::{Key, REGISTRY_URI, Revision, Stamp, Version, write_delta, write_list, write_snapshot};

use crate::config::{Config, OversizedList};
use crate::needs::Needs;
use crate::registry::{Difference, Record, Registry};

/// The packets of the newest revision, as far as somebody has needed them.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    legacy: Option<(Revision, Bytes)>,
    snapshot: Option<(Stamp, Bytes)>,
    /// What `changes` and `subsets` lead to.
    of: Stamp,
    changes: HashMap<Known, Bytes>,
    /// What has changed since when, for whoever needs what: the same for all those whom the last changes did not concern,
    /// whatever each of them was told last.
    differences: HashMap<(u64, Option<Arc<Needs>>), Arc<Difference>>,
    /// From one state that everybody was led to, to the next; the last ones, the newest last, no more bytes than a list has.
    steps: VecDeque<Step>,
    subsets: HashMap<Arc<Needs>, Bytes>,
}

/// What leads everybody from one state to the next.
#[derive(Debug)]
struct Step {
    from: Revision,
    to: Revision,
    packet: Bytes,
}

/// A peer that has missed at most so many changes gets them merged into one packet of its own, if that has at most so many
/// bytes. Others get the steps that everybody got, or the list: those cost the same memory however many peers are behind.
const MAX_OWN_CHANGES: u64 = 1024;
const MAX_OWN_BYTES: usize = 16 * 1024;

/// What a version 2 peer knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    /// The state it was told last.
    pub(crate) told: Option<Revision>,
    /// Changes up to this are none that it needs.
    pub(crate) seen: Option<Revision>,
    /// `None`: it needs all.
    pub(crate) needs: Option<Arc<Needs>>,
}

/// What a version 2 peer should be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dispatch {
    /// Nothing: it knows this state, as far as it needs it.
    Nothing(Revision),
    /// This, after which it knows that.
    Packet(Bytes, Revision),
}

impl Lists {
    /// The list for version 1, as it is now.
    pub(crate) fn legacy(&mut self, registry: &Registry, config: &Config) -> (Bytes, Revision) {
        let revision = registry.revision();
        match &self.legacy {
            Some((of, bytes)) if *of == revision => (bytes.clone(), revision),
            _ => {
                let bytes = encode_legacy(registry, config);
                self.legacy = Some((revision, bytes.clone()));
                (bytes, revision)
            }
        }
    }

    /// What a version 2 peer has to be told, in the fewest bytes. `stamp` is the state to which everybody is being led now:
    /// when all take the same steps, the same bytes do for all, however slow some of them are.
    pub(crate) fn news(&mut self, registry: &Registry, stamp: Stamp, known: &Known) -> Dispatch {
        let target = stamp.revision;
        let is_there =
            |state: Option<Revision>| state.is_some_and(|state| state.epoch == target.epoch && state.rev >= target.rev);
        if is_there(known.told) || is_there(known.seen) {
            return Dispatch::Nothing(known.seen.or(known.told).unwrap_or(target));
        }
        if known.needs.is_none()
            && let Some(step) = self.steps.back()
            && Some(step.from) == known.told
            && step.to == target
        {
            return Dispatch::Packet(step.packet.clone(), target);
        }
        self.turn_to(stamp);
        if let Some(told) = known.told
            && let Some(base) = registry.base(known.seen.unwrap_or(told))
            && (known.needs.is_some() || target.rev.saturating_sub(base) <= MAX_OWN_CHANGES)
        {
            let difference = self
                .differences
                .entry((base, known.needs.clone()))
                .or_insert_with(|| Arc::new(registry.between(base, target.rev, known.needs.as_deref())));
            if known.needs.is_some() && difference.is_empty() && told.epoch == target.epoch {
                return Dispatch::Nothing(target);
            }
            if let Some(packet) = self.changes.get(known) {
                return Dispatch::Packet(packet.clone(), target);
            }
            if difference.is_empty() || difference.bytes() <= registry.list_bytes().min(MAX_OWN_BYTES) {
                let stamp = if known.needs.is_some() { Stamp { digest: None, ..stamp } } else { stamp };
                let packet = encode_change(difference, &stamp, told);
                self.changes.insert(known.clone(), packet.clone());
                return Dispatch::Packet(packet, target);
            }
        }
        if known.needs.is_none()
            && let Some(told) = known.told
            && let Ok(at) = self.steps.binary_search_by_key(&told, |step| step.from)
        {
            let Step { to, packet, .. } = &self.steps[at];
            return Dispatch::Packet(packet.clone(), *to);
        }
        match &known.needs {
            None => self.snapshot(registry, stamp),
            Some(needs) => Dispatch::Packet(self.subset(registry, stamp, needs), target),
        }
    }

    /// The list for a peer that asked under a key of its own.
    pub(crate) fn answer(
        &mut self,
        registry: &Registry,
        config: &Config,
        stamp: Stamp,
        (version, key): (Version, &Key),
        needs: Option<&Arc<Needs>>,
    ) -> (Bytes, Revision) {
        self.turn_to(stamp);
        let list = match (version, needs) {
            (Version::V1, _) => self.legacy(registry, config).0,
            (Version::V2, Some(needs)) => self.subset(registry, stamp, needs),
            (Version::V2, None) => {
                self.snapshot.take_if(|(of, _)| of.revision != stamp.revision || of.warming != stamp.warming);
                match self.snapshot(registry, stamp) {
                    Dispatch::Packet(bytes, _) => bytes,
                    Dispatch::Nothing(_) => Bytes::new(),
                }
            }
        };
        (under_key(list, key), stamp.revision)
    }

    /// Everybody who was led to `from` is led to the state of `stamp` now.
    pub(crate) fn step(&mut self, registry: &Registry, from: Revision, stamp: Stamp) {
        if from == stamp.revision {
            return;
        }
        let in_order = self.steps.back().is_none_or(|step| step.to == from);
        let base = registry.base(from).filter(|_| in_order && from.epoch == stamp.revision.epoch);
        let Some(base) = base else { return self.steps.clear() };
        let packet = encode_change(&registry.between(base, stamp.revision.rev, None), &stamp, from);
        self.steps.push_back(Step { from, to: stamp.revision, packet });
        let mut bytes: usize = self.steps.iter().map(|step| step.packet.len()).sum();
        while bytes > registry.list_bytes().max(MAX_OWN_BYTES)
            && self.steps.len() > 1
            && let Some(oldest) = self.steps.pop_front()
        {
            bytes -= oldest.packet.len();
        }
    }

    /// Packets of an earlier state are of no use any more.
    fn turn_to(&mut self, stamp: Stamp) {
        if self.of != stamp {
            self.of = stamp;
            self.changes.clear();
            self.differences.clear();
            self.subsets.clear();
        }
    }

    /// A whole list that is new enough: the few changes since then follow it. When thousands come at once, encoding the
    /// list for each of them would take longer than sending it.
    fn snapshot(&mut self, registry: &Registry, stamp: Stamp) -> Dispatch {
        const ENTRIES_PER_CHANGE: u64 = 8;
        let is_new_enough = |of: &Stamp| {
            let is_ours = of.revision.epoch == stamp.revision.epoch
                && registry.base(of.revision).is_some()
                && of.revision <= stamp.revision;
            let behind = stamp.revision.rev.saturating_sub(of.revision.rev);
            is_ours && behind * ENTRIES_PER_CHANGE <= registry.len() as u64 && (of.warming || !stamp.warming)
        };
        if let Some((of, bytes)) = &self.snapshot
            && is_new_enough(of)
        {
            return Dispatch::Packet(bytes.clone(), of.revision);
        }
        let bytes = encode_list(registry.records_at(stamp.revision.rev).into_iter(), &stamp);
        self.snapshot = Some((stamp, bytes.clone()));
        Dispatch::Packet(bytes, stamp.revision)
    }

    fn subset(&mut self, registry: &Registry, stamp: Stamp, needs: &Arc<Needs>) -> Bytes {
        let encode = || {
            let records = registry.records_at(stamp.revision.rev).into_iter().filter(|record| needs.concern(record));
            let mut digest = protocol::Digest::default();
            records.clone().for_each(|record| digest.add(record.id, &record.entry));
            encode_list(records, &Stamp { digest: Some(digest), ..stamp })
        };
        self.subsets.entry(Arc::clone(needs)).or_insert_with(encode).clone()
    }
}

/// Bytes of the whole list for version 1, without encoding it.
pub(crate) fn legacy_bytes(registry: &Registry) -> usize {
    r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}¶"#.len() + registry.list_bytes()
}

/// The key of lists that nobody asked for.
const UNASKED: Key = Key::Number(0);

fn encode_legacy(registry: &Registry, config: &Config) -> Bytes {
    let encode = |entries: &mut dyn Iterator<Item = &str>| {
        let mut out = BytesMut::new();
        write_list(&mut out, &UNASKED, entries);
        out.freeze()
    };
    let fits = legacy_bytes(registry) <= config.legacy_list_bytes;
    match config.oversized_list {
        OversizedList::Truncate if !fits => {
            // Every entry is counted with a comma; the first has none.
            let frame_bytes = encode(&mut std::iter::empty()).len();
            let room = (config.legacy_list_bytes + 1).saturating_sub(frame_bytes);
            encode(&mut registry.entries_within(room).into_iter())
        }
        OversizedList::Truncate | OversizedList::Send => encode(&mut registry.records().map(|record| &*record.entry)),
    }
}

fn encode_list<'a>(records: impl Iterator<Item = &'a Arc<Record>> + Clone, stamp: &Stamp) -> Bytes {
    let mut out = BytesMut::new();
    let suspect = records.clone().filter(|record| record.suspect).map(|record| record.id);
    write_snapshot(&mut out, &UNASKED, stamp, records.map(|record| (record.id, &*record.entry)), suspect);
    out.freeze()
}

fn encode_change(difference: &Difference, stamp: &Stamp, base: Revision) -> Bytes {
    let Difference { joined, left, suspect, trusted } = difference;
    let mut out = BytesMut::new();
    write_delta(
        &mut out,
        stamp,
        base,
        joined.iter().map(|record| (record.id, &*record.entry)),
        left.iter().copied(),
        (suspect.iter().copied(), trusted.iter().copied()),
    );
    out.freeze()
}

fn under_key(list: Bytes, key: &Key) -> Bytes {
    if *key == UNASKED {
        return list;
    }
    let before_key = format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":"#);
    let after_key = before_key.len() + UNASKED.to_string().len();
    let mut out = BytesMut::with_capacity(list.len() + 32);
    out.extend_from_slice(before_key.as_bytes());
    out.extend_from_slice(key.to_string().replace('¶', "\\u00b6").as_bytes());
    out.extend_from_slice(&list[after_key..]);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::{News, Outcome, Packet, Reason, Registration, Replica};

    use super::*;
    use crate::registry::SessionId;

    fn register(registry: &mut Registry, session: u64) {
        let params = format!(r#"{{"port":{},"name":"n{session:04}","urls":["GET/¶"]}}"#, session + 1);
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &Config::default().registration).unwrap();
        registry.register(SessionId(session), &registration, "::1");
    }

    fn registry(nodes: u64) -> Registry {
        let mut registry = Registry::new(1);
        (0..nodes).for_each(|session| register(&mut registry, session));
        registry
    }

    fn stamp(registry: &Registry) -> Stamp {
        Stamp { revision: registry.revision(), digest: Some(registry.digest()), ..Stamp::default() }
    }

    fn count(list: &Bytes) -> usize {
        String::from_utf8_lossy(list).matches("\"port\"").count()
    }

    #[test]
    fn answers_carry_the_askers_key() {
        let registry = registry(2);
        let mut lists = Lists::default();
        for key in ["0", "7", "\"mine ¶\"", "12345678901234567890123"] {
            for version in [Version::V1, Version::V2] {
                let key: Key = serde_json::from_str(key).unwrap();
                let (answer, _) = lists.answer(&registry, &Config::default(), stamp(&registry), (version, &key), None);
                let packet = Packet::parse(&answer[..answer.len() - 2]).unwrap();
                assert_eq!((packet.version(), count(&answer)), (version, 2));
                assert_eq!(packet.key.unwrap().number(), key.number());
            }
        }
    }

    #[test]
    fn a_list_at_the_limit_is_whole_and_one_byte_beyond_it_is_not() {
        let registry = registry(100);
        let bytes = encode_legacy(&registry, &Config::default()).len();
        assert_eq!(legacy_bytes(&registry), bytes);
        for (legacy_list_bytes, nodes) in [(bytes + 1, 100), (bytes, 100), (bytes - 1, 99)] {
            let config = Config { legacy_list_bytes, ..Config::default() };
            let (list, _) = Lists::default().legacy(&registry, &config);
            assert!(list.len() <= legacy_list_bytes);
            assert_eq!(count(&list), nodes);
        }
    }

    #[test]
    fn what_old_peers_get_beyond_the_limit_is_a_setting() {
        let registry = registry(10);
        for (oversized_list, nodes) in [(OversizedList::Truncate, 3), (OversizedList::Send, 10)] {
            let config = Config { legacy_list_bytes: 300, oversized_list, ..Config::default() };
            let (list, _) = Lists::default().legacy(&registry, &config);
            assert_eq!(count(&list), nodes, "{oversized_list:?}");
        }
    }

    /// What a node is sent until it knows everything, in entries; and that it then does.
    #[track_caller]
    fn check(lists: &mut Lists, registry: &Registry, replica: &mut Replica, needs: Option<&str>, expected: &[usize]) {
        let needs = needs.map(|need| Arc::new(Needs::new(vec![need.to_owned()])));
        let mut known = Known { told: replica.revision(), seen: None, needs };
        let mut sent = Vec::new();
        let mut apply = |packet: &Bytes| {
            let packet = Packet::parse(&packet[..packet.len() - 2]).unwrap();
            #[expect(clippy::disallowed_methods, reason = "any instant will do")]
            let outcome = replica.take(std::time::Instant::now(), &News::parse(&packet).unwrap());
            assert!(matches!(outcome, Outcome::Changed | Outcome::Same), "{outcome:?}");
        };
        while let Dispatch::Packet(packet, told) = lists.news(registry, stamp(registry), &known) {
            sent.push(count(&packet));
            apply(&packet);
            known.told = Some(told);
            assert!(sent.len() < 5, "it never ends");
        }
        assert_eq!(sent, expected);
        if known.needs.is_none() {
            assert_eq!((replica.revision(), replica.digest()), (Some(registry.revision()), registry.digest()));
        }
    }

    #[test]
    fn newcomers_get_a_list_and_others_what_has_changed() {
        let (mut registry, mut lists) = (registry(100), Lists::default());
        let mut node = Replica::default();
        check(&mut lists, &registry, &mut node, None, &[100]);
        check(&mut lists, &registry, &mut node, None, &[]);
        (100..110).for_each(|session| register(&mut registry, session));
        registry.leave(SessionId(0), Reason::Closed);
        check(&mut lists, &registry, &mut node, None, &[10]);
        // The list of a moment ago and what has changed since are as good as a new one.
        check(&mut lists, &registry, &mut Replica::default(), None, &[100, 10]);
        (110..120).for_each(|session| register(&mut registry, session));
        check(&mut lists, &registry, &mut Replica::default(), None, &[119]);
    }

    #[test]
    fn catching_up_takes_the_fewer_bytes() {
        let (mut registry, mut lists) = (registry(10), Lists::default());
        let mut node = Replica::default();
        check(&mut lists, &registry, &mut node, None, &[10]);
        (0..10).for_each(|session| drop(registry.leave(SessionId(session), Reason::Closed)));
        register(&mut registry, 11);
        check(&mut lists, &registry, &mut node, None, &[1]);
        assert!(
            lists.snapshot.as_ref().is_some_and(|(of, _)| of.revision == registry.revision()),
            "the list was shorter"
        );
    }

    #[test]
    fn who_needs_little_is_told_little() {
        let (mut registry, mut lists) = (registry(100), Lists::default());
        let mut node = Replica::default();
        check(&mut lists, &registry, &mut node, Some("n0007"), &[1]);
        register(&mut registry, 100);
        check(&mut lists, &registry, &mut node, Some("n0007"), &[]);
        registry.leave(SessionId(7), Reason::Closed);
        check(&mut lists, &registry, &mut node, Some("n0007"), &[0]);
        assert_eq!(node.entries().count(), 0);
        check(&mut lists, &registry, &mut Replica::default(), Some("GET/¶"), &[100]);
    }

    #[test]
    fn a_change_is_encoded_once_for_all_who_know_the_same() {
        let (mut registry, mut lists) = (registry(10), Lists::default());
        let known = Known { told: Some(registry.revision()), ..Known::default() };
        register(&mut registry, 10);
        let mut packet = || match lists.news(&registry, stamp(&registry), &known) {
            Dispatch::Packet(packet, _) => packet.as_ptr(),
            Dispatch::Nothing(_) => panic!("there is a change"),
        };
        assert_eq!(packet(), packet());
    }

    #[test]
    fn a_list_of_an_earlier_epoch_is_gone_on_from_when_it_was_taken_over() {
        let (before, mut lists) = (registry(3), Lists::default());
        let mut node = Replica::default();
        check(&mut lists, &before, &mut node, None, &[3]);
        let mut registry = Registry::new(2);
        let copy: Vec<_> = before.records().map(|record| (**record).clone()).collect();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let until = std::time::Instant::now() + Duration::from_secs(7);
        registry.succeed(before.revision(), copy, until);
        check(&mut Lists::default(), &registry, &mut node, None, &[0]);
        assert_eq!(node.revision(), Some(registry.revision()));
    }
}
