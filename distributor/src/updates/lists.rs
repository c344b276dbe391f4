//! Lists and changes as they are sent, encoded once for all peers that know the same state.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use protocol::{Digest, Key, ResumePoint, Revision, UpdateHeader, Version};

use crate::config::Config;
use crate::entries::interests::view::View;
use crate::entries::{Difference, EntryTable};
use crate::updates::budget::{OutPacket, UpdateBudget};
use crate::updates::encode::{encode_change, encode_legacy, encode_list, under_key};
use crate::updates::packed_list::PackedList;
use crate::updates::packing::{MIN_PACKED_BYTES, PackedBlocks};
use crate::updates::partial_lists::PartialLists;
use crate::updates::published_index::PublishedIndex;
use crate::updates::shared_delta::SharedDelta;

/// The packets of the newest revision that at least one peer has needed.
#[derive(Debug)]
pub(crate) struct ListCache {
    /// Counts the bytes of these packets until the last peer has read them.
    pub(super) memory: UpdateBudget,
    legacy: Option<(Revision, OutPacket)>,
    recent_list: Option<(UpdateHeader, OutPacket)>,
    packed_list: PackedList,
    /// Blocks of the packed list, and of packed deltas.
    blocks: PackedBlocks,
    /// The state to which the packets below lead.
    published: PublishedState,
    changes: HashMap<PeerState, OutPacket>,
    /// The delta since a revision, for one view. Peers that the last changes did not concern share
    /// one difference, even if they were last sent different states.
    differences: HashMap<(u64, View), Arc<Difference>>,
    /// The last deltas between two states that were published, the newest last. Together they have
    /// no more bytes than a list.
    shared_deltas: VecDeque<SharedDelta>,
    pub(super) partial: PartialLists,
    /// The step to the published state, by what entries offer.
    index: PublishedIndex,
}

/// A state that is published to all peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishedState {
    pub(crate) header: UpdateHeader,
    /// Whether the node of every entry has registered here, so that every peer may see the whole
    /// list.
    pub(crate) is_whole: bool,
}

/// The request of a peer for the newest list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListRequest<'a> {
    pub(crate) version: Version,
    /// The peer's key, under which it is answered.
    pub(crate) key: &'a Key,
    pub(crate) view: &'a View,
}

/// A peer that has missed at most this many changes gets them merged into a packet of its own, of
/// at most this many bytes. Other peers get the shared deltas or the list, which cost the same
/// memory however many peers are behind.
const MAX_OWN_CHANGES: u64 = 1024;
const MAX_OWN_BYTES: usize = 16 * 1024;
/// Packets of each kind that are kept for the next peer with the same state and the same interests.
/// A mesh has about as many kinds as services.
pub(super) const MAX_CACHED: usize = 256;

/// The state that a version 2 peer knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PeerState {
    /// The state that it was last sent, or that it says it holds.
    pub(crate) revision: Option<Revision>,
    /// The digest of that state, if the peer stated one.
    pub(crate) digest: Option<Digest>,
    /// No change up to this one concerns it.
    pub(crate) irrelevant_until: Option<Revision>,
    pub(crate) view: View,
    /// Whether the peer reads packed entries.
    pub(crate) takes_packed: bool,
}

/// The state that a peer knows after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateAfter {
    pub(crate) revision: Revision,
    /// Whether the peer does not know the entries that were only copied. It is told of each when
    /// its node registers.
    pub(crate) confirmed_only: bool,
}

/// The next update of a version 2 peer.
#[derive(Debug)]
pub(crate) enum NextUpdate {
    /// Nothing: up to this state, it already knows all that concerns it.
    Nothing(Revision),
    /// The peer is sent this packet, after which it knows that state.
    Packet(OutPacket, StateAfter),
    /// A packet for this peer only, later: many such peers wait, or memory is short.
    Later(WaitReason),
}

/// Why a packet for one peer waits, and when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitReason {
    /// Such packets are encoded at a pace.
    Pace(Instant),
    /// There was no memory for this one. A smaller one may fit.
    Memory(Instant),
}

#[cfg(test)]
impl WaitReason {
    /// When to try again.
    fn until(self) -> Instant {
        match self {
            Self::Pace(at) | Self::Memory(at) => at,
        }
    }
}

impl ListCache {
    /// A cache whose packets are counted in `memory`.
    pub(crate) fn new(memory: UpdateBudget) -> Self {
        Self {
            legacy: None,
            recent_list: None,
            packed_list: PackedList::default(),
            blocks: PackedBlocks::new(memory.clone()),
            partial: PartialLists::new(memory.clone()),
            memory,
            published: PublishedState::default(),
            changes: HashMap::new(),
            differences: HashMap::new(),
            shared_deltas: VecDeque::new(),
            index: PublishedIndex::default(),
        }
    }

