//! The update for a node that has a partial view, and has come to need more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use protocol::UpdateHeader;

use crate::entries::interests::Interests;
use crate::entries::interests::view::View;
use crate::entries::{Difference, EntryTable};
use crate::updates::budget::OutPacket;
use crate::updates::encode::encode_change;
use crate::updates::lists::{ListCache, PeerState, StateAfter, WaitReason};

/// The update for such a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LearnedUpdate {
    /// Nothing: it knows all nodes that it has come to need.
    Nothing,
    /// The peer is sent this change, after which it knows that state.
    Change(Bytes, StateAfter),
    /// The list of all that it needs: it cannot be told by a change.
    List,
}

impl ListCache {
    /// A packet for one peer, whose bytes count until it has read them.
    pub(crate) fn reserved(&self, packet: Bytes) -> OutPacket {
        OutPacket::reserved(packet, &self.memory)
    }

    /// Checks that an update of a peer that asks may be encoded now.
    ///
    /// # Errors
    /// [`WaitReason`]: when to try again.
    pub(crate) fn check_pace(&self, now: Instant) -> Result<(), WaitReason> {
        self.partial.check_pace(now)
    }

    /// The update for a peer whose interests have grown to `interests`, by those in `added`. It has
    /// the entries that concern the peer and that it does not know, at the newest state, which
    /// `header` describes. Changes and entries that are looked at take time of the pace, even if
    /// the peer needs none of them: it may ask again and again.
    ///
    /// # Errors
    /// When to try again. For want of time nothing has been looked at; otherwise there is no
    /// memory.
    pub(crate) fn learned(
        &mut self,
        now: Instant,
        entries: &EntryTable,
        header: UpdateHeader,
        known: &PeerState,
        interests: &Arc<Interests>,
        added: Interests,
    ) -> Result<LearnedUpdate, WaitReason> {
        self.check_pace(now)?;
        let before = &known.view;
        let confirmed_only = before.confirmed_only;
        let base = known.revision.filter(|known| known.epoch == header.revision.epoch && *known <= header.revision);
        // The changes since the state that it was sent may be lost, and none of them concern it.
        let base = base
            .and_then(|revision| Some((revision, entries.base(known.irrelevant_until.unwrap_or(revision).into())?)));
        // A peer whose list has shown entries that were only copied is not told of more of these.
        let Some((known_revision, base)) = base.filter(|_| entries.is_whole() || confirmed_only) else {
            return Ok(LearnedUpdate::List);
        };
        let view = View { interests: Some(Arc::clone(interests)), confirmed_only };
        let mut difference = entries.difference(base, header.revision.rev, &view);
        let only_added = View { interests: Some(Arc::new(added)), confirmed_only };
        let (records, looks) = entries.records_for(header.revision.rev, &only_added);
        let changes = usize::try_from(header.revision.rev - base).unwrap_or(usize::MAX);
        let looks = looks.saturating_add(changes);
        let mut joined: HashSet<u64> = difference.joined.iter().map(|record| record.id).collect();
        for record in records.into_iter().filter(|record| !before.includes(record)) {
            if record.is_suspect && !difference.suspect.contains(&record.id) {
                difference.suspect.push(record.id);
            }
            if joined.insert(record.id) {
                difference.joined.push(record);
            }
        }
        if difference.is_empty() {
            self.partial.spend(now, looks, 0);
            return Ok(LearnedUpdate::Nothing);
        }
        self.partial.reserve(now, looks, Difference::bytes(&difference))?;
        let told = StateAfter { revision: header.revision, confirmed_only: confirmed_only && !entries.is_whole() };
        let header = UpdateHeader { digest: None, warming: header.warming || told.confirmed_only, ..header };
        Ok(LearnedUpdate::Change(encode_change(&difference, &header, known_revision), told))
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Registration, RegistrationLimits, Revision};

    use super::*;
    use crate::entries::SessionId;
    use crate::updates::budget::UpdateBudget;

    /// A table in which other nodes have come and gone, this often; and the header of its state.
    fn table(changes: u64) -> (EntryTable, UpdateHeader) {
        let mut entries = EntryTable::new(1);
        let params = serde_json::from_str(r#"{"port":1,"name":"n","urls":["GET/other"]}"#).unwrap();
        let other = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        for session in 0..changes / 2 {
            entries.register(SessionId(session), &other, "::1");
            entries.remove_session(SessionId(session), protocol::LeaveReason::Closed);
        }
        let header = UpdateHeader { revision: entries.revision(), ..UpdateHeader::default() };
        (entries, header)
    }

    fn known(rev: u64) -> PeerState {
        let view = View { interests: Some(Arc::new(Interests::used(["GET/a"]))), confirmed_only: false };
        PeerState { revision: Some(Revision { epoch: 1, rev }), view, ..PeerState::default() }
    }

    fn ask(
        lists: &mut ListCache,
        now: Instant,
        (entries, header): &(EntryTable, UpdateHeader),
        known: &PeerState,
    ) -> Result<LearnedUpdate, WaitReason> {
        let interests = Arc::new(Interests::used(["GET/a", "GET/b"]));
        let added = Interests::used(["GET/b"]);
        lists.learned(now, entries, *header, known, &interests, added)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_question_takes_time_even_if_nothing_is_told() {
        let now = Instant::now();
        for (changes, rev, most) in [(8000, 0, 10), (8000, 7990, 2000), (10, 0, 2000)] {
            let table = table(changes);
            let mut lists = ListCache::new(UpdateBudget::new(usize::MAX));
            let mut answered = 0;
            while ask(&mut lists, now, &table, &known(rev)) == Ok(LearnedUpdate::Nothing) && answered <= 100_000 {
                answered += 1;
            }
            assert!((1..=most).contains(&answered), "{changes} {rev}: {answered}");
            // Without time nothing is looked at, not even whether the changes are kept.
            let lost = PeerState { revision: None, ..known(0) };
            assert!(matches!(ask(&mut lists, now, &table, &lost), Err(WaitReason::Pace(_))));
        }
    }
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn changes_that_do_not_concern_a_node_are_not_walked_again() {
        let table = table(10_000);
        let newest = table.1.revision;
        let irrelevant_until = |rev: u64| PeerState { irrelevant_until: Some(Revision { rev, ..newest }), ..known(0) };
        for (known, expected) in [
            (known(0), LearnedUpdate::List),
            (irrelevant_until(0), LearnedUpdate::List),
            (irrelevant_until(newest.rev - 5), LearnedUpdate::Nothing),
        ] {
            let mut lists = ListCache::new(UpdateBudget::new(usize::MAX));
            assert_eq!(ask(&mut lists, Instant::now(), &table, &known), Ok(expected), "{known:?}");
        }
    }
}
