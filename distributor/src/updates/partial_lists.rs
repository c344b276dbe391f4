//! Lists for peers with a partial view, and the pace at which packets for single peers are encoded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::{Digest, UpdateHeader};

use crate::entries::EntryTable;
use crate::entries::interests::view::View;
use crate::updates::budget::{OutPacket, UpdateBudget};
use crate::updates::encode::encode_list;
use crate::updates::lists::{MAX_CACHED, PublishedState, WaitReason};

/// Bytes of partial lists of one state that are kept for the next peer with the same interests.
const MAX_CACHED_BYTES: usize = 16 << 20;
/// Packets for single peers are encoded at this pace, in bytes a second, so that peers with
/// different interests leave time for other work. Each entry that is examined counts as this many
/// bytes.
const SUBSET_BYTES_PER_SECOND: f64 = 256e6;
const BYTES_OF_A_LOOK: usize = 64;
/// How much of the pace may be made up for.
const MAX_CATCH_UP_TIME: Duration = Duration::from_millis(5);
/// For a list for which there is no memory, the entries are only read: a fraction of the work of
/// encoding it.
const BYTES_IN_VAIN: usize = 4;
/// When a peer may try again after there was no memory for its packet.
const MEMORY_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Lists for peers with a partial view.
#[derive(Debug)]
pub(super) struct PartialLists {
    memory: UpdateBudget,
    /// The partial lists of the published state, by view.
    published: HashMap<View, OutPacket>,
    /// The last partial list that a peer asked for, with its state.
    answered: Option<(PublishedState, View, OutPacket)>,
    /// When the next packet for a single peer may be encoded.
    next_at: Option<Instant>,
}

impl PartialLists {
    pub(super) fn new(memory: UpdateBudget) -> Self {
        Self { memory, published: HashMap::new(), answered: None, next_at: None }
    }

    /// Forgets the lists of the published state, because another one is published from now on.
    pub(super) fn clear(&mut self) {
        self.published.clear();
    }

    /// The list of the published state, or when to try again.
    pub(super) fn published(
        &mut self,
        now: Instant,
        entries: &EntryTable,
        header: UpdateHeader,
        view: &View,
    ) -> Result<OutPacket, WaitReason> {
        if let Some(known) = self.published.get(view) {
            return Ok(known.clone());
        }
        let packet = self.encode(now, entries, header, view)?;
        let cached: usize = self.published.values().map(OutPacket::len).sum();
        if self.published.len() < MAX_CACHED && cached + packet.len() <= MAX_CACHED_BYTES {
            self.published.insert(view.clone(), packet.clone());
        }
        Ok(packet)
    }

    /// The list of the newest state, which is not published yet, or when to try again.
    pub(super) fn newest(
        &mut self,
        now: Instant,
        entries: &EntryTable,
        newest: PublishedState,
        view: &View,
    ) -> Result<OutPacket, WaitReason> {
        if let Some((of, to, list)) = &self.answered
            && (of, to) == (&newest, view)
        {
            return Ok(list.clone());
        }
        let list = self.encode(now, entries, newest.header, view)?;
        self.answered = Some((newest, view.clone(), list.clone()));
        Ok(list)
    }

    /// Reserves time and memory to encode a packet of this many bytes for one peer, for which this
    /// many entries were looked at, or says when to try again.
    pub(super) fn reserve(&mut self, now: Instant, looks: usize, bytes: usize) -> Result<(), WaitReason> {
        self.check_pace(now)?;
        let has_room = self.memory.has_room(bytes);
        self.spend(now, looks, if has_room { bytes } else { bytes / BYTES_IN_VAIN });
        if has_room { Ok(()) } else { Err(WaitReason::Memory(now + MEMORY_RETRY_DELAY)) }
    }

    /// Checks that there is time for a packet for one peer. The error says when there is.
    pub(super) fn check_pace(&self, now: Instant) -> Result<(), WaitReason> {
        self.next_at.filter(|at| now < *at).map_or(Ok(()), |at| Err(WaitReason::Pace(at)))
    }

    /// Takes the time for which this many entries were looked at, and bytes encoded.
    pub(super) fn spend(&mut self, now: Instant, looks: usize, bytes: usize) {
        let pace = Duration::from_secs_f64((bytes + BYTES_OF_A_LOOK * looks) as f64 / SUBSET_BYTES_PER_SECOND);
        // Timers are coarse: the unused part of the last milliseconds may be used now.
        let from = self.next_at.map_or(now, |at| at.max(now.checked_sub(MAX_CATCH_UP_TIME).unwrap_or(now)));
        self.next_at = Some(from + pace);
    }

    fn encode(
        &mut self,
        now: Instant,
        entries: &EntryTable,
        header: UpdateHeader,
        view: &View,
    ) -> Result<OutPacket, WaitReason> {
        self.check_pace(now)?;
        let (records, looks) = entries.records_for(header.revision.rev, view);
        let mut digest = Digest::default();
        let mut bytes = 0;
        for record in &records {
            digest.add(record.id, &record.entry);
            bytes += record.entry.len();
        }
        self.reserve(now, looks, bytes)?;
        let (digest, part) = (Some(digest), view.interests.is_some());
        let header = UpdateHeader { digest, part, warming: header.warming || view.confirmed_only, ..header };
        Ok(OutPacket::reserved(encode_list(records.iter(), &header), &self.memory))
    }
}