    /// The list for version 1, as it is now.
    pub(crate) fn legacy(&mut self, entries: &EntryTable, config: &Config) -> (OutPacket, Revision) {
        let revision = entries.revision();
        match &self.legacy {
            Some((of, packet)) if *of == revision && entries.is_whole() => (packet.clone(), revision),
            _ => {
                let packet = OutPacket::reserved(encode_legacy(entries, config), &self.memory);
                self.legacy = entries.is_whole().then(|| (revision, packet.clone()));
                (packet, revision)
            }
        }
    }

    /// The packet that a version 2 peer should be sent, in the fewest bytes. `published` is the
    /// state that is being published: when all peers take the same deltas, the same bytes serve all
    /// of them, however slow some are.
    pub(crate) fn update_for(
        &mut self,
        now: Instant,
        entries: &EntryTable,
        published: PublishedState,
        known: &PeerState,
    ) -> NextUpdate {
        let newest = published.header.revision;
        let is_there =
            |state: Option<Revision>| state.is_some_and(|state| state.epoch == newest.epoch && state.rev >= newest.rev);
        if is_there(known.revision) || is_there(known.irrelevant_until) {
            return NextUpdate::Nothing(known.irrelevant_until.or(known.revision).unwrap_or(newest));
        }
        if known.view.is_all()
            && let Some(step) = self.shared_deltas.back()
            && Some(step.from) == known.revision
            && step.to == newest
        {
            let at = self.shared_deltas.len() - 1;
            return if step.has_changes { self.step(now, at, known) } else { NextUpdate::Nothing(newest) };
        }
        self.set_published(published);
        if let Some(update) = self.own_delta(entries, published, known) {
            return update;
        }
        if known.view.is_all()
            && let Some(known_revision) = known.revision
            && let Ok(at) = self.shared_deltas.binary_search_by_key(&known_revision, |step| step.from)
        {
            return self.step(now, at, known);
        }
        let view = View { interests: known.view.interests.clone(), confirmed_only: !published.is_whole };
        if view.is_all() {
            let is_packed = known.takes_packed && entries.list_bytes() >= MIN_PACKED_BYTES;
            let list = match is_packed {
                true => self.packed_list.packet(entries, published.header, &mut self.blocks, &self.memory),
                false => Some(self.recent_list(entries, published.header)),
            };
            return match list {
                Some((packet, revision)) => NextUpdate::Packet(packet, StateAfter { revision, confirmed_only: false }),
                None => NextUpdate::Later(WaitReason::Pace(now)),
            };
        }
        match self.partial.published(now, entries, published.header, &view) {
            Ok(packet) => {
                NextUpdate::Packet(packet, StateAfter { revision: newest, confirmed_only: view.confirmed_only })
            }
            Err(wait) => NextUpdate::Later(wait),
        }
    }

    /// The shared delta at this position.
    fn step(&mut self, now: Instant, at: usize, known: &PeerState) -> NextUpdate {
        let step = &mut self.shared_deltas[at];
        match step.packet(known.takes_packed, &mut self.blocks, &self.memory) {
            Some(packet) => NextUpdate::Packet(packet, StateAfter { revision: step.to, confirmed_only: false }),
            None => NextUpdate::Later(WaitReason::Pace(now)),
        }
    }

    /// All changes since the state that a peer knows, in one packet; `None` if they are not kept
    /// any more, or are too many.
    fn own_delta(&mut self, entries: &EntryTable, published: PublishedState, known: &PeerState) -> Option<NextUpdate> {
        let (newest, known_revision) = (published.header.revision, known.revision?);
        let base = entries.base(match known.irrelevant_until {
            Some(revision) => revision.into(),
            None => ResumePoint { revision: known_revision, digest: known.digest },
        })?;
        if known.view.is_all() && newest.rev.saturating_sub(base) > MAX_OWN_CHANGES {
            return None;
        }
        let difference = self.difference(entries, base, newest, &known.view);
        let concerns_no_peer =
            if known.view.interests.is_some() { difference.is_empty() } else { !difference.has_changes };
        if concerns_no_peer && !known.view.confirmed_only && known_revision.epoch == newest.epoch {
            return Some(NextUpdate::Nothing(newest));
        }
        let told = StateAfter { revision: newest, confirmed_only: known.view.confirmed_only && !published.is_whole };
        if let Some(packet) = self.changes.get(known) {
            return Some(NextUpdate::Packet(packet.clone(), told));
        }
        if !difference.is_empty() && difference.bytes() > entries.list_bytes().min(MAX_OWN_BYTES) {
            return None;
        }
        // The digest covers all entries.
        let knows_all = known.view.interests.is_none() && !told.confirmed_only;
        let header = UpdateHeader {
            digest: published.header.digest.filter(|_| knows_all),
            warming: published.header.warming || told.confirmed_only,
            ..published.header
        };
        let packet = OutPacket::reserved(encode_change(&difference, &header, known_revision), &self.memory);
        if self.changes.len() < MAX_CACHED {
            self.changes.insert(known.clone(), packet.clone());
        }
        Some(NextUpdate::Packet(packet, told))
    }

