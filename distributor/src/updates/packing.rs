//! Packs the entries of lists and changes that many nodes are sent, each block of entries once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use protocol::{pack, write_block};

use crate::entries::Record;
use crate::updates::budget::{Reservation, UpdateBudget};

/// Entries that have fewer bytes together are sent as they are: one small packet takes as long as
/// another.
pub(crate) const MIN_PACKED_BYTES: usize = 4 * 1024;
/// A block ends behind an entry whose id can be divided by this. So a block stays the same when
/// entries come and go elsewhere, and lists and changes have blocks in common.
const BLOCK_IDS: u64 = 256;
/// Unless the block would have fewer bytes than this. Small blocks are packed badly.
const MIN_BLOCK_BYTES: usize = 8 * 1024;
/// A block has at most this many bytes, or is one entry. Blocks are packed under the lock of the
/// registry, and this takes half a millisecond.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
/// Blocks of a list that have already been packed, and are only looked up at a time.
const KNOWN_BLOCKS_AT_ONCE: usize = 16;
/// Bytes of packed blocks that are kept for later lists and changes: more than a list at its limit
/// has.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Blocks that have been packed, by the hash of their text.
#[derive(Debug)]
pub(super) struct PackedBlocks {
    memory: UpdateBudget,
    blocks: HashMap<u64, KeptBlock>,
    bytes: usize,
    /// Counts uses, so that the block that was used longest ago can be dropped.
    uses: u64,
    /// The key of the hash is random, so that a peer cannot make a text that has the hash of
    /// another one.
    hasher: RandomState,
}

#[derive(Debug)]
struct KeptBlock {
    packed: Bytes,
    last_use: u64,
    _counted: Reservation,
}

/// The entries of one list or change, while they are packed.
#[derive(Debug)]
pub(super) struct Packing {
    records: Vec<Arc<Record>>,
    /// How many of them are packed.
    done: usize,
    blocks: Vec<Bytes>,
}

impl Packing {
    pub(super) fn new(records: Vec<Arc<Record>>) -> Self {
        Self { records, done: 0, blocks: Vec::new() }
    }

    /// Packs for a millisecond at most. Returns whether all entries are packed; otherwise call it
    /// again, after others have had the lock.
    pub(super) fn advance(&mut self, kept: &mut PackedBlocks) -> bool {
        for _ in 0..KNOWN_BLOCKS_AT_ONCE {
            let rest = &self.records[self.done..];
            let Some(length) = block_length(rest) else { return true };
            let (block, is_new) = kept.packed(&rest[..length]);
            self.blocks.push(block);
            self.done += length;
            if is_new {
                break;
            }
        }
        self.done == self.records.len()
    }

    /// The blocks that are packed.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.iter().map(|block| &block[..])
    }

    /// The entries.
    pub(super) fn records(&self) -> &[Arc<Record>] {
        &self.records
    }
}

/// How many of these entries are the next block; `None` if there are none.
fn block_length(records: &[Arc<Record>]) -> Option<usize> {
    let mut bytes = 0;
    for (position, record) in records.iter().enumerate() {
        bytes += record.entry.len();
        if position > 0 && bytes > MAX_BLOCK_BYTES {
            return Some(position);
        }
        if record.id.is_multiple_of(BLOCK_IDS) && bytes >= MIN_BLOCK_BYTES {
            return Some(position + 1);
        }
    }
    (!records.is_empty()).then_some(records.len())
}

impl PackedBlocks {
    pub(super) fn new(memory: UpdateBudget) -> Self {
        Self { memory, blocks: HashMap::new(), bytes: 0, uses: 0, hasher: RandomState::new() }
    }

    /// The block of these entries, and whether it had to be packed.
    fn packed(&mut self, records: &[Arc<Record>]) -> (Bytes, bool) {
        let mut text = String::new();
        write_block(&mut text, records.iter().map(|record| (record.id, &*record.entry)));
        let hash = self.hasher.hash_one(&text);
        self.uses += 1;
        if let Some(known) = self.blocks.get_mut(&hash) {
            known.last_use = self.uses;
            return (known.packed.clone(), false);
        }
        let packed = Bytes::from(pack(&text));
        self.bytes += packed.len();
        let counted = self.memory.reserve(packed.len());
        self.blocks.insert(hash, KeptBlock { packed: packed.clone(), last_use: self.uses, _counted: counted });
        while self.bytes > MAX_KEPT_BYTES
            && let Some(oldest) = self.blocks.iter().min_by_key(|(_, block)| block.last_use).map(|(hash, _)| *hash)
            && let Some(dropped) = self.blocks.remove(&oldest)
        {
            self.bytes -= dropped.packed.len();
        }
        (packed, true)
    }
}

