//! The update for a node that is told of a part of the nodes, and has come to need more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use protocol::UpdateHeader;

use crate::entries::interests::Interests;
use crate::entries::view::View;
use crate::entries::{Difference, EntryTable};
use crate::updates::budget::OutPacket;
use crate::updates::encode::encode_change;
use crate::updates::lists::{ListCache, PeerState, StateAfter, Wait};

/// The update for such a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LearnedUpdate {
    /// Nothing: it knows all nodes that it has come to need.
    Nothing,
    /// This change, after which it knows that state.
    Change(Bytes, StateAfter),
    /// The list of all that it needs: it cannot be told by a change.
    List,
}

impl ListCache {
    /// A packet for one peer, whose bytes count until it has read them.
    pub(crate) fn reserved(&self, packet: Bytes) -> OutPacket {
        OutPacket::reserved(packet, &self.memory)
    }

    /// The update for a peer whose interests have grown to `interests`, by those in `added`: all
    /// entries that concern it and that it does not know, at the newest state, which `header`
    /// describes.
    ///
    /// # Errors
    /// It cannot be encoded before this time.
    pub(crate) fn learned(
        &mut self,
        now: Instant,
        entries: &EntryTable,
        header: UpdateHeader,
        known: &PeerState,
        (interests, added): (&Arc<Interests>, Interests),
    ) -> Result<LearnedUpdate, Wait> {
        let before = &known.view;
        let confirmed_only = before.confirmed_only;
        let base = known.revision.filter(|known| known.epoch == header.revision.epoch && *known <= header.revision);
        let base = base.and_then(|known| Some((known, entries.base(known.into())?)));
        // A peer whose list has shown entries that were only copied is not told of more of these.
        let Some((known_revision, base)) = base.filter(|_| entries.is_whole() || confirmed_only) else {
            return Ok(LearnedUpdate::List);
        };
        let view = View { interests: Some(Arc::clone(interests)), confirmed_only };
        let mut difference = entries.difference(base, header.revision.rev, &view);
        let only_added = View { interests: Some(Arc::new(added)), confirmed_only };
        let (records, looks) = entries.records_for(header.revision.rev, &only_added);
        let mut joined: HashSet<u64> = difference.joined.iter().map(|record| record.id).collect();
        for record in records.into_iter().filter(|record| !before.includes(record)) {
            if record.suspect && !difference.suspect.contains(&record.id) {
                difference.suspect.push(record.id);
            }
            if joined.insert(record.id) {
                difference.joined.push(record);
            }
        }
        if difference.is_empty() {
            return Ok(LearnedUpdate::Nothing);
        }
        self.partial.reserve(now, looks, Difference::bytes(&difference))?;
        let told = StateAfter { revision: header.revision, confirmed_only: confirmed_only && !entries.is_whole() };
        let header = UpdateHeader { digest: None, warming: header.warming || told.confirmed_only, ..header };
        Ok(LearnedUpdate::Change(encode_change(&difference, &header, known_revision), told))
    }
}