    fn difference(&mut self, entries: &EntryTable, base: u64, newest: Revision, view: &View) -> Arc<Difference> {
        if let Some(known) = self.differences.get(&(base, view.clone())) {
            return Arc::clone(known);
        }
        // Thousands of nodes have interests of their own.
        let indexed = self.index.difference(entries, base, newest, view);
        let difference = Arc::new(indexed.unwrap_or_else(|| entries.difference(base, newest.rev, view)));
        if self.differences.len() < MAX_CACHED {
            self.differences.insert((base, view.clone()), Arc::clone(&difference));
        }
        difference
    }

    /// The newest list, for a peer that asked under a key of its own.
    pub(crate) fn list_for(
        &mut self,
        now: Instant,
        entries: &EntryTable,
        config: &Config,
        header: UpdateHeader,
        request: ListRequest<'_>,
    ) -> NextUpdate {
        let ListRequest { version, key, view } = request;
        let view = View { interests: view.interests.clone(), confirmed_only: !entries.is_whole() };
        let list = match version {
            Version::V1 => Ok(self.legacy(entries, config).0),
            Version::V2 if view.is_all() => self.newest(now, entries, header),
            Version::V2 => {
                let newest = PublishedState { header, is_whole: entries.is_whole() };
                // The published state may be an earlier one. Its packets are kept for other peers.
                match newest == self.published {
                    true => self.partial.published(now, entries, header, &view),
                    false => self.partial.newest(now, entries, newest, &view),
                }
            }
        };
        match list {
            Ok(list) => {
                let told = StateAfter { revision: header.revision, confirmed_only: view.confirmed_only };
                NextUpdate::Packet(under_key(&list, key), told)
            }
            Err(wait) => NextUpdate::Later(wait),
        }
    }

    /// Adds the step that leads peers from `from` to the state of `header`.
    pub(crate) fn shared_delta(&mut self, entries: &EntryTable, from: Revision, header: UpdateHeader) {
        if from == header.revision {
            return;
        }
        let in_order = self.shared_deltas.back().is_none_or(|step| step.to == from);
        let base = entries.base(from.into());
        let base = base.filter(|_| in_order && from.epoch == header.revision.epoch);
        let Some(base) = base else { return self.shared_deltas.clear() };
        let difference = entries.difference(base, header.revision.rev, &View::default());
        self.shared_deltas.push_back(SharedDelta::new(from, header, difference, &self.memory));
        let mut bytes: usize = self.shared_deltas.iter().map(SharedDelta::len).sum();
        while bytes > entries.list_bytes().max(MAX_OWN_BYTES)
            && self.shared_deltas.len() > 1
            && let Some(oldest) = self.shared_deltas.pop_front()
        {
            bytes -= oldest.len();
        }
    }

    /// Sets the published state, and drops the packets of an earlier one.
    fn set_published(&mut self, published: PublishedState) {
        if self.published != published {
            self.index = PublishedIndex::new(self.published.header.revision, published.header.revision);
            self.published = published;
            self.changes.clear();
            self.differences.clear();
            self.partial.clear();
        }
    }

    /// A whole list that is recent enough; a delta with the few changes since then follows it. When
    /// thousands of peers connect at once, encoding a list for each would take longer than sending
    /// it.
    fn recent_list(&mut self, entries: &EntryTable, header: UpdateHeader) -> (OutPacket, Revision) {
        if let Some((of, packet)) = &self.recent_list
            && is_recent(entries, of, &header)
        {
            return (packet.clone(), of.revision);
        }
        let bytes = encode_list(entries.records_at(header.revision.rev).into_iter(), &header);
        let packet = OutPacket::reserved(bytes, &self.memory);
        self.recent_list = Some((header, packet.clone()));
        (packet, header.revision)
    }

    /// The newest whole list, or when to try again. While the registry changes, peers that ask at
    /// different times share no list.
    fn newest(&mut self, now: Instant, entries: &EntryTable, header: UpdateHeader) -> Result<OutPacket, WaitReason> {
        let is_newest = |of: &UpdateHeader| of.revision == header.revision && of.warming == header.warming;
        if let Some((_, list)) = self.recent_list.as_ref().filter(|(of, _)| is_newest(of)) {
            return Ok(list.clone());
        }
        self.partial.reserve(now, entries.len(), entries.list_bytes())?;
        self.recent_list = None;
        Ok(self.recent_list(entries, header).0)
    }
}