#[cfg(test)]
mod tests {
    use protocol::Registration;

    use super::*;
    use crate::config::Config;

    fn record(id: u64, bytes: usize) -> Arc<Record> {
        let params = format!(r#"{{"port":1,"name":"n{id:06}","urls":[],"x":"{}"}}"#, "x".repeat(bytes));
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &Config::default().registration_limits()).unwrap();
        Arc::new(Record::new(id, &registration, "::1"))
    }

    /// How many entries each block of these entries has.
    #[track_caller]
    fn check(entries: impl Iterator<Item = (u64, usize)>, expected: &[usize]) {
        let records: Vec<_> = entries.map(|(id, bytes)| record(id, bytes)).collect();
        let (mut rest, mut lengths) = (&records[..], Vec::new());
        while let Some(length) = block_length(rest) {
            lengths.push(length);
            rest = &rest[length..];
        }
        assert_eq!(lengths, expected);
    }

    #[test]
    fn blocks_end_at_the_same_ids_in_lists_and_changes() {
        check(std::iter::empty(), &[]);
        check((1..=3).map(|id| (id, 100)), &[3]);
        check((1..=600).map(|id| (id, 50)), &[256, 256, 88]);
        check((200..=600).map(|id| (id, 50)), &[313, 88]);
        check((1..=600).filter(|id| *id != 7).map(|id| (id, 50)), &[255, 256, 88]);
        // Large entries, and one that is larger than any block.
        check((1..=9).map(|id| (id, 20_000)), &[3, 3, 3]);
        check([(1, 10), (2, 70_000), (3, 10)].into_iter(), &[1, 1, 1]);
    }

    #[test]
    fn a_block_is_packed_once_and_a_step_packs_one() {
        let mut kept = PackedBlocks::new(UpdateBudget::new(usize::MAX));
        let mut steps = |ids: std::ops::Range<u64>| {
            let mut packing = Packing::new(ids.map(|id| record(id, 50)).collect());
            let mut steps = 1;
            while !packing.advance(&mut kept) {
                steps += 1;
            }
            assert_eq!(packing.records().len().div_ceil(256), packing.blocks().count());
            steps
        };
        assert_eq!(steps(1..1), 1);
        assert_eq!(steps(1..1025), 4);
        assert_eq!(steps(1..1025), 1);
        assert_eq!(steps(1..1101), 1);
        assert_eq!(steps(257..1025), 1);
        assert_eq!(steps(1..(256 * 40 + 1)), 36);
        assert_eq!(steps(1..(256 * 40 + 1)), 40_usize.div_ceil(KNOWN_BLOCKS_AT_ONCE));
    }

    #[test]
    fn kept_blocks_are_counted_and_bounded() {
        let memory = UpdateBudget::new(usize::MAX);
        let mut kept = PackedBlocks::new(memory.clone());
        // Text without repetitions is hardly compressed.
        let mut rng = fastrand::Rng::with_seed(1);
        let entry: String = (0..48_000).map(|_| rng.alphanumeric()).collect();
        let (_, is_new) = kept.packed(&[record(0, 10)]);
        assert!(is_new);
        for id in 1..=600 {
            let params = format!(r#"{{"port":1,"name":"n{id:06}","x":"{}{}"}}"#, &entry[id..], &entry[..id]);
            let params = serde_json::from_str(&params).unwrap();
            let registration = Registration::parse(Some(params), &Config::default().registration_limits()).unwrap();
            kept.packed(&[Arc::new(Record::new(id as u64, &registration, "::1"))]);
            assert_eq!(memory.used(), kept.bytes);
        }
        assert!((MAX_KEPT_BYTES - 100_000..=MAX_KEPT_BYTES).contains(&kept.bytes), "{}", kept.bytes);
        assert!(kept.packed(&[record(0, 10)]).1, "the oldest is dropped");
        drop(kept);
        assert_eq!(memory.used(), 0);
    }
}
