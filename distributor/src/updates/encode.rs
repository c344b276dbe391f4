//! Encodes lists and changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use protocol::{
    Key, REGISTRY_URI, Revision, SuspicionChange, UpdateHeader, write_delta, write_legacy_list, write_list,
    write_packed_delta, write_packed_list,
};

use crate::config::{Config, OversizedList};
use crate::entries::{Difference, EntryTable, Record};
use crate::updates::budget::OutPacket;
use crate::updates::packing::Packing;

/// Bytes of the whole list for version 1, without encoding it.
pub(crate) fn legacy_bytes(entries: &EntryTable, config: &Config) -> usize {
    EMPTY_LIST.len() + entries.legacy_list_bytes(config.tell_old_peers)
}

/// A list for version 1 without entries.
const EMPTY_LIST: &str = r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}¶"#;

/// The key of lists that are sent unasked.
pub(super) const UNASKED: Key = Key::Number(0);

pub(super) fn encode_legacy(entries: &EntryTable, config: &Config) -> Bytes {
    let told = config.tell_old_peers;
    let encode = |records: &mut dyn Iterator<Item = &Arc<Record>>| {
        let mut out = BytesMut::new();
        write_legacy_list(&mut out, &UNASKED, records.map(|record| record.legacy_entry(told)));
        out.freeze()
    };
    if let Some(room) = legacy_room(entries, config) {
        return encode(&mut entries.records_within(room, told).into_iter());
    }
    // A version 1 peer calls every node in its list, so entries that were only copied are left out.
    encode(&mut entries.records().filter(|record| record.is_confirmed))
}

/// Ids of the nodes that version 1 peers are not told of, because their list has no room for all.
pub(crate) fn left_out(entries: &EntryTable, config: &Config) -> BTreeSet<u64> {
    let Some(room) = legacy_room(entries, config) else { return BTreeSet::new() };
    let confirmed = entries.records().filter(|record| record.is_confirmed);
    let mut left_out: BTreeSet<_> = confirmed.map(|record| record.id).collect();
    for record in entries.records_within(room, config.tell_old_peers) {
        left_out.remove(&record.id);
    }
    left_out
}

/// Bytes of entries that fit into a list for version 1; `None` if all of them fit, or are sent
/// anyway.
fn legacy_room(entries: &EntryTable, config: &Config) -> Option<usize> {
    let fits = legacy_bytes(entries, config) <= config.legacy_list_bytes;
    match config.oversized_list {
        // Every entry is counted with a comma; the first has none.
        OversizedList::Truncate if !fits => Some((config.legacy_list_bytes + 1).saturating_sub(EMPTY_LIST.len())),
        OversizedList::Truncate | OversizedList::Send => None,
    }
}

pub(super) fn encode_list<'a>(records: impl Iterator<Item = &'a Arc<Record>> + Clone, header: &UpdateHeader) -> Bytes {
    let mut out = BytesMut::new();
    let suspect = records.clone().filter(|record| record.is_suspect).map(|record| record.id);
    write_list(&mut out, &UNASKED, header, records.map(|record| (record.id, &*record.entry)), suspect);
    out.freeze()
}

pub(super) fn encode_change(difference: &Difference, header: &UpdateHeader, base: Revision) -> Bytes {
    let Difference { joined, left, suspect, trusted, .. } = difference;
    let mut out = BytesMut::new();
    write_delta(
        &mut out,
        header,
        base,
        joined.iter().map(|record| (record.id, &*record.entry)),
        left.iter().copied(),
        SuspicionChange { suspect: suspect.iter().copied(), trusted: trusted.iter().copied() },
    );
    out.freeze()
}

/// The list of entries that are packed.
pub(super) fn encode_packed_list(packing: &Packing, header: &UpdateHeader) -> Bytes {
    let mut out = BytesMut::new();
    let suspect = packing.records().iter().filter(|record| record.is_suspect).map(|record| record.id);
    write_packed_list(&mut out, &UNASKED, header, packing.blocks(), suspect);
    out.freeze()
}

/// A change whose joined entries are packed.
pub(super) fn encode_packed_change<'a>(
    difference: &Difference,
    header: &UpdateHeader,
    base: Revision,
    joined: impl Iterator<Item = &'a [u8]>,
) -> Bytes {
    let Difference { left, suspect, trusted, .. } = difference;
    let mut out = BytesMut::new();
    let suspicion = SuspicionChange { suspect: suspect.iter().copied(), trusted: trusted.iter().copied() };
    write_packed_delta(&mut out, header, base, joined, left.iter().copied(), suspicion);
    out.freeze()
}

/// The list under another key. Only the key is the peer's own; the bytes that follow are shared.
pub(super) fn under_key(list: &OutPacket, key: &Key) -> OutPacket {
    if *key == UNASKED {
        return list.clone();
    }
    let before_key = format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":"#);
    let after_key = before_key.len() + UNASKED.to_string().len();
    list.with_own_head(format!("{before_key}{}", key.to_string().replace('¶', "\\u00b6")).into(), after_key)
}