/// Whether so little has changed since a list of this state that a delta from there to `header` is
/// short.
pub(super) fn is_recent(entries: &EntryTable, from: &UpdateHeader, header: &UpdateHeader) -> bool {
    const ENTRIES_PER_CHANGE: u64 = 8;
    let behind = header.revision.rev.saturating_sub(from.revision.rev);
    has_delta(entries, from, header) && behind * ENTRIES_PER_CHANGE <= entries.len() as u64
}

/// Whether there is a delta from a list of this state to that of `header`.
pub(super) fn has_delta(entries: &EntryTable, from: &UpdateHeader, header: &UpdateHeader) -> bool {
    from.revision.epoch == header.revision.epoch
        && entries.base(from.revision.into()).is_some()
        && from.revision <= header.revision
        && (from.warming || !header.warming)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use fastrand::Rng;
    use protocol::{LeaveReason, ListUpdate, Packet, Registration, Replica, UnpackedBlocks, UpdateOutcome};
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::config::{OversizedList, ToldToOldPeers};
    use crate::entries::SessionId;
    use crate::entries::interests::Interests;
    use crate::updates::encode::legacy_bytes;

    fn register(entries: &mut EntryTable, session: u64) {
        let params = format!(r#"{{"port":{},"name":"n{session:04}","urls":["GET/¶"]}}"#, session + 1);
        register_with(entries, session, &params);
    }

    fn register_with(entries: &mut EntryTable, session: u64, params: &str) {
        let params = serde_json::from_str(params).unwrap();
        let registration = Registration::parse(Some(params), &Config::default().registration_limits()).unwrap();
        entries.register(SessionId(session), &registration, "::1");
    }

    fn entries(nodes: u64) -> EntryTable {
        let mut entries = EntryTable::new(1);
        (0..nodes).for_each(|session| register(&mut entries, session));
        entries
    }

    fn header(entries: &EntryTable) -> UpdateHeader {
        UpdateHeader { revision: entries.revision(), digest: Some(entries.digest()), ..UpdateHeader::default() }
    }

    fn published(entries: &EntryTable) -> PublishedState {
        PublishedState { header: header(entries), is_whole: entries.is_whole() }
    }

    fn lists() -> ListCache {
        ListCache::new(UpdateBudget::new(usize::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn now() -> Instant {
        Instant::now()
    }

    fn count(list: &Bytes) -> usize {
        String::from_utf8_lossy(list).matches("\"port\"").count()
    }

    #[test]
    fn answers_carry_the_askers_key() {
        let entries = entries(2);
        let mut lists = lists();
        for key in ["0", "7", "\"mine ¶\"", "12345678901234567890123"] {
            for version in [Version::V1, Version::V2] {
                let key: Key = serde_json::from_str(key).unwrap();
                let (config, view) = (Config::default(), View::default());
                let answer = lists.list_for(
                    now(),
                    &entries,
                    &config,
                    header(&entries),
                    ListRequest { version, key: &key, view: &view },
                );
                let NextUpdate::Packet(answer, _) = answer else { panic!("{answer:?}") };
                let answer = answer.bytes();
                let packet = Packet::parse(&answer[..answer.len() - 2]).unwrap();
                assert_eq!((packet.version(), count(&answer)), (version, 2));
                assert_eq!(packet.key.unwrap().number(), key.number());
            }
        }
    }

    #[test]
    fn answers_of_different_states_wait_for_memory() {
        let mut entries = entries(1000);
        let memory = UpdateBudget::new(3 * entries.list_bytes());
        let (mut lists, start) = (ListCache::new(memory.clone()), now());
        let mut kept = Vec::new();
        for second in 1..=10 {
            let (now, key) = (start + Duration::from_secs(second), Key::Number(second));
            let request = ListRequest { version: Version::V2, key: &key, view: &View::default() };
            match lists.list_for(now, &entries, &Config::default(), header(&entries), request) {
                NextUpdate::Packet(packet, _) => kept.push(packet),
                NextUpdate::Later(wait) => assert!(wait.until() > now),
                NextUpdate::Nothing(_) => panic!("the peer has asked for the list"),
            }
            register(&mut entries, 1000 + second);
        }
        assert!((1..=3).contains(&kept.len()), "{} are kept", kept.len());
        assert!(!memory.has_room(entries.list_bytes()), "all other lists wait for memory");
        kept.clear();
        let request = ListRequest { version: Version::V2, key: &Key::Number(11), view: &View::default() };
        let now = start + Duration::from_secs(11);
        let answer = lists.list_for(now, &entries, &Config::default(), header(&entries), request);
        assert!(matches!(answer, NextUpdate::Packet(..)), "{answer:?}");
    }

    #[test]
    fn a_list_at_the_limit_is_whole_and_a_longer_one_is_not() {
        let entries = entries(100);
        let bytes = encode_legacy(&entries, &Config::default()).len();
        assert_eq!(legacy_bytes(&entries, &Config::default()), bytes);
        for (legacy_list_bytes, nodes) in [(bytes + 1, 100), (bytes, 100), (bytes - 1, 99)] {
            let config = Config { legacy_list_bytes, ..Config::default() };
            let (list, _) = lists().legacy(&entries, &config);
            assert!(list.len() <= legacy_list_bytes);
            assert_eq!(count(&list.bytes()), nodes);
        }
    }

    #[test]
    fn old_peers_are_told_of_public_routes_alone_unless_a_setting_says_otherwise() {
        let mut entries = entries(0);
        for (session, params) in [
            r#"{"port":1,"name":"old","urls":["GET/a"]}"#,
            r#"{"port":2,"name":"before","urls":["GET/b"],"$":{"v":2,"id":"1"}}"#,
            r#"{"port":3,"name":"new","urls":["GET/c","POST/c"],"$":{"id":"2","routes":[{"at":[1],"public":true}]}}"#,
        ]
        .into_iter()
        .enumerate()
        {
            register_with(&mut entries, session as u64, params);
        }
        let shown = [
            r#"{"port":1,"name":"old","urls":["GET/a"],"host":"::1"}"#,
            r#"{"port":2,"name":"before","urls":["GET/b"],"$":{"v":2,"id":"1"},"host":"::1"}"#,
        ]
        .join(",");
        let public = r#"{"port":3,"name":"new","urls":["POST/c"],"$":{"id":"2"},"host":"::1"}"#;
        let all = r#"{"port":3,"name":"new","urls":["GET/c","POST/c"],"$":{"id":"2","routes":[{"at":[1],"public":true}]},"host":"::1"}"#;
        for (tell_old_peers, new) in [(ToldToOldPeers::Public, public), (ToldToOldPeers::All, all)] {
            let config = Config { tell_old_peers, ..Config::default() };
            let expected = format!(r#"{{"uri":"/distributes","method":"GET","key":0,"params":[{shown},{new}]}}¶"#);
            let (list, _) = lists().legacy(&entries, &config);
            assert_eq!(list.bytes(), expected.as_bytes());
            assert_eq!(legacy_bytes(&entries, &config), expected.len());
            // At the limit it is whole.
            let config = Config { legacy_list_bytes: expected.len() - 1, ..config };
            assert_eq!(count(&lists().legacy(&entries, &config).0.bytes()), 2);
        }
    }

    /// The urls of each entry of a packet, and the digest of its entries as PROTOCOL defines it.
    fn urls_and_digest(packet: &[u8]) -> (Vec<Vec<String>>, Digest) {
        let crc = |text: &str| {
            let shifted = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            !text.bytes().fold(!0, |crc: u32, byte| (0..8).fold(crc ^ u32::from(byte), shifted))
        };
        let packet = Packet::parse(&packet[..packet.len() - 2]).unwrap();
        let entries: Vec<&RawValue> = serde_json::from_str(packet.params.unwrap().get()).unwrap();
        let meta: Value = packet.meta.map(|meta| serde_json::from_str(meta.get()).unwrap()).unwrap_or_default();
        let ids = meta["ids"].as_array().into_iter().flatten();
        let sums = ids.zip(&entries).map(|(id, entry)| crc(&format!("{id}:{}", entry.get())));
        let digest = Digest(sums.fold(0, u32::wrapping_add));
        let urls = entries.iter().map(|entry| {
            let entry: Value = serde_json::from_str(entry.get()).unwrap();
            serde_json::from_value(entry["urls"].clone()).unwrap()
        });
        (urls.collect(), digest)
    }

    #[test]
    fn whatever_nodes_register_old_peers_are_told_of_what_is_public_in_order() {
        for seed in 0..200 {
            let rng = &mut Rng::with_seed(seed);
            let mut entries = entries(0);
            // Each node with its public urls and all, in the order of registration.
            let mut model: Vec<(u64, [Vec<String>; 2])> = Vec::new();
            for _ in 0..30 {
                let session = rng.u64(0..8);
                if rng.u8(0..4) == 0 {
                    entries.remove_session(SessionId(session), LeaveReason::Closed);
                    model.retain(|(known, _)| *known != session);
                    continue;
                }
                let urls: Vec<String> = (0..rng.u64(0..6)).map(|number| format!("GET/{session}/¶{number}")).collect();
                let public: Vec<usize> = (0..urls.len()).filter(|_| rng.bool()).collect();
                let (stated, public) = match rng.u8(0..4) {
                    0 => (String::new(), (0..urls.len()).collect()),
                    1 => (r#""routes":{"at":[0],"public":true}"#.to_owned(), Vec::new()),
                    2 => (format!(r#""routes":[{{"at":{public:?}}},{{"at":[0,1,2,3,4,5,6],"public":true}}]"#), {
                        (0..urls.len()).filter(|at| !public.contains(at)).collect()
                    }),
                    _ => (format!(r#""routes":[{{"at":{public:?},"public":true}}]"#), public),
                };
                let params = format!(r#"{{"port":{},"name":"a","urls":{urls:?},"$":{{{stated}}}}}"#, session + 1);
                register_with(&mut entries, session, &params);
                let shown = [public.iter().map(|at| urls[*at].clone()).collect(), urls];
                match model.iter_mut().find(|(known, _)| *known == session) {
                    Some((_, earlier)) => *earlier = shown,
                    None => model.push((session, shown)),
                }
                let old = encode_legacy(&entries, &Config::default());
                let expected: Vec<_> = model.iter().map(|(_, [public, _])| public.clone()).collect();
                assert_eq!(urls_and_digest(&old).0, expected, "seed {seed}");
                assert_eq!(legacy_bytes(&entries, &Config::default()), old.len(), "seed {seed}");
                let new = encode_list(entries.records(), &header(&entries));
                let expected: Vec<_> = model.iter().map(|(_, [_, all])| all.clone()).collect();
                assert_eq!(urls_and_digest(&new), (expected, entries.digest()), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_setting_says_what_old_peers_get_beyond_the_limit() {
        let entries = entries(10);
        for (oversized_list, nodes) in [(OversizedList::Truncate, 3), (OversizedList::Send, 10)] {
            let config = Config { legacy_list_bytes: 300, oversized_list, ..Config::default() };
            let (list, _) = lists().legacy(&entries, &config);
            assert_eq!(count(&list.bytes()), nodes, "{oversized_list:?}");
        }
    }

    /// The number of entries in the packets that a node is sent until it knows everything. Checks
    /// that it then does.
    #[track_caller]
    fn check(
        lists: &mut ListCache,
        entries: &EntryTable,
        replica: &mut Replica,
        interests: Option<&str>,
        expected: &[usize],
    ) {
        let interests = interests.map(|need| Arc::new(Interests::named(vec![need.to_owned()])));
        let digest = interests.is_none().then(|| replica.digest());
        let view = View { interests, confirmed_only: false };
        let mut known = PeerState { revision: replica.revision(), digest, view, ..PeerState::default() };
        let mut sent = Vec::new();
        let mut apply = |packet: &Bytes| {
            let packet = Packet::parse(&packet[..packet.len() - 2]).unwrap();
            let outcome = replica.apply(now(), &ListUpdate::parse(&packet, &mut UnpackedBlocks::default()).unwrap());
            assert!(matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same), "{outcome:?}");
        };
        let mut at = now();
        loop {
            let (packet, told) = match lists.update_for(at, entries, published(entries), &known) {
                NextUpdate::Packet(packet, told) => (packet, told),
                NextUpdate::Nothing(_) => break,
                // A packet for one peer waits for recent ones for other peers.
                NextUpdate::Later(later) => {
                    at = later.until();
                    continue;
                }
            };
            sent.push(count(&packet.bytes()));
            apply(&packet.bytes());
            (known.revision, known.digest) = (Some(told.revision), None);
            known.view.confirmed_only = told.confirmed_only;
            assert!(sent.len() < 5, "it never ends");
        }
        assert_eq!(sent, expected);
        if known.view.is_all() {
            assert_eq!((replica.revision(), replica.digest()), (Some(entries.revision()), entries.digest()));
        }
    }

    /// Sends a node, which may take packed entries, everything that it is owed. Returns the bytes,
    /// and how often it had to ask again while entries were packed.
    fn catch_up(
        lists: &mut ListCache,
        entries: &EntryTable,
        replica: &mut Replica,
        takes_packed: bool,
    ) -> (usize, usize) {
        let mut known = PeerState {
            revision: replica.revision(),
            digest: replica.revision().map(|_| replica.digest()),
            takes_packed,
            ..PeerState::default()
        };
        let (mut bytes, mut waits) = (0, 0);
        loop {
            match lists.update_for(now(), entries, published(entries), &known) {
                NextUpdate::Nothing(_) => return (bytes, waits),
                NextUpdate::Later(_) => waits += 1,
                NextUpdate::Packet(packet, told) => {
                    let packet = packet.bytes();
                    bytes += packet.len();
                    assert!(takes_packed || !String::from_utf8_lossy(&packet).contains("packed"));
                    let (packet, mut unpacked) =
                        (Packet::parse(&packet[..packet.len() - 2]).unwrap(), UnpackedBlocks::default());
                    let outcome = replica.apply(now(), &ListUpdate::parse(&packet, &mut unpacked).unwrap());
                    assert_eq!(outcome, UpdateOutcome::Changed);
                    (known.revision, known.digest) = (Some(told.revision), None);
                }
            }
            assert!(waits < 100, "it never ends");
        }
    }

    #[test]
    fn nodes_that_take_packed_entries_are_sent_a_fraction_of_the_bytes() {
        let (mut entries, mut lists) = (entries(2000), lists());
        let mut nodes = [Replica::default(), Replica::default()];
        let mut tell_both = |lists: &mut ListCache, entries: &EntryTable| {
            let sent = [0, 1].map(|node| catch_up(lists, entries, &mut nodes[node], node == 1));
            let known = nodes.each_ref().map(|node| (node.revision(), node.digest()));
            assert_eq!(known, [(Some(entries.revision()), entries.digest()); 2]);
            sent
        };
        let [(plain, 0), (packed, waits)] = tell_both(&mut lists, &entries) else { panic!("a plain list is there") };
        assert!(packed * 5 < plain && waits > 2, "{packed} of {plain} bytes, {waits}");
        // What all nodes are told: much of it is packed, little is not.
        for (joined, is_packed) in [(2000..2020, false), (2020..3000, true), (3000..3001, false)] {
            let from = entries.revision();
            joined.for_each(|session| register(&mut entries, session));
            entries.remove_session(SessionId(7), LeaveReason::Closed);
            lists.shared_delta(&entries, from, header(&entries));
            let [(plain, 0), (packed, _)] = tell_both(&mut lists, &entries) else { panic!("a plain delta is there") };
            assert_eq!(packed * 5 < plain, is_packed, "{packed} of {plain} bytes");
            assert!(packed <= plain);
        }
        // Only the changed blocks of a newcomer's list are packed anew.
        let (_, waits) = catch_up(&mut lists, &entries, &mut Replica::default(), true);
        assert!(waits <= 3, "{waits}");
    }

    #[test]
    fn small_lists_are_not_packed() {
        for (nodes, is_packed) in [(1, false), (60, false), (90, true)] {
            let (entries, mut lists) = (entries(nodes), lists());
            assert_eq!(entries.list_bytes() >= MIN_PACKED_BYTES, is_packed, "{}", entries.list_bytes());
            let [plain, packed] =
                [false, true].map(|packed| catch_up(&mut lists, &entries, &mut Replica::default(), packed).0);
            assert_eq!(packed < plain, is_packed);
        }
    }

    #[test]
    fn newcomers_get_a_list_and_others_what_has_changed() {
        let (mut entries, mut lists) = (entries(100), lists());
        let mut node = Replica::default();
        check(&mut lists, &entries, &mut node, None, &[100]);
        check(&mut lists, &entries, &mut node, None, &[]);
        (100..110).for_each(|session| register(&mut entries, session));
        entries.remove_session(SessionId(0), LeaveReason::Closed);
        check(&mut lists, &entries, &mut node, None, &[10]);
        // A recent list, and the changes since then, are as good as a new list.
        check(&mut lists, &entries, &mut Replica::default(), None, &[100, 10]);
        (110..120).for_each(|session| register(&mut entries, session));
        check(&mut lists, &entries, &mut Replica::default(), None, &[119]);
    }

    #[test]
    fn catching_up_takes_the_fewer_bytes() {
        let (mut entries, mut lists) = (entries(10), lists());
        let mut node = Replica::default();
        check(&mut lists, &entries, &mut node, None, &[10]);
        (0..10).for_each(|session| drop(entries.remove_session(SessionId(session), LeaveReason::Closed)));
        register(&mut entries, 11);
        check(&mut lists, &entries, &mut node, None, &[1]);
        assert!(
            lists.recent_list.as_ref().is_some_and(|(of, _)| of.revision == entries.revision()),
            "the list was shorter"
        );
    }

    #[test]
    fn a_node_with_few_interests_is_told_little() {
        let (mut entries, mut lists) = (entries(100), lists());
        let mut node = Replica::default();
        check(&mut lists, &entries, &mut node, Some("n0007"), &[1]);
        register(&mut entries, 100);
        check(&mut lists, &entries, &mut node, Some("n0007"), &[]);
        entries.remove_session(SessionId(7), LeaveReason::Closed);
        check(&mut lists, &entries, &mut node, Some("n0007"), &[0]);
        assert_eq!(node.entries().count(), 0);
        check(&mut lists, &entries, &mut Replica::default(), Some("GET/¶"), &[100]);
    }

    #[test]
    fn a_change_is_encoded_once_for_all_peers_with_the_same_state() {
        let (mut entries, mut lists) = (entries(10), lists());
        let known = PeerState { revision: Some(entries.revision()), ..PeerState::default() };
        register(&mut entries, 10);
        let mut packet = || match lists.update_for(now(), &entries, published(&entries), &known) {
            NextUpdate::Packet(packet, _) => packet.bytes().as_ptr(),
            other => panic!("there is a change: {other:?}"),
        };
        assert_eq!(packet(), packet());
    }

    #[test]
    fn a_list_of_an_earlier_epoch_is_a_base_once_it_is_restored() {
        let (before, mut lists) = (entries(3), lists());
        let mut node = Replica::default();
        check(&mut lists, &before, &mut node, None, &[3]);
        let mut entries = EntryTable::new(2);
        let copy: Vec<_> = before.records().map(|record| (**record).clone()).collect();
        let until = now() + Duration::from_secs(7);
        entries.restore(ResumePoint { revision: before.revision(), digest: Some(before.digest()) }, copy, until);
        check(&mut self::lists(), &entries, &mut node, None, &[0]);
        assert_eq!(node.revision(), Some(entries.revision()));
    }

    #[test]
    fn lists_that_only_one_peer_is_sent_are_encoded_at_a_pace() {
        let (entries, mut lists, start) = (entries(1000), lists(), now());
        let mut update = |need: &str, micros: u64| {
            let interests = Some(Arc::new(Interests::named(vec![need.to_owned()])));
            let known = PeerState { view: View { interests, confirmed_only: false }, ..PeerState::default() };
            match lists.update_for(start + Duration::from_micros(micros), &entries, published(&entries), &known) {
                NextUpdate::Packet(..) => None,
                NextUpdate::Later(wait) => Some(wait.until()),
                NextUpdate::Nothing(_) => panic!("the peer knows nothing"),
            }
        };
        assert_eq!(update("n0001", 0), None);
        let later = update("n0002", 0).unwrap();
        assert!((start..start + Duration::from_millis(1)).contains(&later), "{:?}", later - start);
        assert_eq!(update("n0001", 0), None, "the peer already has it");
        assert_eq!(update("n0002", 1000), None);
    }

    #[test]
    fn a_node_with_few_interests_costs_what_it_is_told_and_not_what_there_is() {
        let (mut entries, mut lists, start) = (entries(5000), lists(), now());
        let view = |need: u64| View {
            interests: Some(Arc::new(Interests::named(vec![format!("n{need:04}"), "none".into()]))),
            confirmed_only: false,
        };
        let (mut at, mut known) = (start, Vec::new());
        for need in 0..1000 {
            let peer = PeerState { view: view(need), ..PeerState::default() };
            loop {
                match lists.update_for(at, &entries, published(&entries), &peer) {
                    NextUpdate::Packet(packet, told) => {
                        assert_eq!(count(&packet.bytes()), 1);
                        known.push(PeerState { revision: Some(told.revision), ..peer });
                        break;
                    }
                    NextUpdate::Later(wait) => at = wait.until(),
                    NextUpdate::Nothing(_) => panic!("the peer knows nothing"),
                }
            }
        }
        assert!(at - start < Duration::from_millis(10), "{:?}", at - start);
        // A change concerns one of them.
        for (session, reason) in [(7, LeaveReason::Closed), (2000, LeaveReason::Reset)] {
            let before = published(&entries);
            entries.remove_session(SessionId(session), reason);
            register(&mut entries, 5000 + session);
            let told =
                known.iter_mut().filter_map(|peer| match lists.update_for(at, &entries, published(&entries), peer) {
                    NextUpdate::Packet(packet, told) => {
                        peer.revision = Some(told.revision);
                        Some(packet.bytes())
                    }
                    NextUpdate::Nothing(until) => {
                        peer.irrelevant_until = Some(until);
                        None
                    }
                    NextUpdate::Later(_) => panic!("a change needs no pace"),
                });
            let told: Vec<_> = told.collect();
            assert_eq!(told.len(), usize::from(session == 7), "{before:?}");
            assert!(told.iter().all(|packet| String::from_utf8_lossy(packet).contains(r#""left":[{"id":8,"#)));
        }
    }

    #[test]
    fn a_packet_for_one_peer_waits_for_memory() {
        let (entries, memory) = (entries(1000), UpdateBudget::new(100_000));
        let mut lists = ListCache::new(memory.clone());
        let interests = |name: &str| View {
            interests: Some(Arc::new(Interests::named(vec![name.into(), "GET/¶".into()]))),
            confirmed_only: false,
        };
        let mut update = |name: &str, seconds: u64| {
            let known = PeerState { view: interests(name), ..PeerState::default() };
            lists.update_for(now() + Duration::from_secs(seconds), &entries, published(&entries), &known)
        };
        let NextUpdate::Packet(kept, _) = update("a", 0) else { panic!("there is room") };
        assert!(matches!(update("b", 1), NextUpdate::Later(_)));
        assert!(memory.is_short());
        // The receivers of the list have read it, and all peers are at a later state.
        drop((kept, lists));
        assert_eq!(memory.used(), 0);
    }
}
